"""Measure an LLM server at several levels of concurrency; run_ab.sh starts this.

Looks at the server, prepares the requests, measures the levels, and writes a record of each, the
table, the plots and the sweep's own record.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import shutil
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from harness import cli

cli.quit_on_signals()  # while the libraries load

import ab
import level
import server
import tgi_log

from harness import capacity, files, plot, run, system
from harness.cli import UserError
from harness.monitor import SystemMonitor
from harness.redaction import redact

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
PANELS = {  # of the plot: axis, and columns by label
    "requests/s": {"answered": "requests_per_second"},
    "generated tokens/s": {"tokens": "tokens_per_second"},
    "latency, s": {"median": "latency_p50_s", "95 %": "latency_p95_s", "99 %": "latency_p99_s"},
}
MIN_REQUESTS = 20  # at a level without -n: as many as a 95th percentile needs


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    add = parser.add_argument
    add("--results_dir", type=Path, required=True, help="folder for the records and reports")
    # Not on the command line by run_ab.sh, where every user of the machine could read it.
    url, what = os.environ.get("URL"), "where requests are sent"
    add("--url", default=url, required=url is None, help=what)
    add("--api", choices=("tgi", "openai"), required=True, help="form of the requests")
    add("--model", help="name by which the server knows the model")
    add("--container", default="tgi", help="Docker container of the server")
    add("--log_file", type=Path, help="the server's log, instead of the container's")
    about = "the server's machine, where it is another: JSON of harness.system.describe() there"
    add("--server_system", type=Path, help=about)
    add("--data", type=Path, required=True, help="JSON file with the request")
    add("--prompts", type=Path, help="JSON Lines: requests, or prompts as strings")
    add("--levels", type=cli.positive_int, nargs="+", required=True, help="ascending")
    add("--requests", type=cli.positive_int, help="requests of an ab run")
    per_client = "the same per concurrent request, without --requests"
    add("--requests_per_client", type=cli.positive_int, default=10, help=per_client)
    add("--repeats", type=cli.positive_int, default=1, help="ab runs per level")
    add("--warmup", type=cli.non_negative_int, default=1, help="rounds of requests before a level")
    add("--slo_p95", type=cli.non_negative_float, metavar="S", help="limit of p95 latency")
    add("--timeout_s", type=cli.positive_float, default=600.0, help="of each response")
    add("command", nargs="+", help="after --: ab and the options that all runs share")
    parser.set_defaults(json=None)  # records are named by the kit
    return parser.parse_args()


def parse_request(text: str, where: str, body: dict | None = None) -> dict:
    """A request (a JSON object), or `body` with another prompt (a JSON string)."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise UserError(f"{where}: not JSON: {error}; a prompt goes in quotes") from None
    if isinstance(found, str) and found.strip() and body:
        found = server.with_prompt(body, found)
    if not isinstance(found, dict):
        raise UserError(f"{where}: neither a request (a JSON object) nor, in PROMPTS, a prompt")
    return found


def read_bodies(args: argparse.Namespace, model: str) -> tuple[dict, list[dict]]:
    """The request of DATA, and the requests to measure: of PROMPTS, or the same."""
    data = parse_request(files.read_text(args.data, "DATA"), f"{args.data} (DATA)")
    body = server.request_body(data, args.api, args.url, model)
    if not args.prompts:
        return body, [body]
    lines = files.read_text(args.prompts, "PROMPTS").splitlines()
    requests = [
        parse_request(text, f"{args.prompts}, line {number} (PROMPTS)", body)
        for number, text in enumerate(lines, 1)
        if text.strip()
    ]
    if not requests:
        raise UserError(f"{args.prompts} has no requests (PROMPTS)")
    return body, [server.request_body(each, args.api, args.url, model) for each in requests]


def follow_log(
    args: argparse.Namespace, container: dict | None, stack: ExitStack
) -> tgi_log.LogTail | None:
    """The server's log from now on, until `stack` is closed; None where it can't be read."""
    if args.api != "tgi" or not (args.log_file or container):
        return None
    command = ["docker", "logs", "--follow", "--tail", "0", args.container]
    if args.log_file:
        # It ends with this process, however that ends.
        command = ["tail", f"--pid={os.getpid()}", "-n", "0", "-F", str(args.log_file)]
    return stack.enter_context(tgi_log.follow(command, args.folder / "server.log"))


def describe_system(args: argparse.Namespace, info: dict) -> dict:
    """The record's `system`: the server's, where it is known; then `info` gets this machine's.

    Raises UserError where the file of --server_system does not describe a machine.
    """
    here = system.describe()
    if not args.server_system or info["is_local"]:
        return here
    try:
        there = json.loads(files.read_text(args.server_system, "SERVER_SYSTEM"))
        if here.keys() != there.keys():
            raise ValueError
        system.one_line(there)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise UserError(
            f"{args.server_system} (SERVER_SYSTEM) is not harness.system.describe() as JSON"
        ) from None
    info["client"] = system.one_line(here)
    return there


def prepare(args: argparse.Namespace, stack: ExitStack) -> level.Setup:
    """Look at the server, write the bodies and send one."""
    info, model = server.describe(args.url, args.api, args.model, args.container)
    body, bodies = read_bodies(args, model["name"])
    first = args.folder / "body.json"
    paths = [args.folder / "bodies" / f"{number:06d}.json" for number in range(len(bodies))]
    for path, content in zip([first, *paths], [body, *bodies]):
        path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    # Without the model's name, which may be a path: the record's `model` has it.
    contents = [{key: each[key] for key in each if key != "model"} for each in bodies]
    digest = hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()

    log = follow_log(args, info["container"], stack)
    probe = server.probe(args.url, first.read_bytes(), args.timeout_s)
    if log and not log.wait_for(1):  # that answer may have come before the log was followed
        log.mark()
        probe = server.probe(args.url, first.read_bytes(), args.timeout_s)
        log = log if log.wait_for(1) else None
    return level.Setup(
        ab=ab.Command(
            words=args.command,
            url=args.url,
            timeout_s=args.timeout_s,
            starts_alone=ab.starts_alone(["ab"]),
            model_answer=ab.Response(200, probe.headers),
        ),
        repeats=args.repeats,
        warmup=args.warmup,
        body=first,
        bodies=paths,
        log=log,
        probe=probe,
        server=info,
        model=model,
        input={
            "name": str(args.prompts or args.data),
            "sha256": digest,
            "bodies": len(bodies),
            "prompt_tokens": probe.prompt_tokens,
        },
        system=describe_system(args, info),
        task={
            "API": args.api,
            "max new tokens": server.max_new_tokens(bodies[0]),
            "keep alive": "-k" in args.command,
        },
    )


def print_header(setup: level.Setup) -> None:
    info, model, machine = setup.server, setup.model, setup.system
    where = "on this machine" if info["is_local"] else "on another machine"
    name = " ".join(filter(None, (info["name"], info["version"])))
    print(f"Server: {name}, {where}, {info['url']}")
    print(f"Model: {model['name']}: {model['weight_format']} weights")
    print(", ".join([f"System: {system.one_line(machine)}", *(c["name"] for c in machine["gpus"])]))
    if info.get("client"):
        print(f"Client: {info['client']}")
    elif not info["is_local"]:
        print("        (the machine that sends the requests; the server's own is not known)")
    if info["api"] == "tgi" and not setup.log:
        print(
            "Log: none (CONTAINER, LOG_FILE): the server's times come from its responses' headers, "
            "in whole milliseconds"
        )
    tokens = setup.probe.generated_tokens or "an unknown number of"
    print(f"Request: {len(setup.bodies)} different, the first answered with {tokens} tokens")
    print(f"Command: {' '.join(setup.ab.words)}\n", flush=True)


@dataclass
class Sweep:
    """The state of a sweep: which levels were measured, and how it ended."""

    args: argparse.Namespace
    setup: level.Setup
    levels: dict[int, dict] = field(default_factory=dict)  # records by concurrency
    paths: list[Path] = field(default_factory=list)  # of these records
    ended: str | None = None  # why nothing more can be measured
    interrupt: KeyboardInterrupt | None = None  # where that is why
    within: int = 0  # the highest level within the SLO

    def measure(self) -> None:
        """All levels; with an SLO those up to the first that misses it, then bisection."""
        self.within = capacity.search(self.sustained, self.args.levels)

    def sustained(self, concurrency: int) -> bool | None:
        """Whether a level is within the SLO, if any; None where nothing more can be measured."""
        if concurrency not in self.levels and not self.ended:
            try:
                self.measure_level(concurrency)
            except KeyboardInterrupt as error:
                ab.ignore_signals()
                self.interrupt, self.ended = error, cli.why_interrupted(error)
            except OSError as error:
                where = f"{error.filename}: " if error.filename else ""
                self.ended = f"{concurrency} could not be measured: {where}{error.strerror}"
        if self.ended:
            return None
        slo_p95_s = self.args.slo_p95
        return slo_p95_s is None or level.is_within(self.levels[concurrency], slo_p95_s)

    def measure_level(self, concurrency: int) -> None:
        args = self.args
        if not server.wait_until_healthy(args.url):
            self.ended = f"the server does not answer any more: {concurrency} was not run"
            return
        plan = level.Plan(
            concurrency=concurrency,
            requests=args.requests or max(MIN_REQUESTS, args.requests_per_client * concurrency),
            first=sum(each["output"]["requests"] for each in self.levels.values()),
            folder=args.folder / f"concurrency-{concurrency:04d}",
        )
        self.levels[concurrency], path = level.measure(self.setup, plan, args)
        self.paths.append(path)
        print(level.line(self.levels[concurrency]), flush=True)
        if self.levels[concurrency]["status"] == "interrupted":
            self.ended = self.levels[concurrency]["error"]

    def finish(self) -> int:
        """Write table, plots and the sweep's record; print them, and return the exit status."""
        if not self.levels:
            raise self.interrupt or UserError(self.ended)
        table, path = self.rows(), self.args.folder / "sweep.csv"
        print("\n".join(["", *(f"Record: {each}" for each in self.paths)]))
        try:
            with path.open("x", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, max(table, key=len).keys())
                writer.writeheader()
                writer.writerows(table)
            print(f"Table: {path}")
            if sum(row["status"] == "complete" for row in table) > 1:
                self.plot(table)
        except OSError as error:  # the record matters more
            print(f"warning: {path}: {error.strerror}: table or plots are missing", file=sys.stderr)
        print()
        return run.finish(self.build_record(table), self.args)

    def rows(self) -> list[dict]:
        """One flat row per level, ascending; what was not measured is None or missing."""
        table = []
        for concurrency, record in self.levels.items():
            metrics, output = record["metrics"], record["output"]
            row = {"concurrency": concurrency, "status": record["status"]}
            row["requests"] = output["requests"]
            row["failed_requests"] = sum(output["failures"].values())
            for name, metric, statistic, _ in COLUMNS:
                row[name] = metrics.get(metric, {}).get(statistic)
            row["generated_tokens"] = output["generated_tokens"]
            table.append({**row, "error": record["error"], "record": record["id"]})
        if self.ended:
            not_run = [number for number in self.args.levels if number not in self.levels]
            table += [{"concurrency": number, "status": "not run"} for number in not_run]
        return sorted(table, key=lambda row: row["concurrency"])

    def plot(self, table: list[dict]) -> None:
        """Throughput and latency over concurrency, and throughput over latency."""

        def points(column: str) -> list[plot.Point]:
            known = [row for row in table if row.get(column) is not None]
            return [(row["concurrency"], row[column]) for row in known]

        info, limit_s, panels = self.setup.server, self.args.slo_p95, []
        title = f"{self.setup.model['name']} on {info['name']} {info['version'] or ''}"
        for ylabel, columns in PANELS.items():
            series = {label: points(column) for label, column in columns.items() if points(column)}
            has_limit = limit_s is not None and "latency" in ylabel
            limit = (f"limit {limit_s:g} s", limit_s) if has_limit else None
            if series:
                panels.append(plot.Panel(ylabel, series, limit))
        plot.lines(self.args.folder / "sweep.png", panels, "concurrency", title)
        rates = dict(points("requests_per_second"))
        latencies = points("latency_p95_s")
        series = {f"concurrency {c}": [(round(p95_s, 3), rates[c])] for c, p95_s in latencies}
        if series:
            panel, path = plot.Panel("requests/s", series), self.args.folder / "tradeoff.png"
            plot.lines(path, [panel], "95th percentile of latency, s", title)

    def build_record(self, table: list[dict]) -> dict:
        """The sweep's record; its metrics are those of the level with the highest throughput."""
        complete = [each for each in self.levels.values() if each["status"] == "complete"]
        samples, details = {"levels": [[len(complete)]]}, table_lines(table)
        if complete:
            key = "requests_per_second"
            best = max(complete, key=lambda each: each["metrics"][key]["median"])
            samples |= best["samples"]
            concurrency = best["task"]["concurrency"]
            details = [f"(metrics of concurrency {concurrency}, the highest throughput)", *details]
        slo, p95_s = None, self.args.slo_p95
        if p95_s is not None:
            # The search leaves nothing above it that was sustained.
            ended = [row for row in table if row["status"] in ("complete", "failed")]
            over = [row["concurrency"] for row in ended if row["concurrency"] > self.within]
            slo = {"p95_s": p95_s, "concurrency": self.within or None}
            slo["first_over"] = min(over, default=None)
            details.append(slo_sentence(**slo))
            if self.within:
                samples["concurrency_within_slo"] = [[self.within]]
        monitor = SystemMonitor()
        monitor.status, monitor.error, monitor.usage = *self.outcome(table), {}
        return run.build(
            self.args,
            **level.describe(self.setup),
            workload="gpu-tgi-sweep",
            title="LLM server, sweep",
            primary=None,
            samples=samples,
            task=self.setup.task,
            work=[],
            monitor=monitor,
            output={"levels": table, "slo": slo, "folder": str(self.args.folder)},
            details=details,
            warnings=self.warnings(),
        )

    def outcome(self, table: list[dict]) -> tuple[str, str | None]:
        """Status and error."""
        interrupted = any(each["status"] == "interrupted" for each in self.levels.values())
        if self.interrupt or interrupted:
            return "interrupted", self.ended
        failed = [f"{row['concurrency']}: {row['error']}" for row in table if row.get("error")]
        failed += [self.ended] if self.ended else []
        failed += [f"{row['concurrency']}: not run" for row in table if row["status"] == "not run"]
        if not failed:
            return "complete", None
        return "failed", f"not every level could be measured: {'; '.join(failed)}"

    def warnings(self) -> list[str]:
        """Every warning once, with the levels it concerns."""
        levels: dict[str, list[str]] = {}
        for concurrency, record in sorted(self.levels.items()):
            for warning in record["warnings"]:
                levels.setdefault(warning, []).append(str(concurrency))
        return [f"{warning} [concurrency {', '.join(at)}]" for warning, at in levels.items()]


def table_lines(table: list[dict]) -> list[str]:
    headings = {"concurrency": "concurrency", "requests": "requests", "failed_requests": "failed"}
    headings |= {name: heading for name, _, _, heading in COLUMNS if heading}
    if any(row["status"] != "complete" for row in table):
        headings["status"] = "status"
    names = [name for name in headings if any(row.get(name) is not None for row in table)]
    cells = [[headings[name] for name in names]]
    for row in table:
        values = [row.get(name) for name in names]
        values = [f"{value:.4g}" if isinstance(value, float) else value for value in values]
        cells.append(["-" if value is None else str(value) for value in values])
    return ["", *cli.columns(cells, str.rjust)]


def slo_sentence(p95_s: float, concurrency: int | None, first_over: int | None) -> str:
    if concurrency is None:
        return f"No concurrency keeps the 95th percentile of latency within {p95_s:g} s"
    rest = f"({first_over} is over)" if first_over else "(the highest tried)"
    return f"Within {p95_s:g} s at the 95th percentile: concurrency {concurrency} {rest}"


def make_folder(results_dir: Path) -> Path:
    """A new folder for a sweep's reports. Raises UserError where there can be none."""
    stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    try:
        results_dir.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"gpu-tgi_{stamp}_", dir=results_dir))
        folder.chmod(0o755)
        (folder / "bodies").mkdir()
    except OSError as error:
        raise UserError(f"cannot write to {results_dir}: {error.strerror} (RESULTS_DIR)") from None
    return folder


def main() -> int:
    args = parse_args()
    if redact(args.url) != args.url:
        why = "ab's command line would show it to every user of the machine"
        print(f"error: URL={redact(args.url)} holds a secret: {why}", file=sys.stderr)
        return cli.EXIT_USAGE
    args.folder = make_folder(args.results_dir)
    run.check_destination(args)
    with ExitStack() as stack:
        try:
            setup = prepare(args, stack)
        except BaseException:
            shutil.rmtree(args.folder)
            raise
        print_header(setup)
        sweep = Sweep(args, setup)
        sweep.measure()
    with cli.uninterrupted():
        return sweep.finish()


if __name__ == "__main__":
    cli.run(main)
