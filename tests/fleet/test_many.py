"""Fifty machines: their records are collected in bounded memory."""

import os
import shutil
import time
from pathlib import Path

import psutil
import pytest
import simulated
from conftest import REPO
from fleet_machines import Fleet, recap


def fleet_with_records(folder: Path, count: int) -> Fleet:
    """Machines by local connection, each with records, and a log of 2 MB that does not compress."""
    hosts = {f"host{number:02}": {} for number in range(count)}
    for number, host in enumerate(hosts):
        kit, results = folder / host / "kit/fleet", folder / host / "results/study"
        kit.mkdir(parents=True)
        shutil.copy(REPO / "fleet/study.sh", kit)
        simulated.write(results, simulated.record([100.0 + number] * 8))
        (results / "study.log").write_bytes(os.urandom(2_000_000))
    settings = {
        "ansible_connection": "local",
        "study_dir": f"{folder}/{{{{ inventory_hostname }}}}",
    }
    return Fleet(folder, hosts, **settings)


def collect(fleet: Fleet) -> int:
    """Fetch and compare: bytes that Ansible's own process had in memory at most."""
    printed = fleet.folder / "output"
    with printed.open("w") as file:
        process, peak = fleet.start("--tags", "fetch,report", stdout=file), 0
        while process.poll() is None:
            for each in psutil.Process(process.pid).children():
                try:
                    if any("ansible-playbook" in word for word in each.cmdline()):
                        peak = max(peak, each.memory_info().rss)
                except psutil.Error:
                    pass
            time.sleep(0.1)
    output = printed.read_text()
    assert process.returncode == 0 and peak, output
    assert not any(each["failed"] or each["unreachable"] for each in recap(output).values())
    return peak


@pytest.mark.long
def test_fifty_machines_are_collected_in_the_memory_of_five(tmp_path):
    few, many = (fleet_with_records(tmp_path / str(count), count) for count in (5, 50))
    for_five, for_fifty = collect(few), collect(many)
    for number in range(50):
        name = f"host{number:02}"
        (sent,) = (tmp_path / f"50/{name}/results/study").glob("*.json")
        assert (many.results / "study" / name / sent.name).read_bytes() == sent.read_bytes()
    report = (many.results / "study/report.txt").read_text()
    assert all(f"host{number:02}" in report for number in range(50))
    assert for_fifty < for_five + 40 * 2**20
