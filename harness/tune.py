"""The best use of a machine's cores: instances, cores of each, SMT, and a workload's own options.

Every layout is tried for a few seconds, all instances together and one alone: first fewer and
larger instances, then more and smaller ones, until throughput has fallen twice in a row; then, with
the best, SMT and each of the workload's options. What has no memory for all its instances is left
out. The best layout for throughput and the one with the lowest latency are named with the commands
that repeat them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import cli, files, instances, memory, plot, run, topology
from harness.cli import UserError
from harness.instances import Together
from harness.topology import Slot, Topology

PLOT = "tune.png"
TRIAL_S, NUM_ITERS = 5.0, 3  # measured by each trial, at least
GAIN = 1.05  # of one instance's throughput from twice the cores, below which they stopped helping
FIRST_COMMANDS = 4  # of a layout, printed


@dataclass(frozen=True)
class Layout:
    """What is tried: instances, and the words that the command gets besides."""

    slots: list[Slot]
    use_smt: bool
    words: tuple[str, ...] = ()

    @property
    def cores(self) -> int:
        return self.slots[0].cores

    def text(self) -> str:
        smt = ", SMT" * self.use_smt
        return f"{len(self.slots)} × {self.cores} core(s){smt} {' '.join(self.words)}".rstrip()


@dataclass(frozen=True)
class Trial:
    layout: Layout
    throughput: float  # of all instances together
    latency_s: float  # median
    peak_rss_bytes: float  # of all instances
    together: Together

    def row(self) -> dict:
        """What the record keeps."""
        layout = self.layout
        return {
            "instances": len(layout.slots),
            "cores_per_instance": layout.cores,
            "smt": layout.use_smt,
            "options": list(layout.words),
            "throughput": self.throughput,
            "latency_s": self.latency_s,
            "peak_rss_bytes": self.peak_rss_bytes,
        }


class _OutOfTime(Exception):
    """Nothing more can be tried within the limit."""


class Tuner:
    """Tries layouts within a time.

    Parameters
    ----------
    primary, latency : names of the metrics that are looked at.
    limit_s : after which no more trial is begun that would end later.
    """

    def __init__(self, primary: str, latency: str, limit_s: float):
        self.primary, self.latency = primary, latency
        self.trials: list[Trial] = []
        self.left_out: list[str] = []  # layouts, and why
        self._ends_s = time.monotonic() + limit_s
        self._longest_s = 0.0

    def try_(self, layout: Layout) -> Trial | None:
        """None where it does not fit into memory, or fails. Raises _OutOfTime."""
        if time.monotonic() + self._longest_s > self._ends_s:
            raise _OutOfTime
        known = [trial.peak_rss_bytes / len(trial.layout.slots) for trial in self.trials]
        # An instance needs about what those tried before needed.
        if reason := memory.lacking(max(known, default=0.0) * len(layout.slots)):
            self.left_out.append(f"{layout.text()}: {reason}")
            return None
        began_s = time.monotonic()
        least = ("--num_iters", str(NUM_ITERS), "--min_duration", str(TRIAL_S))
        try:
            measured = instances.measured_together(
                layout.slots, layout.text(), 0, (*layout.words, *least)
            )
        except UserError as error:
            self.left_out.append(f"{layout.text()}: {error}")
            return None
        self._longest_s = max(self._longest_s, time.monotonic() - began_s)
        if measured.monitor.status == "interrupted":
            raise KeyboardInterrupt
        if measured.monitor.status != "complete":
            self.left_out.append(f"{layout.text()}: {measured.monitor.error}")
            return None
        samples = measured.samples()
        throughput, latency_s = (
            statistics.median(value for each in samples[name] for value in each)
            for name in (self.primary, self.latency)
        )
        peak_rss_bytes = sum(part.record["usage"]["peak_rss_bytes"] for part in measured.parts)
        trial = Trial(layout, throughput, latency_s, peak_rss_bytes, measured)
        self.trials.append(trial)
        unit = measured.parts[0].record["metrics"][self.primary]["unit"]
        print(f"{layout.text()}: {throughput:.4g} {unit}, {latency_s:.4g} s", flush=True)
        return trial


def sizes(machine: Topology) -> list[int]:
    """Cores per instance to try, from a whole node down to 1: of 1, 2, 4 ... instances per node, so
    that few cores are left over."""
    nodes = [core.node for core in machine.cores]
    most = max(nodes.count(node) for node in set(nodes))
    return [most >> k for k in range(most.bit_length())]


def shrink(machine: Topology, is_better: Callable[[int], bool]) -> None:
    """Try ever smaller instances, until two sizes in a row are no better than those before."""
    fallen = 0
    for size in sizes(machine):
        fallen = 0 if is_better(size) else fallen + 1
        if fallen == 2:
            return


def layouts(machine: Topology, size: int, use_smt: bool = False) -> Iterator[Layout]:
    """One instance of so many cores, and as many as fit."""
    one = topology.layout(machine, 1, size, use_smt)
    yield Layout(one, use_smt)
    every = topology.layout(machine, None, size, use_smt)
    if len(every) > 1:
        yield Layout(every, use_smt)


def search(tuner: Tuner, machine: Topology, options: Sequence[tuple[str, ...]]) -> None:
    """Try what may be best. `options` : further words, each tried with the best layout."""

    def is_better(size: int) -> bool:
        best = max((trial.throughput for trial in tuner.trials), default=0.0)
        found = [trial for each in layouts(machine, size) if (trial := tuner.try_(each))]
        return max((trial.throughput for trial in found), default=0.0) > best

    shrink(machine, is_better)
    if not tuner.trials:
        return
    if any(len(core.cpus) > 1 for core in machine.cores):
        for layout in layouts(machine, fastest(tuner.trials).layout.cores, use_smt=True):
            tuner.try_(layout)
    layout = fastest(tuner.trials).layout
    for words in options:
        tuner.try_(Layout(layout.slots, layout.use_smt, words))


def fastest(trials: Sequence[Trial]) -> Trial:
    return max(trials, key=lambda trial: trial.throughput)


def quickest(trials: Sequence[Trial]) -> Trial:
    return min(trials, key=lambda trial: trial.latency_s)


def stopped_helping(trials: Sequence[Trial]) -> tuple[int, int, float] | None:
    """Cores of one instance, the next larger number tried, and its gain in throughput: the first
    where that is below GAIN; None where all helped."""
    alone = {
        trial.layout.cores: trial.throughput
        for trial in trials
        if len(trial.layout.slots) == 1 and not trial.layout.use_smt and not trial.layout.words
    }
    cores = sorted(alone)
    for fewer, more in zip(cores, cores[1:]):
        if alone[more] < GAIN * alone[fewer]:
            return fewer, more, alone[more] / alone[fewer]
    return None


def measure(
    args: argparse.Namespace, primary: str, latency: str, options: Sequence[tuple[str, ...]]
) -> int:
    """Tune within args.tune minutes: the exit status."""
    if args.topology:  # of another machine, where nothing can be tried
        return instances.measure(args)
    run.check_destination(args)
    picture = files.output_path(None, PLOT, "the plot", args.overwrite)
    machine = topology.read()
    most = 2 * len(sizes(machine)) + len(options)
    print(f"Tuning: up to {most} layouts or options, {args.tune:g} min at most\n", flush=True)
    tuner = Tuner(primary, latency, 60 * args.tune)
    try:
        search(tuner, machine, options)
        is_cut = False
    except _OutOfTime:
        is_cut = True
    if not tuner.trials:
        raise UserError(tuner.left_out[0] if tuner.left_out else "nothing could be tried")
    best = fastest(tuner.trials)
    record = instances.combine(args, best.layout.slots, best.together, None)
    record["workload"] += "-tune"
    record["title"] += ", tuned"
    record["output"] = {
        "trials": [trial.row() for trial in tuner.trials],
        "left_out": tuner.left_out,
        "complete": not is_cut,
    }
    record["details"] = report(tuner, is_cut)
    trials_only = "trials of a few seconds: measure the layout that they recommend"
    record["warnings"].insert(0, trials_only)
    record["validity"] = {"valid": False, "reasons": [trials_only]}
    draw(tuner, best, picture)
    return run.finish(record, args)


def report(tuner: Tuner, is_cut: bool) -> list[str]:
    rows = [["instances", "cores of each", "SMT", "options", "throughput", "latency s"]]
    for trial in tuner.trials:
        layout = trial.layout
        row = [str(len(layout.slots)), str(layout.cores), "on" if layout.use_smt else "-"]
        row += [" ".join(layout.words) or "-"]
        rows.append([*row, f"{trial.throughput:.4g}", f"{trial.latency_s:.4g}"])
    lines = ["", *cli.columns(rows, str.rjust), ""]
    lines += [f"Not tried: {each}" for each in tuner.left_out]
    if is_cut:
        lines.append("The time was up before everything had been tried: --tune MINUTES takes more")
    if found := stopped_helping(tuner.trials):
        fewer, more, gain = found
        lines.append(
            f"One instance: more cores stopped helping at {fewer}: {more} give {gain:.2f} ×"
        )
    best, first = fastest(tuner.trials), quickest(tuner.trials)
    lines += ["", f"Highest throughput: {best.layout.text()}", *_commands(best.layout)]
    lines += ["", f"Lowest latency: {first.layout.text()}", *_commands(first.layout)]
    return lines


def _commands(layout: Layout) -> list[str]:
    words = [*instances.own_command(), *layout.words]
    lines = [f"  {topology.command(slot, words)}" for slot in layout.slots[:FIRST_COMMANDS]]
    if more := len(layout.slots) - len(lines):
        lines.append(f"  ... and {more} more")
    if len(layout.slots) > 1:
        count, cores, smt = len(layout.slots), layout.cores, " --smt" * layout.use_smt
        as_one = f"--instances {count} --cores_per_instance {cores}{smt}"
        lines.append(f"As one run: {' '.join(words)} {as_one}")
    return lines


def draw(tuner: Tuner, best: Trial, path: Path) -> None:
    plain = [trial for trial in tuner.trials if not trial.layout.words]
    metrics = best.together.parts[0].record["metrics"]
    panels = []
    for name, of in ((tuner.primary, "throughput"), (tuner.latency, "latency_s")):
        series: dict[str, list[tuple[float, float]]] = {}
        for trial in plain:
            every = len(trial.layout.slots) > 1
            label = ("as many instances as fit" if every else "one instance") + (
                ", SMT" * trial.layout.use_smt
            )
            series.setdefault(label, []).append((trial.layout.cores, getattr(trial, of)))
        panels.append(plot.Panel(f"{metrics[name]['label']}, {metrics[name]['unit']}", series))
    plot.lines(path, panels, "cores of each instance")
