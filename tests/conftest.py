"""What all tests share: running a workload's scripts as a user does, and judging how they end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))


class Workload:
    """A workload's folder, its scripts run by this interpreter, records into a temporary folder."""

    def __init__(self, folder: str, results: Path):
        self.folder, self.results = REPO / folder, results

    def run(self, script: str, *args, prefix=(), env=None, timeout=600):
        """The finished process (subprocess.CompletedProcess)."""
        command = [*prefix, sys.executable, script, *map(str, args)]
        how = {"cwd": self.folder, "env": {**os.environ, **(env or {})}, "timeout": timeout}
        return subprocess.run(command, capture_output=True, text=True, **how)

    def infer(self, *args, **how):
        return self.run("infer.py", "--results_dir", self.results, *args, **how)

    def measure(self, *args, **how) -> tuple[dict, str]:
        """A run that must succeed: its record, and what it printed."""
        done = self.infer(*args, **how)
        assert done.returncode == 0, done.stdout + done.stderr
        return self.last_record(), done.stdout

    def interrupt(self, *args, after: str, wait_s: float) -> tuple[dict, int, str]:
        """Press Ctrl-C `wait_s` after a line that begins so: the record, exit status, stderr."""
        command = [sys.executable, "infer.py", "--results_dir", str(self.results), *map(str, args)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(command, cwd=self.folder, text=True, **pipes)
        for line in process.stdout:
            if line.startswith(after):
                break
        time.sleep(wait_s)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
        return self.last_record(), process.returncode, errors

    def last_record(self) -> dict:
        from harness import record

        paths = sorted(self.results.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        assert paths, "no record was written"
        return record.read(paths[-1])


def assert_one_line(done: subprocess.CompletedProcess, *words: str, status: int = 1) -> None:
    """The script ended with this status and one line of error with these words, no traceback."""
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    for word in words:
        assert word in errors[0]


def assert_two_at_once(run: dict) -> None:
    """Two instances on a core each, measured at the same time, are one record."""
    found = run["output"]["instances"]
    first, second = found["each"]
    assert len(first["cpus"]) == len(second["cpus"]) == 1 and first["cpus"] != second["cpus"]
    assert run["placement"]["cpus"] == sorted(first["cpus"] + second["cpus"])
    assert run["placement"]["threads_effective"] == run["configuration"]["instances"] == 2
    assert found["overlap"] >= 0.95
    rates = first[run["primary"]] + second[run["primary"]]
    assert run["metrics"][run["primary"]]["median"] == pytest.approx(rates, rel=0.3)
    assert found["efficiency"] > 0.6, found


class Evil:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


@pytest.fixture
def shared() -> Path:
    """Real media and models beside the checkout; they are not part of the project."""
    folder = REPO.parent / "shared"
    if not folder.is_dir():
        pytest.skip("no ../shared with real media beside this checkout")
    return folder
