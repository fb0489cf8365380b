"""Whether records are valid as evidence: python3 -m analysis.check results/

Prints each as valid, or invalid with the reasons that its record gives; an accuracy record among
them that missed its limit makes the runs of its setting invalid.
Exit status: 0 all are valid; 1 no record; 3 one or more are invalid.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from analysis import gates
from analysis.records import expand
from analysis.text import plain
from harness import cli, record

EXIT_INVALID = 3


def reasons(found: dict, accuracy: Sequence[gates.Gate]) -> list[str]:
    """Why a record is not valid as evidence; empty where it is."""
    own = list(found["validity"]["reasons"])
    if found["status"] != "complete" and not own:
        own.append(found["status"])
    gate = gates.of_record(found) or gates.deciding(found["comparable_by"], accuracy)
    if gate and not gate.passed and str(gate) not in own:
        own.append(str(gate))
    return own


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python3 -m analysis.check", description=__doc__, formatter_class=cli.HelpFormatter
    )
    records = "records (JSON) or folders of them"
    parser.add_argument("records", type=Path, nargs="+", help=records)
    args = parser.parse_args()
    read: dict[Path, dict | str] = {}
    for path in expand(args.records):
        try:
            read[path] = record.read(path)
        except record.RecordError as error:
            read[path] = str(error).removeprefix(f"{path}: ")
    found = [each for each in read.values() if not isinstance(each, str)]
    if not found:
        raise cli.UserError(
            "no record to check: " + "; ".join(f"{p}: {w}" for p, w in read.items())
        )
    accuracy = [gate for each in found if (gate := gates.of_record(each))]
    wrong = {
        path: [each] if isinstance(each, str) else reasons(each, accuracy)
        for path, each in read.items()
    }
    for path, why in wrong.items():
        print(plain(f"{path}: invalid: {'; '.join(why)}" if why else f"{path}: valid"))
    return EXIT_INVALID if any(wrong.values()) else cli.EXIT_OK


if __name__ == "__main__":
    cli.run(main)
