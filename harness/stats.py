"""Summaries of samples, and how sure they are."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from harness.metrics import Metric

CONFIDENCE = 0.95
LARGEST = 1e24  # no metric has a larger value, in any unit
# A percentile is given only where at least one sample is expected beyond it.
PERCENTILES = {"p50": (0.50, 1), "p90": (0.90, 10), "p95": (0.95, 20), "p99": (0.99, 100)}


def percentile(values: Sequence[float], share: float) -> float:
    """Linear interpolation between order statistics (Hyndman and Fan's type 7)."""
    import numpy  # here, as who sets its number of threads must come first

    return float(numpy.quantile(values, share))


def median_interval(samples: Sequence[float]) -> tuple[float, float] | None:
    """95 % confidence interval of the median from order statistics; None for under 6 samples.

    The number of samples below the true median is binomial(n, 1/2) whatever the distribution, so
    [x(k), x(n+1-k)] misses it with probability 2 P(B < k); k is the largest that keeps this under
    1 - confidence (Conover, Practical Nonparametric Statistics, 3rd ed., section 3.2).
    """
    n, ordered = len(samples), sorted(samples)
    if (
        n > 1000
    ):  # the binomial's normal approximation (same place): its exact numbers outgrow a float
        z = statistics.NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
        k = math.floor(n / 2 - z * math.sqrt(n) / 2)
        return ordered[k - 1], ordered[n - k]
    below, k = (
        0,
        0,
    )  # below: of the 2**n outcomes, those with fewer than k + 1 samples under the median
    while 2 * (below + math.comb(n, k)) <= (1 - CONFIDENCE) * 2**n:
        below += math.comb(n, k)
        k += 1
    return (ordered[k - 1], ordered[n - k]) if k else None


def is_number(value: float | None) -> bool:
    """Whether it can be a sample: neither NaN nor infinite nor beyond LARGEST."""
    return value is not None and abs(value) <= LARGEST


def usable(samples: Sequence[Sequence[float | None]]) -> list[list[float]]:
    """The samples that are numbers, without iterations that have none."""
    kept = ([v for v in each if v is not None and is_number(v)] for each in samples)
    return [each for each in kept if each]


def summarize(
    metric: Metric,
    samples: Sequence[Sequence[float]],
    interval: tuple[float, float] | None = None,
) -> dict:
    """A metric of the record: the distribution of its samples.

    Parameters
    ----------
    samples : one list per iteration, in the metric's unit; at least one usable() sample in all.
        Others are passed over; the record warns of them.
    interval : its 95 % confidence interval, where that is known better than from iterations.

    Returns
    -------
    dict with label, unit, better, definition; n, iterations, median, mean, stdev (None for one
    sample), min, max of all samples; ci95 ([low, high] or None) of the median of the iterations'
    medians, as samples within an iteration are not independent; and p50, p90, p95, p99 as far as
    the number of samples supports them.
    """
    each = usable(samples)
    values = [value for iteration in each for value in iteration]
    interval = interval or median_interval([statistics.median(iteration) for iteration in each])
    summary = {
        "label": metric.label,
        "unit": metric.unit,
        "better": metric.better,
        "definition": metric.definition,
        "n": len(values),
        "iterations": len(each),
        "median": statistics.median(values),
        "mean": statistics.fmean(values),
        "stdev": statistics.stdev(values) if len(values) > 1 else None,
        "min": min(values),
        "max": max(values),
        "ci95": list(interval) if interval else None,
    }
    for name, (share, at_least) in PERCENTILES.items():
        if len(values) >= at_least:
            summary[name] = percentile(values, share)
    return summary
