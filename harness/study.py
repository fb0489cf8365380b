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
import json
import math
import os
import shlex
import signal
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from harness import capacity, cli, files, quiet, record, sample_size, system
from harness.cli import UserError

ROOT = Path(__file__).resolve().parent.parent
PLAN = "study.json"
MIN_DURATION_S, MLPERF_DURATION_S = 60.0, 600.0
REPEATS = 5
MAX_HOURS = 12.0
QUIET_LIMIT_S = 120.0
GRACE_S = 60.0  # for a run to save what it has, when the study is interrupted
# Assumed where no earlier record of this machine tells.
ASSUMED_SPREAD = 0.02  # between runs
ASSUMED_BESIDE_S = 30.0  # per run: start, loading, warm-up, limits of the machine


@dataclass(frozen=True)
class Job:
    """A command of a workload's folder."""

    name: str  # the workload, as its records have it
    folder: str
    command: list[str]  # the script and its arguments
    is_repeated: bool
    # Of a job that is run once, where no earlier record tells; another guess is the same job.
    assumed_s: float = field(default=0.0, compare=False)


@dataclass(frozen=True)
class Plan:
    """What study.json holds."""

    id: str
    repeats: int
    min_duration_s: float  # of each repeated run
    detect: float | None  # the relative difference that the repeats were chosen for
    jobs: list[Job]


@dataclass(frozen=True)
class Step:
    """One run of a job; `number` counts from 1."""

    job: Job
    number: int


@dataclass(frozen=True)
class Estimate:
    """What is expected of a job."""

    run_s: float
    is_timed: bool  # False: run_s is assumed
    spread: float = ASSUMED_SPREAD  # between runs, of the primary metric
    runs: int = 0  # that the spread is known from; 0: assumed


def steps(plan: Plan) -> list[Step]:
    """All runs in order: the repeated jobs in turn, then the others once."""
    rounds = range(1, plan.repeats + 1)
    repeated = [Step(job, n) for n in rounds for job in plan.jobs if job.is_repeated]
    return repeated + [Step(job, 1) for job in plan.jobs if not job.is_repeated]


def label(plan: Plan, step: Step) -> str:
    """What a run's record has as its parameter `study`."""
    return f"{plan.id}/{step.job.name}/{step.number}"


def done(plan: Plan, records: Sequence[dict]) -> dict[str, dict]:
    """By label, the complete records of a study."""
    labels = {label(plan, step) for step in steps(plan)}
    found = {each["parameters"].get("study"): each for each in records}
    return {name: each for name, each in found.items() if name in labels}


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
    else:  # the usage of a search is one level's
        active_s = wall_s * max(1, len(newest["output"].get("levels", ())))
    same = ("task", "comparable_by", "configuration")
    group = [each for each in of_job if all(each[k] == newest[k] for k in same)]
    medians = [each["metrics"][primary]["median"] for each in group]
    if len(medians) < sample_size.MIN_RUNS or min(medians) <= 0:
        return Estimate(active_s + ASSUMED_BESIDE_S, is_timed=True)
    spread = sample_size.spread(medians)
    return Estimate(active_s + ASSUMED_BESIDE_S, True, spread, len(medians))


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


def read_records(folders: Sequence[Path]) -> list[dict]:
    """The complete records with a primary metric, oldest first; other files are left out."""
    found = {}
    for path in (path for folder in folders for path in folder.glob("*.json")):
        try:
            each = record.read(path)
        except record.RecordError:
            continue
        if each["status"] == "complete" and each["primary"]:
            found[each["id"]] = {**each, "path": path}
    return sorted(found.values(), key=lambda each: each["finished_at"])


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


def read_plan(folder: Path) -> Plan | None:
    """The plan in a results folder. Raises UserError where it is damaged."""
    path = folder / PLAN
    if not path.exists():
        return None
    try:
        found = json.loads(files.read_text(path, "the study's plan"))
        return Plan(**{**found, "jobs": [Job(**each) for each in found["jobs"]]})
    except (ValueError, TypeError, KeyError, AttributeError):
        raise UserError(
            f"{path} is damaged: remove it to begin a new study, or name another RESULTS_DIR"
        ) from None


def write_plan(plan: Plan, folder: Path) -> None:
    text = json.dumps(asdict(plan), indent=1) + "\n"
    files.write_whole(folder / PLAN, text.encode(), overwrite=True)


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
    is_chosen = args.repeats or args.detect
    if before and (not is_chosen or (args.detect and args.detect == before.detect)):
        return before
    max_hours = args.max_hours or (MAX_HOURS if args.detect else math.inf)
    most = most_repeats(args.jobs, estimates, max_hours)
    if args.detect:
        repeats = max(sample_size.MIN_RUNS, min(needed(args.jobs, estimates, args.detect), most))
    else:
        repeats = args.repeats or REPEATS
    if repeats > most:
        hours = duration(total_s(args.jobs, estimates, repeats))
        raise UserError(
            f"{repeats} runs each take about {hours}: more than --max_hours {max_hours:g}"
        )
    new_id = f"{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:4]}"
    plan_id = before.id if before else new_id
    return Plan(plan_id, repeats, args.min_duration, args.detect, args.jobs)


def describe(plan: Plan, estimates: dict[str, Estimate], left: Sequence[Step]) -> list[str]:
    """What is about to happen, how long it takes, and what it will be able to show."""
    repeated = [job for job in plan.jobs if job.is_repeated]
    once = [job.name for job in plan.jobs if not job.is_repeated]
    each = f"{plan.repeats} runs each of {', '.join(job.name for job in repeated)}"
    lines = [
        f"Study {plan.id}: {each}, in turn, {plan.min_duration_s:g} s or more per run"
        + (f"; then once {', '.join(once)}" if once else "")
    ]
    left_s = sum(estimates[step.job.name].run_s for step in left)
    is_timed = all(estimates[step.job.name].is_timed for step in left)
    already = len(steps(plan)) - len(left)
    lines.append(
        f"Time: about {duration(left_s)} for {len(left)} runs"
        + (f", {already} more are done already" if already else "")
        + (" (from earlier runs of this machine)" if is_timed else " (assumed in part)")
    )
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
        source = f"of {of_job.runs} earlier runs" if of_job.runs else "assumed"
        lines.append(
            f"  {job.name}: {shown[job.name]:.1%} (spread between runs {of_job.spread:.1%}, "
            f"{source})"
        )
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


def measure(
    todo: Sequence[tuple[Step, list[str]]], run_s: dict[str, float], total: int, limit_s: float
) -> list[str]:
    """Run the steps, each with its arguments: a line for each that failed.

    `run_s` is by job what a run is expected to take; `total` counts those done before, too. Each
    run waits up to `limit_s` for a quiet machine.
    """
    took_s: dict[str, list[float]] = {}
    failed = []
    for index, (step, arguments) in enumerate(todo):
        name = step.job.name
        expected = {**run_s, **{job: statistics.median(each) for job, each in took_s.items()}}
        left_s = sum(expected[later.job.name] for later, _ in todo[index:])
        number = total - len(todo) + index + 1
        print(f"\n== Run {number} of {total}: {name} {step.number}; ", end="")
        print(f"about {duration(left_s)} left", flush=True)
        quiet.wait(limit_s)
        started_s = time.monotonic()
        status = run_step(step, arguments)
        if status:
            failed.append(f"{name} {step.number}: {status_text(status)}")
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
    hours = f"longest study (default: {MAX_HOURS:g} with --detect, else none)"
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
    if args.quick and (args.repeats or args.detect or args.max_hours):
        parser.error("--quick is no study")
    return args


def quick(args: argparse.Namespace) -> int:
    before = {each["id"] for each in read_records([args.results_dir])}
    todo = [(Step(job, 1), ["--results_dir", str(args.results_dir)]) for job in args.jobs]
    run_s = {job.name: ASSUMED_BESIDE_S for job in args.jobs}
    try:
        failed = measure(todo, run_s, len(todo), limit_s=0)
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
    plan = make_plan(args, estimates, read_plan(args.results_dir))
    write_plan(plan, args.results_dir)
    all_steps = steps(plan)
    already = done(plan, read_records([args.results_dir]))
    left = [step for step in all_steps if label(plan, step) not in already]
    print("\n".join(describe(plan, estimates, left)), flush=True)

    todo = [(step, arguments(plan, step, args.results_dir)) for step in left]
    run_s = {name: each.run_s for name, each in estimates.items()}
    try:
        failed = measure(todo, run_s, len(all_steps), args.quiet_limit)
    except KeyboardInterrupt as error:
        count = len(done(plan, read_records([args.results_dir])))
        why = cli.why_interrupted(error)
        print(f"{why}: {count} of {len(all_steps)} runs done: the same command continues",
              file=sys.stderr)  # fmt: skip
        return cli.interrupt_status(why)
    records = list(done(plan, read_records([args.results_dir])).values())
    if records:
        report(records, args.results_dir)
        print("\n".join(evidence(plan, records)))
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


def arguments(plan: Plan, step: Step, folder: Path) -> list[str]:
    """What a study adds to a job's command."""
    shared = ["--results_dir", str(folder), "--study", label(plan, step)]
    return shared + ["--min_duration", f"{plan.min_duration_s:g}"] * step.job.is_repeated


def evidence(plan: Plan, records: Sequence[dict]) -> list[str]:
    """Per repeated job: its valid runs, their spread, and the difference that they can show."""
    lines = []
    for job in (job for job in plan.jobs if job.is_repeated):
        valid = [
            each["metrics"][each["primary"]]["median"]
            for each in records
            if each["workload"] == job.name and each["validity"]["valid"]
        ]
        line = f"{job.name}: {len(valid)} of {plan.repeats} runs are valid as evidence"
        if len(valid) >= sample_size.MIN_RUNS and min(valid) > 0:
            found = sample_size.spread(valid)
            least = sample_size.smallest_difference(len(valid), found)
            line += f", spread between runs {found:.1%}: differences from {least:.1%} on show"
        lines.append(line)
    return lines


def conclude(failed: Sequence[str], advice: str) -> int:
    if failed:
        print(f"error: not measured: {'; '.join(failed)}: {advice}", file=sys.stderr)
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
