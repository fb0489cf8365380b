"""A table of records: python3 -m analysis.summary results/"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from analysis.records import expand, listed
from analysis.text import amount, interval, plain
from harness import cli, record

COLUMNS = "workload,model,weights,precision,threads,result,95 % CI,warnings,record".split(",")


def row(run: dict, path: Path) -> list[str]:
    """A record in a line; the file's name ends it, so that no two lines are alike."""
    primary, model, placement = run["metrics"].get(run["primary"]), run["model"], run["placement"]
    state = [run["status"]] if run["status"] != "complete" else []
    warnings = [str(len(run["warnings"]))] if run["warnings"] else []
    return [
        run["title"],
        Path(model["source"] or model["name"]).stem if model else "-",
        model["weight_format"] if model else "-",
        placement.get("precision_effective") or "-",
        str(placement.get("threads_effective") or "-"),
        amount(primary["median"], primary["unit"]) if primary else "-",
        interval(primary["ci95"]) if primary else "-",
        "; ".join(state + warnings) or "none",
        path.name,
    ]


def details(run: dict, path: Path) -> list[str]:
    """What the run itself printed, and its task and configuration."""
    about = [f"{name}: {listed(run[name])}" for name in ("task", "configuration") if run[name]]
    return ["", f"== {run['title']}: {path}", *about, *record.text_lines(run)]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m analysis.summary", description=__doc__)
    records = "records (JSON) or folders of them; files that are none are named and skipped"
    parser.add_argument("records", type=Path, nargs="+", help=records)
    parser.add_argument("--details", action="store_true", help="each record as its run printed it")
    args = parser.parse_args()
    runs = []
    for path in expand(args.records):
        try:
            runs.append((record.read(path), path))
        except record.RecordError as error:
            print(plain(f"skipped: {error}"), file=sys.stderr)
    if not runs:
        raise cli.UserError("no record to summarize")
    print("\n".join(cli.columns([COLUMNS, *(plain(row(*each)) for each in runs)])))
    print()
    for machine in dict.fromkeys(str(run["context"].get("machine")) for run, _ in runs):
        print(plain(f"System: {machine}"))
    for folder in dict.fromkeys(path.parent for _, path in runs):
        print(plain(f"Records: {folder}/"))
    if args.details:
        print("\n".join(plain(line) for each in runs for line in details(*each)))
    return cli.EXIT_OK


if __name__ == "__main__":
    cli.run(main)
