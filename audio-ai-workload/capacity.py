"""How many live calls this machine transcribes, each transcript ready in time.

  python3 capacity.py --ovmodel_path="whisper-base-ov-model" --window 10 --max_delay 2

Each call plays one of the files, over and over, as it is spoken. It is cut into windows of at most
--window seconds: where the speaker pauses, else there. A window is handed in when its last sample
has been heard, and transcribed in one piece, without timestamps, as soon as one of --batch_size
times --num_streams slots is free; first come, first served. Its delay is from that last sample to
its transcript. A call is sustained if less than 1 % of its windows are ready later than
--max_delay, or never. The number of calls is doubled until one is not sustained, then found by
bisection; each number runs for --duration, and the result until --min_observations windows show it.

Error rates (--reference) are those of the windows' transcripts, joined: cutting has a price.
"""

import argparse
import queue
import sys
import time
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from harness import cli

cli.quit_on_signals()  # while the libraries load

import audio_input
import error_rates
import model
import numpy as np
from audio_input import SAMPLE_RATE

from harness import capacity, plot, progress, run, stats

LONGEST_WINDOW_S = 30.0  # what Whisper encodes at once
PAUSE_S = 0.3
PAUSE_SHARE = 0.1  # of the loudness (RMS) of the window so far, below which nobody speaks
HOP_S = 0.05  # how often a pause is looked for


@dataclass(frozen=True)
class Limits:
    window_s: float  # a call is cut at the latest
    max_delay_s: float
    duration_s: float


@dataclass(frozen=True)
class File:
    """What a call plays: its windows, and the options they are transcribed with."""

    windows: list[np.ndarray]
    options: dict


@dataclass(frozen=True)
class Window:
    due_s: float  # when its last sample is heard, from the beginning
    call: int
    samples: np.ndarray


@dataclass
class Call:
    """What became of one call's windows that ended while measuring."""

    due: int = 0
    delays_s: list[float] = field(default_factory=list)  # of those that have a transcript

    def late(self, max_delay_s: float) -> int:
        """Windows without a transcript in time."""
        return self.due - sum(delay_s <= max_delay_s for delay_s in self.delays_s)

    def late_share(self, max_delay_s: float) -> float:
        return self.late(max_delay_s) / max(self.due, 1)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    model.add_arguments(parser)
    add = parser.add_argument
    window = "seconds after which a call is cut at the latest, up to 30"
    add("--window", type=cli.positive_float, default=10.0, metavar="S", help=window)
    delay = "from a window's last sample to its transcript, above which it is late"
    add("--max_delay", type=cli.positive_float, default=2.0, metavar="S", help=delay)
    capacity.add_arguments(parser, "call", 60.0)
    cli.add_common_arguments(parser, iteration=None)
    args = model.parse(parser)
    capacity.check_arguments(parser, args, "call")
    if args.window > LONGEST_WINDOW_S:
        parser.error(f"--window {args.window:g}: Whisper takes {LONGEST_WINDOW_S:g} s at most")
    if args.duration < 2 * args.window:
        parser.error(f"--duration {args.duration:g} is below two windows ({args.window:g} s each)")
    return args


def cut(samples: np.ndarray, longest_s: float) -> list[np.ndarray]:
    """The windows of a call, float32 [n] each.

    Each ends at the first pause after half of `longest_s`, else after `longest_s`.
    """
    energy = np.concatenate([[0.0], np.cumsum(np.square(samples, dtype=np.float64))])
    longest, hop, pause = (round(s * SAMPLE_RATE) for s in (longest_s, HOP_S, PAUSE_S))
    windows, start = [], 0
    while start < len(samples):
        end = min(start + longest, len(samples))
        for now in range(start + max(longest // 2, pause), end, hop):
            recent = (energy[now] - energy[now - pause]) / pause
            so_far = (energy[now] - energy[start]) / (now - start)
            if recent < PAUSE_SHARE**2 * so_far:
                end = now
                break
        windows.append(samples[start:end])
        start = end
    return windows


def schedule(files: list[File], count: int, limits: Limits) -> list[Window]:
    """The windows of `count` calls in the order in which they are heard.

    Call i plays file i, and from the first again. Calls begin spread evenly over a window's time,
    those of the same file with different windows of it.
    """
    end_s = limits.window_s + limits.duration_s
    coming = []
    for call in range(count):
        windows = files[call % len(files)].windows
        index, now_s = call // len(files), call / count * limits.window_s
        while (now_s := now_s + audio_input.seconds(windows[index % len(windows)])) < end_s:
            coming.append(Window(now_s, call, windows[index % len(windows)]))
            index += 1
    return sorted(coming, key=lambda window: window.due_s)


def run_calls(whisper, files: list[File], limits: Limits, count: int) -> list[Call]:
    """Play `count` calls in real time, measured after as long as a window takes.

    Raises what a transcription raises.
    """
    from whisper_openvino import spectrogram_by_the_minute

    calls, handed_in, free = [Call() for _ in range(count)], [], queue.SimpleQueue()
    for slot in whisper.slots:
        free.put(slot)
    begun_s = time.perf_counter()
    last_s = begun_s + limits.window_s + limits.duration_s + limits.max_delay_s

    def transcribe(window: Window) -> None:
        slot = free.get()
        slot.stream.take()
        try:
            options = files[window.call % len(files)].options
            slot.transcribe(window.samples, lambda done_s: None, **options)
        finally:
            slot.stream.leave()
            free.put(slot)
        if window.due_s >= limits.window_s:
            delay_s = time.perf_counter() - begun_s - window.due_s
            calls[window.call].delays_s.append(delay_s)

    with spectrogram_by_the_minute(), ThreadPoolExecutor(len(whisper.slots)) as pool:
        try:
            for window in schedule(files, count, limits):
                time.sleep(max(0.0, begun_s + window.due_s - time.perf_counter()))
                calls[window.call].due += window.due_s >= limits.window_s
                handed_in.append(pool.submit(transcribe, window))
            wait(handed_in, max(0.0, last_s - time.perf_counter()), FIRST_EXCEPTION)
        finally:
            pool.shutdown(cancel_futures=True)  # those that wait are too late in any case
    for future in handed_in:
        if not future.cancelled():
            future.result()
    return calls


def summarize(calls: list[Call], max_delay_s: float) -> dict:
    """The figures of a number of calls."""
    late_share = max(call.late_share(max_delay_s) for call in calls)
    delays_s = sorted(delay_s for call in calls for delay_s in call.delays_s)
    never = sum(call.due for call in calls) - len(delays_s)
    # A window that was never transcribed waited for longer than the limit, at least.
    all_s = delays_s + [max([max_delay_s, *delays_s[-1:]])] * never
    return {
        "sustained": late_share < capacity.MAX_LATE_SHARE,
        "windows": len(all_s),
        "observations": len(all_s),
        "late": sum(call.late(max_delay_s) for call in calls),
        "never_transcribed": never,
        "late_share": late_share,  # of the worst call
        "delay_p50_s": stats.percentile(all_s, 0.50),
        "delay_p95_s": stats.percentile(all_s, 0.95),
        "delays_s": delays_s,
    }


def sentence(level: dict) -> str:
    never = level["never_transcribed"]
    return (
        f"delay p50 {level['delay_p50_s']:.2f} s, p95 {level['delay_p95_s']:.2f} s, "
        f"late {level['late_share']:.1%} at worst"
        + (f", {never} of {level['windows']} never transcribed" if never else "")
    )


def transcribe_windows(job: model.Job, window_s: float) -> tuple[list[File], list[dict]]:
    """Cut the files, and transcribe their windows: the warm-up, and what the record keeps.

    A call's language is known after its beginning, and its windows' transcripts do not depend on
    when they arrive.
    """
    files, outputs = [], []
    given, whisper = job.settings.options, job.loaded.whisper
    for recording in job.recordings:
        name, windows = recording.path.name, cut(recording.samples, window_s)
        language = given["language"]
        if language is None:
            beginning = recording.samples[: round(LONGEST_WINDOW_S * SAMPLE_RATE)]
            (done,) = model.transcribe(whisper, [beginning], given, name)
            language = done.result["language"]
        options = {**given, "language": language, "without_timestamps": True}
        done = model.transcribe(whisper, windows, options, name)
        texts = [each.result["text"].strip() for each in done]
        described = [
            {"duration_s": audio_input.seconds(window), "transcript": text}
            for window, text in zip(windows, texts)
        ]
        output = {"name": name, "language": language, "transcript": " ".join(texts)}
        outputs.append({**output, "windows": described})
        files.append(File(windows, options))
    return files, outputs


def main() -> int:
    args = parse_args()
    limits = Limits(args.window, args.max_delay, args.duration)
    paths = audio_input.find(args.audio)
    capacity.check_plot(args)
    job = model.prepare(args, paths)
    with progress.stage("Warm-up"):
        files, outputs = transcribe_windows(job, limits.window_s)

    def measure_level(count: int, duration_s: float) -> dict:
        longer = replace(limits, duration_s=duration_s)
        return summarize(run_calls(job.loaded.whisper, files, longer, count), limits.max_delay_s)

    condition = f"with transcripts within {args.max_delay:g} s"
    condition += f" of windows of at most {args.window:g} s"
    limit_labels = {"window": args.window, "max delay": args.max_delay}
    limit_labels["language given"] = None  # it is detected before measuring
    described = {
        "workload": "audio-capacity",
        "title": "Audio AI capacity",
        "primary": "calls",
        "work": [("1,000 call-hours", "calls", 3600 * 1000)],
        "check_samples": False,
        **model.record_arguments(job, outputs, {"batch size": args.batch_size}, **limit_labels),
    }
    found = capacity.find(measure_level, sentence, args, "call", run.start(args, **described))
    shown = {"95 % of transcripts": "delay_p95_s", "half of them": "delay_p50_s"}
    series = {
        label: [(n, level[key]) for n, level in found.levels.items()]
        for label, key in shown.items()
    }
    panel = plot.Panel("seconds from last sample to transcript", series, ("limit", args.max_delay))
    plot.lines(args.plot, [panel], "calls")
    delays_s = {count: level.pop("delays_s") for count, level in found.levels.items()}
    described["warnings"] += found.warnings
    record = run.build(
        args,
        **described,
        samples={
            "calls": [[found.most]],
            "window_delay_s": [delays_s[found.shown]],
            **error_rates.score(outputs, job.references, args.task),
        },
        monitor=found.monitor,
        output={**found.output("call"), "files": outputs},
        details=[capacity.report(found, args, "call", condition)],
    )
    return run.finish(record, args)


if __name__ == "__main__":
    cli.run(main)
