"""What became of one model, as plain data that goes through a pipe and into a line of JSON."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Rival:
    """What became of a model under torchvision's extractor."""

    recorded: bool = False
    reason: str = ""
    wanted: int = 0
    named: int = 0
    compared: int = 0
    wrong: list[str] = field(default_factory=list)
    at_once: int = 0
    at_once_wrong: int = 0
    resized_errors: list[str] = field(default_factory=list)


@dataclass
class Result:
    """What became of a model: what ran, what was compared, and what went wrong, by mode and size."""

    name: str
    parameters: int = 0
    modules: int = 0
    seconds: float = 0.0
    eager_errors: dict[str, str] = field(default_factory=dict)
    eager_modes: list[str] = field(default_factory=list)
    recorded_modes: list[str] = field(default_factory=list)
    compared: int = 0
    wrong: list[str] = field(default_factory=list)
    unrepeatable: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    tapped: list[str] = field(default_factory=list)
    forward_seconds: float | None = None
    verify_all: float | None = None
    verify_one: float | None = None
    rival: Rival = field(default_factory=Rival)

    @property
    def family(self) -> str:
        return self.name.partition(".")[0]

    @property
    def runs(self) -> bool:
        """Whether the model runs in eager mode, in one mode at least."""
        return bool(self.eager_modes)

    @property
    def recorded(self) -> bool:
        """Whether an extractor of all modules was made in each mode that runs in eager mode."""
        return self.runs and set(self.eager_modes) == set(self.recorded_modes)

    @property
    def faultless(self) -> bool:
        return self.recorded and not self.failures and not self.wrong

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def of_dict(cls, held: dict[str, Any]) -> Result:
        return cls(**{**held, "rival": Rival(**held["rival"])})
