"""Read a flag of torch by its name, which ``torch.compile`` can follow."""

from __future__ import annotations

from typing import Any

import torch


def read_flag(name: str) -> Any:
    """Read a flag.

    >>> read_flag("backends.cudnn.enabled") == torch.backends.cudnn.enabled
    True
    """
    value: Any = torch
    for part in name.split("."):
        value = getattr(value, part)
    return value
