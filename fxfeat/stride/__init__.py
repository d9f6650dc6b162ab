"""Keep a model's maps at a finer resolution: strides past a limit become dilation."""

from fxfeat.stride.limit import limit_stride
from fxfeat.stride.proof import Break, Proof, prove

__all__ = ["Break", "Proof", "limit_stride", "prove"]
