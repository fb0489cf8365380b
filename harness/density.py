"""How many live streams a machine carries: what the workloads' density.py have in common.

The number of streams is doubled until one is not carried, then found by bisection.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness import cli, measure
from harness.cli import UserError

MAX_LOST_SHARE = 0.01  # of a stream's frames or windows, that came late or not at all


@dataclass
class Found:
    most: int  # streams that were carried; 0 where not even the first number tried was
    first_over: int | None  # the least number tried that was not carried
    shown: int  # the number of streams that the run's metrics are of
    levels: dict[int, dict]  # what each number tried came to
    watch: measure.Watch  # of `shown`, with the status of the last

    def output(self, name: str) -> dict:
        """What the record keeps of it; `name` is what a stream is called."""
        levels = {str(count): level for count, level in self.levels.items()}
        return {f"{name}s": self.most, "first_over": self.first_over, "levels": levels}


def add_arguments(parser: argparse.ArgumentParser, name: str, duration_s: float, plotted: str) -> None:
    """`name` is what a stream is called; `plotted` says what the picture shows."""
    parser.add_argument(f"--min_{name}s", type=cli.positive_int, default=1, help=f"number of {name}s to begin with")
    parser.add_argument(f"--max_{name}s", type=cli.positive_int, default=256, help=f"number of {name}s to end with")
    parser.add_argument("--duration", type=cli.positive_float, default=duration_s, metavar="S",
                        help=f"seconds each number of {name}s is measured")  # fmt: skip
    parser.add_argument("--plot", type=Path, default=Path("density.png"), help=f"picture of {plotted} against {name}s")


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace, name: str) -> None:
    first, last = getattr(args, f"min_{name}s"), getattr(args, f"max_{name}s")
    if first > last:
        parser.error(f"--min_{name}s {first} is above --max_{name}s {last}")


def find(level_of: Callable[[int], dict], sentence: Callable[[dict], str], args: argparse.Namespace, name: str) -> Found:
    """Search for the most streams that hold.

    Parameters
    ----------
    level_of : runs a number of streams and returns what they came to; "holds" in it tells whether they all kept up.
    sentence : what to print of that.
    args, name : as for add_arguments().

    Raises UserError (KeyboardInterrupt) where not even the first number of streams ran to its end.
    """
    levels, watches = {}, {}
    first, last = getattr(args, f"min_{name}s"), getattr(args, f"max_{name}s")

    def holds(count: int) -> bool:
        with measure.Watch() as watches[count]:
            levels[count] = level_of(count)
        if watches[count].status != "complete":
            raise _Ended
        usage = watches[count].usage
        levels[count]["busy_share_per_cpu"] = usage["busy_share_per_cpu"]
        print(f"{count} {name}(s): {'hold' if levels[count]['holds'] else 'do not hold'}; {sentence(levels[count])}, "
              f"{usage['process_cores_busy']:.1f} cores busy", flush=True)  # fmt: skip
        return levels[count]["holds"]

    try:
        most = search(holds, first, last)
    except _Ended:
        most = max((count for count in levels if levels[count]["holds"]), default=0)
    ended = list(watches.values())[-1]  # may have ended early
    if not levels:
        raise UserError(ended.error) if ended.status == "failed" else KeyboardInterrupt
    shown = most if most in levels else min(levels)
    watch = watches[shown]
    watch.status, watch.error = ended.status, ended.error
    over = min((count for count in levels if count > most and not levels[count]["holds"]), default=None)
    return Found(most, over, shown, {count: levels[count] for count in sorted(levels)}, watch)


class _Ended(Exception):
    """Ctrl-C or a fault while streams ran: what was found for fewer or more of them still stands."""


def search(holds: Callable[[int], bool], first: int, last: int) -> int:
    """The most streams that hold: doubled from `first` until one does not, then bisected; 0 where `first` does not."""
    best, count = 0, first
    while holds(count):
        best = count
        if count == last:
            return best
        count = min(2 * count, last)
    over = count
    while over - best > 1 and best:
        middle = (best + over) // 2
        if holds(middle):
            best = middle
        else:
            over = middle
    return best


def report(found: Found, args: argparse.Namespace, name: str, what: str) -> None:
    """Print the number; `what` says of what."""
    tried_all = found.first_over is None and found.watch.status == "complete"
    last = getattr(args, f"max_{name}s")
    print(f"\nStream density: {found.most} {name}(s) {what}"
          + (f": as many as were tried; more with --max_{name}s above {last}" if tried_all else ""))  # fmt: skip


def plot(found: Found, lines: dict[str, str], limit: tuple[str, float], name: str, ylabel: str, path: Path) -> None:
    """Draw some figures of each level against the number of streams.

    Parameters
    ----------
    lines : label of each line: which of a level's figures it is.
    limit : label and value of what was asked for.

    A file that can't be written is told and does not cost the record.
    """
    if len(found.levels) < 2:
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    counts = list(found.levels)
    for (label, key), style in zip(lines.items(), ("o-", "s--", "^:")):
        axes.plot(counts, [found.levels[count][key] for count in counts], style, label=label)
    axes.axhline(limit[1], color="black", linestyle=":", label=limit[0])
    axes.set(xlabel=f"{name}s", ylabel=ylabel, ylim=(0, None), title="Stream density", xticks=counts)
    axes.legend()
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        print(f"warning: cannot write {path}: {cli.one_line(error)} (--plot)", file=sys.stderr)
    else:
        print(f"Plot: {path}")
