"""Repeats of a study until the mean of each workload's runs is known as narrowly as asked.

Its 95 % interval is Student's t on the logarithms of the runs' medians, as comparisons have it, and
its width the interval's high less low, over the mean. After each run it is looked at anew: a purely
sequential procedure (Anscombe, Journal of the Royal Statistical Society B 15, 1953; Chow and
Robbins, Annals of Mathematical Statistics 36, 1965). Runs that agree by chance end it early, so an
interval at stopping covers less often than 95 %; MIN_RUNS bounds that (Starr, Annals of
Mathematical Statistics 37, 1966): simulated, at least 93 % for every width and spread.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Collection, Mapping, Sequence

from harness import sample_size, study_plan
from harness.study_plan import Job, Plan, Step

MIN_RUNS = 8  # that an interval is judged by


def relative_width(runs: int, run_spread: float) -> float:
    """Of the interval of `runs` medians, 2 or more, with the spread of sample_size.spread()."""
    return 2 * math.sinh(sample_size.critical(runs - 1) * run_spread / math.sqrt(runs))


def runs_expected(width: float, run_spread: float) -> int:
    """The fewest whose interval is no wider: MIN_RUNS to MAX_RUNS, which may not be enough."""
    counts = range(MIN_RUNS, sample_size.MAX_RUNS)
    return MIN_RUNS + bisect.bisect_left(
        counts, -width, key=lambda runs: -relative_width(runs, run_spread)
    )


def medians(plan: Plan, job: Job, known: Mapping[str, dict]) -> list[float]:
    """Of the runs that count: those valid as evidence; all where a study is a trial.

    `known` are the study's records by label.
    """
    is_trial = plan.min_duration_s < study_plan.MIN_DURATION_S
    runs = study_plan.runs_of(job, known)
    counted = [each for each in runs if is_trial or each["validity"]["valid"]]
    return [each["metrics"][each["primary"]]["median"] for each in counted]


def width(values: Sequence[float]) -> float | None:
    """Of the interval of the runs' medians; None where it can't be judged."""
    if len(values) < MIN_RUNS or min(values) <= 0:
        return None
    return relative_width(len(values), sample_size.spread(values))


def is_narrow(plan: Plan, job: Job, known: Mapping[str, dict]) -> bool:
    found = width(medians(plan, job, known))
    return plan.until_width is not None and found is not None and found <= plan.until_width


def steps_left(plan: Plan, known: Mapping[str, dict], spreads: Mapping[str, float]) -> list[Step]:
    """What is still to be run, in order, of a plan with or without `until_width`.

    As many runs as are expected by the spread of the runs so far, or by `spreads`, by job, before
    there are enough to tell. A workload has no more where it is narrow, or where of MIN_RUNS runs
    none counts.
    """
    left = [step for step in study_plan.steps(plan) if study_plan.label(plan, step) not in known]
    if plan.until_width is None:
        return left
    more = {}
    for job in (job for job in plan.jobs if job.is_repeated):
        counted = medians(plan, job, known)
        is_hopeless = len(study_plan.runs_of(job, known)) >= MIN_RUNS and not counted
        if is_narrow(plan, job, known) or is_hopeless:
            more[job.name] = 0
            continue
        is_known = len(counted) >= sample_size.MIN_RUNS and min(counted) > 0
        spread = sample_size.spread(counted) if is_known else spreads[job.name]
        more[job.name] = max(1, runs_expected(plan.until_width, spread) - len(counted))
    kept = []
    for step in left:
        if step.job.is_repeated:
            more[step.job.name] -= 1
        if more.get(step.job.name, 0) >= 0:
            kept.append(step)
    return kept


def sentence(plan: Plan, job: Job, known: Mapping[str, dict]) -> str:
    """'llm: 95% interval 2.8% wide of 12 runs'"""
    counted = medians(plan, job, known)
    found = width(counted)
    if found is None:
        return f"{job.name}: {len(counted)} run(s) count, an interval takes {MIN_RUNS}"
    return f"{job.name}: 95% interval {found:.2%} wide, from {len(counted)} runs"


def endings(
    plan: Plan, known: Mapping[str, dict], failed: Collection[str], max_hours: float
) -> list[str]:
    """Per repeated job, how wide its interval is and why it has no more runs.

    `failed` are the names of jobs of which a run failed.
    """
    lines = []
    for job in (job for job in plan.jobs if job.is_repeated):
        runs = study_plan.runs_of(job, known)
        if is_narrow(plan, job, known):
            why = "as narrow as asked"
        elif job.name in failed:
            why = "a run failed"
        elif len(runs) >= plan.repeats:
            why = f"--repeats {plan.repeats} are made"
        elif len(runs) >= MIN_RUNS and not medians(plan, job, known):
            why = "no run is valid as evidence"
        else:
            why = f"--max_hours {max_hours:g} are spent"
        lines.append(f"{sentence(plan, job, known)}: {why}")
    return lines
