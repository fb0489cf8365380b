"""Format, lint, types and shell scripts."""

import shutil
import subprocess
import sys

import pytest
from conftest import REPO


def run(*command: str) -> None:
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_python_is_formatted_and_lint_free():
    run(sys.executable, "-m", "ruff", "format", "--check")
    run(sys.executable, "-m", "ruff", "check")


def test_types_of_harness_and_analysis_agree():
    run(sys.executable, "-m", "mypy")


def tracked(*patterns: str) -> list[str]:
    done = subprocess.run(["git", "ls-files", *patterns], cwd=REPO, capture_output=True, text=True)
    assert done.stdout, done.stderr
    return done.stdout.split()


def test_shell_scripts_are_clean():
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed")
    run("shellcheck", "-x", "-P", "SCRIPTDIR", *tracked("*.sh", ".ci/run"))


def test_no_line_is_longer_than_100_columns():
    long = [
        f"{name}:{number}"
        for name in tracked("*.py", "*.sh", ".ci/run", "*.j2")
        for number, line in enumerate((REPO / name).read_text().splitlines(), 1)
        if len(line) > 100
    ]
    assert not long


def test_every_requirement_is_pinned():
    for name in tracked("*requirements.txt"):
        for line in (REPO / name).read_text().split("\n"):
            assert not line or "==" in line, f"{name}: {line}"
