"""A slowdown is found, noise is not taken for one."""

import subprocess
import sys

import numpy as np
import pytest
from conftest import REPO, assert_one_line
from simulated import record, write


def run(*args) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "analysis.history", *map(str, args)]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=60)


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


def test_earlier_runs_of_0_and_single_samples_have_no_verdict(tmp_path):
    write(tmp_path / "zero", *(record([rate] * 6, day=day) for day, rate in enumerate([0, 0, 1.0])))
    done = run(tmp_path / "zero")
    assert done.returncode == 0 and done.stdout.startswith("no ratio: the baseline is 0: m6i")
    write(tmp_path / "single", *(record([rate], day=day) for day, rate in enumerate([8.0, 1.0])))
    done = run(tmp_path / "single")
    assert done.returncode == 0 and done.stdout.startswith("too few samples: m6i.8xlarge, LLM: 1")


def test_the_newest_is_the_latest_whatever_the_order_of_the_files(tmp_path):
    assert run(*reversed(write(tmp_path, *days([90, 100, 100, 100])))).returncode == 0


def test_other_machines_threads_and_work_are_no_earlier_runs(tmp_path):
    others = [{"machine": "big"}, {"threads": 32}, {"max new tokens": 5}]
    others = [each for other in others for each in days([100], **other)] + days([50])
    assert_one_line(run(*write(tmp_path, *others)), "nothing to compare")


def test_only_the_window_is_looked_at(tmp_path):
    paths = write(tmp_path, *days([200, 100, 100, 100, 100]))
    assert "3 earlier run(s)" in run(*paths, "--window", 3).stdout
