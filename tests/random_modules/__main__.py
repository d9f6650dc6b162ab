"""Check many random modules: ``python -m tests.random_modules --examples 20000 --seed 0 --jobs 2``."""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import re
import sys
import time
from collections import Counter

from rich.console import Console
from rich.progress import track
from rich.table import Table

from tests.random_modules.rounds import ROUND, Tally, run_round


def main() -> int:
    wanted = _read_arguments()
    rounds = range(wanted.seed, wanted.seed + -(-wanted.examples // ROUND))
    tally, start = Tally(), time.monotonic()
    console = Console()
    # What was counted until somebody breaks it off is shown too.
    with contextlib.suppress(KeyboardInterrupt), multiprocessing.get_context("spawn").Pool(wanted.jobs) as pool:
        for part in track(pool.imap_unordered(run_round, rounds), total=len(rounds), console=console):
            tally.merge(part)
            for found in part.counterexamples:
                console.print(str(found), markup=False, highlight=False)
    console.print(_table(tally, time.monotonic() - start))
    return 1 if tally.counterexamples else 0


def _read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.random_modules", description=__doc__)
    parser.add_argument("--examples", type=int, default=20000, help=f"how many, in rounds of {ROUND}")
    parser.add_argument("--seed", type=int, default=0, help="the seed of the first round; each has the next")
    parser.add_argument("--jobs", type=int, default=2, help="how many processes")
    return parser.parse_args()


def _table(tally: Tally, seconds: float) -> Table:
    table = Table(show_header=False)
    table.add_row("modules", f"{tally.cases:,} in {seconds:.0f} s")
    table.add_row("  that eager PyTorch refuses", f"{tally.refused:,}")
    table.add_row("features compared", f"{tally.compared:,}")
    table.add_row("runs at other sizes", f"{tally.resized:,}")
    table.add_row("modules with a GuardError at another size", f"{tally.guarded.total():,}")
    table.add_row("errors at the example's size", f"{tally.errors.total():,} ({tally.error_rate:.2%})")
    for reason, count in _reasons(tally.errors).most_common(12):
        table.add_row("", f"{count} x {reason}")
    table.add_row("counterexamples", f"{len(tally.counterexamples):,}")
    return table


def _reasons(errors: Counter[str]) -> Counter[str]:
    """Count errors that differ in nothing but names and places together."""
    found: Counter[str] = Counter()
    for error, count in errors.items():
        found[re.sub(r"<random module \d+>:\d+: |`[^`]*`|'[^']*'", "...", error)[:100]] += count
    return found


if __name__ == "__main__":
    sys.exit(main())
