"""Read what Text Generation Inference (TGI) logs about every finished request, as text or JSON.

The line of a finished request has the message "Success", comes from the router, and carries its
durations in the span it was logged in. Same in 1.1.0 and 3.3.x. Text may be coloured.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

WAIT_S = 3.0  # for the last lines of the server's log

TARGET = "text_generation_router"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
METRICS = {  # by the log's field
    "total_time": "server_total_time_s",
    "validation_time": "validation_time_s",
    "queue_time": "queue_time_s",
    "inference_time": "server_inference_time_s",
    "time_per_token": "server_time_per_token_s",
}
FIELD = re.compile(rf'\b({"|".join(METRICS)})="([^"]*)"')
DURATION = re.compile(r"(\d{1,12}(?:\.\d{1,12})?)(ns|[µμu]s|ms|s)")
UNIT_S = {"ns": 1e-9, "µs": 1e-6, "μs": 1e-6, "us": 1e-6, "ms": 1e-3, "s": 1.0}


@dataclass(frozen=True)
class Finished:
    """One request that the server finished, as the server timed it; named as the metrics."""

    server_total_time_s: float
    validation_time_s: float
    queue_time_s: float
    server_inference_time_s: float
    server_time_per_token_s: float

    @property
    def generated_tokens(self) -> int:
        """Inference time over time per token, which is logged rounded down to the nanosecond."""
        return round(self.server_inference_time_s / self.server_time_per_token_s)


def seconds(duration: str) -> float:
    """A duration as Rust's Debug prints it ("1.27s", "54.2µs", "980ns"). Raises ValueError."""
    found = DURATION.fullmatch(duration)
    if not found:
        raise ValueError(f"not a duration: {duration!r}")
    return float(found[1]) * UNIT_S[found[2]]


def finished_request(line: str) -> Finished | None:
    """The finished request of a log line; None for every other line, also a damaged one."""
    line = COLOUR.sub("", line).strip()
    try:
        found = _json_fields(line) if line.startswith("{") else _text_fields(line)
        request = Finished(**{METRICS[field]: seconds(found[field]) for field in METRICS})
    except (LookupError, ValueError, TypeError, AttributeError, RecursionError):
        return None
    return request if request.server_time_per_token_s > 0 else None


def finished_requests(text: str) -> list[Finished]:
    return [request for request in map(finished_request, text.splitlines()) if request]


def _text_fields(line: str) -> dict[str, str]:
    if f" {TARGET}" not in line or not line.endswith(": Success"):
        return {}
    return dict(FIELD.findall(line))  # spans are nested: the innermost comes last


def _json_fields(line: str) -> dict[str, str]:
    entry = json.loads(line)
    message = entry.get("message") or entry.get("fields", {}).get("message")
    if message != "Success" or not str(entry.get("target")).startswith(TARGET):
        return {}
    spans = [*entry.get("spans", []), entry.get("span", {})]
    return {name: value for span in spans for name, value in span.items() if name in METRICS}


class LogTail:
    """The part of a growing log file that was written since `mark()`."""

    def __init__(self, path: Path):
        self._path, self._start = path, 0

    def mark(self) -> None:
        self._start = self._path.stat().st_size

    def text(self) -> str:
        """What was written since the mark, up to the last whole line."""
        with self._path.open("rb") as file:
            file.seek(self._start)
            return file.read().rpartition(b"\n")[0].decode(errors="replace")

    def wait_for(self, lines: int) -> list[Finished]:
        """The finished requests since the mark: once there are `lines`, or after WAIT_S."""
        deadline = time.monotonic() + WAIT_S
        while True:
            found = finished_requests(self.text())
            if len(found) >= lines or time.monotonic() > deadline:
                return found
            time.sleep(0.02)


@contextmanager
def follow(command: list[str], path: Path) -> Iterator[LogTail]:
    """Copy what `command` prints, a log from now on, to `path`.

    Levels are told apart by position in that copy, so that a level's lines are exactly its own.
    """
    with path.open("wb") as out:  # in a session of its own: Ctrl-C ends a level, not the log
        process = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
    try:
        yield LogTail(path)
    finally:
        process.terminate()
        process.wait()
