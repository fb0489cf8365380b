"""One machine over time, for a CI: python3 -m analysis.history results/

The newest run of each work and configuration against the earlier ones on the same machine. It is a
slowdown where it is worse than every earlier one, and by more than --tolerance and what runs differ
by. How much they differ is learned from the earlier runs, beginning with --spread.
Exit status: 0 no slowdown; 1 nothing to compare; 3 a slowdown.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from analysis import ratio
from analysis.records import Run, read_runs
from analysis.text import amount, inline, times
from harness import cli
from harness.cli import UserError

EXIT_SLOWDOWN = 3
CONFIDENCE = 0.95  # one-sided: the share of steady machines that raise no alarm


@dataclass(frozen=True)
class Change:
    """The newest run against the earlier ones, by its primary metric."""

    run: Run
    earlier: int
    ratio: float | None  # None where an earlier run had 0
    verdict: str  # "SLOWDOWN", "better" or "no slowdown"
    margin: float  # share by which a run may be worse by chance, or better

    def __str__(self) -> str:
        run = self.run
        many = "" if self.ratio is None else f", {times(self.ratio)} times"
        about = f"{amount(run.result.median, run.result.unit)}{many}"
        return (
            f"{self.verdict}: {run.machine}, {run.label}: {about} the {inline(run.result.label)} "
            f"of {self.earlier} earlier run(s) (by chance up to {self.margin:.1%}); {run.path}"
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
    spread = "standard deviation between runs that is assumed at first, as a share; it counts as "
    spread += f"{ratio.PRIOR_RUNS} runs"
    parser.add_argument("--spread", type=cli.share, default=ratio.SPREAD, help=spread)
    allowed = "look at runs that are not valid as evidence, too"
    parser.add_argument("--allow_invalid", action="store_true", help=allowed)
    return parser.parse_args()


def changes(runs: list[Run], window: int, tolerance: float, spread: float) -> list[Change]:
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
            before = [run.result.median for run in earlier]
            judged = judge(before, newest.result.median, better, tolerance, spread)
            found.append(Change(newest, len(earlier), *judged))
    return found


def judge(
    earlier: Sequence[float], newest: float, better: str, tolerance: float, spread: float
) -> tuple[float | None, str, float]:
    """(ratio to the earlier runs' geometric mean, verdict, margin of chance as a share).

    The newest run's logarithm is expected within Student's t of the mean of the earlier ones'. The
    variance between runs is ratio.moderated(), so that one earlier run is enough. A 0 has no
    logarithm: it is compared as it is.
    """
    sign = 1 if better == "higher" else -1
    is_worst = all(sign * newest < sign * value for value in earlier)
    is_best = all(sign * newest > sign * value for value in earlier)
    if min(*earlier, newest) <= 0:
        verdict = "SLOWDOWN" if is_worst else "better" if is_best else "no slowdown"
        mean = float(np.mean(earlier))
        return (newest / mean if mean else None), verdict, 0.0
    logs = np.log(earlier)
    change = math.log(newest) - float(logs.mean())
    variance, degrees = ratio.moderated(logs, spread)
    by_chance = ratio.t_quantile(CONFIDENCE, degrees) * math.sqrt(variance * (1 + 1 / len(logs)))
    gain = sign * change
    if is_worst and gain < -by_chance + math.log(1 - tolerance):
        verdict = "SLOWDOWN"
    else:
        verdict = "better" if is_best and gain > by_chance else "no slowdown"
    return math.exp(change), verdict, math.expm1(by_chance)


def main() -> int:
    args = parse_args()
    runs, skipped = read_runs(args.records)
    for line in skipped:
        print(f"skipped: {line}", file=sys.stderr)
    if not args.allow_invalid:
        for run in runs:
            if run.reasons:
                print(f"invalid, left out: {run.path}: {'; '.join(run.reasons)}", file=sys.stderr)
        runs = [run for run in runs if not run.reasons]
    found = changes(runs, args.window, args.tolerance, args.spread)
    if not found:
        what = "no two valid runs of the same work, configuration, machine (--allow_invalid)"
        raise UserError(f"nothing to compare: {what}")
    for change in found:
        print(change)
    return EXIT_SLOWDOWN if any(each.verdict == "SLOWDOWN" for each in found) else cli.EXIT_OK


if __name__ == "__main__":
    cli.run(main)
