"""How much faster one side is than the other, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 4000
WITHIN = 100  # resamples of each run's samples, from which the resamples of runs are drawn
MIN_SAMPLES = 6  # as for the interval of one run's median
SEED = 20231101  # the same records give the same interval
TOO_FEW = "too few samples"
NO_DIFFERENCE = "no difference shown"
NO_RATIO = "no ratio: the baseline is 0"

Samples: TypeAlias = Sequence[float] | np.ndarray


@dataclass(frozen=True)
class Ratio:
    """A side's median over the baseline's, of one metric."""

    baseline: float  # median over runs of the runs' medians, in the metric's unit
    side: float
    ratio: float | None  # side / baseline; None where the baseline is 0
    ci95: tuple[float, float] | None  # None where there are too few samples, or no ratio
    better: str  # "higher" or "lower": what is good for this metric
    verdict: str  # of the side: "better", "worse", or why neither can be said


def compare(baseline: Sequence[Samples], side: Sequence[Samples], better: str) -> Ratio:
    """Ratio of medians with its 95 % confidence interval, from the percentile bootstrap (Efron and
    Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13).

    Parameters
    ----------
    baseline, side : per run, its samples: one per iteration. Several runs of a side are resampled,
        and within them their samples (two-stage bootstrap, Davison and Hinkley, Bootstrap Methods
        and their Application, 1997, section 3.8): the interval then covers what differs from run
        to run as well. It needs MIN_SAMPLES samples in each run of a side, or MIN_SAMPLES runs.
    better : "higher" or "lower".
    """
    generator = np.random.default_rng(SEED)
    base_median, side_median = (
        float(np.median([np.median(run) for run in runs])) for runs in (baseline, side)
    )
    ratio = side_median / base_median if base_median else None
    interval = None
    if ratio is not None and _enough(baseline) and _enough(side):
        below, above = (_resampled_medians(runs, generator) for runs in (baseline, side))
        if (below > 0).all():
            tail = (1 - CONFIDENCE) / 2
            low, high = np.quantile(above / below, [tail, 1 - tail])
            interval = float(low), float(high)
    verdict = _verdict(ratio, interval, better)
    return Ratio(base_median, side_median, ratio, interval, better, verdict)


def _verdict(ratio: float | None, interval: tuple[float, float] | None, better: str) -> str:
    if ratio is None:
        return NO_RATIO
    if interval is None:
        return TOO_FEW
    low, high = interval
    if low <= 1 <= high:
        return NO_DIFFERENCE
    return "better" if (low > 1) == (better == "higher") else "worse"


def _enough(runs: Sequence[Samples]) -> bool:
    return len(runs) >= MIN_SAMPLES or all(len(run) >= MIN_SAMPLES for run in runs)


def _resampled_medians(runs: Sequence[Samples], generator: np.random.Generator) -> np.ndarray:
    """[RESAMPLES] medians of the side, each of runs and samples drawn anew."""
    if len(runs) == 1:
        return _medians(runs[0], len(runs[0]), RESAMPLES, generator)
    # Drawing a run, then one of its resampled medians, is drawing from all runs' resampled medians.
    within = [_medians(run, len(run), WITHIN, generator) for run in runs]
    return _medians(np.concatenate(within), len(runs), RESAMPLES, generator)


def _medians(values: Samples, n: int, count: int, generator: np.random.Generator) -> np.ndarray:
    """[count] medians, each of `n` draws from `values` with replacement.

    Sorted draws are sorted uniform numbers turned into places in the sorted values, and the middle
    one of n sorted uniform numbers is beta distributed: so the median is drawn at once. Exact, and
    as fast for a million values as for ten.
    """
    ordered = np.sort(np.asarray(values, float))
    if n % 2:
        middle = generator.beta((n + 1) / 2, (n + 1) / 2, (1, count))
    else:  # the upper of the two middle ones; the lower is the largest of n / 2 numbers below it
        upper = generator.beta(n / 2 + 1, n / 2, count)
        middle = np.stack([upper * generator.random(count) ** (2 / n), upper])
    places = np.minimum((middle * len(ordered)).astype(int), len(ordered) - 1)
    return ordered[places].mean(axis=0)
