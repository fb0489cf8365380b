"""How many runs a comparison needs, and the smallest difference that a number of runs can show.

Two sides are compared by Welch's t-test on the logarithms of their runs' medians, n runs and the
same spread on each side. Under a true ratio r the statistic is noncentral t with 2 (n - 1) degrees
of freedom and noncentrality log(r) / (spread sqrt(2 / n)) (Cohen, Statistical Power Analysis for
the Behavioral Sciences, 2nd ed., chapter 2). Its critical value is that of the degrees of freedom
that Welch (Biometrika 34, 1947) estimates from the two sample variances v, w: (n - 1) / (q² +
(1 - q)²) with q = v / (v + w), which has the distribution Beta((n - 1) / 2, (n - 1) / 2),
independent of the statistic; power is the mean over it.
"""

from __future__ import annotations

import bisect
import functools
import math
import statistics
from collections.abc import Callable, Sequence

LEVEL = 0.05  # of the two-sided test
POWER = 0.9
MIN_RUNS, MAX_RUNS = 4, 1000  # per side: fewer have no verdict, more are not planned
NORMAL = statistics.NormalDist()


def spread(medians: Sequence[float]) -> float:
    """Standard deviation of the logarithms of at least two runs' medians, all above 0."""
    return statistics.stdev(map(math.log, medians))


def t_tail(t: float, df: float, noncentrality: float = 0.0) -> float:
    """P(T > t) of the noncentral t distribution: of (Z + noncentrality) / S.

    Z is standard normal and S² is chi-squared over its degrees of freedom.
    """
    return sum(weight * NORMAL.cdf(noncentrality - t * s) for s, weight in _scales(df))


def smallest_difference(runs: int, run_spread: float) -> float:
    """The relative difference that `runs` per side, MIN_RUNS or more, show with probability POWER.

    `run_spread` is that of spread().
    """
    return math.expm1(run_spread * math.sqrt(2 / runs) * _noncentrality(runs))


def runs_needed(difference: float, run_spread: float) -> int:
    """The fewest runs per side that show it: MIN_RUNS to MAX_RUNS, which may not be enough."""
    counts = range(MIN_RUNS, MAX_RUNS)
    return MIN_RUNS + bisect.bisect_left(
        counts, -difference, key=lambda runs: -smallest_difference(runs, run_spread)
    )


@functools.cache
def critical(df: float) -> float:
    """Of the two-sided t-test at LEVEL."""
    return _root(lambda t: LEVEL / 2 - t_tail(t, df), 10.0)


@functools.cache
def _noncentrality(runs: int) -> float:
    """At which the test's power is POWER. The other tail, under 1e-4, is left out."""
    m = runs - 1
    width = 8 / (2 * math.sqrt(m + 1))  # 8 standard deviations of q
    parts = _grid(max(0.0, 0.5 - width), 0.5, lambda q: (m / 2 - 1) * math.log(q * (1 - q)), 24)
    tests = [(critical(m / (q * q + (1 - q) ** 2)), weight) for q, weight in parts]

    def lacking(noncentrality: float) -> float:
        return sum(w * t_tail(t, 2 * m, noncentrality) for t, w in tests) - POWER

    return _root(lacking, 10.0)


@functools.lru_cache(64)
def _scales(df: float) -> list[tuple[float, float]]:
    """Values of S, and the probability of each."""
    width = 8 / math.sqrt(2 * df)  # 8 standard deviations
    low = max(0.0, 1 - width)
    return _grid(low, 1 + width, lambda s: (df - 1) * math.log(s) - df * s * s / 2, 96)


def _grid(
    low: float, high: float, log_density: Callable[[float], float], points: int
) -> list[tuple[float, float]]:
    """A distribution by the midpoint rule: (value, probability)."""
    values = [low + (i + 0.5) * (high - low) / points for i in range(points)]
    logs = [log_density(value) for value in values]
    weights = [math.exp(each - max(logs)) for each in logs]
    return [(value, weight / sum(weights)) for value, weight in zip(values, weights)]


def _root(rising: Callable[[float], float], high: float) -> float:
    """By bisection between 0 and `high`."""
    low = 0.0
    while high - low > 1e-5:
        middle = (low + high) / 2
        low, high = (low, middle) if rising(middle) > 0 else (middle, high)
    return high
