"""What stands in the place of a function while a model is recorded."""

from __future__ import annotations

from typing import Any

Replacement = tuple[Any, str, Any]
"""What holds a function, by which name, and what stands there."""
