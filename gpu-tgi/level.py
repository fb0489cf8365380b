"""One level of a sweep: the requests of one concurrency, in one ab run or several, and its record.

Timed is only what ab does, as ab.py describes; everything else here happens before or after it.
"""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import ab
import server
import tgi_log

from harness import checks, cli, gpu, progress, run, stats
from harness.journal import Journal
from harness.metrics import METRICS

BUSY_AB = 0.8  # of one core, from which on ab itself may be the bottleneck
WORK = [
    ("million tokens", "tokens_per_second", 1e6),
    ("1,000 requests", "requests_per_second", 1e3),
]


@dataclass(frozen=True)
class Setup:
    """What the levels of a sweep have in common."""

    ab: ab.Command
    repeats: int  # ab runs per level
    warmup: int  # rounds of requests before a level
    body: Path  # the request of the warm-up
    bodies: list[Path]  # the requests that are measured
    log: tgi_log.LogTail | None  # None where the server's log can't be read
    probe: server.Probe
    server: dict  # this and the following as in the records
    model: dict
    input: dict
    system: dict
    task: dict


@dataclass(frozen=True)
class Plan:
    """One level."""

    concurrency: int
    requests: int  # of an ab run
    first: int  # number of the first body to use
    folder: Path  # for ab's files


@dataclass(frozen=True)
class Run:
    """One run of ab, or all of a level, with what the server says of it."""

    report: ab.Report
    log: list[tgi_log.Finished] | None  # without the request sent alone; None where unknown
    tokens: int | None  # generated for the requests that succeeded; None where unknown
    tokens_from: str | None  # how that is known
    doubt: str | None = None  # whether the server generated the answers


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


def measure(setup: Setup, plan: Plan, args: Namespace) -> tuple[dict, Path]:
    """Warm up and run ab; the level's record, and where it is.

    Ctrl-C ends the level and keeps what was measured; it passes where that is nothing.
    """
    runs, name = [], f"Concurrency {plan.concurrency}"
    if setup.warmup:  # with a body of its own, so that it warms no cache for those of PROMPTS
        share = ab.Share(setup.body, setup.warmup * plan.concurrency, plan.concurrency)
        with progress.stage(f"{name}: warm-up"):
            report = ab.measure(setup.ab, [[share]], plan.folder / "warmup")
        if report.interrupted:
            raise report.interrupted
    journal = run.start(args, **describe_level(setup, plan))
    watched = gpu.Sampler(server.gpu_indices(setup.server))
    try:
        with journal.monitor as monitor, watched as gpus:
            for number in range(setup.repeats):
                with progress.stage(f"{name}: run {number + 1} of {setup.repeats}"):
                    one = measure_run(setup, plan, number)
                if one.report.interrupted and not one.report.responses:
                    raise one.report.interrupted
                runs.append(one)
                journal.add(samples_of(one))
                if one.report.interrupted or why_failed(one.report):
                    break
    except BaseException as error:
        if not runs or not isinstance(error, OSError):
            run.discard()
            raise
        monitor.status, monitor.error = "failed", cli.one_line(error)
    with cli.uninterrupted():
        monitor.usage["gpus"] = gpus.gpus
        if error := runs[-1].report.interrupted:
            monitor.status, monitor.error = "interrupted", cli.why_interrupted(error)
        elif monitor.status == "complete" and (reason := why_failed(runs[-1].report)):
            monitor.status, monitor.error = "failed", reason
        record = build_record(setup, plan, args, runs, journal)
        return record, run.save(record, args)


def measure_run(setup: Setup, plan: Plan, number: int) -> Run:
    """One run of ab, and what server and log say of it."""
    first, folder = plan.first + number * plan.requests, plan.folder / f"run-{number:02d}"
    shares = lanes(setup.bodies, first, plan.requests, plan.concurrency)
    before, log = server.generated_tokens_so_far(setup.ab.url), None
    if setup.log:
        setup.log.mark()
    report = ab.measure(setup.ab, shares, folder)
    with cli.uninterrupted():
        if setup.log:
            log = setup.log.wait_for(report.finished)
            (folder / "server.log").write_text(setup.log.text())
            log = log[report.finished - report.finished_without_alone :]  # which finishes first
        after = server.generated_tokens_so_far(setup.ab.url)
    counted = None if None in (before, after) or after < before else after - before
    if doubt := why_not_generated(report, counted):
        return Run(report, log, None, None, doubt)
    return Run(report, log, *generated_tokens(report, log, counted, setup.probe))


def together(runs: list[Run]) -> Run:
    """All runs of a level."""
    reports, tokens = [each.report for each in runs], [each.tokens for each in runs]
    return Run(
        ab.merge(reports, sum(report.wall_s or 0.0 for report in reports)),
        None if runs[0].log is None else [finished for each in runs for finished in each.log],
        None if None in tokens else sum(tokens),
        runs[0].tokens_from,
        next((each.doubt for each in runs if each.doubt), None),
    )


def why_not_generated(report: ab.Report, counted: float | None) -> str | None:
    """Why the answers' own figures can't be true: they were not all generated for the requests.

    `counted` is how many tokens were generated by the server's own counter.
    """
    answers = [each for each in report.alone + report.responses if each.ok]
    stated = sum(each.number("x-generated-tokens") or 0 for each in answers)
    if counted is not None and counted < stated:
        return f"the answers state {stated} generated tokens and the server counted {counted:.0f}"
    took_ms = [each.number("x-total-time") or 0 for each in answers]
    if took_ms and report.latencies_s and not report.failures:
        took_s, waited_s = median(took_ms) / 1000, median(report.latencies_s)
        if took_s > 1.1 * waited_s + 0.005:
            return f"the answers state that they took {took_s:.3g} s and came in {waited_s:.3g} s"
    return None


def generated_tokens(
    report: ab.Report,
    log: list[tgi_log.Finished] | None,
    counted: float | None,
    probe: server.Probe,
) -> tuple[int | None, str | None]:
    """Tokens generated for the requests that succeeded, and how that is known; else (None, None).

    `counted` is by the server's own counter.
    """
    ok = [response for response in report.responses if response.ok]
    if counted is None and log is not None and len(log) < len(ok):
        return None, None  # answers that the server knows nothing of
    stated = [response.number("x-generated-tokens") for response in ok]
    if ok and None not in stated:
        return sum(stated), "the responses' headers"
    if log and len(log) == len(ok):
        return sum(request.generated_tokens for request in log), "the server's log"
    if counted and len(ok) == report.requests and all(each.ok for each in report.alone):
        return round(counted * len(ok) / report.finished), "the server's counter"
    sizes = {response.number("content-length") for response in ok}
    if counted is None and probe.generated_tokens and sizes == {probe.body_bytes}:
        source = "one response read in full; all others have exactly its size"
        return probe.generated_tokens * len(ok), source
    return None, None


def counts(failures: dict[str, int]) -> str:
    return ", ".join(f"{count} × {kind}" for kind, count in failures.items())


def why_failed(report: ab.Report) -> str | None:
    """Why this is no measurement; None where it is one, also with some requests failed."""
    answered = f"{len(report.responses)} of {report.requests} requests had been answered"
    problem = server.plain(report.problems[-1]) if report.problems else ""
    if report.gave_up and "timeout" in problem:
        return f"the server timed out (TIMEOUT_S): {answered}"
    if report.gave_up and not problem.startswith("apr_"):
        return f"{problem}; {answered}"
    if report.gave_up or "refused" in problem:
        return f"the server went away: {problem}; {answered}"
    if not report.succeeded:
        return f"no request succeeded: {counts(report.failures)}"
    return None


def samples_of(one: Run) -> dict[str, list[float]]:
    """Samples by metric, of one run of ab."""
    report, wall_s = one.report, one.report.wall_s
    found = {
        "successful_requests": [report.succeeded],
        "failed_requests": [sum(report.failures.values())],
    }
    if wall_s and not why_failed(report):
        found["duration_s"] = [wall_s]
        found["requests_per_second"] = [report.succeeded / wall_s]
        all_ok = not report.failures and all(each.ok for each in report.alone)
        found["request_latency_s"] = report.latencies_s if all_ok else []
        if one.tokens is not None:
            found["tokens_per_second"] = [one.tokens / wall_s]
            found["generated_tokens_per_request"] = [one.tokens / report.succeeded]
    for name in tgi_log.METRICS.values():
        times_s = [getattr(request, name) for request in one.log or from_headers(report)]
        found[name] = [time_s for time_s in times_s if time_s is not None]
    return found


def from_headers(report: ab.Report) -> list[tgi_log.Finished]:
    """What the server would have logged, in whole milliseconds; None where headers lack it."""
    found = []
    for response in report.responses:
        if response.ok:
            names = ("total", "validation", "queue", "inference")
            times_ms = [response.number(f"x-{name}-time") for name in names]
            times_s = [None if time_ms is None else time_ms / 1000 for time_ms in times_ms]
            tokens = response.number("x-generated-tokens")
            per_token_s = times_s[-1] / tokens if tokens and times_s[-1] is not None else None
            found.append(tgi_log.Finished(*times_s, per_token_s))
    return found


def gpu_samples(gpus: list[dict], whole: Run) -> dict[str, list[list[float]]]:
    """Of all GPUs over the whole level; without what one of them does not say."""
    keys = ("utilization", "memory_used_bytes", "power_w", "energy_j")
    columns = {key: [card[key] for card in gpus] for key in keys}
    known = {key: values for key, values in columns.items() if values and None not in values}
    samples = {f"gpu_{key}": [known[key]] for key in keys[:2] if key in known}
    if "power_w" in known:
        samples["gpu_power_w"] = [[sum(known["power_w"])]]
    if "energy_j" in known and whole.tokens and not why_failed(whole.report):
        # Spent on the requests sent alone too.
        tokens = whole.tokens / whole.report.succeeded * whole.report.finished
        samples["gpu_energy_per_token_j"] = [[sum(known["energy_j"]) / tokens]]
    return samples


def reasons_of(plan: Plan, whole: Run, usage: dict, bodies: int) -> list[str]:
    """What makes the level invalid as evidence, besides the machine's state."""
    found, report = [], whole.report
    if report.failures:
        found.append(f"failed requests ({counts(report.failures)}) are not in requests per second")
    if whole.doubt:
        found.append(f"{whole.doubt}: some came from a cache or from another server")
    if whole.log is not None and len(whole.log) != report.finished_without_alone:
        more = len(whole.log) > report.finished_without_alone
        found.append(
            f"the server's log shows {len(whole.log)} finished requests, ab had "
            f"{report.finished_without_alone} answered: "
            + ("other clients used the server" if more else "by another server, or lines were lost")
        )
    busy = usage["process_cores_busy"]
    if busy > BUSY_AB * (plan.concurrency if bodies > 1 else 1):
        found.append(f"ab kept {busy:.2f} cores busy: it may be the bottleneck, not the server")
    for card in usage["gpus"]:
        if card["slowdowns"]:
            slowdowns = ", ".join(card["slowdowns"])
            found.append(f"GPU {card['index']} held its clock back: {slowdowns}")
    return found


def warnings_of(setup: Setup, plan: Plan, whole: Run, samples: dict) -> list[str]:
    """What a reader should know of the level's figures."""
    found, report, bodies = [], whole.report, len(setup.bodies)
    if report.wall_s and "request_latency_s" not in samples:
        found.append("no latency: ab's times do not separate failed requests from answered ones")
    if rates := samples.get("requests_per_second"):
        rate = stats.summarize(METRICS["requests_per_second"], rates)
        found += checks.sample_warnings(rate, repeat="REPEATS")
    caches_prefixes = setup.server["name"] != "TGI" or str(setup.server["version"]) >= "3"
    if caches_prefixes and plan.first + report.requests > bodies:
        found.append(
            f"requests were repeated ({bodies} different ones): a prefix cache may have spared the "
            "server reading them again; PROMPTS gives it more"
        )
    return found


def describe(setup: Setup) -> dict:
    """What the records of levels and sweep have in common, for run.start() and run.build()."""
    cpus: Iterable[int] = os.sched_getaffinity(0)
    if setup.server.get("client"):  # of the server's machine, which it may use all of
        cpus = range(setup.system["cpu"]["logical_cpus"])
    return {
        "model": setup.model,
        "input": setup.input,
        "system": setup.system,
        "placement": {"cpus": sorted(cpus)},
        "comparable_by": {"runtime": setup.server["name"]},
        "server": setup.server,
        "check_samples": False,
    }


def describe_level(setup: Setup, plan: Plan) -> dict:
    """What is known of a level before it is measured."""
    return {
        **describe(setup),
        "workload": "gpu-tgi",
        "title": "LLM server",
        "primary": "requests_per_second",
        "task": {**setup.task, "concurrency": plan.concurrency},
        "work": WORK,
        "resolved": {"concurrency": plan.concurrency, "requests": plan.requests},
    }


def build_record(
    setup: Setup, plan: Plan, args: Namespace, runs: list[Run], journal: Journal
) -> dict:
    """The level's record."""
    whole, usage = together(runs), journal.monitor.usage
    samples = journal.samples | gpu_samples(usage["gpus"], whole)
    samples = {name: samples[name] for name in METRICS if any(samples.get(name, []))}
    if whole.report.failures or not all(each.ok for each in whole.report.alone):
        samples.pop("request_latency_s", None)  # also of the runs without a failure
    known = describe_level(setup, plan)
    if "requests_per_second" not in samples:
        known["primary"] = "successful_requests"
    return run.build(
        args,
        **known,
        samples=samples,
        monitor=journal.monitor,
        output={
            "text": setup.probe.text[:20_000],
            "requests": whole.report.requests,
            "succeeded": whole.report.succeeded,
            "failures": whole.report.failures,
            "generated_tokens": whole.tokens,
            "generated_tokens_from": whole.tokens_from,
            "finished_in_server_log": None if whole.log is None else len(whole.log),
            "ab_starts_alone": setup.ab.starts_alone,
            "reports": str(plan.folder),
        },
        reasons=reasons_of(plan, whole, usage, len(setup.bodies)),
        warnings=warnings_of(setup, plan, whole, samples),
    )


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
    if record["error"]:
        parts.append(f"{record['status']}: {record['error']}")
    return f"concurrency {record['task']['concurrency']}: " + ", ".join(parts)
