"""The LLM server on one machine and ab on another, by fleet/gpu_tgi.yml; a recording docker."""

import json
import os
import shutil
import subprocess

import pytest
from conftest import REPO
from fleet_machines import PREPARE, fleet_of

from harness import record

SECRET = "hf_SecretOfTheTest"


def test_the_record_of_a_load_test_has_the_servers_machine_and_no_output_the_token(
    machines, tmp_path
):
    if not shutil.which("ab"):
        pytest.skip("ab is missing (apache2-utils)")
    state = tmp_path / "docker"
    state.mkdir()
    alpha, variables = machines["alpha"]
    environment = {
        "PATH": f"{REPO / 'tests/gpu/bin'}:{os.environ['PATH']}",
        "DOCKER_STATE": str(state),
        "STAND_IN_HOST": alpha.address,
        "GPUS": "none",
        "MODEL": "tiny",
        "VOLUME": str(state / "data"),
    }
    fleet = fleet_of({"alpha": machines["alpha"]}, tmp_path)
    inventory = json.loads(fleet.inventory.read_text())["all"]
    client = {"ansible_connection": "local", "study_dir": str(tmp_path / "client")}
    settings = {
        "study_tgi_packages": [],
        "study_tgi_prepare_command": PREPARE,
        "study_tgi_environment": environment,
        "study_tgi_ab_options": "-n 40 -c 4",
        "study_tgi_token": "{{ lookup('env', 'HF_TOKEN') }}",
    }
    groups = {"gpu": {"hosts": inventory["hosts"]}, "client": {"hosts": {"loadgen": client}}}
    whole = {"all": {"children": groups, "vars": {**inventory["vars"], **settings}}}
    fleet.inventory.write_text(json.dumps(whole))
    play = ["fleet/.venv/bin/ansible-playbook", "-vvv", "-i", fleet.inventory, "fleet/gpu_tgi.yml"]
    fleet_env = {"ANSIBLE_CONFIG": "fleet/ansible.cfg", "RESULTS_DIR": str(tmp_path / "results")}
    env = {**os.environ, **fleet_env, "HF_TOKEN": SECRET}
    done = subprocess.run(play, cwd=REPO, env=env, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (fleet.results / "tgi/alpha").glob("gpu-tgi_*.json")
    run = record.read(path)
    assert run["status"] == "complete" and run["output"]["succeeded"] == 40
    assert run["system"]["hostname"] == "alpha" and not run["server"]["is_local"]
    assert run["server"]["client"]
    assert len(run["placement"]["cpus"]) == run["system"]["cpu"]["logical_cpus"]
    calls = [json.loads(line) for line in (state / "calls.jsonl").read_text().splitlines()]
    (start,) = [each for each in calls if each["arguments"][0] == "run"]
    assert start["secrets"]["HF_TOKEN"] == SECRET
    assert SECRET not in done.stdout + done.stderr
    assert any(each["arguments"][:2] == ["rm", "--force"] for each in calls)
    assert "LLM server" in (fleet.results / "tgi/report.html").read_text()
