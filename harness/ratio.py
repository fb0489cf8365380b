"""How much faster one side is than the other, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.measure import CONFIDENCE

RESAMPLES = 4000
WITHIN = 100  # resamples of one run's samples, drawn from again for every resample of the runs
MIN_SAMPLES = 6  # as for the interval of one run's median
SEED = 20231101  # the same records give the same interval


@dataclass(frozen=True)
class Ratio:
    """A side's median over the baseline's, of one metric."""

    baseline: float  # median over runs of the runs' medians, in the metric's unit
    side: float
    ratio: float | None  # side / baseline; None where the baseline is 0
    low: float | None  # 95 % confidence interval; None where there are too few samples
    high: float | None
    better: str  # "higher" or "lower": what is good for this metric

    @property
    def verdict(self) -> str:
        """'better', 'worse', 'no difference shown', or 'too few samples'; of the side."""
        if self.low is None:
            return "too few samples"
        if self.low <= 1 <= self.high:
            return "no difference shown"
        return "better" if (self.low > 1) == (self.better == "higher") else "worse"


def compare(baseline: Sequence[Sequence[float]], side: Sequence[Sequence[float]], better: str) -> Ratio:
    """Ratio of medians with a 95 % confidence interval from the percentile bootstrap (Efron and Tibshirani, An Introduction
    to the Bootstrap, 1993, chapter 13).

    Parameters
    ----------
    baseline, side : the samples of each run. Where a side has several runs they are resampled, and within them their
        samples (two-stage bootstrap, Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8): the
        interval then covers what differs from run to run as well. Each run needs MIN_SAMPLES samples, or the side MIN_SAMPLES
        runs, for an interval.
    better : "higher" or "lower".
    """
    generator = np.random.default_rng(SEED)
    middle_base, middle_side = (float(np.median([np.median(run) for run in runs])) for runs in (baseline, side))
    ratio = middle_side / middle_base if middle_base else None
    low = high = None
    if ratio is not None and all(_enough(runs) for runs in (baseline, side)):
        below, above = (_resampled_medians(runs, generator) for runs in (baseline, side))
        if (below > 0).all():
            tail = (1 - CONFIDENCE) / 2
            low, high = (float(bound) for bound in np.quantile(above / below, [tail, 1 - tail]))
    return Ratio(middle_base, middle_side, ratio, low, high, better)


def _enough(runs: Sequence[Sequence[float]]) -> bool:
    return len(runs) >= MIN_SAMPLES or all(len(run) >= MIN_SAMPLES for run in runs)


def _resampled_medians(runs: Sequence[Sequence[float]], generator: np.random.Generator) -> np.ndarray:
    """[RESAMPLES] medians of the side, each of runs and samples drawn anew."""
    if len(runs) == 1:
        return _medians(np.asarray(runs[0], float), RESAMPLES, generator)
    within = np.stack([_medians(np.asarray(run, float), WITHIN, generator) for run in runs])  # [runs, WITHIN]
    medians = np.empty(RESAMPLES)
    for start in range(0, RESAMPLES, 100):  # in parts: thousands of runs would take gigabytes at once
        shape = (min(100, RESAMPLES - start), len(runs))
        drawn = within[generator.integers(0, len(runs), shape), generator.integers(0, WITHIN, shape)]
        medians[start : start + shape[0]] = np.median(drawn, axis=1)
    return medians


def _medians(samples: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """[count] medians of `samples` [n], drawn with replacement.

    The median of n draws is an order statistic of the sorted samples whose rank is the n draws' median rank: so the ranks are
    drawn directly, as order statistics of n uniform numbers, which are beta distributed. Exact, and as fast for a million
    samples as for ten.
    """
    n, ordered = len(samples), np.sort(samples)
    if n % 2:
        uniform = generator.beta((n + 1) / 2, (n + 1) / 2, count)
        return ordered[np.minimum((uniform * n).astype(int), n - 1)]
    # The two middle order statistics of n uniforms: the upper is beta(n/2 + 1, n/2); the lower, given it, is the largest of
    # n/2 uniforms below it.
    upper = generator.beta(n / 2 + 1, n / 2, count)
    lower = upper * generator.random(count) ** (2 / n)
    ranks = np.minimum((np.stack([lower, upper]) * n).astype(int), n - 1)
    return ordered[ranks].mean(axis=0)
