"""What a model's code is told where another run may tell it something else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Values = Literal["as they are", "larger", "smaller", "not a number", "pinned"]
"""What becomes of numbers that come from data: code in C is shown others in their place, or they are checked."""


Gradients = Literal["checked", "on", "off", "all", "none", "frozen"]
"""What code is told that asks about gradients.

How it is, which is checked; or that they are on or off for what is trained, on for everything, on although nothing is
trained, off and nothing is trained.
"""


SameTensor = Literal["apart", "together", "checked"]
"""What inputs of one shape are to code: a tensor each, one and the same, or as they are, which is checked."""


@dataclass(frozen=True)
class Assumptions:
    """What a model's code is told where another run may tell it something else."""

    values: Values = "as they are"
    gradients: Gradients = "checked"
    same_tensor: SameTensor = "apart"


AS_IT_IS = Assumptions()
"""Code is told what holds for the run that is recorded."""
