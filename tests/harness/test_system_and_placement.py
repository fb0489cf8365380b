import argparse
import os
import subprocess
import sys

import pytest
from conftest import REPO

from harness import system
from harness.cli import UserError
from harness.openvino_setup import Placement
from harness.system import physical_cores


def test_the_machine_is_described_as_the_kernel_tells_it():
    described = system.describe()
    with open("/proc/meminfo") as meminfo:
        kib = int(meminfo.readline().split()[1])
    assert described["memory"]["bytes"] == kib * 1024
    assert described["cpu"]["logical_cpus"] == os.cpu_count()
    assert described["cpu"]["model"] and described["os"]["kernel"] == os.uname().release
    cpu = described["cpu"]
    if cpu["sockets"] and cpu["threads_per_core"]:
        assert cpu["sockets"] * cpu["cores_per_socket"] * cpu["threads_per_core"] >= 1
    assert described["software"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert described["software"]["packages"]["psutil"]


@pytest.mark.parametrize(
    "files, cloud, instance_type",
    [
        ({"sys_vendor": "Amazon EC2", "product_name": "m7i.48xlarge"}, "AWS EC2", "m7i.48xlarge"),
        ({"sys_vendor": "Dell Inc.", "product_name": "PowerEdge XR4520c"}, None, None),
        ({}, None, None),
    ],
)
def test_a_cloud_instance_tells_its_type_without_a_network(
    tmp_path, monkeypatch, files, cloud, instance_type
):
    for name, text in files.items():
        (tmp_path / name).write_text(text + "\n")
    monkeypatch.setattr(system, "DMI", tmp_path)
    machine = system.describe()["machine"]
    assert (machine["cloud"], machine["instance_type"], machine["product"]) == (
        cloud,
        instance_type,
        files.get("product_name"),
    )


def test_nothing_is_missed_where_tools_are_missing(monkeypatch):
    monkeypatch.setenv("PATH", "/none")
    described = system.describe()
    assert described["cpu"]["model"] and described["cpu"]["sockets"] is None
    assert system.one_line(described)


def placement(threads=None):
    return Placement.from_arguments(argparse.Namespace(threads=threads, precision="auto"))


def test_omp_num_threads_counts_unless_threads_are_given(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "16")
    assert (placement().threads, placement().threads_requested_by) == (16, "OMP_NUM_THREADS")
    assert (placement(4).threads, placement(4).threads_requested_by) == (4, "--threads")
    monkeypatch.setenv("OMP_NUM_THREADS", "8,2")
    assert placement().threads == 8
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert placement().threads is None


@pytest.mark.parametrize("text", ["many", "0", "-2"])
def test_a_wrong_omp_num_threads_is_said(monkeypatch, text):
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    with pytest.raises(UserError, match="OMP_NUM_THREADS"):
        placement()


def python(code: str, *prefix: str) -> str:
    command = [*prefix, sys.executable, "-c", code]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_mask_is_the_one_the_process_was_started_with():
    code = (
        "from argparse import Namespace; from harness.openvino_setup import Placement; "
        "print(Placement.from_arguments(Namespace(threads=1, precision='auto')).cpus)"
    )
    assert python(code, "taskset", "-c", "0") == "(0,)"
    assert physical_cores((0,)) == 1


def test_the_harness_needs_nothing_heavy():
    code = (
        "import sys, harness.record, harness.openvino_setup, harness.model_files, harness.run; "
        "print({'torch', 'openvino', 'numpy'} & set(sys.modules))"
    )
    assert python(code) == "set()"
