"""Machines of a fleet: network namespaces of this one, each with its host name and its own sshd.

What is measured on them is a workload of milliseconds; models are copied, but not run.
"""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import IO

from conftest import REPO

SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
MODEL = "video-ai-workload/yolov8n-seg_openvino_model"
# The checkouts on the machines borrow this one's environments.
PREPARE = f"ln -sfn {REPO}/harness/.venv harness/.venv && ln -sfn {REPO}/harness/.venv tests/.venv"
STUDY = (
    'harness/.venv/bin/python -m harness.study --results_dir "$RESULTS_DIR" --min_duration 0.1 '
    "--quiet_limit 0 {} --job 'hashes tests small_workload.py {}'"
)
SETTINGS = {
    "study_packages": [],
    "study_models": [MODEL.replace("yolov8n-seg", "*")],
    "study_control_command": "true",
    "study_prepare_command": PREPARE,
    "study_command": STUDY.format("--repeats 2", "--num_iters 3"),
    "study_fit_ignore": ["busy"],  # the machines share this one's CPUs
    "study_fit_disk_gib": 0.1,
}


class Machine:
    """A network namespace with a host name, and an sshd that root logs in at.

    `number` is its own among those that exist at a time, below 200.
    """

    def __init__(self, name: str, number: int, folder: Path, key: Path):
        self.name, self.folder = name, folder
        self.address, gateway = f"10.213.{number}.2", f"10.213.{number}.1"
        self.namespace, outside, inside = (f"fleet{number}{end}" for end in ("", "o", "i"))
        folder.mkdir(parents=True)
        self.key = folder / "host_key"
        make_key(self.key)
        self.config = folder / "sshd_config"
        lines = {
            "ListenAddress": self.address,
            "HostKey": self.key,
            "AuthorizedKeysFile": f"{key}.pub",
            "PidFile": "none",
            "StrictModes": "no",
            "UsePAM": "no",
            "PasswordAuthentication": "no",
            "Subsystem": "sftp internal-sftp",
        }
        self.config.write_text("".join(f"{name} {value}\n" for name, value in lines.items()))
        if Path("/run/netns", self.namespace).exists() and not self.processes():
            self.remove()  # of a test that was killed
        ip("netns", "add", self.namespace)
        ip("link", "add", outside, "type", "veth", "peer", "name", inside)
        ip("link", "set", inside, "netns", self.namespace)
        ip("addr", "add", f"{gateway}/30", "dev", outside)
        ip("link", "set", outside, "up")
        ip("-n", self.namespace, "addr", "add", f"{self.address}/30", "dev", inside)
        ip("-n", self.namespace, "link", "set", inside, "up")
        ip("-n", self.namespace, "link", "set", "lo", "up")

    def start(self) -> None:
        Path("/run/sshd").mkdir(exist_ok=True)
        serve = f"hostname {self.name} && exec {SSHD} -D -e -f {self.config}"
        command = ["ip", "netns", "exec", self.namespace, "unshare", "--uts", "sh", "-c", serve]
        with (self.folder / "sshd.log").open("a") as log:
            subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        scan = ["ssh-keyscan", "-T", "1", self.address]
        until_s = time.monotonic() + 20
        while not subprocess.run(scan, capture_output=True, text=True).stdout:
            assert time.monotonic() < until_s, (self.folder / "sshd.log").read_text()
            time.sleep(0.1)

    def processes(self) -> list[int]:
        found = subprocess.run(
            ["ip", "netns", "pids", self.namespace], capture_output=True, text=True
        )
        return [int(each) for each in found.stdout.split()]

    def kill(self, name: str = "") -> None:
        """All its processes, as a power cut does, or those of this name."""
        while pids := [pid for pid in self.processes() if name in name_of(pid)]:
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(0.1)

    def connect(self, other: "Machine", net: str) -> str:
        """A line of their own between two machines, in 10.213.NET.0/30: this one's address."""
        ends = [
            (self, f"fleet-{net}a", f"10.213.{net}.1"),
            (other, f"fleet-{net}b", f"10.213.{net}.2"),
        ]
        ip("link", "add", ends[0][1], "type", "veth", "peer", "name", ends[1][1])
        for machine, name, address in ends:
            ip("link", "set", name, "netns", machine.namespace)
            ip("-n", machine.namespace, "addr", "add", f"{address}/30", "dev", name)
            ip("-n", machine.namespace, "link", "set", name, "up")
        return ends[0][2]

    def remove(self) -> None:
        self.kill()
        ip("netns", "del", self.namespace)


def name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "gone"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def make_key(path: Path) -> None:
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)]
    subprocess.run(command, check=True)


class Fleet:
    """An inventory, the folder of its results, and the one command."""

    option = "--fleet"

    def __init__(self, folder: Path, hosts: dict[str, dict], **settings):
        self.folder, self.results = folder, folder / "results/fleet"
        self.inventory = folder / f"{settings.get('study_name', 'study')}.json"
        inventory = {"all": {"hosts": hosts, "vars": {**SETTINGS, **settings}}}
        self.inventory.write_text(json.dumps(inventory, indent=1))

    def start(
        self, *options: str, given: dict | None = None, stdout: int | IO = subprocess.PIPE, **env
    ) -> subprocess.Popen:
        """`given` are variables that go before those of the inventory."""
        return subprocess.Popen(
            ["./run.sh", self.option, str(self.inventory), "-e", json.dumps(given or {}), *options],
            cwd=REPO,
            env={**os.environ, "RESULTS_DIR": str(self.folder / "results"), **env},
            text=True,
            stdout=stdout,
            stderr=subprocess.STDOUT,
        )

    def run(self, *options: str, given: dict | None = None, **env) -> tuple[int, str]:
        """Exit status, and all that was printed."""
        process = self.start(*options, given=given, **env)
        try:
            output, _ = process.communicate(timeout=300)
        finally:
            process.kill()
        return process.returncode, output

    def records(self, host: str, study: str = "study") -> dict[str, bytes]:
        """By name, the records fetched of a machine."""
        paths = (self.results / study / host).glob("hashes_*.json")
        return {path.name: path.read_bytes() for path in paths}


def recap(output: str) -> dict[str, dict[str, int]]:
    """By host, Ansible's counts: ok, changed, unreachable, failed ..."""
    lines = output[output.rindex("PLAY RECAP") :].splitlines()[1:]
    rows = [line.split(":", 1) for line in lines if " ok=" in line]
    pairs = {name.strip(): [each.split("=") for each in rest.split()] for name, rest in rows}
    return {host: {name: int(count) for name, count in each} for host, each in pairs.items()}


def fleet_of(machines: dict, folder: Path, more: dict | None = None, **settings) -> Fleet:
    """A fleet of these machines, whose folders are in `folder`, and `more` hosts."""
    hosts = {
        name: {**variables, "study_dir": str(folder / name)}
        for name, (_, variables) in machines.items()
    }
    return Fleet(folder, {**hosts, **(more or {})}, **settings)
