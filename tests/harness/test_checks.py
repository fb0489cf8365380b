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
WITH_A_RISE = [1.0] * 10 + [1.1] * 10 + [1.0] * 10
STEADY = [1.0, 1.01, 0.99, 1.0, 1.0, 1.0, 0.99, 1.01]


def judged(samples=STEADY, usage=None, placed=None, cpu=None, output=None, **duration):
    """(reasons, warnings) of a run with one sample of generation time per iteration."""
    each = [[sample] for sample in samples]
    metrics = {"generation_time_s": stats.summarize(METRICS["generation_time_s"], each)}
    usage, system = {**QUIET, **(usage or {})}, {"cpu": {**SYSTEM["cpu"], **(cpu or {})}}
    placed = {**PLACED, **(placed or {})}
    reasons = (
        checks.plateau_reasons(each)
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
        ("the middle of the iterations was 10.0% higher", {"samples": WITH_A_RISE}),
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


def series(generator, n, spread=0.02, correlation=0.4, slowed=0.05) -> np.ndarray:
    """Iterations of a steady machine: each like the one before, some slowed by 30 %."""
    noise = generator.standard_normal(n)
    for i in range(1, n):
        noise[i] = correlation * noise[i - 1] + np.sqrt(1 - correlation**2) * noise[i]
    return 100 * np.exp(spread * noise) / np.where(generator.random(n) < slowed, 1.3, 1)


def share_found(reason: str, trials: int, n: int, shape=1.0, **noise) -> float:
    """Share of simulated runs, of a machine whose speed has this shape, with such a reason."""
    generator = np.random.default_rng(n)
    runs = (series(generator, n, **noise) * shape for _ in range(trials))
    found = [checks.plateau_reasons([[value] for value in run]) for run in runs]
    return sum(reason in "".join(each) for each in found) / trials


@pytest.mark.parametrize("n", [8, 20, 60, 200])
@pytest.mark.parametrize("slowed", [0.0, 0.05])
@pytest.mark.parametrize("correlation", [0.0, 0.4])
def test_a_steady_run_hardly_ever_has_drift_or_no_plateau(n, slowed, correlation):
    assert share_found(":", 1000, n, slowed=slowed, correlation=correlation) <= 0.05


@pytest.mark.parametrize("spread", [0.01, 0.02])
@pytest.mark.parametrize("n", [20, 60, 200])
def test_a_slower_half_and_a_dip_in_the_middle_are_found(n, spread):
    at = np.arange(n)
    half, dip = np.where(at < n // 2, 1, 0.9), np.where(abs(at - (n - 1) / 2) < n / 6, 0.9, 1)
    trend, wave = np.linspace(1, 1.137, n), 1 + 0.06 * np.cos(2 * np.pi * at / n)
    for shape in (half, trend):
        assert share_found("drift", 100, n, shape, spread=spread) >= 0.9
    assert share_found("no plateau", 100, n, dip, spread=spread) >= 0.9
    assert n < 60 or share_found("no plateau", 100, n, wave, spread=spread) >= 0.9


def test_a_run_of_a_study_is_long_enough_for_the_interval_that_is_needed():
    def reasons(low: float, high: float, **how) -> list[str]:
        metric = {"label": "Throughput", "unit": "tokens/s", "better": "higher", "n": 9}
        metric |= {"max": high, "median": 100.0, "ci95": [low, high]}
        metrics = {"tokens_per_second": metric}
        return checks.duration_reasons({"wall_s": 60.0}, metrics, **how)

    decisive = {"study": True, "primary": "tokens_per_second"}
    (reason,) = reasons(90.0, 110.0, **decisive)
    assert reason == (
        "too short: 60 s were measured, 240 s are needed "
        "(the 95 % interval of Throughput is ±10.0%, at most ±5.0% is needed)"
    )
    assert reasons(96.0, 104.0, **decisive) == []
    assert reasons(90.0, 110.0, primary="tokens_per_second") == []  # no study
    assert reasons(90.0, 110.0, study=True, primary="users") == []


def test_mann_kendall_has_the_p_values_of_tables():
    # Without ties and autocorrelation: S = 45 of n = 10, z = 44 / sqrt(125)
    rising = statistics.NormalDist().cdf(-44 / 125**0.5) * 2
    assert checks.mann_kendall(range(10)) == pytest.approx(rising)
    assert checks.mann_kendall([3, 1, 4, 1.5, 5, 2]) > 0.2
    assert checks.mann_kendall([1.0] * 8) == 1


def test_a_long_run_is_looked_at_in_blocks():
    assert checks.plateau_reasons([[1.0]] * 3000) == []
    assert checks.plateau_reasons([[1.0]] * 1500 + [[0.9]] * 1500) != []


def test_the_documentation_has_the_thresholds():
    page = Path(checks.__file__).parents[1] / "docs/records-and-statistics.md"
    rows = re.findall(r"\| ([\d.]+)( %)? \| `([A-Z_]+)` \|$", page.read_text(), re.MULTILINE)
    documented = {name: float(value) / (100 if percent else 1) for value, percent, name in rows}
    constants = {k: v for k, v in vars(checks).items() if k.isupper() and k != "MAX_BLOCKS"}
    assert documented == constants
