import math
import random
import statistics
import subprocess
import sys
import time

import pytest

from conftest import REPO
from harness import measure
from harness.cli import UserError


@pytest.mark.parametrize("count", [6, 10, 25, 60])
def test_the_interval_holds_the_true_median_in_95_percent_of_trials(count):
    source, trials = random.Random(count), 3000
    held = 0
    for _ in range(trials):
        low, high = measure.median_interval([source.lognormvariate(0, 1) for _ in range(count)])
        held += low <= 1.0 <= high  # the median of this distribution is 1
    assert held / trials > 0.94


def test_the_interval_is_the_tightest_that_order_statistics_allow():
    # Tabled: Conover 1999, table A3 (binomial, p = 1/2)
    assert measure.median_interval(range(1, 11)) == (2, 9)
    assert measure.median_interval(range(1, 21)) == (6, 15)


def test_five_samples_give_no_interval():
    assert measure.median_interval([1, 2, 3, 4, 5]) is None
    assert measure.summarize([1.0, 2.0], "s")["ci95"] is None


def test_percentiles_come_only_with_enough_samples():
    assert {"p50"} == {k for k in measure.summarize([1.0] * 9, "s") if k[0] == "p"}
    assert "p95" not in measure.summarize([1.0] * 19, "s")
    assert measure.summarize([1.0] * 100, "s").keys() >= {"p50", "p90", "p95", "p99"}


def test_percentiles_agree_with_the_standard_library():
    samples = [random.Random(1).random() for _ in range(101)]
    cuts = statistics.quantiles(samples, n=100, method="inclusive")
    metric = measure.summarize(samples, "s")
    assert (metric["p90"], metric["p99"]) == (pytest.approx(cuts[89]), pytest.approx(cuts[98]))


def test_iterations_go_on_until_the_least_duration_is_over():
    started = time.perf_counter()
    count = 0
    for _ in measure.iterations(2, min_duration_s=0.2):
        time.sleep(0.02)
        count += 1
    assert count > 2 and time.perf_counter() - started >= 0.2
    assert list(measure.iterations(3)) == [0, 1, 2]


def test_watching_sees_this_process_at_work():
    with measure.Watch() as watch:
        end = time.perf_counter() + 1
        while time.perf_counter() < end:
            pass
    assert watch.status == "complete"
    assert watch.usage["wall_s"] == pytest.approx(1, abs=0.3)
    assert 0.5 < watch.usage["process_cores_busy"] < 1.3
    assert max(watch.usage["busy_share_per_cpu"]) > 0.3
    assert watch.usage["peak_rss_bytes"] > 1e6


def test_peak_memory_is_this_programs_not_that_of_what_started_it():
    held = bytearray(400 << 20)
    peak = "from harness import measure; held = bytearray(100 << 20); print(measure.peak_rss_bytes())"
    done = subprocess.run([sys.executable, "-c", peak], cwd=REPO, capture_output=True, text=True, check=True)
    assert 100 << 20 < int(done.stdout) < len(held)


def test_what_was_measured_outlives_ctrl_c_and_a_users_mistake():
    samples = []
    with measure.Watch() as watch:
        samples.append(1)
        raise KeyboardInterrupt
    assert (watch.status, samples) == ("interrupted", [1])
    with measure.Watch() as watch:
        raise UserError("the disk is full")
    assert (watch.status, watch.error) == ("failed", "the disk is full")


def test_a_defect_is_not_swallowed():
    with pytest.raises(ZeroDivisionError):
        with measure.Watch():
            1 / 0


def test_values_are_told_with_how_sure_they_are():
    told = measure.describe(measure.summarize([0.9, 1.0, 1.1, 1.0, 1.0, 1.0, 1.2], "s"))
    assert told == "1 s   (median of 7; 95 % CI 0.9–1.2)"


def test_the_interval_of_thousands_of_samples_follows_on_from_that_of_hundreds():
    widths = {n: (high - low) / n for n in (1000, 1001, 100_000) for low, high in [measure.median_interval(range(n))]}
    assert widths[1001] == pytest.approx(widths[1000], abs=0.003)
    assert widths[100_000] == pytest.approx(1.96 / math.sqrt(100_000), rel=0.01)
