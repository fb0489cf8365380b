"""One machine over time, for a CI: python3 -m analysis.history results/

The newest run of each work and configuration against the earlier ones on the same machine. It is a
slowdown where the 95 % interval of the ratio lies beyond --tolerance and the run is worse than
every earlier one (so that a machine whose runs scatter raises no alarm).
Exit status: 0 no slowdown; 1 nothing to compare; 3 a slowdown.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from analysis import ratio
from analysis.records import Run, read_runs
from analysis.text import amount, inline, times, times_interval
from harness import cli
from harness.cli import UserError

EXIT_SLOWDOWN = 3


@dataclass(frozen=True)
class Change:
    """The newest run against the earlier ones, by its primary metric."""

    run: Run
    earlier: int
    found: ratio.Ratio
    is_slowdown: bool

    def __str__(self) -> str:
        run, found = self.run, self.found
        state = "SLOWDOWN" if self.is_slowdown else found.verdict
        about = f"{amount(found.side, run.result.unit)}, {times(found.ratio)} times"
        sure = f"95 % CI {times_interval(found.ci95)}" if found.ci95 else "no interval"
        return (
            f"{state}: {run.machine}, {run.label}: {about} the {inline(run.result.label)} of "
            f"{self.earlier} earlier run(s) ({sure}); {run.path}"
        )


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python3 -m analysis.history", description=__doc__, formatter_class=cli.HelpFormatter
    )
    records = "records (JSON) or folders of them, of one or more machines"
    parser.add_argument("records", type=Path, nargs="+", help=records)
    window = "how many of the latest earlier runs are looked at"
    parser.add_argument("--window", type=cli.positive_int, default=20, help=window)
    tolerance = "slowdown that is let pass, as a share"
    parser.add_argument("--tolerance", type=cli.share, default=0.02, help=tolerance)
    return parser.parse_args()


def changes(runs: list[Run], window: int, tolerance: float) -> list[Change]:
    """One for each machine, work and configuration that has earlier runs."""
    groups: dict[object, list[Run]] = defaultdict(list)
    for run in runs:
        settings = (run.comparable_by, run.configuration)
        alike = tuple(frozenset(entries.items()) for entries in settings)
        groups[run.context.get("machine"), run.work_key, run.primary, alike].append(run)
    found = []
    for group in groups.values():
        *earlier, newest = sorted(group, key=lambda run: run.finished_at)
        earlier, better = earlier[-window:], newest.result.better
        if earlier and better:
            before = [run.samples[run.primary] for run in earlier]
            change = ratio.compare(before, [newest.samples[newest.primary]], better)
            slower = _is_slowdown(newest, earlier, change, tolerance)
            found.append(Change(newest, len(earlier), change, slower))
    return found


def _is_slowdown(newest: Run, earlier: list[Run], change: ratio.Ratio, tolerance: float) -> bool:
    if change.verdict != "worse" or change.ci95 is None:
        return False
    low, high = change.ci95
    beyond = high < 1 - tolerance if change.better == "higher" else low > 1 + tolerance
    return beyond and newest.score < min(run.score for run in earlier)


def main() -> int:
    args = parse_args()
    runs, skipped = read_runs(args.records)
    for line in skipped:
        print(f"skipped: {line}", file=sys.stderr)
    found = changes(runs, args.window, args.tolerance)
    if not found:
        raise UserError("nothing to compare: no two runs of the same work, configuration, machine")
    for change in found:
        print(change)
    return EXIT_SLOWDOWN if any(change.is_slowdown for change in found) else cli.EXIT_OK


if __name__ == "__main__":
    cli.run(main)
