"""One machine over time, for a CI: python3 -m harness.history results/*.json

The newest run of each work and setting against the earlier ones on the same machine. A slowdown is told where the 95 % interval of
the ratio lies beyond --tolerance and the run is worse than every earlier one (so that a machine whose runs scatter raises no
alarm). Exit status: 0 no slowdown; 1 nothing to compare; 3 a slowdown.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness import cli, ratio
from harness.cli import UserError
from harness.compare import Run, label_works, read_runs
from harness.report import amount, words

EXIT_SLOWDOWN = 3


@dataclass
class Change:
    """The newest run against the earlier ones."""

    run: Run
    earlier: int
    found: ratio.Ratio
    is_slowdown: bool


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python3 -m harness.history", description=__doc__, formatter_class=cli.HelpFormatter)
    parser.add_argument(
        "records", type=Path, nargs="+", help="records (JSON) of one or more machines; others are named and skipped"
    )
    parser.add_argument("--window", type=cli.positive_int, default=20, help="earlier runs that are looked at, the latest ones")
    parser.add_argument("--tolerance", type=cli.share, default=0.02, help="slowdown that is let pass, as a share")
    return parser.parse_args()


def changes(runs: list[Run], window: int, tolerance: float) -> list[Change]:
    """One for each machine, work, model, setting and placement that has earlier runs."""
    series = defaultdict(list)
    for run in runs:
        series[run.shown["machine"], run.work_key, str(run.fair), run.placement].append(run)
    found = []
    for group in series.values():
        *earlier, newest = sorted(group, key=lambda run: run.finished_at)
        earlier = [run for run in earlier[-window:] if newest.headline in run.metrics]
        if not earlier or newest.headline not in newest.metrics:
            continue
        better = newest.metrics[newest.headline]["better"]
        change = ratio.compare([run.samples[newest.headline] for run in earlier], [newest.samples[newest.headline]], better)
        found.append(Change(newest, len(earlier), change, _is_slowdown(newest, earlier, change, tolerance)))
    return found


def _is_slowdown(newest: Run, earlier: list[Run], change: ratio.Ratio, tolerance: float) -> bool:
    if change.verdict != "worse":
        return False
    medians = [float(np.median(run.samples[newest.headline])) for run in earlier]
    if change.better == "higher":
        return change.high < 1 - tolerance and change.side < min(medians)
    return change.low > 1 + tolerance and change.side > max(medians)


def main() -> int:
    args = parse_args()
    runs, skipped = read_runs(args.records)
    for line in skipped:
        print(f"skipped: {line}", file=sys.stderr)
    label_works(runs)
    found = changes(runs, args.window, args.tolerance)
    if not found:
        raise UserError("nothing to compare: no two runs of the same work and setting on one machine")
    for change in found:
        run, told = change.run, change.found
        unit = run.metrics[run.headline]["unit"]
        interval = "too few samples for an interval" if told.low is None else f"95 % CI {told.low:.3f}–{told.high:.3f}"
        state = "SLOWDOWN" if change.is_slowdown else told.verdict
        print(f"{state}: {run.machine}, {run.label}: {amount(told.side, unit)}, {told.ratio:.3f} times the {words(run.headline)} of "
              f"{change.earlier} earlier run(s) ({interval}); {run.path}")  # fmt: skip
    return EXIT_SLOWDOWN if any(change.is_slowdown for change in found) else cli.EXIT_OK


if __name__ == "__main__":
    cli.run(main)
