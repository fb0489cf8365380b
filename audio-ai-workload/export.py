"""Export Whisper to OpenVINO IR, from openai-whisper's own modules: an encoder and a decoder.

  python3 export.py
  python3 export.py --model_name large-v3-turbo --weight_format int8
  python3 export.py --checkpoint models/base.pt

The weights are stored as fp16 by default, as in OpenAI's checkpoints: nothing is lost, and OpenVINO
still computes in the precision that infer.py requests. int8 rounds each row of a weight matrix to
256 levels (NNCF's INT8_ASYM); it needs no calibration data. How the two models share the work: see
split_model.py.
"""

import argparse
import contextlib
import json
import pickle
import sys
import warnings
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

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
    add("--weight_format", choices=formats, default=DEFAULT_FORMAT, help="of the stored weights")
    add("--verbose", action="store_true", help="show what the libraries print")
    args = parser.parse_args()
    args.model_name = args.model_name or (args.checkpoint.stem if args.checkpoint else "base")
    return args


def default_output(model_name: str, weight_format: str) -> Path:
    """infer.py's default for fp16; any other format is in the name."""
    suffix = "" if weight_format == DEFAULT_FORMAT else f"-{weight_format}"
    return model_files.beside(__file__, f"whisper-{model_name}{suffix}-ov-model")


def main() -> int:
    args = parse_args()
    output = args.output or default_output(args.model_name, args.weight_format)
    settings = {"model_name": args.model_name, "weight_format": args.weight_format}
    if args.checkpoint:
        if not args.checkpoint.is_file():
            hint = model_files.where(args.checkpoint, "name an openai-whisper .pt file")
            raise UserError(f"no checkpoint {args.checkpoint}: {hint} (--checkpoint)")
        settings["source_sha256"] = model_files.sha256(args.checkpoint)
    source = args.checkpoint.name if args.checkpoint else args.model_name
    packages = (*PACKAGES, "nncf") if args.weight_format == "int8" else PACKAGES
    stamp = model_files.stamp(source, packages, layout=LAYOUT, **settings)
    asked = {"is_named": bool(args.output), "overwrite": args.overwrite}
    if model_files.is_to_be_made(output, stamp, is_known=bool(args.checkpoint), **asked):
        with progress.stage("Reading the weights"):
            whisper_model = load(args.model_name, args.checkpoint)
        with model_files.exporting(output, stamp) as folder:
            export(whisper_model, folder, args.weight_format, args.verbose)
        print(f"{output}: Whisper {args.model_name} with {args.weight_format} weights")
    options = ("--model_name", args.model_name, "--ovmodel_path", str(output))
    print(model_files.next_command(__file__, *options))
    return cli.EXIT_OK


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
            model = convert(whisper_model)
            if weight_format == "int8":
                model = compress_to_int8(model)
            path = folder / f"whisper_{name}.xml"
            ov.save_model(model, path, compress_to_fp16=weight_format != "fp32")
        del model  # a large one takes gigabytes, and the next is converted beside it
    heads = whisper_model.alignment_heads.indices().T.tolist()
    dims = {**asdict(whisper_model.dims), ALIGNMENT_HEADS: heads}
    (folder / DIMS).write_text(json.dumps(dims, indent=1) + "\n")


def compress_to_int8(model):
    """Weights in 8 bits, with a scale and a zero point for each row; nothing else is changed."""
    import nncf

    nncf.set_log_level("ERROR")
    return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)


if __name__ == "__main__":
    cli.run(main)
