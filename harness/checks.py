"""What speaks against a measurement, one sentence each: pure functions of what a record holds.

Reasons make a run invalid as evidence: comparisons leave it out of their verdicts. Warnings only
inform. The thresholds are tabled in docs/records-and-statistics.md.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from harness.stats import median_interval

# Reasons
STUDY_DURATION_S = 60.0  # least time measured by a run of a study
LATENCIES = 5  # least time measured, in tail latencies
MAX_DRIFT = 0.03  # of one part of the iterations from another
DRIFT_ITERATIONS = 8  # from which on drift is looked for
DRIFT_P = 0.05
PLATEAU_ITERATIONS = 20  # from which on the middle is compared with the ends
MAX_HALF_WIDTH = 0.05  # of the primary metric's 95 % interval, in a run of a study
MAX_STEAL_SHARE = 0.01
MAX_OTHER_SHARE = 0.05  # of all CPUs, kept busy by other processes
MAX_FREQUENCY_DROP = 0.2
# Warnings
MAX_VARIATION = 0.05  # standard deviation over mean
MIN_ITERATIONS = 6  # fewer have no 95 % interval
MIN_BUSY_SHARE = 0.6  # of the effective threads

MAX_BLOCKS = 200  # more iterations are looked at in blocks


def validity(error: str | None, reasons: Sequence[str]) -> dict:
    """The record's: whether a run is valid as evidence, and why not."""
    found = [*([error] if error else []), *reasons]
    return {"valid": not found, "reasons": found}


def sample_warnings(metric: dict, repeat: str = "--num_iters") -> list[str]:
    """Too few iterations, or too different samples. `repeat` names the setting that takes more."""
    if metric["iterations"] < MIN_ITERATIONS:
        return [
            f"{metric['iterations']} iteration(s) are too few for a 95 % interval: "
            f"{MIN_ITERATIONS} or more give one ({repeat})"
        ]
    variation = metric["stdev"] / metric["mean"] if metric["mean"] else 0.0
    if variation > MAX_VARIATION:
        return [
            f"the samples vary by {variation:.1%} (standard deviation over mean): "
            "a quieter machine, a fixed clock rate or more iterations would help"
        ]
    return []


def idle_warnings(usage: dict, placement: dict) -> list[str]:
    """Threads that had little to do."""
    effective, busy = placement.get("threads_effective"), usage["process_cores_busy"]
    if effective and busy < MIN_BUSY_SHARE * min(effective, len(placement["cpus"])):
        return [f"only {busy:.1f} cores were busy on average with {effective} threads"]
    return []


def duration_reasons(
    usage: dict,
    metrics: Mapping[str, dict],
    min_duration_s: float = 0.0,
    study: bool = False,
    primary: str | None = None,
) -> list[str]:
    """Too short: below the requested duration, that of a study, LATENCIES tail latencies, or what
    an interval of the primary metric within MAX_HALF_WIDTH takes in a study.

    The tail latency is the 99th percentile or, with under 100 samples, the maximum of the times of
    which less is better: of those that were sampled most often, the longest.
    """
    times = [
        metric
        for metric in metrics.values()
        if metric["unit"] == "s" and metric["better"] == "lower" and metric["n"] > 1
    ]
    most = max((metric["n"] for metric in times), default=0)
    tails_s = [metric.get("p99", metric["max"]) for metric in times if metric["n"] == most]
    tail_s = max(tails_s, default=0.0)
    least = [
        (min_duration_s, "as requested"),
        (STUDY_DURATION_S * study, "as of a study"),
        (LATENCIES * tail_s, f"{LATENCIES} times the tail latency of {tail_s:.3g} s"),
    ]
    decisive = metrics.get(primary) if study and primary else None
    if decisive and decisive["ci95"] and decisive["median"]:
        low, high = decisive["ci95"]
        half_width = (high - low) / 2 / abs(decisive["median"])
        precise_s = usage["wall_s"] * (half_width / MAX_HALF_WIDTH) ** 2
        label, most = decisive["label"], f"at most ±{MAX_HALF_WIDTH:.1%} is needed"
        least.append((precise_s, f"the 95 % interval of {label} is ±{half_width:.1%}, {most}"))
    least_s, why = max(least)
    if usage["wall_s"] >= least_s:
        return []
    measured = f"{usage['wall_s']:.3g} s were measured"
    return [f"too short: {measured}, {least_s:.3g} s are needed ({why})"]


def plateau_reasons(samples: Sequence[Sequence[float]]) -> list[str]:
    """The primary metric was not steady over the iterations, of which `samples` has one list each.

    Drift: the median of the second half differs by more than MAX_DRIFT from that of the first, and
    that is no chance: there is a trend (Mann-Kendall), or the 95 % intervals of both halves'
    medians are apart (their ranges, of under 6 iterations), which finds a step sooner. No plateau:
    without drift, the middle quarter's differs by as much from that of the first and last third
    together, and their intervals are apart.
    """
    values = [statistics.median(each) for each in samples if len(each)]
    size = math.ceil(len(values) / MAX_BLOCKS) or 1
    values = [statistics.median(values[i : i + size]) for i in range(0, len(values), size)]
    half, third, quarter = (len(values) // parts for parts in (2, 3, 4))
    if len(values) < DRIFT_ITERATIONS:
        return []
    change, is_apart = _change(values[:half], values[-half:])
    if change and (is_apart or mann_kendall(values) < DRIFT_P):
        return [f"drift: the second half of the iterations was {change} than the first"]
    if len(values) < PLATEAU_ITERATIONS:
        return []
    margin = (len(values) - quarter) // 2
    outer, middle = values[:third] + values[-third:], values[margin : margin + quarter]
    change, is_apart = _change(outer, middle)
    if change and is_apart:
        return [f"no plateau: the middle of the iterations was {change} than the ends"]
    return []


def _change(before: Sequence[float], after: Sequence[float]) -> tuple[str, bool]:
    """How the medians differ, '' where by no more than MAX_DRIFT; whether their intervals do."""
    first, second = statistics.median(before), statistics.median(after)
    if not first or abs(second / first - 1) <= MAX_DRIFT:
        return "", False
    (low, high), (low_after, high_after) = (
        median_interval(each) or (min(each), max(each)) for each in (before, after)
    )
    change = f"{abs(second / first - 1):.1%} {'higher' if second > first else 'lower'}"
    return change, low > high_after or low_after > high


def mann_kendall(values: Sequence[float]) -> float:
    """p-value of no monotonic trend, two-sided, with the variance corrected for autocorrelation
    (Hamed and Rao, Journal of Hydrology 204, 1998), never to less than without; 3 values or more.
    """
    import numpy  # here, as who sets its number of threads must come first

    series, n = numpy.asarray(values, float), len(values)
    early, late = numpy.triu_indices(n, 1)
    differences = series[late] - series[early]
    score = float(numpy.sign(differences).sum())
    slope = numpy.median(differences / (late - early))  # Theil and Sen's
    around = series - slope * numpy.arange(n)
    places = [numpy.searchsorted(numpy.sort(around), around, side) for side in ("left", "right")]
    ranks = numpy.mean(places, axis=0) - n / 2  # about their mean; tied values share one
    lags = numpy.arange(1, n - 2)
    correlations = numpy.array([ranks[:-k] @ ranks[k:] for k in lags]) / (ranks @ ranks or 1)
    correlations[abs(correlations) < 1.96 / math.sqrt(n)] = 0
    weights = (n - lags) * (n - lags - 1) * (n - lags - 2)
    inflation = max(1.0, 1 + 2 / (n * (n - 1) * (n - 2)) * float(weights @ correlations))
    variance = inflation * n * (n - 1) * (2 * n + 5) / 18
    z = max(abs(score) - 1, 0) / math.sqrt(variance)
    return 2 * (1 - statistics.NormalDist().cdf(z))


def machine_reasons(usage: dict, system: dict) -> list[str]:
    """Steal, throttling and clock rate while measuring."""
    found = []
    if usage["steal_share"] > MAX_STEAL_SHARE:
        found.append(
            f"the hypervisor took {usage['steal_share']:.1%} of the CPU time for others (steal)"
        )
    if usage["throttle_events"]:
        found.append(f"the CPU throttled {usage['throttle_events']} times for heat or power")
    before, after = usage["mhz_before"], usage["mhz_after"]
    if before and after and after < (1 - MAX_FREQUENCY_DROP) * before:
        found.append(f"the clock rate fell from {before} to {after} MHz")
    return found + governor_reasons(system)


def governor_reasons(system: dict) -> list[str]:
    governor = system["cpu"].get("governor")  # None where it can't be read, as in a virtual machine
    if governor in (None, "performance"):
        return []
    return [f"the CPU frequency governor is '{governor}', not 'performance'"]


def computing_reasons(usage: dict, placement: dict, system: dict) -> list[str]:
    """Whether this process had the cores, threads and precision that it requested."""
    found = []
    if usage["other_cores_busy"] > MAX_OTHER_SHARE * len(usage["busy_share_per_cpu"]):
        found.append(f"other processes kept {usage['other_cores_busy']:.2f} cores busy")
    cpus, quota = len(placement["cpus"]), system["cpu"].get("cgroup_cpu_quota")
    if quota and quota < cpus:
        found.append(f"the container's quota is {quota:g} CPUs, though {cpus} are in the mask")
    requested, effective = placement.get("threads_requested"), placement.get("threads_effective")
    if requested and effective and requested != effective:
        source = placement["threads_requested_by"]
        found.append(f"{source} requested {requested} threads, OpenVINO used {effective}")
    precision = placement.get("precision_requested", "auto")
    if precision not in ("auto", "int8", placement.get("precision_effective")):
        used = placement["precision_effective"]
        found.append(f"precision {precision} was requested, {used} was used")
    return found


def output_reasons(output: Mapping) -> list[str]:
    """The output differed where the same was to come: an entry same_..._every_iteration is False,
    or an accuracy record's gate is missed."""
    found = [
        f"the output differed between iterations ({name} is false)"
        for name, value in output.items()
        if name.startswith("same_") and name.endswith("_every_iteration") and value is False
    ]
    gate = output.get("gate")
    if gate and not gate["passed"]:
        found.append(gate_sentence(gate))
    return found


def gate(metric: str, better: str | None, value: float, limit: float) -> dict:
    """A record's output.gate: whether the quality is within the limit."""
    passed = value <= limit if better == "lower" else value >= limit
    return {"metric": metric, "limit": limit, "value": value, "passed": passed}


def gate_sentence(gate: Mapping) -> str:
    state = "passed" if gate["passed"] else "missed"
    return f"accuracy gate {state}: {gate['metric']} {gate['value']:.4g}, limit {gate['limit']:.4g}"
