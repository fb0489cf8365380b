"""Capacity over several processes: instances that share the streams, and a workload beside them.

A child prepares as capacity.py does, hands over its Job without `play`, and then plays the streams
that it is told to. Streams have the same numbers, and so the same arrivals, whoever plays them.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness import capacity, children, instance, instances, progress
from harness.capacity import Job, Stream
from harness.children import Child

ROOT = Path(__file__).resolve().parent.parent
LEAD_S = 0.3  # from telling children when to begin until then


@dataclass(frozen=True)
class Beside:
    """A fixed number of another workload's streams, played while this one is searched."""

    child: Child
    job: Job
    count: int


@contextlib.contextmanager
def job(args: argparse.Namespace, prepare: Callable[[argparse.Namespace], Job]) -> Iterator[Job]:
    """What is to be searched: by this process, or by the instances that were requested.

    In a child it does not return: it plays until it is told to end. Raises UserError.
    """
    if instance.current():
        sys.exit(_serve(args, prepare(args)))
    if not instances.requested(args):
        yield prepare(args)
        return
    slots = instances.layout(args)
    warning = children.numactl_problem(slots[0])
    with children.started(instances.starts(slots), not warning) as running:
        with progress.stage(f"{len(slots)} instances: loading"):
            jobs = children.gather(running, "job")
        described = jobs[0].described
        described["placement"] = instances.placement([each.described for each in jobs])
        described["configuration"] = {
            **(described.get("configuration") or {}),
            **instances.configuration(args, slots),
        }
        described["warnings"] = [*described.get("warnings", ()), *([warning] if warning else [])]
        yield replace(jobs[0], described=described, play=_over(running))


def _serve(args: argparse.Namespace, own: Job) -> int:
    one = instance.current()
    assert one
    one.pipe.send(("job", replace(own, play=None)))
    while True:
        try:
            numbers, begins_s, duration_s = one.pipe.recv()
        except EOFError:
            return 0
        one.pipe.send(("streams", own.play(numbers, begins_s, duration_s)))


def _over(running: Sequence[Child]) -> capacity.Play:
    """Streams dealt out to children in turn."""

    def play(numbers: Sequence[int], begins_s: float, duration_s: float) -> list[Stream]:
        for index, child in enumerate(running):
            child.send((list(numbers[index :: len(running)]), begins_s, duration_s))
        by_child = children.gather(running, "streams")
        return [by_child[i % len(running)][i // len(running)] for i in range(len(numbers))]

    return play
