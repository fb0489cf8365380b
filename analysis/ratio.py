"""How much faster one side is than the other, and how sure that is. The run is the unit of
evidence: what differs from run to run cannot be seen within one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
MIN_RUNS = 4  # per side: with fewer there is neither interval nor verdict
# between runs: what is assumed at first, and the runs it counts as
SPREAD, PRIOR_RUNS = 0.04, 4
NO_DIFFERENCE, MORE_RUNS = "no difference shown", "more runs needed"


@dataclass(frozen=True)
class Ratio:
    """A side over the baseline, in one metric."""

    baseline: float  # geometric mean over runs of the runs' medians, in the metric's unit
    side: float
    ratio: float | None  # side / baseline; None where the baseline is 0
    ci95: tuple[float, float] | None  # None where there are too few runs, or no ratio
    better: str  # "higher" or "lower": what is good for this metric
    verdict: str | None  # of the side: "better", "worse", or why neither can be said
    medians: tuple[list[float], list[float]]  # of the baseline's runs and of the side's


def compare(baseline: Sequence[float], side: Sequence[float], better: str) -> Ratio:
    """Ratio of two sides from the medians of their runs, with its 95 % confidence interval.

    The interval is Welch's (Biometrika 34, 1947): Student's t on the logarithms of the runs'
    medians, not assuming that both sides scatter equally. It needs MIN_RUNS runs per side.
    Swapping the sides gives the reciprocal.

    Parameters
    ----------
    baseline, side : the median of each run, in the metric's unit.
    better : "higher" or "lower".
    """
    base_mean, side_mean = mean(baseline), mean(side)
    ratio = side_mean / base_mean if base_mean else None
    interval = None
    if min(len(baseline), len(side)) >= MIN_RUNS and min(*baseline, *side) > 0:
        low, high = welch_interval(np.log(baseline), np.log(side))
        interval = math.exp(low), math.exp(high)
    verdict = _verdict(ratio, interval, better)
    medians = [*map(float, baseline)], [*map(float, side)]
    return Ratio(base_mean, side_mean, ratio, interval, better, verdict, medians)


def _verdict(ratio: float | None, interval: tuple[float, float] | None, better: str) -> str:
    if ratio is None:
        return "no ratio: the baseline is 0"
    if interval is None:
        return "no interval: a run with 0" if ratio == 0 else MORE_RUNS
    low, high = interval
    if low <= 1 <= high:
        return NO_DIFFERENCE
    return "better" if (low > 1) == (better == "higher") else "worse"


def mean(values: Sequence[float]) -> float:
    """Geometric, whose ratio is the mean of all ratios; arithmetic where a value is 0."""
    if min(values) <= 0 or min(values) == max(values):
        return float(np.mean(values))
    return float(np.exp(np.mean(np.log(values))))


def welch_interval(
    baseline: np.ndarray, side: np.ndarray, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Confidence interval of mean(side) - mean(baseline); two values or more of each."""
    difference = float(side.mean() - baseline.mean())
    variances = [float(values.var(ddof=1)) / len(values) for values in (baseline, side)]
    if not sum(variances):
        return difference, difference
    parts = [v**2 / (len(values) - 1) for v, values in zip(variances, (baseline, side))]
    degrees = sum(variances) ** 2 / sum(parts)  # Satterthwaite's
    half = t_quantile((1 + confidence) / 2, degrees) * math.sqrt(sum(variances))
    return difference - half, difference + half


def moderated(logs: np.ndarray, spread: float = SPREAD) -> tuple[float, float]:
    """(variance between runs, its degrees of freedom), of one run or more.

    It is that of the runs' logarithms, moderated by `spread`, a share, as if by PRIOR_RUNS more
    (Smyth, Statistical Applications in Genetics and Molecular Biology 3, 2004).
    """
    degrees = PRIOR_RUNS + len(logs) - 1
    squares = float(((logs - logs.mean()) ** 2).sum())
    return (PRIOR_RUNS * spread**2 + squares) / degrees, degrees


def t_quantile(probability: float, degrees: float) -> float:
    return float(t_quantiles(np.array(probability), degrees))


def t_quantiles(probabilities: np.ndarray, degrees: float) -> np.ndarray:
    """Of Student's t distribution; `degrees` >= 1, any number.

    With t = sqrt(degrees) tan(a), the density of a is proportional to cos(a) ** (degrees - 1)
    (Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3-4): summed by trapezoids.
    """
    angles = np.linspace(0, np.pi / 2, 10_001)
    density = np.cos(angles) ** (degrees - 1)
    below = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    from_middle = 2 * np.asarray(probabilities) - 1
    angle = np.interp(np.abs(from_middle), below / below[-1], angles)
    return np.sign(from_middle) * math.sqrt(degrees) * np.tan(angle)
