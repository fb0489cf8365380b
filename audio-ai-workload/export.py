"""Export Whisper to OpenVINO IR, from openai-whisper's own modules: an encoder and a decoder.

  python3 export.py
  python3 export.py --model_name large-v3-turbo --weight_format int8
  python3 export.py --checkpoint models/base.pt
  python3 export.py --precision int8

The weights are stored as fp16 by default, as in OpenAI's checkpoints: nothing is lost, and OpenVINO
still computes in the precision that infer.py requests. int8 rounds each row of a weight matrix to
256 levels (NNCF's INT8_ASYM); it needs no calibration data. How the two models share the work: see
split_model.py.

--precision int8 quantizes the encoder's activations, too, with NNCF (post-training quantization),
calibrated on recordings. The loss in word error rate on sample.mp3, or on recordings of your own
with their transcripts, is printed and stored with the model; a model that lost more than
--max_wer_loss is refused.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import pickle
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import audio_input
import error_rates
import model
import quantization
from audio_input import Recording
from error_rates import Reference

from harness import cli, model_files, progress
from harness.cli import UserError

LAYOUT = 2  # of the models' inputs and outputs; a folder with another is made again
PACKAGES = ("torch", "openai-whisper", "openvino")
DEFAULT_FORMAT = "fp16"
DIMS = "dims.json"  # what decoding must know of the model besides the IR
ALIGNMENT_HEADS = "alignment_heads"  # in DIMS: [layer, head] of what word timestamps are read from


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    add = parser.add_argument
    name = "tiny, base.en, large-v3-turbo, ... (default: base, or what --checkpoint is called)"
    add("--model_name", help=name)
    checkpoint = "read this openai-whisper .pt file instead of downloading"
    add("--checkpoint", type=Path, help=checkpoint)
    folder = "folder to make (default: whisper-MODEL_NAME-ov-model; fp32, int8: with the format)"
    add("--output", type=Path, help=folder)
    add("--overwrite", action="store_true", help="replace another export in --output")
    formats = ("fp32", "fp16", "int8")
    stored = f"of the stored weights (default: {DEFAULT_FORMAT}; int8 with --precision int8)"
    add("--weight_format", choices=formats, help=stored)
    add("--verbose", action="store_true", help="show what the libraries print")
    add = parser.add_argument_group("quantization").add_argument
    computed = "of the encoder's computation"
    add("--precision", choices=("float", "int8"), default="float", help=computed)
    recordings = "recordings like those to be transcribed, or folders of them (default: sample.mp3)"
    add("--calibration", type=Path, nargs="+", metavar="PATH", help=recordings)
    most = "use at most N windows of 30 s of them, picked at random"
    add("--calibration_windows", type=cli.positive_int, default=64, metavar="N", help=most)
    truth = "true transcript of --calibration, or a folder of them, as for infer.py "
    truth += "(default: sample.mp3 is scored, with its own)"
    add("--reference", type=Path, metavar="PATH", help=truth)
    loss = "refuse a model whose word error rate, in percent, rose by more"
    add("--max_wer_loss", type=cli.non_negative_float, default=0.5, metavar="POINTS", help=loss)
    args = parser.parse_args()
    int8 = args.precision == "int8"
    if int8 and args.weight_format not in (None, "int8"):
        parser.error(f"--precision int8 stores int8 weights, not {args.weight_format}")
    args.weight_format = args.weight_format or ("int8" if int8 else DEFAULT_FORMAT)
    args.calibration = args.calibration or [model.SAMPLE]
    args.model_name = args.model_name or (args.checkpoint.stem if args.checkpoint else "base")
    return args


def default_output(args: argparse.Namespace) -> Path:
    """infer.py's default for fp16; any other format is in the name."""
    parts = [args.model_name, *[args.weight_format] * (args.weight_format != DEFAULT_FORMAT)]
    parts += ["activations"] * (args.precision == "int8")
    return model_files.beside(__file__, f"whisper-{'-'.join(parts)}-ov-model")


def main() -> int:
    args = parse_args()
    int8 = args.precision == "int8"
    recordings = read(args.calibration) if int8 else []
    scored, references = scored_recordings(args, recordings) if int8 else ([], [])
    output = args.output or default_output(args)
    if args.checkpoint and not args.checkpoint.is_file():
        hint = model_files.where(args.checkpoint, "name an openai-whisper .pt file")
        raise UserError(f"no checkpoint {args.checkpoint}: {hint} (--checkpoint)")
    stamp = stamp_of(args, recordings, references)
    asked = {"is_named": bool(args.output), "overwrite": args.overwrite}
    if model_files.is_to_be_made(output, stamp, is_known=bool(args.checkpoint), **asked):
        with progress.stage("Reading the weights"):
            whisper_model = load(args.model_name, args.checkpoint)
        with model_files.exporting(output, stamp) as folder:
            stored = "fp32" if int8 else args.weight_format  # until it is quantized
            export(whisper_model, folder, stored, args.verbose)
            del whisper_model
            if int8:
                rates = quantize(folder, args, recordings, scored, references)
                stamp["results"] = {"word_error_rate": rates}
        form = f"{args.weight_format} weights"
        if int8:
            form += f" and int8 activations in the encoder, calibrated on {stamp['calibration']}"
        print(f"{output}: Whisper {args.model_name} with {form}")
    options = ("--model_name", args.model_name, "--ovmodel_path", str(output))
    print(model_files.next_command(__file__, *options))
    return cli.EXIT_OK


def stamp_of(
    args: argparse.Namespace, recordings: Sequence[Recording], references: Sequence[Reference]
) -> dict:
    """What the model is made from and with. `recordings`: to calibrate on, for int8."""
    parameters = {"model_name": args.model_name, "weight_format": args.weight_format}
    if args.checkpoint:
        parameters["source_sha256"] = model_files.sha256(args.checkpoint)
    if recordings:
        described = audio_input.describe(recordings)
        parameters |= {
            "precision": args.precision,
            "calibration": described["name"],
            "calibration_sha256": described["sha256"],
            "calibration_windows": args.calibration_windows,
        }
        if args.reference:
            texts = "\n".join(reference.text for reference in references)
            parameters["reference_sha256"] = hashlib.sha256(texts.encode()).hexdigest()
    source = args.checkpoint.name if args.checkpoint else args.model_name
    packages = (*PACKAGES, "nncf") if args.weight_format == "int8" else PACKAGES
    return model_files.stamp(source, packages, layout=LAYOUT, **parameters)


def read(paths: Sequence[Path]) -> list[Recording]:
    """The recordings to calibrate on. Raises UserError."""
    found = audio_input.find(paths, "--calibration")
    with progress.stage("Reading the audio"):
        return [audio_input.read(path) for path in found]


def scored_recordings(
    args: argparse.Namespace, recordings: Sequence[Recording]
) -> tuple[Sequence[Recording], list[Reference]]:
    """What to transcribe before and after quantization, and the true transcripts."""
    reference = args.reference
    if not reference:
        recordings, reference = read([model.SAMPLE]), model.SAMPLE.with_suffix(".txt")
    paths = [recording.path for recording in recordings]
    return recordings, error_rates.read_references(reference, paths)


def load(model_name: str, checkpoint: Path | None):
    """openai-whisper's model, downloaded with its own progress bar where there is no checkpoint.

    A checkpoint has the alignment heads of the model it is named after, if it is of that shape.
    """
    import whisper

    name = str(checkpoint or model_name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            whisper_model = whisper.load_model(name, device="cpu").eval()  # weights only
    except OSError as error:  # urllib's errors are OSErrors too
        raise UserError(
            f"cannot download Whisper '{name}' ({cli.one_line(error)}): "
            "name a local file with --checkpoint"
        ) from None
    except Exception as error:  # torch.load raises what pickle raises
        if isinstance(error, (pickle.UnpicklingError, EOFError)):
            raise UserError(f"{name} {model_files.why_refused(error)}") from None
        raise UserError(f"cannot load Whisper '{name}': {cli.one_line(error)}") from None
    heads = whisper._ALIGNMENT_HEADS.get(model_name)
    if checkpoint and heads:
        with contextlib.suppress(RuntimeError):  # not of that shape: the default stays
            whisper_model.set_alignment_heads(heads)
    return whisper_model


def export(whisper_model, folder: Path, weight_format: str, verbose: bool = False) -> None:
    """Write whisper_encoder.xml, whisper_decoder.xml and DIMS into `folder`."""
    import openvino as ov
    import torch
    from split_model import convert_decoder, convert_encoder

    for name, convert in (("encoder", convert_encoder), ("decoder", convert_decoder)):
        with progress.stage(f"Exporting the {name}"), progress.quiet(verbose), torch.no_grad():
            network = convert(whisper_model)
            if weight_format == "int8":
                network = quantization.compress_weights(network)
            path = folder / f"whisper_{name}.xml"
            ov.save_model(network, path, compress_to_fp16=weight_format != "fp32")
        del network  # a large one takes gigabytes, and the next is converted beside it
    heads = whisper_model.alignment_heads.indices().T.tolist()
    dims = {**asdict(whisper_model.dims), ALIGNMENT_HEADS: heads}
    (folder / DIMS).write_text(json.dumps(dims, indent=1) + "\n")


def quantize(
    folder: Path,
    args: argparse.Namespace,
    calibration: Sequence[Recording],
    scored: Sequence[Recording],
    references: Sequence[Reference],
) -> dict[str, float]:
    """Make the models in this folder int8; returns the word error rate before and after.

    Raises UserError where it rose by more than --max_wer_loss.
    """
    with progress.stage("Scoring the float model"):
        before = quantization.word_error_rate(folder, "f32", scored, references)
    with progress.stage("Quantizing"), progress.quiet(args.verbose):
        n_mels = json.loads((folder / DIMS).read_text())["n_mels"]
        windows = quantization.calibration_windows(calibration, n_mels, args.calibration_windows)
        quantization.quantize(folder, windows)
    with progress.stage("Scoring the int8 model"):
        after = quantization.word_error_rate(folder, "auto", scored, references)
    print(f"Word error rate: {before:.2%} before quantization, {after:.2%} after")
    lost = 100 * (after - before)
    if lost > args.max_wer_loss:
        raise UserError(
            f"int8 adds {lost:.1f} points to a word error rate of {100 * before:.1f} %: calibrate "
            "on recordings more like those to be transcribed (--calibration), or allow it "
            "(--max_wer_loss)"
        )
    return {"before": before, "after": after}


if __name__ == "__main__":
    cli.run(main)
