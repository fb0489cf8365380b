"""GPU figures from an NVML of known values; where there is a GPU, against nvidia-smi's."""

import shutil
import subprocess
import time
from types import SimpleNamespace

import pytest

from harness.gpu import Sampler


class Error(Exception):
    pass


def nvml_of(watts, energy=True, temperature=None):
    """Two GPUs; the first draws these watts in turn, the second reports nothing but its name."""
    turn = iter(watts)
    begun = time.perf_counter()

    def unsupported(*_):
        raise Error

    def first(answer):
        return lambda handle, *_: answer() if handle == 0 else unsupported()

    return SimpleNamespace(
        NVMLError=Error,
        NVML_TEMPERATURE_GPU=0,
        nvmlMemory_v2=2,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetName=lambda handle: f"GPU {handle}",
        nvmlDeviceGetUtilizationRates=first(lambda: SimpleNamespace(gpu=80)),
        nvmlDeviceGetMemoryInfo=first(lambda: SimpleNamespace(used=2**30)),
        nvmlDeviceGetPowerUsage=first(lambda: next(turn, watts[-1]) * 1000),
        nvmlDeviceGetTemperature=first(lambda: 70),
        nvmlDeviceGetCurrentClocksThrottleReasons=first(lambda: 0x04 | 0x40),
        nvmlDeviceGetTotalEnergyConsumption=first(
            lambda: int((time.perf_counter() - begun) * 250_000)
        )
        if energy
        else unsupported,
    )


@pytest.mark.alone
def test_what_the_gpus_report_is_summed_up_and_what_they_do_not_is_none():
    with Sampler(nvml=nvml_of([100, 300])) as sampler:
        time.sleep(0.5)
    busy, silent = sampler.gpus
    assert (busy["utilization"], busy["utilization_max"]) == pytest.approx((0.8, 0.8))
    assert busy["memory_used_bytes"] == 2**30
    assert busy["power_w_max"] == 300 and 200 <= busy["power_w"] < 300 and 3 <= busy["samples"] <= 7
    assert busy["energy_j"] == pytest.approx(0.5 * 250, rel=0.2)
    assert busy["slowdowns"] == ["SwPowerCap", "HwThermalSlowdown"]
    assert (
        silent["name"] == "GPU 1"
        and silent["power_w"] is silent["energy_j"] is silent["utilization"] is None
    )


@pytest.mark.alone
def test_without_an_energy_counter_power_times_time_is_taken():
    with Sampler([0], nvml=nvml_of([200], energy=False)) as sampler:
        time.sleep(0.5)
    (only,) = sampler.gpus
    assert only["energy_j"] == pytest.approx(0.5 * 200, rel=0.2)


def test_without_a_driver_there_is_nothing_and_no_error():
    def no_driver():
        raise Error

    with Sampler(nvml=SimpleNamespace(NVMLError=Error, nvmlInit=no_driver)) as sampler:
        pass
    assert sampler.gpus == []


def test_a_real_gpus_memory_and_power_are_those_of_nvidia_smi():
    if not shutil.which("nvidia-smi"):
        pytest.skip("no NVIDIA GPU on this machine")
    with Sampler([0]) as sampler:
        time.sleep(1)
        listed = subprocess.run(
            [
                "nvidia-smi",
                "--id=0",
                "--query-gpu=name,memory.used,power.draw",
                "--format=csv,noheader,nounits",
            ],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    name, mib, watts = listed.strip().split(", ")
    (only,) = sampler.gpus
    assert only["name"] == name
    assert only["memory_used_bytes"] / 2**20 == pytest.approx(float(mib), rel=0.05, abs=64)
    assert only["power_w"] == pytest.approx(float(watts), rel=0.25)
