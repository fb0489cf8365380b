"""Export YOLOv8n-seg to OpenVINO IR with ultralytics: a folder with the .xml and .bin that infer.py reads.

  python3 export.py
  python3 export.py --model demo/yolov8n-seg-demo.pt --output yolov8n-seg_openvino_model
  python3 export.py --precision int8

yolov8n-seg.pt, the official COCO weights, is downloaded by ultralytics where it is not there. The demo weights have the
same architecture and speed, but know only the cars and people of the demo's drawn scenes.

--precision int8 quantizes weights and activations with NNCF (post-training quantization), calibrated on frames of a video, all
but the head's last steps, in which boxes and scores share a tensor. What that costs is judged on the demo clip, or on ground
truth of your own, printed, and stored with the model; a model that lost more than --max_map_loss is refused.
"""

import argparse
import logging
import os
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("YOLO_AUTOINSTALL", "false")  # ultralytics would install packages by itself
os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.gettempdir())  # and write its settings to the home folder

import numpy as np

from accuracy import add_judged_arguments, categories_of, detect, mean_average_precision, read_truth, truth_of, video_frames
from harness import cli, model as model_files
from harness.cli import UserError
from harness.placement import Placement
from infer import load
from segmentation import Letterbox, class_names
from video_source import VideoSource

DEMO_CLIP = Path(__file__).resolve().parent / "pharmacy_drivethru.mp4"
PACKAGES = ("torch", "ultralytics-opencv-headless", "openvino")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("yolov8n-seg.pt"), help="ultralytics weights, segmentation")
    parser.add_argument("--output", type=Path,
                        help="folder to make (default: MODEL_openvino_model or MODEL_int8_openvino_model); the .xml in it has its name")  # fmt: skip
    parser.add_argument(
        "--weight_format", choices=("fp32", "fp16"), default="fp32", help="of the stored weights that are not int8"
    )
    parser.add_argument("--imgsz", type=cli.positive_int, default=640, help="side of the network's square input, pixels")
    group = parser.add_argument_group("quantization")
    group.add_argument("--precision", choices=("float", "int8"), default="float", help="of the computation")
    group.add_argument("--calibration_video", default=str(DEMO_CLIP), help="video or folder of images like those to be segmented")
    group.add_argument("--calibration_frames", type=cli.positive_int, default=300, help="most frames of it to use, evenly spread")
    group.add_argument("--ground_truth", type=Path, metavar="FILE",
                       help="JSON in COCO's format, of the calibration video's frames, to judge the loss by (default: the demo clip's)")  # fmt: skip
    group.add_argument("--max_map_loss", type=cli.non_negative_float, default=1.0, metavar="POINTS",
                       help="refuse a model whose mask mAP50-95, in percent, fell by more")  # fmt: skip
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    int8 = args.precision == "int8"
    source, truth = calibration(args) if int8 else (None, None)
    output = args.output or Path(f"{args.model.stem}{'_int8' if int8 else ''}_openvino_model")
    if args.model.is_file():
        os.environ.setdefault("YOLO_OFFLINE", "true")  # nothing to fetch, and no usage data to send
    else:
        download(args.model)
    parameters = {
        "precision": args.precision,
        "weight_format": args.weight_format,
        "imgsz": args.imgsz,
        "source_sha256": model_files.sha256(args.model),
    }
    if int8:
        parameters |= {
            "calibration": source.name,
            "calibration_sha256": source.sha256(),
            "calibration_frames": args.calibration_frames,
        }
        if args.ground_truth:
            parameters["ground_truth_sha256"] = model_files.sha256(args.ground_truth)
    stamp = model_files.stamp(args.model.name, PACKAGES + ("nncf",) * int8, **parameters)
    if model_files.exported_already(output, stamp):
        return cli.EXIT_OK
    with model_files.exporting(output, stamp) as folder, tempfile.TemporaryDirectory() as scratch:
        name = output.name.removesuffix("_openvino_model")
        weights = Path(shutil.copy(args.model, Path(scratch, f"{name}.pt")))
        for path in Path(export(weights, args)).iterdir():
            shutil.move(path, folder / path.name)
        if int8:
            stamp["mask_map50_95"] = quantize(folder / f"{name}.xml", args, source, truth)
    form = (
        f"computing in int8, calibrated on {Path(args.calibration_video).name}" if int8 else f"with {args.weight_format} weights"
    )
    print(f"{output}: {args.model.name} {form}, {args.imgsz} × {args.imgsz}")
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


def calibration(args: argparse.Namespace) -> tuple:
    """The video to calibrate on, and its ground truth where that was given. Raises UserError where they can't be read."""
    source = VideoSource(args.calibration_video)
    if source.live:
        raise UserError("calibration takes a file or a folder of images (--calibration_video)")
    return source, read_truth(args.ground_truth) if args.ground_truth else None


def demo_truth():
    """The demo clip's ground truth: it is drawn once more."""
    sys.path.append(str(DEMO_CLIP.parent / "demo"))
    from make_clip import FPS, NUM_FRAMES, SEED, coco

    return truth_of(coco(SEED, NUM_FRAMES, FPS))


def calibration_frames(source: VideoSource, most: int, height: int, width: int) -> list[np.ndarray]:
    """Frames, evenly spread, as the network takes them: uint8 [height, width, 3]."""
    every = max(1, source.announced_frames // most)
    frames = []
    for number, (pixels, _) in enumerate(source.frames(every * most)):
        if number % every == 0:
            frames.append(np.empty((height, width, 3), np.uint8))
            Letterbox(*pixels.shape[:2], height, width).place(pixels, frames[-1])
    return frames


def quantize(xml: Path, args: argparse.Namespace, source: VideoSource, truth) -> dict[str, float]:
    """Put an int8 model in the place of the one in this .xml. Returns mask mAP50-95 before and after.

    `source`, `truth`: from calibration(). Raises UserError where it fell by more than --max_map_loss.
    """
    import nncf
    import openvino as ov

    nncf.set_log_level(logging.WARNING)
    model = ov.Core().read_model(xml)
    _, _, height, width = model.input().shape
    operations = model.get_ordered_ops()
    head = [op for op in operations if op.get_type_name() == "Sigmoid"][-1].get_friendly_name().split("/")[0]
    kept = [op.get_friendly_name() for op in operations if op.get_friendly_name().startswith((f"{head}/", f"{head}.dfl"))]
    video, truth = (args.calibration_video, truth) if truth else (str(DEMO_CLIP), demo_truth())
    before = mask_map(xml, video, truth)
    frames = calibration_frames(source, args.calibration_frames, height, width)
    quantized = nncf.quantize(
        model,
        nncf.Dataset(frames, lambda frame: frame.transpose(2, 0, 1)[None].astype(np.float32) / 255),
        preset=nncf.QuantizationPreset.MIXED,  # asymmetric activations: SiLU's go below zero, but not far
        subset_size=len(frames),
        ignored_scope=nncf.IgnoredScope(names=kept),
    )
    made = xml.with_name(f"quantized_{xml.name}")  # the float model's weights are still read while this is written
    ov.save_model(quantized, made, compress_to_fp16=args.weight_format == "fp16")
    for suffix in (".xml", ".bin"):
        os.replace(made.with_suffix(suffix), xml.with_suffix(suffix))
    after = mask_map(xml, video, truth)
    print(f"Mask mAP50-95: {before:.3f} before quantization, {after:.3f} after")
    if 100 * (before - after) > args.max_map_loss:
        raise UserError(
            f"int8 takes {100 * (before - after):.1f} points of {100 * before:.1f} of mask mAP50-95: calibrate on frames more like "
            "those to be segmented (--calibration_video), or allow it (--max_map_loss)"
        )
    return {"before": before, "after": after}


def mask_map(xml: Path, video: str, truth) -> float:
    """Mask mAP50-95 of a model, from 0 to 1, computing as precisely as it can."""
    parser = argparse.ArgumentParser()
    add_judged_arguments(parser)
    parser.set_defaults(model_path=xml, precision="f32", hint="latency")
    settings = parser.parse_args([])
    compiled, _, _ = load(settings, Placement.from_arguments(settings))
    categories = categories_of(class_names(xml.parent), truth)
    found = dict(detect(compiled, video_frames(video, truth), categories, settings))
    detections = [each for of_image in found.values() for each in of_image]
    return mean_average_precision(truth, detections, sorted(found), sorted(categories.values()))["mask_map50_95"]


if __name__ == "__main__":
    cli.run(main)
