"""How many live calls this machine transcribes, each transcript ready in time.

  python3 capacity.py --ovmodel_path="whisper-base-ov-model" --window 10 --max_delay 2

Each call plays one of the files, over and over, as it is spoken, from a random moment on. It is cut
into windows of at most --window seconds: where the speaker pauses, else there. A window is handed
in when its last sample has been heard, and transcribed in one piece, without timestamps, as soon as
one of --batch_size times --num_streams slots is free; first come, first served. Its transcript is
late if it is ready more than --max_delay after that last sample. A number of calls is sustained if
each has under 1 % of its transcripts late in both halves of --duration. The number is doubled until
it is not sustained, then found by bisection, then confirmed on --min_observations windows.

Error rates (--reference) are those of the windows' transcripts, joined: cutting has a price.
"""

import argparse
import queue
import sys
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from harness import cli

cli.quit_on_signals()  # while the libraries load

import audio_input
import error_rates
import model
import numpy as np
from audio_input import SAMPLE_RATE

from harness import capacity, players, progress, run
from harness.capacity import Stream

LONGEST_WINDOW_S = 30.0  # what Whisper encodes at once
PAUSE_S = 0.3
PAUSE_SHARE = 0.1  # of the loudness (RMS) of the window so far, below which nobody speaks
HOP_S = 0.05  # how often a pause is looked for
FIRST_TEXT, DELAY = "time_to_first_text_s", "window_delay_s"


@dataclass(frozen=True)
class Limits:
    window_s: float  # a call is cut at the latest
    max_delay_s: float
    seed: int


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


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    model.add_arguments(parser)
    add = parser.add_argument
    window = "seconds after which a call is cut at the latest, up to 30"
    add("--window", type=cli.positive_float, default=10.0, metavar="S", help=window)
    delay = "from a window's last sample to its transcript, above which it is late"
    add("--max_delay", type=cli.positive_float, default=2.0, metavar="S", help=delay)
    players.add_arguments(parser)
    capacity.add_arguments(parser, "call", 60.0)
    capacity.add_seed(parser)
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


def speech_share(samples: np.ndarray) -> float:
    """Share of a file's time, float32 [n], in which somebody speaks.

    That is of its hops of HOP_S those that are louder (RMS) than PAUSE_SHARE of the whole file.
    Steady noise counts as speech.
    """
    hop = min(round(HOP_S * SAMPLE_RATE), len(samples))
    hops = samples[: len(samples) // hop * hop].reshape(-1, hop).astype(np.float64)
    energy = np.square(hops).mean(axis=1)
    return float(np.mean(energy > PAUSE_SHARE**2 * energy.mean()))


def schedule(files: list[File], number: int, limits: Limits, end_s: float) -> list[Window]:
    """The windows of call `number` that are heard until `end_s`.

    It plays one file after the other's turn, over and over, and begins at a random moment of a
    random window.
    """
    random, windows = (
        np.random.default_rng([limits.seed, number]),
        files[number % len(files)].windows,
    )
    index = int(random.integers(len(windows)))
    now_s = -float(random.uniform()) * audio_input.seconds(windows[index])
    heard = []
    while (now_s := now_s + audio_input.seconds(windows[index % len(windows)])) < end_s:
        heard.append(Window(now_s, number, windows[index % len(windows)]))
        index += 1
    return heard


def play(
    whisper,
    files: list[File],
    limits: Limits,
    numbers: Sequence[int],
    begins_s: float,
    duration_s: float,
) -> list[Stream]:
    """Play calls in real time, counted after as long as a window takes: see harness.capacity.Play.

    They go on until what is counted is transcribed, or is late anyway. Raises what a transcription
    raises.
    """
    from whisper_openvino import spectrogram_by_the_minute

    streams = {number: Stream(samples={FIRST_TEXT: [], DELAY: []}) for number in numbers}
    counted_s, ends_s = limits.window_s, limits.window_s + duration_s
    last_s = ends_s + limits.max_delay_s
    coming = [window for number in numbers for window in schedule(files, number, limits, last_s)]
    handed_in, free = [], queue.SimpleQueue()
    for slot in whisper.slots:
        free.put(slot)

    def transcribe(window: Window, index: int | None) -> None:
        slot = free.get()
        slot.stream.take()
        try:
            options = files[window.call % len(files)].options
            slot.transcribe(window.samples, lambda done_s: None, **options)
        finally:
            slot.stream.leave()
            free.put(slot)
        if index is not None:
            delay_s = time.perf_counter() - begins_s - window.due_s
            stream = streams[window.call]
            stream.late[index] = delay_s > limits.max_delay_s
            stream.samples[DELAY].append(delay_s)
            stream.samples[FIRST_TEXT].append(delay_s + audio_input.seconds(window.samples))

    with spectrogram_by_the_minute(), ThreadPoolExecutor(len(whisper.slots)) as pool:
        try:
            for window in sorted(coming, key=lambda window: window.due_s):
                time.sleep(max(0.0, begins_s + window.due_s - time.perf_counter()))
                stream, index = streams[window.call], None
                if counted_s <= window.due_s < ends_s:
                    index = len(stream.due_s)
                    stream.due_s.append(window.due_s - counted_s)
                    stream.late.append(True)  # until there is a transcript
                handed_in.append(pool.submit(transcribe, window, index))
            wait(handed_in, max(0.0, begins_s + last_s - time.perf_counter()), FIRST_EXCEPTION)
        finally:
            pool.shutdown(cancel_futures=True)  # those that wait are too late in any case
    for future in handed_in:
        if not future.cancelled():
            future.result()
    for stream in streams.values():
        stream.counts["never_transcribed"] = len(stream.due_s) - len(stream.samples[DELAY])
    return list(streams.values())


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
        speech = {"speech_share": speech_share(recording.samples), "windows": described}
        outputs.append(
            {"name": name, "language": language, "transcript": " ".join(texts), **speech}
        )
        files.append(File(windows, options))
    return files, outputs


def prepare(args: argparse.Namespace) -> capacity.Job:
    """Load the model, and transcribe the windows once: see transcribe_windows()."""
    job = model.prepare(args, audio_input.find(args.audio))
    with progress.stage("Warm-up"):
        files, outputs = transcribe_windows(job, args.window)
    limits = Limits(args.window, args.max_delay, args.seed)
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
    described["input"]["speech_share"] = fmean(each["speech_share"] for each in outputs)
    scores = error_rates.score(outputs, job.references, args.task)
    play_calls = partial(play, job.loaded.whisper, files, limits)
    return capacity.Job(described, play_calls, (outputs, scores))


def main() -> int:
    args = parse_args()
    capacity.check_plot(args)
    with players.job(args, prepare, "call") as job:
        found = capacity.find(job, args, "call", run.start(args, **job.described))
    outputs, scores = job.extra
    capacity.draw(found, args, "call", {DELAY: args.max_delay})
    condition = f"with transcripts within {args.max_delay:g} s"
    condition += f" of windows of at most {args.window:g} s"
    parts = found.record_parts(job, args, "call", condition)
    parts["samples"] |= scores
    parts["output"]["files"] = outputs
    parts["details"].append(f"Speech: {job.described['input']['speech_share']:.0%} of the calls")
    return run.finish(run.build(args, **parts), args)


if __name__ == "__main__":
    cli.run(main)
