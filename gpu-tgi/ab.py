"""Run Apache Bench (ab) and read its report.

ab's own summary is not enough (docs/gpu-tgi.md has the list):
- It counts requests that never got a response, and any response as a success. With -v 2 it prints
  each response's header and what of the body came with it: these are counted and checked here.
- It waits for ever for a body that never ends. A response has `timeout_s` here.
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

import server

from harness import cli

GRACE_S = 2.0  # longer than ab's own timeout, and for ab to write its report once it is told to end
MARK = b"LOG: header received:\n"
END_OF_BODY = re.compile(rb"\n(?:WARNING: Response code not 2xx|(?:\.\.done)?\s+Server Software:)")
PROBLEM = re.compile(r"^(?:apr_\w+|ab).*$", re.MULTILINE)
OWN_HEADERS = ("x-generated-tokens", "x-inference-time")  # of TGI's, in every answer or in none


@dataclass
class Response:
    """The header of a response, and how much of its body was seen with it."""

    status: int
    headers: dict[str, str]  # names in lower case
    seen_bytes: int = 0
    failure: str | None = None  # why it is no success

    @property
    def ok(self) -> bool:
        return self.failure is None

    @property
    def media_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    def number(self, name: str) -> int | None:
        value = self.headers.get(name, "")
        return int(value) if re.fullmatch("[0-9]{1,15}", value) else None


@dataclass
class Report:
    """What one run of ab, or several side by side, saw."""

    requests: int  # requested, without the one sent alone
    wall_s: float | None  # None where ab gave up
    # Ascending; of every request that ab calls complete, answered or not, and the one sent alone.
    latencies_s: list[float]
    responses: list[Response]
    alone: list[Response] = field(default_factory=list)  # to the request sent alone
    problems: list[str] = field(default_factory=list)  # ab's messages
    gave_up: bool = False
    interrupted: KeyboardInterrupt | None = None

    @property
    def succeeded(self) -> int:
        return sum(response.ok for response in self.responses)

    @property
    def finished(self) -> int:
        """Requests that the server must have logged as finished, the one sent alone included."""
        return self.finished_without_alone + sum(200 <= each.status < 300 for each in self.alone)

    @property
    def finished_without_alone(self) -> int:
        return sum(200 <= each.status < 300 for each in self.responses)

    @property
    def failures(self) -> dict[str, int]:
        """Count by kind: HTTP status, no generated text, cut off, connection error, no answer."""
        counts = dict(
            sorted(Counter(each.failure for each in self.responses if each.failure).items())
        )
        unanswered = 0 if self.interrupted else self.requests - len(self.responses)
        for kind in ("connection refused", "connection reset"):
            # ab may say so more than once per request
            said = sum(kind in problem.lower() for problem in self.problems)
            counts[kind] = min(unanswered, said)
            unanswered -= counts[kind]
        counts["no answer"] = unanswered
        return {kind: count for kind, count in counts.items() if count > 0}


@dataclass(frozen=True)
class Share:
    """One run of ab: this many requests with this body, at this concurrency."""

    body: Path
    requests: int
    concurrency: int


@dataclass(frozen=True)
class Command:
    """How all runs of a sweep are started and judged."""

    words: list[str]  # ab with its common options, its output line-buffered
    url: str
    timeout_s: float  # for each response
    starts_alone: bool  # from starts_alone()
    model_answer: Response  # the answer to the first request, which all others must resemble


@dataclass
class _Watched:
    """A run of ab under way."""

    heard_s: float  # when it last told of a response
    told_s: float | None = None  # when it was told to end


def measure(command: Command, lanes: list[list[Share]], folder: Path) -> Report:
    """Run ab for every share: lanes side by side, a lane's shares one after the other.

    Each share has a folder of ab's files in `folder`. After Ctrl-C, and where no response has come
    for `timeout_s`, ab still reports what was done. Raises OSError where files can't be written.
    """
    stop, interrupted = threading.Event(), None
    running: dict[subprocess.Popen, _Watched] = {}
    reports: list[Report] = []

    def run_lane(number: int) -> None:
        for step, share in enumerate(lanes[number]):
            if stop.is_set():
                break
            place = folder / f"{number:03d}-{step:03d}"
            reports.append(_run(command, share, place, running, stop))

    def check() -> None:
        """Tell ab to end, and kill what does not."""
        now_s = time.monotonic()
        for process, watched in list(running.items()):
            if watched.told_s is not None:
                if now_s - watched.told_s > GRACE_S:
                    process.kill()
            elif stop.is_set() or now_s - watched.heard_s > command.timeout_s + GRACE_S:
                watched.told_s = now_s
                process.send_signal(signal.SIGINT)

    started_s = time.perf_counter()
    with ThreadPoolExecutor(len(lanes)) as pool:
        waiting = futures = {pool.submit(run_lane, number) for number in range(len(lanes))}
        while waiting:
            try:
                check()
                done, waiting = wait(futures, timeout=0.5)
            except KeyboardInterrupt as error:
                ignore_signals()
                stop.set()
                interrupted = error
            else:
                if any(future.exception() for future in done):
                    stop.set()
    wall_s = time.perf_counter() - started_s
    for future in futures:
        future.result()
    report = reports[0] if len(reports) == 1 else merge(reports, wall_s)
    report.interrupted = interrupted
    return report


def ignore_signals() -> None:
    """From the first one on, which ends a sweep: the next must not end the saving of it."""
    for number in cli.SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _run(
    command: Command,
    share: Share,
    place: Path,
    running: dict[subprocess.Popen, _Watched],
    stop: threading.Event,
) -> Report:
    """One run of ab, its files in `place`; while it lasts, it is in `running`."""
    place.mkdir(parents=True)
    extra = int(command.starts_alone and share.concurrency > 1)
    words = [*command.words, "-n", str(share.requests + extra), "-c", str(share.concurrency)]
    words += ["-p", str(share.body), "-g", str(place / "ab.tsv"), "-e", str(place / "ab.csv")]
    words.append(command.url)
    answered_s = []
    with (place / "ab.txt").open("wb") as out, (place / "ab.err").open("wb") as err:
        # In a session of its own, so that Ctrl-C reaches it once, from measure().
        process = subprocess.Popen(words, stdout=PIPE, stderr=err, start_new_session=True)
        watched = running[process] = _Watched(time.monotonic())
        try:
            for line in process.stdout:
                if line == MARK:
                    answered_s.append(time.perf_counter())
                    watched.heard_s = time.monotonic()
                out.write(line)
            status = process.wait()
        finally:
            process.kill()
            process.wait()
            del running[process]
    report = read(place, share.requests + extra, command.model_answer)
    if stop.is_set():
        pass
    elif watched.told_s is not None:
        report.gave_up = True
        report.problems.append(f"no response came for {command.timeout_s:g} s: timeout")
    elif status:
        report.gave_up = True
        by = signal.Signals(-status).name if status < 0 else f"status {status}"
        report.problems = report.problems or [f"ab ended early ({by})"]
    if extra:
        report.requests = share.requests
        report.alone, report.responses = report.responses[:1], report.responses[1:]
        if report.wall_s is not None and len(answered_s) > 1:
            report.wall_s = answered_s[-1] - answered_s[0]
    return report


def starts_alone(words: list[str]) -> bool:
    """Whether this ab sends its first request alone: seen on a listener here."""
    opened = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        whole = [*words, "-n", "2", "-c", "2", f"http://127.0.0.1:{listener.getsockname()[1]}/"]
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


def read(folder: Path, requests: int, model_answer: Response) -> Report:
    """The report of an ab run from its stdout (ab.txt), stderr (ab.err), -g (tsv) and -e (csv).

    An ab that was ended before its first response writes neither of the last two.
    """
    summary, *answers = (folder / "ab.txt").read_bytes().split(MARK)
    responses = [_response(answer, model_answer) for answer in answers]
    summary = (answers[-1] if answers else summary).decode(errors="replace")
    problems = PROBLEM.findall((folder / "ab.err").read_text(errors="replace"))
    wall_s = _number(r"^Time taken for tests: +([\d.]+) seconds", summary)
    _mark_cut_off(responses, summary)
    imitated = len(responses) > requests
    if imitated:
        problems.append("ab's report can't be read: a body imitates it")
    tsv, percentiles = folder / "ab.tsv", folder / "ab.csv"
    listed = wall_s is not None and tsv.exists() and percentiles.exists()
    return Report(
        requests=requests,
        wall_s=wall_s,
        latencies_s=latencies_s(tsv, percentiles) if listed else [],
        responses=responses[:requests],
        problems=problems,
        gave_up=imitated,
    )


def _response(answer: bytes, model_answer: Response) -> Response:
    """A response from what ab printed of it; it must resemble the answer to the first request."""
    head, blank, body = re.fullmatch(rb"(.*?)(\r?\n\r?\n|$)(.*)", answer, re.DOTALL).groups()
    first, *lines = head.decode(errors="replace").splitlines() or [""]
    pairs = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    status = re.match(r"HTTP/\d\.\d (\d{3})", first)
    response = Response(int(status[1]) if status else 0, headers)
    length, end = response.number("content-length"), END_OF_BODY.search(body)
    body = (body[: end.start()] if end else body.removesuffix(b"\n"))[:length]
    response.seen_bytes = len(body)
    lost = [name for name in OWN_HEADERS if name in model_answer.headers and name not in headers]
    kind, expected = response.media_type, model_answer.media_type
    if not 200 <= response.status < 300:
        response.failure = f"HTTP {response.status}"
    elif headers.get("age", "0") != "0" or "hit" in headers.get("x-cache", "").lower():
        response.failure = "from a cache"
    elif kind != expected:
        response.failure = f"{server.plain(kind, 40) or 'no type'} instead of {expected}"
    elif lost:
        response.failure = f"no {lost[0]}"
    elif len(body) == length and server.parse_answer(body) is None:
        response.failure = "no generated text"
    return response


def _mark_cut_off(responses: list[Response], summary: str) -> None:
    """Mark those whose body came short.

    ab tells how many bytes came in all, and how many bodies were not as long as the first. Where
    that does not say how many were short, all that were not seen to be whole are.
    """
    announced = [each.number("content-length") for each in responses]
    received = _number(r"^HTML transferred: +(\d+)", summary)
    if received is None or None in announced or (missing := sum(announced) - received) <= 0:
        return
    n, length = len(responses), announced[0]
    suspects = [each for each, size in zip(responses, announced) if each.seen_bytes < size]
    count = len(suspects)
    if {*announced} == {length} and _number(r"^Complete requests: +(\d+)", summary) == n:
        first = _number(r"^Document Length: +(\d+)", summary)
        others = _number(r"\bLength: (\d+), Exceptions", summary) or 0  # not as long as the first
        if first == length:
            found, suspects = others, [each for each in suspects if each is not responses[0]]
        else:
            found = n - others if (n - others) * first + others * length == received else 0
        if missing <= found * length:
            count = int(found)
    for each in suspects[:count]:
        each.failure = each.failure or "cut off"


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
        problems=[problem for report in reports for problem in report.problems],
        gave_up=gave_up,
        interrupted=next((each.interrupted for each in reports if each.interrupted), None),
    )


def _number(pattern: str, text: str) -> float | None:
    found = re.search(pattern, text, re.MULTILINE)
    return float(found[1]) if found else None
