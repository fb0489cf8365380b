"""Does the delivered machine match the one it was bought on?

  python3 -m analysis.accept bid/ delivered/

For each work of the bid (same task, same model, precision ...) the primary metric of the delivered
machine's runs is tested against --tolerance: PASS where it is shown to be worse by less than that,
FAIL where it is shown to be worse by more, or its accuracy gate was missed, else UNDECIDED. Shown
is at 95 % confidence, one-sided, and takes 4 valid runs per side.
Exit status: 0 all pass; 1 otherwise.
"""

from __future__ import annotations

import argparse
import math
import sys
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from analysis import comparison, machines, ratio
from analysis.comparison import Chosen
from analysis.records import Key, Run, differing, read_runs
from analysis.text import inline, plain, times
from harness import cli
from harness.cli import UserError

PASS, FAIL, UNDECIDED = "PASS", "FAIL", "UNDECIDED"
CONFIDENCE = 0.95  # one-sided: of machines at the tolerance so many are not failed, or passed
POWER = 0.8  # that the number of runs more is for
MOST_RUNS = 100  # that are looked ahead


@dataclass(frozen=True)
class Tested:
    """Runs of two sides against a tolerance. Ratios are of performance: higher is better."""

    outcome: str  # PASS, FAIL or UNDECIDED
    ratio: float | None  # delivered / bid; None where a run had 0
    bounds: tuple[float, float] | None  # of the ratio, each with CONFIDENCE
    why: str | None = None  # it is undecided, or failed without bounds


@dataclass(frozen=True)
class Work:
    """What came of one work of the bid."""

    label: str
    metric: str
    tested: Tested
    runs: tuple[int, int]  # of the bid, of the delivered machine
    notes: list[str]
    differences: dict[str, tuple[str, str]]  # (bid, delivered)


def judge(
    bid: Sequence[float], delivered: Sequence[float], better: str, tolerance: float
) -> Tested:
    """Welch's t test on the logarithms of the runs' medians, one-sided each way.

    PASS where the lower CONFIDENCE bound of the ratio is above 1 - tolerance, FAIL where the upper
    one is below. A machine exactly at the tolerance is failed, and passed, 1 in 20 times. With a
    run of 0, which has no logarithm, all of one side must be beyond all of the other: by chance
    1 in 70 times at most, with ratio.MIN_RUNS runs per side.

    Parameters
    ----------
    bid, delivered : the median of each run, in the metric's unit.
    better : "higher" or "lower".
    """
    missing = {
        name: ratio.MIN_RUNS - len(values)
        for name, values in (("the bid", bid), ("the delivered machine", delivered))
        if len(values) < ratio.MIN_RUNS
    }
    if min(*bid, *delivered) <= 0:
        tested = _without_logarithms(bid, delivered, better, 1 - tolerance)
    else:
        sign = 1 if better == "higher" else -1
        ours, theirs = sign * np.log(bid), sign * np.log(delivered)
        change = float(theirs.mean() - ours.mean())
        if missing:
            tested = Tested(UNDECIDED, math.exp(change), None)
        else:
            low, high = ratio.welch_interval(ours, theirs, 2 * CONFIDENCE - 1)
            limit = math.log(1 - tolerance)
            outcome = PASS if low > limit else FAIL if high < limit else UNDECIDED
            tested = Tested(outcome, math.exp(change), (math.exp(low), math.exp(high)))
    if missing:
        needed = " and ".join(f"{n} more run(s) of {name}" for name, n in missing.items())
        return replace(tested, outcome=UNDECIDED, why=f"needs {needed}")
    return tested


def _without_logarithms(
    bid: Sequence[float], delivered: Sequence[float], better: str, limit: float
) -> Tested:
    # Performance is values, or 1 / values: delivered < limit x bid is then bid < limit x delivered.
    higher = better == "higher"
    above, below = (delivered, bid) if higher else (bid, delivered)
    if min(above) > limit * max(below):
        return Tested(PASS, None, None)
    if max(above) < limit * min(below):
        return Tested(FAIL, None, None, "all runs are worse, some of 0")
    return Tested(UNDECIDED, None, None, "a run of 0 has no ratio")


def runs_needed(bid: np.ndarray, delivered: np.ndarray, better: str, tolerance: float) -> str:
    """How many runs would decide, 4 in 5 times, if means and variances of the logarithms stay.

    The usual sum of two quantiles of Student's t (Cohen, Statistical Power Analysis, 1988), with
    more runs of the delivered machine alone, else of both. `bid` and `delivered` are logarithms.
    """
    sign = 1 if better == "higher" else -1
    gap = abs(sign * float(delivered.mean() - bid.mean()) - math.log(1 - tolerance))
    spread = [float(values.var(ddof=1)) for values in (bid, delivered)]

    def is_enough(ours: int, theirs: int) -> bool:
        parts = [variance / n for variance, n in zip(spread, (ours, theirs))]
        if not sum(parts):
            return gap > 0
        squares = [part**2 / (n - 1) for part, n in zip(parts, (ours, theirs))]
        degrees = sum(parts) ** 2 / sum(squares)
        quantiles = [ratio.t_quantile(share, degrees) for share in (CONFIDENCE, POWER)]
        return sum(quantiles) * math.sqrt(sum(parts)) < gap

    numbers = range(MOST_RUNS + 1)  # more runs never decide less
    alone = bisect_left(numbers, True, len(delivered) + 1, key=lambda n: is_enough(len(bid), n))
    if alone <= MOST_RUNS:
        more = alone - len(delivered)
        return f"about {more} more run(s) of the delivered machine would decide"
    both = bisect_left(
        numbers, True, max(len(bid), len(delivered)) + 1, key=lambda n: is_enough(n, n)
    )
    if both <= MOST_RUNS:
        return f"about {both} runs of each machine would decide"
    return f"too near to the tolerance for {MOST_RUNS} runs of each machine to decide"


def accept(
    bid: list[Run], delivered: list[Run], tolerance: float, allow_invalid: bool = False
) -> list[Work]:
    """One for each work and setting of the bid. Raises UserError where a run is on both sides."""
    if both := {run.id: run.path for run in bid}.keys() & {run.id for run in delivered}:
        path = next(run.path for run in delivered if run.id in both)
        raise UserError(f"{path} is a run of the bid, too: give runs of the delivered machine")
    theirs = comparison.grouped([run for run in delivered if not run.gate], lambda r: r.work_key)
    found = []
    for key, sides in comparison.grouped(
        [r for r in bid if not r.gate], lambda r: r.work_key
    ).items():
        ours = [run for side in sides.values() for run in side]
        against = [run for side in theirs.get(key, {}).values() for run in side]
        for setting, chosen in comparison.best_by_setting(ours, allow_invalid).items():
            found.append(_work(chosen, setting, against, tolerance, allow_invalid))
    return sorted(found, key=lambda work: work.label)


def _work(
    bid: Chosen, setting: Key, delivered: list[Run], tolerance: float, allow_invalid: bool
) -> Work:
    first = bid.runs[0]
    metric, notes = first.result, [*bid.marks, *bid.notes]
    alike = [run for run in delivered if frozenset(run.comparable_by.items()) == setting]
    # The way the bid was measured in, where the delivered machine was measured so, too.
    same = [run for run in alike if run.configuration == first.configuration]
    valid = [run for run in same if allow_invalid or not run.reasons]
    if not alike:
        other = differing([first.comparable_by, *(run.comparable_by for run in delivered)])
        why = f"measured with another {', '.join(other)}" if delivered else "not measured"
        tested = Tested(UNDECIDED, None, None, f"the delivered machine was {why}")
        return Work(first.label, metric.label, tested, (bid.carrying, 0), notes, {})
    (theirs,) = comparison.best_by_setting(valid or alike, allow_invalid).values()
    notes += [*theirs.marks, *theirs.notes]
    runs = bid.carrying, theirs.carrying
    missed = [str(run.quality) for run in alike if run.quality and not run.quality.passed]
    if missed:
        tested = Tested(FAIL, None, None, f"quality: {missed[0]}")
    elif not metric.better:
        tested = Tested(UNDECIDED, None, None, f"neither more nor less {metric.unit} is better")
    elif not all(runs):
        who = "the bid" if not bid.carrying else "the delivered machine"
        tested = Tested(UNDECIDED, None, None, f"no run of {who} is valid as evidence")
    else:
        before, now = (machines.observations(each.runs, first.primary) for each in (bid, theirs))
        tested = judge(before, now, metric.better, tolerance)
        if tested.outcome == UNDECIDED and tested.bounds:
            why = runs_needed(np.log(before), np.log(now), metric.better, tolerance)
            tested = replace(tested, why=why)
    if any(run.quality for run in bid.runs) and not any(run.quality for run in theirs.runs):
        notes.append("the bid has an accuracy record, the delivered machine has none")
    differences = comparison.differences(bid.runs, theirs.runs)
    return Work(first.label, metric.label, tested, runs, notes, differences)


def sentence(work: Work, tolerance: float) -> str:
    """The outcome in a line."""
    tested, parts = work.tested, []
    if tested.ratio is not None:
        parts.append(f"{times(tested.ratio)} times the bid's performance in {inline(work.metric)}")
    if tested.bounds:
        side = {PASS: "at least {0}", FAIL: "at most {1}", UNDECIDED: "{0} to {1}"}[tested.outcome]
        parts[-1] += f" ({side.format(*map(times, tested.bounds))}; limit {times(1 - tolerance)})"
    if tested.why:
        parts.append(tested.why)
    counts = "{} and {} runs".format(*work.runs)
    return f"{tested.outcome:9}  {work.label}: {'; '.join([*parts, counts])}"


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python3 -m analysis.accept", description=__doc__, formatter_class=cli.HelpFormatter
    )
    bid = "records (a file, or a folder of them) of the machine that was offered"
    parser.add_argument("bid", type=Path, help=bid)
    parser.add_argument("delivered", type=Path, help="records of the machine that came")
    tolerance = "share by which the delivered machine may be worse"
    parser.add_argument("--tolerance", type=cli.between(0, 0.9), default=0.05, help=tolerance)
    allowed = "let runs that are not valid as evidence count; a note says so"
    parser.add_argument("--allow_invalid", action="store_true", help=allowed)
    return parser.parse_args()


def _read(path: Path, side: str) -> list[Run]:
    """A side's runs, under one name; its accuracy records are for its own runs only."""
    runs, skipped = read_runs([path], pool=True)
    for line in skipped:
        print(f"skipped: {line}", file=sys.stderr)
    if not any(not run.gate for run in runs):
        raise UserError(f"no record of a measurement in {plain(str(path))}")
    return [replace(run, side=side) for run in runs]


def main() -> int:
    args = parse_args()
    bid, delivered = _read(args.bid, "bid"), _read(args.delivered, "delivered")
    works = accept(bid, delivered, args.tolerance, args.allow_invalid)
    differences: dict[str, tuple[str, str]] = {}
    for work in works:
        print(sentence(work, args.tolerance))
        for note in work.notes:
            print(f"           note: {note}")
        differences |= work.differences
    for name, (before, now) in differences.items():
        print(f"differs: {name}: bid {before}; delivered {now}")
    outcomes = {
        outcome: [work.label for work in works if work.tested.outcome == outcome]
        for outcome in (PASS, FAIL, UNDECIDED)
    }
    if len(outcomes[PASS]) == len(works):
        print(f"Accepted: the delivered machine passes in all of {len(works)} work(s).")
        return cli.EXIT_OK
    named = (
        f"{' / '.join(outcomes[each])}: {each}" for each in (FAIL, UNDECIDED) if outcomes[each]
    )
    print(f"Not accepted: {'; '.join(named)}.")
    return cli.EXIT_FAILED


if __name__ == "__main__":
    cli.run(main)
