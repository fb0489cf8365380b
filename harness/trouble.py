"""Signs that a measurement can't be trusted, in plain words."""

from __future__ import annotations

MAX_VARIATION = 0.05  # standard deviation over mean
MAX_STEAL_SHARE = 0.01
MAX_OTHER_SHARE = 0.05  # of all CPUs, kept busy by other processes
MIN_BUSY_SHARE = 0.6  # of the threads that were given
MAX_FREQUENCY_DROP = 0.2


def signs_of_trouble(metric: dict, usage: dict, placement: dict, system: dict) -> list[str]:
    """One sentence for each thing that speaks against the result; empty where nothing does.

    Parameters
    ----------
    metric : the headline metric, from `measure.summarize`.
    usage : from `measure.Watch`.
    placement : the record's placement: cpus, threads_asked, threads_given, precision_asked, precision_used.
    system : from `system.describe`.
    """
    return of_samples(metric, repeat="--num_iters") + of_machine(usage, system) + _of_computing(usage, placement, system)


def of_samples(metric: dict, repeat: str) -> list[str]:
    """Too few samples, or too different ones. `repeat` names the setting that takes more."""
    signs = []
    if metric["n"] < 6:
        signs.append(f"{metric['n']} sample(s) are too few for a 95 % interval: 6 or more give one ({repeat})")
    elif metric["stdev"] / metric["mean"] > MAX_VARIATION:
        signs.append(f"the samples vary by {metric['stdev'] / metric['mean']:.1%} (standard deviation over mean): "
                     "a quieter machine, a fixed clock rate or more iterations would help")  # fmt: skip
    return signs


def of_machine(usage: dict, system: dict) -> list[str]:
    """What the machine itself did meanwhile: steal, throttling, clock rate."""
    signs = []
    if usage["steal_share"] > MAX_STEAL_SHARE:
        signs.append(f"the hypervisor took {usage['steal_share']:.1%} of the CPU time for others (steal)")
    if usage["throttle_events"]:
        signs.append(f"the CPU throttled {usage['throttle_events']} times for heat or power")
    before, after = usage["mhz_before"], usage["mhz_after"]
    if before and after and after < (1 - MAX_FREQUENCY_DROP) * before:
        signs.append(f"the clock rate fell from {before} to {after} MHz")
    if system["cpu"].get("governor") not in (None, "performance"):
        signs.append(f"the CPU frequency governor is '{system['cpu']['governor']}', not 'performance'")
    return signs


def _of_computing(usage: dict, placement: dict, system: dict) -> list[str]:
    """Whether this process had the cores, threads and precision that it was given."""
    signs = []
    if usage["other_cores_busy"] > MAX_OTHER_SHARE * len(usage["busy_share_per_cpu"]):
        signs.append(f"other processes kept {usage['other_cores_busy']:.2f} cores busy meanwhile")
    quota = system["cpu"].get("cgroup_cpu_quota")
    if quota and quota < len(placement["cpus"]):
        signs.append(f"the container may use {quota:g} CPUs' time only, though {len(placement['cpus'])} are in the mask")
    asked, given = placement["threads_asked"], placement["threads_given"]
    if asked and given and asked != given:
        signs.append(f"{asked} threads were asked for ({placement['threads_asked_by']}), OpenVINO gave {given}")
    if given and usage["process_cores_busy"] < MIN_BUSY_SHARE * min(given, len(placement["cpus"])):
        signs.append(f"only {usage['process_cores_busy']:.1f} cores were busy on average though {given} threads were given")
    if placement["precision_asked"] not in ("auto", "int8", placement["precision_used"]):
        signs.append(f"precision {placement['precision_asked']} was asked for, {placement['precision_used']} was used")
    return signs
