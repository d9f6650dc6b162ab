"""The results as tables for eyes and as Markdown: a line for each zoo, the failures with their reasons, every model."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version

from rich.table import Table

from tests.zoo.result import Result

PACKAGES = {"smp": "segmentation-models-pytorch"}
VERIFY_LIMIT = 3.0


@dataclass(frozen=True)
class Sheet:
    """A table as text: a title, the columns, the rows."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __rich__(self) -> Table:
        table = Table(title=self.title, title_justify="left")
        for place, column in enumerate(self.columns):
            table.add_column(column, justify="right" if place and self._is_number(place) else "left", overflow="fold")
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        head = [_line(self.columns), _line(["---"] * len(self.columns))]
        return "\n".join([f"## {self.title}", "", *head, *map(_line, self.rows)])

    def _is_number(self, place: int) -> bool:
        return all(row[place][:1].isdigit() or not row[place] for row in self.rows)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def sheets(results: Iterable[Result]) -> list[Sheet]:
    results = list(results)
    measured = (
        [rival_coverage(results), verify_times(results)] if any(result.rival.wanted for result in results) else []
    )
    return [coverage(results), *measured, failures(results), running_whole(results), not_running(results)]


def coverage(results: list[Result]) -> Sheet:
    columns = (
        "zoo",
        "models",
        "run in eager",
        "recorded",
        "values compared",
        "equal",
        "wrong",
        "guard errors",
        "failing models",
    )
    return Sheet("fxfeat", columns, tuple(_coverage(name, held) for name, held in _by_family(results)))


def _coverage(name: str, held: list[Result]) -> tuple[str, ...]:
    ran = [result for result in held if result.runs]
    recorded = [result for result in ran if result.recorded]
    compared, wrong = sum(r.compared for r in held), sum(len(r.wrong) for r in held)
    failing = [result for result in ran if not result.faultless]
    refusals = sum(len(result.refused) for result in held)
    counts = (len(held), len(ran), _share(len(recorded), len(ran)), compared, _share(compared - wrong, compared), wrong)
    return (name, *map(str, counts), str(refusals), str(len(failing)))


def rival_coverage(results: list[Result]) -> Sheet:
    columns = (
        *("zoo", "run in eager", "recorded", "names it takes", "values compared", "equal", "wrong"),
        *("fails at another size", "wrong, all names at once"),
    )
    return Sheet("torchvision's extractor", columns, tuple(_rival(name, held) for name, held in _by_family(results)))


def _rival(name: str, held: list[Result]) -> tuple[str, ...]:
    rivals = [result.rival for result in held if result.runs]
    recorded = [rival for rival in rivals if rival.recorded]
    compared, wrong = sum(r.compared for r in recorded), sum(len(r.wrong) for r in recorded)
    at_once, at_once_wrong = sum(r.at_once for r in recorded), sum(r.at_once_wrong for r in recorded)
    names = _share(sum(r.named for r in recorded), sum(r.wanted for r in rivals))
    shares = (_share(len(recorded), len(rivals)), names, str(compared), _share(compared - wrong, compared), str(wrong))
    errors = str(sum(len(rival.resized_errors) for rival in recorded))
    return (name, str(len(rivals)), *shares, errors, f"{at_once_wrong} of {at_once}")


def verify_times(results: list[Result]) -> Sheet:
    columns = (
        "verify, in eager forwards' time",
        "models",
        "median",
        "90%",
        "worst",
        f"above {VERIFY_LIMIT:g}",
        "worst model",
    )
    rows = (
        _times("all modules", [(r.verify_all, r) for r in results if r.verify_all is not None]),
        _times("one module", [(r.verify_one, r) for r in results if r.verify_one is not None]),
    )
    return Sheet("Time of verify", columns, tuple(row for row in rows if row))


def _times(name: str, held: list[tuple[float, Result]]) -> tuple[str, ...]:
    if not held:
        return ()
    ratios = sorted(ratio for ratio, _ in held)
    ratio, worst = max(held, key=lambda pair: pair[0])
    middle, high = statistics.median(ratios), ratios[int(0.9 * (len(ratios) - 1))]
    above = sum(ratio > VERIFY_LIMIT for ratio in ratios)
    seconds = f"{worst.name} ({1000 * (worst.forward_seconds or 0):.1f} ms a forward)"
    return (name, str(len(held)), f"{middle:.2f}", f"{high:.2f}", f"{ratio:.2f}", str(above), seconds)


def failures(results: list[Result]) -> Sheet:
    rows = [(result.name, what) for result in results if result.runs for what in _faults(result)]
    return Sheet("Failures and wrong values", ("model", "what"), tuple(rows) or (("none", ""),))


def _faults(result: Result) -> list[str]:
    wrong = Counter(case.rpartition(": ")[0] for case in result.wrong)
    first = {case.rpartition(": ")[0]: case.rpartition(": ")[2] for case in reversed(result.wrong)}
    shown = [f"{case}: {count} wrong values, first of {first[case]}" for case, count in wrong.items()]
    return [*result.failures, *shown]


def running_whole(results: list[Result]) -> Sheet:
    """List the modules that cannot be written out, with their share of the parameters, and why."""
    rows = [(result.name, what) for result in results for what in result.tapped]
    return Sheet("Modules that run whole, with hooks", ("model", "what"), tuple(rows) or (("none", ""),))


def not_running(results: list[Result]) -> Sheet:
    rows = [(r.name, mode, why) for r in results for mode, why in r.eager_errors.items()]
    return Sheet("Not run in eager mode, so not compared", ("model", "mode", "why"), tuple(rows) or (("none", "", ""),))


def every_model(results: Iterable[Result]) -> Sheet:
    columns = (
        "model",
        "parameters",
        "modules",
        "modes",
        "recorded",
        "compared",
        "wrong",
        "guard errors",
        "verify",
        "torchvision's",
    )
    return Sheet("Every model", columns, tuple(map(_model, results)))


def _model(held: Result) -> tuple[str, ...]:
    rival = held.rival
    theirs = f"{rival.compared - len(rival.wrong)} of {rival.compared} equal" if rival.recorded else rival.reason[:80]
    verify = "" if held.verify_all is None else f"{held.verify_all:.2f}"
    counts = (held.compared, len(held.wrong), len(held.refused))
    shape = (held.name, f"{held.parameters:,}", str(held.modules), ", ".join(held.eager_modes) or "none")
    return (*shape, "yes" if held.recorded else "no", *map(str, counts), verify, theirs)


def versions(results: Iterable[Result]) -> str:
    families = dict.fromkeys(["torch", *(result.family for result in results)])
    return ", ".join(f"{name} {version(PACKAGES.get(name, name))}" for name in families)


def _by_family(results: list[Result]) -> list[tuple[str, list[Result]]]:
    families: dict[str, list[Result]] = {}
    for result in results:
        families.setdefault(result.family, []).append(result)
    return [*families.items(), ("all", results)]


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole} ({_percent(part, whole)})"


def _percent(part: int, whole: int) -> str:
    # Rounded down: 100% means all.
    return f"{int(1000 * part / whole) / 10:g}%" if whole else "-"
