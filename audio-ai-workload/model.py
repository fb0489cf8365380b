"""Whisper on OpenVINO: options of every door, checks, loading, transcription, and its record."""

from __future__ import annotations

import math
import os
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any

import audio_input
import chunks
import error_rates
import numpy as np
from audio_input import Recording
from error_rates import Reference

from harness import cli, model_files, openvino_setup, progress, run
from harness.cli import UserError
from harness.openvino_setup import Placement

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # torch's threads must not spin beside OpenVINO

RUNTIME = "openai-whisper on openvino"
PACKAGES = ("openvino", "openai-whisper", "torch", "av")
SAMPLE = model_files.beside(__file__, "sample.mp3")
FALLBACK_TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # openai-whisper's default
HOP, WINDOW_HOPS = 160, 3000  # Whisper's: samples per column of a spectrogram, columns per window
PROGRESS_FROM_S = 300  # of audio
PIECES_AT_ONCE = 8  # with --chunked
SIZES = {  # by width, encoder layers, decoder layers
    **{(384, 4, 4): "tiny", (512, 6, 6): "base", (768, 12, 12): "small"},
    **{(1024, 24, 24): "medium", (1280, 32, 32): "large", (1280, 32, 4): "large-v3-turbo"},
}


@dataclass(frozen=True)
class Settings:
    """Which model is loaded, and how it transcribes. See add_arguments()."""

    model_name: str | None  # None: whatever the folder holds
    ovmodel_path: Path
    device: str
    ov_config: dict
    placement: Placement
    batch_size: int
    num_streams: int
    options: dict  # of openai-whisper's transcribe()
    chunked: bool = False

    def ir_files(self) -> list[Path]:
        return [self.ovmodel_path / f"whisper_{part}.xml" for part in ("encoder", "decoder")]


@dataclass(frozen=True)
class Loaded:
    whisper: Any  # whisper_openvino.OpenVINOWhisper
    model: dict  # the record's
    placement: dict  # the record's
    load_time_s: float  # reading and compiling, without imports


@dataclass(frozen=True)
class Job:
    """A loaded model, and what it is to transcribe."""

    settings: Settings
    loaded: Loaded
    system: dict  # the record's
    recordings: list[Recording]
    references: list[Reference]  # empty without --reference

    def transcribe(self, label: str) -> list:
        audio = [recording.samples for recording in self.recordings]
        how = transcribe_chunked if self.settings.chunked else transcribe
        return how(self.loaded.whisper, audio, self.settings.options, label)

    def count_pieces(self) -> int:
        """How many transcriptions there are to do: of files, or of their pieces."""
        if not self.settings.chunked:
            return len(self.recordings)
        return sum(len(chunks.cut(recording.samples)) for recording in self.recordings)


def add_arguments(parser: ArgumentParser) -> None:
    """What is transcribed, by which model, and how."""
    add = parser.add_argument
    name = "tiny to large-v3-turbo (default: base, or what --ovmodel_path holds)"
    add("--model_name", help=name)
    folder = "folder made by export.py (default: whisper-MODEL_NAME-ov-model)"
    add("--ovmodel_path", type=Path, help=folder)
    audio = "audio files, videos with sound, folders of them (default: sample.mp3)"
    add("--audio", type=Path, nargs="+", metavar="PATH", help=audio)
    reference = (
        "true transcript, text or openai-whisper's JSON; or a folder with NAME.txt or NAME.json "
        "for each audio NAME.ext: measures error rates"
    )
    add("--reference", type=Path, metavar="PATH", help=reference)
    add("--language", help="language spoken, e.g. en (default: detected, file by file)")
    tasks = ("transcribe", "translate")
    add("--task", choices=tasks, default="transcribe", help="translate: into English")
    add("--beam_size", type=cli.positive_int, help="width of beam search (default: greedy)")
    temperature = "of sampling (default: 0, higher where openai-whisper falls back on it)"
    add("--temperature", type=cli.share, help=temperature)
    batch = "files, or pieces of --chunked, whose windows are decoded together "
    batch += f"(default: 1; {PIECES_AT_ONCE} with --chunked)"
    add("--batch_size", type=cli.positive_int, help=batch)
    streams = "files, or batches of files, transcribed concurrently; they share the threads"
    add("--num_streams", type=cli.positive_int, default=1, help=streams)


def add_file_arguments(parser: ArgumentParser) -> None:
    """Of the doors that transcribe whole files."""
    add = parser.add_argument
    chunked = "cut long files at pauses, and transcribe the pieces as if each were a file"
    add("--chunked", action="store_true", help=chunked)
    without = "text only, without the times of segments: fewer tokens and windows"
    add("--without_timestamps", action="store_true", help=without)


def parse(parser: ArgumentParser) -> Namespace:
    """The arguments, with those defaults that others decide or that are lists."""
    # Of a door that lacks them.
    parser.set_defaults(chunked=False, without_timestamps=False, word_timestamps=False)
    args = parser.parse_args()
    if args.without_timestamps and args.word_timestamps:
        parser.error("--word_timestamps finds what --without_timestamps leaves out")
    args.batch_size = args.batch_size or (PIECES_AT_ONCE if args.chunked else 1)
    args.audio = args.audio or [SAMPLE]
    if not args.ovmodel_path:
        args.model_name = args.model_name or "base"
        args.ovmodel_path = model_files.beside(__file__, f"whisper-{args.model_name}-ov-model")
    return args


def prepare(args: Namespace, paths: Sequence[Path], word_timestamps: bool | None = False) -> Job:
    """Check, read the audio, load the model and print the header.

    `word_timestamps` None: where a reference has words' times, unless without timestamps. Raises
    UserError.
    """
    references = error_rates.read_references(args.reference, paths) if args.reference else []
    if word_timestamps is None:
        are_timed = any(reference.words for reference in references)
        word_timestamps = are_timed and not args.without_timestamps
    options = {
        "language": check_language(args.language),  # None: detected, file by file
        "task": args.task,
        "beam_size": args.beam_size,  # None: greedy
        "temperature": FALLBACK_TEMPERATURES if args.temperature is None else args.temperature,
        "word_timestamps": word_timestamps,
        "without_timestamps": args.without_timestamps,
    }
    known = {**vars(args), "placement": Placement.from_arguments(args), "options": options}
    settings = Settings(**{field.name: known[field.name] for field in fields(Settings)})
    name = args.model_name or "base"
    command = f"export.py --model_name {name} --output {args.ovmodel_path}"
    model_files.check_ir(*settings.ir_files(), hint=f"make it with `python3 {command}`")
    run.check_destination(args)
    with progress.stage("Reading the audio"):
        recordings = [audio_input.read(path) for path in paths]
    with progress.stage("Loading the model"):
        loaded = load(settings)
    system = run.print_header(loaded.model, loaded.placement, args.device, loaded.load_time_s)
    return Job(settings, loaded, system, recordings, references)


def check_language(language: str | None) -> str | None:
    """Its code. Raises UserError where there is no such language."""
    from whisper.tokenizer import LANGUAGES, TO_LANGUAGE_CODE

    code = TO_LANGUAGE_CODE.get(language.lower(), language.lower()) if language else None
    if code and code not in LANGUAGES:
        raise UserError(
            f"no language '{language}': give a code such as en, es, de, zh, "
            "or leave --language out to detect it"
        )
    return code


def check_model_knows(whisper, language: str | None, task: str) -> None:
    """Raise UserError where this model was not made for the language or the task."""
    from whisper.tokenizer import LANGUAGES

    if not whisper.is_multilingual and (language not in (None, "en") or task == "translate"):
        raise UserError(
            "this model knows English only: export one without .en in its name (--language, --task)"
        )
    known = list(LANGUAGES)[: whisper.num_languages]
    if whisper.is_multilingual and language and language not in known:
        raise UserError(
            f"this model does not know {LANGUAGES[language]}, which came with large-v3 (--language)"
        )


def size(dims) -> str:
    """What openai-whisper calls a model of these dimensions, of several names the longest."""
    english = ".en" if dims.n_vocab == 51864 else ""
    layers = dims.n_audio_state, dims.n_audio_layer, dims.n_text_layer
    name = SIZES.get(layers, "of unknown size")
    return (name if name != "large" or dims.n_mels == 80 else "large-v3") + english


def check_name(name: str | None, dims, exported_as: str | None, folder: Path) -> str:
    """The model's name for the record: `name`, else what it was exported as, else its size.

    Raises UserError where `name` is one of openai-whisper's, but the folder holds another model.
    """
    from whisper import available_models

    alike = {"large": "large-v3", "turbo": "large-v3-turbo"}
    official, held = {*available_models()}, size(dims)
    name = name or exported_as or held
    if name not in official:
        return f"{name} ({held})"
    wanted, stamped = alike.get(name, name), alike.get(exported_as, exported_as)
    of_size = {wanted, "large"} if wanted in ("large-v1", "large-v2") else {wanted}
    if held not in of_size or (stamped in official and stamped != wanted):
        known = stamped if stamped in official and held in (stamped, "large") else held
        raise UserError(f"--model_name {name}: {folder} holds Whisper {known}")
    return name


def load(settings: Settings) -> Loaded:
    """Read and compile the models. Raises UserError where that fails or another is needed."""
    import openvino
    import torch
    from whisper_openvino import DECODER, OpenVINOWhisper

    folder, device, placement = settings.ovmodel_path, settings.device, settings.placement
    parallel = settings.batch_size, settings.num_streams
    torch.set_num_threads(1)  # for spectrogram and choice of tokens; OpenVINO does the rest
    core = openvino.Core()
    streams = {"NUM_STREAMS": settings.num_streams} if settings.num_streams > 1 else {}
    extra = {**streams, **settings.ov_config}
    config = openvino_setup.compile_config(core, device, placement, "LATENCY", extra)
    started = time.perf_counter()
    try:
        whisper = OpenVINOWhisper(
            core, folder, device, config, settings.options["word_timestamps"], *parallel
        )
        weights = openvino_setup.weight_format(core.read_model(folder / DECODER))
    except (RuntimeError, ValueError, OSError, TypeError) as error:
        raise model_files.cannot_load(folder, error) from None
    load_time_s = time.perf_counter() - started
    openvino_setup.check_int8(placement, weights)
    check_model_knows(whisper, settings.options["language"], settings.options["task"])
    exported_as = (model_files.read_stamp(folder) or {}).get("model_name")
    name = check_name(settings.model_name, whisper.dims, exported_as, folder)
    described = model_files.describe(f"Whisper {name}", folder, settings.ir_files(), weights)
    placed = openvino_setup.describe(placement, whisper.compiled)
    return Loaded(whisper, described, placed, load_time_s)


def transcribe(whisper, audio: Sequence[np.ndarray], options: dict, label: str) -> list:
    """Transcribe each file; for long audio with a progress bar, on a terminal.

    Raises UserError where less was computed than that takes: such a time is no measurement.
    """
    before = whisper.work()
    done = transcribe_with_progress(whisper, audio, options, label)
    encoded, steps = (now - then for now, then in zip(whisper.work(), before))
    windows = sum(math.ceil(len(samples) // HOP / WINDOW_HOPS) for samples in audio)
    tokens = sum(len(part["tokens"]) for each in done for part in each.result["segments"])
    if encoded < windows or steps * whisper.batch_size < tokens:
        raise UserError(
            f"{encoded} of {windows} windows were encoded, and {tokens} tokens written in {steps} "
            "steps: faster than possible"
        )
    return done


def transcribe_chunked(whisper, audio: Sequence[np.ndarray], options: dict, label: str) -> list:
    """Transcribe the pieces of each file between pauses, none with the text of another.

    A file's language is that of its beginning. Raises UserError as transcribe() does.
    """
    cuts = [chunks.cut(samples) for samples in audio]
    given = options["language"]
    languages = [given] * len(audio) if given else whisper.detect_languages(audio)
    pieces = [samples[piece] for samples, parts in zip(audio, cuts) for piece in parts]
    alone = {**options, "condition_on_previous_text": False}
    alone["languages"] = [name for name, parts in zip(languages, cuts) for _ in parts]
    done = iter(transcribe(whisper, pieces, alone, label))
    return [chunks.join(list(islice(done, len(parts))), parts) for parts in cuts]


def transcribe_with_progress(
    whisper, audio: Sequence[np.ndarray], options: dict, label: str
) -> list:
    audio_s = sum(map(audio_input.seconds, audio))
    if audio_s < PROGRESS_FROM_S:
        return whisper.transcribe_all(audio, lambda index, done_s: None, **options)
    done_s = [0.0] * len(audio)
    with progress.bar(label, round(audio_s), " s of audio") as line:

        def report(index: int, of_file_s: float) -> None:
            done_s[index] = of_file_s
            line.update(round(sum(done_s)) - line.n)

        return whisper.transcribe_all(audio, report, **options)


def describe(result: dict) -> dict:
    """What the record keeps of a transcription."""
    segments = []
    for segment in result["segments"]:
        segments.append({key: segment[key] for key in ("start", "end", "text", "temperature")})
        if "words" in segment:  # numpy's numbers as Python's
            segments[-1]["words"] = [
                {key: value if key == "word" else float(value) for key, value in word.items()}
                for word in segment["words"]
            ]
    text, language = result["text"].strip(), result["language"]
    return {"transcript": text, "language": language, "segments": segments}


def record_arguments(
    job: Job, files: Sequence[dict], configuration: dict | None = None, **task
) -> dict:
    """What every door passes to harness.run.build(); `files` have the language of each.

    `configuration` and `task` come after the entries made here. Only what has an effect is listed:
    runs that differ in anything else are the same work.
    """
    settings, loaded, options = job.settings, job.loaded, job.settings.options
    languages = ", ".join(sorted({file["language"] for file in files}))
    temperature, streams = options["temperature"], settings.num_streams
    fallback = temperature == FALLBACK_TEMPERATURES
    given = loaded.whisper.is_multilingual and options["language"] is not None
    # What there are too few files or pieces for makes no difference.
    batch_size = min(settings.batch_size, math.ceil(job.count_pieces() / streams))
    audio = [str(recording.path) for recording in job.recordings]
    return {
        "task": {
            "language": languages,
            "language given": given,
            "task": options["task"],
            "beam size": options["beam_size"] if fallback or not temperature else None,
            "temperature": None if fallback else temperature,
            "word timestamps": options["word_timestamps"],
            "without timestamps": options["without_timestamps"] or None,
            "chunked": settings.chunked or None,
            **task,
        },
        "input": audio_input.describe(job.recordings),
        "system": job.system,
        "model": loaded.model,
        "placement": loaded.placement,
        "comparable_by": {"runtime": RUNTIME, "device": settings.device},
        "configuration": {"batch size": batch_size, "streams": streams, **(configuration or {})},
        "packages": PACKAGES,
        "resolved": {"runtime": RUNTIME, "language": languages, "audio": audio},
        "warnings": [text for recording in job.recordings for text in recording.warnings],
    }
