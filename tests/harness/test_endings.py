"""However a run ends, each finished sample is in a record, and no record is damaged."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPO

from harness import journal, record

KILLS = int(os.environ.get("KILLS", 12))  # KILLS=200 for the full count
SCRIPT = [sys.executable, str(REPO / "tests/small_workload.py")]
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}


def start(results: Path, *args, **how) -> subprocess.Popen:
    command = [*SCRIPT, "--results_dir", str(results), *map(str, args)]
    return subprocess.Popen(command, **{**PIPES, **how})


def run(results: Path, *args, **how) -> subprocess.CompletedProcess:
    process = start(results, *args, **how)
    out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def wait_for(process: subprocess.Popen, line: str, stream: str = "stdout") -> None:
    while (read := getattr(process, stream).readline().rstrip()) != line:
        assert read, process.stderr.read()


def wait_for_sample(process: subprocess.Popen, folder: Path) -> None:
    while not any(path.read_text().count("\n") > 1 for path in folder.glob(f"*{journal.SUFFIX}")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)


def records(folder: Path) -> list[dict]:
    return [record.read(path) for path in folder.glob("*.json")]


@pytest.mark.parametrize(
    "number, status",
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
    ids=["ctrl_c", "sigterm", "sighup"],
)
def test_a_signal_ends_the_run_and_keeps_its_samples(tmp_path, number, status):
    process = start(tmp_path, "--num_iters", 100000)
    wait_for_sample(process, tmp_path)
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    (kept,) = records(tmp_path)
    assert process.returncode == status and kept["status"] == "interrupted"
    assert kept["metrics"]["hashes_per_second"]["n"] >= 1 and "Traceback" not in err


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_after_measuring_keeps_all_samples(tmp_path, number, status):
    process = start(tmp_path, "--then", "wait")
    wait_for(process, "Measured")
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    (kept,) = records(tmp_path)
    assert process.returncode == status and "nothing had been measured" not in err
    assert kept["metrics"]["hashes_per_second"]["n"] == 8 and kept["usage"]["wall_s"] > 0
    assert not kept["validity"]["valid"] and not list(tmp_path.glob(f"*{journal.SUFFIX}"))


def test_ctrl_c_twice_loses_nothing(tmp_path):
    process = start(tmp_path, "--num_iters", 100000)
    wait_for_sample(process, tmp_path)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.001)
    process.communicate(timeout=20)
    (kept,) = records(tmp_path)
    assert process.returncode == 130 and kept["metrics"]["hashes_per_second"]["n"] >= 1


@pytest.mark.parametrize("wait_s", [0, 0.03, 0.1])
def test_ctrl_c_while_libraries_load_is_one_line(tmp_path, wait_s):
    process = start(tmp_path, "--num_iters", 100000)
    wait_for(process, "Importing", "stderr")
    time.sleep(wait_s)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130 and err.startswith("interrupted") and err.count("\n") == 1


def test_any_exception_keeps_the_samples_and_shows_itself(tmp_path):
    for number, args in enumerate((("--fail_at", 5), ("--then", "fail"))):
        done = run(tmp_path / str(number), *args)
        (kept,) = records(tmp_path / str(number))
        assert done.returncode == 1 and kept["status"] == "failed"
        assert "a library failed" in kept["error"] and "a library failed" in done.stderr
        assert kept["metrics"]["hashes_per_second"]["n"] == (5, 8)[number]


def test_after_kill_9_the_next_run_makes_the_record(tmp_path):
    process = start(tmp_path, "--then", "wait")
    wait_for(process, "Measured")
    process.kill()
    process.communicate()
    assert not records(tmp_path)
    done = run(tmp_path)
    first, second = sorted(records(tmp_path), key=lambda each: each["status"], reverse=True)
    assert done.returncode == 0 and f"recovered: {tmp_path}" in done.stdout
    assert (first["status"], second["status"]) == ("interrupted", "complete")
    assert first["error"] == journal.KILLED and not first["validity"]["valid"]
    assert first["metrics"]["hashes_per_second"]["n"] == 8
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".json"]


def test_kill_9_at_random_moments_loses_no_finished_sample(tmp_path):
    """Each run's record has as many samples as its journal had lines when it was killed."""
    random.seed(1)
    written = {}  # by the run's id, the lines of its journal
    for _ in range(KILLS):
        process = start(tmp_path, "--num_iters", 40)
        time.sleep(random.uniform(0.1, 0.8))
        process.kill()
        process.communicate()
        for path in tmp_path.glob(f"*{journal.SUFFIX}"):
            lines = path.read_bytes().split(b"\n")[1:-1]
            written[path.name.removesuffix(journal.SUFFIX)[-8:]] = len(lines)
    assert run(tmp_path).returncode == 0
    kept = {each["id"][:8]: len(each["samples"]["hashes_per_second"]) for each in records(tmp_path)}
    assert {run_id: kept.pop(run_id) for run_id, lines in written.items() if lines} == {
        run_id: lines for run_id, lines in written.items() if lines
    }
    assert sorted(kept.values()) == [8] + [40] * (len(kept) - 1)  # those that had ended
    assert all(path.suffix == ".json" for path in tmp_path.iterdir())


def test_a_running_process_keeps_its_journal(tmp_path):
    process = start(tmp_path, "--num_iters", 100000)
    wait_for_sample(process, tmp_path)
    done = run(tmp_path)
    assert "recovered" not in done.stdout and list(tmp_path.glob(f"*{journal.SUFFIX}"))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert sorted(each["status"] for each in records(tmp_path)) == ["complete", "interrupted"]


def test_files_that_are_no_journals_are_left_alone(tmp_path):
    mine = tmp_path / f"notes{journal.SUFFIX}"
    mine.write_text('{"my": "notes"}\n')
    assert run(tmp_path).returncode == 0 and mine.read_text() == '{"my": "notes"}\n'


@pytest.mark.parametrize("shell", ["| head -1", ">/dev/full", ">&-", "2>&1 | true"])
def test_what_becomes_of_the_output_does_not_touch_the_record(tmp_path, shell):
    command = " ".join([*SCRIPT, "--results_dir", str(tmp_path), shell])
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    (kept,) = records(tmp_path)
    assert kept["status"] == "complete" and "Traceback" not in done.stderr
    full = ">/dev/full" in shell
    assert done.returncode == (1 if full else 0)
    assert ("error: cannot print: No space left on device" in done.stderr) == full


def test_an_ascii_terminal_gets_every_line(tmp_path):
    done = run(tmp_path, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and "95 % CI" in done.stdout and "\\u2013" in done.stdout


def test_a_full_disk_costs_the_journal_not_the_run(tmp_path):
    """Files can grow to 3,000 bytes only: less than the journal's first line."""
    limit = (3000, 3000)
    done = run(tmp_path, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
    printed = [line for line in done.stdout.splitlines() if line.startswith("{")]
    assert done.returncode == 1 and "no record could be written" in done.stderr
    assert json.loads(printed[0])["metrics"]["hashes_per_second"]["n"] == 8


def test_a_folder_that_cannot_be_written_is_said_before_measuring(tmp_path):
    (tmp_path / "file").write_text("")
    done = run(tmp_path / "file" / "results")
    assert done.returncode == 1 and "cannot write the record" in done.stderr
    assert "Measuring" not in done.stdout
