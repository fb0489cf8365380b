"""How many runs a comparison needs, and the smallest difference that a number of runs can show.

Two sides are compared by Welch's t-test on the logarithms of their runs' medians. With n runs and
the same spread on each side, its statistic has 2 (n - 1) degrees of freedom, and under a true ratio
r it is noncentral t with noncentrality log(r) / (spread sqrt(2 / n)) (Cohen, Statistical Power
Analysis for the Behavioral Sciences, 2nd ed., chapter 2; Julious, Statistics in Medicine 23, 2004,
section 3.3).
"""

from __future__ import annotations

import bisect
import functools
import math
import statistics
from collections.abc import Callable

LEVEL = 0.05  # of the two-sided test
POWER = 0.9
MIN_RUNS, MAX_RUNS = 4, 1000  # per side: fewer have no verdict, more are not planned
GRID = 400  # intervals of Simpson's rule


def spread(medians: list[float]) -> float:
    """Standard deviation of the logarithms of at least two runs' medians, all above 0."""
    return statistics.stdev(map(math.log, medians))


def t_tail(t: float, df: int, noncentrality: float = 0.0) -> float:
    """P(T > t) of the noncentral t distribution: of (Z + noncentrality) / S.

    Z is standard normal and S² is chi-squared over its degrees of freedom: the probability given
    S = s is integrated over the density of S.
    """
    normal = statistics.NormalDist()
    constant = math.log(2) + df / 2 * math.log(df / 2) - math.lgamma(df / 2)

    def integrand(s: float) -> float:
        density = math.exp(constant + (df - 1) * math.log(s) - df * s * s / 2) if s else 0.0
        return density * normal.cdf(noncentrality - t * s)

    step = (1 + 8 / math.sqrt(2 * df)) / GRID
    weights = [1, *(4 if i % 2 else 2 for i in range(1, GRID)), 1]
    return step / 3 * sum(weight * integrand(i * step) for i, weight in enumerate(weights))


def smallest_difference(runs: int, run_spread: float) -> float:
    """The relative difference that `runs` per side, 2 or more, show with a probability of POWER.

    `run_spread` is that of spread().
    """
    return math.expm1(run_spread * math.sqrt(2 / runs) * _noncentrality(2 * (runs - 1)))


def runs_needed(difference: float, run_spread: float) -> int:
    """The fewest runs per side that show it: MIN_RUNS to MAX_RUNS, which may not be enough."""
    counts = range(MIN_RUNS, MAX_RUNS)
    shown = bisect.bisect_left(
        counts, -difference, key=lambda n: -smallest_difference(n, run_spread)
    )
    return MIN_RUNS + shown


@functools.cache
def _noncentrality(df: int) -> float:
    """At which the test's power is POWER. The other tail, under 1e-4, is left out."""
    critical = _root(lambda t: LEVEL / 2 - t_tail(t, df), 100.0)
    return _root(lambda noncentrality: t_tail(critical, df, noncentrality) - POWER, 200.0)


def _root(rising: Callable[[float], float], high: float) -> float:
    """By bisection between 0 and `high`."""
    low = 0.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (low, middle) if rising(middle) > 0 else (middle, high)
    return high
