"""Measure speech recognition: the time to transcribe audio with Whisper, and how many times faster than it plays.

  python3 infer.py --model_name="base" --ovmodel_path="whisper-base-ov-model" --device="CPU" --audio="sample.mp3"
  python3 infer.py --audio recordings/ --reference transcripts/ --word_timestamps --output_format srt

  python3 infer.py --audio recordings/ --batch_size 8

What is timed is the way from samples in memory to text: spectrogram, encoder, and every decoding step, all by
openai-whisper's own transcribe() with its models on OpenVINO. Reading the files is outside, and so is writing transcripts.
One iteration is all files: one after the other, or --batch_size times --num_streams at a time. RTFx (inverse real-time factor)
is seconds of audio over seconds of work.
"""

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # torch's threads must not spin against OpenVINO's

import accuracy
import audio_input
from harness import cli, measure, model as model_files, placement as place, record
from harness.cli import UserError

FALLBACK_TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # openai-whisper's default
OUTPUT_FORMATS = ("txt", "srt", "vtt", "json", "tsv")
PROGRESS_FROM_S = 300  # of audio
MAX_FILES_PRINTED = 20


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    add_arguments(parser)
    parser.add_argument("--word_timestamps", action="store_true", help="find out when each word was spoken, too")
    parser.add_argument("--output_format", choices=(*OUTPUT_FORMATS, "all"), help="write the transcripts, as openai-whisper does")
    parser.add_argument("--output_dir", type=Path, default=Path("transcripts"), help="folder they are written to")
    cli.add_common_arguments(parser, iteration="one transcription of all files", num_iters=6)
    args = parser.parse_args()
    complete(args)
    return args


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is transcribed, by which model, and how."""
    parser.add_argument("--model_name", default="base", help="the Whisper model's name, for the record")
    parser.add_argument("--ovmodel_path", type=Path, help="folder made by export.py (default: whisper-MODEL_NAME-ov-model)")
    parser.add_argument("--audio", type=Path, nargs="+", metavar="PATH",
                        help="audio files, videos with sound, and folders of them (default: sample.mp3)")  # fmt: skip
    parser.add_argument("--reference", type=Path, metavar="PATH",
                        help="true transcript, text or openai-whisper's JSON, or a folder with NAME.txt or NAME.json for each audio "
                        "NAME.ext: adds error rates, and of JSON's words the error of times")  # fmt: skip
    parser.add_argument("--language", help="language spoken, e.g. en (default: detected, file by file)")
    parser.add_argument("--task", choices=("transcribe", "translate"), default="transcribe", help="translate: into English")
    parser.add_argument("--beam_size", type=cli.positive_int, help="beam search of this width (default: greedy)")
    parser.add_argument("--temperature", type=cli.share,
                        help="one sampling temperature (default: 0, and higher ones where openai-whisper falls back on them)")  # fmt: skip
    parser.add_argument("--batch_size", type=cli.positive_int, default=1, help="files whose windows are decoded together")
    parser.add_argument("--num_streams", type=cli.positive_int, default=1,
                        help="files, or batches of files, at a time; they share out the threads")  # fmt: skip


def complete(args: argparse.Namespace) -> None:
    """Defaults that hang on other arguments, or that argparse would show in a list."""
    args.audio = args.audio or [Path("sample.mp3")]
    args.ovmodel_path = args.ovmodel_path or Path(f"whisper-{args.model_name}-ov-model")


def check_language(language: str | None) -> str | None:
    from whisper.tokenizer import LANGUAGES, TO_LANGUAGE_CODE

    code = TO_LANGUAGE_CODE.get(language.lower(), language.lower()) if language else None
    if code and code not in LANGUAGES:
        raise UserError(f"no language '{language}': give a code such as en, es, de, zh, or leave --language out to detect it")
    return code


def check_model_knows(model, language: str | None, task: str) -> None:
    """Raise UserError where this model was not made for the language or the task."""
    from whisper.tokenizer import LANGUAGES

    if not model.is_multilingual and (language not in (None, "en") or task == "translate"):
        raise UserError("this model knows English only: export one without .en in its name (--language, --task)")
    if model.is_multilingual and language and list(LANGUAGES).index(language) >= model.num_languages:
        raise UserError(f"this model does not know {LANGUAGES[language]}, which came with large-v3 (--language)")


def check_folder(args: argparse.Namespace) -> list[Path]:
    """The models' files, which are there and whole; else raises UserError."""
    ir = [args.ovmodel_path / f"whisper_{part}.xml" for part in ("encoder", "decoder")]
    model_files.check_ir(
        *ir, hint=f"make it with `python3 export.py --model_name {args.model_name} --output {args.ovmodel_path}`"
    )
    return ir


def options(args: argparse.Namespace, language: str | None) -> dict:
    """What openai-whisper's transcribe() is told."""
    return {"language": language, "task": args.task, "beam_size": args.beam_size,
            "temperature": FALLBACK_TEMPERATURES if args.temperature is None else args.temperature}  # fmt: skip


def check_output(args: argparse.Namespace, paths: list[Path]) -> None:
    """Raise UserError where transcripts could not be written, or would take the place of a file: before measuring."""
    formats = OUTPUT_FORMATS if args.output_format == "all" else (args.output_format,)
    seen = set()
    for target in (args.output_dir / f"{path.stem}.{name}" for path in paths for name in formats):
        if target in seen:
            raise UserError(f"two audio files would both be written to {target}: rename one, or run them apart")
        if target.exists():
            raise UserError(f"{target} exists and is not overwritten: remove it, or choose another --output_dir")
        seen.add(target)
    try:
        args.output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {args.output_dir}: {error.strerror} (--output_dir)") from None
    if not os.access(args.output_dir, os.W_OK):
        raise UserError(f"cannot write to {args.output_dir}: no permission (--output_dir)")


def write_transcripts(args: argparse.Namespace, paths: list[Path], results: list[dict]) -> None:
    """By openai-whisper's own writers; what can't be written is told and does not cost the record."""
    from whisper.utils import get_writer

    writer = get_writer(args.output_format, str(args.output_dir))
    try:
        for path, result in zip(paths, results):
            writer(result, str(path), {})
    except OSError as error:
        print(f"warning: cannot write transcripts to {args.output_dir}: {error.strerror}", file=sys.stderr)
    else:
        print(f"Transcripts: {args.output_dir}/*.{'*' if args.output_format == 'all' else args.output_format}")


def load(args: argparse.Namespace, placement: place.Placement):
    """Read and compile the models. Returns the Whisper model, its weight format, and the seconds it took."""
    import openvino as ov
    import torch
    from whisper_openvino import DECODER, OpenVINOWhisper

    torch.set_num_threads(1)  # torch only makes the spectrogram and chooses tokens; OpenVINO has the cores
    core = ov.Core()
    streams = {"NUM_STREAMS": args.num_streams} if args.num_streams > 1 else {}
    config = place.openvino_config(core, args.device, placement, "LATENCY", {**streams, **args.ov_config})
    started = time.perf_counter()
    try:
        model = OpenVINOWhisper(core, args.ovmodel_path, args.device, config, args.word_timestamps, args.batch_size,
                                args.num_streams)  # fmt: skip
        weight_format = place.weight_format(core.read_model(args.ovmodel_path / DECODER))
    except (RuntimeError, ValueError, OSError, TypeError) as error:
        raise UserError(f"cannot load {args.ovmodel_path}: {cli.one_line(error)} (export it again with export.py)") from None
    return model, weight_format, time.perf_counter() - started


def progress_bar(audio_s: float, what: str):
    """A bar of the seconds of audio done, on a terminal and for long audio only. It is redrawn at most once a second."""
    import tqdm

    shown = sys.stderr.isatty() and audio_s >= PROGRESS_FROM_S
    form = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s of audio [{elapsed}<{remaining}]"
    return tqdm.tqdm(total=audio_s, desc=what, bar_format=form, mininterval=1, leave=False, disable=not shown)


def transcribe_all(model, audio: list, how: dict, what: str) -> list:
    """One iteration: a Transcription of each file."""
    done_s = [0.0] * len(audio)
    with progress_bar(sum(map(audio_input.seconds, audio)), what) as bar:

        def progress(index: int, of_file_s: float) -> None:
            done_s[index] = of_file_s
            bar.update(sum(done_s) - bar.n)

        return model.transcribe_all(audio, progress, **how)


def told(result: dict) -> dict:
    """What the record keeps of a transcription."""
    segments = []
    for segment in result["segments"]:
        segments.append({key: segment[key] for key in ("start", "end", "text", "temperature")})
        if "words" in segment:
            segments[-1]["words"] = [
                {"word": word["word"], **{key: float(word[key]) for key in ("start", "end", "probability")}}
                for word in segment["words"]
            ]
    return {"transcript": result["text"].strip(), "language": result["language"], "segments": segments}


def source_of(paths: list[Path], durations_s: list[float]) -> dict:
    """What the record says of the audio."""
    source = {"name": paths[0].name, "sha256": model_files.sha256(*paths), "duration_s": sum(durations_s)}
    if len(paths) > 1:
        source["name"] = f"{len(paths)} files, {paths[0].name} to {paths[-1].name}"
        source["files"] = [
            {"name": path.name, "sha256": model_files.sha256(path), "duration_s": duration_s}
            for path, duration_s in zip(paths, durations_s)
        ]
    return source


def judge(files: list[dict], references: list[accuracy.Reference], task: str) -> dict[str, dict]:
    """Give each file its error rates; the metrics of all files together: errors over words (characters), and how far off the
    times of words are that both have."""
    each, starts_s, ends_s = [], [], []
    for file, reference in zip(files, references):
        language = "en" if task == "translate" else file["language"]
        each.append(accuracy.errors(reference.text, file["transcript"], language))
        file["word_error_rate"], file["character_error_rate"] = each[-1].word_error_rate, each[-1].character_error_rate
        found = [accuracy.Word(word["word"], word["start"], word["end"])
                 for segment in file.get("segments", ()) for word in segment.get("words", ())]  # fmt: skip
        its_starts_s, its_ends_s = accuracy.word_time_errors(reference.words, found, language)
        starts_s, ends_s = starts_s + its_starts_s, ends_s + its_ends_s
    errors = accuracy.pooled(each)
    metrics = {
        "word_error_rate": measure.summarize([errors.word_error_rate], "errors per word", "lower"),
        "character_error_rate": measure.summarize([errors.character_error_rate], "errors per character", "lower"),
    }
    if starts_s:
        metrics["word_start_error_s"] = measure.summarize(starts_s, "s", "lower")
        metrics["word_end_error_s"] = measure.summarize(ends_s, "s", "lower")
    return metrics


def main() -> int:
    args = parse_args()
    placement = place.Placement.from_arguments(args)
    paths = audio_input.find(args.audio)
    references = accuracy.read_references(args.reference, paths) if args.reference else None
    ir = check_folder(args)
    record.check_destination(args)
    if args.output_format:
        check_output(args, paths)
    language = check_language(args.language)
    audio = [audio_input.read(path) for path in paths]
    durations_s = [audio_input.seconds(samples) for samples in audio]
    audio_s = sum(durations_s)

    model, weight_format, load_time_s = load(args, placement)
    place.check_int8(placement, weight_format)
    check_model_knows(model, language, args.task)
    how = {**options(args, language), "word_timestamps": args.word_timestamps}
    told_model = model_files.describe(args.model_name, args.ovmodel_path, ir, weight_format)
    told_placement = place.describe(placement, model.compiled)
    machine = record.introduce({**told_model, "name": f"Whisper {args.model_name}"}, told_placement, args.device, load_time_s)

    for _ in range(args.warmup):
        transcribe_all(model, audio, how, "warm-up")

    times_s, file_times_s, results, texts = [], [], [], set()
    with measure.Watch() as watch:
        for index in measure.iterations(args.num_iters, args.min_duration):
            started = time.perf_counter()
            transcriptions = transcribe_all(model, audio, how, f"iteration {index + 1}")
            times_s.append(time.perf_counter() - started)
            file_times_s.append([each.time_s for each in transcriptions])
            results = [each.result for each in transcriptions]
            texts.add(tuple(result["text"] for result in results))
    if not results:
        raise KeyboardInterrupt

    raw = {"inference_time_s": times_s, "rtfx": [audio_s / time_s for time_s in times_s]}
    metrics = {
        "inference_time_s": measure.summarize(raw["inference_time_s"], "s", "lower"),
        "rtfx": measure.summarize(raw["rtfx"], "× real time", "higher"),
        "load_time_s": measure.summarize([load_time_s], "s", "lower"),
        "peak_rss_bytes": measure.summarize([watch.usage["peak_rss_bytes"]], "bytes", "lower"),
    }
    files = [
        {"name": path.name, "duration_s": duration_s, "inference_times_s": list(its_times_s), **told(result)}
        for path, duration_s, its_times_s, result in zip(paths, durations_s, zip(*file_times_s), results)
    ]
    languages = ", ".join(sorted({file["language"] for file in files}))
    print(f"\nInference time: {measure.describe(metrics['inference_time_s'])}")
    print(f"RTFx: {measure.describe(metrics['rtfx'])}")
    measure.tell_energy(metrics, watch, args.device, "audio second", audio_s * len(times_s))
    if references:
        metrics |= judge(files, references, args.task)
        print(f"Word error rate: {metrics['word_error_rate']['median']:.2%}")
        print(f"Character error rate: {metrics['character_error_rate']['median']:.2%}")
        if "word_start_error_s" in metrics:
            print(f"Error of words' times: start {measure.describe(metrics['word_start_error_s'])}, "
                  f"end {measure.describe(metrics['word_end_error_s'])}")  # fmt: skip
    among = f" in {len(files)} files" if len(files) > 1 else ""
    print(f"Audio: {audio_s:.1f} s{among}, language {languages}; peak memory {watch.usage['peak_rss_bytes'] / 2**30:.2f} GiB")
    print_transcripts(files)
    if args.output_format:
        write_transcripts(args, paths, results)
    print()

    output = {key: files[0][key] for key in ("transcript", "language", "segments")}
    if len(files) > 1:
        output = {"files": files}
    run = record.build(
        "audio",
        args,
        headline="rtfx",
        metrics=metrics,
        samples=raw,
        model=told_model,
        source=source_of(paths, durations_s),
        machine=machine,
        placement=told_placement,
        watch=watch,
        output={**output, "same_transcript_every_iteration": len(texts) == 1},
        resolved={
            "runtime": "openai-whisper on openvino",
            "language": languages,
            "audio": str(args.audio[0]) if len(args.audio) == 1 else [str(path) for path in args.audio],
        },
    )
    return record.finish(run, args)


def print_transcripts(files: list[dict]) -> None:
    """The transcript; of several files a line each."""
    if len(files) == 1:
        print(f"Transcript: {files[0]['transcript']}")
        return
    for file in files[:MAX_FILES_PRINTED]:
        speed = file["duration_s"] / statistics.median(file["inference_times_s"])
        errors = f", word error rate {file['word_error_rate']:.2%}" if "word_error_rate" in file else ""
        print(
            f"{file['name']}: {file['duration_s']:.1f} s, {speed:.4g} × real time, {file['language']}{errors}: {file['transcript']}"
        )
    if len(files) > MAX_FILES_PRINTED:
        print(f"... and {len(files) - MAX_FILES_PRINTED} files more: see the record")


if __name__ == "__main__":
    cli.run(main)
