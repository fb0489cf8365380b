"""LLM servers, and ab on another machine than theirs: ./run.sh --fleet_tgi, with a recording docker
whose only image is a stand-in for TGI."""

import json
import os
import shutil
import socket
from pathlib import Path

import pytest
from conftest import REPO
from fleet_machines import PREPARE, Fleet, recap

from harness import record

SECRET = "hf_SecretOfTheTest"


def server(state: Path, address: str) -> dict:
    """A host's variables: its docker has its state in this folder, its server this address."""
    state.mkdir()
    environment = {
        "PATH": f"{REPO / 'tests/gpu/bin'}:{os.environ['PATH']}",
        "DOCKER_STATE": str(state),
        "STAND_IN_HOST": address,
        "GPUS": "none",
        "MODEL": "tiny",
        "VOLUME": str(state / "data"),
    }
    return {"study_tgi_address": address, "study_tgi_environment": environment}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def calls(state: Path) -> list[dict]:
    return [json.loads(line) for line in (state / "calls.jsonl").read_text().splitlines()]


def test_servers_are_load_tested_from_another_machine_and_one_that_fails_fails_alone(
    machines, tmp_path
):
    """alpha serves and beta sends, both over ssh; gamma's container ends at once."""
    if not shutil.which("ab"):
        pytest.skip("ab is missing (apache2-utils)")
    (alpha, alpha_login), (beta, beta_login) = machines["alpha"], machines["beta"]
    here = {"ansible_connection": "local"}
    servers = {
        "alpha": {**alpha_login, **server(tmp_path / "docker-a", alpha.connect(beta, "9"))},
        "gamma": {**here, **server(tmp_path / "docker-g", "127.0.0.1")},
    }
    servers["gamma"]["study_tgi_port"] = free_port()
    (tmp_path / "docker-g/dies").write_text("no such model\n")
    fleet = Fleet(
        tmp_path,
        {},
        study_dir=f"{tmp_path}/{{{{ inventory_hostname }}}}",
        study_tgi_packages=[],
        study_tgi_prepare_command=PREPARE,
        study_tgi_ab_options="-n 40 -c 4",
        study_tgi_token="{{ lookup('env', 'HF_TOKEN') }}",
    )
    fleet.option = "--fleet_tgi"
    whole = json.loads(fleet.inventory.read_text())
    groups = {"gpu": {"hosts": servers}, "client": {"hosts": {"beta": beta_login}}}
    fleet.inventory.write_text(json.dumps({"all": {**whole["all"], "children": groups}}))
    status, output = fleet.run("-vvv", HF_TOKEN=SECRET)
    assert status == 1 and SECRET not in output, output
    counts = recap(output)
    assert counts["gamma"]["failed"] == 1 and not counts["alpha"]["failed"], output
    assert "tgi ended while starting" in output and "no such model" in output

    (path,) = (fleet.results / "tgi/alpha").glob("gpu-tgi_*.json")
    run = record.read(path)
    assert run["status"] == "complete" and run["output"]["succeeded"] == 40
    assert run["system"]["hostname"] == "alpha" and not run["server"]["is_local"]
    assert run["server"]["client"] and (tmp_path / "beta/results/tgi/alpha/study.log").exists()
    assert len(run["placement"]["cpus"]) == run["system"]["cpu"]["logical_cpus"]
    assert "LLM server" in (fleet.results / "tgi/report.html").read_text()
    assert not (fleet.results / "tgi/gamma").exists()

    for state in (tmp_path / "docker-a", tmp_path / "docker-g"):
        (start,) = [each for each in calls(state) if each["arguments"][0] == "run"]
        assert start["secrets"]["HF_TOKEN"] == SECRET
        assert calls(state)[-1]["arguments"][:2] == ["rm", "--force"]
        assert not (state / "container.json").exists()
