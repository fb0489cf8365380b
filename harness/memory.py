"""Memory that is still available, to this machine or to its container."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path

import psutil

from harness.system import read

CGROUPS = Path("/sys/fs/cgroup")
EVERY_S = 0.5
MIN_SHARE = 0.1  # of the memory, to be left available by what is tried


def available() -> tuple[int, int]:
    """Bytes that can still be used, and bytes in all; a cgroup's where its limit leaves less."""
    machine = psutil.virtual_memory()
    left, total = machine.available, machine.total
    named = re.search(r"^0::/(.*)$", read(Path("/proc/self/cgroup")) or "", re.MULTILINE)
    own = CGROUPS / (named[1] if named else "")
    for folder in (own, *own.parents):
        limit, used = read(folder / "memory.max"), read(folder / "memory.current")
        if limit and used and limit.isdigit():
            cached = re.search(r"^inactive_file (\d+)", read(folder / "memory.stat") or "", re.M)
            reclaimable = int(cached[1]) if cached else 0
            left = min(left, int(limit) - int(used) + reclaimable)
            total = min(total, int(limit))
    return left, total


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
