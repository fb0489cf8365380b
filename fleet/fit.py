"""Check whether this machine is fit to measure: one line per problem, and then exit status 1.

roles/study calls it on every machine of the fleet before a study. A study of the fleet that is
still running, as after a lost connection, is no problem: the play waits for it.
"""

from __future__ import annotations

import argparse
import fcntl
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from harness import checks, cli, quiet, system

BUSIEST = 3  # processes that are named


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    add = parser.add_argument
    add("--study", type=Path, default=ROOT.parent, help="folder with the running study's lock")
    add("--quiet_s", type=float, default=60.0, help="how long to wait for an idle machine")
    add("--swap_mib", type=float, default=100.0, help="swap in use")
    add("--disk_gib", type=float, default=5.0, help="free disk")
    add("--clock_s", type=float, default=30.0, help="difference from --control_time")
    add("--control_time", type=float, help="seconds since 1970, by the control machine")
    add("--ignore", default="", help="names, separated by commas")
    args = parser.parse_args()
    if is_running(args.study / "lock"):
        print("a study of the fleet is running: it is waited for")
        return cli.EXIT_OK
    # The clock first: the wait for an idle machine would count as a difference.
    found: dict[str, Callable[[argparse.Namespace], str | None]] = {
        "clock": clock,
        "governor": governor,
        "swap": swap,
        "disk": disk,
        "busy": busy,
    }
    ignored = set(filter(None, args.ignore.split(",")))
    if unknown := ignored - set(found):
        parser.error(f"--ignore: {', '.join(sorted(unknown))}: not one of {', '.join(found)}")
    reasons = {name: check(args) for name, check in found.items() if name not in ignored}
    lines = [f"{name}: {reason}" for name, reason in reasons.items() if reason]
    print("\n".join(lines))
    return cli.EXIT_FAILED if lines else cli.EXIT_OK


def is_running(lock: Path) -> bool:
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no study has been here
        pass
    return False


def clock(args: argparse.Namespace) -> str | None:
    if args.control_time is None or abs(time.time() - args.control_time) <= args.clock_s:
        return None
    return f"{time.time() - args.control_time:+.0f} s from the control machine's"


def governor(args: argparse.Namespace) -> str | None:
    return "; ".join(checks.governor_reasons(system.describe()))


def swap(args: argparse.Namespace) -> str | None:
    used_mib = psutil.swap_memory().used / 2**20
    return None if used_mib <= args.swap_mib else f"{used_mib:.0f} MiB in use"


def disk(args: argparse.Namespace) -> str | None:
    free_gib = shutil.disk_usage(args.study).free / 2**30
    return None if free_gib >= args.disk_gib else f"{free_gib:.1f} GiB free"


def busy(args: argparse.Namespace) -> str | None:
    """Other load, and the processes that make most of it."""
    if args.quiet_s <= 0 or _is_quiet(args.quiet_s):
        return None
    processes = list(psutil.process_iter(["name"]))
    for each in processes:
        _cpu_percent(each)
    time.sleep(1)
    load = sorted(((_cpu_percent(each), each.info["name"]) for each in processes), reverse=True)
    names = ", ".join(f"{name} {percent:.0f} %" for percent, name in load[:BUSIEST] if percent >= 1)
    return f"over {checks.MAX_OTHER_SHARE:.0%} of all CPUs for {args.quiet_s:g} s ({names})"


def _is_quiet(limit_s: float) -> bool:
    """As before each run of a study, with its messages left out."""
    with redirect_stdout(StringIO()):
        return quiet.wait(limit_s)


def _cpu_percent(process: psutil.Process) -> float:
    try:
        return process.cpu_percent()
    except psutil.Error:
        return 0.0


if __name__ == "__main__":
    cli.run(main)
