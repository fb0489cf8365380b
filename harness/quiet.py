"""Wait for a quiet machine before a measurement: other load, and heat from the run before."""

from __future__ import annotations

import time
from collections.abc import Sequence

import psutil

from harness import checks

WINDOW_S = 2.0  # over which load is taken
SETTLING_S, SETTLED_C = 10.0, 1.0  # the temperature falls by less than this in that time
CPU_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")


def wait(limit_s: float, max_share: float = checks.MAX_OTHER_SHARE) -> bool:
    """Whether the machine became quiet within `limit_s`; says so when it has to wait.

    Quiet: over WINDOW_S at most `max_share` of all CPUs are busy or stolen by the hypervisor, and
    the CPU no longer cools down, where the machine tells its temperature.
    """
    began_s, readings, has_told = time.monotonic(), [], False
    while time.monotonic() - began_s < limit_s:
        if (celsius := temperature()) is not None:
            readings.append((time.monotonic(), celsius))
        busy, cpus = _busy_cores(min(WINDOW_S, limit_s)), psutil.cpu_count() or 1
        reasons = [f"{busy:.2f} of {cpus} cores busy"] * (busy > max_share * cpus)
        if readings and not is_settled(readings):
            reasons.append(f"the CPU still cools down at {celsius:.0f} °C")
        if not reasons:
            return True
        if not has_told:
            print(f"Waiting up to {limit_s:g} s: {', '.join(reasons)}", flush=True)
            has_told = True
    if limit_s:
        print(f"Not quiet after {limit_s:g} s: measuring all the same", flush=True)
    return not limit_s


def temperature() -> float | None:
    """Of the hottest CPU sensor, in °C; None where the machine has none."""
    sensors = getattr(psutil, "sensors_temperatures", dict[str, list])()
    return max(
        (each.current for name in CPU_SENSORS for each in sensors.get(name, ())), default=None
    )


def is_settled(readings: Sequence[tuple[float, float]]) -> bool:
    """Whether (seconds, °C) in order show no cooling over the last SETTLING_S."""
    now_s, celsius = readings[-1]
    earlier = [each for at_s, each in readings if now_s - at_s >= SETTLING_S]
    return bool(earlier) and earlier[-1] - celsius < SETTLED_C


def _busy_cores(window_s: float) -> float:
    """Cores busy, or wanted but stolen, on average over a window."""

    def counters() -> tuple[float, float]:
        times = psutil.cpu_times()
        return sum(times[:8]), times.idle + getattr(times, "iowait", 0.0)  # without guests

    all_before, idle_before = counters()
    time.sleep(window_s)
    all_after, idle_after = counters()
    total = all_after - all_before
    idle = (idle_after - idle_before) / total if total > 0 else 1.0
    return (1 - idle) * (psutil.cpu_count() or 1)
