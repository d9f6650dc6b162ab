"""pytorchcv: one small model for each of its families."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

from tests.zoo.entry import Build, Entry
from tests.zoo.inputs import image

# model, side of the image
MODELS = (
    ("airnet50_1x64d_r16", 224),
    ("alexnet", 224),
    ("bagnet9", 224),
    ("bam_resnet18", 224),
    ("bn_vgg11", 224),
    ("bninception", 224),
    ("cbam_resnet18", 224),
    ("cgnet_cityscapes", 64),
    ("channelnet", 224),
    ("condensenet74_c4_g4", 224),
    ("dabnet_cityscapes", 64),
    ("darknet_tiny", 224),
    ("darts", 224),
    ("densenet40_k12_cifar10", 32),
    ("diapreresnet10", 224),
    ("diaresnet10", 224),
    ("dicenet_wd5", 224),
    ("diracnet18v2", 224),
    ("dla34", 224),
    ("dpn68", 224),
    ("drnc26", 224),
    ("edanet_cityscapes", 64),
    ("efficientnet_b0", 64),
    ("enet_cityscapes", 64),
    ("erfnet_cityscapes", 64),
    ("esnet_cityscapes", 64),
    ("espcnet_cityscapes", 64),
    ("espnetv2_wd2", 224),
    ("fbnet_cb", 224),
    ("fdmobilenet_wd4", 224),
    ("fishnet99", 224),
    ("fractalnet_cifar10", 32),
    ("ghostnet", 224),
    ("hardnet39ds", 224),
    ("hrnet_w18_small_v1", 224),
    ("ibn_resnet50", 224),
    ("igcv3_wd4", 224),
    ("inceptionresnetv1", 299),
    ("irevnet301", 224),
    ("isqrtcovresnet18", 224),
    ("lednet_cityscapes", 64),
    ("linknet_cityscapes", 64),
    ("menet108_8x1_g3", 224),
    ("mixnet_s", 224),
    ("mnasnet_small", 224),
    ("mobilenet_wd4", 224),
    ("mobilenetv2_wd4", 224),
    ("mobilenetv3_small_wd2", 224),
    ("msdnet22_cifar10", 32),
    ("nin_cifar10", 32),
    ("octresnet10_ad2", 224),
    ("peleenet", 224),
    ("preresnet10", 224),
    ("proxylessnas_mobile", 224),
    ("pyramidnet110_a48_cifar10", 32),
    ("regnetx002", 64),
    ("resattnet56", 224),
    ("resdropresnet20_cifar10", 32),
    ("resnesta18", 64),
    ("resnet10", 224),
    ("revnet38", 224),
    ("rir_cifar10", 32),
    ("ror3_56_cifar10", 32),
    ("scnet50", 224),
    ("selecsls42", 224),
    ("senet16", 224),
    ("shakedropresnet20_cifar10", 32),
    ("shakeshakeresnet20_2x16d_cifar10", 32),
    ("sharesnet18", 224),
    ("shufflenet_g1_wd4", 224),
    ("shufflenetv2_wd2", 224),
    ("sinet_cityscapes", 128),
    ("sknet50", 224),
    ("sparsenet121", 224),
    ("sqnxt23_w1", 224),
    ("squeezenet_v1_1", 224),
    ("tresnet_m", 64),
    ("unet_cityscapes", 64),
    ("vovnet27s", 224),
    ("wrn16_10_cifar10", 32),
    ("xception", 299),
    ("zfnet", 224),
)


def entries() -> Iterator[Entry]:
    for name, side in MODELS:
        yield Entry(f"pytorchcv.{name}", _builder(name), image(side))


def _builder(name: str) -> Build:
    return lambda: importlib.import_module("pytorchcv.model_provider").get_model(name)
