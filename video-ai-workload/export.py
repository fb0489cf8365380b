"""Export YOLOv8n-seg to OpenVINO IR with ultralytics: a folder with the .xml and .bin that infer.py reads.

  python3 export.py
  python3 export.py --model demo/yolov8n-seg-demo.pt --output yolov8n-seg_openvino_model

yolov8n-seg.pt, the official COCO weights, is downloaded by ultralytics where it is not there. The demo weights have the
same architecture and speed, but know only the cars and people of the demo's drawn scenes.
"""

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("YOLO_AUTOINSTALL", "false")  # ultralytics would install packages by itself
os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.gettempdir())  # and write its settings to the home folder

from harness import cli, model as model_files
from harness.cli import UserError

PACKAGES = ("torch", "ultralytics-opencv-headless", "openvino")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("yolov8n-seg.pt"), help="ultralytics weights, segmentation")
    parser.add_argument("--output", type=Path, help="folder to make (default: MODEL_openvino_model); the .xml in it has its name")
    parser.add_argument("--weight_format", choices=("fp32", "fp16"), default="fp32", help="of the stored weights")
    parser.add_argument("--imgsz", type=cli.positive_int, default=640, help="side of the network's square input, pixels")
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    output = args.output or Path(f"{args.model.stem}_openvino_model")
    if args.model.is_file():
        os.environ.setdefault("YOLO_OFFLINE", "true")  # nothing to fetch, and no usage data to send
    else:
        download(args.model)
    parameters = {"weight_format": args.weight_format, "imgsz": args.imgsz, "source_sha256": model_files.sha256(args.model)}
    stamp = model_files.stamp(args.model.name, PACKAGES, **parameters)
    if model_files.read_stamp(output) == stamp:
        print(f"{output}: exported already, with the same weights and packages")
        return cli.EXIT_OK
    with model_files.exporting(output, stamp) as folder, tempfile.TemporaryDirectory() as scratch:
        name = output.name.removesuffix("_openvino_model")
        weights = Path(shutil.copy(args.model, Path(scratch, f"{name}.pt")))
        for path in Path(export(weights, args)).iterdir():
            shutil.move(path, folder / path.name)
    print(f"{output}: {args.model.name} with {args.weight_format} weights, {args.imgsz} × {args.imgsz}")
    return cli.EXIT_OK


def download(model: Path) -> None:
    """Fetch official weights by name. Raises UserError where there are none of this name, or no way to them."""
    from ultralytics.utils.downloads import attempt_download_asset

    try:
        fetched = Path(attempt_download_asset(model, retry=0, progress=False) if model.parent == Path(".") else model)
    except Exception as error:  # whatever ultralytics and its HTTP libraries raise
        raise UserError(
            f"cannot download {model} ({cli.one_line(error)}): put it here, or use --model demo/yolov8n-seg-demo.pt"
        ) from None
    if not fetched.is_file():
        raise UserError(f"no weights {model}: give an ultralytics segmentation .pt, e.g. demo/yolov8n-seg-demo.pt (--model)")


def export(weights: Path, args: argparse.Namespace) -> str:
    """Returns the folder that ultralytics made beside the weights."""
    from ultralytics import YOLO

    try:
        model = YOLO(weights)
        if model.task != "segment":
            raise UserError(f"{args.model} is a model for '{model.task}', not for segmentation")
        return model.export(
            format="openvino", dynamic=False, imgsz=args.imgsz, quantize=16 if args.weight_format == "fp16" else None
        )
    except UserError:
        raise
    except Exception as error:  # torch.load and ultralytics raise whatever they like on a file that is no model
        raise UserError(f"cannot export {args.model}: {cli.one_line(error)}") from None


if __name__ == "__main__":
    cli.run(main)
