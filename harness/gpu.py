"""What the NVIDIA GPUs did during a measurement, by NVML.

Without a GPU or its driver there are no figures, and no error.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Sequence

INTERVAL_S = 0.1
# Of nvmlDeviceGetCurrentClocksEventReasons, as named in nvml.h.
SLOWDOWN_BITS = {"SwPowerCap": 0x04, "HwSlowdown": 0x08, "SwThermalSlowdown": 0x20}
SLOWDOWN_BITS |= {"HwThermalSlowdown": 0x40, "HwPowerBrakeSlowdown": 0x80}


class Sampler:
    """Reads the GPUs every 0.1 s during the `with` block, in a thread of its own.

    After the block `gpus` holds one dict per GPU: index, name, samples, utilization (mean share of
    time that a kernel ran, 0 to 1), utilization_max, memory_used_bytes (largest), power_w (mean),
    power_w_max, energy_j (from the GPU's own counter where it has one, else mean power times time),
    temperature_c (highest), slowdowns (reasons for a reduced clock). What a GPU does not report is
    None. `indices` are the GPUs to read, None for all; `nvml` is the NVML binding (default: pynvml,
    if any).
    """

    def __init__(self, indices: Sequence[int] | None = None, nvml=None):
        self._nvml, self._indices = nvml or _pynvml(), indices
        self.gpus: list[dict] = []

    def __enter__(self) -> Sampler:
        self._handles = _open(self._nvml, self._indices)
        self._samples: dict[int, list[dict]] = {index: [] for index in self._handles}
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
        self._sample()
        while not self._stop.wait(INTERVAL_S):
            self._sample()

    def _sample(self) -> None:
        nvml, get = self._nvml, self._get
        for index, handle in self._handles.items():
            utilization = get(nvml.nvmlDeviceGetUtilizationRates, handle)
            # Version 2 leaves out what the driver reserves, as nvidia-smi does.
            memory = get(nvml.nvmlDeviceGetMemoryInfo, handle, nvml.nvmlMemory_v2)
            power_mw = get(nvml.nvmlDeviceGetPowerUsage, handle)
            degrees = get(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU)
            sample = {
                "utilization": utilization and utilization.gpu / 100,
                "memory_used_bytes": memory and memory.used,
                "power_w": power_mw and power_mw / 1000,
                "temperature_c": degrees,
                "slowdown": get(nvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle),
            }
            self._samples[index].append(sample)

    def _get(self, function, *arguments):
        try:
            return function(*arguments)
        except self._nvml.NVMLError:  # not supported by this GPU
            return None

    def _energy_mj(self, index: int) -> int | None:
        return self._get(self._nvml.nvmlDeviceGetTotalEnergyConsumption, self._handles[index])

    def _summary(self, index: int) -> dict:
        samples = self._samples[index]
        known = {
            key: [each[key] for each in samples if each[key] is not None] for key in samples[0]
        }
        mean = {key: statistics.fmean(values) for key, values in known.items() if values}
        highest = {key: max(values, default=None) for key, values in known.items()}
        before_mj, after_mj = self._energy_before_mj[index], self._energy_mj(index)
        energy_j = None
        if before_mj is not None and after_mj is not None:
            energy_j = (after_mj - before_mj) / 1000
        elif "power_w" in mean:
            energy_j = mean["power_w"] * (time.perf_counter() - self._started_s)
        reasons = SLOWDOWN_BITS.items()
        return {
            "index": index,
            "name": self._nvml.nvmlDeviceGetName(self._handles[index]),
            "samples": len(samples),
            "utilization": mean.get("utilization"),
            "utilization_max": highest["utilization"],
            "memory_used_bytes": highest["memory_used_bytes"],
            "power_w": mean.get("power_w"),
            "power_w_max": highest["power_w"],
            "energy_j": energy_j,
            "temperature_c": highest["temperature_c"],
            "slowdowns": [name for name, bit in reasons if any(b & bit for b in known["slowdown"])],
        }


class EnergyCounters:
    """All GPUs' own energy counters; `nvml` is the NVML binding (default: pynvml, if any).

    NVML stays open until close(), as an unused driver may reset them.
    """

    def __init__(self, nvml=None):
        self._nvml = nvml or _pynvml()
        self._handles = _open(self._nvml)

    def read_j(self) -> float | None:
        """Used by all GPUs so far; None without a GPU, and where one has no counter."""
        if not self._handles:
            return None
        read_mj = self._nvml.nvmlDeviceGetTotalEnergyConsumption
        try:
            return sum(map(read_mj, self._handles.values())) / 1000
        except self._nvml.NVMLError:
            return None

    def close(self) -> None:
        if self._handles:
            self._nvml.nvmlShutdown()


def _pynvml():
    try:
        import pynvml
    except ImportError:
        return None
    return pynvml


def _open(nvml, indices: Sequence[int] | None = None) -> dict:
    """Start NVML: GPU handles by index, of all GPUs unless named; none without pynvml or driver."""
    if nvml is None:
        return {}
    try:
        nvml.nvmlInit()
        count = nvml.nvmlDeviceGetCount()
        chosen = range(count) if indices is None else [index for index in indices if index < count]
        return {index: nvml.nvmlDeviceGetHandleByIndex(index) for index in chosen}
    except nvml.NVMLError:
        return {}
