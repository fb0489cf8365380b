"""Run Apache Bench (ab) and read its report.

ab's own summary is not enough (docs/gpu-tgi.md has the list):
- It counts requests that never got a response. With -v 2 it prints the header of every response:
  these are counted here.
- Newer versions (2.4.71 does, see `starts_alone`) send the first request alone and open the other
  connections when it is answered. One request more is sent then, and time and count begin with its
  response.
- Latencies are in whole milliseconds (-g); 101 quantiles are exact to the microsecond (-e), but
  some are read from beyond the end of the list. Together they give every sample.
"""

from __future__ import annotations

import contextlib
import csv
import re
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import DEVNULL, PIPE

HEADER = re.compile(
    r"^LOG: header received:\nHTTP/\d\.\d (\d{3})[^\n]*\n(.*?)^\r?$", re.MULTILINE | re.DOTALL
)
PROBLEM = re.compile(r"^(?:apr_\w+|ab).*$", re.MULTILINE)


@dataclass
class Response:
    """The header of a response."""

    status: int
    headers: dict[str, str]  # names in lower case

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    def number(self, name: str) -> int | None:
        value = self.headers.get(name, "")
        return int(value) if value.isdigit() else None


@dataclass
class Report:
    """What one run of ab, or several side by side, saw."""

    requests: int  # requested, without the one sent alone
    wall_s: float | None  # None where ab gave up
    # Ascending; of every request that ab calls complete, answered or not, and the one sent alone.
    latencies_s: list[float]
    responses: list[Response]
    alone: list[Response] = field(default_factory=list)  # to the request sent alone
    bytes_received: int = 0  # of bodies
    problems: list[str] = field(default_factory=list)  # ab's messages
    gave_up: bool = False
    interrupted: bool = False  # by Ctrl-C

    @property
    def succeeded(self) -> int:
        return sum(response.ok for response in self.responses) - self.cut_off

    @property
    def finished(self) -> int:
        """Requests that the server must have logged as finished."""
        return sum(response.ok for response in self.alone + self.responses)

    @property
    def cut_off(self) -> int:
        """1 for one or more responses whose body came short: ab counts bytes over all of them."""
        announced = [each.number("content-length") for each in self.alone + self.responses]
        return int(None not in announced and self.bytes_received < sum(announced))

    @property
    def failures(self) -> dict[str, int]:
        """Count by kind: HTTP status, connection error, no response, response cut off."""
        statuses = Counter(f"HTTP {each.status}" for each in self.responses if not each.ok)
        counts = dict(sorted(statuses.items()))
        unanswered = self.requests - len(self.responses)
        for kind in ("connection refused", "connection reset"):
            # ab may say so more than once per request
            said = sum(kind in problem.lower() for problem in self.problems)
            counts[kind] = min(unanswered, said)
            unanswered -= counts[kind]
        counts |= {"no answer": unanswered, "cut off": self.cut_off}
        return {kind: count for kind, count in counts.items() if count > 0}


@dataclass(frozen=True)
class Share:
    """One run of ab: this many requests with this body, at this concurrency."""

    body: Path
    requests: int
    concurrency: int


def measure(
    command: list[str], url: str, lanes: list[list[Share]], folder: Path, alone: bool
) -> Report:
    """Run ab for every share: lanes side by side, a lane's shares one after the other.

    `command` is ab with its common options, its output line-buffered; `alone` is from
    starts_alone(). Each share has a folder of ab's files in `folder`. After Ctrl-C, ab still
    reports what was done.
    """
    stop, running, reports = threading.Event(), set(), []

    def run(share: Share, place: Path) -> Report:
        place.mkdir(parents=True)
        extra = int(alone and share.concurrency > 1)
        whole = [*command, "-n", str(share.requests + extra), "-c", str(share.concurrency)]
        whole += ["-p", str(share.body), "-g", str(place / "ab.tsv"), "-e", str(place / "ab.csv")]
        whole.append(url)
        answered_s = []
        with (place / "ab.txt").open("wb") as out, (place / "ab.err").open("wb") as err:
            # In a session of its own, so that Ctrl-C reaches it once, from here.
            process = subprocess.Popen(whole, stdout=PIPE, stderr=err, start_new_session=True)
            running.add(process)
            if stop.is_set():
                process.send_signal(signal.SIGINT)
            for line in process.stdout:
                if line.startswith(b"LOG: header received"):
                    answered_s.append(time.perf_counter())
                out.write(line)
            status = process.wait()
            running.remove(process)
        report = read(place, share.requests + extra)
        report.gave_up = status != 0 and not stop.is_set()
        if report.gave_up and not report.problems:
            report.problems = [f"ab ended with status {status}"]
        if extra:
            report.requests = share.requests
            report.alone, report.responses = report.responses[:1], report.responses[1:]
            if report.wall_s is not None and len(answered_s) > 1:
                report.wall_s = answered_s[-1] - answered_s[0]
        return report

    def run_lane(number: int) -> None:
        for step, share in enumerate(lanes[number]):
            if stop.is_set():
                break
            reports.append(run(share, folder / f"{number:03d}-{step:03d}"))

    started_s = time.perf_counter()
    with ThreadPoolExecutor(len(lanes)) as pool:
        futures = [pool.submit(run_lane, number) for number in range(len(lanes))]
        try:
            wait(futures)
        except KeyboardInterrupt:
            stop.set()
            for process in list(running):
                process.send_signal(signal.SIGINT)
        for future in futures:
            future.result()
    wall_s = time.perf_counter() - started_s
    report = reports[0] if len(reports) == 1 else merge(reports, wall_s)
    report.interrupted = stop.is_set()
    return report


def starts_alone(command: list[str]) -> bool:
    """Whether this ab sends its first request alone: seen on a listener here."""
    opened = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        whole = [*command, "-n", "2", "-c", "2", f"http://127.0.0.1:{listener.getsockname()[1]}/"]
        process = subprocess.Popen(whole, stdout=DEVNULL, stderr=DEVNULL)
        with contextlib.suppress(TimeoutError):
            for timeout_s in (5.0, 0.3):
                listener.settimeout(timeout_s)
                opened.append(listener.accept()[0])
        process.kill()
        process.wait()
        for connection in opened:
            connection.close()
    return len(opened) < 2


def read(folder: Path, requests: int) -> Report:
    """The report of an ab run from its stdout (ab.txt), stderr (ab.err), -g (tsv) and -e (csv).

    An ab that was interrupted before its first response writes neither of the last two.
    """
    text = (folder / "ab.txt").read_text(errors="replace").replace("\r\n", "\n")
    responses = []
    for status, header in HEADER.findall(text):
        pairs = (line.partition(":") for line in header.splitlines())
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        responses.append(Response(int(status), headers))
    wall_s = _number(r"^Time taken for tests: +([\d.]+) seconds", text)
    tsv, percentiles = folder / "ab.tsv", folder / "ab.csv"
    listed = wall_s is not None and tsv.exists() and percentiles.exists()
    return Report(
        requests=requests,
        wall_s=wall_s,
        latencies_s=latencies_s(tsv, percentiles) if listed else [],
        responses=responses,
        bytes_received=int(_number(r"^HTML transferred: +(\d+)", text) or 0),
        problems=PROBLEM.findall((folder / "ab.err").read_text(errors="replace")),
    )


def latencies_s(tsv: Path, percentiles: Path) -> list[float]:
    """Every request's time from connecting to the last byte, ascending, in seconds.

    ab's line "i,t" of -e is the order statistic number int(0.5 + n i / 100), which for large i may
    lie beyond the last: such lines are garbage and left out, and so is any that disagrees with -g.
    """
    with tsv.open(newline="") as file:
        ordered_s = sorted(int(row["ttime"]) / 1000 for row in csv.DictReader(file, delimiter="\t"))
    n = len(ordered_s)
    with percentiles.open(newline="") as file:
        for percent, time_ms in list(csv.reader(file))[1:]:
            rank = n - 1 if percent == "100" else int(0.5 + n * int(percent) / 100)
            if rank < n and abs(float(time_ms) / 1000 - ordered_s[rank]) <= 0.00051:
                ordered_s[rank] = float(time_ms) / 1000
    return sorted(ordered_s)


def merge(reports: list[Report], wall_s: float) -> Report:
    """Runs that made up one measurement of `wall_s`, side by side or one after the other."""
    gave_up = any(report.gave_up for report in reports)
    return Report(
        requests=sum(report.requests for report in reports),
        wall_s=None if gave_up else wall_s,
        latencies_s=sorted(latency for report in reports for latency in report.latencies_s),
        responses=[response for report in reports for response in report.responses],
        alone=[response for report in reports for response in report.alone],
        bytes_received=sum(report.bytes_received for report in reports),
        problems=[problem for report in reports for problem in report.problems],
        gave_up=gave_up,
        interrupted=any(report.interrupted for report in reports),
    )


def _number(pattern: str, text: str) -> float | None:
    found = re.search(pattern, text, re.MULTILINE)
    return float(found[1]) if found else None
