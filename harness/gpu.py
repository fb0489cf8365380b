"""What the NVIDIA GPUs did during a measurement, through NVML. Without a GPU or its driver: nothing, and no error."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Sequence

INTERVAL_S = 0.1
SLOWDOWN_BITS = {  # of nvmlDeviceGetCurrentClocksEventReasons, as named in nvml.h
    "SwPowerCap": 0x04, "HwSlowdown": 0x08, "SwThermalSlowdown": 0x20, "HwThermalSlowdown": 0x40, "HwPowerBrakeSlowdown": 0x80,
}  # fmt: skip


class Sampler:
    """Reads the GPUs every 0.1 s during the `with` block, in a thread of its own.

    After the block `gpus` holds a dict a GPU: index, name, samples, utilization (mean share of time that a kernel ran, 0 to
    1), utilization_max, memory_used_bytes (largest), power_w (mean), power_w_max, energy_j (from the GPU's own counter where
    it has one, else mean power times time), temperature_c (highest), slowdowns (reasons the clock was held back for).
    What a GPU does not tell is None.

    Parameters
    ----------
    indices : the GPUs to watch; None for all.
    nvml : the NVML binding.
    """

    def __init__(self, indices: Sequence[int] | None = None, nvml=None):
        if nvml is None:
            import pynvml as nvml
        self._nvml, self._indices, self._handles, self.gpus = nvml, indices, {}, []

    def __enter__(self) -> Sampler:
        try:
            self._nvml.nvmlInit()
            count = self._nvml.nvmlDeviceGetCount()
            chosen = range(count) if self._indices is None else [i for i in self._indices if i < count]
            self._handles = {i: self._nvml.nvmlDeviceGetHandleByIndex(i) for i in chosen}
        except self._nvml.NVMLError:  # no driver, no GPU
            self._handles = {}
        self._samples = {index: [] for index in self._handles}
        self._energy_before_mj = {index: self._energy_mj(index) for index in self._handles}
        self._started_s = time.perf_counter()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        if self._handles:
            self._thread.start()
        return self

    def __exit__(self, kind, error, trace) -> None:
        if not self._handles:
            return
        self._stop.set()
        self._thread.join()
        self.gpus = [self._summary(index) for index in self._handles]
        self._nvml.nvmlShutdown()

    def _run(self) -> None:
        self._read()
        while not self._stop.wait(INTERVAL_S):
            self._read()

    def _read(self) -> None:
        nvml = self._nvml
        for index, handle in self._handles.items():
            self._samples[index].append({
                "utilization": self._ask(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100),
                "memory_used_bytes": self._ask(lambda: nvml.nvmlDeviceGetMemoryInfo(handle).used),
                "power_w": self._ask(lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000),
                "temperature_c": self._ask(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
                "slowdown": self._ask(lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)),
            })  # fmt: skip

    def _ask(self, question):
        try:
            return question()
        except self._nvml.NVMLError:  # not supported by this GPU
            return None

    def _energy_mj(self, index: int) -> int | None:
        return self._ask(lambda: self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handles[index]))

    def _summary(self, index: int) -> dict:
        def told(field: str) -> list:
            return [sample[field] for sample in self._samples[index] if sample[field] is not None]

        def mean(field: str) -> float | None:
            return statistics.fmean(told(field)) if told(field) else None

        before, after = self._energy_before_mj[index], self._energy_mj(index)
        power_w = mean("power_w")
        passed_s = time.perf_counter() - self._started_s
        reasons = 0
        for bits in told("slowdown"):
            reasons |= bits
        name = self._nvml.nvmlDeviceGetName(self._handles[index])
        return {
            "index": index,
            "name": name if isinstance(name, str) else name.decode(),
            "samples": len(self._samples[index]),
            "utilization": mean("utilization"),
            "utilization_max": max(told("utilization"), default=None),
            "memory_used_bytes": max(told("memory_used_bytes"), default=None),
            "power_w": power_w,
            "power_w_max": max(told("power_w"), default=None),
            "energy_j": (after - before) / 1000 if None not in (before, after) else power_w and power_w * passed_s,
            "temperature_c": max(told("temperature_c"), default=None),
            "slowdowns": [name for name, bit in SLOWDOWN_BITS.items() if reasons & bit],
        }


class EnergyCounters:
    """All GPUs' own energy counters. NVML stays open from here to close(), as a driver that nobody uses may forget them.

    Parameters
    ----------
    nvml : the NVML binding; by default pynvml, where it is installed.
    """

    def __init__(self, nvml=None):
        self._nvml = nvml
        if nvml is None:
            try:
                import pynvml
            except ImportError:
                return
            self._nvml = pynvml
        try:
            self._nvml.nvmlInit()
        except self._nvml.NVMLError:  # no driver
            self._nvml = None

    def read_j(self) -> float | None:
        """By all GPUs so far; None without a GPU, and where one has no counter."""
        if self._nvml is None:
            return None
        try:
            handles = [self._nvml.nvmlDeviceGetHandleByIndex(index) for index in range(self._nvml.nvmlDeviceGetCount())]
            return sum(self._nvml.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in handles) / 1000 if handles else None
        except self._nvml.NVMLError:
            return None

    def close(self) -> None:
        if self._nvml is not None:
            self._nvml.nvmlShutdown()
