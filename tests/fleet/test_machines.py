"""A study on two machines over ssh, from one command to their comparison."""

import json
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from conftest import REPO
from fleet_machines import MODEL, STUDY, Fleet, fleet_of, recap

from harness import record

SECRET = "SecretOfTheTest"
HOSTS = ("alpha", "beta")


@pytest.fixture(scope="module")
def measured(machines, tmp_path_factory) -> tuple[Fleet, str]:
    """A fleet that was measured, and what the command printed."""
    fleet = fleet_of(machines, tmp_path_factory.mktemp("measured"))
    status, output = fleet.run()
    assert status == 0, output
    return fleet, output


def test_one_command_ends_in_a_report_of_both(measured):
    fleet, output = measured
    folder = fleet.results / "study"
    for host in HOSTS:
        runs = [record.read(folder / host / name) for name in fleet.records(host)]
        assert [run["system"]["hostname"] for run in runs] == [host] * 2
        assert (folder / host / "study.log").read_text().count("== Run ") == 2
    report = (folder / "report.html").read_text()
    assert "alpha" in report and "beta" in report
    assert "Hashes: beta against alpha" in output and f"Report: {folder}/report.html" in output


def test_machines_that_are_given_one_side_are_compared_as_one(measured, tmp_path):
    fleet, _ = measured
    given = {
        "study_side": "instances",
        "study_sut": "m7i.48xlarge",
        "study_compare_options": ["--json", str(tmp_path / "report.json")],
    }
    status, output = fleet.run("--tags", "report", given=given)
    assert status == 0, output
    ((name, side),) = json.loads((tmp_path / "report.json").read_text())["sides"].items()
    assert (name, side["runs"], side["price"]["name"]) == ("instances", 4, "m7i.48xlarge")


def test_machines_measure_at_the_same_time(measured):
    output = measured[1]
    started = output[output.index("[study : Start the study]") :]
    assert started.index("changed: [beta]") < started.index("[study : Wait until it ends]")


def test_every_machine_has_the_commit_and_the_models_of_the_control_machine(measured):
    fleet, _ = measured
    here = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=REPO)
    for host in HOSTS:
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
    changed = {host: each["changed"] for host, each in recap(output).items()}
    assert changed == {"localhost": 0, "alpha": 0, "beta": 0}
    assert "ESTABLISH SSH CONNECTION" in output and SECRET not in output


def test_a_damaged_model_is_copied_again_and_a_local_change_undone(measured):
    fleet, _ = measured
    kit = fleet.folder / "beta/kit"
    weights = max((kit / MODEL).iterdir(), key=lambda path: path.stat().st_size)
    whole, script = weights.read_bytes(), (kit / "run.sh").read_bytes()
    weights.write_bytes(whole[:-1] + b"x")
    (kit / "run.sh").write_text("changed")
    status, output = fleet.run("--tags", "prepare")
    assert status == 0 and weights.read_bytes() == whole, output
    assert (kit / "run.sh").read_bytes() == script
    assert recap(output)["alpha"]["changed"] == 0 and recap(output)["beta"]["changed"] == 2


def test_check_mode_changes_nothing(machines, tmp_path):
    fresh = fleet_of(machines, tmp_path)
    status, output = fresh.run("--check")
    assert status == 0 and recap(output)["alpha"]["changed"] > 0, output
    assert not any((tmp_path / host).exists() for host in HOSTS)


def test_a_pulled_plug_loses_no_record_and_the_same_command_finishes(machines, measured):
    """Power cut on beta, sshd killed on alpha; gamma, by a local connection, is left alone."""
    before, _ = measured
    folder = before.folder
    shutil.copytree(folder / "alpha/kit", folder / "gamma/kit", symlinks=True)
    gamma = {"ansible_connection": "local", "study_dir": str(folder / "gamma")}
    slow = STUDY.format("--repeats 3", "--num_iters 10 --pause 0.1")
    fleet = fleet_of(machines, folder, {"gamma": gamma}, study_name="plug", study_command=slow)
    process = fleet.start("--tags", "measure")
    first = {}
    for host in HOSTS:
        until_s = time.monotonic() + 90
        while not (found := list((folder / host / "results/plug").glob("hashes_*.json"))):
            assert process.poll() is None and time.monotonic() < until_s, process.communicate()[0]
            time.sleep(0.05)
        first[host] = {path.name: path.read_bytes() for path in found}
    machines["beta"][0].kill()
    machines["alpha"][0].kill("sshd")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1 and "not every machine finished" in output, output
    counts = recap(output)
    assert counts["gamma"]["unreachable"] == counts["gamma"]["failed"] == 0
    assert all(counts[host]["unreachable"] == 1 for host in HOSTS)
    untouched = fleet.records("gamma", "plug")
    assert len(untouched) == 3, output
    assert not any(fleet.records(host, "plug") for host in HOSTS)
    assert (fleet.results / "plug/report.html").exists()

    for host in HOSTS:
        machines[host][0].start()
    status, output = fleet.run("--tags", "measure")
    assert status == 0, output
    assert fleet.records("gamma", "plug") == untouched
    for host in HOSTS:
        found = fleet.records(host, "plug")
        assert {name: found[name] for name in first[host]} == first[host]
        runs = [run for run in map(json.loads, found.values()) if run["status"] == "complete"]
        labels = [run["parameters"]["study"].split("/", 1)[1] for run in runs]
        assert sorted(labels) == ["hashes/1", "hashes/2", "hashes/3"]
        assert host in (fleet.results / "plug/report.html").read_text()


def test_a_failed_study_or_an_unfit_machine_fails_alone_after_the_comparison(machines, measured):
    fleet, _ = measured
    failing = (
        STUDY.format("--repeats 1", "") + " --once 'none 1 tests small_workload.py --then fail'"
    )
    given = {
        "study_name": "failing",
        "study_command": failing,
        "study_fit_disk_gib": "{{ 1e6 if inventory_hostname == 'beta' else 0.1 }}",
    }
    status, output = fleet.run("--tags", "fit,measure", given=given)
    assert status == 1, output
    assert len(fleet.records("alpha", "failing")) == 2 and not fleet.records("beta", "failing")
    assert "Not fit to measure: disk: " in output
    assert all(recap(output)[host]["failed"] == 1 for host in HOSTS)
    assert output.index("Report:") < output.rindex("error: not measured: none 1")


def test_in_rounds_the_machines_take_turns(measured):
    fleet, _ = measured
    given = {"study_name": "rounds", "study_rounds": 2, "study_command": STUDY.format("", "")}
    status, output = fleet.run("--tags", "measure", given=given)
    assert status == 0, output
    runs = [json.loads(each) for host in HOSTS for each in fleet.records(host, "rounds").values()]
    runs.sort(key=lambda run: run["finished_at"])
    order = [run["system"]["hostname"] for run in runs]
    assert set(order[:2]) == set(order[2:]) == set(HOSTS)


def test_repeats_go_on_until_narrow_or_until_the_budget_is_spent(measured):
    """At once, then in rounds of which the second would begin when the money is spent."""
    fleet, _ = measured
    asked = {"study_name": "narrow", "study_until_width": "99%", "study_sut": "m7i.48xlarge"}
    asked["study_command"] = STUDY.format("", "--num_iters 2")
    status, output = fleet.run("--tags", "measure", given={**asked, "study_max_usd": 19.3536})
    assert status == 0, output
    output = " ".join(output.split())  # as YAML folds lines
    assert "is 99% wide, of each mean 70.0035%, for 1.0 h (study_max_usd 19.3536, at" in output
    assert all(len(fleet.records(host, "narrow")) == 8 for host in HOSTS)
    assert output.count("from 8 runs: as narrow as asked") == 2, output

    status, output = fleet.run("--tags", "measure", given={**asked, "study_until_width": "wide"})
    assert status == 1 and "it must be between 0% and 100%" in " ".join(output.split()), output

    dear = {"study_name": "dear", "study_rounds": 3, "study_round_min": 2, "study_max_usd": 0.3}
    status, output = fleet.run("--tags", "measure", given={**asked, **dear})
    assert status == 0, output
    assert all(len(fleet.records(host, "dear")) == 1 for host in HOSTS)
    output = " ".join(output.split())
    assert output.count("rounds ended by 0.02 h (study_max_usd 0.3") == 2


def test_another_host_key_is_refused(machines, tmp_path):
    known = tmp_path / "known_hosts"
    public = Path(f"{machines['alpha'][0].key}.pub").read_text()
    known.write_text(f"{machines['beta'][0].address} {public}")
    fleet = fleet_of(machines, tmp_path)
    given = {"ansible_ssh_common_args": f"-o UserKnownHostsFile={known} -o ControlPath=none"}
    status, output = fleet.run("--tags", "stop", given=given)
    assert status == 1 and "Host key verification failed" in output, output
    assert all(recap(output)[host]["unreachable"] == 1 for host in HOSTS)


def test_clean_fetches_and_removes(measured):
    fleet, _ = measured
    names = set(fleet.records("beta"))
    shutil.rmtree(fleet.results / "study/beta")
    status, output = fleet.run("--tags", "clean")
    assert status == 0 and set(fleet.records("beta")) == names, output
    assert not any((fleet.folder / host).exists() for host in HOSTS)
