import pytest

from harness import measure
from harness.trouble import signs_of_trouble

QUIET = {"steal_share": 0.0, "other_cores_busy": 0.0, "busy_share_per_cpu": [1.0, 1.0], "throttle_events": 0,
         "mhz_before": 3000, "mhz_after": 3000, "process_cores_busy": 2.0}  # fmt: skip
PLACED = {"cpus": [0, 1], "threads_asked": 2, "threads_asked_by": "--threads", "threads_given": 2,
          "precision_asked": "f32", "precision_used": "f32"}  # fmt: skip
SYSTEM = {"cpu": {"governor": "performance", "cgroup_cpu_quota": None}}
STEADY = [1.0, 1.01, 0.99, 1.0, 1.0, 1.0]


def signs(samples=STEADY, usage=None, placed=None, cpu=None):
    metric = measure.summarize(samples, "s")
    return signs_of_trouble(
        metric, {**QUIET, **(usage or {})}, {**PLACED, **(placed or {})}, {"cpu": {**SYSTEM["cpu"], **(cpu or {})}}
    )


def test_a_quiet_steady_run_has_no_signs():
    assert signs() == []


@pytest.mark.parametrize(
    "told, changes",
    [
        ("vary by", {"samples": [1.0, 1.5, 0.7, 1.0, 1.2, 1.0]}),
        ("too few", {"samples": [1.0, 1.0]}),
        ("hypervisor took 5.0%", {"usage": {"steal_share": 0.05}}),
        ("other processes kept 0.50 cores busy", {"usage": {"other_cores_busy": 0.5}}),
        ("throttled 3 times", {"usage": {"throttle_events": 3}}),
        ("fell from 3000 to 2000 MHz", {"usage": {"mhz_after": 2000}}),
        ("only 0.9 cores were busy", {"usage": {"process_cores_busy": 0.9}}),
        (
            "16 threads were asked for (OMP_NUM_THREADS), OpenVINO gave 2",
            {"placed": {"threads_asked": 16, "threads_asked_by": "OMP_NUM_THREADS"}},
        ),
        ("precision bf16 was asked for, f32 was used", {"placed": {"precision_asked": "bf16"}}),
        ("governor is 'powersave'", {"cpu": {"governor": "powersave"}}),
        ("1.5 CPUs' time only", {"cpu": {"cgroup_cpu_quota": 1.5}}),
    ],
)
def test_each_trouble_is_told_in_plain_words(told, changes):
    found = signs(**changes)
    assert len(found) == 1 and told in found[0]
