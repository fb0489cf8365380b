"""Energy from simulated counters; where the machine has real ones, those too."""

import errno
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from simulated import changed, write
from simulated import record as simulated_record

from harness import compare, energy, measure, record, report

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
        NVMLError=Error, nvmlInit=lambda: None, nvmlShutdown=lambda: None, nvmlDeviceGetCount=lambda: len(joules),
        nvmlDeviceGetHandleByIndex=lambda index: index, nvmlDeviceGetTotalEnergyConsumption=energy_mj,
    )  # fmt: skip


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


def test_the_package_is_told_and_its_cores_are_not_counted_again(tmp_path):
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
    meter = tree.passed({"intel-rapl:0": 300, "intel-rapl:1": 200, "intel-rapl:0:0": 40, "intel-rapl:1:0": 30,
                         "intel-rapl-mmio:0": 300})  # fmt: skip
    assert meter.joules == {"package": 500, "dram": 70}


def test_dies_of_a_package_are_added_up_and_the_platform_is_told_once(tmp_path):
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
def test_without_rapl_nothing_is_told_and_the_reason_is(tmp_path, make):
    root = tmp_path / "powercap"
    root.mkdir()
    make(root)
    meter = Tree(root).passed({})
    assert meter.joules is None and meter.unknown.startswith("no RAPL")


def test_counters_that_stand_still_tell_nothing(tmp_path):
    meter = (
        Tree(tmp_path)
        .zone("intel-rapl:0", "package-0", 7)
        .zone("intel-rapl:0:0", "dram")
        .passed({"intel-rapl:0:0": 3})
    )
    assert meter.joules is None and "stood still" in meter.unknown


def test_a_counter_that_is_lost_meanwhile_tells_nothing(tmp_path):
    tree = Tree(tmp_path).zone("intel-rapl:0", "package-0").zone("intel-rapl:0:0", "dram")
    meter = energy.Meter(tree.root, nvml=nvml_of())
    meter.start()
    tree.put("intel-rapl:0", 5)
    (tree.root / "intel-rapl:0:0" / "energy_uj").unlink()
    meter.stop()
    assert meter.joules is None and "can't be read" in meter.unknown


@pytest.mark.parametrize(
    "before, after, told",
    [((75, 25), (150, 30), {"gpu": 80}), ((75, None), (150, None), None), ((), (), None)],
)
def test_gpus_are_told_by_nvml_all_together_or_not_at_all(tmp_path, before, after, told):
    nvml = nvml_of(*before)
    meter = energy.Meter(tmp_path, nvml=nvml)
    meter.start()
    nvml.nvmlDeviceGetTotalEnergyConsumption = nvml_of(*after).nvmlDeviceGetTotalEnergyConsumption
    meter.stop()
    assert meter.joules == told and meter.unknown.startswith("no RAPL")


def test_without_a_driver_there_is_no_gpu_and_no_error(tmp_path):
    def no_driver():
        raise Error

    meter = energy.Meter(tmp_path, nvml=SimpleNamespace(NVMLError=Error, nvmlInit=no_driver))
    meter.start()
    meter.stop()
    assert meter.joules is None


def watched(
    root: Path, *, package_j: float = 80.0, dram_j: float = 20.0, error=None
) -> measure.Watch:
    tree = Tree(root).zone("intel-rapl:0", "package-0").zone("intel-rapl:0:0", "dram")
    tree.zone("intel-rapl:1", "psys")
    with measure.Watch(powercap=root) as watch:
        for folder, joules in {
            "intel-rapl:0": package_j,
            "intel-rapl:0:0": dram_j,
            "intel-rapl:1": 1000,
        }.items():
            tree.put(folder, joules)
        if error:
            raise error
    return watch


def test_a_watch_tells_the_joules_and_they_make_a_metric(tmp_path, capsys):
    watch, metrics = watched(tmp_path), {}
    told = watch.usage["energy_j"]
    assert (told["package"], told["dram"], told["psys"]) == (80, 20, 1000) and watch.usage[
        "energy_unknown"
    ] is None
    measure.tell_energy(metrics, watch, "CPU", "audio second", 400)
    metric = metrics["energy_per_audio_second_j"]
    assert (metric["median"], metric["unit"], metric["better"]) == (0.25, "J/audio second", "lower")
    assert capsys.readouterr().out == "Energy: 0.25 J/audio second   (package 80 J, dram 20 J)\n"


def test_no_metric_and_no_line_where_energy_is_not_known(tmp_path, capsys):
    metrics = {}
    with measure.Watch(powercap=tmp_path / "none") as without:
        pass
    assert without.usage["energy_unknown"].startswith("no RAPL")
    measure.tell_energy(metrics, without, "CPU", "token", 100)
    measure.tell_energy(
        metrics, watched(tmp_path / "gpu"), "GPU", "token", 100
    )  # a graphics card is not in these counters
    cut_short = watched(tmp_path / "cut", error=KeyboardInterrupt())
    assert cut_short.status == "interrupted" and cut_short.usage["energy_j"]["package"] == 80
    measure.tell_energy(metrics, cut_short, "CPU", "token", 100)
    assert metrics == {} and capsys.readouterr().out == ""


def with_energy(made: dict, watch: measure.Watch, tokens: float) -> dict:
    made = changed(made, "usage", watch.usage)
    measure.tell_energy(made["metrics"], watch, "CPU", "token", tokens)
    return made


def test_a_record_with_energy_is_valid_and_one_from_before_it_still_is(tmp_path):
    before = simulated_record([1.0] * 6)
    assert "energy_j" not in before["usage"]
    record.validate(before)
    record.validate(with_energy(before, watched(tmp_path), 100))
    with measure.Watch(powercap=tmp_path / "none") as without:
        pass
    record.validate(changed(before, "usage", without.usage))
    with pytest.raises(record.RecordError, match="energy_j"):
        record.validate(changed(before, "usage.energy_j", {"package": -1.0}))


def test_a_comparison_has_its_ratio_and_says_what_it_counted(tmp_path):
    sides = {}
    for side, tokens in (("edge", 200), ("cloud", 100)):
        watch = watched(tmp_path / f"counters-{side}")
        if side == "edge":  # as on a CPU that does not tell its memory's
            del watch.usage["energy_j"]["dram"]
        sides[side] = write(
            tmp_path / side,
            *(with_energy(simulated_record([1.0] * 6), watch, tokens) for _ in range(6)),
        )
    runs, skipped = compare.read_runs([*sides["cloud"], *sides["edge"]])
    (found,) = compare.compare(runs, "cloud")
    ratio = found.ratios["energy_per_token_j"]
    assert not skipped and ratio.ratio == pytest.approx(0.4 / 1.0) and ratio.verdict == "better"
    assert (
        found.units["energy_per_token_j"] == "J/token"
        and report.words("energy_per_token_j") == "energy per token"
    )
    assert found.differences["energy counted"] == ("package + dram", "package")


def test_a_real_machine_draws_a_believable_power():
    with measure.Watch() as watch:
        time.sleep(1)
    if watch.usage["energy_unknown"]:
        pytest.skip(watch.usage["energy_unknown"])
    assert 0.5 < watch.usage["energy_j"]["package"] / watch.usage["wall_s"] < 5000
