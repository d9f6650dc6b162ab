"""Why levels differ from timm's, by module file; read by ``benchmarks.pyramid``."""

_FIRST_BLOCK = (
    "timm names the first block of each resolution, not the last; and its last level leaves out a 1x1 convolution that "
    "is a stage like any other, as it is in MobileNet v3, where timm takes it in."
)
_TWO_SCALES = "Two token grids run side by side; fxfeat follows the first of the two maps that each block returns."
_HEAD_CONV = "timm takes in the 1x1 convolution between the last stage and the pooling; fxfeat ends with the stages."
_ACTIVATED = "timm takes the activation that the next cell begins with, fxfeat what goes into it."

REASONS: dict[str, str] = {
    "coat": "timm takes its maps before the parallel blocks sum them across resolutions in another order.",
    "crossvit": _TWO_SCALES,
    "csatv2": "Two levels of timm have one reduction; fxfeat has one level, the later of the two.",
    "dpn": "timm takes the last block before the norm and activation that end the features.",
    "ghostnet": _FIRST_BLOCK,
    "repghost": _FIRST_BLOCK,
    "hrnet": "timm takes each resolution before it is added to the one above it; the channels are the same.",
    "inception_v4": "timm takes the concatenation after the drop to 4; another convolution at 4 follows it.",
    "mobilevit": _HEAD_CONV,
    "nasnet": _ACTIVATED,
    "nfnet": _HEAD_CONV,
    "pnasnet": _ACTIVATED,
    "sequencer": "Levels of timm that share a reduction are compared with the one level that fxfeat has there.",
    "tresnet": "timm's metadata names no module: the model goes from the image to reduction 4 in one step.",
    "visformer": "timm takes the last stage, fxfeat the batch norm that follows it.",
    "volo": "Levels of timm that share a reduction are compared with the one level that fxfeat has there.",
    "xception": "timm takes the map after the activation that the next block begins with, fxfeat what goes into it.",
    "xception_aligned": "timm takes the map before the strided convolution inside a block, fxfeat what goes into it.",
}
