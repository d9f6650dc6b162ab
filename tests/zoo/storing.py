"""Results as lines of JSON, the last line of a name counting."""

from __future__ import annotations

import json
from pathlib import Path

from tests.zoo.result import Result


def load(path: Path) -> dict[str, Result]:
    if not path.exists():
        return {}
    lines = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    return {held["name"]: Result.of_dict(held) for held in lines}


def append(path: Path, result: Result) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(result.as_dict()) + "\n")
