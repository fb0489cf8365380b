"""Whisper on OpenVINO: options of every door, checks, loading, transcription, and its record."""

from __future__ import annotations

import os
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import audio_input
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
FALLBACK_TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # openai-whisper's default
PROGRESS_FROM_S = 300  # of audio


@dataclass(frozen=True)
class Settings:
    """Which model is loaded, and how it transcribes. See add_arguments()."""

    model_name: str
    ovmodel_path: Path
    device: str
    ov_config: dict
    placement: Placement
    batch_size: int
    num_streams: int
    options: dict  # of openai-whisper's transcribe()

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
        return transcribe(self.loaded.whisper, audio, self.settings.options, label)


def add_arguments(parser: ArgumentParser, reference_required: bool = False) -> None:
    """What is transcribed, by which model, and how."""
    add = parser.add_argument
    add("--model_name", default="base", help="the Whisper model's name, for the record")
    folder = "folder made by export.py (default: whisper-MODEL_NAME-ov-model)"
    add("--ovmodel_path", type=Path, help=folder)
    audio = "audio files, videos with sound, folders of them (default: sample.mp3)"
    add("--audio", type=Path, nargs="+", metavar="PATH", help=audio)
    reference = (
        "true transcript, text or openai-whisper's JSON; or a folder with NAME.txt or NAME.json "
        "for each audio NAME.ext: measures error rates"
    )
    required = reference_required
    add("--reference", type=Path, metavar="PATH", required=required, help=reference)
    add("--language", help="language spoken, e.g. en (default: detected, file by file)")
    tasks = ("transcribe", "translate")
    add("--task", choices=tasks, default="transcribe", help="translate: into English")
    add("--beam_size", type=cli.positive_int, help="width of beam search (default: greedy)")
    temperature = "of sampling (default: 0, higher where openai-whisper falls back on it)"
    add("--temperature", type=cli.share, help=temperature)
    batch = "files whose windows are decoded together"
    add("--batch_size", type=cli.positive_int, default=1, help=batch)
    streams = "files, or batches of files, transcribed concurrently; they share the threads"
    add("--num_streams", type=cli.positive_int, default=1, help=streams)


def parse(parser: ArgumentParser) -> Namespace:
    """The arguments, with those defaults that others decide or that are lists."""
    args = parser.parse_args()
    args.audio = args.audio or [model_files.beside(__file__, "sample.mp3")]
    folder = model_files.beside(__file__, f"whisper-{args.model_name}-ov-model")
    args.ovmodel_path = args.ovmodel_path or folder
    return args


def prepare(args: Namespace, paths: Sequence[Path], word_timestamps: bool | None = False) -> Job:
    """Check, read the audio, load the model and print the header.

    `word_timestamps` None: where a reference has words' times. Raises UserError.
    """
    references = error_rates.read_references(args.reference, paths) if args.reference else []
    if word_timestamps is None:
        word_timestamps = any(reference.words for reference in references)
    options = {
        "language": check_language(args.language),  # None: detected, file by file
        "task": args.task,
        "beam_size": args.beam_size,  # None: greedy
        "temperature": FALLBACK_TEMPERATURES if args.temperature is None else args.temperature,
        "word_timestamps": word_timestamps,
    }
    known = {**vars(args), "placement": Placement.from_arguments(args), "options": options}
    settings = Settings(**{field.name: known[field.name] for field in fields(Settings)})
    command = f"export.py --model_name {args.model_name} --output {args.ovmodel_path}"
    model_files.check_ir(*settings.ir_files(), hint=f"make it with `python3 {command}`")
    run.check_destination(args)
    with progress.stage("Reading the audio"):
        recordings = [Recording(path, audio_input.read(path)) for path in paths]
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
    name = f"Whisper {settings.model_name}"
    described = model_files.describe(name, folder, settings.ir_files(), weights)
    placed = openvino_setup.describe(placement, whisper.compiled)
    return Loaded(whisper, described, placed, load_time_s)


def transcribe(whisper, audio: Sequence[np.ndarray], options: dict, label: str) -> list:
    """Transcribe each file; for long audio with a progress bar, on a terminal."""
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


def record_arguments(job: Job, files: Sequence[dict], **more_task) -> dict:
    """What every door passes to harness.run.build(); `files` have the language of each."""
    settings, loaded, options = job.settings, job.loaded, job.settings.options
    languages = ", ".join(sorted({file["language"] for file in files}))
    fallback = options["temperature"] == FALLBACK_TEMPERATURES
    audio = [str(recording.path) for recording in job.recordings]
    return {
        "task": {
            "language": languages,
            "language given": options["language"] is not None,
            "task": options["task"],
            "beam size": options["beam_size"],
            "temperature": None if fallback else options["temperature"],
            "word timestamps": options["word_timestamps"],
            **more_task,
        },
        "input": audio_input.describe(job.recordings),
        "system": job.system,
        "model": loaded.model,
        "placement": loaded.placement,
        "comparable_by": {"runtime": RUNTIME, "device": settings.device},
        "configuration": {"batch size": settings.batch_size, "streams": settings.num_streams},
        "packages": PACKAGES,
        "resolved": {"runtime": RUNTIME, "language": languages, "audio": audio},
    }
