"""A capacity.py whose streams cost nothing: a process sustains --most of them, no more.

Each stream has something due every 20 ms. Its counts say which process played it.
"""

import argparse
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from harness import cli

cli.quit_on_signals()

from harness import capacity, players, run, system
from harness.capacity import Job, Limit, Stream
from harness.metrics import Metric

CALLS = Metric("calls", "calls", "higher", "Calls", "The most streams.")
INTERVAL_S = 0.02
LIMIT = Limit()


def prepare(args: argparse.Namespace) -> Job:
    def play(numbers, begins_s: float, duration_s: float) -> list[Stream]:
        ends_s, late_s = begins_s + duration_s, time.perf_counter() - begins_s
        time.sleep(max(0.0, ends_s - time.perf_counter()))
        if args.fail:
            raise RuntimeError("a library failed")
        is_late = len(numbers) > args.most
        dues_s = [n * INTERVAL_S for n in range(int(duration_s / INTERVAL_S))]
        counts = {"process": os.getpid(), "told_too_late": int(late_s > 0)}
        samples = {"window_delay_s": [0.001] * len(dues_s)}
        return [
            Stream(dues_s, [is_late] * len(dues_s), samples, {}, {**counts, "number": number})
            for number in numbers
        ]

    described = {
        "workload": "hash-capacity",
        "title": "Hash capacity",
        "primary": "calls",
        "task": {"most": args.most},
        "work": [("call-hour", "calls", 3600)],
        "model": None,
        "input": {"name": "zeros", "sha256": None},
        "system": system.describe(),
        "placement": {"cpus": sorted(os.sched_getaffinity(0))},
        "check_samples": False,
    }
    return Job(described, play)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--most", type=int, default=3)
    parser.add_argument("--fail", action="store_true")
    capacity.add_arguments(parser, "call", 0.5)
    players.add_arguments(parser)
    cli.add_common_arguments(parser, iteration=None)
    args = parser.parse_args()
    capacity.check_plot(args)
    run.check_destination(args)
    with players.job(args, prepare, "call", LIMIT) as job:
        journal = run.start(args, **job.described)
        found = capacity.find(job, args, "call", journal, LIMIT)
    parts = found.record_parts(job, args, "call", "in a test")
    return run.finish(run.build(args, **parts), args)


if __name__ == "__main__":
    cli.run(main)
