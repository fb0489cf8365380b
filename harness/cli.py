"""The command line: the options that every infer.py has, how a command ends, tables of text.

Exit status: 0 measured; 1 could not measure (one line says why); 2 wrong usage; 130 interrupted.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130
PRECISIONS = ("auto", "f32", "bf16", "f16", "int8")


class UserError(Exception):
    """Something the user can put right. Its text is one line: what is wrong, and what to do."""


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults; keeps the description's line breaks."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {value}")
    return value


def non_negative_int(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more, not {value}")
    return value


def positive_float(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
    return value


def non_negative_float(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be 0 or more, not {text}")
    return value


def share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be between 0 and 1, not {text}")
    return value


def json_object(text: str) -> dict:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f'not JSON ({error}); e.g. \'{{"NUM_STREAMS": "1"}}\''
        ) from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError('must be a JSON object, e.g. \'{"NUM_STREAMS": "1"}\'')
    return value


def add_common_arguments(
    parser: argparse.ArgumentParser, *, iteration: str | None, num_iters: int = 1
) -> None:
    """Options with the same name and meaning in every workload.

    `iteration` says what one iteration is; None where there are none.
    """
    add = parser.add_argument_group("measuring").add_argument
    add("--device", default="CPU", help="OpenVINO device")
    if iteration:
        number = f"measured iterations; one is {iteration}"
        add("--num_iters", type=positive_int, default=num_iters, help=number)
        longer = "continue past --num_iters until S seconds have been measured"
        add("--min_duration", type=non_negative_float, default=0.0, metavar="S", help=longer)
        add("--warmup", type=non_negative_int, default=1, help="iterations before those measured")
    threads = "inference threads (default: OMP_NUM_THREADS, else OpenVINO's choice)"
    add("--threads", type=positive_int, help=threads)
    precision = "of the computation; auto: OpenVINO chooses, int8: needs a model exported so"
    add("--precision", choices=PRECISIONS, default="auto", help=precision)
    more = "more OpenVINO properties, as a JSON object"
    add("--ov_config", type=json_object, default={}, metavar="JSON", help=more)
    results = Path(__file__).resolve().parent.parent / "results"
    add("--results_dir", type=Path, default=results, help="folder for the record")
    add("--json", type=Path, metavar="PATH", help="write the record to this file instead")
    add("--study", metavar="ID", help="mark the record as part of a study (run.sh --study)")


def run(main: Callable[[], int]) -> None:
    """Call main() and exit with its status; one line on stderr for a user's mistake."""
    # A process that a shell started in the background inherits an ignored SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        status = main()
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = EXIT_FAILED
    except KeyboardInterrupt:
        print("interrupted: nothing had been measured yet", file=sys.stderr)
        status = EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output went away, e.g. `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = EXIT_FAILED
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f" ({error.filename})" if error.filename else ""
        print(f"error: the disk is full{where}: make room and run again", file=sys.stderr)
        status = EXIT_FAILED
    sys.exit(status)


def without_secrets(text: str) -> str:
    """A text with the user names and passwords of the addresses in it left out."""
    return re.sub(r"([a-z0-9]+://)[^/@\s]+@", r"\1***@", text)


def columns(
    rows: Sequence[Sequence[str]], align: Callable[[str, int], str] = str.ljust
) -> list[str]:
    """The lines of a table, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(map(align, row, widths)).rstrip() for row in rows]


def one_line(error: BaseException) -> str:
    """An exception's last line, to be put inside a UserError."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
