"""A study on two machines over ssh, from one command to their comparison."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from conftest import REPO
from fleet_machines import MODEL, STUDY, Fleet, fleet_of, recap

from harness import record

SECRET = "SecretOfTheTest"


@pytest.fixture(scope="module")
def measured(machines, tmp_path_factory) -> tuple[Fleet, str]:
    """A fleet that was measured, and what the command printed."""
    fleet = fleet_of(machines, tmp_path_factory.mktemp("measured"))
    status, output = fleet.run()
    assert status == 0, output
    return fleet, output


def test_one_command_ends_in_a_report_of_both(measured):
    fleet, output = measured
    for host in ("alpha", "beta"):
        runs = [record.read(fleet.results / host / name) for name in fleet.records(host)]
        assert [run["system"]["hostname"] for run in runs] == [host] * 2
        assert (fleet.results / host / "study.log").read_text().count("== Run ") == 2
    report = (fleet.results / "report.html").read_text()
    assert "alpha" in report and "beta" in report
    assert "Hashes: beta against alpha" in output
    assert f"Report: {fleet.results}/report.html" in output


def test_every_machine_has_the_commit_and_the_models_of_the_control_machine(measured):
    fleet, _ = measured
    here = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=REPO)
    for host in ("alpha", "beta"):
        kit = fleet.folder / host / "kit"
        assert subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=kit) == here
        copied = {each.name: each.read_bytes() for each in (kit / MODEL).iterdir()}
        assert copied and copied == {e.name: e.read_bytes() for e in (REPO / MODEL).iterdir()}


def test_a_second_prepare_changes_nothing_and_shows_no_secret(measured, tmp_path):
    fleet, _ = measured
    password, secrets = tmp_path / "password", tmp_path / "secrets.yml"
    password.write_text("of the vault")
    secrets.write_text(f"ansible_become_password: {SECRET}\ntgi_token: {SECRET}\n")
    vault = ["fleet/.venv/bin/ansible-vault", "encrypt", "--vault-password-file", password, secrets]
    subprocess.run(vault, cwd=REPO, check=True, capture_output=True)
    assert SECRET not in secrets.read_text()
    given = ["-e", f"@{secrets}", "--vault-password-file", str(password)]
    status, output = fleet.run("--tags", "prepare", "-vvv", *given, HF_TOKEN=SECRET)
    assert status == 0, output
    assert {host: each["changed"] for host, each in recap(output).items()} == {
        "localhost": 0,
        "alpha": 0,
        "beta": 0,
    }
    assert "ESTABLISH SSH CONNECTION" in output and SECRET not in output


def test_a_damaged_model_is_copied_again_and_a_local_change_undone(measured):
    fleet, _ = measured
    kit = fleet.folder / "beta/kit"
    weights = max((kit / MODEL).iterdir(), key=lambda path: path.stat().st_size)
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + b"x")
    (kit / "run.sh").write_text("changed")
    status, output = fleet.run("--tags", "prepare")
    assert status == 0 and weights.read_bytes() == whole, output
    assert (kit / "run.sh").read_bytes() == (REPO / "run.sh").read_bytes()
    assert recap(output)["alpha"]["changed"] == 0 and recap(output)["beta"]["changed"] == 2


def test_check_mode_changes_nothing(measured, machines, tmp_path):
    fresh = fleet_of(machines, tmp_path)
    status, output = fresh.run("--check")
    assert status == 0, output
    assert recap(output)["alpha"]["changed"] > 0
    assert not any((tmp_path / host).exists() for host in ("alpha", "beta"))
    before, _ = measured
    status, output = before.run("--check")
    assert status == 0 and not any(each["changed"] for each in recap(output).values()), output


@pytest.mark.parametrize("killed", ["", "sshd"], ids=["power", "sshd"])
def test_a_pulled_plug_loses_no_record_and_the_same_command_finishes(machines, tmp_path, killed):
    beta = machines["beta"][0]
    slow = STUDY.format("--repeats 3", "--num_iters 10 --pause 0.05")
    fleet = fleet_of(machines, tmp_path, study_command=slow, study_models=[])
    process = fleet.start()
    first = None
    until_s = time.monotonic() + 90
    while not (first := next((tmp_path / "beta/results/study").glob("hashes_*.json"), None)):
        assert process.poll() is None and time.monotonic() < until_s, process.communicate()[0]
        time.sleep(0.05)
    content = first.read_bytes()
    beta.kill(killed)
    output, _ = process.communicate(timeout=120)
    counts = recap(output)
    assert process.returncode == 1 and "not every machine finished" in output, output
    assert counts["beta"]["unreachable"] == 1
    assert counts["alpha"]["unreachable"] == counts["alpha"]["failed"] == 0
    assert len(fleet.records("alpha")) == 3 and not fleet.records("beta")
    assert (fleet.results / "report.html").exists()
    alpha = fleet.records("alpha")

    beta.start()
    status, output = fleet.run()
    assert status == 0, output
    assert fleet.records("alpha") == alpha
    found = fleet.records("beta")
    assert found[first.name] == content
    labels = [json.loads(each)["parameters"]["study"].split("/", 1)[1] for each in found.values()]
    complete = [e for e in found.values() if json.loads(e)["status"] == "complete"]
    assert sorted(labels) == ["hashes/1", "hashes/2", "hashes/3"] and len(complete) == 3
    assert "beta" in (fleet.results / "report.html").read_text()


def test_a_failed_study_fails_its_machine_alone_after_the_comparison(machines, tmp_path):
    fleet = fleet_of(machines, tmp_path, study_models=[])
    fleet.hosts["beta"]["study_command"] = STUDY.format("--repeats 1", "--then fail")
    fleet.write(**json.loads(fleet.inventory.read_text())["all"]["vars"])
    status, output = fleet.run()
    assert status == 1 and len(fleet.records("alpha")) == 2, output
    assert recap(output)["beta"]["failed"] == 1 and recap(output)["alpha"]["failed"] == 0
    assert "error: not measured: hashes 1" in output
    assert output.index("Report:") < output.index("error: not measured: hashes 1")


def test_an_unfit_machine_is_not_measured(machines, tmp_path):
    fleet = fleet_of(machines, tmp_path, study_models=[])
    fleet.hosts["beta"]["study_fit_disk_gib"] = 1e6
    fleet.write(**json.loads(fleet.inventory.read_text())["all"]["vars"])
    status, output = fleet.run()
    assert status == 1 and fleet.records("alpha") and not fleet.records("beta"), output
    assert "Not fit to measure: disk: " in output


def test_in_rounds_the_machines_take_turns(machines, tmp_path):
    fleet = fleet_of(
        machines, tmp_path, study_models=[], study_rounds=2, study_command=STUDY.format("", "")
    )
    status, output = fleet.run()
    assert status == 0, output
    runs = [json.loads(each) for host in ("alpha", "beta") for each in fleet.records(host).values()]
    runs.sort(key=lambda run: run["finished_at"])
    assert [run["system"]["hostname"] for run in runs] == ["alpha", "beta", "alpha", "beta"]


def test_another_host_key_is_refused(machines, tmp_path):
    fleet = fleet_of(machines, tmp_path)
    known = tmp_path / "known_hosts"
    public = Path(f"{machines['alpha'][0].key}.pub").read_text()
    known.write_text(f"{machines['beta'][0].address} {public}")
    for variables in fleet.hosts.values():
        variables["ansible_ssh_common_args"] = f"-o UserKnownHostsFile={known}"
    fleet.write(**json.loads(fleet.inventory.read_text())["all"]["vars"])
    status, output = fleet.run("--tags", "prepare")
    assert status == 1 and "Host key verification failed" in output, output
    assert all(recap(output)[host]["unreachable"] == 1 for host in ("alpha", "beta"))


def test_clean_fetches_and_removes(measured):
    fleet, _ = measured
    names = set(fleet.records("beta"))
    shutil.rmtree(fleet.results / "beta")
    status, output = fleet.run("--tags", "clean")
    assert status == 0 and set(fleet.records("beta")) == names, output
    assert not any((fleet.folder / host).exists() for host in ("alpha", "beta"))
    assert os.path.isdir(REPO / MODEL)
