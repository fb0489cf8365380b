"""Export Whisper to OpenVINO IR: whisper_encoder.xml and whisper_decoder.xml, from openai-whisper's own modules.

  python3 export.py
  python3 export.py --model_name large-v3-turbo --weight_format int8
  python3 export.py --checkpoint models/base.pt

The weights are stored as fp16 by default, which is what OpenAI's checkpoints hold: nothing is lost, and OpenVINO still
computes in the precision that infer.py asks for. int8 rounds each row of a weight matrix to 256 levels (NNCF's INT8_ASYM);
it needs no calibration data. How the two models share the work: see split_model.py.
"""

import argparse
import contextlib
import json
import sys
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from harness import cli, model as model_files
from harness.cli import UserError

LAYOUT = 2  # of the models' inputs and outputs; a folder with another is made again
PACKAGES = ("torch", "openai-whisper", "openvino")
DIMS = "dims.json"  # what decoding must know of the model besides the IR
ALIGNMENT_HEADS = "alignment_heads"  # in DIMS: [layer, head] of the cross-attention that word timestamps are read from


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    parser.add_argument("--model_name", help="openai-whisper's name: tiny, base.en, small, medium, large-v3, large-v3-turbo, ... "
                                             "(default: base, or what --checkpoint is called)")  # fmt: skip
    parser.add_argument("--checkpoint", type=Path, help="read this openai-whisper .pt file instead of downloading")
    parser.add_argument("--output", type=Path, help="folder to make (default: whisper-MODEL_NAME-ov-model)")
    parser.add_argument("--weight_format", choices=("fp32", "fp16", "int8"), default="fp16", help="of the stored weights")
    args = parser.parse_args()
    args.model_name = args.model_name or (args.checkpoint.stem if args.checkpoint else "base")
    args.output = args.output or Path(f"whisper-{args.model_name}-ov-model")
    return args


def main() -> int:
    args = parse_args()
    parameters = {"model_name": args.model_name, "weight_format": args.weight_format, "layout": LAYOUT}
    if args.checkpoint:
        if not args.checkpoint.is_file():
            raise UserError(f"no checkpoint {args.checkpoint}")
        parameters["source_sha256"] = model_files.sha256(args.checkpoint)
    packages = (*PACKAGES, "nncf") if args.weight_format == "int8" else PACKAGES
    stamp = model_files.stamp(args.checkpoint.name if args.checkpoint else args.model_name, packages, **parameters)
    if args.checkpoint and model_files.exported_already(args.output, stamp):
        return cli.EXIT_OK
    whisper_model = load(args)
    with model_files.exporting(args.output, stamp) as folder:
        export(whisper_model, folder, args.weight_format)
    print(f"{args.output}: Whisper {args.model_name} with {args.weight_format} weights")
    return cli.EXIT_OK


def load(args: argparse.Namespace):
    """openai-whisper's model. A checkpoint has the alignment heads of the model it is named after, where it is of that shape."""
    import whisper

    name = str(args.checkpoint or args.model_name)
    try:
        whisper_model = whisper.load_model(name, device="cpu").eval()
    except (RuntimeError, KeyError, ValueError) as error:
        raise UserError(f"cannot load Whisper '{name}': {cli.one_line(error)}") from None
    except OSError as error:  # urllib's errors are OSErrors too
        raise UserError(
            f"cannot download Whisper '{name}' ({cli.one_line(error)}): name a local file with --checkpoint"
        ) from None
    except Exception as error:  # torch.load raises what pickle raises
        raise UserError(f"{name} is not an openai-whisper checkpoint: {cli.one_line(error)}") from None
    heads = whisper._ALIGNMENT_HEADS.get(args.model_name)
    if args.checkpoint and heads:
        with contextlib.suppress(RuntimeError):  # not of that shape: openai-whisper's choice for an unknown model stays
            whisper_model.set_alignment_heads(heads)
    return whisper_model


def export(whisper_model, folder: Path, weight_format: str) -> None:
    """Write whisper_encoder.xml, whisper_decoder.xml and DIMS into `folder`."""
    import openvino as ov
    import torch
    from split_model import convert_decoder, convert_encoder

    for name, convert in (("whisper_encoder", convert_encoder), ("whisper_decoder", convert_decoder)):
        with torch.no_grad():
            model = convert(whisper_model)
        if weight_format == "int8":
            model = compress_to_int8(model)
        ov.save_model(model, folder / f"{name}.xml", compress_to_fp16=weight_format != "fp32")
        del model  # a large one takes gigabytes, and the next is converted beside it
    heads = whisper_model.alignment_heads.indices().T.tolist()
    (folder / DIMS).write_text(json.dumps({**asdict(whisper_model.dims), ALIGNMENT_HEADS: heads}, indent=1) + "\n")


def compress_to_int8(model):
    """Weights in 8 bits with a scale and a zero point for each row; what is no weight stays as it is."""
    import nncf

    nncf.set_log_level("ERROR")
    return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)


if __name__ == "__main__":
    cli.run(main)
