"""Measure speech recognition: the time that Whisper takes to transcribe audio, and RTFx.

  python3 infer.py --model_name="base" --ovmodel_path="whisper-base-ov-model" --audio="sample.mp3"
  python3 infer.py --audio recordings/ --reference transcripts/ --word_timestamps
  python3 infer.py --audio recordings/ --batch_size 8 --output_format srt

What is timed is the way from samples in memory to text: spectrogram, encoder, and every decoding
step, all by openai-whisper's own transcribe() with its models on OpenVINO. Reading the files and
writing transcripts is not timed. One iteration is all files: one after the other, or --batch_size
times --num_streams concurrently. RTFx (inverse real-time factor) is seconds of audio over seconds
of transcription.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from harness import cli

cli.quit_on_signals()  # while the libraries load

import audio_input
import error_rates
import model

from harness import energy, instance, instances, progress, run, tune
from harness.cli import UserError
from harness.files import check_new
from harness.journal import Journal
from harness.monitor import iterations

OUTPUT_FORMATS = ("txt", "srt", "vtt", "json", "tsv")
MAX_FILES_PRINTED = 20
# What --tune looks at: throughput, latency, and options tried with the best layout.
TUNED = "rtfx", "transcription_time_s", ()


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    model.add_arguments(parser)
    model.add_file_arguments(parser)
    add = parser.add_argument
    add("--word_timestamps", action="store_true", help="find the time of each word, too")
    formats = (*OUTPUT_FORMATS, "all")
    add("--output_format", choices=formats, help="write transcripts, as openai-whisper does")
    add("--output_dir", type=Path, default=Path("transcripts"), help="folder for them")
    instances.add_arguments(parser)
    cli.add_common_arguments(parser, iteration="one transcription of all files", num_iters=6)
    return model.parse(parser)


@dataclass(frozen=True)
class Iteration:
    time_s: float
    files: list  # whisper_openvino.Transcription of each


def measure(job: model.Job, args: argparse.Namespace, journal: Journal) -> list[Iteration]:
    """The timed loop. Ctrl-C keeps what was measured."""
    audio_s = sum(audio_input.seconds(recording.samples) for recording in job.recordings)
    done = []
    instance.wait_for_others()
    with journal.monitor:
        for index in iterations(args.num_iters, args.min_duration):
            started = time.perf_counter()
            transcriptions = job.transcribe(f"iteration {index + 1}")
            time_s = time.perf_counter() - started

            done.append(Iteration(time_s, transcriptions))
            journal.add({"transcription_time_s": [time_s], "rtfx": [audio_s / time_s]})
    return done


def main() -> int:
    args = parse_args()
    paths = audio_input.find(args.audio)
    args.output_dir = instance.own_path(args.output_dir, "transcripts")
    if args.output_format:
        check_output(args, paths)
    if instances.requested(args):
        return tune.measure(args, *TUNED) if args.tune else instances.measure(args)
    job = model.prepare(args, paths, args.word_timestamps)
    for _ in range(args.warmup):
        with progress.stage("Warm-up"):
            job.transcribe("warm-up")
    what = {
        "workload": "audio",
        "title": "Audio AI",
        "primary": "rtfx",
        "work": [("hour of audio", "rtfx", 3600)],
    }
    journal = run.start(args, **what, **model.record_arguments(job, []))
    measured, monitor = measure(job, args, journal), journal.monitor

    files = describe_files(job.recordings, measured)
    count = sum(file["duration_s"] for file in files) * len(measured)
    joules = energy.per_unit_j(monitor.usage, monitor.status, args.device, count)
    samples = {
        **journal.samples,
        "energy_per_audio_second_j": [] if joules is None else [[joules]],
        **error_rates.score(files, job.references, args.task),
        "load_time_s": [[job.loaded.load_time_s]],
        "peak_rss_bytes": [[monitor.usage["peak_rss_bytes"]]],
    }
    results = [each.result for each in measured[-1].files]
    written = write_transcripts(args.output_format, args.output_dir, paths, results)
    texts = {tuple(each.result["text"] for each in iteration.files) for iteration in measured}
    output = {"files": files} if len(files) > 1 else files[0]
    record = run.build(
        args,
        **what,
        **model.record_arguments(job, files),
        samples=samples,
        monitor=monitor,
        output={**output, "same_transcript_every_iteration": len(texts) == 1},
        details=[*summary(files), *written],
    )
    return run.finish(record, args)


def describe_files(
    recordings: list[audio_input.Recording], measured: list[Iteration]
) -> list[dict]:
    """The record's output, by file: the last iteration's, and the times of all."""
    by_file = zip(*(iteration.files for iteration in measured))
    return [
        {
            "name": recording.path.name,
            "duration_s": audio_input.seconds(recording.samples),
            "transcription_times_s": [each.time_s for each in transcriptions],
            **model.describe(transcriptions[-1].result),
        }
        for recording, transcriptions in zip(recordings, by_file)
    ]


def summary(files: list[dict]) -> list[str]:
    """The transcript; of several files a line each."""
    among = f" in {len(files)} files" if len(files) > 1 else ""
    audio_s = sum(file["duration_s"] for file in files)
    languages = ", ".join(sorted({file["language"] for file in files}))
    lines = [f"Audio: {audio_s:.1f} s{among}, language {languages}"]
    if len(files) == 1:
        return [*lines, f"Transcript: {files[0]['transcript']}"]
    for file in files[:MAX_FILES_PRINTED]:
        speed = file["duration_s"] / statistics.median(file["transcription_times_s"])
        rate = file.get("word_error_rate")
        errors = "" if rate is None else f", word error rate {rate:.2%}"
        facts = f"{file['duration_s']:.1f} s, {speed:.4g} × real time, {file['language']}{errors}"
        lines.append(f"{file['name']}: {facts}: {file['transcript']}")
    if len(files) > MAX_FILES_PRINTED:
        lines.append(f"... and {len(files) - MAX_FILES_PRINTED} more files: see the record")
    return lines


def transcript_names(paths: Sequence[Path], output_format: str) -> list[str]:
    formats = OUTPUT_FORMATS if output_format == "all" else (output_format,)
    return [f"{path.stem}.{name}" for path in paths for name in formats]


def check_output(args: argparse.Namespace, paths: Sequence[Path]) -> None:
    """Raise UserError where transcripts could not be written, or would overwrite a file."""
    read = {path.resolve() for path in (*paths, args.reference) if path}
    seen = set()
    try:
        args.output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write to {args.output_dir}: {error.strerror} (--output_dir)"
        ) from None
    for name in transcript_names(paths, args.output_format):
        target = args.output_dir / name
        if target in seen:
            raise UserError(
                f"two audio files would both be written to {target}: rename one, or run them apart"
            )
        if read & {target.resolve(), target.parent.resolve()}:
            raise UserError(f"{target} would replace an input: choose another --output_dir")
        check_new(target, "--output_dir", args.overwrite)
        seen.add(target)


def write_transcripts(
    output_format: str | None, folder: Path, paths: Sequence[Path], results: list[dict]
) -> list[str]:
    """By openai-whisper's own writers; a line that says where. A failure is only a warning."""
    from whisper.utils import get_writer

    if not output_format:
        return []
    try:
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as partial:
            writer = get_writer(output_format, partial)
            for path, result in zip(paths, results):
                writer(result, str(path), {})
            for name in transcript_names(paths, output_format):
                os.replace(Path(partial, name), folder / name)
    except OSError as error:
        print(f"warning: cannot write to {folder}: {error.strerror}", file=sys.stderr)
        return []
    return [f"Transcripts: {folder}/*.{'*' if output_format == 'all' else output_format}"]


if __name__ == "__main__":
    cli.run(main)
