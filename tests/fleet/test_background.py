"""fleet/study.sh and fit.py, as the play calls them on a machine."""

import io
import json
import os
import subprocess
import sys
import tarfile
import time

import pytest
from conftest import REPO


class Study:
    def __init__(self, folder):
        self.folder = folder

    def call(self, what: str, *words: str) -> subprocess.CompletedProcess:
        command = ["fleet/study.sh", what, str(self.folder), *words]
        return subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=60)

    def start(self, command: str) -> str:
        return self.call("start", "study", command).stdout.strip()


@pytest.fixture
def study(tmp_path) -> Study:
    return Study(tmp_path)


def test_a_study_outlives_the_shell_that_started_it_and_its_status_is_known(study):
    assert study.start('sleep 2; echo done >"$RESULTS_DIR/record.json"') == "started"
    assert study.call("wait", "0").returncode == 75
    assert study.call("wait", "20").returncode == 0
    assert (study.folder / "results/study/record.json").read_text() == "done\n"
    assert study.start("echo 'error: no model' >&2; exit 3") == "started"
    ended = study.call("wait", "20")
    assert ended.returncode == 1 and ended.stdout.splitlines() == [
        "the study ended with exit status 3",
        "error: no model",
    ]


def test_a_second_study_is_not_started_beside_the_first(study):
    assert study.start("sleep 2") == "started"
    assert study.start("touch two") == "running already"
    assert study.call("wait", "20").returncode == 0 and not (REPO / "two").exists()


def test_a_stopped_study_ends_as_by_ctrl_c_and_keeps_its_record(study):
    workload = f"exec {sys.executable} tests/small_workload.py --results_dir $RESULTS_DIR"
    assert study.start(f"{workload} --pause 0.1 --num_iters 6000") == "started"
    log = study.folder / "results/study/study.log"
    while "Measuring" not in log.read_text():
        time.sleep(0.1)
    time.sleep(1)
    assert study.call("stop").stdout == "stopped\n"
    assert "exit status 143" in study.call("wait", "0").stdout
    (path,) = (study.folder / "results/study").glob("hashes_*.json")
    assert json.loads(path.read_text())["status"] == "interrupted"
    assert study.call("stop").stdout == "none is running\n"


def test_a_killed_study_is_told_from_a_finished_one(study):
    assert study.start("kill -9 $PPID; sleep 0.1") == "started"
    ended = study.call("wait", "20")
    assert ended.returncode == 1 and ended.stdout == "the study was killed\n"


def test_the_same_records_are_packed_as_the_same_bytes(study):
    assert study.call("pack", "study").returncode == 3
    study.start("echo 1 >$RESULTS_DIR/a.json; echo 2 >$RESULTS_DIR/b.json")
    study.call("wait", "20")
    packed = []
    for _ in range(2):
        assert study.call("pack", "study").returncode == 0
        packed.append((study.folder / "records.tar.gz").read_bytes())
        time.sleep(1.1)  # gzip notes seconds
    assert packed[0] == packed[1]


def test_an_archive_writes_nothing_outside_its_folder(tmp_path):
    archive, folder = tmp_path / "records.tar.gz", tmp_path / "alpha"
    with tarfile.open(archive, "w:gz") as tar:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
        tar.addfile(link)
        for name in ("./record.json", "link/through"):
            entry = tarfile.TarInfo(name)
            entry.size = 1
            tar.addfile(entry, io.BytesIO(b"x"))
    unpack = [sys.executable, "fleet/unpack.py", str(archive), str(folder)]
    subprocess.run(unpack, cwd=REPO, check=True)
    assert (folder / "record.json").read_text() == "x"
    assert not (folder / "link").is_symlink() and not (tmp_path / "through").exists()
    with tarfile.open(archive, "w:gz") as tar:
        entry = tarfile.TarInfo("../outside")
        entry.size = 1
        tar.addfile(entry, io.BytesIO(b"x"))
    done = subprocess.run(unpack, cwd=REPO, capture_output=True, text=True)
    assert done.returncode and not (tmp_path / "outside").exists()


def fit(*options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "fleet/fit.py", *options]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True)


def test_each_problem_is_named(tmp_path):
    limits = ["--study", str(tmp_path), "--quiet_s", "0", "--ignore", "governor"]
    at_ease = [*limits, "--disk_gib", "0", "--swap_mib", "1e9"]
    assert fit(*at_ease, "--control_time", str(time.time())).returncode == 0
    late = fit(*limits, "--disk_gib", "1e6", "--control_time", str(time.time() - 3600))
    assert late.returncode == 1 and "clock: +360" in late.stdout and "disk: " in late.stdout
    assert fit(*limits, "--ignore", "clock,weather").returncode == 2


def test_other_load_is_named_by_its_process(tmp_path):
    load = [sys.executable, "-c", "while True: pass"]
    loads = [subprocess.Popen(load) for _ in range(os.cpu_count() or 1)]
    try:
        found = fit("--study", str(tmp_path), "--quiet_s", "3", "--disk_gib", "0")
    finally:
        for each in loads:
            each.kill()
    assert found.returncode == 1 and "busy: " in found.stdout and "python" in found.stdout


def test_a_running_study_of_the_fleet_is_no_problem(study):
    study.start("sleep 5")
    found = fit("--study", str(study.folder), "--disk_gib", "1e6")
    assert found.returncode == 0 and "waited for" in found.stdout
    study.call("stop")
