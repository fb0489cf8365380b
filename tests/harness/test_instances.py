"""Several pinned processes of one command, started together and counted as one run."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from harness import record

SCRIPT = Path(__file__).resolve().parent.parent / "small_workload.py"
CPUS = sorted(os.sched_getaffinity(0))
needs_two = pytest.mark.skipif(len(CPUS) < 2, reason="two instances take two CPUs")
pytestmark = pytest.mark.alone


def start(folder: Path, *args) -> subprocess.Popen:
    words = [sys.executable, str(SCRIPT), "--results_dir", str(folder), *map(str, args)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(words, **pipes)


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def records(folder: Path) -> list[dict]:
    return [record.read(path) for path in folder.glob("*.json")]


def instances_of(process: subprocess.Popen, count: int) -> list[psutil.Process]:
    """The instances, once so many run and measure."""
    parent = psutil.Process(process.pid)
    for _ in range(600):
        with contextlib.suppress(psutil.Error):
            children = [c for c in parent.children() if str(SCRIPT) in c.cmdline()]
            files = [file.path for c in children for file in c.open_files()]
            if len(children) == count == sum(path.endswith(".jsonl") for path in files):
                return children
        time.sleep(0.05)
    raise AssertionError("the instances did not start")


def measure_two(folder: Path, *args) -> tuple[dict, str]:
    """Two instances that must succeed: their record, and what was printed."""
    status, out, err = finish(start(folder, "--instances", 2, "--pause", 0.03, *args))
    assert status == 0, out + err
    (run,) = records(folder)
    return run, out


@needs_two
def test_two_instances_run_at_once_each_on_its_own_core_and_are_one_record(tmp_path):
    run, out = measure_two(tmp_path, "--num_iters", 100)
    found = run["output"]["instances"]
    first, second = found["each"]
    assert not set(first["cpus"]) & set(second["cpus"])
    assert run["placement"]["cpus"] == sorted(first["cpus"] + second["cpus"])
    assert found["overlap"] >= 0.95
    rates = first["hashes_per_second"] + second["hashes_per_second"]
    assert run["metrics"]["hashes_per_second"]["median"] == pytest.approx(rates, rel=0.1)
    assert run["metrics"]["hashes_per_second"]["iterations"] >= 99
    assert found["efficiency"] == pytest.approx(rates / 2 / found["alone"], rel=0.1)
    assert run["configuration"]["instances"] == 2
    assert 0 < run["usage"]["process_cores_busy"] < 2.1
    assert "2 × 1 core(s)" in out and "efficiency" in out


@needs_two
def test_waiting_for_one_another_costs_next_to_nothing(tmp_path):
    """What an instance measures besides its own iterations, as a share of its time."""
    run, _ = measure_two(tmp_path, "--min_duration", 3)
    times_s = [100 / rate for (rate,) in run["samples"]["hashes_per_second"]]
    counted_s = 2 * sum(times_s)  # each has half of the rate
    assert counted_s / run["usage"]["wall_s"] > 0.95


@needs_two
def test_an_instance_that_is_killed_ends_all_and_what_was_measured_is_kept(tmp_path):
    process = start(tmp_path, "--instances", 2, "--min_duration", 60)
    victim = instances_of(process, 2)[1]
    time.sleep(1.5)
    victim.kill()
    killed_s = time.monotonic()
    status, out, err = finish(process)
    assert time.monotonic() - killed_s < 5
    assert status == 1 and re.search(r"error: the instance on CPUs \d+ ended \(SIGKILL\)", err), err
    whole = [each for each in records(tmp_path) if "instances" in each["output"]]
    (run,) = whole
    assert run["status"] == "failed" and not run["validity"]["valid"]
    assert run["metrics"]["hashes_per_second"]["iterations"] > 100


@needs_two
@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_instances_keep_what_they_measured(tmp_path, number, status):
    process = start(tmp_path, "--instances", 2, "--min_duration", 60)
    children = instances_of(process, 2)
    time.sleep(1)
    process.send_signal(number)
    code, out, err = finish(process)
    assert code == status and "Traceback" not in err, err
    (run,) = records(tmp_path)
    assert run["status"] == "interrupted"
    assert run["metrics"]["hashes_per_second"]["iterations"] > 100
    assert not any(child.is_running() for child in children)


@needs_two
def test_instances_whose_coordinator_is_killed_save_their_own_records(tmp_path):
    process = start(tmp_path, "--instances", 2, "--min_duration", 60)
    children = instances_of(process, 2)
    time.sleep(1)
    process.kill()
    finish(process)
    psutil.wait_procs(children, timeout=10)
    found = records(tmp_path)
    assert len(found) == 2
    assert all("one of 2 instances" in " ".join(each["validity"]["reasons"]) for each in found)


def test_an_instance_that_fails_says_why_in_one_line(tmp_path):
    status, out, err = finish(start(tmp_path, "--instances", 1, "--fail_at", 3))
    assert status == 1
    assert "a library failed" in err and err.count("error: ") == 1


def test_more_instances_than_cores_are_refused_in_one_line(tmp_path):
    status, _, err = finish(start(tmp_path, "--instances", 10_000))
    assert status == 1 and "Traceback" not in err
    assert "10000 instances do not fit" in err and err.count("error: ") == 1
    assert not records(tmp_path)


def test_without_numactl_instances_are_pinned_and_a_warning_says_what_is_missing(tmp_path):
    words = [sys.executable, str(SCRIPT), "--results_dir", str(tmp_path), "--instances", "1"]
    env = {**os.environ, "PATH": "/nonexistent"}
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    (run,) = records(tmp_path)
    assert any("numactl is not installed" in each for each in run["warnings"])
    assert run["output"]["instances"]["each"][0]["cpus"] == run["placement"]["cpus"]


def test_where_numactl_is_refused_instances_are_pinned_all_the_same(tmp_path):
    refusing = tmp_path / "bin/numactl"
    refusing.parent.mkdir()
    refusing.write_text("#!/bin/sh\necho 'set_mempolicy: Operation not permitted' >&2\nexit 1\n")
    refusing.chmod(0o755)
    words = [sys.executable, str(SCRIPT), "--results_dir", str(tmp_path), "--instances", "1"]
    env = {**os.environ, "PATH": f"{refusing.parent}:{os.environ['PATH']}"}
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    (run,) = records(tmp_path)
    assert any("numactl is refused here" in each for each in run["warnings"])


def test_the_layout_of_another_machine_is_printed_and_nothing_is_run(tmp_path):
    file = SCRIPT.parent.parent / "sut/R760xa.toml"
    how = ("--topology", file, "--instances", 4, "--cores_per_instance", 16, "--study", "x/y/1")
    how = (*how, "--num_iters", 3)
    status, out, err = finish(start(tmp_path / "results", *how))
    assert status == 0, err
    commands = [line for line in out.splitlines() if line.startswith("OMP_NUM_THREADS=16 numactl")]
    assert len(commands) == 4 and "--physcpubind=0-15 python3" in commands[0]
    assert all(line.endswith("--num_iters 3") and "--study" not in line for line in commands)
    assert not list((tmp_path / "results").glob("*.json"))
    status, _, err = finish(start(tmp_path, "--topology", tmp_path / "missing.json"))
    assert status == 1 and "missing.json" in err and "Traceback" not in err


def test_instances_are_of_the_cpu(tmp_path):
    status, _, err = finish(start(tmp_path, "--instances", 1, "--device", "GPU"))
    assert status == 1 and "leave --device out" in err
