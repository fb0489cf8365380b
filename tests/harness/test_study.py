"""A study's plan, what is left of it, how long it takes, and the difference that it shows."""

import math
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from conftest import REPO

from harness import quiet, record, sample_size, study, study_plan
from harness.cli import UserError
from harness.study import Estimate
from harness.study_plan import Job, Plan, Step

A, B = (Job(name, f"{name}-workload", ["infer.py"], True) for name in "ab")
C = Job("c-capacity", "c-workload", ["capacity.py"], False, 1500.0)
PLAN = Plan("20261126T000000Z-abcd", 2, 60.0, None, [A, B, C])


def example_runs() -> list[dict]:
    folder = REPO / "tests/version_1/threads-1"
    return [record.read(path) for path in sorted(folder.glob("*.json"))]


def asked(**given) -> SimpleNamespace:
    default = {"repeats": None, "detect": None, "max_hours": None, "min_duration": 60.0}
    default["until_width"] = None
    return SimpleNamespace(results_dir=REPO, jobs=[A, B, C], **{**default, **given})


def in_labels(found: dict) -> list[str]:
    return sorted(name.split("/", 1)[1] for name in found)


def test_workloads_take_turns_and_the_others_come_once_at_the_end():
    order = [(step.job.name, step.number) for step in study_plan.steps(PLAN)]
    assert order == [("a", 1), ("b", 1), ("a", 2), ("b", 2), ("c-capacity", 1)]


def test_done_is_what_has_a_record_of_this_study():
    def made(label: str) -> dict:
        return {"parameters": {"study": label}}

    records = [
        made(study_plan.label(PLAN, Step(A, 1))),
        made(study_plan.label(PLAN, Step(C, 1))),
        made("20261126T000000Z-other/a/2"),
        {"parameters": {}},
    ]
    assert in_labels(study_plan.done(PLAN, records)) == ["a/1", "c-capacity/1"]


def test_only_complete_records_count(tmp_path):
    run = example_runs()[0]
    for status in ("complete", "interrupted", "failed"):
        error = None if status == "complete" else status
        made = {**run, "id": f"{status:0<36}", "status": status, "error": error}
        record.write(made, tmp_path / f"{status}.json")
    (tmp_path / "cut.json").write_text('{"schema_version": 2, "wor')
    study_plan.write_plan(PLAN, tmp_path)
    assert [each["path"].stem for each in study_plan.read_records([tmp_path])] == ["complete"]


def test_the_same_command_continues_the_same_plan(tmp_path):
    study_plan.write_plan(PLAN, tmp_path)
    assert study_plan.read_plan(tmp_path) == PLAN
    assert study.make_plan(asked(), {}, PLAN) is PLAN
    detecting = Plan(PLAN.id, 9, 60.0, 0.03, PLAN.jobs)
    assert study.make_plan(asked(detect=0.03), {}, detecting) is detecting


def test_more_repeats_extend_a_study():
    estimates = {name: Estimate(60.0, True) for name in ("a", "b", "c-capacity")}
    more = study.make_plan(asked(repeats=8), estimates, PLAN)
    assert (more.id, more.repeats) == (PLAN.id, 8)


def test_a_plan_of_other_runs_is_refused(tmp_path):
    with pytest.raises(UserError, match="other commands or durations"):
        study.make_plan(asked(min_duration=600.0), {}, PLAN)
    for text in ("{", "[]", '{"id": 1}', '{"jobs": 3}'):
        (tmp_path / study_plan.PLAN).write_text(text)
        with pytest.raises(UserError, match="damaged"):
            study_plan.read_plan(tmp_path)


def test_earlier_runs_tell_time_and_spread():
    runs = example_runs()
    llm = Job("llm", "llm-workload", ["infer.py"], True)
    found = study.estimate(llm, 60.0, runs)
    medians = [run["metrics"]["tokens_per_second"]["median"] for run in runs]
    assert found.runs == len(runs) == 4 and found.is_timed
    assert found.spread == pytest.approx(statistics.stdev(map(math.log, medians)))
    assert found.run_s == 60.0 + study.ASSUMED_BESIDE_S
    iteration_s = (
        runs[-1]["usage"]["wall_s"] / runs[-1]["metrics"][runs[-1]["primary"]]["iterations"]
    )
    least_s = iteration_s * runs[-1]["parameters"]["num_iters"]
    assert study.estimate(llm, 1.0, runs).run_s == pytest.approx(least_s + study.ASSUMED_BESIDE_S)
    assert study.estimate(llm, 60.0, runs[:3]).runs == 0  # too few for a spread
    assert not study.estimate(llm, 60.0, []).is_timed


def test_what_runs_once_says_what_to_assume():
    job = study.parse_job("c-capacity 1500 c-workload capacity.py", False)
    assert job == C and study.estimate(job, 60.0, []) == Estimate(1500.0, is_timed=False)
    assert study.parse_job("a a-workload infer.py", True) == A


def test_detect_chooses_the_repeats_within_max_hours():
    estimates = {"a": Estimate(100.0, True, 0.01, 6), "b": Estimate(80.0, True, 0.02, 6)}
    estimates["c-capacity"] = Estimate(300.0, True)
    plan = study.make_plan(asked(detect=0.03), estimates, None)
    assert plan.repeats == 11  # for b, whose runs vary more
    assert "takes" not in "\n".join(study.describe(plan, estimates, study_plan.steps(plan), 0))

    short = study.make_plan(asked(detect=0.03, max_hours=0.4), estimates, None)
    assert short.repeats == math.floor((0.4 * 3600 - 300) / 180) == 6
    lines = "\n".join(study.describe(short, estimates, study_plan.steps(short), 0))
    assert "b: 4.3% (spread between runs 2.0%, of 6 earlier runs)" in lines
    assert "3.0% takes 11 runs of each" in lines

    with pytest.raises(UserError, match="4 runs each take about 17 min"):
        study.make_plan(asked(detect=0.03, max_hours=0.2), estimates, None)
    with pytest.raises(UserError, match="9 runs each take about 32 min"):
        study.make_plan(asked(repeats=9, max_hours=0.5), estimates, None)


def test_what_is_assumed_and_what_is_known_is_said():
    lines = study.describe(
        Plan("x", 5, 60.0, None, [A]), {"a": Estimate(90.0, False)}, [Step(A, n) for n in (4, 5)], 3
    )
    assert "Time: about 3 min for 2 runs, 3 more are done already (assumed in part)" in lines
    assert "  a: 4.9% (spread between runs 2.0%, assumed)" in lines
    few = study.describe(Plan("x", 3, 60.0, None, [A]), {"a": Estimate(90.0, False)}, [], 0)
    assert few[-1] == "No verdict: that takes 4 runs per side or more"


def test_wrong_options_are_refused(monkeypatch, capsys):
    command = ["study", "--job", "llm llm-workload infer.py"]
    for wrong in (
        ["--detect", "0%"],
        ["--detect", "120%"],
        ["--repeats", "0"],
        ["--repeats", "5", "--detect", "3%"],
        ["--detect", "3%", "--until_width", "3%"],
        ["--quick", "--repeats", "5"],
        ["--mlperf_duration", "--min_duration", "1"],
        ["--once", "llm-capacity llm-workload capacity.py"],
    ):
        monkeypatch.setattr(sys, "argv", [*command, *wrong])
        with pytest.raises(SystemExit) as ended:
            study.parse_args()
        assert ended.value.code == 2 and "error: " in capsys.readouterr().err
    assert study.percentage("3%") == study.percentage("0.03") == 0.03


# t_tail: tables of the t distribution, and R's power.t.test(n = 20, delta = 1, sd = 1).


@pytest.mark.parametrize("t, df, tail", [(2.306, 8, 0.025), (2.447, 6, 0.025), (1.753, 15, 0.05)])
def test_the_t_distribution_is_that_of_tables(t, df, tail):
    assert sample_size.t_tail(t, df) == pytest.approx(tail, rel=2e-3)


def test_the_noncentral_t_distribution_is_that_of_r():
    assert sample_size.t_tail(2.024394, 38, math.sqrt(10)) == pytest.approx(0.8689528, abs=1e-5)


@pytest.mark.parametrize("runs", [4, 5, 8])
def test_the_smallest_difference_is_found_in_nine_of_ten_simulated_comparisons(runs):
    """Welch's t-test on the logarithms of runs' medians, level 5 %."""
    rng, spread, trials = random.Random(runs), 0.02, 1500
    shift = math.log1p(sample_size.smallest_difference(runs, spread))
    found = 0
    for _ in range(trials):
        one = [rng.gauss(0, spread) for _ in range(runs)]
        two = [rng.gauss(shift, spread) for _ in range(runs)]
        v1, v2 = (statistics.variance(each) / runs for each in (one, two))
        t = (statistics.fmean(two) - statistics.fmean(one)) / math.sqrt(v1 + v2)
        df = (v1 + v2) ** 2 / ((v1**2 + v2**2) / (runs - 1))
        found += 2 * sample_size.t_tail(abs(t), df) < sample_size.LEVEL
    assert found / trials == pytest.approx(sample_size.POWER, abs=0.025)


def test_more_runs_show_smaller_differences():
    for difference in (0.1, 0.05, 0.03, 0.01):
        runs = sample_size.runs_needed(difference, 0.02)
        assert sample_size.smallest_difference(runs, 0.02) <= difference
        if runs > sample_size.MIN_RUNS:
            assert sample_size.smallest_difference(runs - 1, 0.02) > difference
    assert sample_size.runs_needed(1e-6, 0.02) == sample_size.MAX_RUNS


def test_a_busy_machine_is_waited_for_up_to_a_limit(capsys):
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        assert not quiet.wait(1.0)
    finally:
        busy.kill()
        busy.wait()
    told = capsys.readouterr().out
    assert "Waiting up to 1 s" in told and "cores busy" in told and "measuring all the same" in told
    assert quiet.wait(0.0) and not capsys.readouterr().out


def test_a_cpu_that_cools_down_is_not_settled():
    hot = [(float(s), 80.0 - s) for s in range(0, 30, 2)]
    assert not quiet.is_settled(hot)
    assert quiet.is_settled(hot + [(s, 51.5) for s in (30.0, 36.0, 42.0)])
    assert not quiet.is_settled([(0.0, 40.0)])  # not yet known


def test_what_a_killed_process_has_started_ends_too(tmp_path):
    tied, pid_file = REPO / "harness/tied.py", tmp_path / "pid"
    wait = f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    start = (
        "import os, subprocess, sys; subprocess.run([sys.executable, *sys.argv[1:2], "
        "str(os.getpid()), sys.executable, '-c', sys.argv[2]])"
    )
    parent = subprocess.Popen([sys.executable, "-c", start, str(tied), wait])
    while not (pid_file.exists() and pid_file.read_text()):
        time.sleep(0.05)
    pid = int(pid_file.read_text())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert ended(pid, within_s=10)


def ended(pid: int, within_s: float) -> bool:
    until_s = time.monotonic() + within_s
    while time.monotonic() < until_s:
        try:
            os.kill(pid, 0)
            state = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0]
        except (ProcessLookupError, FileNotFoundError):
            return True
        if state == "Z":  # nobody reaps orphans in some containers
            return True
        time.sleep(0.05)
    return False
