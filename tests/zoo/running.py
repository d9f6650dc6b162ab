"""Each model in a process of its own, with limits of time and memory; what breaks one is a reason in its row."""

from __future__ import annotations

import importlib
import multiprocessing
import resource
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from tests.zoo.check import RIVAL_STAGE, check_entry, reason
from tests.zoo.entry import Entry
from tests.zoo.result import Result

PACKAGES = {"smp": "segmentation_models_pytorch", "monai": "monai.networks.nets"}


@dataclass
class Job:
    """A model at work in its process."""

    entry: Entry
    process: Any
    pipe: Connection
    stage: str = "starting"
    result: Result | None = None
    error: str = ""
    started: float = field(default_factory=time.monotonic)


def run_entries(
    entries: Iterable[Entry], jobs: int, limit: float, memory: float, check: Callable[..., Result] = check_entry
) -> Iterator[Result]:
    """Check models, ``jobs`` at a time, and yield each result when it is there.

    Args:
        entries: the models.
        jobs: how many at a time.
        limit: seconds for one model.
        memory: GiB for one model.
        check: what to do with each.
    """
    waiting, running = list(entries), list[Job]()
    for family in {entry.family for entry in waiting}:
        importlib.import_module(PACKAGES.get(family, family))
    while waiting or running:
        while waiting and len(running) < jobs:
            running.append(_start(waiting.pop(0), memory, check))
        ended = _ended(running, limit)
        running = [job for job in running if job not in ended]
        yield from map(_result, ended)


def _start(entry: Entry, memory: float, check: Callable[..., Result]) -> Job:
    # A fork has the packages imported already.
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(entry, sender, memory, check))
    process.start()
    sender.close()
    return Job(entry, process, receiver)


def _work(entry: Entry, pipe: Connection, memory: float, check: Callable[..., Result]) -> None:
    bytes_allowed = int(memory * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (bytes_allowed, bytes_allowed))
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    try:
        result = check(entry, lambda stage, held: pipe.send((stage, held.as_dict())))
    except BaseException as error:
        pipe.send(("error", reason(error)))
        return
    pipe.send(("done", result.as_dict()))


def _ended(running: list[Job], limit: float) -> list[Job]:
    """Read what running jobs say, stop those that take too long, and list those that are over."""
    wait([job.pipe for job in running], timeout=1)
    over = [job for job in running if _read(job)]
    late = [job for job in running if job not in over and time.monotonic() - job.started > limit]
    for job in late:
        job.process.kill()
        job.error = f"stopped after {limit:.0f} seconds while {job.stage}"
    for job in over + late:
        job.process.join()
    return over + late


def _read(job: Job) -> bool:
    """Take in a job's messages; say whether it is over."""
    while job.pipe.poll():
        try:
            stage, held = job.pipe.recv()
        except EOFError:
            return True
        if stage == "error":
            job.error = f"{held}, while {job.stage}"
            continue
        job.stage, job.result = stage, Result.of_dict(held)
    return False


def _result(job: Job) -> Result:
    result = job.result or Result(job.entry.name)
    if not job.error and job.stage != "done":
        job.error = f"process ended with code {job.process.exitcode} while {job.stage}"
    if not job.error:
        return result
    if job.stage == RIVAL_STAGE:
        result.rival.reason = job.error
    elif result.runs:
        result.failures.append(job.error)
    else:
        result.eager_errors["both"] = job.error
    result.seconds = round(time.monotonic() - job.started, 1)
    return result
