"""The command line: options that every infer.py has, signals, how a command ends, tables of text.

Exit status: 0 measured; 1 could not measure (one line says why); 2 wrong usage; 130 interrupted;
143 terminated; 129 the terminal was closed.
"""

from __future__ import annotations

import argparse
import errno
import json
import math
import multiprocessing
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130
MAX_INT = 2**31 - 1
PRECISIONS = ("auto", "f32", "bf16", "f16", "int8")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
DISK_ERRORS = (*DISK_FULL, errno.EROFS, errno.EACCES, errno.ENAMETOOLONG)
NOTHING_MEASURED = "interrupted: nothing had been measured yet"

# Set by who has samples to save, if a command ends early: from the error to where they went.
rescue: Callable[[BaseException], Path | None] | None = None


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP, which end a command as Ctrl-C does."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


class UserError(Exception):
    """Something the user can put right. Its text is one line: what is wrong, and what to do."""


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults; keeps the description's line breaks."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def positive_int(text: str) -> int:
    return _whole(text, 1)


def non_negative_int(text: str) -> int:
    return _whole(text, 0)


def positive_float(text: str) -> float:
    return _number(text, lambda value: 0 < value < math.inf, "above 0")


def non_negative_float(text: str) -> float:
    return _number(text, lambda value: 0 <= value < math.inf, "from 0 on")


def share(text: str) -> float:
    return between(0, 1)(text)


def between(low: float, high: float) -> Callable[[str], float]:
    """The type of an option that takes a number from `low` to `high`."""
    return lambda text: _number(text, lambda x: low <= x <= high, f"from {low:g} to {high:g}")


def _whole(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if not least <= value <= MAX_INT:
        range_ = f"{least} to {MAX_INT:,}" if value > MAX_INT else f"{least} on"
        raise argparse.ArgumentTypeError(f"must be a whole number from {range_}, not {text!r:.40}")
    return value


def _number(text: str, is_allowed: Callable[[float], bool], which: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not is_allowed(value):
        raise argparse.ArgumentTypeError(f"must be a number {which}, not {text!r:.40}")
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
    add("--overwrite", action="store_true", help="replace output files that exist; never a record")
    add("--study", metavar="ID", help="mark the record as part of a study (run.sh --study)")


def quit_on_signals() -> None:
    """End at once on a signal: for the seconds of importing, when there is nothing to save."""
    # A process that a library starts and ends (openvino-telemetry) loads the script again.
    if multiprocessing.current_process().name != "MainProcess":
        return

    def leave(number: int, frame) -> None:
        os.write(2, f"{NOTHING_MEASURED}\n".encode())
        os._exit(128 + number)

    _set_handlers(leave)


def run(main: Callable[[], int]) -> None:
    """Call main() and exit with its status; one line on stderr for a user's mistake.

    However main() ends, what it has measured is saved.
    """
    _open_standard_streams()
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = Stream(sys.stdout), Stream(sys.stderr)
    _set_handlers(_raise)
    try:
        try:
            status = main()
            if rescue:  # it ended without a record
                rescue(KeyboardInterrupt())
        except BaseException as error:
            status = _ended(error)
        sys.stdout.flush()
        failed = sys.stdout.error
        if failed and failed.errno != errno.EPIPE:  # a reader that went away has seen enough
            print(f"error: cannot print: {failed.strerror}", file=sys.stderr)
            status = status or EXIT_FAILED
    finally:
        sys.stdout, sys.stderr = streams
    sys.exit(status)


def _set_handlers(handler: Callable) -> None:
    for number in SIGNALS:
        # A process that a shell started in the background inherits an ignored SIGINT, one started
        # by nohup an ignored SIGHUP.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


def _raise(number: int, frame) -> None:
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated(number)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let no signal cut the block short: for saving what has been measured."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def why_interrupted(error: BaseException) -> str:
    if isinstance(error, Terminated):
        return f"terminated ({error})"
    return "interrupted by the user"


def interrupt_status(error: str | None) -> int:
    """The exit status for the error of an interrupted run."""
    named = re.search(r"\((SIG\w+)\)", error or "")
    return 128 + signal.Signals[named[1]] if named else EXIT_INTERRUPTED


def _ended(error: BaseException) -> int:
    """Save what was measured before `error`, say what happened, and return the exit status."""
    saved = None
    if rescue:
        with uninterrupted():
            saved = rescue(error)
    kept = f": what was measured is in {saved}" if saved else ""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else EXIT_FAILED
    if isinstance(error, KeyboardInterrupt):
        why = why_interrupted(error)
        print(f"{why}{kept}" if saved else NOTHING_MEASURED, file=sys.stderr)
        return interrupt_status(why)
    if isinstance(error, UserError):
        print(f"error: {error}{kept}", file=sys.stderr)
    elif isinstance(error, MemoryError):
        print(f"error: out of memory{kept}", file=sys.stderr)
    elif isinstance(error, OSError) and error.errno in DISK_ERRORS:
        where = f"{error.filename}: " if error.filename else ""
        full = ": make room and run again" if error.errno in DISK_FULL else ""
        print(f"error: {where}{error.strerror}{full}{kept}", file=sys.stderr)
    else:
        traceback.print_exception(error)
        if saved:
            print(f"error: the run ended early{kept}", file=sys.stderr)
    return EXIT_FAILED


_ESCAPED = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
_ESCAPED |= {code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}
for _kept in "\n\t\r":
    del _ESCAPED[ord(_kept)]


def printable(text: str) -> str:
    """A text whose control characters and changes of direction are shown, not obeyed."""
    return text.translate(_ESCAPED)


class Stream:
    """stdout or stderr that takes any text, and that may be closed by its reader or full.

    Text is made printable(), also in an encoding that lacks some of its characters. After the first
    error in writing, kept in `error`, nothing more is written.
    """

    def __init__(self, stream):
        self._stream, self.error = stream, None
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(printable(text)))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, action: Callable) -> None:
        try:
            action()
        except OSError as error:
            self.error = error
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

    def __getattr__(self, name: str):
        return getattr(self._stream, name)


def _open_standard_streams() -> None:
    """Where one was closed, the next file opened would take its place."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


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
