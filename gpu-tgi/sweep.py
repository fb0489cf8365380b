"""The two ends of a sweep over levels of concurrency; run_ab.sh calls them around level.py.

python3 sweep.py begin   look at the server, prepare the requests, write sweep.json
python3 sweep.py end     read the levels' records: table, CSV, plots, the sweep's own record
"""

import argparse
import csv
import hashlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import ab
import level
import server
import tgi_log
from harness import cli, files, measure, record, system
from harness.cli import UserError

# Columns: name in sweep.csv, metric, statistic, heading in the printed table (None: only in the CSV).
COLUMNS = (
    ("requests_per_second", "requests_per_second", "median", "requests/s"),
    ("tokens_per_second", "tokens_per_second", "median", "tokens/s"),
    ("latency_mean_s", "request_latency_s", "mean", None),
    ("latency_p50_s", "request_latency_s", "p50", "p50 s"),
    ("latency_p90_s", "request_latency_s", "p90", None),
    ("latency_p95_s", "request_latency_s", "p95", "p95 s"),
    ("latency_p99_s", "request_latency_s", "p99", "p99 s"),
    ("server_total_time_mean_s", "server_total_time_s", "mean", "total s"),
    ("validation_time_mean_s", "validation_time_s", "mean", None),
    ("queue_time_mean_s", "queue_time_s", "mean", "queue s"),
    ("inference_time_mean_s", "inference_time_s", "mean", "inference s"),
    ("inference_time_p95_s", "inference_time_s", "p95", None),
    ("time_per_output_token_mean_s", "time_per_output_token_s", "mean", "s/token"),
    ("time_per_output_token_p95_s", "time_per_output_token_s", "p95", None),
    ("gpu_utilization", "gpu_utilization", "mean", "GPU"),
    ("gpu_memory_used_bytes", "gpu_memory_used_bytes", "max", None),
    ("gpu_power_w", "gpu_power_w", "median", "GPU W"),
    ("gpu_energy_per_token_j", "gpu_energy_per_token_j", "median", "J/token"),
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    parser.add_argument("step", choices=("begin", "end"))
    parser.add_argument("--sweep", type=Path, required=True, help="the sweep's folder")
    parser.add_argument("--results_dir", type=Path, required=True, help="folder the records are written to")
    begin = parser.add_argument_group("begin")
    begin.add_argument("--url", help="where requests are sent")
    begin.add_argument("--api", choices=("tgi", "openai"), help="form of the requests")
    begin.add_argument("--model", help="name the server knows the model by")
    begin.add_argument("--container", help="Docker container of the server")
    begin.add_argument("--data", type=Path, help="JSON file with the request")
    begin.add_argument("--prompts", type=Path, help="JSON Lines: requests, or prompts as strings")
    begin.add_argument("--log", action="store_true", help="server.log in the sweep's folder follows the server's log")
    begin.add_argument("--timeout_s", type=float, default=600.0)
    end = parser.add_argument_group("end")
    end.add_argument("--slo_p95", type=cli.non_negative_float, metavar="S", help="limit of the 95th percentile of latency")
    end.add_argument("--not_run", type=int, nargs="*", default=[], help="levels that were asked for and not run")
    end.add_argument("--interrupted", action="store_true")
    parser.set_defaults(json=None)  # records are named by the kit
    return parser.parse_args()


def read_json(path: Path) -> dict:
    try:
        found = json.loads(files.read_text(path, "DATA"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error} (DATA)") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} is not a JSON object (DATA)")
    return found


def read_prompts(path: Path, body: dict, args: argparse.Namespace) -> list[dict]:
    """Requests from JSON Lines: objects as they are, strings as prompts put into `body`."""
    requests = []
    for number, text in enumerate(files.read_text(path, "PROMPTS").splitlines(), 1):
        if not text.strip():
            continue
        try:
            found = json.loads(text)
        except ValueError:
            raise UserError(f"{path}, line {number}: not JSON; a prompt goes in quotes (PROMPTS)") from None
        if isinstance(found, str) and found.strip():
            found = server.with_prompt(body, found)
        elif not isinstance(found, dict):
            raise UserError(f"{path}, line {number}: neither a request (a JSON object) nor a prompt (a JSON string) (PROMPTS)")
        requests.append(server.request_body(found, args.api, args.url, body.get("model", "")))
    if not requests:
        raise UserError(f"{path} holds no requests (PROMPTS)")
    return requests


def look(args: argparse.Namespace, body: bytes, log: tgi_log.Follower | None) -> tuple[server.Probe, bool]:
    """One answer in full, and whether the log then tells of it."""
    if log:
        log.mark()
    answer = server.probe(args.url, body, args.timeout_s)
    return answer, bool(level.wait_for_log(log, 1))


def begin(args: argparse.Namespace) -> int:
    record.check_destination(args)
    told_server, model = server.describe(args.url, args.api, args.model, args.container)
    body = server.request_body(read_json(args.data), args.api, args.url, model["name"])
    bodies = read_prompts(args.prompts, body, args) if args.prompts else [body]
    encoded = json.dumps(body, ensure_ascii=False).encode()
    (args.sweep / "body.json").write_bytes(encoded)
    (args.sweep / "bodies").mkdir()
    for number, request in enumerate(bodies):
        (args.sweep / "bodies" / f"{number:06d}.json").write_text(json.dumps(request, ensure_ascii=False), encoding="utf-8")

    log = tgi_log.Follower(args.sweep / "server.log") if args.log else None
    answer, log_works = look(args, encoded, log)
    if log and not log_works:  # the first answer may have come before the log was followed
        answer, log_works = look(args, encoded, log)
    machine = system.describe()
    # Without the model's name, which may be a path: the record's `model` has it.
    asked = [{key: value for key, value in request.items() if key != "model"} for request in bodies]
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    state = {
        "server": told_server,
        "model": model,
        "system": machine,
        "input": {"name": str(args.prompts or args.data), "sha256": digest, "bodies": len(bodies),
                  "prompt_tokens": answer.prompt_tokens},
        "probe": vars(answer),
        "log_works": log_works,
        "ab_starts_alone": ab.starts_alone(["ab"]),
        "bodies_used": 0,
        "levels": [],
    }  # fmt: skip
    level.write_state(args.sweep / "sweep.json", state)

    where = "on this machine" if told_server["is_local"] else "on another machine"
    print(f"Server: {' '.join(filter(None, (told_server['name'], told_server['version'])))}, {where}, {args.url}")
    print(f"Model: {model['name']}: {model['weight_format']} weights")
    print(f"System: {system.one_line(machine)}" + "".join(f", {card['name']}" for card in machine["gpus"]))
    if not told_server["is_local"]:
        print("        (the machine that sends the requests; the server's own is not known)")
    if args.api == "tgi" and not log_works:
        print("Log: none (CONTAINER, LOG_FILE): the server's times come from its answers' headers, in whole milliseconds")
    print(
        f"Request: {len(bodies)} different, the first answered with {answer.generated_tokens or 'an unknown number of'} tokens",
        flush=True,
    )
    return cli.EXIT_OK


def statistic(run: dict, metric: str, name: str) -> float | None:
    return run["metrics"].get(metric, {}).get(name)


def rows(levels: list[dict], not_run: list[int]) -> list[dict]:
    """One flat row a level, ascending; what was not measured is None."""
    table = []
    for run in levels:
        table.append({
            "concurrency": run["parameters"]["concurrency"],
            "status": run["status"],
            "requests": run["output"]["requests"],
            "failed_requests": sum(run["output"]["failures"].values()),
            **{name: statistic(run, metric, which) for name, metric, which, _ in COLUMNS},
            "generated_tokens": run["output"]["generated_tokens"],
            "error": run["error"],
            "record": run["id"],
        })  # fmt: skip
    table += [{"concurrency": concurrency, "status": "not run"} for concurrency in not_run]
    return sorted(table, key=lambda row: row["concurrency"])


def print_table(table: list[dict]) -> None:
    shown = [("concurrency", "at a time"), ("requests", "requests"), ("failed_requests", "failed")]
    shown += [(name, heading) for name, _, _, heading in COLUMNS if heading and any(row.get(name) is not None for row in table)]
    if any(row["status"] != "complete" for row in table):
        shown.append(("status", "status"))
    cells = [[heading for _, heading in shown]]
    for row in table:
        values = [row.get(name) for name, _ in shown]
        cells.append(["-" if v is None else f"{v:.4g}" if isinstance(v, float) else str(v) for v in values])
    print("\n".join(cli.columns(cells, str.rjust)))


def write_csv(table: list[dict], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        names = ["concurrency", "status", "requests", "failed_requests", *(name for name, *_ in COLUMNS), "generated_tokens",
                 "error", "record"]  # fmt: skip
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(table)


def plot(table: list[dict], path: Path, title: str, slo_p95_s: float | None) -> None:
    """Throughput and latency against concurrency, and throughput against the 95th percentile of latency."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    measured = [row for row in table if row.get("requests_per_second") is not None]
    figure, ((requests, tokens), (latency, tradeoff)) = pyplot.subplots(2, 2, figsize=(11, 8), layout="constrained")
    figure.suptitle(title)

    def draw(axes, x: str, y: str, **how) -> list[dict]:
        told = [row for row in measured if row.get(x) is not None and row.get(y) is not None]
        if told:
            axes.plot([row[x] for row in told], [row[y] for row in told], **how)
        return told

    draw(requests, "concurrency", "requests_per_second", marker="o")
    requests.set(title="Throughput in requests", ylabel="answered requests per second")
    lost = [row["concurrency"] for row in table if row["status"] == "failed"]
    if lost:
        requests.plot(lost, [0] * len(lost), "x", color="black", markersize=9, clip_on=False, label="not measured: failed")
        requests.legend()
    draw(tokens, "concurrency", "tokens_per_second", marker="o")
    tokens.set(title="Throughput in tokens", ylabel="generated tokens per second")
    for name, label, marker in (("p50", "median", "o"), ("p95", "95th percentile", "s"), ("p99", "99th percentile", "^")):
        draw(latency, "concurrency", f"latency_{name}_s", marker=marker, label=label)
    latency.set(title="Latency of a request", ylabel="seconds")
    for axes in (requests, tokens, latency):
        axes.set(xlabel="requests at a time", ylim=(0, None))
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:.0f}")
    for row in draw(tradeoff, "latency_p95_s", "requests_per_second", marker="o"):
        tradeoff.annotate(str(row["concurrency"]), (row["latency_p95_s"], row["requests_per_second"]), xytext=(4, -12),
                          textcoords="offset points", fontsize=8)  # fmt: skip
    tradeoff.set(title="Throughput against latency", xlabel="95th percentile of latency, seconds   (numbers: requests at a time)",
                 ylabel="answered requests per second", xlim=(0, None), ylim=(0, None))  # fmt: skip
    tradeoff.margins(0.15)
    if slo_p95_s is not None:
        latency.axhline(slo_p95_s, color="black", linestyle=":", label=f"limit {slo_p95_s:g} s")
        tradeoff.axvline(slo_p95_s, color="black", linestyle=":")
    if latency.get_legend_handles_labels()[0]:
        latency.legend()
    for axes in (requests, tokens, latency, tradeoff):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def highest_within(levels: list[dict], slo_p95_s: float) -> dict:
    """The highest concurrency below the first that misses the limit; and that first one (None: none missed it)."""
    within, over = None, None
    for run in sorted(levels, key=lambda run: run["parameters"]["concurrency"]):
        if not level.meets(run, slo_p95_s):
            over = run["parameters"]["concurrency"]
            break
        within = run["parameters"]["concurrency"]
    return {"p95_s": slo_p95_s, "concurrency": within, "first_over": over}


def print_slo(slo: dict) -> None:
    if slo["concurrency"] is None:
        print(f"No concurrency keeps the 95th percentile within {slo['p95_s']:g} s")
    elif slo["first_over"] is None:
        print(f"Within {slo['p95_s']:g} s at the 95th percentile: {slo['concurrency']} at a time, the most that was tried")
    else:
        print(f"Within {slo['p95_s']:g} s at the 95th percentile: {slo['concurrency']} at a time ({slo['first_over']} is over)")


def print_warnings(levels: list[dict]) -> None:
    """Every warning once, with the levels it concerns."""
    concerned: dict[str, list[str]] = {}
    for run in levels:
        for sign in run["trouble"]:
            concerned.setdefault(sign, []).append(str(run["parameters"]["concurrency"]))
    for sign, at in concerned.items():
        print(f"warning: {sign}" + (f" [at {', '.join(at)}]" if len(levels) > 1 else ""))


def end(args: argparse.Namespace) -> int:
    state = json.loads((args.sweep / "sweep.json").read_text(encoding="utf-8"))
    levels = [record.read(Path(entry["record"])) for entry in state["levels"]]
    levels.sort(key=lambda run: run["parameters"]["concurrency"])
    if not levels:
        raise UserError("no level was measured: see above")
    table = rows(levels, args.not_run)
    complete = [run for run in levels if run["status"] == "complete"]
    slo = highest_within(levels, args.slo_p95) if args.slo_p95 is not None else None

    print()
    print_table(table)
    if len(levels) == 1:
        print_guide(levels[0])
    if slo:
        print_slo(slo)
    print()
    print_warnings(levels)
    write_csv(table, args.sweep / "sweep.csv")
    print(f"Table: {args.sweep / 'sweep.csv'}")
    if len(complete) > 1:
        plot(table, args.sweep / "sweep.png", f"{state['model']['name']} on {state['server']['name']} {state['server']['version'] or ''}",
             args.slo_p95)  # fmt: skip
        print(f"Plots: {args.sweep / 'sweep.png'}")

    failed = [f"{run['parameters']['concurrency']}: {run['error']}" for run in levels if run["status"] == "failed"]
    failed += [f"{concurrency}: not run" for concurrency in args.not_run]
    status = "interrupted" if args.interrupted else "failed" if failed else "complete"
    best = max(complete, key=lambda run: run["metrics"]["requests_per_second"]["median"], default=None)
    metrics = {"levels": measure.summarize([len(complete)], "levels", None)}
    for name in ("requests_per_second", "tokens_per_second"):
        if best and name in best["metrics"]:
            metrics[name] = best["metrics"][name]
    if slo and slo["concurrency"]:
        metrics["concurrency_within_slo"] = measure.summarize([slo["concurrency"]], "requests", "higher")
    whole = record.build(
        "gpu-tgi-sweep",
        args,
        headline="requests_per_second" if best else "levels",
        metrics=metrics,
        samples={},
        model=state["model"],
        source=state["input"],
        machine=state["system"],
        placement=levels[0]["placement"],
        watch=SimpleNamespace(
            status=status, error="; ".join(failed) or ("interrupted by the user" if args.interrupted else None), usage=None
        ),
        output={"levels": table, "slo": slo, "folder": str(args.sweep)},
        server=state["server"],
        signs=[],
    )
    for entry in state["levels"]:
        print(f"Record: {entry['record']}")
    print(f"Record: {record.save(whole, args)}")
    if args.interrupted:
        print("interrupted: the records hold what was measured until then", file=sys.stderr)
        return cli.EXIT_INTERRUPTED
    if failed:
        print(f"error: not every level could be measured: {'; '.join(failed)}", file=sys.stderr)
    return cli.EXIT_FAILED if failed else cli.EXIT_OK


def print_guide(run: dict) -> None:
    """The figures of a single level, in the words of the original guide."""
    words = (("Requests per second", "requests_per_second"), ("Latency", "request_latency_s"), ("Total time", "server_total_time_s"),
             ("Validation time", "validation_time_s"), ("Queue time", "queue_time_s"), ("Inference time", "inference_time_s"),
             ("Time per token", "time_per_output_token_s"), ("Throughput", "tokens_per_second"))  # fmt: skip
    print()
    for word, name in words:
        if name in run["metrics"]:
            print(f"{word}: {measure.describe(run['metrics'][name])}")


if __name__ == "__main__":
    args = parse_args()
    cli.run(lambda: begin(args) if args.step == "begin" else end(args))
