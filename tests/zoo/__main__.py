"""The sweep over whole zoos: ``python -m tests.zoo --help``."""

from __future__ import annotations

import argparse
import functools
import re
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from tests.zoo.check import Report, check_entry, time_entry
from tests.zoo.entry import Entry
from tests.zoo.families import entries
from tests.zoo.report import write_report
from tests.zoo.result import Result
from tests.zoo.running import run_entries
from tests.zoo.storing import append, load
from tests.zoo.table import sheets

RESULTS = Path("benchmarks/results/.cache/coverage.jsonl")
REPORT = Path("benchmarks/results/coverage.md")


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.zoo", description="Check whole model zoos and print a table."
    )
    parser.add_argument("-k", default="", help="regular expression; only models whose name it is found in")
    parser.add_argument("--only", choices=("all", "missing", "failed", "none"), default="all", help=_ONLY)
    parser.add_argument("--jobs", type=int, default=2, help="models at a time")
    parser.add_argument("--limit", type=float, default=300, help="seconds for one model")
    parser.add_argument("--memory", type=float, default=9, help="GiB for one model")
    parser.add_argument(
        "--engine", choices=("auto", "code", "tap"), default="auto", help="what extractors are made with"
    )
    parser.add_argument("--brief", action="store_true", help="without rival, times, and most other sizes")
    parser.add_argument("--results", type=Path, help="file of results, a line of JSON each, kept")
    parser.add_argument("--report", type=Path, help="the Markdown to write")
    parser.add_argument("--timing", action="store_true", help="measure the time of verify again, of models recorded")
    parser.add_argument("--list", action="store_true", help="list the models and end")
    arguments = parser.parse_args()
    mark = ("" if arguments.engine == "auto" else f"_{arguments.engine}") + ("_brief" if arguments.brief else "")
    arguments.results = arguments.results or RESULTS.with_stem(RESULTS.stem + mark)
    arguments.report = arguments.report or REPORT.with_stem(REPORT.stem + mark)
    return arguments


_ONLY = "run all models, those without a result, those and the failed ones, or none: show what was measured before"


def main() -> int:
    arguments, console = read_arguments(), Console(width=None if sys.stdout.isatty() else 160)
    every = list(entries())
    chosen = [entry for entry in every if re.search(arguments.k, entry.name)]
    if arguments.list:
        print(*chosen, sep="\n")
        return 0
    known = load(arguments.results)
    todo = [entry for entry in chosen if _is_wanted(entry, known, arguments.only)]
    check: Callable[..., Result] = functools.partial(check_entry, engine=arguments.engine, brief=arguments.brief)
    if arguments.timing:
        todo = [entry for entry in chosen if entry.name in known and known[entry.name].recorded]
        check = functools.partial(_time_again, known)
    for number, result in enumerate(run_entries(todo, arguments.jobs, arguments.limit, arguments.memory, check), 1):
        known[result.name] = result
        append(arguments.results, result)
        console.print(f"{number}/{len(todo)} {_summary(result)}", highlight=False, markup=False, soft_wrap=True)
    shown = [known[entry.name] for entry in chosen if entry.name in known]
    console.print(*sheets(shown))
    _write(arguments.report, every, known, arguments.brief, console)
    return 0 if all(result.faultless for result in shown if result.runs) else 1


def _time_again(known: dict[str, Result], entry: Entry, report: Report) -> Result:
    return time_entry(known[entry.name], entry, report)


def _is_wanted(entry: Entry, known: dict[str, Result], only: str) -> bool:
    if only in ("all", "none"):
        return only == "all"
    held = known.get(entry.name)
    return held is None or (only == "failed" and not held.faultless)


def _summary(result: Result) -> str:
    state = "not run in eager mode" if not result.runs else "ok" if result.faultless else "FAILED"
    counts = f"{result.compared} compared, {len(result.wrong)} wrong, {len(result.refused)} refused"
    times = f"verify {result.verify_one or 0:.1f} and {result.verify_all or 0:.1f} forwards"
    whole = f", {len(result.tapped)} modules run whole" if result.tapped else ""
    return f"{result.name}: {state}, {counts}{whole}, {times}, {result.seconds:.0f} s"


def _write(path: Path, every: list[Entry], known: dict[str, Result], brief: bool, console: Console) -> None:
    results = [known[entry.name] for entry in every if entry.name in known]
    missing = [entry.name for entry in every if entry.name not in known]
    write_report(path, results, missing, brief)
    console.print(f"{path} written: {len(results)} of {len(every)} models have a result")


if __name__ == "__main__":
    sys.exit(main())
