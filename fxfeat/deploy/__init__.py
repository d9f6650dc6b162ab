"""Make an extractor ready for use elsewhere: as a file of plain PyTorch."""

from __future__ import annotations

from fxfeat.deploy.save_code import save_code

__all__ = ["save_code"]
