"""Write the code of fixed requests, ten models of each zoo, to a file each: ``python -m benchmarks.emitted_code OUT``.

Run it before and after a change that is to leave emitted code as it is, and compare the two folders with ``diff -r``.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
from pathlib import Path
from typing import Any

import torch
from torch import nn

import fxfeat
from tests.zoo.comparing import run_hooked
from tests.zoo.entry import Entry
from tests.zoo.families import entries

MODELS = 10
MODULES = 4


def choose_entries() -> list[Entry]:
    """Choose models of each zoo, evenly spaced over its list."""
    families = [list(group) for _, group in itertools.groupby(entries(), key=lambda entry: entry.family)]
    return [entry for family in families for entry in _spaced(family, MODELS)]


def _spaced(values: list[Any], count: int) -> list[Any]:
    step = max(len(values) / count, 1)
    return [values[int(index * step)] for index in range(min(count, len(values)))]


def write_code(entry: Entry) -> str:
    """Return what a request of four modules and one operation is written as, in both modes."""
    torch.manual_seed(0)
    model, inputs = entry.build().eval(), entry.inputs()
    names = _spaced(list(run_hooked(model, inputs)), MODULES)
    return "\n".join([f"# {entry.name}: {names}", *_codes(model, names, inputs), *_operation(model, inputs)])


def _operation(model: nn.Module, inputs: Any) -> list[str]:
    paths = {path for path, _ in model.named_modules()}
    try:
        _, listed = fxfeat.get_graph_node_names(model, example_inputs=inputs, suppress_diff_warning=True)
    except fxfeat.FxfeatError as error:
        return [f"# no names: {error}"]
    operations = [name for name in listed if name not in paths]
    chosen = operations[len(operations) // 2]
    return [f"# {chosen}", *_codes(model, [chosen], inputs)]


def _codes(model: nn.Module, names: list[str], inputs: Any) -> list[str]:
    torch.manual_seed(0)
    try:
        extractor = fxfeat.create_feature_extractor(model, names, example_inputs=inputs)
    except fxfeat.FxfeatError as error:
        return [f"# refused: {error}"]
    return [_code(extractor, mode) for mode in (False, True)]


def _code(extractor: nn.Module, mode: bool) -> str:
    try:
        return f"# {'train' if mode else 'eval'}\n{extractor.train(mode).code}"
    except fxfeat.FxfeatError as error:
        return f"# {'train' if mode else 'eval'} refused: {error}"


def _write(task: tuple[Entry, Path]) -> str:
    entry, folder = task
    torch.set_num_threads(1)
    try:
        text = write_code(entry)
    except Exception as error:
        text = f"# {entry.name} failed: {type(error).__name__}: {error}"
    (folder / f"{entry.name.replace('/', '_')}.txt").write_text(text + "\n")
    return entry.name


def main() -> None:
    """Write a file for each model that has none yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    written = {path.stem for path in arguments.folder.glob("*.txt")}
    names = [str(index) for index, _ in enumerate(choose_entries())]
    todo = [index for index in map(int, names) if choose_entries()[index].name.replace("/", "_") not in written]
    context = multiprocessing.get_context("fork")
    running: list[Any] = []
    for index in todo:
        while len(running) >= arguments.jobs:
            running[0].join(1)
            running = [process for process in running if process.is_alive()]
        process = context.Process(target=_write, args=((choose_entries()[index], arguments.folder),))
        process.start()
        running.append(process)
    for process in running:
        process.join()


if __name__ == "__main__":
    main()
