"""A workload of a few milliseconds per iteration, for tests of how runs end.

It does real work (hashing) and measures it as every infer.py does. --then says what happens after
the timed loop: finish, wait (as hashing a large model would), or fail.
"""

import argparse
import contextlib
import hashlib
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from harness import cli

cli.quit_on_signals()
with contextlib.suppress(OSError):
    os.write(2, b"Importing\n")

from harness import instance, instances, monitor, run, system, tune
from harness.metrics import Metric

RATE = Metric("hashes_per_second", "hashes/s", "higher", "Hash rate", "Hashes over time.")
TIME = Metric("hashing_time_s", "s", "lower", "Hashing time", "Time of 100 hashes.")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--then", choices=("finish", "wait", "fail"), default="finish")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds more per iteration")
    parser.add_argument("--fail_at", type=int, default=-1, help="raise in this iteration")
    instances.add_arguments(parser)
    cli.add_common_arguments(parser, iteration="100 hashes", num_iters=8)
    args = parser.parse_args()
    if instances.requested(args):
        names = RATE.name, TIME.name
        return tune.measure(args, *names, ()) if args.tune else instances.measure(args)
    run.check_destination(args)
    print("Model: none", flush=True)
    described = {
        "workload": "hashes",
        "title": "Hashes",
        "primary": RATE.name,
        "own_metrics": [RATE, TIME],
        "task": {},
        "work": [("million hashes", RATE.name, 1e6)],
        "model": None,
        "input": {"name": "zeros", "sha256": None},
        "system": system.describe(),
        "placement": {"cpus": sorted(os.sched_getaffinity(0))},
    }
    journal = run.start(args, **described)
    print("Measuring", flush=True)
    instance.wait_for_others()
    with journal.monitor:
        for index in monitor.iterations(args.num_iters, args.min_duration):
            started = time.perf_counter()
            for _ in range(100):
                hashlib.sha256(bytes(4096)).digest()
            time.sleep(args.pause)
            time_s = time.perf_counter() - started
            if index == args.fail_at:
                raise RuntimeError("a library failed")
            journal.add({RATE.name: [100 / time_s], TIME.name: [time_s]})
    print("Measured", flush=True)
    if args.then == "wait":
        time.sleep(60)
    if args.then == "fail":
        raise RuntimeError("a library failed afterwards")
    record = run.build(
        args, **described, samples=journal.samples, monitor=journal.monitor, output={}
    )
    return run.finish(record, args)


if __name__ == "__main__":
    cli.run(main)
