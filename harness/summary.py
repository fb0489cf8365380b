"""A table of records: python3 -m harness.summary results/*.json"""

from __future__ import annotations

import sys
from pathlib import Path

from harness import cli, record, system

COLUMNS = ("workload", "model", "weights", "precision", "threads", "result", "95 % CI", "warnings")


def row(run: dict) -> tuple[str, ...]:
    headline, model, placement = run["metrics"][run["headline"]], run["model"], run["placement"]
    interval = "{:.4g}–{:.4g}".format(*headline["ci95"]) if headline["ci95"] else "too few samples"
    state = "" if run["status"] == "complete" else f"{run['status']}; "
    at_a_time = run["parameters"].get("concurrency")
    return (
        run["workload"] + (f" at {at_a_time}" if at_a_time else ""),
        Path(model["source"] or model["name"]).stem,
        model["weight_format"],
        placement["precision_used"],
        str(placement["threads_given"] or "-"),
        f"{headline['median']:.4g} {headline['unit']}",
        interval,
        f"{state}{len(run['trouble'])}" if state or run["trouble"] else "none",
    )


def main() -> int:
    paths = [Path(name) for name in sys.argv[1:]]
    if not paths:
        raise cli.UserError("name the records: python3 -m harness.summary results/*.json")
    runs = []
    for path in paths:
        try:
            runs.append((path, record.read(path)))
        except record.RecordError as error:
            print(f"skipped: {error}", file=sys.stderr)
    if not runs:
        return cli.EXIT_FAILED
    print("\n".join(cli.columns([COLUMNS, *(row(run) for _, run in runs)])))
    print()
    for machine in dict.fromkeys(system.one_line(run["system"]) for _, run in runs):
        print(f"System: {machine}")
    for path, _ in runs:
        print(f"Record: {path}")
    return cli.EXIT_OK


if __name__ == "__main__":
    cli.run(main)
