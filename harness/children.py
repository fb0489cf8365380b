"""Instances of commands that this process starts (harness.instance), and the messages they send."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from harness import instance, system
from harness.cli import UserError
from harness.topology import Slot, numactl

GRACE_S = 4.0  # for what was measured to be handed over, when one has ended early
LAST = "record"  # the kind of the last message


class Ended(UserError):
    """A child ended before it had sent what it was to send."""


@dataclass(frozen=True)
class Start:
    """How to start a child."""

    name: str  # in messages
    command: Sequence[str]
    folder: Path
    slot: Slot | None = None  # None: on all CPUs of this process
    number: int = 1  # see harness.instance
    count: int = 1


@dataclass
class Child:
    name: str
    process: subprocess.Popen
    pipe: Connection
    log: Path  # what it prints
    is_open: bool = True
    messages: dict[str, Any] = field(default_factory=dict)  # the last of each kind

    def receive(self) -> None:
        """Take the next message, or the end of the pipe."""
        try:
            kind, content = self.pipe.recv()
            self.messages[kind] = content
        except (EOFError, OSError):
            self.is_open = False

    def send(self, message: Any) -> None:
        with contextlib.suppress(OSError):
            self.pipe.send(message)

    def is_finished(self) -> bool:
        return not self.is_open or LAST in self.messages

    def how_it_ended(self) -> str:
        status = self.process.wait()
        lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines()]
        errors = [line for line in lines if line.startswith("error: ")]
        last = (errors or [line for line in lines if line] or [""])[-1].removeprefix("error: ")
        if status >= 0 and last:
            return last
        how = f"exit status {status}" if status >= 0 else signal.Signals(-status).name
        return f"{self.name} ended ({how})" + (f"; its last line: {last}" if last else "")


def gather(children: Sequence[Child], kind: str) -> list[Any]:
    """This message's content of each; None of one that has sent its LAST instead.

    Raises Ended where one ends without.
    """
    while waiting := [c for c in children if kind not in c.messages and LAST not in c.messages]:
        for child in waiting:
            if not child.is_open:
                raise Ended(child.how_it_ended())
        ready = wait([child.pipe for child in waiting])
        for child in waiting:
            if child.pipe in ready:
                child.receive()
    take = dict.get if kind == LAST else dict.pop  # LAST stays: with it a child is finished
    return [take(child.messages, kind, None) for child in children]


def end(children: Sequence[Child]) -> None:
    """Ask those that run to end, take what they hand over, and kill those that take too long."""
    running = [child for child in children if not child.is_finished()]
    for child in running:
        child.process.terminate()
    kill_at_s = time.monotonic() + GRACE_S
    for child in running:
        while not child.is_finished():
            if not child.pipe.poll(max(0.0, kill_at_s - time.monotonic())):
                child.process.kill()
            child.receive()


@contextlib.contextmanager
def started(starts: Sequence[Start], with_numactl: bool) -> Iterator[list[Child]]:
    """Children that run as long as the block, at most."""
    children: list[Child] = []
    with tempfile.TemporaryDirectory(prefix="instances-") as scratch:
        try:
            for index, each in enumerate(starts):
                children.append(_start(each, Path(scratch), index, with_numactl))
            yield children
        finally:
            for child in children:
                child.pipe.close()
            for child in children:
                if not child.is_finished():
                    child.process.terminate()
                try:
                    child.process.wait(GRACE_S)
                except subprocess.TimeoutExpired:
                    child.process.kill()
                    child.process.wait()


def _start(start: Start, scratch: Path, index: int, with_numactl: bool) -> Child:
    ours, its = Pipe()
    log = scratch / f"{index}.log"
    described = f"{its.fileno()},{start.number},{start.count},{scratch}"
    env = {**os.environ, instance.VARIABLE: described}
    command = [sys.executable, str(Path(__file__).with_name("tied.py")), str(os.getpid())]
    mask = os.sched_getaffinity(0)
    if start.slot:
        env["OMP_NUM_THREADS"] = str(len(start.slot.cpus))
        command += numactl(start.slot) if with_numactl else []
    try:
        os.sched_setaffinity(0, start.slot.cpus if start.slot else mask)  # the child inherits it
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, *start.command],
                cwd=start.folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches it from here only
                pass_fds=[its.fileno()],
            )
    finally:
        os.sched_setaffinity(0, mask)
        its.close()
    return Child(start.name, process, ours, log)


def numactl_problem(slot: Slot) -> str | None:
    """Why memory is not bound to its node; None where it can be."""
    if not shutil.which("numactl"):
        why = "numactl is not installed"
    elif system.output(*numactl(slot), "true") is None:
        why = "numactl is refused here, as in some containers"
    else:
        return None
    return f"{why}: instances are pinned, but memory is not bound to their NUMA node"
