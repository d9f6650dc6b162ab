"""The ``fxfeat`` command."""

from fxfeat.cli.main import main

__all__ = ["main"]
