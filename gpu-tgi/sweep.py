"""Measure an LLM server at several levels of concurrency; run_ab.sh starts this.

Looks at the server, prepares the requests, measures the levels, and writes a record of each, the
table, the plots and the sweep's own record.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import ab
import level
import server
import tgi_log

from harness import capacity, cli, files, plot, record, run, system
from harness.cli import UserError
from harness.monitor import SystemMonitor

# Columns: name in sweep.csv, metric, statistic, heading in the printed table (None: only in CSV).
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
    ("server_inference_time_mean_s", "server_inference_time_s", "mean", "inference s"),
    ("server_inference_time_p95_s", "server_inference_time_s", "p95", None),
    ("server_time_per_token_mean_s", "server_time_per_token_s", "mean", "s/token"),
    ("server_time_per_token_p95_s", "server_time_per_token_s", "p95", None),
    ("gpu_utilization", "gpu_utilization", "mean", "GPU"),
    ("gpu_memory_used_bytes", "gpu_memory_used_bytes", "max", None),
    ("gpu_power_w", "gpu_power_w", "median", "GPU W"),
    ("gpu_energy_per_token_j", "gpu_energy_per_token_j", "median", "J/token"),
)
MIN_REQUESTS = 20  # at a level without -n: as many as a 95th percentile needs


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    add = parser.add_argument
    add("--results_dir", type=Path, required=True, help="folder for records and reports")
    add("--url", required=True, help="where requests are sent")
    add("--api", choices=("tgi", "openai"), required=True, help="form of the requests")
    add("--model", help="name by which the server knows the model")
    add("--container", default="tgi", help="Docker container of the server")
    add("--log_file", type=Path, help="the server's log, instead of the container's")
    add("--data", type=Path, required=True, help="JSON file with the request")
    add("--prompts", type=Path, help="JSON Lines: requests, or prompts as strings")
    add("--levels", type=cli.positive_int, nargs="+", required=True, help="ascending")
    add("--requests", type=cli.positive_int, help="requests of an ab run")
    per_client = "the same per concurrent request, without --requests"
    add("--requests_per_client", type=cli.positive_int, default=10, help=per_client)
    add("--repeats", type=cli.positive_int, default=1, help="ab runs per level")
    add("--warmup", type=cli.non_negative_int, default=1, help="rounds of requests before a level")
    add("--slo_p95", type=cli.non_negative_float, metavar="S", help="limit of p95 latency")
    add("--timeout_s", type=cli.positive_float, default=600.0, help="of the first request")
    add("command", nargs="+", help="after --: ab and the options that all runs share")
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
        where = f"{path}, line {number}"
        try:
            found = json.loads(text)
        except ValueError:
            raise UserError(f"{where}: not JSON; a prompt goes in quotes (PROMPTS)") from None
        if isinstance(found, str) and found.strip():
            found = server.with_prompt(body, found)
        elif not isinstance(found, dict):
            raise UserError(f"{where}: neither a JSON object nor a prompt in quotes (PROMPTS)")
        requests.append(server.request_body(found, args.api, args.url, body.get("model", "")))
    if not requests:
        raise UserError(f"{path} has no requests (PROMPTS)")
    return requests


def make_folder(results_dir: Path) -> Path:
    stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    try:
        results_dir.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"gpu-tgi_{stamp}_", dir=results_dir))
    except OSError as error:
        reason = f"cannot write to {results_dir}: {error.strerror}"
        raise UserError(f"{reason} (RESULTS_DIR)") from None
    folder.chmod(0o755)
    return folder


def log_command(args: argparse.Namespace, container: dict | None) -> list[str] | None:
    """Prints what the server logs from now on; None where that can't be read."""
    if args.api != "tgi":
        return None
    if args.log_file:
        return ["tail", "-n", "0", "-F", str(args.log_file)]
    return container and ["docker", "logs", "--follow", "--tail", "0", args.container]


def prepare(
    args: argparse.Namespace, folder: Path, log: tgi_log.LogTail | None, info: dict, model: dict
) -> level.Setup:
    """Write the bodies to `folder` and send one. `info` and `model` are from server.describe()."""
    body = server.request_body(read_json(args.data), args.api, args.url, model["name"])
    bodies = read_prompts(args.prompts, body, args) if args.prompts else [body]
    first = folder / "body.json"
    paths = [folder / "bodies" / f"{number:06d}.json" for number in range(len(bodies))]
    paths[0].parent.mkdir()
    for path, content in zip([first, *paths], [body, *bodies]):
        path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")

    answer, log_works = look(args, first, log)
    if log and not log_works:  # the first answer may have come before the log was followed
        answer, log_works = look(args, first, log)
    # Without the model's name, which may be a path: the record's `model` has it.
    contents = [{key: each[key] for key in each if key != "model"} for each in bodies]
    return level.Setup(
        url=args.url,
        ab=args.command,
        body=first,
        bodies=paths,
        starts_alone=ab.starts_alone(["ab"]),
        log=log if log_works else None,
        probe=answer,
        server=info,
        model=model,
        input={
            "name": str(args.prompts or args.data),
            "sha256": hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest(),
            "bodies": len(bodies),
            "prompt_tokens": answer.prompt_tokens,
        },
        system=system.describe(),
        task={
            "API": args.api,
            "max new tokens": server.max_new_tokens(bodies[0]),
            "keep alive": "-k" in args.command,
        },
    )


def look(
    args: argparse.Namespace, body: Path, log: tgi_log.LogTail | None
) -> tuple[server.Probe, bool]:
    """One answer in full, and whether the log then shows it."""
    if log:
        log.mark()
    answer = server.probe(args.url, body.read_bytes(), args.timeout_s)
    return answer, bool(log and log.wait_for(1))


def print_header(setup: level.Setup) -> None:
    info, model, machine = setup.server, setup.model, setup.system
    where = "on this machine" if info["is_local"] else "on another machine"
    name = " ".join(filter(None, (info["name"], info["version"])))
    print(f"Server: {name}, {where}, {info['url']}")
    print(f"Model: {model['name']}: {model['weight_format']} weights")
    print(", ".join([f"System: {system.one_line(machine)}", *(c["name"] for c in machine["gpus"])]))
    if not info["is_local"]:
        print("        (the machine that sends the requests; the server's own is not known)")
    if info["api"] == "tgi" and not setup.log:
        print(
            "Log: none (CONTAINER, LOG_FILE): the server's times come from its responses' headers, "
            "in whole milliseconds"
        )
    tokens = setup.probe.generated_tokens or "an unknown number of"
    print(f"Request: {len(setup.bodies)} different, the first answered with {tokens} tokens")
    print(f"Command: {' '.join(setup.ab)}\n", flush=True)


@dataclass
class Sweep:
    """The state of a sweep: which levels were measured, and how it ended."""

    args: argparse.Namespace
    folder: Path
    setup: level.Setup
    levels: dict[int, dict] = field(default_factory=dict)  # records by concurrency
    paths: list[Path] = field(default_factory=list)  # of these records
    ended: str | None = None  # why nothing more can be measured
    within: int = 0  # the highest level within the SLO

    def measure(self) -> None:
        """All levels; with an SLO those up to the first that misses it, then bisection."""
        levels = self.args.levels
        self.within = capacity.search(self.sustained, levels)
        if not self.within:  # below the first
            self.within = capacity.search(self.sustained, [1, levels[0]])

    def sustained(self, concurrency: int) -> bool | None:
        """Whether a level is within the SLO, if any; None where it can't be measured any more."""
        if concurrency not in self.levels and not self.ended:
            try:
                self.measure_level(concurrency)
            except KeyboardInterrupt:
                self.ended = level.INTERRUPTED
        if self.ended:
            return None
        slo_p95_s = self.args.slo_p95
        return slo_p95_s is None or level.is_within(self.levels[concurrency], slo_p95_s)

    def measure_level(self, concurrency: int) -> None:
        args = self.args
        if not server.wait_until_healthy(args.url):
            self.ended = f"the server does not answer any more: {concurrency} was not run"
            return
        requests = args.requests or max(MIN_REQUESTS, args.requests_per_client * concurrency)
        plan = level.Plan(
            concurrency=concurrency,
            requests=requests,
            repeats=args.repeats,
            warmup=args.warmup,
            first=sum(each["output"]["requests"] for each in self.levels.values()),
            folder=self.folder / f"concurrency-{concurrency:04d}",
        )
        measured = level.build_record(self.setup, args, level.measure(self.setup, plan))
        self.paths.append(run.save(measured, args))
        self.levels[concurrency] = measured
        print(level.line(measured), flush=True)
        if measured["status"] == "failed":
            print(f"error: concurrency {concurrency}: {measured['error']}", file=sys.stderr)
        if measured["status"] == "interrupted":
            self.ended = level.INTERRUPTED

    def finish(self) -> int:
        """Write table, plots and the sweep's record; print them, and return the exit status."""
        if not self.levels:
            if self.ended == level.INTERRUPTED:
                raise KeyboardInterrupt
            raise UserError(self.ended or "no level was measured")
        table = self.rows()
        print()
        for path in self.paths:
            print(f"Record: {path}")
        write_csv(table, self.folder / "sweep.csv")
        print(f"Table: {self.folder / 'sweep.csv'}")
        if sum(row["status"] == "complete" for row in table) > 1:
            self.plot(table)
        print()
        return run.finish(self.build_record(table), self.args)

    def rows(self) -> list[dict]:
        """One flat row per level, ascending; what was not measured is None or missing."""
        table = []
        for concurrency, each in self.levels.items():
            metrics, output = each["metrics"], each["output"]
            table.append(
                {
                    "concurrency": concurrency,
                    "status": each["status"],
                    "requests": output["requests"],
                    "failed_requests": sum(output["failures"].values()),
                    **{name: metrics.get(of, {}).get(which) for name, of, which, _ in COLUMNS},
                    "generated_tokens": output["generated_tokens"],
                    "error": each["error"],
                    "record": each["id"],
                }
            )
        if self.ended:
            not_run = [number for number in self.args.levels if number not in self.levels]
            table += [{"concurrency": number, "status": "not run"} for number in not_run]
        return sorted(table, key=lambda row: row["concurrency"])

    def slo(self) -> dict | None:
        """The limit, the highest concurrency within it, and the lowest one over it."""
        p95_s = self.args.slo_p95
        if p95_s is None:
            return None
        over = [
            concurrency
            for concurrency, each in self.levels.items()
            if concurrency > self.within
            and each["status"] != "interrupted"
            and not level.is_within(each, p95_s)
        ]
        first_over = min(over, default=None)
        return {"p95_s": p95_s, "concurrency": self.within or None, "first_over": first_over}

    def plot(self, table: list[dict]) -> None:
        """Throughput and latency over concurrency, and throughput over latency."""

        def points(column: str) -> list[plot.Point]:
            known = [row for row in table if row.get(column) is not None]
            return [(row["concurrency"], row[column]) for row in known]

        info, limit_s = self.setup.server, self.args.slo_p95
        title = f"{self.setup.model['name']} on {info['name']} {info['version'] or ''}"
        lost = [(row["concurrency"], 0.0) for row in table if row["status"] == "failed"]
        requests = {"answered": points("requests_per_second"), "not measured: failed": lost}
        percentiles = {"median": "p50", "95th percentile": "p95", "99th percentile": "p99"}
        latencies = {label: points(f"latency_{p}_s") for label, p in percentiles.items()}
        panels = [
            plot.Panel("requests/s", _known(requests)),
            plot.Panel("generated tokens/s", _known({"tokens": points("tokens_per_second")})),
            plot.Panel(
                "latency, s",
                _known(latencies),
                limit=(f"limit {limit_s:g} s", limit_s) if limit_s is not None else None,
            ),
        ]
        panels = [panel for panel in panels if panel.series]
        plot.lines(self.folder / "sweep.png", panels, "concurrency", title)
        rates = dict(points("requests_per_second"))
        tradeoff = {
            f"concurrency {concurrency}": [(round(p95_s, 3), rates[concurrency])]
            for concurrency, p95_s in points("latency_p95_s")
        }
        if tradeoff:
            panel = plot.Panel("requests/s", tradeoff)
            path = self.folder / "throughput-latency.png"
            plot.lines(path, [panel], "95th percentile of latency, s", title)

    def build_record(self, table: list[dict]) -> dict:
        """The sweep's record: its metrics are those of the level with the highest throughput."""
        complete = [each for each in self.levels.values() if each["status"] == "complete"]
        rate = "requests_per_second"
        best = max(complete, key=lambda each: each["metrics"][rate]["median"], default=None)
        samples = {"levels": [[len(complete)]]}
        for name in (rate, "tokens_per_second"):
            if best and name in best["samples"]:
                samples[name] = best["samples"][name]
        if self.args.slo_p95 is not None and self.within:
            samples["concurrency_within_slo"] = [[self.within]]
        details = table_lines(table)
        if len(self.levels) == 1:  # besides the table, what its record says
            only = next(iter(self.levels.values()))
            others = {name: each for name, each in only["metrics"].items() if name not in samples}
            details += record.text_lines({**only, "metrics": others, "warnings": []})
        slo = self.slo()
        if slo:
            details.append(slo_sentence(slo))
        failed = [f"{row['concurrency']}: {row['error']}" for row in table if row.get("error")]
        failed += [f"{row['concurrency']}: not run" for row in table if row["status"] == "not run"]
        monitor = SystemMonitor()
        monitor.status, monitor.error, monitor.usage = "complete", None, {}
        if self.ended == level.INTERRUPTED:
            monitor.status, monitor.error = "interrupted", self.ended
        elif failed or self.ended:
            reasons = "; ".join(filter(None, [*failed, self.ended]))
            monitor.status = "failed"
            monitor.error = f"not every level could be measured: {reasons}"
        return level.build(
            self.setup,
            self.args,
            workload="gpu-tgi-sweep",
            title="LLM server, sweep",
            primary=None,
            samples=samples,
            task=self.setup.task,
            work=[],
            monitor=monitor,
            output={"levels": table, "slo": slo, "folder": str(self.folder)},
            details=details,
            warnings=self.warnings(),
        )

    def warnings(self) -> list[str]:
        """Every warning once, with the levels it concerns."""
        levels: dict[str, list[str]] = {}
        for concurrency, each in sorted(self.levels.items()):
            for warning in each["warnings"]:
                levels.setdefault(warning, []).append(str(concurrency))
        return [f"{warning} [concurrency {', '.join(at)}]" for warning, at in levels.items()]


def table_lines(table: list[dict]) -> list[str]:
    columns = [("concurrency", "concurrency"), ("requests", "requests")]
    columns.append(("failed_requests", "failed"))
    for name, _, _, heading in COLUMNS:
        if heading and any(row.get(name) is not None for row in table):
            columns.append((name, heading))
    if any(row["status"] != "complete" for row in table):
        columns.append(("status", "status"))
    cells = [[heading for _, heading in columns]]
    for row in table:
        values = [row.get(name) for name, _ in columns]
        cells.append(
            ["-" if v is None else f"{v:.4g}" if isinstance(v, float) else str(v) for v in values]
        )
    return ["", *cli.columns(cells, str.rjust)]


def write_csv(table: list[dict], path: Path) -> None:
    names = next(list(row) for row in table if "requests" in row)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(table)


def slo_sentence(slo: dict) -> str:
    if slo["concurrency"] is None:
        return f"No concurrency keeps the 95th percentile of latency within {slo['p95_s']:g} s"
    limit = f"Within {slo['p95_s']:g} s at the 95th percentile: concurrency {slo['concurrency']}"
    if slo["first_over"] is None:
        return f"{limit}, the highest tried"
    return f"{limit} ({slo['first_over']} is over)"


def _known(series: dict[str, list[plot.Point]]) -> dict[str, list[plot.Point]]:
    return {label: points for label, points in series.items() if points}


def main() -> int:
    args = parse_args()
    info, model = server.describe(args.url, args.api, args.model, args.container)
    folder = make_folder(args.results_dir)
    with tgi_log.follow(log_command(args, info["container"]), folder / "server.log") as log:
        try:
            setup = prepare(args, folder, log, info, model)
        except BaseException:
            shutil.rmtree(folder)
            raise
        print_header(setup)
        sweep = Sweep(args, folder, setup)
        sweep.measure()
    return sweep.finish()


if __name__ == "__main__":
    cli.run(main)
