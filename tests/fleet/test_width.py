"""study_until_width is of the ratio: what each machine's own interval has to be for it."""

import math

import numpy as np
import pytest

from analysis import ratio
from harness import until


@pytest.mark.parametrize("runs", [(8, 8), (8, 30), (60, 12)])
def test_the_widths_of_two_means_squared_are_at_least_that_of_their_ratio(runs):
    random = np.random.default_rng(1)
    for spreads in random.uniform(0.001, 0.03, (300, 2)):
        sides = [np.exp(random.normal(4, *each)) for each in zip(spreads, runs)]
        found = ratio.compare(*sides, "higher")
        low, high = found.ci95
        most = math.hypot(*map(until.width, sides))
        assert 0.85 * most < (high - low) / found.ratio < 1.001 * most


def at_stopping(logs: np.ndarray, half_width: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each study, a row of runs' logarithms: (number of runs, mean, variance of the mean)."""
    runs = np.arange(1, logs.shape[1] + 1)
    means = logs.cumsum(1) / runs
    variances = ((logs**2).cumsum(1) - runs * means**2) / np.maximum(runs - 1, 1) / runs
    criticals = [ratio.t_quantile(0.975, max(1, count - 1)) for count in runs]
    is_end = (criticals * np.sqrt(variances) <= half_width) & (runs >= until.MIN_RUNS)
    assert is_end.any(1).all()
    at = np.arange(len(logs)), is_end.argmax(1)
    return runs[at[1]], means[at], variances[at]


@pytest.mark.parametrize("half_width_in_spreads", [0.3, 0.6, 1.0])
@pytest.mark.parametrize("other_spread", [1.0, 0.3])
def test_the_interval_of_the_ratio_covers_it_when_both_have_stopped(
    half_width_in_spreads, other_spread
):
    """In 92 to 95 % of studies, each side stopping by itself at 1/sqrt(2) of the ratio's width."""
    random, trials = np.random.default_rng(1), 10_000
    each = half_width_in_spreads / math.sqrt(2)
    sides = [at_stopping(random.normal(0, s, (trials, 200)), each) for s in (1.0, other_spread)]
    (runs, means, variances), (other_runs, other_means, other_variances) = sides
    both = variances + other_variances
    degrees = both**2 / (variances**2 / (runs - 1) + other_variances**2 / (other_runs - 1))
    grid = np.geomspace(degrees.min(), degrees.max(), 100)
    criticals = np.interp(degrees, grid, [ratio.t_quantile(0.975, each) for each in grid])
    halves = criticals * np.sqrt(both)
    assert (halves <= half_width_in_spreads * 1.001).all()
    covered = (np.abs(means - other_means) <= halves).mean()
    assert 0.92 <= covered + 2 * math.sqrt(0.92 * 0.08 / trials) and covered < 0.955
