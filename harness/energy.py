"""Energy by the machine's own counters: CPU packages and memory (RAPL), NVIDIA GPUs (NVML).

RAPL is read through Linux's powercap, which shows AMD's counters in the same tree and by the same
names as Intel's. They count all processes of the machine, but not fans, disks and losses in the
power supply.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from harness import gpu, system

POWERCAP = Path("/sys/class/powercap")
# A counter overflows: after 262 kJ on Intel servers; after 66 kJ on AMD's, 2 minutes at 500 W.
INTERVAL_S = 30.0
COUNTED = ("package", "dram")  # in energy per unit of work: neither includes the other
NO_RAPL = "no RAPL: a virtual machine or container, or a CPU without it"
REFUSED = (
    "RAPL's counters are for root only: run as root, "
    "or once as root chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj"
)


def per_unit_j(usage: dict, status: str, device: str, count: float) -> float | None:
    """Joules of CPU packages and memory per unit of work, of `count`; None where not known.

    That is: without a package counter; for an incomplete run, as discarded work used energy too;
    on another `device` of OpenVINO than the CPU, which these counters do not cover. `usage` and
    `status` are those of the SystemMonitor.
    """
    joules = usage["energy_j"] or {}
    if "package" not in joules or status != "complete" or not device.startswith("CPU"):
        return None
    return sum(joules.get(part, 0.0) for part in COUNTED) / count if count > 0 else None


@dataclass
class Zone:
    """One RAPL counter, in microjoules."""

    part: str  # package, dram or psys
    path: Path
    range_uj: int  # the counter restarts at 0 from here
    last_uj: int
    passed_uj: int = 0

    def read(self) -> None:
        """Add what was used since the last reading. Raises OSError or ValueError if unreadable."""
        now_uj = int((self.path / "energy_uj").read_text())
        self.passed_uj += (now_uj - self.last_uj) % self.range_uj
        self.last_uj = now_uj


def zones(root: Path) -> list[Zone]:
    """The counters of packages, memory and platform; core and uncore are parts of the package.

    Raises OSError or ValueError where one can't be read.
    """
    found = []
    for path in sorted(root.glob("intel-rapl:*")):  # intel-rapl-mmio:* has the same packages again
        name = system.read(path / "name") or ""  # a container may hide the link's target
        part = "package" if name.startswith("package-") else name
        if part in ("package", "dram", "psys"):
            numbers = (path / "max_energy_range_uj", path / "energy_uj")
            found.append(Zone(part, path, *(int(number.read_text()) for number in numbers)))
    return found


class Meter:
    """Energy used from start() to stop(). A thread reads RAPL every 30 s, to miss no overflow.

    After stop():

    joules : by part: package (all sockets), dram (all sockets' memory, not in package), psys (the
        platform, which includes both), gpu (all NVIDIA GPUs); only known ones; None without any.
    unknown : why RAPL gave nothing; None where it did.

    `root` is the folder of powercap's zones, `nvml` the NVML binding (default: pynvml, if any).
    """

    def __init__(self, root: Path = POWERCAP, nvml=None, interval_s: float = INTERVAL_S):
        self.joules: dict[str, float] | None = None
        self.unknown: str | None = None
        self._root, self._interval_s = root, interval_s
        self._zones: list[Zone] = []
        self._gpus, self._stopped = gpu.EnergyCounters(nvml), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._gpu_before_j = self._gpus.read_j()
        try:
            self._zones = zones(self._root)
        except PermissionError:
            self.unknown = REFUSED
        except (OSError, ValueError) as error:
            self.unknown = f"RAPL's counters can't be read: {error}"
        if self.unknown is None and not any(zone.part == "package" for zone in self._zones):
            self.unknown = NO_RAPL
        if self.unknown is None:
            self._thread.start()

    def stop(self) -> None:
        joules = {}
        if self._thread.ident is not None:
            self._stopped.set()
            self._thread.join()
            self._read()
            joules = self._rapl_j()
        before_j, after_j = self._gpu_before_j, self._gpus.read_j()
        self._gpus.close()
        if before_j is not None and after_j is not None:
            joules["gpu"] = after_j - before_j
        self.joules = joules or None

    def _run(self) -> None:
        while not self._stopped.wait(self._interval_s):
            self._read()

    def _read(self) -> None:
        try:
            for zone in self._zones:
                zone.read()
        except (OSError, ValueError, ZeroDivisionError) as error:
            self.unknown = f"RAPL's counters can't be read: {error}"

    def _rapl_j(self) -> dict[str, float]:
        by_part: dict[str, list[float]] = {}
        for zone in self._zones:
            by_part.setdefault(zone.part, []).append(zone.passed_uj / 1e6)
        if not sum(by_part["package"]):
            self.unknown = self.unknown or "RAPL's counters stood still"  # as in some VMs
        if self.unknown:
            return {}
        # A machine has one psys, though more than one socket may have a counter for it.
        return {part: (max if part == "psys" else sum)(each) for part, each in by_part.items()}
