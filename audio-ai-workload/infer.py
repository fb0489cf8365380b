"""Measure speech recognition: the time to transcribe an audio file with Whisper, and how many times faster than it plays.

  python3 infer.py --model_name="base" --ovmodel_path="whisper-base-ov-model" --device="CPU" --audio="sample.mp3"

What is timed is the way from samples in memory to text: spectrogram, encoder, and every decoding step, all by
openai-whisper's own transcribe() with the two models on OpenVINO. Reading the file is outside.
RTFx (inverse real-time factor) is seconds of audio over seconds of work.
"""

import argparse
import os
import sys
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # torch's threads must not spin against OpenVINO's

from harness import cli, measure, model as model_files, placement as place, record, system
from harness.cli import UserError

SAMPLE_RATE = 16_000  # Hz, Whisper's
FALLBACK_TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # openai-whisper's default


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    parser.add_argument("--model_name", default="base", help="the Whisper model's name, for the record")
    parser.add_argument("--ovmodel_path", type=Path, default=Path("whisper-base-ov-model"), help="folder made by export.py")
    parser.add_argument("--audio", type=Path, default=Path("sample.mp3"), help="audio file")
    parser.add_argument("--reference", type=Path, help="text file with the true transcript: adds the word error rate")
    parser.add_argument("--language", help="language spoken, e.g. en (default: detected)")
    parser.add_argument("--task", choices=("transcribe", "translate"), default="transcribe", help="translate: into English")
    parser.add_argument("--beam_size", type=cli.positive_int, help="beam search of this width (default: greedy)")
    parser.add_argument("--temperature", type=cli.share,
                        help="one sampling temperature (default: 0, and higher ones where openai-whisper falls back on them)")  # fmt: skip
    cli.add_common_arguments(parser, iteration="one transcription of the file", num_iters=6)
    return parser.parse_args()


def read_audio(path: Path):
    """The file's samples: float32 [n] at 16 kHz, mono.

    Raises UserError where it is no readable audio, is empty, or holds values that are not numbers.
    """
    import librosa
    import numpy as np

    if not path.is_file():
        raise UserError(f"no audio file {path} (--audio)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # librosa's, on its second way of reading
            samples, _ = librosa.load(path, sr=SAMPLE_RATE, mono=True)
    except Exception as error:  # whatever libsndfile or audioread raise
        raise UserError(f"{path} can't be read as audio ({cli.one_line(error)}): give a wav, flac, ogg or mp3 file") from None
    if samples.size == 0:
        raise UserError(f"{path} holds no sound: it is 0 s long")
    if not np.isfinite(samples).all():
        raise UserError(f"{path} holds samples that are not numbers: re-encode it")
    return samples


def read_reference(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the reference {path}: {cli.one_line(error)}") from None
    if not text.strip():
        raise UserError(f"the reference {path} is empty")
    return text


def word_error_rate(reference: str, transcript: str, language: str) -> float:
    """Word error rate after Whisper's own text normalization, as in the Whisper paper (appendix C)."""
    import jiwer
    from whisper.normalizers import BasicTextNormalizer, EnglishTextNormalizer

    normalize = EnglishTextNormalizer() if language == "en" else BasicTextNormalizer()
    return jiwer.wer(normalize(reference), normalize(transcript))


def check_language(language: str | None) -> str | None:
    from whisper.tokenizer import LANGUAGES, TO_LANGUAGE_CODE

    code = TO_LANGUAGE_CODE.get(language.lower(), language.lower()) if language else None
    if code and code not in LANGUAGES:
        raise UserError(f"no language '{language}': give a code such as en, es, de, zh, or leave --language out to detect it")
    return code


def load(args: argparse.Namespace, placement: place.Placement):
    """Read and compile both models. Returns the Whisper model, its weight format, and the seconds it took."""
    import openvino as ov
    from whisper_openvino import DECODER, OpenVINOWhisper

    core = ov.Core()
    config = place.openvino_config(core, args.device, placement, "LATENCY", args.ov_config)
    started = time.perf_counter()
    try:
        model = OpenVINOWhisper(core, args.ovmodel_path, args.device, config)
        weight_format = place.weight_format(core.read_model(args.ovmodel_path / DECODER))
    except (RuntimeError, ValueError, OSError, TypeError) as error:
        raise UserError(f"cannot load {args.ovmodel_path}: {cli.one_line(error)} (export it again with export.py)") from None
    return model, weight_format, time.perf_counter() - started


def main() -> int:
    args = parse_args()
    placement = place.Placement.from_arguments(args)
    reference = read_reference(args.reference) if args.reference else None
    ir = [args.ovmodel_path / f"whisper_{part}.xml" for part in ("encoder", "decoder")]
    model_files.check_ir(
        *ir, hint=f"make it with `python3 export.py --model_name {args.model_name} --output {args.ovmodel_path}`"
    )
    record.check_destination(args)
    samples = read_audio(args.audio)
    audio_s = len(samples) / SAMPLE_RATE
    language = check_language(args.language)

    model, weight_format, load_time_s = load(args, placement)
    place.check_int8(placement, weight_format)
    how = {"language": language, "task": args.task, "beam_size": args.beam_size,
           "temperature": FALLBACK_TEMPERATURES if args.temperature is None else args.temperature}  # fmt: skip
    told_model = model_files.describe(args.model_name, args.ovmodel_path, ir, weight_format)
    told_placement = place.describe(placement, {"decoder": model.compiled_decoder, "encoder": model.compiled_encoder})
    machine = system.describe()
    print(f"Model: Whisper {model_files.one_line(told_model)}; loaded in {load_time_s:.1f} s")
    print(f"System: {system.one_line(machine)}")
    print(f"Placement: {place.one_line(told_placement, args.device)}", flush=True)

    for _ in range(args.warmup):
        model.transcribe(samples, **how)

    inference_times_s, results = [], []
    with measure.Watch() as watch:
        for _ in measure.iterations(args.num_iters, args.min_duration):
            model.forget()
            started = time.perf_counter()
            result = model.transcribe(samples, **how)
            inference_times_s.append(time.perf_counter() - started)
            results.append(result)
    if not results:
        raise KeyboardInterrupt

    result = results[-1]
    transcript = result["text"].strip()
    raw = {"inference_time_s": inference_times_s, "rtfx": [audio_s / t for t in inference_times_s]}
    metrics = {
        "inference_time_s": measure.summarize(raw["inference_time_s"], "s", "lower"),
        "rtfx": measure.summarize(raw["rtfx"], "× real time", "higher"),
        "load_time_s": measure.summarize([load_time_s], "s", "lower"),
        "peak_rss_bytes": measure.summarize([watch.usage["peak_rss_bytes"]], "bytes", "lower"),
    }
    print(f"\nInference time: {measure.describe(metrics['inference_time_s'])}")
    print(f"RTFx: {measure.describe(metrics['rtfx'])}")
    if reference:
        rate = word_error_rate(reference, transcript, result["language"])
        metrics["word_error_rate"] = measure.summarize([rate], "errors per word", "lower")
        print(f"Word error rate: {rate:.2%}")
    print(f"Audio: {audio_s:.1f} s, language {result['language']}; peak memory {watch.usage['peak_rss_bytes'] / 2**30:.2f} GiB")
    print(f"Transcript: {transcript}\n")

    run = record.build(
        "audio",
        args,
        headline="rtfx",
        metrics=metrics,
        samples=raw,
        model=told_model,
        source={"name": args.audio.name, "sha256": model_files.sha256(args.audio), "duration_s": audio_s},
        machine=machine,
        placement=told_placement,
        watch=watch,
        output={
            "transcript": transcript,
            "language": result["language"],
            "segments": [
                {key: segment[key] for key in ("start", "end", "text", "temperature")} for segment in result["segments"]
            ],
            "same_transcript_every_iteration": len({r["text"] for r in results}) == 1,
        },
        resolved={"runtime": "openai-whisper on openvino", "language": result["language"]},
    )
    return record.finish(run, args)


if __name__ == "__main__":
    cli.run(main)
