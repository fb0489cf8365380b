"""The machine's roofline: read bandwidth and peak of a matrix product."""

import math
import os
import time

import numpy as np
import pytest

from harness import roofline, system


@pytest.mark.alone
def test_bandwidth_is_that_of_memory_and_no_less_than_a_copys():
    array = np.ones(2**24, np.float32)
    copy_s = math.inf
    for _ in range(5):
        before = time.perf_counter()
        array.copy()
        copy_s = min(copy_s, time.perf_counter() - before)
    measured = roofline.read_bandwidth_bytes_per_s(
        len(os.sched_getaffinity(0)), roofline.MIN_WORKING_SET_BYTES
    )
    assert 1e9 < measured < 2e12
    assert measured > 0.3 * array.nbytes / copy_s


def test_a_threads_failure_is_raised_and_no_one_waits(monkeypatch):
    def refuse(*_):
        raise RuntimeError("not allowed")

    monkeypatch.setattr(roofline.os, "sched_setaffinity", refuse)
    with pytest.raises(RuntimeError, match="not allowed"):
        roofline.read_bandwidth_bytes_per_s(1, 2**24)


def test_the_best_window_is_of_all_threads_together():
    steady = ([0.0, 1.0, 2.0, 3.0], [0, 10, 20, 30])
    burst = ([0.0, 1.0, 2.0, 3.0], [0, 10, 110, 120])
    assert roofline.best_rate([steady, burst], 1.0) == pytest.approx(110)
    assert roofline.best_rate([steady, steady], 1.0) == pytest.approx(20)
    assert roofline.best_rate([steady, ([2.0, 2.5], [0, 50])], 10.0) == pytest.approx(
        110
    )  # only while both are at work
    assert roofline.best_rate([([0.0, 1.0], [0, 10]), ([1.0, 2.0], [0, 10])]) == pytest.approx(10)


def test_caches_are_counted_once_and_cores_come_before_their_siblings(tmp_path):
    for cpu, sibling in ((0, "0,2"), (1, "1,3"), (2, "0,2"), (3, "1,3")):
        (tmp_path / f"cpu{cpu}/topology").mkdir(parents=True)
        (tmp_path / f"cpu{cpu}/topology/thread_siblings_list").write_text(sibling + "\n")
        caches = [(1, "Data", "32K", sibling), (1, "Instruction", "32K", sibling)]
        caches += [(2, "Unified", "1024K", sibling), (3, "Unified", "32M", "0-3")]
        for index, (level, kind, size, shared) in enumerate(caches):
            folder = tmp_path / f"cpu{cpu}/cache/index{index}"
            folder.mkdir(parents=True)
            for name, text in (
                ("level", level),
                ("type", kind),
                ("size", size),
                ("shared_cpu_list", shared),
            ):
                (folder / name).write_text(f"{text}\n")
    assert roofline.cache_bytes([0, 1, 2, 3], tmp_path) == 2 * (32 + 1024) * 2**10 + 32 * 2**20
    assert roofline.cache_bytes([0, 9], tmp_path) == (32 + 1024) * 2**10 + 32 * 2**20
    assert system.one_cpu_per_core([0, 1, 2, 3], tmp_path) == [0, 1, 2, 3]
    assert system.one_cpu_per_core([0, 2, 3], tmp_path) == [0, 3, 2]
