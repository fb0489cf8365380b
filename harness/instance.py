"""This process as one of several instances of a command, started by harness.instances.

In a process that runs alone, nothing here has an effect.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from harness.cli import UserError

VARIABLE = "EDGE_CLOUD_INSTANCE"  # of the environment: file descriptor, number, count, folder


@dataclass
class Instance:
    number: int  # from 1 on; the first writes the outputs that the user asked for
    count: int
    folder: Path  # for files of which the user wants one only
    pipe: Connection  # to the process that coordinates
    _is_done: bool = False

    def wait_for_others(self) -> None:
        """Until all instances are as far. Raises UserError where they never will be."""
        self.pipe.send(("ready", None))
        try:
            self.pipe.recv()
        except EOFError:
            raise UserError("the process that started this instance has ended") from None

    def may_stop(self) -> bool:
        """Whether all instances have measured what they have to; this one has."""
        try:
            if not self._is_done:
                self.pipe.send(("done", None))
                self._is_done = True
            return self.pipe.poll()  # what comes is the word to stop, or the end of the pipe
        except OSError:
            return True

    def deliver(self, record: dict, began_s: float, ends_s: Sequence[float]) -> bool:
        """Hand over the record and when its iterations began and ended, by time.perf_counter().

        False where nobody is there to take it.
        """
        try:
            self.pipe.send(("record", (record, began_s, list(ends_s))))
        except OSError:
            return False
        return True


@functools.cache
def current() -> Instance | None:
    """None in a process that runs alone."""
    text = os.environ.pop(VARIABLE, "")
    if not text:
        return None
    descriptor, number, count, folder = text.split(",", 3)
    return Instance(int(number), int(count), Path(folder), Connection(int(descriptor)))


def wait_for_others() -> None:
    if one := current():
        one.wait_for_others()


def own_path(path: Path | None, default: str) -> Path | None:
    """Where this instance writes an output: the first one to `path`, the others elsewhere."""
    one = current()
    if one is None or one.number == 1:
        return path
    return one.folder / f"{one.number}-{path.name if path else default}"
