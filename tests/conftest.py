"""What all tests share: running a workload's scripts as a user does, and judging how they end."""

import atexit
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))
CPUS = os.sched_getaffinity(0)


def pytest_configure(config):
    """Of two tests that run at a time each has CPUs of its own, so that neither slows the other."""
    worker = getattr(config, "workerinput", None)
    if worker:
        cpus, number = sorted(CPUS), int(worker["workerid"].removeprefix("gw"))
        os.sched_setaffinity(0, cpus[number % len(cpus) :: worker["workercount"]])


def pytest_collection_modifyitems(items):
    """Long tests first, so that others run beside them, to the end."""
    items.sort(key=lambda item: not item.get_closest_marker("long"))


@pytest.fixture
def all_cpus():
    """All CPUs for this test, though another runs at the same time."""
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, CPUS)
    yield
    os.sched_setaffinity(0, own)


# What takes a workload's scripts seconds to import, and starts no thread.
LIBRARIES = {
    "video-ai-workload": "av cv2 pycocotools.cocoeval ultralytics matplotlib.pyplot",
    "audio-ai-workload": "av jiwer librosa whisper matplotlib.pyplot",
    "analysis": "jinja2 jsonschema_rs matplotlib multiprocessing numpy",
}


@functools.cache
def forked(folder: str) -> list[str]:
    """What stands for `python` in a command that starts a script by forked.py."""
    script, made = str(REPO / "tests/forked.py"), tempfile.mkdtemp()
    address = f"{made}/socket"
    tied = [sys.executable, str(REPO / "harness/tied.py"), str(os.getpid())]
    command = [*tied, sys.executable, script, "serve", address, *LIBRARIES[folder].split()]
    server = subprocess.Popen(command, stdout=subprocess.PIPE)
    atexit.register(shutil.rmtree, made)
    atexit.register(server.kill)
    assert server.stdout.readline() == b"serving\n"
    return [sys.executable, "-IS", script, "run", address]


def run_analysis(module: str, *args, **how) -> subprocess.CompletedProcess:
    """`python3 -m analysis.MODULE` from the checkout's top."""
    command = [*forked("analysis"), REPO / f"analysis/{module}.py", *args]
    how = {"cwd": REPO, "capture_output": True, "text": True, "timeout": 120, **how}
    return subprocess.run(list(map(str, command)), **how)


class Workload:
    """A workload's folder, its scripts run by this interpreter, records into a temporary folder.

    A script is started by forked.py, but with a prefix or other environment, or if told to be
    `fresh`, as a user starts it.
    """

    def __init__(self, folder: str, results: Path):
        self.folder, self.results = REPO / folder, results

    def command(self, script: str, *args, fresh=False) -> list[str]:
        python = [sys.executable] if fresh else forked(self.folder.name)
        return [*python, script, *map(str, args)]

    def run(self, script: str, *args, prefix=(), env=None, fresh=False, timeout=600):
        """The finished process (subprocess.CompletedProcess)."""
        fresh = bool(fresh or prefix or env)
        command = [*prefix, *self.command(script, *args, fresh=fresh)]
        how = {"cwd": self.folder, "env": {**os.environ, **(env or {})}, "timeout": timeout}
        return subprocess.run(command, capture_output=True, text=True, **how)

    def start(self, script: str, *args) -> subprocess.Popen:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        command = self.command(script, "--results_dir", self.results, *args)
        return subprocess.Popen(command, cwd=self.folder, **pipes)

    def infer(self, *args, **how):
        return self.run("infer.py", "--results_dir", self.results, *args, **how)

    def measure(self, *args, **how) -> tuple[dict, str]:
        """A run that must succeed: its record, and what it printed."""
        done = self.infer(*args, **how)
        assert done.returncode == 0, done.stdout + done.stderr
        return self.last_record(), done.stdout

    def interrupt(self, *args) -> tuple[dict, int, str]:
        """Press Ctrl-C after the first iteration: the record, exit status, stderr."""
        process = self.start("infer.py", *args)
        while not any(path.read_text().count("\n") > 1 for path in self.results.glob("*.jsonl")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
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
def call(tmp_path, monkeypatch):
    """call(module, *args): what a script's main() returns, in this process."""

    def status(module, *args) -> int:
        command = [Path(module.__file__).name, "--results_dir", tmp_path / "results", *args]
        monkeypatch.setattr(sys, "argv", [str(word) for word in command])
        return module.main()

    return status


@pytest.fixture
def refusal(call):
    """refusal(module, *args): the one line in which a script's main() ends."""
    from harness.cli import UserError

    def line(module, *args) -> str:
        with pytest.raises(UserError) as caught:
            call(module, *args)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return line


@pytest.fixture
def shared() -> Path:
    """Real media and models beside the checkout; they are not part of the project."""
    folder = REPO.parent / "shared"
    if not folder.is_dir():
        pytest.skip("no ../shared with real media beside this checkout")
    return folder
