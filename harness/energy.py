"""The energy that the machine's own counters tell: CPU packages and memory (RAPL), NVIDIA GPUs (NVML).

RAPL is read through Linux's powercap, which shows AMD's counters in the same tree and by the same names as Intel's. They are of
the whole machine, whatever ran on it, and of neither fans, disks nor losses in the power supply.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from harness import gpu, system

POWERCAP = Path("/sys/class/powercap")
# A counter overflows: after 262 kJ on Intel's servers, after 66 kJ on AMD's, which is 2 minutes at 500 W.
INTERVAL_S = 30.0
COUNTED = ("package", "dram")  # in energy per unit of work: they hold nothing twice
NO_RAPL = "no RAPL: a virtual machine or container, or a CPU without it"
REFUSED = "RAPL's counters are for root only: run as root, or once as root chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj"


@dataclass
class Zone:
    """One of RAPL's counters, in microjoules."""

    part: str  # package, dram or psys
    path: Path
    range_uj: int  # it starts again at 0 from here
    last_uj: int
    passed_uj: int = 0

    def read(self) -> None:
        """Count what has passed since the last reading. Raises OSError or ValueError where it does not tell."""
        now_uj = _number(self.path / "energy_uj")
        self.passed_uj += (now_uj - self.last_uj) % self.range_uj
        self.last_uj = now_uj


def zones(root: Path) -> list[Zone]:
    """The counters that count. Those within another are left out: core and uncore are parts of the package.

    Raises OSError or ValueError where one can't be read.
    """
    found = []
    for path in sorted(root.glob("intel-rapl:*")):  # intel-rapl-mmio:* is a second way to the same packages
        name = system.read(path / "name") or ""  # a container may hide what the link leads to
        part = "package" if name.startswith("package-") else name
        if part in ("package", "dram", "psys"):
            found.append(Zone(part, path, _number(path / "max_energy_range_uj"), _number(path / "energy_uj")))
    return found


def _number(path: Path) -> int:
    return int(path.read_text())


class Meter:
    """What was used from start() to stop(). A thread reads RAPL every 30 s, so that no overflow is missed; none without RAPL.

    After stop():

    joules : by part: package (all sockets), dram (all sockets' memory, besides the packages), psys (the platform, which holds
        both), gpu (all NVIDIA GPUs). What is not told is not in it; None where nothing is.
    unknown : why RAPL told nothing; None where it did.

    Parameters
    ----------
    root : the folder of powercap's zones.
    nvml : the NVML binding; by default pynvml, where it is installed.
    """

    def __init__(self, root: Path = POWERCAP, nvml=None, interval_s: float = INTERVAL_S):
        self.joules, self.unknown = None, None
        self._root, self._interval_s, self._zones = root, interval_s, []
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
        else:
            if not any(zone.part == "package" for zone in self._zones):
                self.unknown = NO_RAPL
        if self.unknown is None:
            self._thread.start()

    def stop(self) -> None:
        joules = {}
        if self._thread.ident is not None:
            self._stopped.set()
            self._thread.join()
            self._read()
            joules = self._told()
        before_j, after_j = self._gpu_before_j, self._gpus.read_j()
        self._gpus.close()
        if None not in (before_j, after_j):
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

    def _told(self) -> dict[str, float]:
        by_part: dict[str, list[float]] = {}
        for zone in self._zones:
            by_part.setdefault(zone.part, []).append(zone.passed_uj / 1e6)
        if not sum(by_part["package"]):
            self.unknown = self.unknown or "RAPL's counters stood still"  # as in some virtual machines
        if self.unknown:
            return {}
        # A machine has one psys, though more than one socket may have a counter for it.
        return {part: max(values) if part == "psys" else sum(values) for part, values in by_part.items()}
