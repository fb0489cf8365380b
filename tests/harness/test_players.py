"""Capacity over instances, and beside another workload."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness import players, record
from harness.cli import UserError

SCRIPT = Path(__file__).resolve().parent.parent / "small_capacity.py"
needs_two = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="takes two CPUs")
pytestmark = pytest.mark.alone


@pytest.fixture
def search(tmp_path):
    def run(*args, status: int = 0):
        words = [sys.executable, str(SCRIPT), "--results_dir", str(tmp_path), *map(str, args)]
        words += ["--min_observations", "20", "--plot", str(tmp_path / "capacity.png")]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120, cwd=tmp_path)
        assert done.returncode == status, done.stdout + done.stderr
        found = [record.read(path) for path in tmp_path.glob("*.json")]
        return (found[0] if found else None), done

    return run


@needs_two
def test_instances_share_a_levels_streams_and_carry_more_together(search):
    run, done = search("--instances", 2, "--most", 3)
    assert run["output"]["calls"] == 6 and run["output"]["first_over"] == 7
    level = run["output"]["levels"]["6"]
    assert sorted(level["of_each"]["number"]) == list(range(6))
    assert len(set(level["of_each"]["process"])) == 2
    assert sorted(map(level["of_each"]["process"].count, set(level["of_each"]["process"]))) == [
        3,
        3,
    ]
    assert sum(level["of_each"]["told_too_late"]) == 0
    assert run["configuration"]["instances"] == 2
    assert len(run["placement"]["cpus"]) == 2
    assert "--physcpubind" in done.stdout


@needs_two
def test_a_search_goes_on_with_the_best_layout(search):
    run, done = search("--tune", "--most", 3)  # a process sustains 3: two of them 6
    assert run["output"]["calls"] == 6
    assert run["parameters"]["instances"] == run["configuration"]["instances"] > 1
    first, second, *_ = run["output"]["layouts"]
    assert (first["instances"], first["calls"], second["calls"]) == (1, 3, 6)
    assert f"Best layout: --instances {run['configuration']['instances']}" in done.stdout


def test_the_layout_of_another_machine_is_printed_and_nothing_is_searched(search):
    run, done = search("--topology", SCRIPT.parent.parent / "sut/R760xa.toml", "--instances", 2)
    assert run is None and "--physcpubind=56-111" in done.stdout


def test_one_process_carries_what_it_can(search):
    run, _ = search("--most", 3)
    assert (run["output"]["calls"], run["output"]["first_over"]) == (3, 4)


@needs_two
def test_an_instance_that_fails_ends_the_search_in_one_line(search):
    run, done = search("--instances", 2, "--fail", status=1)
    assert "a library failed" in done.stderr and done.stderr.count("error: ") == 1


def beside(tmp_path, most: int, count: int) -> str:
    """A folder as a workload's, with an environment."""
    folder = tmp_path / "other-workload"
    (folder / ".venv/bin").mkdir(parents=True)
    python = folder / ".venv/bin/python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    code = f"import runpy, sys\nsys.argv[0] = {str(SCRIPT)!r}\n"
    code += f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
    (folder / "capacity.py").write_text(code)
    return f"{folder}/capacity.py --most {most} --min_calls {count}"


@pytest.mark.parametrize("most, calls", [(2, 3), (1, 0)])
def test_beside_another_workload_both_must_be_within_their_limits(search, tmp_path, most, calls):
    command = beside(tmp_path, most, 2)
    run, done = search("--most", 3, "--beside", command)
    assert run["output"]["calls"] == calls
    assert run["task"]["beside"] == "2 call(s) of hash-capacity"
    assert run["output"]["beside"]["task"] == {"most": most}
    level = run["output"]["levels"]["1"]["beside"]
    assert level["sustained"] is (calls > 0) and level["windows"][0]["observations"] > 0
    assert "Beside: 2 call(s)" in done.stdout


def test_a_command_to_run_beside_is_taken_as_it_is_typed():
    for text in (
        "llm-workload/capacity.py --min_users 4",
        "cd llm-workload && python3 capacity.py --min_users 4",
    ):
        start = players.start_of(text)
        assert start.folder.name == "llm-workload"
        assert start.command[1:] == ["capacity.py", "--min_users", "4"]
    for text in ("", "'", "infer.py", "llm-workload/infer.py", "nowhere/capacity.py"):
        with pytest.raises(UserError, match="--beside"):
            players.start_of(text)
