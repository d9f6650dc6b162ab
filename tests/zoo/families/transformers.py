"""transformers: architectures with tiny configurations, vision first, then text, sound and several kinds at once."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

from torch import nn

from tests.zoo.entry import Build, Entry, Make
from tests.zoo.inputs import boxes, floats, ids, image, named, ones, whole

Options = dict[str, Any]
Line = tuple[str, str, Options, Make]

_SIZES: Options = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 40}
_VIT: Options = {**_SIZES, "image_size": 32, "patch_size": 8}
_SWIN: Options = {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [1, 2], "num_heads": [2, 2]}
_STAGES: Options = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 16, 16], "num_attention_heads": [1, 1, 2, 2]}
_CONVS: Options = {"hidden_sizes": [10, 20, 30, 40], "depths": [1, 1, 2, 1]}
_RESNET: Options = {"model_type": "resnet", "embedding_size": 10, "out_features": ["stage4"], **_CONVS}
_LEVELS: Options = {**_RESNET, "out_features": ["stage2", "stage3", "stage4"]}
_ALL_LEVELS: Options = {**_RESNET, "out_features": ["stage1", "stage2", "stage3", "stage4"]}
_TEXT: Options = {"vocab_size": 99, **_SIZES}
_GQA: Options = {**_TEXT, "num_key_value_heads": 1, "head_dim": 16, "pad_token_id": 0}
_MOE: Options = {**_GQA, "moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2}
_PAIR: Options = {
    **{"vocab_size": 99, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2},
    **{"decoder_attention_heads": 2, "encoder_ffn_dim": 37, "decoder_ffn_dim": 37, "pad_token_id": 0},
    **{"bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2},
}
_T5: Options = {"vocab_size": 99, "d_model": 32, "num_layers": 2, "num_heads": 2, "d_ff": 37, "d_kv": 16}
_T5_PAIR: Options = {**_T5, "decoder_start_token_id": 0, "num_decoder_layers": 2}
_SAM: Options = {"output_channels": 16, "window_size": 2, "global_attn_indexes": [1], "mlp_dim": 37}
_HIERA: Options = {"patch_stride": [4, 4], "patch_size": [7, 7], "patch_padding": [3, 3], "masked_unit_size": [8, 8]}
_WAV: Options = {
    **{**_TEXT, "conv_dim": (32, 32), "conv_stride": (4, 4), "conv_kernel": (8, 8), "num_conv_pos_embeddings": 16},
    **{"num_conv_pos_embedding_groups": 2, "num_feat_extract_layers": 2},
}
_MOBILEVIT: Options = {"hidden_sizes": [12, 16, 20], "neck_hidden_sizes": [8, 8, 16, 16, 32, 32, 32]}
_LEVIT: Options = {"hidden_sizes": [16, 32, 48], "num_attention_heads": [2, 3, 4], "key_dim": [8, 8, 8]}
_FOCAL: Options = {"embed_dim": 16, "hidden_sizes": [32, 64], "depths": [1, 2], "focal_levels": [2, 2]}
_DETR: Options = {
    **{"d_model": 32, "num_queries": 5, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2},
    **{"decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16},
    **{"use_timm_backbone": False, "backbone": None, "use_pretrained_backbone": False},
}
_RT: Options = {
    **{"encoder_hidden_dim": 32, "d_model": 32, "num_queries": 5, "decoder_layers": 2, "decoder_ffn_dim": 16},
    **{"encoder_ffn_dim": 16, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_denoising": 0},
    **{"encoder_in_channels": [20, 30, 40], "decoder_in_channels": [32, 32, 32], "decoder_n_points": 2},
    **{"use_timm_backbone": False, "backbone": None, "use_pretrained_backbone": False},
}
_BACKBONE: Options = {"model_type": "dinov2", **_SIZES, "image_size": 28, "patch_size": 14, "mlp_ratio": 2}
_DEPTH_LAYERS: Options = {"out_indices": [1, 2, 3, 4], "num_hidden_layers": 4}
_DEPTH: Options = {
    **{"neck_hidden_sizes": [8, 8, 16, 16], "fusion_hidden_size": 16, "head_hidden_size": 8},
    **{"reassemble_hidden_size": 32, "reassemble_factors": [4, 2, 1, 0.5], "patch_size": 14},
}
_BEIT_LEVELS: Options = {"model_type": "beit", **_VIT, **_DEPTH_LAYERS, "reshape_hidden_states": False}
_TOWERS: Options = {"text_config": _TEXT, "vision_config": _VIT, "projection_dim": 16}
_CLIP_TEXT: Options = {**_TEXT, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 98}
_PAGE: Options = {**_TEXT, "max_2d_position_embeddings": 64, "coordinate_size": 8, "shape_size": 0}
_CLAP_SOUND: Options = {
    **{"hidden_size": 32, "patch_embeds_hidden_size": 16, "depths": [1, 1], "num_attention_heads": [2, 2]},
    **{"num_mel_bins": 16, "spec_size": 64, "window_size": 4, "patch_size": 4, "patch_stride": [4, 4]},
    **{"aff_block_r": 2, "projection_dim": 16, "num_hidden_layers": 2},
}
_XLNET: Options = {"vocab_size": 99, "d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 37}
_MASKS: Options = {"mask_feature_size": 32, "fpn_feature_size": 32}
_SWIN_LEVELS: Options = {
    **{"model_type": "swin", "image_size": 64, "embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]},
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}

PIXELS32 = named(pixel_values=image(32))
PIXELS64 = named(pixel_values=image(64))
CLIP = named(pixel_values=floats(2, 4, 3, 32, 32))
WORDS = named(input_ids=ids())
WORD_PAIR = named(input_ids=ids(), decoder_input_ids=ids(6))
SOUND = named(input_values=floats(2, 1024))
LOOK_AND_READ = named(input_ids=ids(), pixel_values=image(32))

# model class, configuration class, its arguments, input
VISION: tuple[Line, ...] = (
    ("ViTModel", "ViTConfig", _VIT, PIXELS32),
    ("DeiTModel", "DeiTConfig", _VIT, PIXELS32),
    ("BeitModel", "BeitConfig", _VIT, PIXELS32),
    ("BeitForSemanticSegmentation", "BeitConfig", {**_VIT, **_DEPTH_LAYERS}, PIXELS32),
    ("Data2VecVisionModel", "Data2VecVisionConfig", _VIT, PIXELS32),
    ("Dinov2Model", "Dinov2Config", _VIT, PIXELS32),
    ("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", _VIT, PIXELS32),
    ("DINOv3ViTModel", "DINOv3ViTConfig", _VIT, PIXELS32),
    ("DINOv3ConvNextModel", "DINOv3ConvNextConfig", {**_CONVS, "image_size": 32}, PIXELS32),
    ("IJepaModel", "IJepaConfig", _VIT, PIXELS32),
    ("ViTMAEModel", "ViTMAEConfig", _VIT, PIXELS32),
    ("ViTMSNModel", "ViTMSNConfig", _VIT, PIXELS32),
    ("SwinModel", "SwinConfig", {**_SWIN, "window_size": 4}, PIXELS32),
    ("Swinv2Model", "Swinv2Config", {**_SWIN, "window_size": 4}, PIXELS32),
    ("Swin2SRModel", "Swin2SRConfig", {**_SWIN, "window_size": 4, "patch_size": 1}, PIXELS32),
    ("DonutSwinModel", "DonutSwinConfig", {**_SWIN, "window_size": 4}, PIXELS32),
    ("MaskFormerSwinModel", "MaskFormerSwinConfig", {**_SWIN, "window_size": 4}, PIXELS32),
    ("ConvNextModel", "ConvNextConfig", _CONVS, PIXELS32),
    ("ConvNextV2Model", "ConvNextV2Config", _CONVS, PIXELS32),
    ("ResNetModel", "ResNetConfig", {"embedding_size": 10, **_CONVS}, PIXELS32),
    ("RegNetModel", "RegNetConfig", {"embedding_size": 10, "groups_width": 10, **_CONVS}, PIXELS32),
    (
        "BitModel",
        "BitConfig",
        {"embedding_size": 16, "num_groups": 2, **_CONVS, "hidden_sizes": [8, 16, 32, 64]},
        PIXELS32,
    ),
    (
        "EfficientNetModel",
        "EfficientNetConfig",
        {"width_coefficient": 0.25, "depth_coefficient": 0.5, "hidden_dim": 320},
        PIXELS64,
    ),
    ("MobileNetV1Model", "MobileNetV1Config", {"image_size": 32, "depth_multiplier": 0.25}, PIXELS32),
    ("MobileNetV2Model", "MobileNetV2Config", {"image_size": 32, "depth_multiplier": 0.25}, PIXELS32),
    ("MobileNetV2ForSemanticSegmentation", "MobileNetV2Config", {"depth_multiplier": 0.25}, PIXELS64),
    ("SegformerModel", "SegformerConfig", _STAGES, PIXELS64),
    ("SegformerForSemanticSegmentation", "SegformerConfig", {**_STAGES, "decoder_hidden_size": 16}, PIXELS64),
    ("GLPNForDepthEstimation", "GLPNConfig", {**_STAGES, "decoder_hidden_size": 16}, PIXELS64),
    ("PvtModel", "PvtConfig", {"image_size": 64, **_STAGES}, PIXELS64),
    ("PvtV2Model", "PvtV2Config", {"image_size": 64, **_STAGES}, PIXELS64),
    ("PoolFormerModel", "PoolFormerConfig", {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}, PIXELS64),
    ("CvtModel", "CvtConfig", {"embed_dim": [16, 32, 48], "num_heads": [1, 2, 3], "depth": [1, 2, 3]}, PIXELS64),
    ("SwiftFormerModel", "SwiftFormerConfig", {"embed_dims": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}, PIXELS64),
    ("MobileViTModel", "MobileViTConfig", {"image_size": 64, **_SIZES, **_MOBILEVIT}, PIXELS64),
    ("MobileViTV2Model", "MobileViTV2Config", {"image_size": 64, "width_multiplier": 0.25}, PIXELS64),
    ("LevitModel", "LevitConfig", {"image_size": 64, "depths": [2, 3, 4], **_LEVIT}, PIXELS64),
    (
        "FocalNetModel",
        "FocalNetConfig",
        {"image_size": 32, "patch_size": 2, "focal_windows": [3, 3], **_FOCAL},
        PIXELS32,
    ),
    (
        "HieraModel",
        "HieraConfig",
        {"image_size": [64, 64], "embed_dim": 24, "depths": [1] * 4, "num_heads": [1] * 4, **_HIERA},
        PIXELS64,
    ),
    ("TextNetModel", "TextNetConfig", {}, PIXELS64),
    ("HGNetV2ForImageClassification", "HGNetV2Config", {}, PIXELS64),
    (
        "VitDetModel",
        "VitDetConfig",
        {**_VIT, "pretrain_image_size": 32, "window_block_indices": [0], "window_size": 2},
        PIXELS32,
    ),
    (
        "VitPoseForPoseEstimation",
        "VitPoseConfig",
        {
            "backbone_config": {
                "model_type": "vitpose_backbone",
                **_SIZES,
                "image_size": [32, 32],
                "patch_size": [8, 8],
                "out_indices": [2],
            }
        },
        PIXELS32,
    ),
    ("CLIPVisionModel", "CLIPVisionConfig", _VIT, PIXELS32),
    ("SiglipVisionModel", "SiglipVisionConfig", _VIT, PIXELS32),
    ("SamVisionModel", "SamVisionConfig", {**_VIT, **_SAM}, PIXELS32),
    (
        "DPTForDepthEstimation",
        "DPTConfig",
        {
            **_VIT,
            "fusion_hidden_size": 16,
            "is_hybrid": False,
            "neck_hidden_sizes": [16, 16, 32, 32],
            "backbone_out_indices": [0, 1, 2, 3],
            "num_hidden_layers": 4,
        },
        PIXELS32,
    ),
    (
        "DepthAnythingForDepthEstimation",
        "DepthAnythingConfig",
        {
            **_DEPTH,
            "backbone_config": {**_BACKBONE, **_DEPTH_LAYERS, "reshape_hidden_states": False, "apply_layernorm": True},
        },
        named(pixel_values=image(28)),
    ),
    (
        "ZoeDepthForDepthEstimation",
        "ZoeDepthConfig",
        {
            "backbone_config": _BEIT_LEVELS,
            "backbone": None,
            "neck_hidden_sizes": [8, 8, 16, 16],
            "fusion_hidden_size": 16,
            "bottleneck_features": 16,
            "num_relative_features": 4,
            "patch_transformer_hidden_size": 16,
            "patch_transformer_intermediate_size": 16,
            "patch_transformer_num_attention_heads": 2,
            "num_patch_transformer_layers": 1,
            "bin_embedding_dim": 8,
            "num_attractors": [2, 2, 2, 2],
        },
        PIXELS32,
    ),
    (
        "UperNetForSemanticSegmentation",
        "UperNetConfig",
        {
            "backbone_config": _ALL_LEVELS,
            "backbone": None,
            "hidden_size": 16,
            "auxiliary_in_channels": 30,
            "auxiliary_channels": 8,
            "use_pretrained_backbone": False,
            "pool_scales": [1, 2],
        },
        PIXELS64,
    ),
    ("DetrModel", "DetrConfig", {**_DETR, "backbone_config": _RESNET}, PIXELS64),
    ("ConditionalDetrModel", "ConditionalDetrConfig", {**_DETR, "backbone_config": _RESNET}, PIXELS64),
    ("DabDetrModel", "DabDetrConfig", {**_DETR, "backbone_config": _RESNET, "hidden_size": 32}, PIXELS64),
    ("DeformableDetrModel", "DeformableDetrConfig", {**_DETR, "backbone_config": _LEVELS}, PIXELS64),
    ("TableTransformerModel", "TableTransformerConfig", {**_DETR, "backbone_config": _RESNET}, PIXELS64),
    ("RTDetrModel", "RTDetrConfig", {**_RT, "backbone_config": {**_LEVELS, "model_type": "rt_detr_resnet"}}, PIXELS64),
    (
        "DFineModel",
        "DFineConfig",
        {**_RT, "backbone_config": {**_LEVELS, "model_type": "rt_detr_resnet"}, "decoder_n_points": [2, 2, 2]},
        PIXELS64,
    ),
    (
        "YolosModel",
        "YolosConfig",
        {**_SIZES, "image_size": [32, 32], "patch_size": 8, "num_detection_tokens": 5},
        PIXELS32,
    ),
    (
        "MaskFormerModel",
        "MaskFormerConfig",
        {**_MASKS, "backbone_config": _SWIN_LEVELS, "decoder_config": {"model_type": "detr", **_DETR, "d_model": 16}},
        PIXELS64,
    ),
    (
        "Mask2FormerModel",
        "Mask2FormerConfig",
        {
            "backbone_config": _SWIN_LEVELS,
            "hidden_dim": 32,
            "feature_size": 32,
            "mask_feature_size": 32,
            "encoder_feedforward_dim": 16,
            "dim_feedforward": 16,
            "encoder_layers": 1,
            "decoder_layers": 2,
            "num_attention_heads": 2,
            "num_queries": 5,
        },
        PIXELS64,
    ),
    (
        "SuperPointForKeypointDetection",
        "SuperPointConfig",
        {"encoder_hidden_sizes": [8, 8, 16, 16], "decoder_hidden_size": 16, "descriptor_decoder_dim": 16},
        PIXELS64,
    ),
    ("TimmWrapperModel", "TimmWrapperConfig", {"architecture": "resnet18", "do_pooling": True}, PIXELS64),
    ("TimesformerModel", "TimesformerConfig", {**_VIT, "num_frames": 4}, CLIP),
    ("VivitModel", "VivitConfig", {**_VIT, "num_frames": 4, "tubelet_size": [2, 8, 8]}, CLIP),
    ("VideoMAEModel", "VideoMAEConfig", {**_VIT, "num_frames": 4}, CLIP),
    (
        "VJEPA2Model",
        "VJEPA2Config",
        {
            **_VIT,
            "crop_size": 32,
            "frames_per_clip": 4,
            "pred_hidden_size": 32,
            "pred_num_attention_heads": 2,
            "pred_num_hidden_layers": 1,
            "pred_num_mask_tokens": 2,
        },
        named(pixel_values_videos=floats(2, 4, 3, 32, 32)),
    ),
    (
        "ImageGPTModel",
        "ImageGPTConfig",
        {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
        WORDS,
    ),
)

TEXT: tuple[Line, ...] = (
    ("BertModel", "BertConfig", _TEXT, WORDS),
    ("RobertaModel", "RobertaConfig", _TEXT, WORDS),
    ("XLMRobertaModel", "XLMRobertaConfig", _TEXT, WORDS),
    ("CamembertModel", "CamembertConfig", _TEXT, WORDS),
    (
        "DistilBertModel",
        "DistilBertConfig",
        {"vocab_size": 99, "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 37},
        WORDS,
    ),
    ("ElectraModel", "ElectraConfig", {**_TEXT, "embedding_size": 16}, WORDS),
    ("AlbertModel", "AlbertConfig", {**_TEXT, "embedding_size": 16}, WORDS),
    ("DebertaModel", "DebertaConfig", {**_TEXT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}, WORDS),
    ("DebertaV2Model", "DebertaV2Config", {**_TEXT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}, WORDS),
    ("MPNetModel", "MPNetConfig", _TEXT, WORDS),
    ("ModernBertModel", "ModernBertConfig", {**_TEXT, "pad_token_id": 0}, WORDS),
    ("MobileBertModel", "MobileBertConfig", {**_TEXT, "embedding_size": 32, "intra_bottleneck_size": 16}, WORDS),
    ("SqueezeBertModel", "SqueezeBertConfig", {**_TEXT, "embedding_size": 32}, WORDS),
    ("ConvBertModel", "ConvBertConfig", {**_TEXT, "embedding_size": 16}, WORDS),
    ("RoFormerModel", "RoFormerConfig", {**_TEXT, "embedding_size": 16}, WORDS),
    ("FNetModel", "FNetConfig", _TEXT, WORDS),
    ("NystromformerModel", "NystromformerConfig", {**_TEXT, "num_landmarks": 4, "segment_means_seq_len": 12}, WORDS),
    ("LongformerModel", "LongformerConfig", {**_TEXT, "attention_window": 4}, WORDS),
    ("BigBirdModel", "BigBirdConfig", {**_TEXT, "block_size": 2, "num_random_blocks": 1}, WORDS),
    (
        "CanineModel",
        "CanineConfig",
        {**_SIZES, "downsampling_rate": 4, "local_transformer_stride": 8},
        named(input_ids=ids(32)),
    ),
    (
        "FunnelModel",
        "FunnelConfig",
        {
            "vocab_size": 99,
            "block_sizes": [1, 1],
            "d_model": 32,
            "n_head": 2,
            "d_head": 16,
            "d_inner": 37,
            "num_decoder_layers": 1,
        },
        WORDS,
    ),
    ("XLNetModel", "XLNetConfig", _XLNET, WORDS),
    ("XLMModel", "XLMConfig", {"vocab_size": 99, "emb_dim": 32, "n_layers": 2, "n_heads": 2}, WORDS),
    (
        "GPT2Model",
        "GPT2Config",
        {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0},
        WORDS,
    ),
    ("OpenAIGPTModel", "OpenAIGPTConfig", {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 2}, WORDS),
    ("CTRLModel", "CTRLConfig", {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 2, "dff": 37}, WORDS),
    (
        "GPTNeoModel",
        "GPTNeoConfig",
        {
            "vocab_size": 99,
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 2,
            "attention_types": [[["global", "local"], 1]],
            "bos_token_id": 0,
            "eos_token_id": 0,
        },
        WORDS,
    ),
    ("GPTNeoXModel", "GPTNeoXConfig", {**_TEXT, "bos_token_id": 0, "eos_token_id": 0}, WORDS),
    (
        "GPTJModel",
        "GPTJConfig",
        {
            "vocab_size": 99,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 2,
            "rotary_dim": 4,
            "bos_token_id": 0,
            "eos_token_id": 0,
        },
        WORDS,
    ),
    (
        "CodeGenModel",
        "CodeGenConfig",
        {
            "vocab_size": 99,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "rotary_dim": 4,
            "bos_token_id": 0,
            "eos_token_id": 0,
        },
        WORDS,
    ),
    ("OPTModel", "OPTConfig", {**_TEXT, "ffn_dim": 37, "word_embed_proj_dim": 32}, WORDS),
    ("BloomModel", "BloomConfig", {"vocab_size": 99, "hidden_size": 32, "n_layer": 2, "n_head": 2}, WORDS),
    ("FalconModel", "FalconConfig", _TEXT, WORDS),
    ("MptModel", "MptConfig", {"vocab_size": 99, "d_model": 32, "n_layers": 2, "n_heads": 2}, WORDS),
    ("LlamaModel", "LlamaConfig", _TEXT, WORDS),
    ("MistralModel", "MistralConfig", _GQA, WORDS),
    ("Qwen2Model", "Qwen2Config", _GQA, WORDS),
    ("Qwen3Model", "Qwen3Config", _GQA, WORDS),
    ("GemmaModel", "GemmaConfig", _GQA, WORDS),
    ("Gemma2Model", "Gemma2Config", _GQA, WORDS),
    ("Gemma3TextModel", "Gemma3TextConfig", _GQA, WORDS),
    ("PhiModel", "PhiConfig", _TEXT, WORDS),
    ("Phi3Model", "Phi3Config", {**_TEXT, "pad_token_id": 0}, WORDS),
    ("StableLmModel", "StableLmConfig", {**_TEXT, "num_key_value_heads": 2}, WORDS),
    ("CohereModel", "CohereConfig", {**_TEXT, "pad_token_id": 0}, WORDS),
    ("OlmoModel", "OlmoConfig", _TEXT, WORDS),
    ("GraniteModel", "GraniteConfig", _TEXT, WORDS),
    ("SmolLM3Model", "SmolLM3Config", {**_TEXT, "num_key_value_heads": 2, "pad_token_id": 0}, WORDS),
    ("MixtralModel", "MixtralConfig", {**_GQA, "num_local_experts": 4}, WORDS),
    ("Qwen2MoeModel", "Qwen2MoeConfig", {**_MOE, "shared_expert_intermediate_size": 16}, WORDS),
    ("Qwen3MoeModel", "Qwen3MoeConfig", _MOE, WORDS),
    ("OlmoeModel", "OlmoeConfig", {**_TEXT, "num_experts": 4, "num_experts_per_tok": 2}, WORDS),
    (
        "MambaModel",
        "MambaConfig",
        {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
        WORDS,
    ),
    (
        "Mamba2Model",
        "Mamba2Config",
        {
            "vocab_size": 99,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "state_size": 8,
            "num_heads": 4,
            "head_dim": 16,
            "chunk_size": 8,
            "n_groups": 1,
        },
        WORDS,
    ),
    (
        "RwkvModel",
        "RwkvConfig",
        {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32},
        WORDS,
    ),
    (
        "RecurrentGemmaModel",
        "RecurrentGemmaConfig",
        {**_TEXT, "lru_width": 32, "attention_window_size": 8, "num_hidden_layers": 3},
        WORDS,
    ),
    ("T5EncoderModel", "T5Config", _T5, WORDS),
    ("T5Model", "T5Config", _T5_PAIR, WORD_PAIR),
    ("MT5Model", "MT5Config", _T5_PAIR, WORD_PAIR),
    ("UMT5Model", "UMT5Config", _T5_PAIR, WORD_PAIR),
    ("LongT5Model", "LongT5Config", {**_T5_PAIR, "local_radius": 4}, WORD_PAIR),
    (
        "SwitchTransformersModel",
        "SwitchTransformersConfig",
        {**_T5_PAIR, "num_experts": 4, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1},
        WORD_PAIR,
    ),
    ("BartModel", "BartConfig", _PAIR, WORD_PAIR),
    ("MBartModel", "MBartConfig", _PAIR, WORD_PAIR),
    ("PegasusModel", "PegasusConfig", _PAIR, WORD_PAIR),
    ("MarianModel", "MarianConfig", {**_PAIR, "pad_token_id": 98}, WORD_PAIR),
    ("M2M100Model", "M2M100Config", _PAIR, WORD_PAIR),
    ("BlenderbotModel", "BlenderbotConfig", _PAIR, WORD_PAIR),
    ("LEDModel", "LEDConfig", {**_PAIR, "attention_window": 4}, WORD_PAIR),
    (
        "ProphetNetModel",
        "ProphetNetConfig",
        {
            "vocab_size": 99,
            "hidden_size": 32,
            "num_encoder_layers": 2,
            "num_decoder_layers": 2,
            "num_encoder_attention_heads": 2,
            "num_decoder_attention_heads": 2,
            "encoder_ffn_dim": 37,
            "decoder_ffn_dim": 37,
            "pad_token_id": 0,
        },
        WORD_PAIR,
    ),
    (
        "EsmModel",
        "EsmConfig",
        {**_TEXT, "pad_token_id": 0, "mask_token_id": 98, "position_embedding_type": "rotary"},
        WORDS,
    ),
)

SOUNDS: tuple[Line, ...] = (
    ("Wav2Vec2Model", "Wav2Vec2Config", {**_WAV, "mask_time_prob": 0.0, "layerdrop": 0.0}, SOUND),
    ("Wav2Vec2ConformerModel", "Wav2Vec2ConformerConfig", {**_WAV, "mask_time_prob": 0.0}, SOUND),
    (
        "Wav2Vec2BertModel",
        "Wav2Vec2BertConfig",
        {**_SIZES, "feature_projection_input_dim": 16, "mask_time_prob": 0.0},
        named(input_features=floats(2, 20, 16)),
    ),
    ("HubertModel", "HubertConfig", {**_WAV, "mask_time_prob": 0.0}, SOUND),
    ("WavLMModel", "WavLMConfig", {**_WAV, "mask_time_prob": 0.0}, SOUND),
    ("UniSpeechSatModel", "UniSpeechSatConfig", {**_WAV, "mask_time_prob": 0.0}, SOUND),
    (
        "Data2VecAudioModel",
        "Data2VecAudioConfig",
        {**_WAV, "mask_time_prob": 0.0, "num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 5},
        SOUND,
    ),
    ("SEWModel", "SEWConfig", {**_WAV, "mask_time_prob": 0.0, "squeeze_factor": 2}, SOUND),
    ("SEWDModel", "SEWDConfig", {**_WAV, "mask_time_prob": 0.0, "squeeze_factor": 2}, SOUND),
    (
        "WhisperModel",
        "WhisperConfig",
        {**_PAIR, "num_mel_bins": 16, "max_source_positions": 30},
        named(input_features=floats(2, 16, 60), decoder_input_ids=ids(6)),
    ),
    (
        "Speech2TextModel",
        "Speech2TextConfig",
        {**_PAIR, "input_feat_per_channel": 16, "conv_channels": 16, "num_conv_layers": 2, "conv_kernel_sizes": [5, 5]},
        named(input_features=floats(2, 60, 16), decoder_input_ids=ids(6)),
    ),
    (
        "MoonshineModel",
        "MoonshineConfig",
        {
            "vocab_size": 99,
            "hidden_size": 32,
            "intermediate_size": 37,
            "encoder_num_hidden_layers": 2,
            "decoder_num_hidden_layers": 2,
            "encoder_num_attention_heads": 2,
            "decoder_num_attention_heads": 2,
            "pad_token_id": 0,
        },
        named(input_values=floats(2, 2048), decoder_input_ids=ids(6)),
    ),
    (
        "ASTModel",
        "ASTConfig",
        {**_SIZES, "patch_size": 8, "max_length": 48, "num_mel_bins": 32},
        named(input_values=floats(2, 48, 32)),
    ),
    (
        "EncodecModel",
        "EncodecConfig",
        {"num_filters": 8, "hidden_size": 16, "codebook_size": 16, "codebook_dim": 16, "num_lstm_layers": 1},
        named(input_values=floats(2, 1, 1280)),
    ),
    (
        "DacModel",
        "DacConfig",
        {
            "encoder_hidden_size": 8,
            "decoder_hidden_size": 64,
            "codebook_size": 16,
            "n_codebooks": 2,
            "downsampling_ratios": [2, 4],
            "codebook_dim": 4,
        },
        named(input_values=floats(2, 1, 256)),
    ),
    (
        "MimiModel",
        "MimiConfig",
        {
            **_SIZES,
            "num_filters": 8,
            "codebook_size": 16,
            "codebook_dim": 16,
            "vector_quantization_hidden_dimension": 16,
            "num_quantizers": 4,
            "head_dim": 16,
            "num_key_value_heads": 2,
            "upsample_groups": 32,
        },
        named(input_values=floats(2, 1, 3840)),
    ),
    (
        "ClapAudioModelWithProjection",
        "ClapAudioConfig",
        _CLAP_SOUND,
        named(input_features=floats(2, 1, 256, 16), is_longer=lambda: ones(2, 1)().bool()),
    ),
    (
        "VitsModel",
        "VitsConfig",
        {
            "vocab_size": 99,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "ffn_dim": 37,
            "flow_size": 16,
            "spectrogram_bins": 33,
            "upsample_initial_channel": 16,
            "upsample_rates": [2, 2],
            "upsample_kernel_sizes": [4, 4],
            "resblock_kernel_sizes": [3],
            "resblock_dilation_sizes": [[1, 3]],
            "prior_encoder_num_flows": 2,
            "posterior_encoder_num_wavenet_layers": 2,
            "prior_encoder_num_wavenet_layers": 2,
            "duration_predictor_filter_channels": 16,
        },
        WORDS,
    ),
    (
        "UnivNetModel",
        "UnivNetConfig",
        {
            "model_in_channels": 8,
            "model_hidden_channels": 8,
            "num_mel_bins": 16,
            "resblock_kernel_sizes": [3, 3],
            "resblock_stride_sizes": [4, 4],
            "resblock_dilation_sizes": [[1, 3], [1, 3]],
            "kernel_predictor_hidden_channels": 8,
        },
        named(input_features=floats(2, 12, 16)),
    ),
    (
        "PatchTSTModel",
        "PatchTSTConfig",
        {
            "num_input_channels": 3,
            "context_length": 32,
            "patch_length": 8,
            "patch_stride": 8,
            "d_model": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "ffn_dim": 37,
        },
        named(past_values=floats(2, 32, 3)),
    ),
)

SEVERAL: tuple[Line, ...] = (
    ("CLIPModel", "CLIPConfig", {**_TOWERS, "text_config": _CLIP_TEXT}, LOOK_AND_READ),
    ("CLIPSegModel", "CLIPSegConfig", {**_TOWERS, "text_config": _CLIP_TEXT}, LOOK_AND_READ),
    ("ChineseCLIPModel", "ChineseCLIPConfig", _TOWERS, LOOK_AND_READ),
    (
        "AltCLIPModel",
        "AltCLIPConfig",
        {**_TOWERS, "text_config": {**_TEXT, "project_dim": 16, "pad_token_id": 0}},
        LOOK_AND_READ,
    ),
    (
        "SiglipModel",
        "SiglipConfig",
        {"text_config": {**_TEXT, "max_position_embeddings": 64}, "vision_config": _VIT},
        LOOK_AND_READ,
    ),
    (
        "Siglip2VisionModel",
        "Siglip2VisionConfig",
        {**_SIZES, "patch_size": 8, "num_patches": 16},
        named(
            pixel_values=floats(2, 16, 192), pixel_attention_mask=ones(2, 16), spatial_shapes=lambda: ones(2, 2)() * 4
        ),
    ),
    ("BlipModel", "BlipConfig", {**_TOWERS, "text_config": {**_TEXT, "encoder_hidden_size": 32}}, LOOK_AND_READ),
    (
        "Blip2Model",
        "Blip2Config",
        {
            "vision_config": _VIT,
            "qformer_config": {**_TEXT, "encoder_hidden_size": 32},
            "text_config": {"model_type": "opt", **_TEXT, "ffn_dim": 37, "word_embed_proj_dim": 32},
            "num_query_tokens": 4,
            "image_token_index": 98,
        },
        named(pixel_values=image(32), input_ids=lambda: __import__("torch").cat([ones(2, 4)() * 98, ids(6)()], 1)),
    ),
    (
        "AlignModel",
        "AlignConfig",
        {
            "text_config": _TEXT,
            "vision_config": {"width_coefficient": 0.25, "depth_coefficient": 0.5, "hidden_dim": 80},
            "projection_dim": 80,
        },
        named(input_ids=ids(), pixel_values=image(64)),
    ),
    (
        "FlavaModel",
        "FlavaConfig",
        {
            "image_config": _VIT,
            "text_config": _TEXT,
            "multimodal_config": _SIZES,
            "hidden_size": 32,
            "projection_dim": 16,
        },
        LOOK_AND_READ,
    ),
    ("ViltModel", "ViltConfig", {**_TEXT, "image_size": 32, "patch_size": 8}, LOOK_AND_READ),
    (
        "VisualBertModel",
        "VisualBertConfig",
        {**_TEXT, "visual_embedding_dim": 16},
        named(input_ids=ids(), visual_embeds=floats(2, 4, 16)),
    ),
    (
        "LxmertModel",
        "LxmertConfig",
        {**_TEXT, "l_layers": 1, "r_layers": 1, "x_layers": 1, "visual_feat_dim": 16},
        named(input_ids=ids(), visual_feats=floats(2, 4, 16), visual_pos=floats(2, 4, 4)),
    ),
    (
        "BridgeTowerModel",
        "BridgeTowerConfig",
        {
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "text_config": {**_TEXT, "hidden_size": 64},
            "vision_config": {**_VIT, "hidden_size": 64},
        },
        LOOK_AND_READ,
    ),
    (
        "OwlViTModel",
        "OwlViTConfig",
        {**_TOWERS, "text_config": {**_TEXT, "max_position_embeddings": 16}},
        LOOK_AND_READ,
    ),
    ("Owlv2Model", "Owlv2Config", {**_TOWERS, "text_config": {**_TEXT, "max_position_embeddings": 16}}, LOOK_AND_READ),
    (
        "GroupViTModel",
        "GroupViTConfig",
        {
            "text_config": _CLIP_TEXT,
            "vision_config": {**_VIT, "depths": [1, 1], "num_group_tokens": [4, 0], "num_output_groups": [4, 2]},
            "projection_dim": 16,
            "projection_intermediate_dim": 32,
        },
        LOOK_AND_READ,
    ),
    (
        "XCLIPModel",
        "XCLIPConfig",
        {
            "text_config": _CLIP_TEXT,
            "vision_config": {
                **_VIT,
                "num_frames": 4,
                "mit_hidden_size": 32,
                "mit_intermediate_size": 37,
                "mit_num_attention_heads": 2,
            },
            "projection_dim": 32,
            "prompt_layers": 1,
            "prompt_num_attention_heads": 2,
        },
        named(input_ids=ids(), pixel_values=floats(2, 4, 3, 32, 32)),
    ),
    (
        "LayoutLMModel",
        "LayoutLMConfig",
        {**_TEXT, "max_2d_position_embeddings": 64},
        named(input_ids=ids(), bbox=boxes()),
    ),
    (
        "LayoutLMv3Model",
        "LayoutLMv3Config",
        {**_PAGE, "coordinate_size": 6, "shape_size": 4, "input_size": 32, "patch_size": 8},
        named(input_ids=ids(), bbox=boxes(), pixel_values=image(32)),
    ),
    (
        "LiltModel",
        "LiltConfig",
        {**_TEXT, "max_2d_position_embeddings": 64, "hidden_size": 48},
        named(input_ids=ids(), bbox=boxes()),
    ),
    (
        "LlavaModel",
        "LlavaConfig",
        {
            "vision_config": {"model_type": "clip_vision_model", **_VIT},
            "text_config": {"model_type": "llama", **_TEXT},
            "image_token_index": 98,
            "vision_feature_layer": -1,
        },
        named(pixel_values=image(32), input_ids=lambda: __import__("torch").cat([ones(2, 16)() * 98, ids(6)()], 1)),
    ),
    (
        "PerceiverModel",
        "PerceiverConfig",
        {
            "num_latents": 8,
            "d_latents": 32,
            "d_model": 16,
            "num_blocks": 1,
            "num_self_attends_per_block": 2,
            "num_self_attention_heads": 2,
            "num_cross_attention_heads": 2,
        },
        named(inputs=floats(2, 12, 16)),
    ),
    (
        "TrOCRForCausalLM",
        "TrOCRConfig",
        {
            "vocab_size": 99,
            "d_model": 32,
            "decoder_layers": 2,
            "decoder_attention_heads": 2,
            "decoder_ffn_dim": 37,
            "cross_attention_hidden_size": 32,
        },
        named(input_ids=ids(), encoder_hidden_states=floats(2, 5, 32)),
    ),
    (
        "DecisionTransformerModel",
        "DecisionTransformerConfig",
        {"hidden_size": 32, "n_layer": 2, "n_head": 2, "state_dim": 5, "act_dim": 3, "max_ep_len": 64},
        named(
            states=floats(2, 6, 5),
            actions=floats(2, 6, 3),
            rewards=floats(2, 6, 1),
            returns_to_go=floats(2, 6, 1),
            timesteps=whole(2, 6),
            attention_mask=ones(2, 6),
        ),
    ),
)


def entries() -> Iterator[Entry]:
    for model, config, options, inputs in (*VISION, *TEXT, *SOUNDS, *SEVERAL):
        yield Entry(f"transformers.{model}", _builder(model, config, options), inputs)


def _builder(model: str, config: str, options: Options) -> Build:
    def build() -> nn.Module:
        transformers = importlib.import_module("transformers")
        return getattr(transformers, model)(_configure(transformers, config, options))

    return build


def _configure(transformers: Any, config: str, options: Options) -> Any:
    """Make a configuration, and those in it that name their model's type."""
    made = {name: _nested(transformers, value) for name, value in options.items()}
    return getattr(transformers, config)(**made)


def _nested(transformers: Any, value: Any) -> Any:
    if not isinstance(value, dict) or "model_type" not in value:
        return dict(value) if isinstance(value, dict) else value
    rest = {name: held for name, held in value.items() if name != "model_type"}
    return transformers.AutoConfig.for_model(value["model_type"], **rest)
