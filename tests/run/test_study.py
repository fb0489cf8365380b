"""A small study of real workloads, interrupted and continued."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from conftest import REPO

from harness import record

LLM = (
    "llm llm-workload infer.py --model_name=smollm2-135m-instruct-ov --skip_limits "
    "--num_iters 1 --max_new_tokens 4"
)
AUDIO = "audio audio-ai-workload infer.py --num_iters 1 --warmup 0"
BROKEN = "video-capacity 60 video-ai-workload capacity.py --video missing.mp4"


def command(results, *more) -> list[str]:
    trial = ["--min_duration", "0.1", "--quiet_limit", "0"]
    jobs = ["--job", LLM, "--job", AUDIO, "--once", BROKEN]
    return [
        sys.executable,
        "-m",
        "harness.study",
        "--results_dir",
        str(results),
        *trial,
        *jobs,
        *more,
    ]


def start(results, *more) -> subprocess.Popen:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command(results, *more), cwd=REPO, **pipes)


def read_until(study: subprocess.Popen, text: str) -> None:
    for line in study.stdout:
        if line.startswith(text):
            return
    raise AssertionError(study.stderr.read())


def runs_of(results) -> list[psutil.Process]:
    """Processes of workloads that write into this folder."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or []
        if str(results) in words and "harness.study" not in words:
            found += [process] * (process.info["status"] != psutil.STATUS_ZOMBIE)
    return found


def wait_until_ended(results, within_s: float = 60) -> None:
    until_s = time.monotonic() + within_s
    while runs_of(results):
        assert time.monotonic() < until_s, "a workload outlived its study"
        time.sleep(0.1)


def labels(results) -> list[str]:
    """The complete runs in the order in which they were made: 'llm/1'."""
    runs = [record.read(path) for path in results.glob("*.json") if path.name != "study.json"]
    runs = sorted((run for run in runs if run["status"] == "complete"), key=finished)
    return [run["parameters"]["study"].split("/", 1)[1] for run in runs]


def finished(run: dict) -> str:
    return run["finished_at"]


def test_a_study_killed_and_continued_has_each_run_once_and_in_turn(tmp_path):
    killed = start(tmp_path, "--repeats", "2")
    read_until(killed, "== Run 2 of 5: audio 1")
    time.sleep(2)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    wait_until_ended(tmp_path)
    first = {path: path.read_bytes() for path in tmp_path.glob("*.json")}
    assert "llm/1" in labels(tmp_path)

    done = subprocess.run(command(tmp_path), cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert labels(tmp_path) == ["llm/1", "audio/1", "llm/2", "audio/2"]
    assert all(path.read_bytes() == content for path, content in first.items())
    assert "more are done already" in done.stdout
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: not measured")]
    assert "video-capacity 1: exit status 1" in error and "only these again" in error
    assert "runs are valid as evidence" in done.stdout
    assert "LLM" in (tmp_path / "report.html").read_text()

    again = subprocess.run(command(tmp_path), cwd=REPO, capture_output=True, text=True)
    assert again.returncode == 1 and again.stdout.count("== Run ") == 1
    assert "== Run 5 of 5: video-capacity 1" in again.stdout
    assert len(labels(tmp_path)) == 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_run_and_the_study_and_keeps_what_was_measured(tmp_path, number):
    study = start(tmp_path, "--min_duration", "60")
    read_until(study, "== Run 1 of 11: llm 1")
    while not any(path.read_text().count("\n") > 1 for path in tmp_path.glob("*.samples.jsonl")):
        assert study.poll() is None
        time.sleep(0.05)
    os.kill(study.pid, number)
    _, errors = study.communicate(timeout=60)
    assert study.returncode == 128 + number and "Traceback" not in errors, errors
    assert "0 of 11 runs done: the same command continues" in errors
    assert not runs_of(tmp_path)
    (run,) = [record.read(path) for path in tmp_path.glob("llm_*.json")]
    assert run["status"] == "interrupted" and run["samples"]["tokens_per_second"]


def test_two_studies_do_not_share_a_folder(tmp_path):
    first = start(tmp_path)
    try:
        read_until(first, "Study ")
        second = subprocess.run(command(tmp_path), cwd=REPO, capture_output=True, text=True)
        assert second.returncode == 1
        assert second.stderr == f"error: another study is running in {tmp_path}\n"
    finally:
        first.terminate()
        first.communicate()
    wait_until_ended(tmp_path)
