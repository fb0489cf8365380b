"""The two commands of the README, and the shell in them."""

import os
import subprocess
import time

import pytest
from conftest import REPO

from analysis.text import amount
from harness import record, sut_toml


def run(*args, **env) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", "run.sh", *args],
        cwd=REPO,
        capture_output=True,
        text=True,
        env={**os.environ, **env},
    )


@pytest.mark.long
def test_one_command_measures_all_three_workloads(tmp_path, all_cpus):
    started = time.monotonic()
    done = run(RESULTS_DIR=str(tmp_path / "results"))
    assert done.returncode == 0, done.stdout + done.stderr
    runs = {r["workload"]: r for r in map(record.read, (tmp_path / "results").glob("*.json"))}
    measured = {"llm", "video", "audio"}
    assert set(runs) == measured | {f"{name}-capacity" for name in measured}
    for name in measured:
        each = runs[name]
        assert each["status"] == "complete" and each["metrics"][each["primary"]]["ci95"]
    carried = done.stdout[done.stdout.index("This machine carries") :]
    for name, stream in (("llm", "user"), ("video", "camera"), ("audio", "call")):
        count = runs[f"{name}-capacity"]["output"][f"{stream}s"]
        assert f"  {count} {stream}(s)" in carried
    table = done.stdout[done.stdout.index("== Results") :]
    for each in runs.values():
        primary = each["metrics"][each["primary"]]
        assert amount(primary["median"], primary["unit"]) in table
    report = (tmp_path / "results/report.html").read_text()
    assert all(f"<td>{name}</td>" in report for name in ("LLM", "Video AI", "Audio AI"))
    assert runs["audio"]["metrics"]["word_error_rate"]["median"] == 0
    assert "Setting up" not in done.stdout and done.stdout.count("exported already") == 3
    assert time.monotonic() - started < 900


def test_help_and_wrong_options():
    assert run("--help").returncode == 0 and "--full" in run("--help").stdout
    assert run("--fast").returncode == 2


def test_a_missing_python_is_one_line():
    done = run(PYTHON="python-none")
    assert done.returncode == 1 and "error: no python-none" in done.stderr


def test_the_docs_name_the_systems_and_prices_as_their_files_do():
    readme = (REPO / "docs/sut.md").read_text()
    for system in sut_toml.read_all(REPO / "sut"):
        if "captured" in system["system"]:  # a user's own
            continue
        assert system["system"]["name"] in readme
        price = system.get("price", {}).get("usd_per_hour") or system.get("price", {}).get("usd")
        assert price is None or f"{price:,}" in readme or f"{price:,.2f}" in readme
