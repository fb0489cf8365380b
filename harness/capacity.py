"""The most live streams (users, cameras, calls) that a machine sustains: search and report.

The number of streams is doubled until one is not sustained, then found by bisection.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import cli, progress
from harness.journal import Journal
from harness.monitor import SystemMonitor

MAX_LATE_SHARE = 0.01  # of a stream's frames or windows that came late or not at all


@dataclass
class Found:
    most: int  # streams that were sustained; 0 where not even the first number tried was
    first_over: int | None  # the lowest number tried that was not sustained
    shown: int  # the number of streams that the run's metrics are of
    levels: dict[int, dict]  # the figures of each number tried
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
    group.add_argument("--plot", type=Path, default=Path("capacity.png"), help="picture to write")


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace, name: str) -> None:
    first, last = getattr(args, f"min_{name}s"), getattr(args, f"max_{name}s")
    if first > last:
        parser.error(f"--min_{name}s {first} is above --max_{name}s {last}")


def doubling(first: int, last: int) -> list[int]:
    """first, 2 first, 4 first ... last."""
    levels = [first]
    while levels[-1] < last:
        levels.append(min(2 * levels[-1], last))
    return levels


def search(
    sustained: Callable[[int], bool | None], levels: Sequence[int], bisect: bool = True
) -> int:
    """The highest level that is sustained; 0 where the first is not.

    `levels` are tried in ascending order until one is not sustained, then those between. A None
    from `sustained` ends the search: nothing more can be measured.
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
    while bisect and best and over and over - best > 1:
        middle = (best + over) // 2
        result = sustained(middle)
        if result is None:
            return best
        best, over = (middle, over) if result else (best, middle)
    return best


def find(
    measure_level: Callable[[int], dict],
    sentence: Callable[[dict], str],
    args: argparse.Namespace,
    name: str,
    journal: Journal,
) -> Found:
    """Search for the most streams that are sustained.

    Parameters
    ----------
    measure_level : runs a number of streams and returns its figures; "sustained" is one of them.
    sentence : what to print of these.
    args, name : as for add_arguments().
    journal : of the run; it gets all levels after each.

    Raises what ended the first number of streams before it was measured.
    """
    levels: dict[int, dict] = {}
    monitors: dict[int, SystemMonitor] = {}

    def sustained(count: int) -> bool | None:
        monitors[count] = SystemMonitor(keep=lambda: bool(levels))
        with monitors[count], progress.stage(f"{count} {name}(s)"):
            levels[count] = measure_level(count)
        if monitors[count].status != "complete":
            return None
        level, usage = levels[count], monitors[count].usage
        level["busy_share_per_cpu"] = usage["busy_share_per_cpu"]
        state = "sustained" if level["sustained"] else "not sustained"
        busy = usage["process_cores_busy"]
        best = max((n for n, each in levels.items() if each["sustained"]), default=0)
        journal.replace({f"{name}s": [[best]]}, {"levels": dict(levels)})
        print(f"{count} {name}(s): {state}; {sentence(level)}, {busy:.1f} cores busy", flush=True)
        return level["sustained"]

    tried = doubling(getattr(args, f"min_{name}s"), getattr(args, f"max_{name}s"))
    most = search(sustained, tried)
    ended = list(monitors.values())[-1]
    shown = most or min(levels)
    monitor = monitors[shown]
    monitor.status, monitor.error = ended.status, ended.error
    over = (count for count in levels if count > most and not levels[count]["sustained"])
    ordered = {count: levels[count] for count in sorted(levels)}
    return Found(most, min(over, default=None), shown, ordered, monitor)


def report(found: Found, args: argparse.Namespace, name: str, condition: str) -> str:
    """The result in a sentence; `condition` says within what limits."""
    last = getattr(args, f"max_{name}s")
    all_sustained = found.first_over is None and found.monitor.status == "complete"
    more = (
        f": as many as were tried; --max_{name}s above {last} tries more" if all_sustained else ""
    )
    return f"Capacity: {found.most} {name}(s) {condition}{more}"
