"""Several instances of a command side by side, as one run: each pinned, all started together.

The command that the user started coordinates: it loads no model, but starts itself once per
instance (harness.instance), pinned to its cores and, by numactl, to its NUMA node's memory. All
load and warm up; when the last is ready they begin together, and each goes on until the last has
measured what was asked for. Counted are the iterations within the time in which all ran.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import children, cli, instance, progress, run, stats, topology
from harness.cli import UserError
from harness.metrics import Metric
from harness.monitor import SystemMonitor
from harness.topology import Slot

INSIDE = 0.95  # share of an iteration that lies within the time in which all ran
OF_METRIC = ("unit", "better", "label", "definition")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of infer.py."""
    add_layout_arguments(parser)
    tune = "try layouts and options for so many minutes (default: 10): name the best ones"
    add = parser.add_argument
    add("--tune", type=cli.positive_float, nargs="?", const=10.0, metavar="MIN", help=tune)


def add_layout_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("instances").add_argument
    number = "processes side by side, each pinned to its own cores; auto: one per NUMA node, or as "
    number += "many as --cores_per_instance gives"
    add("--instances", type=number_or_auto, metavar="N|auto", help=number)
    cores = "physical cores of each instance (default: as many as there are)"
    add("--cores_per_instance", type=cli.positive_int, metavar="C", help=cores)
    add("--smt", action="store_true", help="let instances use both CPUs of a core (SMT)")
    file = "print the layout and commands for another machine, from the output of `lscpu -J` or "
    file += "`lscpu -J -e` there or from a file of sut/, and measure nothing"
    add("--topology", type=Path, metavar="FILE", help=file)


def number_or_auto(text: str) -> int | str:
    return text if text == "auto" else cli.positive_int(text)


def requested(args: argparse.Namespace) -> bool:
    """Whether this process is to coordinate instances, or to print their layout."""
    names = ("instances", "cores_per_instance", "smt", "topology", "tune")
    return any(getattr(args, name, None) for name in names) and instance.current() is None


def layout(args: argparse.Namespace) -> list[Slot]:
    """Where the instances go; says what is special about it. Raises UserError."""
    if not args.device.startswith("CPU"):
        raise UserError("instances share the CPU's cores: leave --device out")
    machine = topology.from_file(args.topology) if args.topology else topology.read()
    number = None if args.instances == "auto" else args.instances
    slots = topology.layout(machine, number, args.cores_per_instance, args.smt)
    nodes = {node for slot in slots for node in slot.nodes}
    for node in sorted(nodes & machine.nodes_without_memory):
        print(f"warning: NUMA node {node} has no memory: its instances use another node's")
    return slots


def measure(args: argparse.Namespace) -> int:
    """Run an infer.py in the instances that were requested(): the exit status."""
    slots = layout(args)
    print_layout(slots)
    if args.topology:
        return cli.EXIT_OK
    run.check_destination(args)
    alone = None
    if len(slots) > 1:
        short = ("--min_duration", "0")
        alone = measured_together(slots[:1], "One instance alone", 0, short)
        if alone.monitor.status != "complete" or not alone.parts:
            raise UserError(alone.monitor.error or "one instance alone measured nothing")
    together = measured_together(slots, f"{len(slots)} instances")
    if not together.parts:
        if together.monitor.status == "interrupted":
            print(cli.NOTHING_MEASURED, file=sys.stderr)
            return cli.interrupt_status(together.monitor.error)
        raise UserError(together.monitor.error or "the instances measured nothing")
    return run.finish(combine(args, slots, together, alone), args)


def print_layout(slots: Sequence[Slot]) -> None:
    print("\n".join([*topology.lines(slots, own_command()), ""]), flush=True)


def own_command() -> list[str]:
    """The command line without the options of this module, to be repeated by hand: as no part of a
    study."""
    parser = argparse.ArgumentParser(add_help=False)
    add_arguments(parser)
    parser.add_argument("--study")
    _, others = parser.parse_known_args(sys.argv[1:])
    return ["python3", sys.argv[0], *others]


@dataclass(frozen=True)
class Part:
    """What one instance measured."""

    slot: Slot
    record: dict
    began_s: float  # by time.perf_counter(), which all processes share
    ends_s: list[float]  # of its iterations


@dataclass
class Together:
    """What instances measured at the same time."""

    monitor: SystemMonitor
    warnings: list[str]
    parts: list[Part]

    def window_s(self) -> tuple[float, float]:
        """Begin and end of the time in which all ran."""
        began_s = max(part.began_s for part in self.parts)
        return began_s, max(began_s, min(part.ends_s[-1] for part in self.parts))

    def overlap(self) -> float:
        """The time in which all ran, over the longest span of an instance's counted iterations."""
        began_s, ended_s = self.window_s()
        spans_s = []
        for part in self.parts:
            counted = self.iterations(part)
            if counted:
                starts_s = [part.began_s, *part.ends_s]
                spans_s.append(part.ends_s[counted[-1]] - starts_s[counted[0]])
        return min(1.0, (ended_s - began_s) / max(spans_s)) if spans_s else 0.0

    def iterations(self, part: Part) -> list[int]:
        """Those within the time in which all ran."""
        began_s, ended_s = self.window_s()
        starts_s = [part.began_s, *part.ends_s]
        return [
            index
            for index, (start_s, end_s) in enumerate(zip(starts_s, part.ends_s))
            if min(end_s, ended_s) - max(start_s, began_s) >= INSIDE * (end_s - start_s)
        ]

    def samples(self) -> dict[str, list[list[float]]]:
        """By metric; iteration k has the k-th counted one of each instance: rates and memory in
        sum, energy per unit as all use it together, everything else side by side."""
        first = self.parts[0].record
        kept = [self.iterations(part) for part in self.parts]
        count = min(map(len, kept))
        found: dict[str, list[list[float]]] = {}
        for name, metric in first["metrics"].items():
            each = [part.record["samples"].get(name, []) for part in self.parts]
            if not all(each):
                continue
            if all(len(s) == len(part.ends_s) for s, part in zip(each, self.parts)):
                each = [[s[i] for i in chosen[:count]] for s, chosen in zip(each, kept)]
            found[name] = [_side_by_side(name, metric, values) for values in zip(*each)]
        return {name: each for name, each in found.items() if any(each)}


def _side_by_side(name: str, metric: Mapping[str, Any], values: Sequence[list]) -> list[float]:
    """One iteration's samples of all instances."""
    rate = metric["better"] == "higher" and metric["unit"].endswith(("/s", "real time"))
    if rate or metric["unit"] == "bytes":
        return [sum(each) for each in zip(*values)]
    if name.startswith("energy_per_"):  # each instance counted what all used
        return [1 / sum(1 / value for value in each) for each in zip(*values) if all(each)]
    return [value for each in values for value in each]


def measured_together(
    slots: Sequence[Slot], label: str, first: int = 1, words: Sequence[str] = ()
) -> Together:
    """Run this command with more `words` in each slot at the same time.

    `first` is the number of the first instance. Raises UserError where one fails before all are
    ready.
    """
    monitor = SystemMonitor()
    warning = children.numactl_problem(slots[0])
    with children.started(starts(slots, words, first), not warning) as running:
        with progress.stage(f"{label}: loading"):
            children.gather(running, "ready")
        try:
            with progress.stage(f"{label}: measuring"), monitor:
                for child in running:
                    child.send("begin")
                children.gather(running, "done")
                _raise_failure(running)
            for child in running:
                child.send("stop")
        finally:
            if monitor.status != "complete":
                children.end(running)
        parts = []
        for slot, child in zip(slots, running):
            with contextlib.suppress(children.Ended):  # that one has nothing
                parts.append(Part(slot, *children.gather([child], children.LAST)[0]))
    measured = [part for part in parts if part.ends_s]
    return Together(monitor, [warning] if warning else [], measured)


def starts(
    slots: Sequence[Slot], words: Sequence[str] = (), first: int = 1
) -> list[children.Start]:
    """This command, once per slot."""
    command, folder, count = [sys.executable, *sys.argv, *words], Path.cwd(), len(slots)
    names = [f"the instance on CPUs {topology.format_cpus(slot.cpus)}" for slot in slots]
    return [
        children.Start(name, command, folder, slot, number, count)
        for number, (name, slot) in enumerate(zip(names, slots), first)
    ]


def _raise_failure(running: Sequence[children.Child]) -> None:
    """Where one failed in its measuring, and has handed over what it had until then."""
    for child in running:
        record = child.messages.get(children.LAST, (None,))[0]
        if record and record["status"] != "complete":
            raise UserError(record["error"])


def combine(
    args: argparse.Namespace, slots: Sequence[Slot], together: Together, alone: Together | None
) -> dict:
    """The record of all instances."""
    parts, monitor = together.parts, together.monitor
    first, samples = parts[0].record, together.samples()
    primary = first["primary"]
    peaks = [part.record["usage"]["peak_rss_bytes"] for part in parts]
    monitor.usage["peak_rss_bytes"] = sum(peaks)
    began_s, ended_s = together.window_s()
    monitor.usage["wall_s"] = ended_s - began_s
    described = {
        "number": len(slots),
        "overlap": together.overlap(),
        "efficiency": None,
        "each": [_of_part(part, primary) for part in parts],
    }
    cores = slots[0].cores
    share = f"all of them running {described['overlap']:.1%} of the time"
    lines = [f"Instances: {len(parts)} × {cores} core(s), {share}"]
    if alone and primary in samples:
        metric = Metric(primary, *(first["metrics"][primary][k] for k in OF_METRIC))
        total, one = (
            stats.summarize(metric, each.samples()[primary]) for each in (together, alone)
        )
        factor = total["median"] / one["median"]
        described["alone"], described["efficiency"] = one["median"], factor / len(parts)
        lines.append(
            f"Scaling: {factor:.2f} × one instance alone ({one['median']:.4g} {metric.unit}), "
            f"efficiency {factor / len(parts):.0%}"
        )
    flags = [name for name in first["output"] if name.startswith("same_")]
    same = {
        name: None
        if first["output"][name] is None
        else all(p.record["output"][name] for p in parts)
        for name in flags
    }
    records = [part.record for part in parts]
    reasons = [r for each in records for r in each["validity"]["reasons"] if r != each["error"]]
    reasons = list(dict.fromkeys(reasons))
    warnings = list(dict.fromkeys(w for each in records for w in each["warnings"]))
    if missing := len(slots) - len(parts):
        reasons.append(f"{missing} of {len(slots)} instances measured nothing")
    kept = ("workload", "title", "model", "input", "system", "comparable_by", "server")
    computed = ("threads", "CPUs allowed", "memory tuned")
    return run.build(
        args,
        **{name: first[name] for name in kept if name in first},
        primary=primary,
        task={k: v for k, v in first["task"].items() if k != "input"},
        work=[(each["unit"], each["metric"], each["amount"]) for each in first["work"]],
        configuration={
            **{k: v for k, v in first["configuration"].items() if k not in computed},
            **configuration(args, slots),
        },
        resolved={k: v for k, v in first["parameters"].items() if k not in ("instances", "json")},
        placement=placement([each["placement"] for each in records]),
        samples=samples,
        monitor=monitor,
        output={**first["output"], **same, "instances": described},
        details=[*first["details"], *lines],
        reasons=reasons,
        warnings=[*(w for w in warnings if w not in reasons), *together.warnings],
        own_metrics=[
            Metric(name, *(metric[k] for k in OF_METRIC))
            for name, metric in first["metrics"].items()
        ],
    )


def _of_part(part: Part, primary: str) -> dict:
    record, metric = part.record, part.record["metrics"].get(primary)
    return {
        "cpus": list(part.slot.cpus),
        "nodes": list(part.slot.nodes),
        primary: metric and metric["median"],
        "iterations": len(part.ends_s),
        "cores_busy": record["usage"]["process_cores_busy"],
        "peak_rss_bytes": record["usage"]["peak_rss_bytes"],
        "load_time_s": record["metrics"].get("load_time_s", {}).get("median"),
    }


def configuration(args: argparse.Namespace, slots: Sequence[Slot]) -> dict:
    """What the record's configuration has of instances."""
    return {"instances": len(slots), "cores per instance": slots[0].cores, "SMT": args.smt}


def placement(each: Sequence[dict]) -> dict:
    """The record's placement of all instances, from those of each."""
    merged = {**each[0], "cpus": sorted(cpu for one in each for cpu in one["cpus"])}
    for name in ("threads_requested", "threads_effective", "physical_cores"):
        if each[0].get(name) is not None:
            merged[name] = sum(one[name] for one in each)
    if "share_of_machine" in merged:
        merged["share_of_machine"] = min(1.0, len(merged["cpus"]) / (os.cpu_count() or 1))
    return merged
