import math
import random
import statistics

import pytest

from harness import record, stats
from harness.metrics import Metric

TIME = Metric("time_s", "s", "lower", "Time", "A time.")


def summarize(samples):
    """One sample per iteration."""
    return stats.summarize(TIME, [[sample] for sample in samples])


@pytest.mark.parametrize("count", [6, 10, 25, 60])
def test_the_interval_holds_the_true_median_in_95_percent_of_trials(count):
    source, trials = random.Random(count), 3000
    held = 0
    for _ in range(trials):
        low, high = stats.median_interval([source.lognormvariate(0, 1) for _ in range(count)])
        held += low <= 1.0 <= high  # the median of this distribution is 1
    assert held / trials > 0.94


def test_the_interval_is_the_tightest_that_order_statistics_allow():
    # Tabled: Conover 1999, table A3 (binomial, p = 1/2)
    assert stats.median_interval(range(1, 11)) == (2, 9)
    assert stats.median_interval(range(1, 21)) == (6, 15)


def test_five_samples_give_no_interval():
    assert stats.median_interval([1, 2, 3, 4, 5]) is None
    assert summarize([1.0, 2.0])["ci95"] is None


def test_percentiles_come_only_with_enough_samples():
    assert {"p50"} == {k for k in summarize([1.0] * 9) if k[0] == "p"}
    assert "p95" not in summarize([1.0] * 19)
    assert summarize([1.0] * 100).keys() >= {"p50", "p90", "p95", "p99"}


def test_percentiles_agree_with_the_standard_library():
    samples = [random.Random(1).random() for _ in range(101)]
    cuts = statistics.quantiles(samples, n=100, method="inclusive")
    metric = summarize(samples)
    assert (metric["p90"], metric["p99"]) == (pytest.approx(cuts[89]), pytest.approx(cuts[98]))


def test_values_are_described_with_how_sure_they_are():
    text = record.describe(summarize([0.9, 1.0, 1.1, 1.0, 1.0, 1.0, 1.2]))
    assert text == "1 s   (median of 7; 95 % CI 0.9–1.2)"


def test_the_interval_of_thousands_of_samples_follows_on_from_that_of_hundreds():
    widths = {
        n: (high - low) / n
        for n in (1000, 1001, 100_000)
        for low, high in [stats.median_interval(range(n))]
    }
    assert widths[1001] == pytest.approx(widths[1000], abs=0.003)
    assert widths[100_000] == pytest.approx(1.96 / math.sqrt(100_000), rel=0.01)


def test_samples_of_one_iteration_are_not_independent():
    # Eight iterations whose levels differ by 10 %, each of 100 samples that hardly differ: pooled,
    # the interval would be far too narrow to include most iterations' medians.
    levels = [1.0, 1.1, 0.9, 1.05, 0.95, 1.02, 0.98, 1.08]
    samples = [[level + i * 1e-5 for i in range(100)] for level in levels]
    summary = stats.summarize(TIME, samples)
    low, high = summary["ci95"]
    assert (summary["n"], summary["iterations"]) == (800, 8)
    assert low < 0.91 and high > 1.09 and low <= summary["median"] <= high
    assert stats.summarize(TIME, samples[:5])["ci95"] is None


def test_shares_are_in_percent_and_bytes_in_gib():
    assert record.amount(0.97, "share") == "97 %"
    assert record.amount(0.361, "of peak") == "36.1 % of peak"
    assert record.amount(2**30, "bytes") == "1.00 GiB"
    assert record.amount(0.8741, "s") == "0.8741 s"
    assert record.amount(123_456.7, "tokens/s") == "123,457 tokens/s"
