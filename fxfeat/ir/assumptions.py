"""What a model's code is told where another run may tell it something else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Values = Literal["as they are", "larger", "smaller", "not a number", "pinned"]
"""What becomes of numbers that come from data: code in C is shown others in their place, or they are checked."""


Gradients = Literal["checked", "on", "off", "all", "none", "frozen"]
"""What code is told that asks about gradients.

How it is, which is checked; or that they are on or off for what is trained, on for everything, on although nothing is
trained, off and nothing is trained.
"""


SameTensor = Literal["apart", "together", "checked"]
"""What inputs of one shape are to code: a tensor each, one and the same, or as they are, which is checked."""


class Untold:
    """Given in place of an argument that no feature is thought to need: any question to it ends the run."""

    def _refuse(self, *args: Any) -> Any:
        raise TypeError("this argument was taken to be unneeded")

    __bool__ = __eq__ = __ne__ = __hash__ = __len__ = __iter__ = __contains__ = __call__ = _refuse
    __getattr__ = __getitem__ = __lt__ = __gt__ = __le__ = __ge__ = _refuse


STAND_INS: dict[str, Callable[[], Any]] = {"None": lambda: None, "an object": Untold}
"""What code is given in place of arguments that no feature is thought to need: then it may fail behind the features."""


@dataclass(frozen=True)
class Assumptions:
    """What a model's code is told where another run may tell it something else.

    ``unneeded`` are the arguments of ``forward`` that no feature needs, which are not checked; ``stand_in`` says what
    is given in their place.
    """

    values: Values = "as they are"
    gradients: Gradients = "checked"
    same_tensor: SameTensor = "apart"
    unneeded: frozenset[str] = frozenset()
    stand_in: str = ""


AS_IT_IS = Assumptions()
"""Code is told what holds for the run that is recorded."""
