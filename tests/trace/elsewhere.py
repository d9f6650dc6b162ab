"""Functions of a file that holds no module: models call them by name, or by the name of the file."""

from __future__ import annotations

from random import uniform

from einops import rearrange
from torch import is_grad_enabled, manual_seed, rand


def seeded_noise():
    manual_seed(3)
    return rand(4)


def scaled_by_chance(x):
    return x * uniform(0.5, 1.5)


def doubled_with_gradients(x):
    return x * 2 if is_grad_enabled() else x


def folded(x):
    return rearrange(x, "b (h d) -> (b h) d", h=2)


def added_up(x):
    for row in range(x.shape[0]):
        x = x + row
    return x
