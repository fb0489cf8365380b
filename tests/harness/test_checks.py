import re
import statistics
from pathlib import Path

import numpy as np
import pytest

from harness import checks, stats
from harness.metrics import METRICS

QUIET = {
    "wall_s": 60.0,
    "steal_share": 0.0,
    "other_cores_busy": 0.0,
    "busy_share_per_cpu": [1.0, 1.0],
    "throttle_events": 0,
    "mhz_before": 3000,
    "mhz_after": 3000,
    "process_cores_busy": 2.0,
}
PLACED = {
    "cpus": [0, 1],
    "threads_requested": 2,
    "threads_requested_by": "--threads",
    "threads_effective": 2,
    "precision_requested": "f32",
    "precision_effective": "f32",
}
SYSTEM = {"cpu": {"governor": "performance", "cgroup_cpu_quota": None}}
STEADY = [1.0, 1.01, 0.99, 1.0, 1.0, 1.0, 0.99, 1.01]


def judged(samples=STEADY, usage=None, placed=None, cpu=None, output=None, **duration):
    """(reasons, warnings) of a run with one sample of generation time per iteration."""
    each = [[sample] for sample in samples]
    metrics = {"generation_time_s": stats.summarize(METRICS["generation_time_s"], each)}
    usage, system = {**QUIET, **(usage or {})}, {"cpu": {**SYSTEM["cpu"], **(cpu or {})}}
    placed = {**PLACED, **(placed or {})}
    reasons = (
        checks.drift_reasons(each)
        + checks.duration_reasons(usage, metrics, **duration)
        + checks.machine_reasons(usage, system)
        + checks.computing_reasons(usage, placed, system)
        + checks.output_reasons(output or {})
    )
    warnings = checks.sample_warnings(metrics["generation_time_s"])
    return reasons, warnings + checks.idle_warnings(usage, placed)


def test_a_quiet_steady_run_has_neither_reasons_nor_warnings():
    assert judged() == ([], [])
    assert checks.validity(None, []) == {"valid": True, "reasons": []}
    assert checks.validity("interrupted", ["x"]) == {
        "valid": False,
        "reasons": ["interrupted", "x"],
    }


@pytest.mark.parametrize(
    "words, changes",
    [
        ("too short: 4 s were measured, 5.05 s are needed (5 times", {"usage": {"wall_s": 4.0}}),
        ("59 s were measured, 60 s are needed", {"usage": {"wall_s": 59.0}, "study": True}),
        ("are needed (as requested)", {"usage": {"wall_s": 99.0}, "min_duration_s": 100.0}),
        ("second half of the iterations was 10.0% higher", {"samples": [1.0] * 20 + [1.1] * 20}),
        ("hypervisor took 5.0%", {"usage": {"steal_share": 0.05}}),
        ("other processes kept 0.50 cores busy", {"usage": {"other_cores_busy": 0.5}}),
        ("throttled 3 times", {"usage": {"throttle_events": 3}}),
        ("fell from 3000 to 2000 MHz", {"usage": {"mhz_after": 2000}}),
        (
            "OMP_NUM_THREADS requested 16 threads, OpenVINO used 2",
            {"placed": {"threads_requested": 16, "threads_requested_by": "OMP_NUM_THREADS"}},
        ),
        ("precision bf16 was requested, f32 was used", {"placed": {"precision_requested": "bf16"}}),
        ("governor is 'powersave'", {"cpu": {"governor": "powersave"}}),
        ("quota is 1.5 CPUs", {"cpu": {"cgroup_cpu_quota": 1.5}}),
        ("output differed between", {"output": {"same_answers_every_iteration": False}}),
        (
            "gate missed: wer 0.2, limit",
            {"output": {"gate": checks.gate("wer", "lower", 0.2, 0.1)}},
        ),
    ],
)
def test_each_reason_says_what_is_wrong(words, changes):
    (reason,), warnings = judged(**changes)
    assert words in reason and (warnings == [] or "samples" in changes)


@pytest.mark.parametrize(
    "words, changes",
    [
        ("vary by", {"samples": [1.0, 1.1, 0.9, 1.0, 1.1, 0.9]}),
        ("too few", {"samples": [1.0, 1.0]}),
        ("only 0.9 cores were busy", {"usage": {"process_cores_busy": 0.9}}),
    ],
)
def test_each_warning_only_informs(words, changes):
    reasons, (warning,) = judged(**changes)
    assert words in warning and reasons == []


def test_what_cannot_be_read_or_differs_by_design_is_no_reason():
    unknown = {"mhz_before": None, "mhz_after": None}
    output = {"same_answers_every_iteration": None, "gate": checks.gate("map", "higher", 0.9, 0.8)}
    assert judged(usage=unknown, cpu={"governor": None}, output=output) == ([], [])


def test_the_tail_latency_is_of_the_times_that_were_sampled_most_often():
    metrics = {
        "pass_time_s": stats.summarize(METRICS["pass_time_s"], [[20.0]] * 3),
        "frame_latency_s": stats.summarize(METRICS["frame_latency_s"], [[0.1] * 150] * 3),
        "load_time_s": stats.summarize(METRICS["load_time_s"], [[90.0]]),
    }
    assert checks.duration_reasons({"wall_s": 60.0}, metrics) == []


def series(generator, n: int, step: float = 0.0, trend: float = 0.0) -> list[list[float]]:
    """Iterations of a machine that varies by 2 %, each like the one before, one in 20 slowed."""
    noise = [generator.standard_normal()]
    for each in generator.standard_normal(n - 1):
        noise.append(0.4 * noise[-1] + np.sqrt(1 - 0.4**2) * each)
    values = 100 * np.exp(0.02 * np.array(noise)) * np.linspace(1, 1 + trend, n)
    values[n // 2 :] *= 1 + step
    return [[value] for value in values / np.where(generator.random(n) < 0.05, 1.5, 1)]


@pytest.mark.parametrize("n, found", [(8, 0.7), (20, 0.9), (60, 0.99)])
def test_drift_is_found_and_hardly_ever_where_there_is_none(n, found):
    generator, trials = np.random.default_rng(n), 200
    drifted = [
        sum(bool(checks.drift_reasons(series(generator, n, *how))) for _ in range(trials)) / trials
        for how in ((0, 0), (-0.1, 0), (0, 0.137))  # steady; slower half way; one real run's trend
    ]
    assert drifted[0] <= 0.1 and min(drifted[1:]) >= found


def test_mann_kendall_has_the_p_values_of_tables():
    # Without ties and autocorrelation: S = 45 of n = 10, z = 44 / sqrt(125)
    rising = statistics.NormalDist().cdf(-44 / 125**0.5) * 2
    assert checks.mann_kendall(range(10)) == pytest.approx(rising)
    assert checks.mann_kendall([3, 1, 4, 1.5, 5, 2]) > 0.2
    assert checks.mann_kendall([1.0] * 8) == 1


def test_a_long_run_is_looked_at_in_blocks():
    assert checks.drift_reasons([[1.0]] * 3000) == []
    assert checks.drift_reasons([[1.0]] * 1500 + [[0.9]] * 1500) != []


def test_the_documentation_has_the_thresholds():
    page = Path(checks.__file__).parents[1] / "docs/records-and-statistics.md"
    rows = re.findall(r"\| ([\d.]+)( %)? \| `([A-Z_]+)` \|$", page.read_text(), re.MULTILINE)
    documented = {name: float(value) / (100 if percent else 1) for value, percent, name in rows}
    constants = {k: v for k, v in vars(checks).items() if k.isupper() and k != "MAX_BLOCKS"}
    assert documented == constants
