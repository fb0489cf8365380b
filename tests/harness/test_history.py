"""A slowdown is found, noise is not taken for one."""

import subprocess
import sys

import numpy as np
from conftest import REPO, assert_one_line
from simulated import record, write


def run(*args) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "harness.history", *map(str, args)]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=60)


def days(rates, **how) -> list[dict]:
    generator = np.random.default_rng(7)
    return [
        record((rate * np.exp(0.01 * generator.standard_normal(12))).tolist(), day=day, **how) for day, rate in enumerate(rates)
    ]


def test_a_slowdown_ends_with_status_3(tmp_path):
    done = run(*write(tmp_path, *days([100, 101, 100, 99, 90])))
    assert done.returncode == 3 and "SLOWDOWN: m6i.8xlarge, LLM" in done.stdout and "4 earlier run(s)" in done.stdout


def test_neither_noise_nor_a_gain_nor_what_is_tolerated_is_a_slowdown(tmp_path):
    for name, rates, more in (("noise", [100, 103, 97, 102, 98], []), ("gain", [100, 100, 100, 120], []),
                              ("tolerated", [100, 100, 100, 95], ["--tolerance", "0.1"])):  # fmt: skip
        done = run(*write(tmp_path / name, *days(rates)), *more)
        assert done.returncode == 0, (name, done.stdout)


def test_the_newest_is_the_latest_whatever_the_order_of_the_files(tmp_path):
    assert run(*reversed(write(tmp_path, *days([90, 100, 100, 100])))).returncode == 0


def test_other_machines_threads_and_work_are_no_earlier_runs(tmp_path):
    others = [*days([100], machine="big"), *days([100], threads=32), *days([100], max_new_tokens=5), *days([50])]
    assert_one_line(run(*write(tmp_path, *others)), "nothing to compare")


def test_only_the_window_is_looked_at(tmp_path):
    paths = write(tmp_path, *days([200, 100, 100, 100, 100]))
    assert "3 earlier run(s)" in run(*paths, "--window", 3).stdout
