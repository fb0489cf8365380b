"""Measure one level of a sweep: so many requests at a time, for so many requests. run_ab.sh calls this once a level.

  python3 level.py --sweep FOLDER --concurrency 16 --requests 160 -- ab -l -r -v 2 -s 600 -T application/json

Timed is only what ab does, as ab.py tells; everything else here happens before or after it.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import ab
import server
import tgi_log
from harness import cli, files, gpu, measure, record, trouble
from harness.cli import UserError

EXIT_OVER_SLO = 3
LOG_WAIT_S = 3.0  # for the last lines of the server's log
RECOVERY_WAIT_S = 15.0  # for a server that has gone away to come back
BUSY_AB = 0.8  # of one core, from which on ab itself may be what limits
LOG_METRICS = {
    "total_time_s": "server_total_time_s",
    "validation_time_s": "validation_time_s",
    "queue_time_s": "queue_time_s",
    "inference_time_s": "inference_time_s",
    "time_per_token_s": "time_per_output_token_s",
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    parser.add_argument("--sweep", type=Path, required=True, help="folder made by sweep.py begin")
    parser.add_argument("--concurrency", type=cli.positive_int, required=True, help="requests at a time")
    parser.add_argument("--requests", type=cli.positive_int, required=True, help="requests of one ab run")
    parser.add_argument("--repeats", type=cli.positive_int, default=1, help="ab runs; from 6 on there is a 95 %% interval")
    parser.add_argument("--warmup", type=cli.non_negative_int, default=1, help="rounds of --concurrency requests sent first")
    parser.add_argument("--slo_p95", type=cli.non_negative_float, metavar="S",
                        help="say by exit status 3 that the 95th percentile of latency was above")  # fmt: skip
    parser.add_argument("--results_dir", type=Path, required=True, help="folder the level's record is written to")
    parser.add_argument("command", nargs="+", help="after --: ab and the options all levels share")
    parser.set_defaults(json=None)  # records are named by the kit
    return parser.parse_args()


def lanes(bodies: list[Path], first: int, requests: int, concurrency: int) -> list[list[ab.Share]]:
    """Spread requests over ab runs, as each sends one body only.

    One body: one run. Several: `concurrency` lanes side by side, each with one request at a time, a run for every body in
    turn; bodies are used from number `first` on, round and round.
    """
    if len(bodies) == 1:
        return [[ab.Share(bodies[0], requests, concurrency)]]
    plan = [[] for _ in range(concurrency)]
    for i in range(requests):
        plan[i % concurrency].append(ab.Share(bodies[(first + i) % len(bodies)], 1, 1))
    return plan


def generated_tokens(
    report: ab.Report, log: list[tgi_log.Finished], counted: float | None, probe: dict
) -> tuple[int | None, str | None]:
    """Tokens generated for the answers that succeeded, and how that is known; (None, None) where it is not."""
    ok = [answer for answer in report.answers if answer.ok]
    told = [answer.number("x-generated-tokens") for answer in ok]
    if ok and None not in told:
        return sum(told), "the answers' headers"
    if log and len(log) == len(ok):
        return sum(request.generated_tokens for request in log), "the server's log"
    if counted and len(ok) == report.requests and all(answer.ok for answer in report.alone):
        return round(counted * len(ok) / (len(ok) + len(report.alone))), "the server's counter"
    sizes = {answer.number("content-length") for answer in ok}
    if probe["generated_tokens"] and sizes == {probe["body_bytes"]}:
        return probe["generated_tokens"] * len(ok), "one answer read in full; all others have exactly its size"
    return None, None


def answered(report: ab.Report) -> int:
    """Requests the server must have logged as finished."""
    return sum(answer.ok for answer in report.alone + report.answers)


def wait_for_log(log: tgi_log.Follower | None, lines: int) -> list[tgi_log.Finished]:
    """The log's finished requests since its mark: as soon as there are `lines`, or what there is after LOG_WAIT_S."""
    if log is None:
        return []
    deadline = time.monotonic() + LOG_WAIT_S
    while True:
        found = tgi_log.finished_requests(log.text())
        if len(found) >= lines or time.monotonic() > deadline:
            return found
        time.sleep(0.02)


def wait_for_server(url: str) -> bool:
    deadline = time.monotonic() + RECOVERY_WAIT_S
    while not server.is_healthy(url):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


def kinds(failures: dict[str, int]) -> str:
    return ", ".join(f"{count} × {kind}" for kind, count in failures.items())


def why_failed(report: ab.Report) -> str | None:
    """The reason why this is no measurement of the level; None where it is one, also with some requests failed."""
    came = f"{len(report.answers)} of {report.requests} requests had been answered"
    problem = report.problems[-1] if report.problems else ""
    if report.gave_up and "timeout" in problem:
        return f"the server fell silent for as long as TIMEOUT_S allows: {came}"
    if report.gave_up or "refused" in problem:
        return f"the server went away: {problem}; {came}"
    if not report.succeeded:
        return f"no request succeeded: {kinds(report.failures)}"
    return None


def metrics_of(
    runs: list[ab.Report], whole: ab.Report, log: list[tgi_log.Finished], tokens: int | None, gpus: list[dict]
) -> tuple[dict, dict]:
    """The level's metrics and their raw samples. `whole`: the runs taken together."""
    clean = whole.wall_s and not why_failed(whole)
    samples, units = {}, {}

    def add(name: str, values: list, unit: str, better: str | None) -> None:
        values = [value for value in values if value is not None]
        if values:
            samples[name], units[name] = values, (unit, better)

    if clean:
        add("requests_per_second", [run.succeeded / run.wall_s for run in runs], "requests/s", "higher")
        if not whole.failures and all(answer.ok for answer in whole.alone):
            add("request_latency_s", whole.latencies_s, "s", "lower")
    for field, name in LOG_METRICS.items():
        add(name, [getattr(request, field) for request in log], "s", "lower")
    if not log:  # the same from the answers' headers, in whole milliseconds
        ok = [answer for answer in whole.answers if answer.ok]
        for header, name in (("total", "server_total_time_s"), ("queue", "queue_time_s"), ("inference", "inference_time_s"),
                             ("validation", "validation_time_s")):  # fmt: skip
            told = [answer.number(f"x-{header}-time") for answer in ok]
            add(name, [ms / 1000 for ms in told if ms is not None], "s", "lower")
        each = [(a.number("x-inference-time"), a.number("x-generated-tokens")) for a in ok]
        add("time_per_output_token_s", [ms / 1000 / n for ms, n in each if ms is not None and n], "s", "lower")
    if tokens is not None and clean:
        add("tokens_per_second", [tokens / whole.wall_s], "tokens/s", "higher")
        add("generated_tokens_per_request", [tokens / whole.succeeded], "tokens", None)
    add("successful_requests", [whole.succeeded], "requests", None)
    add("failed_requests", [sum(whole.failures.values())], "requests", None)
    add("duration_s", [run.wall_s for run in runs], "s", None)
    if gpus:
        add("gpu_utilization", [g["utilization"] for g in gpus], "share", None)
        add("gpu_memory_used_bytes", [g["memory_used_bytes"] for g in gpus], "bytes", "lower")
        powers, energies = [g["power_w"] for g in gpus], [g["energy_j"] for g in gpus]
        if None not in powers:
            add("gpu_power_w", [sum(powers)], "W", "lower")
        if None not in energies and tokens and clean:
            spent_on = tokens / whole.succeeded * answered(whole)  # with those of the request sent alone
            add("gpu_energy_per_token_j", [sum(energies) / spent_on], "J", "lower")
    return {name: measure.summarize(values, *units[name]) for name, values in samples.items()}, samples


def signs_of(args, state: dict, report: ab.Report, metrics: dict, log: list, usage: dict) -> list[str]:
    """What speaks against the level's figures, in plain words."""
    signs = []
    if report.failures:
        signs.append(f"failed requests ({kinds(report.failures)}) are not in requests per second")
    if report.wall_s and "request_latency_s" not in metrics:
        signs.append("no latency: ab's times do not tell failed requests from answered ones")
    if "requests_per_second" in metrics:
        signs += trouble.of_samples(metrics["requests_per_second"], repeat="REPEATS")
    if state["log_works"] and len(log) != report.succeeded:
        signs.append(f"the server's log shows {len(log)} finished requests, ab had {report.succeeded} answered: "
                     "somebody else used the server, or lines were lost")  # fmt: skip
    signs += trouble.of_machine(usage, state["system"])
    if usage["process_cores_busy"] > BUSY_AB * (args.concurrency if state["input"]["bodies"] > 1 else 1):
        signs.append(f"ab kept {usage['process_cores_busy']:.2f} cores busy: it may be ab that limits, not the server")
    for card in usage.get("gpus", []):
        if card["slowdowns"]:
            signs.append(f"GPU {card['index']} held its clock back: {', '.join(card['slowdowns'])}")
    bodies, version = state["input"]["bodies"], str(state["server"]["version"])
    repeated = state["bodies_used"] > bodies
    if repeated and not (state["server"]["name"] == "TGI" and version < "3"):
        signs.append(f"requests were repeated ({bodies} different ones): a prefix cache may have spared the server reading them "
                     "again; PROMPTS gives it more")  # fmt: skip
    return signs


def warm_up(args, url: str, log: tgi_log.Follower | None, alone: bool, folder: Path) -> None:
    """With a body of its own, so that it warms no cache for those of PROMPTS."""
    if log:
        log.mark()
    share = ab.Share(args.sweep / "body.json", args.warmup * args.concurrency, args.concurrency)
    report, interrupted = ab.measure(args.command, url, [[share]], folder, alone)
    if interrupted:
        raise KeyboardInterrupt
    wait_for_log(log, answered(report))


def build_record(args, state: dict, runs: list[ab.Report], whole: ab.Report, log: list, counted: float | None, watch) -> dict:
    """The level's record. `log`: the requests in it that the server finished; `counted`: tokens by the server's counter."""
    tokens, tokens_from = generated_tokens(whole, log, counted, state["probe"])
    metrics, samples = metrics_of(runs, whole, log, tokens, watch.usage["gpus"])
    return record.build(
        "gpu-tgi",
        args,
        headline="requests_per_second" if "requests_per_second" in metrics else "successful_requests",
        metrics=metrics,
        samples=samples,
        model=state["model"],
        source=state["input"],
        machine=state["system"],
        placement={
            "cpus": sorted(os.sched_getaffinity(0)),
            "threads_asked": None,
            "threads_asked_by": None,
            "threads_given": None,
            "precision_asked": "auto",
            "precision_used": state["model"]["weight_format"],
        },
        watch=watch,
        output={
            "text": state["probe"]["text"],
            "requests": whole.requests,
            "succeeded": whole.succeeded,
            "failures": whole.failures,
            "generated_tokens": tokens,
            "generated_tokens_from": tokens_from,
            "finished_in_server_log": len(log) if state["log_works"] else None,
            "ab_starts_alone": state["ab_starts_alone"],
            "ab_commands": whole.commands[:1],
            "reports": str(args.sweep / f"concurrency-{args.concurrency:04d}"),
        },
        server=state["server"],
        signs=signs_of(args, state, whole, metrics, log, watch.usage),
    )


def main() -> int:
    args = parse_args()
    state_path = args.sweep / "sweep.json"
    state = json.loads(state_path.read_text(encoding="utf-8"))
    url, alone = state["server"]["url"], state["ab_starts_alone"]
    folder = args.sweep / f"concurrency-{args.concurrency:04d}"
    bodies = sorted((args.sweep / "bodies").glob("*.json"))
    log = tgi_log.Follower(args.sweep / "server.log") if state["log_works"] else None
    if not wait_for_server(url):
        raise UserError(f"{server.root(url)} does not answer any more: concurrency {args.concurrency} was not run")

    if args.warmup:
        warm_up(args, url, log, alone, folder / "warmup")
    runs, finished, tokens_before = [], [], server.generated_tokens_so_far(url)
    local = state["server"]["is_local"]
    with measure.Watch() as watch, gpu.Sampler(server.gpu_indices(state["server"]) if local else []) as gpus:
        for repeat in range(args.repeats):
            plan = lanes(bodies, state["bodies_used"], args.requests, args.concurrency)
            if log:
                log.mark()
            report, interrupted = ab.measure(args.command, url, plan, folder / f"run-{repeat:02d}", alone)
            runs.append(report)
            state["bodies_used"] += args.requests
            logged = wait_for_log(log, answered(report))
            finished += logged[sum(answer.ok for answer in report.alone) :]  # the one sent alone is the first to finish
            if log:
                (folder / f"run-{repeat:02d}" / "server.log").write_text(log.text())
            if interrupted:
                raise KeyboardInterrupt
            if why_failed(report):
                break

    whole = ab.together(runs, sum(run.wall_s or 0.0 for run in runs))
    if watch.status == "complete" and (reason := why_failed(whole)):
        watch.status, watch.error = "failed", reason
    tokens_after = server.generated_tokens_so_far(url) if tokens_before is not None else None
    counted = tokens_after - tokens_before if None not in (tokens_before, tokens_after) else None
    watch.usage["gpus"] = gpus.gpus
    level = build_record(args, state, runs, whole, finished, counted, watch)
    path = record.save(level, args)
    state["levels"].append({"concurrency": args.concurrency, "record": str(path)})
    write_state(state_path, state)

    print(line(level), flush=True)
    if level["status"] == "interrupted":
        return cli.EXIT_INTERRUPTED
    if level["status"] == "failed":
        print(f"error: concurrency {args.concurrency}: {level['error']}", file=sys.stderr)
        return cli.EXIT_FAILED
    return cli.EXIT_OK if args.slo_p95 is None or meets(level, args.slo_p95) else EXIT_OVER_SLO


def write_state(path: Path, state: dict) -> None:
    files.write_whole(path, json.dumps(state, indent=1, ensure_ascii=False).encode(), overwrite=True)


def meets(level: dict, slo_p95_s: float) -> bool:
    """Whether every request was answered, and 95 % of them within `slo_p95_s`."""
    latency = level["metrics"].get("request_latency_s", {})
    whole = level["status"] == "complete" and not level["output"]["failures"]
    return whole and "p95" in latency and latency["p95"] <= slo_p95_s


def line(level: dict) -> str:
    """A level in a line, as it is finished."""
    metrics = level["metrics"]
    parts = [
        f"concurrency {level['parameters']['concurrency']}: {level['output']['succeeded']} of {level['output']['requests']} requests"
    ]
    if "requests_per_second" in metrics:
        parts.append(f"{metrics['requests_per_second']['median']:.4g} requests/s")
    if "tokens_per_second" in metrics:
        parts.append(f"{metrics['tokens_per_second']['median']:.4g} tokens/s")
    if "p95" in metrics.get("request_latency_s", {}):
        parts.append(f"p95 {metrics['request_latency_s']['p95']:.4g} s")
    if level["status"] != "complete":
        parts.append(level["status"])
    return ", ".join(parts)


if __name__ == "__main__":
    cli.run(main)
