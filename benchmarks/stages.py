"""Modules of torchvision's models that extractors are made of."""

from __future__ import annotations

STAGES = {
    "alexnet": ["features.2", "features.5", "features.12"],
    "vgg16": ["features.4", "features.9", "features.16", "features.23", "features.30"],
    "resnet50": ["layer1", "layer2", "layer3", "layer4"],
    "squeezenet1_0": ["features.2", "features.6", "features.12"],
    "densenet121": ["features.denseblock1", "features.denseblock2", "features.denseblock3", "features.denseblock4"],
    "inception_v3": ["Mixed_5d", "Mixed_6e", "Mixed_7c"],
    "googlenet": ["inception3b", "inception4e", "inception5b"],
    "shufflenet_v2_x1_0": ["stage2", "stage3", "stage4"],
    "mobilenet_v2": ["features.3", "features.6", "features.13", "features.18"],
    "mobilenet_v3_large": ["features.3", "features.6", "features.12", "features.16"],
    "mnasnet1_0": ["layers.8", "layers.9", "layers.11", "layers.13"],
    "efficientnet_b0": ["features.2", "features.3", "features.5", "features.8"],
    "regnet_y_400mf": ["trunk_output.block1", "trunk_output.block2", "trunk_output.block3", "trunk_output.block4"],
    "vit_b_16": ["encoder.layers.encoder_layer_2", "encoder.layers.encoder_layer_5", "encoder.layers.encoder_layer_11"],
    "convnext_tiny": ["features.1", "features.3", "features.5", "features.7"],
    "swin_t": ["features.1", "features.3", "features.5", "features.7"],
    "swin_v2_t": ["features.1", "features.3", "features.5", "features.7"],
    "maxvit_t": ["blocks.0", "blocks.1", "blocks.2", "blocks.3"],
    "fcn_resnet50": ["backbone.layer2", "backbone.layer3", "backbone.layer4"],
    "deeplabv3_resnet50": ["backbone.layer2", "backbone.layer3", "backbone.layer4"],
    "lraspp_mobilenet_v3_large": ["backbone.4", "backbone.7", "backbone.16"],
    "r3d_18": ["layer1", "layer2", "layer3", "layer4"],
    "s3d": ["features.4", "features.7", "features.13"],
    "swin3d_t": ["features.0", "features.2", "features.4", "features.6"],
    "mvit_v1_b": ["blocks.3", "blocks.7", "blocks.15"],
}
"""One size of each of torchvision's families, and the modules that are asked for."""
