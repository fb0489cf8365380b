import pytest

from harness import checks, stats
from harness.metrics import METRICS

QUIET = {
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
STEADY = [1.0, 1.01, 0.99, 1.0, 1.0, 1.0]


def warnings(samples=STEADY, usage=None, placed=None, cpu=None):
    metric = stats.summarize(METRICS["generation_time_s"], [[sample] for sample in samples])
    usage, system = {**QUIET, **(usage or {})}, {"cpu": {**SYSTEM["cpu"], **(cpu or {})}}
    return (
        checks.sample_warnings(metric)
        + checks.machine_warnings(usage, system)
        + checks.computing_warnings(usage, {**PLACED, **(placed or {})}, system)
    )


def test_a_quiet_steady_run_has_no_warnings():
    assert warnings() == []


@pytest.mark.parametrize(
    "words, changes",
    [
        ("vary by", {"samples": [1.0, 1.5, 0.7, 1.0, 1.2, 1.0]}),
        ("too few", {"samples": [1.0, 1.0]}),
        ("hypervisor took 5.0%", {"usage": {"steal_share": 0.05}}),
        ("other processes kept 0.50 cores busy", {"usage": {"other_cores_busy": 0.5}}),
        ("throttled 3 times", {"usage": {"throttle_events": 3}}),
        ("fell from 3000 to 2000 MHz", {"usage": {"mhz_after": 2000}}),
        ("only 0.9 cores were busy", {"usage": {"process_cores_busy": 0.9}}),
        (
            "OMP_NUM_THREADS requested 16 threads, OpenVINO used 2",
            {"placed": {"threads_requested": 16, "threads_requested_by": "OMP_NUM_THREADS"}},
        ),
        ("precision bf16 was requested, f32 was used", {"placed": {"precision_requested": "bf16"}}),
        ("governor is 'powersave'", {"cpu": {"governor": "powersave"}}),
        ("quota is 1.5 CPUs", {"cpu": {"cgroup_cpu_quota": 1.5}}),
    ],
)
def test_each_warning_says_what_is_wrong(words, changes):
    found = warnings(**changes)
    assert len(found) == 1 and words in found[0]
