"""The accuracy gate: how much quality a setting may lose before its speed no longer counts.

As in MLPerf Inference, at least 99 % of the quality at full precision has to be kept, unless told
otherwise. What passed and what missed is output.gate of the record; analysis does the rest.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from harness import checks, cli, record
from harness.cli import UserError
from harness.metrics import METRICS

MAX_LOSS = 0.01


def add_arguments(parser: argparse.ArgumentParser, metric: str) -> None:
    """`metric` : the one that gates, by name."""
    about = f"speeds of a setting that misses it count for nothing; its metric is {metric}"
    add = parser.add_argument_group("accuracy gate", about).add_argument
    loss = "share of the quality that may be lost"
    add("--max_loss", type=cli.share, default=MAX_LOSS, help=loss)
    full = "accuracy record of the model at full precision, on the same input: what is kept of it"
    add("--gate_record", type=Path, metavar="RECORD", help=full)
    add("--gate_limit", type=cli.non_negative_float, metavar="X", help="limit, instead of these")


def limit(args: argparse.Namespace, metric: str, input_sha256: str | None) -> float | None:
    """The limit of `metric`, of which better is METRICS'; None where none was given.

    Raises UserError where --gate_record is not a record of the same metric and input.
    """
    if args.gate_limit is not None or not args.gate_record:
        return args.gate_limit
    full = record.read(args.gate_record)
    if metric not in full["metrics"] or full["input"]["sha256"] != input_sha256:
        what = f"{metric} of this input"
        raise UserError(f"{args.gate_record} does not hold the {what} (--gate_record)")
    return allowed(full["metrics"][metric]["median"], metric, args.max_loss)


def allowed(full: float, metric: str, max_loss: float) -> float:
    """What is left of the quality `full` with `max_loss` of it lost: of an error rate, the share
    that is right counts."""
    known = METRICS[metric]
    if known.better == "higher":
        return full * (1 - max_loss)
    if record.is_share(known.unit):
        return 1 - (1 - full) * (1 - max_loss)
    return full * (1 + max_loss)


def output(limit: float | None, metric: str, value: float | None) -> dict:
    """The entry `gate` of a record's output; {} without a limit, or a value of the whole task."""
    if limit is None or value is None:
        return {}
    return {"gate": checks.gate(metric, METRICS[metric].better, value, limit)}
