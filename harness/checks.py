"""Warnings: what speaks against a measurement, one sentence each."""

from __future__ import annotations

MAX_VARIATION = 0.05  # standard deviation over mean
MIN_ITERATIONS = 6  # fewer have no 95 % interval
MAX_STEAL_SHARE = 0.01
MAX_OTHER_SHARE = 0.05  # of all CPUs, kept busy by other processes
MIN_BUSY_SHARE = 0.6  # of the effective threads
MAX_FREQUENCY_DROP = 0.2


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


def machine_warnings(usage: dict, system: dict) -> list[str]:
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
    governor = system["cpu"].get("governor")
    if governor not in (None, "performance"):
        found.append(f"the CPU frequency governor is '{governor}', not 'performance'")
    return found


def computing_warnings(usage: dict, placement: dict, system: dict) -> list[str]:
    """Whether this process had the cores, threads and precision that it requested."""
    found = []
    if usage["other_cores_busy"] > MAX_OTHER_SHARE * len(usage["busy_share_per_cpu"]):
        found.append(f"other processes kept {usage['other_cores_busy']:.2f} cores busy meanwhile")
    cpus, quota = len(placement["cpus"]), system["cpu"].get("cgroup_cpu_quota")
    if quota and quota < cpus:
        found.append(f"the container's quota is {quota:g} CPUs, though {cpus} are in the mask")
    requested, effective = placement.get("threads_requested"), placement.get("threads_effective")
    if requested and effective and requested != effective:
        source = placement["threads_requested_by"]
        found.append(f"{source} requested {requested} threads, OpenVINO used {effective}")
    busy = usage["process_cores_busy"]
    if effective and busy < MIN_BUSY_SHARE * min(effective, cpus):
        found.append(f"only {busy:.1f} cores were busy on average with {effective} threads")
    precision = placement.get("precision_requested", "auto")
    if precision not in ("auto", "int8", placement.get("precision_effective")):
        used = placement["precision_effective"]
        found.append(f"precision {precision} was requested, {used} was used")
    return found
