"""Export Whisper to OpenVINO IR: whisper_encoder.xml and whisper_decoder.xml, from openai-whisper's own modules.

  python3 export.py
  python3 export.py --model_name small --output whisper-small-ov-model
  python3 export.py --checkpoint models/base.pt

The weights are stored as fp16 by default, which is what OpenAI's checkpoints hold: nothing is lost, and OpenVINO still
computes in the precision that infer.py asks for. How the two models share the work: see split_model.py.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from harness import cli, model as model_files
from harness.cli import UserError

PACKAGES = ("torch", "openai-whisper", "openvino")
DIMS = "dims.json"  # what decoding must know of the model besides the IR


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    parser.add_argument("--model_name", default="base", help="openai-whisper's name: tiny, base, small, medium, large-v3, ...")
    parser.add_argument("--checkpoint", type=Path, help="read this openai-whisper .pt file instead of downloading")
    parser.add_argument("--output", type=Path, default=Path("whisper-base-ov-model"), help="folder to make")
    parser.add_argument("--weight_format", choices=("fp32", "fp16"), default="fp16", help="of the stored weights")
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    parameters = {"weight_format": args.weight_format}
    if args.checkpoint:
        if not args.checkpoint.is_file():
            raise UserError(f"no checkpoint {args.checkpoint}")
        parameters["source_sha256"] = model_files.sha256(args.checkpoint)
    stamp = model_files.stamp(args.checkpoint.name if args.checkpoint else args.model_name, PACKAGES, **parameters)
    if args.checkpoint and model_files.read_stamp(args.output) == stamp:
        print(f"{args.output}: exported already, with the same weights and packages")
        return cli.EXIT_OK
    whisper_model = load(args)
    with model_files.exporting(args.output, stamp) as folder:
        export(whisper_model, folder, compress_to_fp16=args.weight_format == "fp16")
    print(f"{args.output}: Whisper {args.model_name} with {args.weight_format} weights")
    return cli.EXIT_OK


def load(args: argparse.Namespace):
    import whisper

    name = str(args.checkpoint or args.model_name)
    try:
        return whisper.load_model(name, device="cpu").eval()
    except (RuntimeError, KeyError, ValueError) as error:
        raise UserError(f"cannot load Whisper '{name}': {cli.one_line(error)}") from None
    except OSError as error:  # urllib's errors are OSErrors too
        raise UserError(
            f"cannot download Whisper '{name}' ({cli.one_line(error)}): name a local file with --checkpoint"
        ) from None
    except Exception as error:  # torch.load raises what pickle raises
        raise UserError(f"{name} is not an openai-whisper checkpoint: {cli.one_line(error)}") from None


def export(whisper_model, folder: Path, compress_to_fp16: bool) -> None:
    import openvino as ov
    import torch
    from split_model import convert_decoder, convert_encoder

    with torch.no_grad():
        for name, convert in (("whisper_encoder", convert_encoder), ("whisper_decoder", convert_decoder)):
            ov.save_model(convert(whisper_model), folder / f"{name}.xml", compress_to_fp16=compress_to_fp16)
    (folder / DIMS).write_text(json.dumps(asdict(whisper_model.dims), indent=1) + "\n")


if __name__ == "__main__":
    cli.run(main)
