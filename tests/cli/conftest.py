"""A small model in a file of its own, and a way to run the command on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from fxfeat.cli import main

SOURCE = """
import warnings

import torch
from torch import nn


class Tiny(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)
        self.body = nn.Sequential(nn.Conv2d(width, width, 1), nn.ReLU(inplace=True))
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(width, 2)

    def forward(self, x):
        print("noise on stdout")
        warnings.warn("noise on stderr")
        x = self.body(self.conv(x)).mean((2, 3))
        if self.training:
            x = x + 1
        return self.fc(self.drop(x))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 3, batch_first=True)

    def forward(self, x):
        out, state = self.lstm(x)
        return {"a,b": out, "state": state}


class Interrupted(nn.Module):
    def forward(self, x):
        raise KeyboardInterrupt


def words():
    return nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 2))


def number():
    return 3


SIZE = 8
made = Tiny()
"""


class Result(NamedTuple):
    """What a run left: the exit code, stdout and stderr."""

    code: int
    out: str
    err: str


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write the models and go where they are."""
    (tmp_path / "tiny.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path


@pytest.fixture
def run(folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run the command in this process."""

    def run_command(*arguments: str) -> Result:
        code = main(arguments)
        out, err = capsys.readouterr()
        said = [line for line in err.splitlines(keepends=True) if line != "noise on stdout\n"]
        return Result(code, out, "".join(said))

    return run_command
