"""Setting up: killed half way, without network or home, twice at once, with nowhere to write."""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest
from conftest import REPO

from harness.uv_settings import environment


def bash(script: str, folder, **env) -> subprocess.Popen:
    script = f". '{REPO}/harness/environment.sh'; {script}"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", script], cwd=folder, env={**os.environ, **env}, **pipes
    )


def run_sh(*args, **env) -> subprocess.Popen:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(["bash", "run.sh", *args], cwd=REPO, env={**os.environ, **env}, **pipes)


@pytest.fixture
def room(tmp_path):
    (tmp_path / "room").mkdir()
    (tmp_path / "room/requirements.txt").write_text("")
    return tmp_path / "room"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_a_set_up_that_was_killed_is_made_anew(room, number):
    killed = bash("setup room", room.parent)
    children: list[psutil.Process] = []
    while not (room / ".venv").exists() or not children:
        assert killed.poll() is None
        time.sleep(0.02)
        children = psutil.Process(killed.pid).children(recursive=True)
    killed.send_signal(number)
    killed.wait()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not [each for each in alive if each.status() != psutil.STATUS_ZOMBIE]

    if number != signal.SIGKILL:  # once is enough
        return
    again = bash("unset HOME; setup room; setup room", room.parent)
    output, errors = again.communicate()
    assert again.returncode == 0 and output.count("Setting up") == 1, errors
    subprocess.run([room / ".venv/bin/python", "-m", "pip", "--version"], check=True)


def test_an_environment_whose_python_is_gone_is_made_anew(room):
    assert bash("setup room", room.parent).wait() == 0
    (room / ".venv/bin/python").unlink()
    assert bash("setup room", room.parent).wait() == 0
    assert (room / ".venv/bin/python").exists()


@pytest.mark.parametrize("package", ["tqdm==4.70.1", "uv==0.13.9"])  # uv is installed first
def test_without_network_one_line_says_so(room, package):
    (room / "requirements.txt").write_text(f"{package}\n")
    offline = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_CONFIG_FILE": os.devnull}
    offline |= {"PIP_RETRIES": "1", "PIP_FIND_LINKS": "", "PIP_NO_CACHE_DIR": "1", "no_proxy": "*"}
    done = bash("setup room", room.parent, **offline)
    _, errors = done.communicate()
    assert done.returncode == 1
    assert errors.count("\n") == 1 and "no connection to the package index" in errors
    assert "room/requirements.txt" in errors


def test_what_pip_can_not_find_is_named(room):
    (room / "requirements.txt").write_text("./no-such-folder\n")
    done = bash("setup room", room.parent)
    _, errors = done.communicate()
    assert done.returncode == 1 and errors.count("\n") == 1 and "no-such-folder" in errors


@pytest.mark.parametrize("workload", ["llm", "video-ai", "audio-ai"])
def test_a_workloads_folder_still_installs_by_plain_pip(workload):
    """What that would install is there, but for what only a GPU uses, which run.sh leaves out."""
    folder = REPO / f"{workload}-workload"
    pip = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
    wanted = [*pip, "--report", "-", "-r", folder / "requirements.txt"]
    report = json.loads(subprocess.run(wanted, check=True, capture_output=True).stdout)
    names = {canonical(each["metadata"]["name"]) for each in report["install"]}
    listing = "from importlib.metadata import distributions as all; print(*(d.name for d in all()))"
    has = [folder / ".venv/bin/python", "-c", listing]
    installed = subprocess.run(has, check=True, capture_output=True, text=True).stdout.split()
    for_gpus = {name for name in names if re.match("triton|nvidia|cuda", name)}
    assert names - for_gpus <= set(map(canonical, installed))


def canonical(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()


def uv_settings(*config: str) -> dict[str, str]:
    return environment("".join(f"{line}\n" for line in config))


def test_uv_takes_packages_from_where_pip_does():
    assert uv_settings(
        "global.index-url='https://pypi.example/simple'",
        "global.extra-index-url='https://a.example/simple\\nhttps://b.example/simple'",
        "install.find-links='/wheels /more'",
        ":env:.index-url='https://other.example/simple'",
        ":env:.default-timeout='180'",
        "freeze.timeout='10'",
        "global.quiet='1'",
    ) == {
        "UV_DEFAULT_INDEX": "https://other.example/simple",
        "UV_INDEX": "https://a.example/simple https://b.example/simple",
        "UV_FIND_LINKS": "/wheels,/more",
        "UV_HTTP_TIMEOUT": "180",
    }
    with pytest.raises(KeyError):
        uv_settings("global.client-cert='/key.pem'")


@pytest.mark.parametrize("folder", ["/dev/null/results", "/sys/kernel"])
def test_results_that_could_not_be_written_are_refused_at_once(folder):
    started_s = time.monotonic()
    refused = run_sh("--prepare", RESULTS_DIR=folder)
    output, errors = refused.communicate()
    assert refused.returncode == 1 and time.monotonic() - started_s < 10
    assert errors.count("\n") == 1 and folder in errors and not output


def test_two_at_once_in_a_checkout_wait_for_one_another():
    folder = os.open(REPO, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    try:
        second = run_sh("--prepare")
        assert "another run.sh is running" in second.stderr.readline()
        second.terminate()
        assert second.wait(10) == -signal.SIGTERM
    finally:
        os.close(folder)


@pytest.mark.parametrize(
    "wrong",
    [["--repeats", "5"], ["--study", "--repeats"], ["--study", "--detect", "x"], ["--fast"]],
)
def test_wrong_options_are_refused_before_anything_is_set_up(wrong):
    done = run_sh(*wrong)
    output, errors = done.communicate()
    assert done.returncode == 2 and not output and errors.count("\n") == 1
