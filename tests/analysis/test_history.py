"""A slowdown is found, noise is not taken for one."""

from functools import partial

import numpy as np
import pytest
from conftest import assert_one_line, run_analysis
from simulated import record, write

from analysis import history

run = partial(run_analysis, "history")


def days(rates, **options) -> list[dict]:
    generator = np.random.default_rng(7)
    noise = [np.exp(0.01 * generator.standard_normal(12)) for _ in rates]
    return [
        record((rate * each).tolist(), day=day, **options)
        for day, (rate, each) in enumerate(zip(rates, noise))
    ]


def test_a_slowdown_ends_with_status_3(tmp_path):
    done = run(*write(tmp_path, *days([100, 101, 100, 99, 90])))
    assert done.returncode == 3 and "SLOWDOWN: m6i.8xlarge, LLM" in done.stdout
    assert "4 earlier run(s)" in done.stdout


@pytest.mark.parametrize(
    "rates, options",
    [
        ([100, 103, 97, 102, 98], []),
        ([100, 100, 100, 120], []),
        ([100, 100, 100, 95], ["--tolerance", "0.1"]),
    ],
    ids=["noise", "a gain", "tolerated"],
)
def test_neither_noise_nor_a_gain_nor_what_is_tolerated_is_a_slowdown(tmp_path, rates, options):
    done = run(*write(tmp_path, *days(rates)), *options)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "rates, verdict",
    [
        ([8, 1], "SLOWDOWN"),
        ([8, 8, 8, 0], "SLOWDOWN"),
        ([8, 8], "no slowdown"),
        ([0, 0, 1], "better"),
        ([0, 5, 0], "no slowdown"),
        ([0, 0], "no slowdown"),
        ([4, 8], "better"),
    ],
)
def test_a_capacity_is_one_figure_per_run_and_may_be_0(tmp_path, rates, verdict):
    done = run(*write(tmp_path, *(record([float(r)], day=day) for day, r in enumerate(rates))))
    assert done.returncode == (3 if verdict == "SLOWDOWN" else 0), done.stdout + done.stderr
    assert done.stdout.startswith(f"{verdict}: m6i.8xlarge, LLM: {rates[-1]:.3g} tokens/s")


@pytest.mark.parametrize("earlier", [1, 2, 3, 5, 20])
@pytest.mark.parametrize("spread", [0.01, 0.04])
def test_false_alarms_are_5_in_100_at_most_and_large_slowdowns_are_seen(earlier, spread):
    generator, trials = np.random.default_rng(earlier), 1000
    steady = slower = 0
    for logs in spread * generator.standard_normal((trials, earlier + 1)):
        *before, newest = 100 * np.exp(logs)
        for better in ("higher", "lower"):
            _, verdict, _ = history.judge(before, newest, better, 0.02, 0.04)
            steady += verdict == "SLOWDOWN"
        slower += history.judge(before, 0.7 * newest, "higher", 0.02, 0.04)[1] == "SLOWDOWN"
    print(f"{earlier} earlier, {spread:.0%}: {steady / trials / 2:.1%}, {slower / trials:.1%}")
    assert steady / (2 * trials) <= 0.05 and slower / trials >= 0.95


def test_invalid_runs_raise_no_alarm_unless_allowed(tmp_path):
    paths = write(tmp_path, *days([100, 101, 90], warnings=["steal"]))
    assert_one_line(run(*paths), "nothing to compare", "--allow_invalid")
    assert "invalid, left out: " in run(*paths).stderr
    assert run(*paths, "--allow_invalid", "--spread", 0.01).returncode == 3


def test_the_newest_is_the_latest_whatever_the_order_of_the_files(tmp_path):
    assert run(*reversed(write(tmp_path, *days([90, 100, 100, 100])))).returncode == 0


def test_other_machines_threads_and_work_are_no_earlier_runs(tmp_path):
    others = [{"machine": "big"}, {"threads": 32}, {"max new tokens": 5}]
    others = [each for other in others for each in days([100], **other)] + days([50])
    assert_one_line(run(*write(tmp_path, *others)), "nothing to compare")


def test_only_the_window_is_looked_at(tmp_path):
    paths = write(tmp_path, *days([200, 100, 100, 100, 100]))
    assert "3 earlier run(s)" in run(*paths, "--window", 3).stdout
