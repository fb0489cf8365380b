"""Capacity over several processes: instances that share the streams, and a workload beside them.

A child prepares as capacity.py does, hands over its Job without `play`, and then plays the streams
that it is told to. Streams have the same numbers, and so the same arrivals, whoever plays them.
"""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness import children, cli, instance, instances, layouts, progress
from harness.capacity import Beside, Job, Limit, Play, Stream
from harness.children import Child, Start
from harness.cli import UserError
from harness.topology import Slot

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = "capacity.py"
OTHER = 0  # the number of an instance that is another workload


@dataclass(frozen=True)
class Offer:
    """What a child hands over once it is ready."""

    job: Job  # without `play`
    name: str  # what a stream is called
    count: int  # the first number that it would try
    limit: Limit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    instances.add_layout_arguments(parser)
    finds = "try layouts of instances for so many minutes (default: 20), then search with the one "
    finds += "that carries most"
    add = parser.add_argument
    add("--tune", type=cli.positive_float, nargs="?", const=20.0, metavar="MIN", help=finds)
    beside = 'search beside another workload at a fixed load, e.g. "llm-workload/capacity.py '
    beside += '--min_users 4": a number is sustained where that workload is within its limit, too'
    add("--beside", metavar="COMMAND", help=beside)


@contextlib.contextmanager
def job(
    args: argparse.Namespace,
    prepare: Callable[[argparse.Namespace], Job],
    name: str,
    limit: Limit = Limit(),
) -> Iterator[Job]:
    """What is to be searched: by this process, or by the instances that were requested.

    In a child it does not return: that plays until it is told to end. Raises UserError.
    """
    if instance.current():
        sys.exit(_serve(Offer(prepare(args), name, getattr(args, f"min_{name}s"), limit)))

    @contextlib.contextmanager
    def over(args: argparse.Namespace, slots: Sequence[Slot]) -> Iterator[Job]:
        with contextlib.ExitStack() as running:
            found = running.enter_context(_instances(args, slots)) if slots else prepare(args)
            if args.beside:
                found = running.enter_context(_beside(args.beside, found))
            yield found

    tried: Sequence[layouts.Tried] = ()
    if args.tune and not args.topology:
        tried = layouts.choose(
            args, lambda trial: over(trial, instances.layout(trial)), name, limit
        )
    slots = instances.layout(args) if instances.requested(args) else []
    if slots:
        instances.print_layout(slots)
    if args.topology:
        sys.exit(cli.EXIT_OK)
    with over(args, slots) as found:
        yield replace(found, layouts=[each.row(name) for each in tried])


def _serve(offer: Offer) -> int:
    one, play = instance.current(), offer.job.play
    assert one
    extra = None if one.number == OTHER else offer.job.extra
    one.pipe.send(("offer", replace(offer, job=replace(offer.job, play=_nothing, extra=extra))))
    while True:
        try:
            numbers, begins_s, duration_s = one.pipe.recv()
        except EOFError:
            return 0
        one.pipe.send(("streams", play(numbers, begins_s, duration_s)))


def _nothing(numbers: Sequence[int], begins_s: float, duration_s: float) -> list[Stream]:
    return []


@contextlib.contextmanager
def _instances(args: argparse.Namespace, slots: Sequence[Slot]) -> Iterator[Job]:
    warning = children.numactl_problem(slots[0])
    with children.started(instances.starts(slots), not warning) as running:
        with progress.stage(f"{len(slots)} instances: loading"):
            jobs = [offer.job for offer in children.gather(running, "offer")]
        described = jobs[0].described
        warnings = [*described.get("warnings", ()), *([warning] if warning else [])]
        shown = {**described.get("configuration", {}), **instances.configuration(args, slots)}
        placement = instances.placement([each.described["placement"] for each in jobs])
        changed = {"configuration": shown, "placement": placement, "warnings": warnings}
        yield replace(jobs[0], described={**described, **changed}, play=_over(running))


def _over(running: Sequence[Child]) -> Play:
    """Streams dealt out to children in turn."""

    def play(numbers: Sequence[int], begins_s: float, duration_s: float) -> list[Stream]:
        for index, child in enumerate(running):
            child.send((list(numbers[index :: len(running)]), begins_s, duration_s))
        by_child = children.gather(running, "streams")
        return [by_child[i % len(running)][i // len(running)] for i in range(len(numbers))]

    return play


@contextlib.contextmanager
def _beside(text: str, own: Job) -> Iterator[Job]:
    with children.started([start_of(text)], False) as running:
        with progress.stage(f"Beside: loading {text}"):
            (offer,) = children.gather(running, "offer")
        what = f"{offer.count} {offer.name}(s) of {offer.job.described['workload']}"
        print(f"Beside: {what}\n", flush=True)
        theirs = offer.job.described
        task = {**own.described["task"], "beside": what}
        task |= {f"beside: {name}": value for name, value in theirs["task"].items()}
        kept = ("workload", "task", "model", "input", "placement", "comparable_by", "configuration")
        beside = Beside(
            {"command": text, "streams": offer.count, "called": offer.name}
            | {key: theirs[key] for key in kept if key in theirs},
            offer.limit,
            lambda begins_s, duration_s: running[0].send(
                (range(offer.count), begins_s, duration_s)
            ),
            lambda: children.gather(running, "streams")[0],
        )
        yield replace(own, described={**own.described, "task": task}, beside=beside)


def start_of(text: str) -> Start:
    """What --beside names: "llm-workload/capacity.py --min_users 4", or as it is typed in a shell:
    "cd llm-workload && python3 capacity.py --min_users 4". Raises UserError.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UserError(f"--beside: {error}") from None
    folder = Path(".")
    if words[:1] == ["cd"] and words[2:3] == ["&&"]:
        folder, words = Path(words[1]), words[3:]
    if words and Path(words[0]).name.startswith("python"):
        words = words[1:]
    script = ROOT / folder / (words[0] if words else "")
    if script.name != SCRIPT or not script.is_file():
        raise UserError(
            f'--beside "{text}": name a workload\'s {SCRIPT}, e.g. llm-workload/{SCRIPT}'
        )
    python = script.with_name(".venv") / "bin/python"
    if not python.exists():
        raise UserError(
            f"{script.parent.name} is not set up: ./run.sh --prepare does it (--beside)"
        )
    command = [str(python), script.name, *words[1:]]
    return Start(f"the workload beside ({script.parent.name})", command, script.parent, None, OTHER)
