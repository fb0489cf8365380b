"""One level of a sweep: the requests of one concurrency, in one ab run or several, and its record.

Timed is only what ab does, as ab.py describes; everything else here happens before or after it.
"""

from __future__ import annotations

import os
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

import ab
import server
from tgi_log import Finished, LogTail

from harness import checks, gpu, progress, run, stats
from harness.metrics import METRICS
from harness.monitor import SystemMonitor

INTERRUPTED = "interrupted by the user"
BUSY_AB = 0.8  # of one core, from which on ab itself may be the bottleneck
LOG_METRICS = {
    "total_time_s": "server_total_time_s",
    "validation_time_s": "validation_time_s",
    "queue_time_s": "queue_time_s",
    "inference_time_s": "server_inference_time_s",
    "time_per_token_s": "server_time_per_token_s",
}
WORK = [
    ("million tokens", "tokens_per_second", 1e6),
    ("1,000 requests", "requests_per_second", 1e3),
]


@dataclass(frozen=True)
class Setup:
    """What the levels of a sweep have in common."""

    url: str
    ab: list[str]  # the command, with the options that all runs share
    body: Path  # the request that looked at the server
    bodies: list[Path]  # the requests that are measured
    starts_alone: bool  # this ab sends its first request alone
    log: LogTail | None  # None where the server's log can't be read
    probe: server.Probe
    server: dict  # this and the following as in the records
    model: dict
    input: dict
    system: dict
    task: dict  # with what else must be equal for two levels to have done the same work


@dataclass(frozen=True)
class Run:
    """One run of ab, with what the server says of it."""

    report: ab.Report
    log: list[Finished]  # without that of the request sent alone
    tokens: int | None  # generated for the requests that succeeded; None where unknown
    tokens_from: str | None  # how that is known


@dataclass(frozen=True)
class Plan:
    """What is measured at one level."""

    concurrency: int
    requests: int  # of an ab run
    repeats: int  # ab runs
    warmup: int  # rounds of `concurrency` requests sent first
    first: int  # number of the first body to use
    folder: Path  # for ab's files


@dataclass(frozen=True)
class Level:
    """A measured level."""

    plan: Plan
    runs: list[Run]
    monitor: SystemMonitor

    @property
    def whole(self) -> ab.Report:
        """All runs together."""
        reports = [each.report for each in self.runs]
        return ab.merge(reports, sum(report.wall_s or 0.0 for report in reports))

    @property
    def log(self) -> list[Finished]:
        return [finished for each in self.runs for finished in each.log]

    @property
    def tokens(self) -> int | None:
        numbers = [each.tokens for each in self.runs]
        return None if None in numbers else sum(numbers)


def lanes(bodies: list[Path], first: int, requests: int, concurrency: int) -> list[list[ab.Share]]:
    """Spread requests over ab runs, as each sends one body only.

    One body: one run. Several: `concurrency` lanes side by side, each with one request under way
    and a run per body; bodies are used in turn from number `first` on.
    """
    if len(bodies) == 1:
        return [[ab.Share(bodies[0], requests, concurrency)]]
    plan = [[] for _ in range(concurrency)]
    for i in range(requests):
        plan[i % concurrency].append(ab.Share(bodies[(first + i) % len(bodies)], 1, 1))
    return plan


def measure(setup: Setup, plan: Plan) -> Level:
    """Warm up, then run ab. Ctrl-C ends the level and keeps what was measured.

    Raises KeyboardInterrupt where that is nothing.
    """
    name = f"Concurrency {plan.concurrency}"
    with progress.stage(f"{name}: warm-up"):
        warm_up(setup, plan)
    runs = []
    with SystemMonitor() as monitor, gpu.Sampler(server.gpu_indices(setup.server)) as gpus:
        for number in range(plan.repeats):
            with progress.stage(f"{name}: run {number + 1} of {plan.repeats}"):
                runs.append(run_ab(setup, plan, number))
            if runs[-1].report.interrupted or why_failed(runs[-1].report):
                break
    if not runs:
        raise KeyboardInterrupt
    monitor.usage["gpus"] = gpus.gpus
    if runs[-1].report.interrupted:
        monitor.status, monitor.error = "interrupted", INTERRUPTED
    elif monitor.status == "complete" and (reason := why_failed(runs[-1].report)):
        monitor.status, monitor.error = "failed", reason
    return Level(plan, runs, monitor)


def warm_up(setup: Setup, plan: Plan) -> None:
    """With a body of its own, so that it warms no cache for those of PROMPTS."""
    if not plan.warmup:
        return
    if setup.log:
        setup.log.mark()
    share = ab.Share(setup.body, plan.warmup * plan.concurrency, plan.concurrency)
    report = ab.measure(setup.ab, setup.url, [[share]], plan.folder / "warmup", setup.starts_alone)
    if report.interrupted:
        raise KeyboardInterrupt
    if setup.log:
        setup.log.wait_for(report.finished)


def run_ab(setup: Setup, plan: Plan, number: int) -> Run:
    """A measured run of ab, and what log and counter of the server say of it."""
    first, folder = plan.first + number * plan.requests, plan.folder / f"run-{number:02d}"
    shares = lanes(setup.bodies, first, plan.requests, plan.concurrency)
    counted_before = server.generated_tokens_so_far(setup.url)
    if setup.log:
        setup.log.mark()
    report = ab.measure(setup.ab, setup.url, shares, folder, setup.starts_alone)
    log = []
    if setup.log:
        # The one sent alone is the first to finish.
        log = setup.log.wait_for(report.finished)[sum(response.ok for response in report.alone) :]
        (folder / "server.log").write_text(setup.log.text())
    counted_after = server.generated_tokens_so_far(setup.url)
    known = None not in (counted_before, counted_after)
    counted = counted_after - counted_before if known else None
    return Run(report, log, *generated_tokens(report, log, counted, setup.probe))


def generated_tokens(
    report: ab.Report, log: list[Finished], counted: float | None, probe: server.Probe
) -> tuple[int | None, str | None]:
    """Tokens generated for the requests that succeeded, and how that is known; else (None, None).

    `counted` is by the server's own counter.
    """
    ok = [response for response in report.responses if response.ok]
    stated = [response.number("x-generated-tokens") for response in ok]
    if ok and None not in stated:
        return sum(stated), "the responses' headers"
    if log and len(log) == len(ok):
        return sum(request.generated_tokens for request in log), "the server's log"
    if counted and len(ok) == report.requests and all(each.ok for each in report.alone):
        return round(counted * len(ok) / report.finished), "the server's counter"
    sizes = {response.number("content-length") for response in ok}
    if probe.generated_tokens and sizes == {probe.body_bytes}:
        source = "one response read in full; all others have exactly its size"
        return probe.generated_tokens * len(ok), source
    return None, None


def counts(failures: dict[str, int]) -> str:
    return ", ".join(f"{count} × {kind}" for kind, count in failures.items())


def why_failed(report: ab.Report) -> str | None:
    """Why this is no measurement; None where it is one, also with some requests failed."""
    answered = f"{len(report.responses)} of {report.requests} requests had been answered"
    problem = report.problems[-1] if report.problems else ""
    if report.gave_up and "timeout" in problem:
        return f"the server timed out (TIMEOUT_S): {answered}"
    if report.gave_up or "refused" in problem:
        return f"the server went away: {problem}; {answered}"
    if not report.succeeded:
        return f"no request succeeded: {counts(report.failures)}"
    return None


def samples_of(level: Level) -> dict[str, list[list[float]]]:
    """The level's samples by metric: one list per ab run; of the GPUs one for the level."""
    whole, samples = level.whole, gpu_samples(level)
    for each in level.runs:
        report = each.report
        found = {
            "successful_requests": [report.succeeded],
            "failed_requests": [sum(report.failures.values())],
            **server_times(each),
        }
        if report.wall_s and not why_failed(report):
            found["duration_s"] = [report.wall_s]
            found["requests_per_second"] = [report.succeeded / report.wall_s]
            if not whole.failures and all(response.ok for response in whole.alone):
                found["request_latency_s"] = report.latencies_s
            if each.tokens is not None:
                found["tokens_per_second"] = [each.tokens / report.wall_s]
                found["generated_tokens_per_request"] = [each.tokens / report.succeeded]
        for name, values in found.items():
            if values:
                samples.setdefault(name, []).append(values)
    return {name: samples[name] for name in METRICS if name in samples}


def server_times(each: Run) -> dict[str, list[float]]:
    """As the server's log has them; without it from its headers, in whole milliseconds."""
    if each.log:
        return {
            name: [getattr(request, field) for request in each.log]
            for field, name in LOG_METRICS.items()
        }
    found = {}
    ok = [response for response in each.report.responses if response.ok]
    for field, name in LOG_METRICS.items():
        times_ms = [response.number(f"x-{field[:-2].replace('_', '-')}") for response in ok]
        found[name] = [time_ms / 1000 for time_ms in times_ms if time_ms is not None]
    both = [(each.number("x-inference-time"), each.number("x-generated-tokens")) for each in ok]
    found["server_time_per_token_s"] = [ms / 1000 / n for ms, n in both if ms is not None and n]
    return found


def gpu_samples(level: Level) -> dict[str, list[list[float]]]:
    """Of all GPUs over the whole level, as far as they all say."""
    gpus, whole, samples = level.monitor.usage["gpus"], level.whole, {}
    known = {
        key: [card[key] for card in gpus]
        for key in ("utilization", "memory_used_bytes", "power_w", "energy_j")
        if gpus and all(card[key] is not None for card in gpus)
    }
    for key in ("utilization", "memory_used_bytes"):
        if key in known:
            samples[f"gpu_{key}"] = [known[key]]
    if "power_w" in known:
        samples["gpu_power_w"] = [[sum(known["power_w"])]]
    if "energy_j" in known and level.tokens and not level.monitor.error:
        # With those of the requests sent alone.
        tokens = level.tokens / whole.succeeded * whole.finished
        samples["gpu_energy_per_token_j"] = [[sum(known["energy_j"]) / tokens]]
    return samples


def warnings_of(setup: Setup, level: Level, samples: dict) -> list[str]:
    """What speaks against the level's figures, besides the machine's state."""
    found, plan, whole, bodies = [], level.plan, level.whole, len(setup.bodies)
    if whole.failures:
        found.append(f"failed requests ({counts(whole.failures)}) are not in requests per second")
    if whole.wall_s and "request_latency_s" not in samples:
        found.append("no latency: ab's times do not separate failed requests from answered ones")
    if rates := samples.get("requests_per_second"):
        rate = stats.summarize(METRICS["requests_per_second"], rates)
        found += checks.sample_warnings(rate, repeat="REPEATS")
    if setup.log and len(level.log) != whole.succeeded:
        found.append(
            f"the server's log shows {len(level.log)} finished requests, ab had {whole.succeeded} "
            "answered: somebody else used the server, or lines were lost"
        )
    busy = level.monitor.usage["process_cores_busy"]
    if busy > BUSY_AB * (plan.concurrency if bodies > 1 else 1):
        found.append(f"ab kept {busy:.2f} cores busy: it may be the bottleneck, not the server")
    for card in level.monitor.usage["gpus"]:
        if card["slowdowns"]:
            reasons = ", ".join(card["slowdowns"])
            found.append(f"GPU {card['index']} held its clock back: {reasons}")
    caches_prefixes = setup.server["name"] != "TGI" or str(setup.server["version"]) >= "3"
    if caches_prefixes and plan.first + whole.requests > bodies:
        found.append(
            f"requests were repeated ({bodies} different ones): a prefix cache may have spared the "
            "server reading them again; PROMPTS gives it more"
        )
    return found


def build_record(setup: Setup, args: Namespace, level: Level) -> dict:
    samples, plan, whole = samples_of(level), level.plan, level.whole
    primary = "requests_per_second" if "requests_per_second" in samples else "successful_requests"
    sources = sorted({each.tokens_from for each in level.runs if each.tokens_from})
    return build(
        setup,
        args,
        workload="gpu-tgi",
        title="LLM server",
        primary=primary,
        samples=samples,
        task={**setup.task, "concurrency": plan.concurrency},
        work=WORK,
        monitor=level.monitor,
        output={
            "text": setup.probe.text,
            "requests": whole.requests,
            "succeeded": whole.succeeded,
            "failures": whole.failures,
            "generated_tokens": level.tokens,
            "generated_tokens_from": "; ".join(sources) or None,
            "finished_in_server_log": len(level.log) if setup.log else None,
            "ab_starts_alone": setup.starts_alone,
            "ab_commands": whole.commands[:1],
            "reports": str(plan.folder),
        },
        resolved={"concurrency": plan.concurrency, "requests": plan.requests},
        warnings=warnings_of(setup, level, samples),
    )


def build(setup: Setup, args: Namespace, **parts) -> dict:
    """A record of a level or of the sweep; `parts` go to run.build()."""
    record = run.build(
        args,
        **parts,
        model=setup.model,
        input=setup.input,
        system=setup.system,
        placement={"cpus": sorted(os.sched_getaffinity(0))},
        comparable_by={"runtime": setup.server["name"]},
        server=setup.server,
        check_samples=False,
    )
    record["context"]["server version"] = setup.server["version"]
    return record


def is_within(record: dict, slo_p95_s: float) -> bool:
    """Whether every request was answered, and 95 % of them within `slo_p95_s`."""
    p95 = record["metrics"].get("request_latency_s", {}).get("p95")
    whole = record["status"] == "complete" and not record["output"]["failures"]
    return whole and p95 is not None and p95 <= slo_p95_s


def line(record: dict) -> str:
    """A level's record in one line."""
    output, metrics = record["output"], record["metrics"]
    parts = [f"{output['succeeded']} of {output['requests']} requests"]
    for name in ("requests_per_second", "tokens_per_second"):
        if name in metrics:
            parts.append(f"{metrics[name]['median']:.4g} {metrics[name]['unit']}")
    if "p95" in metrics.get("request_latency_s", {}):
        parts.append(f"p95 {metrics['request_latency_s']['p95']:.4g} s")
    if record["status"] != "complete":
        parts.append(record["status"])
    return f"concurrency {record['task']['concurrency']}: " + ", ".join(parts)
