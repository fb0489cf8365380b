"""The layout of instances that carries most live streams, by short trials: capacity.py --tune.

The best layout for one job at full speed need not be that for many users: continuous batching
answers many in one process. So layouts are compared by what they carry. The first is searched; each
other one is asked whether it carries clearly more than the best so far, which most answer with no
by one level.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from harness import capacity, memory, topology, tune
from harness.capacity import Job, Limit
from harness.cli import UserError
from harness.topology import Topology

TRIAL_S = 20.0  # that each number of streams is counted, at most
BETTER = 1 / 8  # more streams than the best layout so far, for another to be better

OpenJob = Callable[[argparse.Namespace], AbstractContextManager[Job]]


@dataclass(frozen=True)
class Tried:
    """A layout, and what came of it."""

    instances: int
    cores: int  # of each
    use_smt: bool
    most: int | None = None  # streams that a short trial sustained; None: see `why`
    why: str | None = None

    def row(self, name: str) -> dict:
        """What the record keeps."""
        layout = {"instances": self.instances, "cores_per_instance": self.cores}
        return {**layout, "smt": self.use_smt, f"{name}s": self.most, "why": self.why}

    def give(self, args: argparse.Namespace) -> None:
        args.instances, args.cores_per_instance = self.instances, self.cores
        args.smt = self.use_smt

    def options(self) -> str:
        smt = " --smt" * self.use_smt
        return f"--instances {self.instances} --cores_per_instance {self.cores}{smt}"


class _Trials:
    """Layouts tried one after another, within a time."""

    def __init__(self, args: argparse.Namespace, open_job: OpenJob, name: str, limit: Limit):
        self._args, self._open_job, self._name, self._limit = args, open_job, name, limit
        self._first, self._last = (getattr(args, f"{end}_{name}s") for end in ("min", "max"))
        self._ends_s = time.monotonic() + 60 * args.tune
        self._longest_s, self._bytes_each = 0.0, 0.0
        self.tried: list[Tried] = []
        self.best: Tried | None = None

    def carries_more(self, machine: Topology, cores: int, use_smt: bool = False) -> bool:
        """Whether as many instances as fit carry more than the best layout so far.

        Raises KeyboardInterrupt.
        """
        layout = Tried(len(topology.layout(machine, None, cores, use_smt)), cores, use_smt)
        most = self.best.most or 0 if self.best else 0
        fewest = most + max(1, int(BETTER * most)) if most else self._first
        if why := self._not_tried(layout, fewest):
            self.tried.append(Tried(layout.instances, cores, use_smt, None, why))
            return False
        print(f"Layout {layout.options()}", flush=True)
        began_s = time.monotonic()
        try:
            found = self._search(layout, fewest, most)
        except UserError as error:
            self.tried.append(Tried(layout.instances, cores, use_smt, None, f"failed: {error}"))
            return False
        self._longest_s = max(self._longest_s, time.monotonic() - began_s)
        why = None if found > most else f"does not carry {fewest} {self._name}(s)"
        self.tried.append(Tried(layout.instances, cores, use_smt, found or None, why))
        if found > most or not self.best:
            self.best = self.tried[-1]
        return found > most

    def _not_tried(self, layout: Tried, fewest: int) -> str | None:
        """Why."""
        if reason := memory.lacking(self._bytes_each * layout.instances):
            return reason
        if fewest > self._last:
            return f"not tried: --max_{self._name}s {self._last} were reached"
        if time.monotonic() + self._longest_s > self._ends_s:
            return "not tried: the time was up (--tune MIN)"
        return None

    def _search(self, layout: Tried, fewest: int, known: int) -> int:
        trial = copy.copy(self._args)
        layout.give(trial)
        trial.duration, trial.min_observations = min(trial.duration, TRIAL_S), 1
        trial.resolution = BETTER
        setattr(trial, f"min_{self._name}s", fewest)
        before, _ = memory.available()
        with self._open_job(trial) as job:
            taken = before - memory.available()[0]
            self._bytes_each = max(self._bytes_each, taken / layout.instances)
            found = capacity.find(job, trial, self._name, None, self._limit, known=known)
        if found.monitor.status != "complete":
            raise KeyboardInterrupt
        return found.most


def choose(
    args: argparse.Namespace,
    open_job: OpenJob,
    name: str,
    limit: Limit,
    machine: Topology | None = None,
) -> Sequence[Tried]:
    """Give `args` the layout that carries most, and the number of streams to begin with.

    Layouts fill the machine with ever smaller instances, until two in a row carry no more; then the
    best one is tried with SMT.

    Parameters
    ----------
    open_job : the Job of a trial's arguments, as players.job() has it, while it is open.
    name, limit : as for capacity.find().
    machine : this one, if None.

    Returns what was tried. Raises UserError, and KeyboardInterrupt.
    """
    if args.instances or args.cores_per_instance or args.smt:
        raise UserError("--tune finds the layout: leave the options of instances out")
    machine = machine or topology.read()
    trials, most = _Trials(args, open_job, name, limit), len(tune.sizes(machine)) + 1
    print(f"Trying up to {most} layouts, {args.tune:g} min at most", flush=True)
    tune.shrink(machine, lambda size: trials.carries_more(machine, size))
    best = trials.best
    if best and any(len(core.cpus) > 1 for core in machine.cores):
        trials.carries_more(machine, best.cores, use_smt=True)
    best = trials.best
    if not best:
        raise UserError(f"no layout could be tried: {trials.tried[0].why}")
    best.give(args)
    setattr(args, f"min_{name}s", best.most or 1)
    print(f"Best layout: {best.options()}\n", flush=True)
    return trials.tried
