"""Compare records, with costs: python3 -m analysis.compare results/edge results/cloud

A side is a folder of records where they come from several folders, else a machine. Runs are
compared only where they did the same work with what must be equal for a fair ratio (model,
precision, device ...); otherwise it says what differs instead of giving a ratio. A verdict takes 4
valid runs per side.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from analysis import assumptions, comparison, cost, report
from analysis.comparison import Comparison
from analysis.records import Run, expand, read_runs
from analysis.report import Report, Side
from analysis.text import plain
from harness import cli, files
from harness.cli import UserError

FORMS = ("html", "pdf", "markdown", "csv", "json")
STDOUT = Path("-")
MAX_BASELINES = 12  # sides of which each can be chosen as the baseline of a page


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python3 -m analysis.compare", description=__doc__, formatter_class=cli.HelpFormatter
    )
    add = parser.add_argument
    records = "records (JSON) or folders of them; files that are none are named and skipped"
    add("records", type=Path, nargs="+", help=records)
    baseline = "folder or machine that the others are compared with (default: the first)"
    add("--baseline", metavar="SIDE", help=baseline)
    allowed = "let runs that are not valid as evidence carry verdicts, which are marked"
    add("--allow_invalid", action="store_true", help=allowed)
    pooled = "take a folder's runs for one side even where they are of several machines"
    add("--pool", action="store_true", help=pooled)
    named = "name a folder's side (default: as the folder); folders of one name are one side"
    add("--side", type=cost.assignment, metavar="FOLDER=NAME", **cost.MANY, help=named)
    limit = "where several levels of a load were measured, consider only those at which the 95th "
    limit += "percentile of METRIC is at most VALUE; may be given several times"
    add("--limit", type=cost.positive_number, metavar="METRIC=VALUE", **cost.MANY, help=limit)
    output = parser.add_argument_group("output", "without any of these a text for the terminal")
    for name in FORMS[:2]:
        output.add_argument(f"--{name}", type=Path, metavar="FILE", help="write it to FILE")
    printed = "write it to FILE, or print it"
    for name in FORMS[2:]:
        output.add_argument(
            f"--{name}", type=Path, nargs="?", const=STDOUT, metavar="FILE", help=printed
        )
    replaced = "replace files that exist and are no reports of this command; never a record"
    output.add_argument("--overwrite", action="store_true", help=replaced)
    cost.add_demand_arguments(parser)
    cost.add_arguments(parser)
    args = parser.parse_args()
    cost.check_arguments(parser, args)
    return args


def build(args: argparse.Namespace) -> Report:
    """The whole comparison: what every form of the report is made from."""
    runs, skipped = read_runs(args.records, args.pool, dict(args.side))
    for line in skipped:
        print(f"skipped: {line}", file=sys.stderr)
    if not runs:
        raise UserError("no record to compare: name files or folders that a measurement wrote")
    baseline = comparison.pick_baseline(runs, plain(args.baseline))
    counts = Counter(run.side for run in runs)
    first = {run.side: run for run in reversed(runs)}
    systems = cost.systems_of(cost.machines_of(runs, args.capacity), args)
    given = assumptions.from_args(args)
    comparisons = comparison.compare(runs, baseline, args.allow_invalid, dict(args.limit))
    return Report(
        made_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        baseline=baseline,
        sides={
            side: Side(str(first[side].context.get("machine")), counts[side], systems[side])
            for side in sorted(counts, key=lambda side: (side != baseline, side))
        },
        comparisons=comparisons,
        demand=cost.price_streams(args, runs, systems, given) if args.demand else None,
        leading=list(dict.fromkeys(c.label for c in comparisons if c.leads)),
        costs=cost.price_comparisons(comparisons, systems, args.unit, given, args.share),
        assumptions=given,
        runs=runs,
        skipped=skipped,
        command=command(sys.argv[1:]),
        others=_others(runs, {baseline: comparisons}, args) if args.html or args.pdf else {},
    )


def _others(
    runs: list[Run], known: Mapping[str, list[Comparison]], args: argparse.Namespace
) -> dict[str, list[Comparison]]:
    """By baseline, all comparisons, of which some are `known`: a page lets its reader choose."""
    sides = list(dict.fromkeys(run.side for run in runs))
    if not 2 < len(sides) <= MAX_BASELINES:
        return {}
    limits = dict(args.limit)
    return {
        side: known.get(side) or comparison.compare(runs, side, args.allow_invalid, limits)
        for side in sides
    }


def command(words: Sequence[str]) -> list[str]:
    """What the page shows, to be run again: the command without its outputs."""
    kept, options = ["python3", "-m", "analysis.compare"], [f"--{name}" for name in FORMS]
    remaining = iter(words)
    for word in remaining:
        if word in options:
            next(remaining, None)
        elif word != "--overwrite" and word.partition("=")[0] not in options:
            kept.append(plain(word))
    return kept


def check_outputs(args: argparse.Namespace) -> None:
    """Raise UserError, before anything is compared, where an output can't be written, or would
    replace a record, another output or, without --overwrite, a file that is no report."""
    outputs = {name: path for name in FORMS if (path := getattr(args, name)) not in (None, STDOUT)}
    records = {os.path.realpath(path) for path in expand(args.records if outputs else [])}
    taken: set[str] = set()
    for name, path in outputs.items():
        option, target = f"--{name}", os.path.realpath(path)
        ends = _ends(path)
        if target in records or b'"schema_version"' in ends:
            raise UserError(f"{option} {path} is a record: name the records before {option}")
        if target in taken:
            raise UserError(f"{option} {path}: another output goes there")
        taken.add(target)
        if path.exists() and not (path.is_file() or path.is_dir()):
            continue  # a pipe or device, which loses nothing
        is_report = report.MARK.encode() in ends or ends.startswith(report.CSV_HEADER.encode())
        files.check_new(path, option, overwrite=args.overwrite or is_report)


def _ends(path: Path) -> bytes:
    """A regular file's first and last bytes; nothing of what is none."""
    try:
        if not path.is_file():
            return b""
        with path.open("rb") as file:
            first = file.read(4096)
            file.seek(max(len(first), path.stat().st_size - 4096))
            return first + file.read()
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None


def main() -> int:
    args = parse_args()
    check_outputs(args)
    made = build(args)
    forms: dict[str, Callable[..., str | bytes]] = {}
    forms |= {"markdown": report.markdown, "csv": report.csv, "json": report.json}
    if args.html or args.pdf:
        from analysis import pages  # takes a second to load

        forms |= {"html": pages.html, "pdf": pages.pdf}
    chosen = [name for name in forms if getattr(args, name)]
    for name in chosen:
        path = getattr(args, name)
        content = forms[name](made, *([path.parent] if name in FORMS[:2] else []))
        if path == STDOUT:
            print(content, end="")
        else:
            save(path, content if isinstance(content, bytes) else content.encode())
    if not chosen:
        print(report.text(made), end="")
    return cli.EXIT_OK


def save(path: Path, content: bytes) -> None:
    """All of it, or nothing, and one line where it can't be written."""
    try:
        files.write_whole(path, content, overwrite=True)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
    print(f"Written: {path}", file=sys.stderr)


if __name__ == "__main__":
    cli.run(main)
