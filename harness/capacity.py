"""The most live streams (users, cameras, calls) that a machine sustains: search and report.

A workload only says how its streams are played (Play). A number of them is sustained where both
halves of the time counted are within the limit. The number is doubled until one is not sustained,
then found by bisection, to a share of it, and then confirmed: it is played until enough has been
observed for the claim that less than the limit's share is late; where that does not hold, fewer
streams are tried.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import cli, files, memory, plot, progress, stats
from harness.checks import MAX_OTHER_SHARE
from harness.journal import Journal
from harness.metrics import METRICS
from harness.monitor import SystemMonitor

CONFIDENCE = 0.95  # in the share of all streams together
RESOLUTION = 1 / 16  # of a capacity: about as much as repeated searches differ
LONGER_TRIES = 1  # of a number that was within the limit, but not shown to be
MORE_THAN_NEEDED = 1.2  # as random arrivals may bring fewer observations than before
RESULT = "Capacity: "  # begins the line that says it
START_S = 0.2  # until all streams are ready to begin
PLOT = "capacity.png"
SUMMARY = ("unit", "n", "median", "mean", "min", "max", *stats.PERCENTILES)


@dataclass
class Stream:
    """What became of one live stream while it was counted. Plain data, to be pickled."""

    due_s: list[float] = field(default_factory=list)  # of each answer, frame, window: from then on
    late: list[bool] = field(default_factory=list)  # or dropped, or never done
    samples: dict[str, list[float]] = field(default_factory=dict)  # by metric, of those done
    rates: dict[str, float] = field(default_factory=dict)  # by metric: done while counted, per s
    counts: dict[str, int] = field(default_factory=dict)  # what else the record is to have


# play(numbers, begins_s, duration_s): plays the streams with these numbers from the moment when
# time.perf_counter() is begins_s, lets them settle, counts for duration_s, and returns a Stream for
# each. All that is random in a stream depends on a seed and its number only.
Play = Callable[[Sequence[int], float, float], list[Stream]]


@dataclass(frozen=True)
class Limit:
    """When streams are sustained."""

    late_share: float = 0.01  # of the observations: fewer must be late
    of_each: bool = True  # of each stream's, too, not only of all together


@dataclass(frozen=True)
class Beside:
    """Another workload's streams, of a fixed number, that are played beside each level."""

    described: dict  # the record's
    limit: Limit
    begin: Callable[[float, float], None]  # as Play, but returns at once
    streams: Callable[[], list[Stream]]  # what became of them


@dataclass(frozen=True)
class Job:
    """What a workload prepares for the search; all but `play` and `beside` can be pickled."""

    described: dict  # for run.start() and run.build()
    play: Play
    extra: Any = None  # what the workload needs afterwards
    beside: Beside | None = None
    layouts: Sequence[dict] = ()  # of instances, that were tried for the best one


@dataclass(frozen=True)
class Found:
    most: int  # streams that were sustained; 0 where not even the first number tried was
    first_over: int | None  # the lowest number tried that was not sustained
    levels: dict[int, dict]  # the figures of each number tried
    shown: int  # the number of streams that `samples` are of
    samples: dict[str, list[list[float]]]  # by metric
    monitor: SystemMonitor  # of `shown`, with the status of the last
    warnings: list[str]
    all_tried: bool  # only the numbers to be tried limit `most`

    def record_parts(self, job: Job, args: argparse.Namespace, name: str, condition: str) -> dict:
        """For run.build(): `name` is what a stream is called, `condition` says within what."""
        last = getattr(args, f"max_{name}s")
        more = ": as many as were tried" if self.all_tried else ""
        more += f"; --max_{name}s above {last} tries more" if more and self.most == last else ""
        levels = {str(count): level for count, level in self.levels.items()}
        more_output: dict[str, Any] = {"beside": job.beside.described} if job.beside else {}
        more_output |= {"layouts": list(job.layouts)} if job.layouts else {}
        found = {f"{name}s": self.most, "first_over": self.first_over, "levels": levels}
        return {
            **job.described,
            "samples": {f"{name}s": [[self.most]], **self.samples},
            "monitor": self.monitor,
            "output": {**found, **more_output},
            "details": [f"{RESULT}{self.most} {name}(s) {condition}{more}"],
            "warnings": [*job.described.get("warnings", ()), *self.warnings],
        }


def add_arguments(
    parser: argparse.ArgumentParser, name: str, duration_s: float, limit: Limit = Limit()
) -> None:
    """`name` is what a stream is called: camera, call, user."""
    group = parser.add_argument_group("search")
    for which, default, what in (("min", 1, "first"), ("max", 256, "last")):
        group.add_argument(
            f"--{which}_{name}s", type=cli.positive_int, default=default, help=f"{what} number"
        )
    group.add_argument(
        "--duration",
        type=cli.positive_float,
        default=duration_s,
        metavar="S",
        help=f"seconds that each number of {name}s is counted, after settling",
    )
    group.add_argument(
        "--resolution",
        type=cli.share,
        default=RESOLUTION,
        metavar="SHARE",
        help="share of the result to which it is found",
    )
    needed = observations_needed(limit.late_share)
    observations = (
        f"answers, frames or windows that the result is confirmed on; {needed}, with none late, "
        f"show at {CONFIDENCE:.0%} confidence that under {limit.late_share:.0%} are"
    )
    group.add_argument(
        "--min_observations",
        type=cli.positive_int,
        default=needed,
        metavar="N",
        help=observations.replace("%", "%%"),
    )
    group.add_argument("--plot", type=Path, help=f"picture to write (default: {PLOT})")


def add_seed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=cli.non_negative_int, default=0, help="of random arrivals")


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace, name: str) -> None:
    first, last = getattr(args, f"min_{name}s"), getattr(args, f"max_{name}s")
    if first > last:
        parser.error(f"--min_{name}s {first} is above --max_{name}s {last}")


def check_plot(args: argparse.Namespace) -> None:
    """Set --plot's default. Raises UserError where it could not be written."""
    args.plot = files.output_path(args.plot, PLOT, "--plot", args.overwrite)


def observations_needed(share: float, late: int = 0) -> int:
    """How many, of which `late` are late, show at CONFIDENCE that under `share` are."""
    number = late + 1
    while not is_shown(number, late, share):
        number = max(number + 1, round(number * 1.001))
    return number


def is_shown(number: int, late: int, share: float) -> bool:
    """Whether `late` of `number` observations show, at CONFIDENCE, that under `share` are late.

    One-sided exact binomial test (Clopper and Pearson, 1934).
    """
    log_term = number * math.log1p(-share)  # of the probability of exactly k late
    so_few = 0.0
    for k in range(late + 1):
        so_few += math.exp(log_term)
        odds = (number - k) / (k + 1) * share / (1 - share)
        log_term += math.log(odds) if k < number else -math.inf
    return so_few <= 1 - CONFIDENCE


def doubling(first: int, last: int) -> list[int]:
    """first, 2 first, 4 first ... last."""
    levels = [first]
    while levels[-1] < last:
        levels.append(min(2 * levels[-1], last))
    return levels


def search(
    sustained: Callable[[int], bool | None],
    levels: Sequence[int],
    bisect: bool = True,
    known: int = 0,
    resolution: float = 0.0,
) -> int:
    """The highest level that is sustained, below which none was not; `known` where there is none.

    `levels` are tried in ascending order until one is not sustained; where it is the first, half of
    it, and so on down to 1; then those between, to a share `resolution` of the result. A None from
    `sustained` ends the search: nothing more can be measured. Nothing up to `known` is tried.
    """
    best, over, coming = known, None, iter(levels)
    while over is None or (bisect and over - best > max(1, resolution * best)):
        level = next(coming, 0) if over is None else (best + over) // 2
        result = sustained(level) if level else None
        if result is None:
            break
        best, over = (level, over) if result else (best, level)
    return best


def find(
    job: Job,
    args: argparse.Namespace,
    name: str,
    journal: Journal | None,
    limit: Limit = Limit(),
    exactly: Sequence[int] = (),
    known: int = 0,
    available: Callable[[], tuple[int, int]] = memory.available,
) -> Found:
    """Search for the most streams that are sustained, and confirm them.

    Parameters
    ----------
    job : with another workload beside it, a number is sustained where that is, too.
    args, name : as for add_arguments().
    journal : of the run; it gets all levels after each.
    exactly : play these numbers, whatever comes of each, instead of a search.
    known : as for search().
    available : bytes of memory available, and in all. A number of streams that would leave less
        than memory.MIN_SHARE, by the bytes per stream so far, is not tried.

    Raises what ended the first number of streams before it was measured.
    """
    levels: dict[int, dict] = {}
    samples: dict[int, dict[str, list[list[float]]]] = {}
    monitors: dict[int, SystemMonitor] = {}
    last = SystemMonitor()
    before, total = available()
    lowest: dict[int, int] = {}  # bytes available, by number of streams
    too_many: dict[int, float] = {}  # bytes that numbers not tried would leave

    def sustained(count: int, duration_s: float = args.duration) -> bool | None:
        nonlocal last
        left = memory_left(count, before, lowest)
        if lowest and left < memory.MIN_SHARE * total and count not in levels:
            too_many[count] = left
            print(f"{count} {name}(s): not tried, for lack of memory", flush=True)
            return False
        last = SystemMonitor(keep=lambda: bool(levels))
        with last, memory.Lowest(available) as watched, progress.stage(f"{count} {name}(s)"):
            begins_s = time.perf_counter() + START_S
            if job.beside:
                job.beside.begin(begins_s, duration_s)
            streams = job.play(range(count), begins_s, duration_s)
            others = job.beside.streams() if job.beside else []
        if last.status != "complete":
            return None
        level, samples[count] = measured(streams, duration_s, limit, args.min_observations)
        if job.beside:
            level["beside"], _ = measured(others, duration_s, job.beside.limit, 1)
            level["sustained"] &= level["beside"]["sustained"]
        level |= {key: last.usage[key] for key in ("busy_share_per_cpu", "other_cores_busy")}
        levels[count], monitors[count], lowest[count] = level, last, watched.bytes
        most = highest(levels)
        number = {f"{name}s": [[float(most)]]}
        if journal:
            shown = samples[most or min(levels)]
            journal.replace({**number, **shown}, {"levels": dict(levels)})
        state = "sustained" if level["sustained"] else "not sustained"
        busy = last.usage["process_cores_busy"]
        print(f"{count} {name}(s): {state}; {sentence(level)}; {busy:.1f} cores busy", flush=True)
        return level["sustained"]

    if exactly:
        search(lambda count: None if sustained(count) is None else True, exactly, bisect=False)
    else:
        first, last_one = getattr(args, f"min_{name}s"), getattr(args, f"max_{name}s")
        search(sustained, doubling(first, last_one), known=known, resolution=args.resolution)
        if last.status == "complete":
            confirm(sustained, levels, args.min_observations, limit, name)
    most = highest(levels)
    shown = most or min(levels)
    monitor = monitors[shown]
    monitor.status, monitor.error = last.status, last.error
    over = (count for count in levels if count > most and not levels[count]["sustained"])
    first_over = min(over, default=None)
    found = warnings(levels, most, first_over, limit, name)
    if too_many:
        fewest, left = min(too_many.items())
        found.append(
            f"{fewest} {name}(s) were not tried: by the memory that fewer took, they would leave "
            f"{max(left, 0) / 2**30:.2f} of {total / 2**30:.2f} GiB available"
        )
    all_tried = first_over is None and not too_many and last.status == "complete"
    ordered = {count: levels[count] for count in sorted(levels)}
    return Found(most, first_over, ordered, shown, samples[shown], monitor, found, all_tried)


def memory_left(count: int, before: int, lowest: Mapping[int, int]) -> float:
    """Bytes that a number of streams is expected to leave available, linear in the number.

    `before` were available without any, `lowest` with other numbers of streams.
    """
    most = max(lowest, default=1)
    return before - (before - lowest.get(most, before)) / most * count


def highest(levels: Mapping[int, dict]) -> int:
    """The most streams that were sustained, below which no number was not; 0 if there is none."""
    over = min((count for count in levels if not levels[count]["sustained"]), default=math.inf)
    return max((count for count in levels if count < over), default=0)


def confirm(
    sustained: Callable[[int, float], bool | None],
    levels: Mapping[int, dict],
    min_observations: int,
    limit: Limit,
    name: str,
) -> None:
    """Play the highest level for as long as the claim takes; where it fails, ever lower ones.

    A level that was within the limit in both halves, but not for sure with so few observations, is
    played LONGER_TRIES times more, as long as its late ones take.
    """
    most, needed, tries = highest(levels), min_observations, 0
    while most and not (most in levels and levels[most]["confirmed"] and not tries):
        count = most if most in levels else max(levels)
        known = levels[count]
        per_stream_s = max(known["observations"], 1) / count / known["duration_s"]
        longer_s = MORE_THAN_NEEDED * needed / per_stream_s / most
        print(f"Confirming {most} {name}(s): {longer_s:.0f} s", flush=True)
        result = sustained(most, longer_s)
        if result is None:
            return
        within = all(is_within(half, limit) for half in levels[most]["windows"])
        if not result and within and tries < LONGER_TRIES:
            needed, tries = observations_needed(limit.late_share, levels[most]["late"]), tries + 1
            continue
        needed, tries = min_observations, 0
        if not result:
            most = max(highest(levels), most - max(1, int(most * RESOLUTION)))


def measured(
    streams: Sequence[Stream], duration_s: float, limit: Limit, min_observations: int
) -> tuple[dict, dict[str, list[list[float]]]]:
    """The figures of a level that was counted for `duration_s`, and its samples by metric."""
    halves = [window(streams, begin_s, begin_s + duration_s / 2) for begin_s in (0, duration_s / 2)]
    observations, late = (sum(half[key] for half in halves) for key in ("observations", "late"))
    is_sustained = all(is_within(half, limit) for half in halves)
    is_confirmed = observations >= min_observations
    if is_confirmed and min_observations >= observations_needed(limit.late_share):
        is_sustained = is_sustained and is_shown(observations, late, limit.late_share)
    of_each = {"late_share": [sum(stream.late) / max(len(stream.late), 1) for stream in streams]}
    samples: dict[str, list[float]] = {}
    for stream in streams:
        for key, value in {**stream.rates, **stream.counts}.items():
            of_each.setdefault(key, []).append(value)
        for metric, values in stream.samples.items():
            samples.setdefault(metric, []).extend(values)
    rates = {metric: sum(of_each[metric]) for metric in streams[0].rates}
    summaries = {
        metric: stats.summarize(METRICS[metric], [values])
        for metric, values in samples.items()
        if values
    }
    figures = {
        "sustained": is_sustained,
        "confirmed": is_confirmed,
        "duration_s": duration_s,
        "observations": observations,
        "late": late,
        "worst_late_share": max(of_each["late_share"]),
        "windows": halves,
        "rates": rates,
        "metrics": {
            metric: {key: each[key] for key in SUMMARY if key in each}
            for metric, each in summaries.items()
        },
        "of_each": of_each,
    }
    totals = {metric: [[total]] for metric, total in rates.items()}
    return figures, {**totals, **{metric: [samples[metric]] for metric in summaries}}


def window(streams: Iterable[Stream], begin_s: float, end_s: float) -> dict:
    """What was due from `begin_s` until before `end_s`."""
    late = [
        [late for due_s, late in zip(stream.due_s, stream.late) if begin_s <= due_s < end_s]
        for stream in streams
    ]
    return {
        "observations": sum(map(len, late)),
        "late": sum(map(sum, late)),
        "worst_late_share": max(sum(each) / max(len(each), 1) for each in late),  # of a stream
    }


def is_within(window: Mapping, limit: Limit) -> bool:
    if limit.of_each and window["worst_late_share"] >= limit.late_share:
        return False
    return not window["late"] or window["late"] < limit.late_share * window["observations"]


def sentence(level: Mapping) -> str:
    """What is printed of a level; with too few samples for a 95th percentile, the largest."""
    parts = [f"{level['late']} of {level['observations']} late"]
    parts += [f"{rate:.4g} {METRICS[name].unit}" for name, rate in level["rates"].items()]
    for name, metric in level["metrics"].items():
        label = METRICS[name].label.rpartition("(")[2].rstrip(")")  # TTFT of Time to ... (TTFT)
        most = f"p95 {metric['p95']:.3g}" if "p95" in metric else f"max {metric['max']:.3g}"
        parts.append(f"{label} p50 {metric['median']:.3g}, {most} {metric['unit']}")
    return "; ".join(parts)


def draw(found: Found, args: argparse.Namespace, name: str, limits: Mapping[str, float]) -> None:
    """All levels' late shares, rates and metrics, with `limits` by metric, as args.plot."""

    def points(key: str, metric: str, value: Callable) -> list[plot.Point]:
        levels = found.levels.items()
        return [(n, value(level[key][metric])) for n, level in levels if metric in level[key]]

    late = [
        (n, 100 * level["late"] / max(level["observations"], 1))
        for n, level in found.levels.items()
    ]
    panels = [plot.Panel("late, %", {f"all {name}s": late})]
    for rate in found.levels[found.shown]["rates"]:
        total = points("rates", rate, float)
        panels.append(plot.Panel(f"{METRICS[rate].unit}, all {name}s", {"throughput": total}))
    for metric in found.levels[found.shown]["metrics"]:
        series = {
            "half": points("metrics", metric, lambda figure: figure["median"]),
            "95 %": points("metrics", metric, lambda figure: figure.get("p95", figure["max"])),
        }
        limit = ("limit", limits[metric]) if metric in limits else None
        label = f"{METRICS[metric].label}, {METRICS[metric].unit}"
        panels.append(plot.Panel(label, series, limit))
    plot.lines(args.plot, panels, f"{name}s")


def warnings(
    levels: Mapping[int, dict], most: int, first_over: int | None, limit: Limit, name: str
) -> list[str]:
    """What speaks against the result, besides what the machine did while it was measured."""
    found = []
    if most:
        late, number = levels[most]["late"], levels[most]["observations"]
        if not is_shown(number, late, limit.late_share):
            needed = observations_needed(limit.late_share, late)
            found.append(
                f"{late} of {number} late do not show at {CONFIDENCE:.0%} confidence that under "
                f"{limit.late_share:.0%} are: {needed} are needed (--min_observations)"
            )
    if first_over:
        level = levels[first_over]
        if level["other_cores_busy"] > MAX_OTHER_SHARE * len(level["busy_share_per_cpu"]):
            busy = level["other_cores_busy"]
            found.append(f"other processes kept {busy:.2f} cores busy with {first_over} {name}(s)")
    return found
