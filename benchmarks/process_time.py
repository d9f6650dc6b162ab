"""How much process time a call takes."""

from __future__ import annotations

import time
from collections.abc import Callable


def measure_seconds(call: Callable[[], object]) -> float:
    """Call once, and return the seconds of process time that it took."""
    start = time.process_time()
    call()
    return time.process_time() - start
