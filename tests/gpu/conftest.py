"""The shell scripts run as a user does: a real ab and a stand-in server, or a recording docker."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPO

from harness import record

HERE = Path(__file__).resolve().parent
SCRIPTS = REPO / "gpu-tgi"


class StandIn:
    """tgi_stand_in.py as a process of its own; its options as keywords."""

    def __init__(self, folder: Path, port: int = 0, **options):
        self.log, self._served = folder / "tgi.log", folder / "served.jsonl"
        words = []
        for name, value in options.items():
            words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
        self.process = subprocess.Popen(
            [
                sys.executable,
                HERE / "tgi_stand_in.py",
                "--port",
                str(port),
                "--log",
                self.log,
                "--served",
                self._served,
                *words,
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        self.port = int(self.process.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}/generate"
        self.version = options.get("version", "3.3.4")

    def served(self) -> list[dict]:
        return [json.loads(line) for line in self._served.read_text().splitlines()]

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def stand_in(tmp_path):
    if not shutil.which("ab"):
        pytest.skip("no ab: sudo apt install apache2-utils")
    started = []

    def start(**options) -> StandIn:
        started.append(StandIn(tmp_path, **options))
        return started[-1]

    yield start
    for server in started:
        server.stop()


class Scripts:
    """The scripts of gpu-tgi, their records into a temporary folder."""

    def __init__(self, folder: Path):
        self.results = folder / "results"

    def environment(self, **settings) -> dict[str, str]:
        clean = {
            k: v
            for k, v in os.environ.items()
            if k not in ("TOKEN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "MODEL")
        }
        return {
            **clean,
            "RESULTS_DIR": str(self.results),
            **{k: str(v) for k, v in settings.items()},
        }

    def run(self, script: str, *args, timeout=300, **settings) -> subprocess.CompletedProcess:
        return subprocess.run(
            ["bash", SCRIPTS / script, *map(str, args)],
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=REPO,
            env=self.environment(**settings),
        )

    def ab(self, server: StandIn, *args, **settings) -> subprocess.CompletedProcess:
        return self.run(
            "run_ab.sh",
            *args,
            **{"URL": server.url, "LOG_FILE": server.log, "WARMUP": 0, **settings},
        )

    def start_ab(self, server: StandIn, *args, **settings) -> subprocess.Popen:
        """run_ab.sh without waiting for its end, in a process group of its own."""
        settings = {"URL": server.url, "LOG_FILE": server.log, "WARMUP": 0, **settings}
        return subprocess.Popen(
            ["bash", SCRIPTS / "run_ab.sh", *map(str, args)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=self.environment(**settings),
        )

    def levels(self) -> dict[int, dict]:
        """The records of the levels by concurrency, checked against the schema."""
        found = [record.read(path) for path in self.results.glob("gpu-tgi_*.json")]
        return {level["parameters"]["concurrency"]: level for level in found}

    def sweep(self) -> dict:
        (path,) = self.results.glob("gpu-tgi-sweep_*.json")
        return record.read(path)

    def folder(self) -> Path:
        (path,) = (path for path in self.results.glob("gpu-tgi_*") if path.is_dir())
        return path


@pytest.fixture
def scripts(tmp_path) -> Scripts:
    return Scripts(tmp_path)


class Docker:
    """The recording docker, first on the PATH."""

    def __init__(self, folder: Path, scripts: Scripts):
        self.state, self.scripts = folder, scripts
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]

    def does(self, what: str, text: str = "") -> None:
        (self.state / what).write_text(text)

    def environment(self, **settings) -> dict[str, str]:
        return self.scripts.environment(
            **{
                "PATH": f"{HERE / 'bin'}:{os.environ['PATH']}",
                "DOCKER_STATE": self.state,
                "GPU_FREE_MIB": 24000,
                "PORT": self.port,
                "VOLUME": self.state / "data",
                "HF_HOME": self.state / "no-hf",
                **settings,
            }
        )

    def run(self, script: str, *args, **settings) -> subprocess.CompletedProcess:
        return self.scripts.run(script, *args, **self.environment(**settings))

    def start(self, script: str, **settings) -> subprocess.Popen:
        """Without waiting for its end; in a process group of its own.

        Ctrl-C works though the tests may run in the background, where a shell ignores it.
        """
        return subprocess.Popen(
            ["bash", SCRIPTS / script],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment(**settings),
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def calls(self, *verbs: str) -> list[dict]:
        """What docker was called with; of these verbs, or at all."""
        path = self.state / "calls.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        calls = [json.loads(line) for line in lines]
        return [call for call in calls if not verbs or call["arguments"][0] in verbs]


@pytest.fixture
def docker(tmp_path, scripts) -> Docker:
    folder = tmp_path / "docker"
    folder.mkdir()
    docker = Docker(folder, scripts)
    yield docker
    docker.run("stop_tgi.sh")
