"""Make an extractor ready for use elsewhere: as a file of plain PyTorch, or faster."""

from __future__ import annotations

from fxfeat.deploy.optimization import Optimization
from fxfeat.deploy.optimize import optimize
from fxfeat.deploy.save_code import save_code

__all__ = ["Optimization", "optimize", "save_code"]
