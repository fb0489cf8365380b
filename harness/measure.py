"""Samples, how sure they are, and what the machine did while they were taken."""

from __future__ import annotations

import math
import re
import resource
import statistics
import time
from pathlib import Path
from collections.abc import Iterator, Sequence

import psutil

from harness import energy
from harness.cli import UserError

CONFIDENCE = 0.95
# A percentile is given only where at least one sample is expected beyond it.
PERCENTILES = {"p50": (0.50, 1), "p90": (0.90, 10), "p95": (0.95, 20), "p99": (0.99, 100)}


def iterations(num_iters: int, min_duration_s: float = 0.0) -> Iterator[int]:
    """0, 1, 2, ...: `num_iters` times, and on until `min_duration_s` have passed."""
    started, index = time.perf_counter(), 0
    while index < num_iters or time.perf_counter() - started < min_duration_s:
        yield index
        index += 1


def percentile(ordered: Sequence[float], share: float) -> float:
    """Linear interpolation between order statistics (Hyndman and Fan's type 7, numpy's default)."""
    position = share * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def median_interval(samples: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float] | None:
    """Confidence interval of the median from order statistics; None where there are too few samples (under 6 for 95 %).

    The number of samples below the true median is binomial(n, 1/2) whatever the distribution, so
    [x(k), x(n+1-k)] misses it with probability 2 P(B < k); k is the largest that keeps this under 1 - confidence
    (Conover, Practical Nonparametric Statistics, 3rd ed., section 3.2).
    """
    n, ordered = len(samples), sorted(samples)
    if n > 1000:  # the binomial's normal approximation (same place), as the exact one's numbers outgrow a float
        k = math.floor(n / 2 - statistics.NormalDist().inv_cdf((1 + confidence) / 2) * math.sqrt(n) / 2)
        return ordered[k - 1], ordered[n - k]
    below, k = 0, 0  # below: number of the 2**n outcomes with fewer than k + 1 samples under the median
    while 2 * (below + math.comb(n, k)) <= (1 - confidence) * 2**n:
        below += math.comb(n, k)
        k += 1
    return (ordered[k - 1], ordered[n - k]) if k else None


def summarize(samples: Sequence[float], unit: str, better: str | None = None) -> dict:
    """A metric of the record: the distribution of its samples.

    Parameters
    ----------
    samples : one number a measured iteration (or frame, token ...), in `unit`.
    better : "higher", "lower", or None where neither is.

    Returns
    -------
    dict with unit, better, n, median, mean, stdev (None for one sample), min, max, ci95 ([low, high] or None), and
    p50, p90, p95, p99 as far as the number of samples supports them.
    """
    ordered = sorted(samples)
    interval = median_interval(ordered)
    metric = {
        "unit": unit,
        "better": better,
        "n": len(ordered),
        "median": statistics.median(ordered),
        "mean": statistics.fmean(ordered),
        "stdev": statistics.stdev(ordered) if len(ordered) > 1 else None,
        "min": ordered[0],
        "max": ordered[-1],
        "ci95": list(interval) if interval else None,
    }
    for name, (share, at_least) in PERCENTILES.items():
        if len(ordered) >= at_least:
            metric[name] = percentile(ordered, share)
    return metric


def describe(metric: dict) -> str:
    """A metric's value with its unit and how sure it is, e.g. '0.874 s   (median of 10; 95 % CI 0.869-0.881)'."""
    value = f"{metric['median']:.4g} {metric['unit']}"
    if metric["n"] == 1:
        return value
    parts = [f"median of {metric['n']}"]
    if metric["ci95"]:
        parts.append("95 % CI {:.4g}–{:.4g}".format(*metric["ci95"]))
    else:
        parts.append("range {min:.4g}–{max:.4g}".format(**metric))
    if "p95" in metric:
        parts.append(f"p95 {metric['p95']:.4g}")
    return f"{value}   ({'; '.join(parts)})"


class Watch:
    """What the machine did during the `with` block: CPU use of each core, of others, steal, throttling, energy.

    Ctrl-C or a UserError inside the block ends it and is kept in `status` and `error`, so that what has been measured
    until then can still be recorded. Reads counters at both ends only; nothing runs in between, except that energy counters,
    where the machine has any, are read every 30 s as well, because they overflow (see `energy.Meter`).

    After the block: `status` is "complete", "interrupted" or "failed"; `usage` is a dict, see `__exit__`.

    Parameters
    ----------
    powercap : the folder of the CPUs' energy counters.
    """

    def __init__(self, powercap: Path = energy.POWERCAP):
        self._powercap = powercap

    def __enter__(self) -> Watch:
        self.status, self.error, self.usage = "complete", None, {}
        self._process = psutil.Process()
        self._meter = energy.Meter(self._powercap)
        self._meter.start()
        self._before = self._counters()
        return self

    def __exit__(self, kind, error, trace) -> bool:
        after, before = self._counters(), self._before
        self._meter.stop()
        wall_s = after["time_s"] - before["time_s"]
        busy, steal, total = [], 0.0, 0.0
        for now, then in zip(after["cpus"], before["cpus"]):
            passed = [b - a for a, b in zip(then, now)]
            spent = dict(zip(now._fields, passed))
            all_s = sum(spent.get(f, 0.0) for f in ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"))
            idle_s = spent["idle"] + spent.get("iowait", 0.0) + spent.get("steal", 0.0)
            busy.append(round((all_s - idle_s) / all_s, 3) if all_s > 0 else 0.0)
            steal += spent.get("steal", 0.0)
            total += all_s
        own = (after["process_s"] - before["process_s"]) / wall_s
        self.usage = {
            "wall_s": wall_s,
            "busy_share_per_cpu": busy,
            "process_cores_busy": own,
            "other_cores_busy": max(0.0, sum(busy) - own),
            "steal_share": steal / total if total > 0 else 0.0,
            "throttle_events": after["throttled"] - before["throttled"],
            "mhz_before": before["mhz"],
            "mhz_after": after["mhz"],
            "peak_rss_bytes": peak_rss_bytes(),
            "energy_j": self._meter.joules,
            "energy_unknown": self._meter.unknown,
        }
        if isinstance(error, KeyboardInterrupt):
            self.status, self.error = "interrupted", "interrupted by the user"
        elif isinstance(error, UserError):
            self.status, self.error = "failed", str(error)
        return self.status != "complete"

    def _counters(self) -> dict:
        times = self._process.cpu_times()
        frequency = psutil.cpu_freq()
        return {
            "time_s": time.perf_counter(),
            "cpus": psutil.cpu_times(percpu=True),
            "process_s": sum(times[:4]),  # user, system, and both of children waited for
            "throttled": _throttle_events(),
            "mhz": round(frequency.current) if frequency else None,
        }


def tell_energy(metrics: dict[str, dict], watch: Watch, device: str, unit: str, count: float) -> None:
    """Add the metric energy_per_UNIT_j and print it, where it is known.

    It is the energy of all CPU packages and their memory over the watched time, by the work done in it. It is not known of a
    run cut short, as what was thrown away took its share, nor of other devices than the CPU: a graphics card has no part in
    these counters.

    Parameters
    ----------
    device : that OpenVINO computed on.
    unit : what work is counted in: "token", "frame", "audio second".
    count : of units, all that were done while `watch` was on.
    """
    joules = {part: j for part, j in (watch.usage["energy_j"] or {}).items() if part in energy.COUNTED}
    if "package" not in joules or watch.status != "complete" or not device.startswith("CPU") or not count:
        return
    metric = summarize([sum(joules.values()) / count], f"J/{unit}", "lower")
    metrics[f"energy_per_{unit.replace(' ', '_')}_j"] = metric
    print(f"Energy: {describe(metric)}   ({', '.join(f'{part} {j:.4g} J' for part, j in joules.items())})")


def peak_rss_bytes() -> int:
    """Largest resident memory of this program so far, mapped files included.

    From the kernel's high-water mark: getrusage's ru_maxrss, all that some sandboxes tell, also counts what the program that started
    this one held.
    """
    told = re.search(r"^VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return (int(told[1]) if told else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * 1024


def _throttle_events() -> int:
    counts = Path("/sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/core_throttle_count")
    return sum(int(path.read_text()) for path in counts)
