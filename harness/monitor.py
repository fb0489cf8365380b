"""What the machine did while samples were taken: load, steal, throttling, memory, energy."""

from __future__ import annotations

import contextlib
import math
import os
import re
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from harness import cli, energy, instance, progress
from harness.cli import UserError

STATES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")  # of a CPU's time


def iterations(
    num_iters: int, min_duration_s: float = 0.0, label: str = "Measuring"
) -> Iterator[int]:
    """0, 1, 2, ...: `num_iters` times, and on until `min_duration_s` have passed.

    One of several instances goes on until all have come that far, so that all run throughout.
    """
    one = instance.current()
    with progress.bar(label, num_iters) as line:
        started, index = time.perf_counter(), 0
        while (
            index < num_iters
            or time.perf_counter() - started < min_duration_s
            or (one and not one.may_stop())
        ):
            yield index
            index += 1
            line.update()


class SystemMonitor:
    """Load of each core and of other processes, steal, throttling and energy of the `with` block.

    Ctrl-C or a UserError inside the block ends it and is kept in `status` and `error`, so that what
    has been measured until then can still be recorded. Counters are read at both ends; only energy
    counters, where the machine has any, every 30 s as well, because they overflow.

    After the block: `status` is "complete", "interrupted" or "failed"; `usage` is the record's;
    `warnings` say what changed meanwhile.
    `keep` tells whether there is anything to record; where there is not, the error passes.
    """

    def __init__(self, powercap: Path = energy.POWERCAP, keep: Callable[[], bool] = lambda: True):
        self._powercap, self._keep = powercap, keep
        self.status: str = "complete"
        self.error: str | None = None
        self.usage: dict = {}
        self.warnings: list[str] = []
        self.began_s = math.nan

    def __enter__(self) -> SystemMonitor:
        self._process = psutil.Process()
        self._meter = energy.Meter(self._powercap)
        self._meter.start()
        self._before = self._counters()
        self.began_s = self._before["time_s"]
        return self

    def __exit__(self, kind, error, trace) -> bool:
        after, before = self._counters(), self._before
        self._meter.stop()
        wall_s = after["time_s"] - before["time_s"]
        busy, steal_s, total_s = [], 0.0, 0.0
        for now, then in zip(after["cpus"], before["cpus"]):
            spent = {name: getattr(now, name, 0.0) - getattr(then, name, 0.0) for name in STATES}
            all_s = sum(spent.values())
            idle_s = spent["idle"] + spent["iowait"] + spent["steal"]
            busy.append(round((all_s - idle_s) / all_s, 3) if all_s > 0 else 0.0)
            steal_s += spent["steal"]
            total_s += all_s
        own = (after["process_s"] - before["process_s"]) / wall_s
        self.usage = {
            "wall_s": wall_s,
            "busy_share_per_cpu": busy,
            "process_cores_busy": own,
            "other_cores_busy": max(0.0, sum(busy) - own),
            "steal_share": steal_s / total_s if total_s > 0 else 0.0,
            "throttle_events": after["throttled"] - before["throttled"],
            "mhz_before": before["mhz"],
            "mhz_after": after["mhz"],
            "peak_rss_bytes": peak_rss_bytes(),
            "energy_j": self._meter.joules,
            "energy_unknown": self._meter.unknown,
        }
        if (now_cpus := after["mask"]) != before["mask"]:
            change = f"from {len(before['mask'])} to {len(now_cpus)} CPUs"
            self.warnings.append(f"the CPU mask changed while measuring, {change}")
        if isinstance(error, KeyboardInterrupt):
            self.status, self.error = "interrupted", cli.why_interrupted(error)
        elif isinstance(error, UserError):
            self.status, self.error = "failed", str(error)
        return self.status != "complete" and self._keep()

    def _counters(self) -> dict:
        frequency = psutil.cpu_freq()
        return {
            "time_s": time.perf_counter(),
            "cpus": psutil.cpu_times(percpu=True),
            "process_s": _cpu_time_s(self._process),
            "throttled": _throttle_events(),
            "mask": os.sched_getaffinity(0),
            "mhz": round(frequency.current) if frequency else None,
        }


def _cpu_time_s(process: psutil.Process) -> float:
    """User and system time of a process and of its children, those that have ended, too."""
    total_s = 0.0
    for each in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            total_s += sum(each.cpu_times()[:4])
    return total_s


def peak_rss_bytes() -> int:
    """Largest resident memory of this program so far, mapped files included, and of each of its
    children that still runs.

    From the kernel's high-water mark: getrusage's ru_maxrss is inherited over exec, so it would
    count what the program that started this one held. It is used where the kernel has no mark.
    """
    total = 0
    for each in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{each.pid}/status").read_text()
            found = re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)
            total += int(found[1]) * 1024 if found else 0
    return total or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _throttle_events() -> int:
    counts = Path("/sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/core_throttle_count")
    return sum(int(path.read_text()) for path in counts)
