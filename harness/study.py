"""Run the measurements of a machine: all once, or the repeated runs that a decision needs.

run.sh calls it with the workloads' commands. A study repeats some of them in turn, A B C A B C ...,
each run a process of its own, then runs the others once. Its plan is study.json in the results
folder; what is done is known from the records there, so a study that was interrupted goes on where
it stopped when the same command is given again.
"""

from __future__ import annotations

import argparse
import fcntl
import functools
import math
import os
import shlex
import signal
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from harness import capacity, cli, files, quiet, sample_size, system, until
from harness.cli import UserError
from harness.study_plan import (
    MIN_DURATION_S,
    PLAN,
    Job,
    Plan,
    Step,
    done,
    label,
    read_plan,
    read_records,
    runs_of,
    write_plan,
)

UNTIL = "until.txt"  # how narrow the intervals are, and why they are no narrower
ROOT = Path(__file__).resolve().parent.parent
MLPERF_DURATION_S = 600.0
REPEATS = 5
MAX_HOURS = 12.0
QUIET_LIMIT_S = 120.0
GRACE_S = 60.0  # for a run to save what it has, when the study is interrupted
# Assumed where no earlier record of this machine tells.
ASSUMED_SPREAD = 0.02  # between runs
ASSUMED_BESIDE_S = 30.0  # per run: start, loading, warm-up, limits of the machine


@dataclass(frozen=True)
class Estimate:
    """What is expected of a job."""

    run_s: float
    is_timed: bool  # False: run_s is assumed
    spread: float = ASSUMED_SPREAD  # between runs, of the primary metric
    runs: int = 0  # that the spread is known from; 0: assumed

    @property
    def source(self) -> str:
        source = f"of {self.runs} earlier runs" if self.runs else "assumed"
        return f"spread between runs {self.spread:.1%}, {source}"


def estimate(job: Job, min_duration_s: float, earlier: Sequence[dict]) -> Estimate:
    """From a machine's earlier complete records, oldest first; assumed where they do not tell.

    The spread is that of the newest record's task and configuration.
    """
    of_job = [each for each in earlier if each["workload"] == job.name and each["usage"]]
    if not of_job:
        assumed_s = min_duration_s + ASSUMED_BESIDE_S if job.is_repeated else job.assumed_s
        return Estimate(assumed_s, is_timed=False)
    newest = of_job[-1]
    wall_s, primary = newest["usage"]["wall_s"], newest["primary"]
    if job.is_repeated:
        iterations = newest["metrics"][primary]["iterations"]
        least_s = wall_s / iterations * newest["parameters"].get("num_iters", 1)
        active_s = max(min_duration_s, least_s)
    else:
        active_s = measured_s(newest)
    same = ("task", "comparable_by", "configuration")
    group = [each for each in of_job if all(each[k] == newest[k] for k in same)]
    medians = [each["metrics"][primary]["median"] for each in group]
    if len(medians) < sample_size.MIN_RUNS or min(medians) <= 0:
        return Estimate(active_s + ASSUMED_BESIDE_S, is_timed=True)
    spread = sample_size.spread(medians)
    return Estimate(active_s + ASSUMED_BESIDE_S, True, spread, len(medians))


def measured_s(run: dict) -> float:
    """The usage of a search is one level's."""
    return run["usage"]["wall_s"] * max(1, len(run["output"].get("levels", ())))


def total_s(jobs: Sequence[Job], estimates: dict[str, Estimate], repeats: int) -> float:
    return sum(estimates[job.name].run_s * (repeats if job.is_repeated else 1) for job in jobs)


def most_repeats(jobs: Sequence[Job], estimates: dict[str, Estimate], max_hours: float) -> int:
    """That fit in `max_hours`."""
    once_s = total_s(jobs, estimates, 0)
    most = (max_hours * 3600 - once_s) / (total_s(jobs, estimates, 1) - once_s)
    return math.floor(min(most, sys.maxsize))


def needed(jobs: Sequence[Job], estimates: dict[str, Estimate], difference: float) -> int:
    """Runs of each repeated job that show a relative difference in all of them."""
    spread = max(estimates[job.name].spread for job in jobs if job.is_repeated)
    return sample_size.runs_needed(difference, spread)


def duration(seconds: float) -> str:
    """'45 s', '12 min', '2.5 h'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def earlier_here(folder: Path) -> list[dict]:
    """This machine's earlier records, of `folder` and of the default one."""
    here = system.describe()
    name, cpu = here["hostname"], here["cpu"]["model"]
    records = read_records(sorted({folder.resolve(), ROOT / "results"}))
    return [
        each
        for each in records
        if (each["system"]["hostname"], each["system"]["cpu"]["model"]) == (name, cpu)
    ]


def make_plan(
    args: argparse.Namespace, estimates: dict[str, Estimate], before: Plan | None
) -> Plan:
    """A new plan, or the one in the results folder with the repeats that are asked for now.

    Raises UserError where that one measures something else, or where `max_hours` is too short.
    """
    if before and (before.jobs, before.min_duration_s) != (args.jobs, args.min_duration):
        raise UserError(
            f"{args.results_dir / PLAN} is the plan of a study with other commands or durations: "
            "name another RESULTS_DIR for this one"
        )
    is_chosen = args.repeats or args.detect or args.until_width
    if before and (not is_chosen or (args.detect and args.detect == before.detect)):
        return before
    max_hours = longest_h(args, before)
    most = most_repeats(args.jobs, estimates, max_hours)
    if args.detect:
        repeats = max(sample_size.MIN_RUNS, min(needed(args.jobs, estimates, args.detect), most))
    else:
        repeats = args.repeats or (sample_size.MAX_RUNS if args.until_width else REPEATS)
    least = min(repeats, until.MIN_RUNS) if args.until_width else repeats
    if least > most:
        hours = duration(total_s(args.jobs, estimates, least))
        raise UserError(
            f"{least} runs each take about {hours}: more than --max_hours {max_hours:g}"
        )
    new_id = f"{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:4]}"
    plan_id = before.id if before else new_id
    return Plan(plan_id, repeats, args.min_duration, args.detect, args.jobs, args.until_width)


def longest_h(args: argparse.Namespace, before: Plan | None) -> float:
    is_open = args.detect or args.until_width or (before and before.until_width)
    return args.max_hours or (MAX_HOURS if is_open else math.inf)


def describe(
    plan: Plan, estimates: dict[str, Estimate], left: Sequence[Step], already: int
) -> list[str]:
    """What is about to happen, how long it takes, and what it will be able to show.

    `already` is the number of runs that are done.
    """
    repeated = [job for job in plan.jobs if job.is_repeated]
    once = [job.name for job in plan.jobs if not job.is_repeated]
    few = min(plan.repeats, until.MIN_RUNS)
    number = f"{few} or more" if plan.until_width and few < plan.repeats else plan.repeats
    each = f"{number} runs each of {', '.join(job.name for job in repeated)}"
    lines = [
        f"Study {plan.id}: {each}, in turn, {plan.min_duration_s:g} s or more per run"
        + (f"; then once {', '.join(once)}" if once else "")
    ]
    left_s = sum(estimates[step.job.name].run_s for step in left)
    is_timed = all(estimates[step.job.name].is_timed for step in left)
    lines.append(
        f"Time: about {duration(left_s)} for {len(left)} runs"
        + (f", {already} more are done already" if already else "")
        + (" (from earlier runs of this machine)" if is_timed else " (assumed in part)")
    )
    if plan.until_width:
        lines.append(f"Until the 95% interval of each mean is {plan.until_width:.1%} wide or less:")
        for job in repeated:
            runs = until.runs_expected(plan.until_width, estimates[job.name].spread)
            lines.append(f"  {job.name}: about {runs} runs ({estimates[job.name].source})")
        return lines
    if plan.repeats < sample_size.MIN_RUNS:
        return [*lines, f"No verdict: that takes {sample_size.MIN_RUNS} runs per side or more"]
    lines.append(
        f"Smallest difference shown with {sample_size.POWER:.0%} probability, {plan.repeats} runs "
        "per side:"
    )
    shown = {}
    for job in repeated:
        of_job = estimates[job.name]
        shown[job.name] = sample_size.smallest_difference(plan.repeats, of_job.spread)
        lines.append(f"  {job.name}: {shown[job.name]:.1%} ({of_job.source})")
    if plan.detect and max(shown.values()) > plan.detect:
        runs = needed(plan.jobs, estimates, plan.detect)
        at_least = " or more" * (runs == sample_size.MAX_RUNS)
        lines.append(f"{plan.detect:.1%} takes {runs}{at_least} runs of each (--max_hours)")
    return lines


def run_step(step: Step, arguments: Sequence[str]) -> int:
    """Run a job's command in its folder: its exit status, negative where a signal ended it.

    It is in a session of its own, so that Ctrl-C reaches it once, from here; when this process is
    interrupted it is told so, and waited for; when this process is killed, it ends too.
    """
    folder = ROOT / step.job.folder
    python = folder / ".venv/bin/python"
    if not python.exists():
        raise UserError(f"{folder} is not set up: ./run.sh --prepare does it")
    tied = [sys.executable, str(Path(__file__).with_name("tied.py")), str(os.getpid())]
    command = [*tied, str(python), *step.job.command, *arguments]
    # The lock that run.sh holds is inherited: a run that outlives it keeps the next one waiting.
    child = subprocess.Popen(
        command, cwd=folder, stdin=subprocess.DEVNULL, start_new_session=True, close_fds=False
    )
    try:
        return child.wait()
    except KeyboardInterrupt as error:
        child.send_signal(error.number if isinstance(error, cli.Terminated) else signal.SIGINT)
        _end(child)
        raise


def _end(child: subprocess.Popen) -> None:
    """Wait until it has ended; kill it after GRACE_S, or at the second interruption."""
    try:
        child.wait(GRACE_S)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        child.kill()
        child.wait()


def status_text(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    name = signal.Signals(-status).name
    return f"ended by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


def queue(
    plan: Plan, folder: Path, estimates: dict[str, Estimate], max_s: float
) -> Iterator[list[Step]]:
    """Before each run, the steps that are left, the next one first; each is tried once.

    With `until_width`, a workload that failed is not repeated, nor one whose run would not end
    within `max_s` of measuring, with what comes once at the end. Runs done before count, too.
    """
    tried: dict[str, str] = {}  # by label, the job
    known, _ = state(plan, estimates, folder)
    began_s = time.monotonic() - sum(measured_s(run) + ASSUMED_BESIDE_S for run in known.values())
    once_s = total_s(plan.jobs, estimates, 0)
    while True:
        known, left = state(plan, estimates, folder)
        left = [step for step in left if label(plan, step) not in tried]
        if plan.until_width:
            failed = {job for name, job in tried.items() if name not in known}
            most_s = max_s - once_s - (time.monotonic() - began_s)
            for job in (job for job in plan.jobs if job.is_repeated):
                runs = runs_of(job, known)
                newest = estimate(job, plan.min_duration_s, runs) if runs else estimates[job.name]
                if job.name in failed or newest.run_s > most_s:
                    left = [step for step in left if step.job != job]
        if not left:
            return
        yield left
        tried[label(plan, left[0])] = left[0].job.name


def measure(
    steps_left: Iterable[Sequence[Step]],
    arguments: Callable[[Step], list[str]],
    run_s: dict[str, float],
    already: int,
    limit_s: float,
) -> list[tuple[Step, str]]:
    """Run the first of the steps left, each time: those that failed, and how.

    `arguments` are what is added to a step's command, `run_s` is by job what a run is expected to
    take, `already` the number of runs that were done before. Each run waits up to `limit_s` for a
    quiet machine.
    """
    took_s: dict[str, list[float]] = {}
    failed = []
    for number, left in enumerate(steps_left, already + 1):
        step, name = left[0], left[0].job.name
        expected = {**run_s, **{job: statistics.median(each) for job, each in took_s.items()}}
        left_s = sum(expected[later.job.name] for later in left)
        print(f"\n== Run {number} of {number - 1 + len(left)}: {name} {step.number}; ", end="")
        print(f"about {duration(left_s)} left", flush=True)
        quiet.wait(limit_s)
        started_s = time.monotonic()
        status = run_step(step, arguments(step))
        if status:
            failed.append((step, status_text(status)))
        else:
            took_s.setdefault(name, []).append(time.monotonic() - started_s)
    return failed


def report(records: Sequence[dict], folder: Path) -> None:
    """Print the table of records and write report.html, by analysis."""
    print("\n== Results", flush=True)
    paths = [str(each["path"]) for each in records]
    page = ["--html", str(folder / "report.html")]
    for command in (["analysis.summary", *paths], ["analysis.compare", *paths, *page]):
        subprocess.run([sys.executable, "-m", *command], cwd=ROOT, check=False)
    lines = [
        line for each in records for line in each["details"] if line.startswith(capacity.RESULT)
    ]
    if lines:
        print("\nThis machine carries, one workload at a time:")
        print("\n".join(f"  {line.removeprefix(capacity.RESULT)}" for line in lines), flush=True)


def parse_job(text: str, is_repeated: bool) -> Job:
    """For argparse: a Job of the words of --job, or of --once."""
    name, *words = shlex.split(text)
    assumed_s = 0.0 if is_repeated else cli.positive_float(words.pop(0))
    folder, *command = words
    return Job(name, folder, command, is_repeated, assumed_s)


def percentage(text: str) -> float:
    """For argparse: '3%' or '0.03'."""
    value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"must be between 0% and 100%, e.g. 3%, not {text}")
    return value


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    add = parser.add_argument
    repeated = "workload, folder, script and arguments, in one word"
    once = "workload, seconds to assume until a record tells, folder, script and arguments"
    job = functools.partial(add, action="append", default=[], metavar="WORDS")
    job("--job", type=lambda text: parse_job(text, True), help=f"repeated: {repeated}")
    job("--once", type=lambda text: parse_job(text, False), help=f"run once: {once}")
    add("--results_dir", type=Path, default=ROOT / "results", help="folder for the records")
    add("--quick", action="store_true", help="each job once, at its own length: no study")
    number = parser.add_mutually_exclusive_group().add_argument
    repeats = f"runs of each repeated job (default: the plan's, else {REPEATS})"
    number("--repeats", type=cli.positive_int, metavar="N", help=repeats)
    detect = "choose the repeats that show a difference of P, e.g. 3%%"
    number("--detect", type=percentage, metavar="P", help=detect)
    width = "until the 95%% interval of each mean is P wide, e.g. 3%%; with --repeats, N at most"
    add("--until_width", type=percentage, metavar="P", help=width)
    hours = f"longest study (default: {MAX_HOURS:g} with --detect or --until_width)"
    add("--max_hours", type=cli.positive_float, metavar="H", help=hours)
    length = parser.add_mutually_exclusive_group().add_argument
    length("--min_duration", type=cli.positive_float, default=MIN_DURATION_S, metavar="S",
           help="measured seconds per repeated run; under 60 for trials only")  # fmt: skip
    length("--mlperf_duration", action="store_const", const=MLPERF_DURATION_S, dest="min_duration",
           help="MLPerf Inference's: 600 s per run")  # fmt: skip
    limit = "seconds to wait for a quiet machine before each run"
    add("--quiet_limit", type=cli.non_negative_float, default=QUIET_LIMIT_S, metavar="S",
        help=limit)  # fmt: skip
    args = parser.parse_args()
    args.jobs = args.job + args.once
    args.results_dir = args.results_dir.absolute()
    if not args.job:
        parser.error("nothing to measure: --job")
    if args.detect and args.until_width:
        parser.error("either --detect or --until_width")
    if args.quick and (args.repeats or args.detect or args.until_width or args.max_hours):
        parser.error("--quick is no study")
    return args


def quick(args: argparse.Namespace) -> int:
    before = {each["id"] for each in read_records([args.results_dir])}
    todo = [Step(job, 1) for job in args.jobs]
    todo_each_time = (todo[index:] for index in range(len(todo)))
    run_s = {job.name: ASSUMED_BESIDE_S for job in args.jobs}
    where = ["--results_dir", str(args.results_dir)]
    try:
        failed = measure(todo_each_time, lambda step: where, run_s, already=0, limit_s=0)
    except KeyboardInterrupt as error:
        print(f"{cli.why_interrupted(error)}: the records hold what was measured", file=sys.stderr)
        return cli.interrupt_status(cli.why_interrupted(error))
    new = [each for each in read_records([args.results_dir]) if each["id"] not in before]
    if new:
        report(new, args.results_dir)
    return conclude(failed, "see above")


def study(args: argparse.Namespace) -> int:
    held = lock(args.results_dir)
    earlier = earlier_here(args.results_dir)
    estimates = {job.name: estimate(job, args.min_duration, earlier) for job in args.jobs}
    before = read_plan(args.results_dir)
    plan = make_plan(args, estimates, before)
    write_plan(plan, args.results_dir)
    already, left = state(plan, estimates, args.results_dir)
    print("\n".join(describe(plan, estimates, left, len(already))), flush=True)

    run_s = {name: each.run_s for name, each in estimates.items()}
    max_hours = longest_h(args, before)
    steps_left = queue(plan, args.results_dir, estimates, max_hours * 3600)
    add = functools.partial(arguments, plan, args.results_dir)
    try:
        failed = measure(steps_left, add, run_s, len(already), args.quiet_limit)
    except KeyboardInterrupt as error:
        known, left = state(plan, estimates, args.results_dir)
        why = cli.why_interrupted(error)
        total = len(known) + len(left)
        print(f"{why}: {len(known)} of {total} runs done: the same command continues",
              file=sys.stderr)  # fmt: skip
        return cli.interrupt_status(why)
    known, _ = state(plan, estimates, args.results_dir)
    if known:
        report(list(known.values()), args.results_dir)
        print("\n".join(evidence(plan, known)))
        if plan.until_width:
            endings = until.endings(plan, known, {step.job.name for step, _ in failed}, max_hours)
            text = "\n".join(endings) + "\n"
            print(text, end="")
            files.write_whole(args.results_dir / UNTIL, text.encode(), overwrite=True)
    os.close(held)
    return conclude(failed, "the same command tries only these again")


def lock(folder: Path) -> int:
    """Hold a folder as long as this process lives. Raises UserError where another study does."""
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"another study is running in {folder}") from None
    except OSError:  # a file system without locks
        pass
    return held


def state(
    plan: Plan, estimates: dict[str, Estimate], folder: Path
) -> tuple[dict[str, dict], list[Step]]:
    """(the runs that are done, by label; the steps that are left)."""
    known = done(plan, read_records([folder]))
    spreads = {name: each.spread for name, each in estimates.items()}
    return known, until.steps_left(plan, known, spreads)


def arguments(plan: Plan, folder: Path, step: Step) -> list[str]:
    """What a study adds to a job's command."""
    shared = ["--results_dir", str(folder), "--study", label(plan, step)]
    return shared + ["--min_duration", f"{plan.min_duration_s:g}"] * step.job.is_repeated


def evidence(plan: Plan, known: dict[str, dict]) -> list[str]:
    """Per repeated job: its valid runs, their spread, and the difference that they can show.

    `known` are the study's records by label.
    """
    lines = []
    for job in (job for job in plan.jobs if job.is_repeated):
        runs = runs_of(job, known)
        valid = [
            each["metrics"][each["primary"]]["median"] for each in runs if each["validity"]["valid"]
        ]
        total = len(runs) if plan.until_width else plan.repeats
        line = f"{job.name}: {len(valid)} of {total} runs are valid as evidence"
        if len(valid) >= sample_size.MIN_RUNS and min(valid) > 0:
            found = sample_size.spread(valid)
            least = sample_size.smallest_difference(len(valid), found)
            line += f", spread between runs {found:.1%}: differences from {least:.1%} on show"
        lines.append(line)
    return lines


def conclude(failed: Sequence[tuple[Step, str]], advice: str) -> int:
    if failed:
        each = "; ".join(f"{step.job.name} {step.number}: {how}" for step, how in failed)
        print(f"error: not measured: {each}: {advice}", file=sys.stderr)
    return cli.EXIT_FAILED if failed else cli.EXIT_OK


def main() -> int:
    args = parse_args()
    try:
        args.results_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {args.results_dir}: {error.strerror}") from None
    return quick(args) if args.quick else study(args)


if __name__ == "__main__":
    cli.run(main)
