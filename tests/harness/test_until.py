"""Repeats go on until the mean is known as narrowly as asked, or a budget is spent."""

import itertools
import json
import math
import subprocess
import sys

import numpy as np
import pytest
import simulated
from conftest import REPO

from harness import sample_size, study, study_plan, until
from harness.study import Estimate
from harness.study_plan import Job, Plan, Step

LLM = Job("llm", "llm-workload", ["infer.py"], True)
AUDIO = Job("audio", "audio-ai-workload", ["infer.py"], True)
ONCE = Job("llm-capacity", "llm-workload", ["capacity.py"], False, 600.0)
(EXAMPLE, *_) = (REPO / "tests/version_1/threads-1").glob("*.json")
USAGE = json.loads(EXAMPLE.read_text())["usage"]
ESTIMATES = {job.name: Estimate(90.0, True) for job in (LLM, AUDIO)} | {
    ONCE.name: Estimate(600.0, True)
}


def plan_of(*jobs: Job, width: float = 0.03, repeats: int = sample_size.MAX_RUNS) -> Plan:
    return Plan("20261126T000000Z-abcd", repeats, 60.0, None, list(jobs), width)


def made(plan: Plan, step: Step, median: float, warnings=()) -> dict:
    """A run's record, its label as its parameter."""
    minute = study_plan.steps(plan).index(step)
    run = simulated.record(
        [median] * 8, workload=step.job.name.split("-")[0], day=minute / 1440, warnings=warnings
    )
    run["workload"], run["usage"] = step.job.name, {**USAGE, "wall_s": 60.0}
    run["parameters"]["study"] = study_plan.label(plan, step)
    return run


def known_of(plan: Plan, medians: dict[str, list[float]], warnings=()) -> dict[str, dict]:
    runs = [
        made(plan, Step(job, number), median, warnings)
        for job in plan.jobs
        for number, median in enumerate(medians.get(job.name, []), 1)
    ]
    return {run["parameters"]["study"]: run for run in runs}


@pytest.mark.parametrize("half_width_in_spreads", [0.3, 0.4, 0.5, 0.7, 1.0])
def test_the_interval_at_stopping_covers_the_mean_as_it_should(half_width_in_spreads):
    """In 93 % of studies or more. Logarithms of runs' medians are normal here, their mean 0."""
    spread, trials, most = 0.02, 20_000, 100
    logs = np.random.default_rng(1).normal(0, spread, (trials, most))
    runs = np.arange(1, most + 1)
    means = logs.cumsum(1) / runs
    spreads = np.sqrt(((logs**2).cumsum(1) - runs * means**2) / np.maximum(runs - 1, 1))
    # An interval's half-width, of logarithms, is proportional to the spread.
    factors = [math.asinh(until.relative_width(n, 1.0) / 2) for n in range(2, most + 1)]
    halves = spreads * [0.0, *factors]
    is_end = (halves <= half_width_in_spreads * spread) & (runs >= until.MIN_RUNS)
    at = is_end.argmax(1)
    assert is_end.any(1).all()
    every = np.arange(trials)
    covered = (np.abs(means[every, at]) <= halves[every, at]).mean()
    assert 0.93 <= covered + 2 * math.sqrt(0.93 * 0.07 / trials) and covered < 0.96


def test_the_width_is_that_of_the_interval_that_is_reported():
    """8 runs with a spread of 1 %: t = 2.365 of 7 degrees of freedom."""
    assert until.relative_width(8, 0.01) == pytest.approx(2 * 2.365 * 0.01 / math.sqrt(8), rel=1e-3)
    assert until.width([100.0] * 7) is None and until.width([100.0] * 8) == 0.0
    assert until.width([0.0] + [100.0] * 8) is None


@pytest.mark.parametrize("spread", [0.001, 0.01, 0.03])
def test_the_expected_runs_are_the_fewest(spread):
    runs = until.runs_expected(0.02, spread)
    assert until.relative_width(runs, spread) <= 0.02
    assert runs == until.MIN_RUNS or until.relative_width(runs - 1, spread) > 0.02


def test_a_workload_that_is_narrow_is_run_no_more_and_the_others_go_on_in_turn():
    plan = plan_of(LLM, AUDIO, ONCE)
    spreads = {"llm": 0.005, "audio": 0.005}
    at_first = until.steps_left(plan, {}, spreads)
    assert [(step.job.name, step.number) for step in at_first[:3]] == [
        ("llm", 1),
        ("audio", 1),
        ("llm", 2),
    ]
    assert len(at_first) == 2 * until.MIN_RUNS + 1 and at_first[-1].job == ONCE
    known = known_of(plan, {"llm": [100, 101] * 4, "audio": [100, 110] * 4})
    left = until.steps_left(plan, known, spreads)
    assert {step.job.name for step in left} == {"audio", ONCE.name}
    assert left[0] == Step(AUDIO, 9) and len(left) > 20
    lines = until.endings(plan, known, (), 12)
    assert "llm: 95% interval 0.89% wide, from 8 runs: as narrow as asked" in lines
    assert lines[1].endswith("--max_hours 12 are spent")
    assert until.endings(plan, known, {"audio"}, 12)[1].endswith("a run failed")


def test_runs_that_are_not_valid_as_evidence_do_not_count_and_are_not_repeated_for_ever():
    plan = plan_of(LLM, width=0.3)
    busy = known_of(plan, {"llm": [100, 101] * 3}, warnings=["busy"])
    assert len(until.steps_left(plan, busy, {"llm": 0.005})) == until.MIN_RUNS
    mixed = {**busy, **dict(list(known_of(plan, {"llm": [100, 101] * 4}).items())[6:])}
    assert len(until.steps_left(plan, mixed, {"llm": 0.005})) == until.MIN_RUNS - 2
    hopeless = known_of(plan, {"llm": [100, 101] * 4}, warnings=["busy"])
    assert not until.steps_left(plan, hopeless, {"llm": 0.005})
    assert until.endings(plan, hopeless, (), 12)[0].endswith("no run is valid as evidence")


def runs_until_the_end(plan, folder, monkeypatch, medians, max_s, broken=()):
    """Labels of the runs that a study makes, each of them 90 s long on a clock of its own."""
    order = []
    now_s = 0.0
    monkeypatch.setattr(study.time, "monotonic", lambda: now_s)
    for left in study.queue(plan, folder, ESTIMATES, max_s):
        step = left[0]
        order.append(f"{step.job.name}/{step.number}")
        now_s += ESTIMATES[step.job.name].run_s
        if step.job.name not in broken:
            simulated.write(folder, made(plan, step, next(medians)))
    return order


def test_the_budget_ends_what_the_width_does_not(tmp_path, monkeypatch):
    plan = plan_of(LLM, AUDIO, ONCE, width=1e-6)
    values = itertools.cycle([100.0, 90.0, 95.0])
    order = runs_until_the_end(plan, tmp_path, monkeypatch, values, max_s=3600)
    assert order[-1] == "llm-capacity/1" and len(order) == 1 + (3600 - 600) // 90
    # Given again, it counts what was spent: only a longer one goes on.
    assert not runs_until_the_end(plan, tmp_path, monkeypatch, values, max_s=3600)
    assert len(runs_until_the_end(plan, tmp_path, monkeypatch, values, max_s=5400)) > 10


def test_a_workload_that_fails_is_not_repeated(tmp_path, monkeypatch):
    plan = plan_of(LLM, AUDIO, ONCE, width=0.5)
    values = itertools.cycle([100.0, 101.0])
    order = runs_until_the_end(plan, tmp_path, monkeypatch, values, 36000, broken=("llm",))
    assert [name.split("/")[0] for name in order].count("llm") == 1
    assert order[-2:] == ["audio/8", "llm-capacity/1"]


def test_a_study_stops_by_itself_and_more_repeats_go_on(tmp_path):
    """A trial, of which runs count though they are short; --repeats is the most."""
    command = [sys.executable, "-m", "harness.study", "--results_dir", str(tmp_path)]
    command += ["--min_duration", "0.1", "--quiet_limit", "0", "--until_width", "99%"]
    job = ["--job", "hashes harness ../tests/small_workload.py --num_iters 2"]
    folder = {"cwd": REPO, "capture_output": True, "text": True}
    few = subprocess.run([*command, *job, "--repeats", "2"], **folder)
    assert few.returncode == 0, few.stderr
    assert "hashes: 2 run(s) count, an interval takes 8: --repeats 2 are made" in few.stdout
    all_of_it = subprocess.run([*command, *job], **folder)
    assert all_of_it.returncode == 0 and "8 or more runs each" in all_of_it.stdout
    assert "wide, from 8 runs: as narrow as asked" in all_of_it.stdout, all_of_it.stdout
    (line,) = (tmp_path / study.UNTIL).read_text().splitlines()
    assert line in all_of_it.stdout and line.endswith(": as narrow as asked")
