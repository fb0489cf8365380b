"""The most live streams (users, cameras, calls) that a machine sustains: search and report.

The number of streams is doubled until one is not sustained, then found by bisection. The number
found is then confirmed: it runs until enough frames or windows have been observed for the claim
that less than MAX_LATE_SHARE of them are late; where it does not hold, fewer streams are tried.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import cli, files, progress
from harness.checks import MAX_OTHER_SHARE
from harness.journal import Journal
from harness.monitor import SystemMonitor

MAX_LATE_SHARE = 0.01  # of a stream's frames or windows that came late or not at all
CONFIDENCE = 0.95  # in the share of all streams together
PLOT = "capacity.png"


@dataclass
class Found:
    most: int  # streams that were sustained; 0 where not even the first number tried was
    first_over: int | None  # the lowest number tried that was not sustained
    shown: int  # the number of streams that the run's metrics are of
    levels: dict[int, dict]  # the figures of each number tried
    warnings: list[str]
    monitor: SystemMonitor  # of `shown`, with the status of the last

    def output(self, name: str) -> dict:
        """What the record keeps of it; `name` is what a stream is called."""
        levels = {str(count): level for count, level in self.levels.items()}
        return {f"{name}s": self.most, "first_over": self.first_over, "levels": levels}


def add_arguments(parser: argparse.ArgumentParser, name: str, duration_s: float) -> None:
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
        help=f"seconds that each number of {name}s is measured",
    )
    observations = (
        f"frames, windows or the like that the result is confirmed on; with none late "
        f"{observations_needed()} show at {CONFIDENCE:.0%} confidence that under "
        f"{MAX_LATE_SHARE:.0%} are"
    )
    group.add_argument(
        "--min_observations",
        type=cli.positive_int,
        default=observations_needed(),
        metavar="N",
        help=observations.replace("%", "%%"),
    )
    add_plot_argument(group)


def add_plot_argument(group) -> None:
    group.add_argument("--plot", type=Path, help=f"picture to write (default: {PLOT})")


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace, name: str) -> None:
    first, last = getattr(args, f"min_{name}s"), getattr(args, f"max_{name}s")
    if first > last:
        parser.error(f"--min_{name}s {first} is above --max_{name}s {last}")


def check_plot(args: argparse.Namespace) -> None:
    """Set --plot's default. Raises UserError where it could not be written."""
    args.plot = files.output_path(args.plot, PLOT, "--plot", args.overwrite)


def observations_needed(late: int = 0) -> int:
    """How many, of which `late` are late, show at CONFIDENCE that under MAX_LATE_SHARE are."""
    number = late + 1
    while not is_shown(number, late):
        number = max(number + 1, round(number * 1.001))
    return number


def is_shown(number: int, late: int) -> bool:
    """Whether `late` of `number` observations show, at CONFIDENCE, under MAX_LATE_SHARE late.

    One-sided exact binomial test (Clopper and Pearson, 1934).
    """
    ratio = MAX_LATE_SHARE / (1 - MAX_LATE_SHARE)
    log_term = number * math.log1p(-MAX_LATE_SHARE)  # of the probability of exactly k late
    so_few = 0.0
    for k in range(late + 1):
        so_few += math.exp(log_term)
        log_term += math.log((number - k) / (k + 1) * ratio) if k < number else -math.inf
    return so_few <= 1 - CONFIDENCE


def doubling(first: int, last: int) -> list[int]:
    """first, 2 first, 4 first ... last."""
    levels = [first]
    while levels[-1] < last:
        levels.append(min(2 * levels[-1], last))
    return levels


def search(
    sustained: Callable[[int], bool | None], levels: Sequence[int], bisect: bool = True
) -> int:
    """The highest level that is sustained, below which none was not; 0 where there is none.

    `levels` are tried in ascending order until one is not sustained; where it is the first, half of
    it, and so on down to 1; then those between. A None from `sustained` ends the search: nothing
    more can be measured.
    """
    best, over = 0, None
    for level in levels:
        result = sustained(level)
        if result is None:
            return best
        if not result:
            over = level
            break
        best = level
    while bisect and not best and over and over > 1:
        result = sustained(over // 2)
        if result is None:
            return best
        best, over = (over // 2, over) if result else (best, over // 2)
    while bisect and best and over and over - best > 1:
        middle = (best + over) // 2
        result = sustained(middle)
        if result is None:
            return best
        best, over = (middle, over) if result else (best, middle)
    return best


def find(
    measure_level: Callable[[int, float], dict],
    sentence: Callable[[dict], str],
    args: argparse.Namespace,
    name: str,
    journal: Journal,
) -> Found:
    """Search for the most streams that are sustained, and confirm them.

    Parameters
    ----------
    measure_level : runs a number of streams for so many seconds and returns its figures, among them
        "sustained" (whether no stream had MAX_LATE_SHARE or more late), "observations", of all
        streams together, and "late" of them.
    sentence : what to print of these.
    args, name : as for add_arguments().
    journal : of the run; it gets all levels after each.

    Raises what ended the first number of streams before it was measured.
    """
    levels: dict[int, dict] = {}
    monitors: dict[int, SystemMonitor] = {}
    last = SystemMonitor()

    def sustained(count: int, duration_s: float = args.duration) -> bool | None:
        nonlocal last
        last = SystemMonitor(keep=lambda: bool(levels))
        with last, progress.stage(f"{count} {name}(s)"):
            level = measure_level(count, duration_s)
        if last.status != "complete":
            return None
        level["duration_s"] = duration_s
        level["confirmed"] = level["observations"] >= args.min_observations
        if level["confirmed"] and args.min_observations >= observations_needed():
            level["sustained"] &= is_shown(level["observations"], level["late"])
        levels[count], monitors[count] = level, last
        level["busy_share_per_cpu"] = last.usage["busy_share_per_cpu"]
        level["other_cores_busy"] = last.usage["other_cores_busy"]
        state = "sustained" if level["sustained"] else "not sustained"
        busy = last.usage["process_cores_busy"]
        journal.replace({f"{name}s": [[highest(levels)]]}, {"levels": dict(levels)})
        print(f"{count} {name}(s): {state}; {sentence(level)}, {busy:.1f} cores busy", flush=True)
        return level["sustained"]

    search(sustained, doubling(getattr(args, f"min_{name}s"), getattr(args, f"max_{name}s")))
    most = confirm(sustained, levels, args, name) if last.status == "complete" else highest(levels)
    shown = most or min(levels)
    monitor = monitors[shown]
    monitor.status, monitor.error = last.status, last.error
    over = (count for count in levels if count > most and not levels[count]["sustained"])
    first_over = min(over, default=None)
    ordered = {count: levels[count] for count in sorted(levels)}
    found = warnings(ordered, most, first_over, name)
    return Found(most, first_over, shown, ordered, found, monitor)


def highest(levels: dict[int, dict]) -> int:
    """The most streams that were sustained, below which no number was not; 0 if there is none."""
    over = min((count for count in levels if not levels[count]["sustained"]), default=math.inf)
    return max((count for count in levels if count < over), default=0)


def confirm(
    sustained: Callable[[int, float], bool | None],
    levels: dict[int, dict],
    args: argparse.Namespace,
    name: str,
) -> int:
    """Run the highest level for as long as the claim takes; where it fails, ever lower ones."""
    most = highest(levels)
    while most and not (most in levels and levels[most]["confirmed"]):
        count, level = max(levels.items())
        per_stream_s = max(level["observations"], 1) / count / level["duration_s"]
        longer_s = 1.1 * args.min_observations / per_stream_s / most
        print(f"Confirming {most} {name}(s): {longer_s:.0f} s", flush=True)
        result = sustained(most, longer_s)
        if result or result is None:
            return highest(levels)
        most = max(highest(levels), most - max(1, most // 16))
    return most


def warnings(levels: dict[int, dict], most: int, first_over: int | None, name: str) -> list[str]:
    """What speaks against the result, besides what the machine did while it was measured."""
    found = []
    if most and not is_shown(levels[most]["observations"], levels[most]["late"]):
        late, number = levels[most]["late"], levels[most]["observations"]
        found.append(
            f"{late} of {number} late do not show at {CONFIDENCE:.0%} confidence that under "
            f"{MAX_LATE_SHARE:.0%} are: {observations_needed(late)} are needed (--min_observations)"
        )
    if first_over:
        level = levels[first_over]
        if level["other_cores_busy"] > MAX_OTHER_SHARE * len(level["busy_share_per_cpu"]):
            busy = level["other_cores_busy"]
            found.append(f"other processes kept {busy:.2f} cores busy with {first_over} {name}(s)")
    return found


def report(found: Found, args: argparse.Namespace, name: str, condition: str) -> str:
    """The result in a sentence; `condition` says within what limits."""
    last = getattr(args, f"max_{name}s")
    all_sustained = found.first_over is None and found.monitor.status == "complete"
    more = (
        f": as many as were tried; --max_{name}s above {last} tries more" if all_sustained else ""
    )
    return f"Capacity: {found.most} {name}(s) {condition}{more}"
