"""Memory that is still available, to this machine or to its container."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path

import psutil

from harness import system
from harness.system import read

EVERY_S = 0.5
VERSIONS = (  # of cgroups, 2 and 1: files of a limit and of what is used, and cache in memory.stat
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
MIN_SHARE = 0.1  # of the memory, to be left available by what is tried


def available(root: Path = system.CGROUP, own: Path = Path("/proc/self/cgroup")) -> tuple[int, int]:
    """Bytes that can still be used, and bytes in all; a cgroup's where its limit leaves less."""
    machine = psutil.virtual_memory()
    left, total = machine.available, machine.total
    for folder in system.cgroups("memory", root, own):
        for limit_name, used_name, cached_name in VERSIONS:
            limit, used = read(folder / limit_name), read(folder / used_name)
            if limit and used and limit.isdigit() and int(limit) < machine.total:
                stat = read(folder / "memory.stat") or ""
                cached = re.search(rf"^{cached_name} (\d+)", stat, re.MULTILINE)
                left = min(left, int(limit) - int(used) + (int(cached[1]) if cached else 0))
                total = min(total, int(limit))
    return left, total


def lacking(needed_bytes: float) -> str | None:
    """Why something is not tried that would take so much; None where it leaves MIN_SHARE."""
    left, total = available()
    if needed_bytes <= left - MIN_SHARE * total:
        return None
    have = f"{left / 2**30:.0f} GiB are free"
    return f"would take about {needed_bytes / 2**30:.0f} GiB of memory, {have}: not tried"


class Lowest:
    """The fewest bytes that were `available` during the `with` block."""

    def __init__(self, available: Callable[[], tuple[int, int]] = available):
        self._available, self._ended = available, threading.Event()
        self.bytes = available()[0]

    def __enter__(self) -> Lowest:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._ended.wait(EVERY_S):
            self.bytes = min(self.bytes, self._available()[0])

    def __exit__(self, *error) -> None:
        self._ended.set()
        self._thread.join()
        self.bytes = min(self.bytes, self._available()[0])
