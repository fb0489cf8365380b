"""How many live calls this machine transcribes: the most at a time whose every transcript is ready in time.

  python3 density.py --ovmodel_path="whisper-base-ov-model" --audio="sample.mp3" --window 10 --max_delay 2

Each call plays one of the files, over and over, as it is spoken. It is cut into windows of at most --window seconds: where the
speaker pauses, else there. A window is handed in when its last sample has been heard, and transcribed in one piece, without
timestamps, as soon as a place among --batch_size times --num_streams gets free; first come, first served. Its delay is from that
last sample to its transcript. A call holds if less than 1 % of its windows are ready later than --max_delay, or never. The number
of calls is doubled until one does not hold, then found by bisection; each number runs for --duration.

Error rates (--reference) are those of the windows' transcripts, joined: cutting has a price.
"""

import argparse
import os
import queue
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # torch's threads must not spin against OpenVINO's

import numpy as np

import accuracy
import audio_input
import infer
from audio_input import SAMPLE_RATE
from harness import cli, density, measure, model as model_files, placement as place, record, trouble

LONGEST_WINDOW_S = 30.0  # what Whisper encodes at once
PAUSE_S = 0.3
PAUSE_SHARE = 0.1  # of the loudness (RMS) of the window so far, below which nobody speaks
HOP_S = 0.05  # how often a pause is looked for


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    infer.add_arguments(parser)
    parser.add_argument("--window", type=cli.positive_float, default=10.0, metavar="S",
                        help="seconds after which a call is cut at the latest, up to 30")  # fmt: skip
    parser.add_argument("--max_delay", type=cli.positive_float, default=2.0, metavar="S",
                        help="from a window's last sample to its transcript, above which it is late")  # fmt: skip
    density.add_arguments(parser, "call", 60.0, "delays")
    cli.add_common_arguments(parser, iteration=None)
    parser.set_defaults(word_timestamps=False)  # windows have no timestamps at all
    args = parser.parse_args()
    density.check_arguments(parser, args, "call")
    if args.window > LONGEST_WINDOW_S:
        parser.error(f"--window {args.window:g} is above {LONGEST_WINDOW_S:g} s, which is what Whisper takes at once")
    if args.duration < 2 * args.window:
        parser.error(f"--duration {args.duration:g} is below two windows (--window {args.window:g})")
    infer.complete(args)
    return args


def cut(samples: np.ndarray, longest_s: float) -> list[np.ndarray]:
    """The windows of a call, float32 [n] each: cut at the first pause after half of `longest_s`, else after `longest_s`."""
    energy = np.concatenate([[0.0], np.cumsum(np.square(samples, dtype=np.float64))])
    longest, hop, pause = (round(seconds * SAMPLE_RATE) for seconds in (longest_s, HOP_S, PAUSE_S))
    windows, start = [], 0
    while start < len(samples):
        end = min(start + longest, len(samples))
        for now in range(start + max(longest // 2, pause), end, hop):
            recent, all_of_it = (energy[now] - energy[now - pause]) / pause, (energy[now] - energy[start]) / (now - start)
            if recent < PAUSE_SHARE**2 * all_of_it:
                end = now
                break
        windows.append(samples[start:end])
        start = end
    return windows


@dataclass
class Call:
    """What became of one call's windows that ended while measuring."""

    due: int = 0
    delays_s: list[float] = field(default_factory=list)  # of those that have a transcript

    def lost(self, max_delay_s: float) -> int:
        """Windows without a transcript in time."""
        return self.due - sum(delay_s <= max_delay_s for delay_s in self.delays_s)


class Calls:
    """Plays `count` calls in real time.

    Parameters
    ----------
    model : whisper_openvino.OpenVINOWhisper
    windows : of each file; call i plays file i, and from the first again.
    how : for transcribe(), of each file.
    """

    def __init__(self, model, windows: list[list[np.ndarray]], how: list[dict], args: argparse.Namespace):
        self.model, self.windows, self.how, self.args = model, windows, how, args

    def run(self, count: int) -> list[Call]:
        """Run for --duration, after as long as a window takes. Raises what a transcription raises."""
        from whisper_openvino import openai_whispers_spectrogram_replaced

        calls, errors, waiting = [Call() for _ in range(count)], [], queue.SimpleQueue()
        settle_s, args = self.args.window, self.args
        coming = sorted(
            (
                heard
                for number, call in enumerate(calls)
                for heard in self._heard(number, number / count * args.window, settle_s + args.duration)
            ),
            key=lambda heard: heard[0],
        )
        begun_s = time.perf_counter()

        def serve(seat) -> None:
            while (window := waiting.get()) is not None and not errors:
                due_s, number, samples = window
                seat.take()
                try:
                    seat.transcribe(samples, lambda done_s: None, **self.how[number % len(self.how)])
                except BaseException as error:
                    errors.append(error)
                finally:
                    seat.leave()
                if due_s >= settle_s:
                    calls[number].delays_s.append(time.perf_counter() - begun_s - due_s)

        threads = [threading.Thread(target=serve, args=(seat,), daemon=True) for seat in self.model.seats]
        with openai_whispers_spectrogram_replaced():
            for thread in threads:
                thread.start()
            try:
                for window in coming:
                    time.sleep(max(0.0, begun_s + window[0] - time.perf_counter()))
                    if errors:
                        break
                    calls[window[1]].due += window[0] >= settle_s
                    waiting.put(window)
                last_s = begun_s + settle_s + args.duration + args.max_delay
                while not (waiting.empty() or errors) and time.perf_counter() < last_s:
                    time.sleep(0.01)
            finally:
                while not waiting.empty():  # too late in any case
                    waiting.get()
                for _ in threads:
                    waiting.put(None)
                for thread in threads:
                    thread.join()
        if errors:
            raise errors[0]
        return calls

    def _heard(self, number: int, offset_s: float, until_s: float):
        """(when its last sample is heard, number, samples) of a call's windows, in seconds from the beginning. Calls of the same
        file begin with different windows of it."""
        windows = self.windows[number % len(self.windows)]
        index, now_s = number // len(self.windows), offset_s
        while True:
            samples = windows[index % len(windows)]
            index, now_s = index + 1, now_s + audio_input.seconds(samples)
            if now_s >= until_s:
                return
            yield now_s, number, samples


def main() -> int:
    args = parse_args()
    placement = place.Placement.from_arguments(args)
    paths = audio_input.find(args.audio)
    references = accuracy.read_references(args.reference, paths) if args.reference else None
    ir = infer.check_folder(args)
    record.check_destination(args)
    language = infer.check_language(args.language)
    audio = [audio_input.read(path) for path in paths]

    model, weight_format, load_time_s = infer.load(args, placement)
    place.check_int8(placement, weight_format)
    infer.check_model_knows(model, language, args.task)
    told_model = model_files.describe(args.model_name, args.ovmodel_path, ir, weight_format)
    told_placement = place.describe(placement, model.compiled)
    machine = record.introduce({**told_model, "name": f"Whisper {args.model_name}"}, told_placement, args.device, load_time_s)

    # The warm-up: a call's language is known after its beginning, and its windows' transcripts don't hang on when they come.
    windows, how, files = [cut(samples, args.window) for samples in audio], [], []
    for path, samples, its_windows in zip(paths, audio, windows):
        beginning = samples[: round(LONGEST_WINDOW_S * SAMPLE_RATE)]
        spoken = language or model.transcribe(beginning, **infer.options(args, None))["language"]
        how.append({**infer.options(args, spoken), "without_timestamps": True})
        texts = [done.result["text"].strip() for done in infer.transcribe_all(model, its_windows, how[-1], path.name)]
        files.append({"name": path.name, "language": spoken, "windows": [
            {"duration_s": audio_input.seconds(window), "transcript": text} for window, text in zip(its_windows, texts)
        ], "transcript": " ".join(texts)})  # fmt: skip

    calls = Calls(model, windows, how, args)
    found = density.find(lambda count: summary(calls.run(count), args), sentence, args, "call")
    density.report(found, args, "call", f"with transcripts within {args.max_delay:g} s of windows of at most {args.window:g} s")
    density.plot(found, {"95 % of transcripts": "delay_p95_s", "half of them": "delay_p50_s"}, ("limit", args.max_delay), "call",
                 "seconds from last sample to transcript", args.plot)  # fmt: skip
    metrics = {"calls": measure.summarize([found.most], "calls", "higher")}
    delays_s = {count: level.pop("delays_s") for count, level in found.levels.items()}[found.shown]
    if delays_s:
        metrics["window_delay_s"] = measure.summarize(delays_s, "s", None)
    if references:
        metrics |= infer.judge(files, references, args.task)
        print(f"Word error rate of the windows' transcripts: {metrics['word_error_rate']['median']:.2%}")
    run = record.build(
        "audio-density",
        args,
        headline="calls",
        metrics=metrics,
        samples={"calls": [found.most]},
        model=told_model,
        source=infer.source_of(paths, [audio_input.seconds(samples) for samples in audio]),
        machine=machine,
        placement=told_placement,
        watch=found.watch,
        output={**found.output("call"), "files": files},
        resolved={
            "runtime": "openai-whisper on openvino",
            "language": ", ".join(sorted({file["language"] for file in files})),
            "audio": str(args.audio[0]) if len(args.audio) == 1 else [str(path) for path in args.audio],
        },
        signs=trouble.of_machine(found.watch.usage, machine),
    )
    return record.finish(run, args)


def summary(calls: list[Call], args: argparse.Namespace) -> dict:
    """What a number of calls came to."""
    lost = [call.lost(args.max_delay) / max(call.due, 1) for call in calls]
    delays_s = sorted(delay_s for call in calls for delay_s in call.delays_s)
    unheard = sum(call.due for call in calls) - len(delays_s)
    # A window that was never transcribed waited for longer than the limit, at least.
    all_s = delays_s + [max([args.max_delay, *delays_s[-1:]])] * unheard
    return {
        "holds": max(lost) < density.MAX_LOST_SHARE,
        "windows": len(all_s),
        "never_transcribed": unheard,
        "lost_share": max(lost),  # of the worst call
        "delay_p50_s": measure.percentile(all_s, 0.50),
        "delay_p95_s": measure.percentile(all_s, 0.95),
        "delays_s": delays_s,
    }


def sentence(level: dict) -> str:
    return (f"delay p50 {level['delay_p50_s']:.2f} s, p95 {level['delay_p95_s']:.2f} s, late {level['lost_share']:.1%} at worst"
            + (f", {level['never_transcribed']} of {level['windows']} never transcribed" if level["never_transcribed"] else ""))  # fmt: skip


if __name__ == "__main__":
    cli.run(main)
