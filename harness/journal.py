"""The samples of a run on disk as they are taken, so that none is lost however the run ends.

A journal is a file of JSON lines beside the record: first the record without samples, then one line
per iteration. It is gone once the record is written. Where a run was ended from outside (kill -9,
out of memory, a power cut), the next run in the same folder makes the record of it.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from harness import checks, stats
from harness.metrics import METRICS, Metric
from harness.monitor import SystemMonitor

SUFFIX = ".samples.jsonl"
KIND = "edge-cloud journal 1"
KILLED = "ended from outside before its record was written; its samples were recovered"


class Journal:
    """Samples of one run, appended to a file that other processes see is in use.

    Parameters
    ----------
    path : of the file, which must not exist.
    draft : the record without samples, metrics and output.
    metrics : those that harness.metrics does not have.

    Attributes
    ----------
    monitor : for the measured block. It lets Ctrl-C pass where nothing has been measured yet.
    ends_s : when each iteration was added, by time.perf_counter().
    """

    def __init__(self, path: Path, draft: dict, metrics: Sequence[Metric] = ()):
        self.path, self.draft = path, draft
        self.samples: dict[str, list[list[float]]] = {}
        self.ends_s: list[float] = []
        self.output: dict = {}
        self.monitor = SystemMonitor(keep=self.has_samples)
        self._file = _open_locked(path)
        self._metrics = [asdict(metric) for metric in metrics]
        self._append({"kind": KIND, "draft": draft, "metrics": self._metrics})

    def has_samples(self) -> bool:
        return bool(self.samples)

    def add(self, row: Mapping[str, Sequence[float]]) -> None:
        """The samples of one more iteration, by metric."""
        self.ends_s.append(time.perf_counter())
        _add(self.samples, row)
        self._append({"row": row})

    def replace(self, samples: Mapping[str, list[list[float]]], output: dict) -> None:
        """All samples so far, of a run whose result is one figure that a search improves."""
        self.samples, self.output = dict(samples), output
        self._append({"samples": samples, "output": output})

    def record(self, status: str, error: str | None) -> dict:
        """The record of what has been measured, for a run that can't make its own any more."""
        content = self.draft, self.samples, self.output, self._metrics
        return _fold(*content, status, error, self.monitor.usage)

    def close(self) -> None:
        """Remove the file: the record has all of it."""
        if self._file is None:  # what is at that path, if anything, is not ours
            return
        self.path.unlink(missing_ok=True)
        os.close(self._file)
        self._file = None

    def _append(self, entry: dict) -> None:
        """A full disk costs the file, not the run: the samples are in memory, too."""
        if self._file is None:
            return
        try:
            line = json.dumps(entry, ensure_ascii=True, default=float) + "\n"
            _write(self._file, line.encode())
        except OSError as error:
            print(f"warning: {self.path}: {error.strerror}", file=sys.stderr)
            self.close()


def _write(file: int, content: bytes) -> None:
    while content:
        content = content[os.write(file, content) :]


def _open_locked(path: Path) -> int | None:
    """A new file that is locked until this process ends; None where it can't be made."""
    try:
        file = os.open(
            path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644
        )
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return file
    except OSError as error:
        print(
            f"warning: {path}: {error.strerror}: samples are kept in memory only", file=sys.stderr
        )
        return None


def _add(samples: dict[str, list[list[float]]], row: Mapping[str, Sequence[float]]) -> None:
    for name, values in row.items():
        samples.setdefault(name, []).append(list(values))


def _fold(
    draft: dict,
    samples: dict[str, list[list[float]]],
    output: dict,
    own_metrics: Sequence[dict],
    status: str,
    error: str | None,
    usage: dict | None,
) -> dict:
    known = {**METRICS, **{each["name"]: Metric(**each) for each in own_metrics}}
    metrics = {
        name: stats.summarize(known[name], each)
        for name, each in samples.items()
        if name in known and stats.usable(each)
    }
    return {
        **draft,
        "finished_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "status": status,
        "error": error,
        "primary": draft["primary"] if draft["primary"] in metrics else None,
        "work": [each for each in draft["work"] if each["metric"] in metrics],
        "usage": usage or None,
        "metrics": metrics,
        "samples": {name: samples[name] for name in metrics},
        "output": output,
        "validity": checks.validity(error or status, draft["validity"]["reasons"]),
    }


def recover(folder: Path) -> Iterator[dict]:
    """The records of runs in `folder` that were ended without one.

    Each run's journal is removed once its record has been taken and, as the caller does, written. A
    journal in use by a running process is left alone, and so is a file that is none.
    """
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            with path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                content = file.read()
                entries = _entries(content)
                is_ours = bool(entries) and entries[0].get("kind") == KIND
                if not path.exists():  # another process has just recovered it
                    continue
                if is_ours and (record := _recovered(entries)):
                    yield record
                if is_ours or b"\n" not in content:  # killed within its first line
                    path.unlink()
        except OSError:  # in use, or not ours to read
            continue


def _entries(content: bytes) -> list[dict[str, Any]]:
    """The whole lines; the last may have been cut."""
    entries = []
    for line in content.splitlines():
        try:
            entries.append(json.loads(line))
        except ValueError:
            break
    return [each for each in entries if isinstance(each, dict)]


def _recovered(entries: list[dict[str, Any]]) -> dict | None:
    samples: dict[str, list[list[float]]] = {}
    output: dict = {}
    for entry in entries[1:]:
        if "row" in entry:
            _add(samples, entry["row"])
        else:
            samples, output = entry["samples"], entry["output"]
    if not samples:
        return None
    return _fold(
        entries[0]["draft"], samples, output, entries[0]["metrics"], "interrupted", KILLED, None
    )
