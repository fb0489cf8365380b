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
    args: argparse.Namespace,
    folder: Path,
    described: tuple[dict, dict],
    bodies: list[dict],
    log: tgi_log.LogTail | None,
) -> level.Setup:
    """Write the bodies and send the first one. `described` is from server.describe()."""
    encoded = [json.dumps(body, ensure_ascii=False).encode() for body in bodies]
    (folder / "body.json").write_bytes(encoded[0])
    (folder / "bodies").mkdir()
    paths = [folder / "bodies" / f"{number:06d}.json" for number in range(1, len(bodies))]
    for path, content in zip(paths, encoded[1:]):
        path.write_bytes(content)

    attempts = 2 if log else 1  # the first answer may have come before the log was followed
    for _ in range(attempts):
        if log:
            log.mark()
        answer = server.probe(args.url, encoded[0], args.timeout_s)
        if log and log.wait_for(1):
            break
    else:
        log = None
    # Without the model's name, which may be a path: the record's `model` has it.
    content = [{k: v for k, v in body.items() if k != "model"} for body in bodies[1:]]
    return level.Setup(
        url=args.url,
        ab=args.command,
        body=folder / "body.json",
        bodies=paths,
        starts_alone=ab.starts_alone(["ab"]),
        log=log,
        probe=answer,
        server=described[0],
        model=described[1],
        input={
            "name": str(args.prompts or args.data),
            "sha256": hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest(),
            "bodies": len(paths),
            "prompt_tokens": answer.prompt_tokens,
        },
        system=system.describe(),
        task={
            "API": args.api,
            "max new tokens": server.max_new_tokens(bodies[1]),
            "different requests": len(paths),
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
    not_run: list[int] = field(default_factory=list)  # levels requested and not measured
    slo: dict | None = None
    interrupted: bool = False
    server_gone: bool = False

    def measure(self) -> None:
        """All levels; or with an SLO those up to the first that misses it, then bisection."""
        levels, slo_p95_s = self.args.levels, self.args.slo_p95
        try:
            if slo_p95_s is None:
                for concurrency in levels:
                    self.sustained(concurrency)
            else:
                within = capacity.search(self.sustained, levels)
                # Not even the first: those below it.
                within = within or capacity.search(self.sustained, [1, levels[0]])
        except KeyboardInterrupt:  # between two levels
            self.interrupted = True
        if self.interrupted or self.server_gone:
            self.not_run = [each for each in levels if each not in self.levels]
        if slo_p95_s is not None:
            kept = [c for c, each in self.levels.items() if level.within(each, slo_p95_s)]

    def sustained(self, concurrency: int) -> bool | None:
        """Measure a level, if not yet done; whether it is within the SLO.

        None where it can't be measured any more.
        """
