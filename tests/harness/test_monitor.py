import os
import subprocess
import sys
import time

import pytest
from conftest import REPO

from harness import monitor
from harness.cli import UserError
from harness.monitor import SystemMonitor


def test_iterations_go_on_until_the_least_duration_is_over():
    started = time.perf_counter()
    count = 0
    for _ in monitor.iterations(2, min_duration_s=0.2):
        time.sleep(0.02)
        count += 1
    assert count > 2 and time.perf_counter() - started >= 0.2
    assert list(monitor.iterations(3)) == [0, 1, 2]


@pytest.mark.alone
def test_the_monitor_sees_this_process_at_work():
    with SystemMonitor() as watched:
        end = time.perf_counter() + 1
        while time.perf_counter() < end:
            pass
    assert watched.status == "complete"
    assert watched.usage["wall_s"] == pytest.approx(1, abs=0.3)
    assert 0.5 < watched.usage["process_cores_busy"] < 1.3
    assert max(watched.usage["busy_share_per_cpu"]) > 0.3
    assert watched.usage["peak_rss_bytes"] > 1e6


def test_peak_memory_is_this_programs_not_that_of_what_started_it():
    held = bytearray(400 << 20)
    peak = (
        "from harness import monitor; held = bytearray(100 << 20); print(monitor.peak_rss_bytes())"
    )
    done = subprocess.run(
        [sys.executable, "-c", peak], cwd=REPO, capture_output=True, text=True, check=True
    )
    assert 100 << 20 < int(done.stdout) < len(held)


def test_what_was_measured_outlives_ctrl_c_and_a_users_mistake():
    samples = []
    with SystemMonitor() as watched:
        samples.append(1)
        raise KeyboardInterrupt
    assert (watched.status, samples) == ("interrupted", [1])
    with SystemMonitor() as watched:
        raise UserError("the disk is full")
    assert (watched.status, watched.error) == ("failed", "the disk is full")


def test_a_defect_is_not_swallowed():
    with pytest.raises(ZeroDivisionError):
        with SystemMonitor():
            1 / 0


@pytest.mark.alone
def test_a_mask_that_shrinks_meanwhile_is_a_warning():
    allowed = os.sched_getaffinity(0)
    if len(allowed) < 2:
        pytest.skip("one CPU only: its mask can't shrink")
    with SystemMonitor() as watched:
        os.sched_setaffinity(0, {min(allowed)})
    os.sched_setaffinity(0, allowed)
    assert watched.warnings == [
        f"the CPU mask changed while measuring, from {len(allowed)} to 1 CPUs"
    ]
