"""Energy from simulated counters; where the machine has real ones, those too."""

import argparse
import errno
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness import energy, record, run, system
from harness.monitor import SystemMonitor

RANGE_UJ = 262_143_328_850  # of a server's package


class Error(Exception):
    pass


def nvml_of(*joules):
    """GPUs whose energy counters stand there; None: it has none."""

    def energy_mj(handle):
        if joules[handle] is None:
            raise Error
        return joules[handle] * 1000

    return SimpleNamespace(
        NVMLError=Error,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: len(joules),
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetTotalEnergyConsumption=energy_mj,
    )


class Tree:
    """A powercap tree, flat as /sys/class/powercap is."""

    def __init__(self, root: Path, range_uj: int = RANGE_UJ):
        self.root, self.range_uj = root, range_uj

    def zone(self, folder: str, name: str, joules: float = 0.0) -> "Tree":
        path = self.root / folder
        path.mkdir(parents=True)
        (path / "name").write_text(f"{name}\n")
        (path / "max_energy_range_uj").write_text(f"{self.range_uj}\n")
        self.put(folder, joules)
        return self

    def put(self, folder: str, joules: float) -> None:
        """At once, as the kernel does: never half a number."""
        fresh = self.root / folder / "fresh"
        fresh.write_text(f"{round(joules * 1e6)}\n")
        os.replace(fresh, self.root / folder / "energy_uj")

    def passed(self, joules: dict[str, float], **how) -> energy.Meter:
        """A meter over a time in which the counters came to these values."""
        meter = energy.Meter(self.root, nvml=nvml_of(), **how)
        meter.start()
        for folder, value in joules.items():
            self.put(folder, value)
        meter.stop()
        return meter


def test_the_package_is_counted_and_its_cores_are_not_counted_again(tmp_path):
    tree = (
        Tree(tmp_path)
        .zone("intel-rapl:0", "package-0", 1000)
        .zone("intel-rapl:0:0", "core", 500)
        .zone("intel-rapl:0:1", "uncore")
    )
    meter = tree.passed({"intel-rapl:0": 1250.5, "intel-rapl:0:0": 700, "intel-rapl:0:1": 20})
    assert meter.joules == {"package": pytest.approx(250.5)} and meter.unknown is None


def test_sockets_and_their_memory_are_added_up_but_the_second_way_to_them_is_not(tmp_path):
    tree = Tree(tmp_path)
    for socket in (0, 1):
        tree.zone(f"intel-rapl:{socket}", f"package-{socket}").zone(
            f"intel-rapl:{socket}:0", "dram"
        )
    tree.zone("intel-rapl-mmio:0", "package-0")
    meter = tree.passed(
        {
            "intel-rapl:0": 300,
            "intel-rapl:1": 200,
            "intel-rapl:0:0": 40,
            "intel-rapl:1:0": 30,
            "intel-rapl-mmio:0": 300,
        }
    )
    assert meter.joules == {"package": 500, "dram": 70}


def test_dies_of_a_package_are_added_up_and_the_platform_is_counted_once(tmp_path):
    tree = (
        Tree(tmp_path)
        .zone("intel-rapl:0", "package-0-die-0")
        .zone("intel-rapl:1", "package-0-die-1")
    )
    tree.zone("intel-rapl:2", "psys").zone("intel-rapl:3", "psys")
    meter = tree.passed(
        {"intel-rapl:0": 10, "intel-rapl:1": 20, "intel-rapl:2": 50, "intel-rapl:3": 50}
    )
    assert meter.joules == {"package": 30, "psys": 50}


def test_a_counter_that_started_again_at_0_has_gone_on(tmp_path):
    meter = (
        Tree(tmp_path)
        .zone("intel-rapl:0", "package-0", RANGE_UJ / 1e6 - 100)
        .passed({"intel-rapl:0": 25})
    )
    assert meter.joules == {"package": pytest.approx(125)}


def test_a_counter_that_overflows_again_and_again_is_followed(tmp_path):
    tree = Tree(tmp_path, range_uj=100_000_000).zone("intel-rapl:0", "package-0", 90)
    meter = energy.Meter(tree.root, nvml=nvml_of(), interval_s=0.01)
    meter.start()
    for joules in (
        10,
        90,
        10,
        90,
        15,
    ):  # 20 + 80 + 20 + 80 + 25; from the ends alone it looks like 25
        tree.put("intel-rapl:0", joules)
        deadline_s = time.perf_counter() + 10
        while meter._zones[0].last_uj != joules * 1e6 and time.perf_counter() < deadline_s:
            time.sleep(0.01)
    meter.stop()
    assert meter.joules == {"package": pytest.approx(225)}


def test_the_counters_are_read_often_enough_for_500_w_on_amd():
    assert 500 * 2 * energy.INTERVAL_S < 65_532


def test_counters_for_root_only_are_said_to_be_so(tmp_path, monkeypatch):
    tree = Tree(tmp_path).zone("intel-rapl:0", "package-0").zone("intel-rapl:0:0", "dram")
    read_text = Path.read_text

    def refuse(path, *args, **how):
        if path.name == "energy_uj":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return read_text(path, *args, **how)

    monkeypatch.setattr(Path, "read_text", refuse)
    meter = tree.passed({"intel-rapl:0": 5})
    assert meter.joules is None and "root" in meter.unknown and "chmod" in meter.unknown


def no_folder(root: Path) -> None:
    root.rmdir()


def no_zones(root: Path) -> None:
    (root / "intel-rapl").mkdir()


def hidden_by_a_container(root: Path) -> None:
    (root / "intel-rapl:0").symlink_to(root / "masked" / "intel-rapl:0")


@pytest.mark.parametrize("make", [no_folder, no_zones, hidden_by_a_container])
def test_without_rapl_nothing_is_known_but_the_reason(tmp_path, make):
    root = tmp_path / "powercap"
    root.mkdir()
    make(root)
    meter = Tree(root).passed({})
    assert meter.joules is None and meter.unknown.startswith("no RAPL")


def test_counters_that_stand_still_count_for_nothing(tmp_path):
    meter = (
        Tree(tmp_path)
        .zone("intel-rapl:0", "package-0", 7)
        .zone("intel-rapl:0:0", "dram")
        .passed({"intel-rapl:0:0": 3})
    )
    assert meter.joules is None and "stood still" in meter.unknown


def test_a_counter_that_is_lost_while_measuring_counts_for_nothing(tmp_path):
    tree = Tree(tmp_path).zone("intel-rapl:0", "package-0").zone("intel-rapl:0:0", "dram")
    meter = energy.Meter(tree.root, nvml=nvml_of())
    meter.start()
    tree.put("intel-rapl:0", 5)
    (tree.root / "intel-rapl:0:0" / "energy_uj").unlink()
    meter.stop()
    assert meter.joules is None and "can't be read" in meter.unknown


@pytest.mark.parametrize(
    "before, after, joules",
    [((75, 25), (150, 30), {"gpu": 80}), ((75, None), (150, None), None), ((), (), None)],
)
def test_gpus_are_counted_by_nvml_all_together_or_not_at_all(tmp_path, before, after, joules):
    nvml = nvml_of(*before)
    meter = energy.Meter(tmp_path, nvml=nvml)
    meter.start()
    nvml.nvmlDeviceGetTotalEnergyConsumption = nvml_of(*after).nvmlDeviceGetTotalEnergyConsumption
    meter.stop()
    assert meter.joules == joules and meter.unknown.startswith("no RAPL")


def test_without_a_driver_there_is_no_gpu_and_no_error(tmp_path):
    def no_driver():
        raise Error

    meter = energy.Meter(tmp_path, nvml=SimpleNamespace(NVMLError=Error, nvmlInit=no_driver))
    meter.start()
    meter.stop()
    assert meter.joules is None


def monitored(root: Path, error: BaseException | None = None) -> SystemMonitor:
    """80 J of a package, 20 J of its memory and 1000 J of the platform pass, then this error."""
    tree = Tree(root).zone("intel-rapl:0", "package-0").zone("intel-rapl:0:0", "dram")
    tree.zone("intel-rapl:1", "psys")
    with SystemMonitor(powercap=root) as monitor:
        for folder, joules in (
            ("intel-rapl:0", 80),
            ("intel-rapl:0:0", 20),
            ("intel-rapl:1", 1000),
        ):
            tree.put(folder, joules)
        if error:
            raise error
    return monitor


def monitored_without_counters(root: Path) -> SystemMonitor:
    with SystemMonitor(powercap=root / "none") as monitor:
        pass
    return monitor


def per_unit_j(monitor: SystemMonitor, device: str = "CPU", count: float = 400) -> float | None:
    return energy.per_unit_j(monitor.usage, monitor.status, device, count)


def test_energy_per_unit_is_of_package_and_memory_but_not_of_the_platform_again(tmp_path):
    monitor = monitored(tmp_path)
    assert monitor.usage["energy_unknown"] is None
    joules = monitor.usage["energy_j"]
    assert (joules["package"], joules["dram"], joules["psys"]) == (80, 20, 1000)
    assert per_unit_j(monitor) == 0.25
    del joules["dram"]
    assert per_unit_j(monitor) == 0.2
    del joules["package"]
    assert per_unit_j(monitor) is None


def test_energy_per_unit_is_not_known_without_counters_or_for_other_devices_or_cut_short(tmp_path):
    without = monitored_without_counters(tmp_path)
    assert without.usage["energy_unknown"].startswith("no RAPL") and per_unit_j(without) is None
    whole = monitored(tmp_path / "whole")
    assert per_unit_j(whole, device="GPU") is None  # a graphics card is not in these counters
    assert per_unit_j(whole, count=0) is None
    interrupted = monitored(tmp_path / "interrupted", error=KeyboardInterrupt())
    assert interrupted.usage["energy_j"]["package"] == 80
    assert interrupted.status == "interrupted" and per_unit_j(interrupted) is None


def recorded(monitor: SystemMonitor) -> dict:
    joules = per_unit_j(monitor)
    samples = {"rtfx": [[10.0]]}
    if joules is not None:
        samples["energy_per_audio_second_j"] = [[joules]]
    return run.build(
        argparse.Namespace(),
        workload="audio",
        title="Audio AI",
        primary="rtfx",
        samples=samples,
        task={},
        work=[],
        model=None,
        input={"name": "sample.wav", "sha256": "1" * 64},
        system=system.describe(),
        placement={"cpus": [0]},
        monitor=monitor,
        output={},
        check_samples=False,
    )


def test_a_record_has_the_metric_and_what_was_counted(tmp_path):
    found = recorded(monitored(tmp_path))
    record.validate(found)
    metric = found["metrics"]["energy_per_audio_second_j"]
    assert (metric["median"], metric["unit"], metric["better"]) == (
        0.25,
        "J/audio second",
        "lower",
    )
    assert found["context"]["energy counted"] == "package + dram"
    found["usage"]["energy_j"]["package"] = -1.0
    with pytest.raises(record.RecordError, match="energy_j"):
        record.validate(found)


def test_a_record_without_energy_is_valid_too(tmp_path):
    found = recorded(monitored_without_counters(tmp_path))
    record.validate(found)
    assert "energy_per_audio_second_j" not in found["metrics"]
    assert found["context"].get("energy counted") is None
    del found["usage"]["energy_j"], found["usage"]["energy_unknown"]  # as before it was measured
    record.validate(found)


def test_a_real_machine_draws_a_believable_power():
    with SystemMonitor() as monitor:
        time.sleep(1)
    if monitor.usage["energy_unknown"]:
        pytest.skip(monitor.usage["energy_unknown"])
    assert 0.5 < monitor.usage["energy_j"]["package"] / monitor.usage["wall_s"] < 5000
