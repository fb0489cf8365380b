"""Export YOLOv8n-seg to OpenVINO IR with ultralytics: a folder with the .xml that infer.py reads.

  python3 export.py
  python3 export.py --model demo/yolov8n-seg-demo.pt --output yolov8n-seg_openvino_model
  python3 export.py --precision int8

yolov8n-seg.pt, the official COCO weights, is downloaded by ultralytics where it is not there. The
demo weights have the same architecture and speed, but know only the cars and people of the demo's
drawn scenes.

--precision int8 quantizes weights and activations with NNCF (post-training quantization),
calibrated on frames of a video: all but the head's last steps, in which boxes and scores share a
tensor. The loss in mask mAP on the demo clip, or on your own ground truth, is printed and stored
with the model; a model that lost more than --max_map_loss is refused.
"""

import argparse
import logging
import os
import pickle
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("YOLO_AUTOINSTALL", "false")  # ultralytics would install packages by itself
os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.gettempdir())  # and write to the home folder

import average_precision
import model
import numpy as np
from segmentation import Letterbox, Thresholds
from video_source import VideoSource

from harness import cli, model_files, progress
from harness.cli import UserError
from harness.openvino_setup import Placement

OFFICIAL = "yolov8n-seg.pt"
IMGSZ = 640
PACKAGES = ("torch", "ultralytics-opencv-headless", "openvino")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    add = parser.add_argument
    weights = "ultralytics weights, segmentation"
    default = model_files.beside(__file__, OFFICIAL)
    add("--model", type=Path, default=default, help=weights)
    output = "folder to make (default: MODEL_openvino_model; int8, fp16, other sizes: with that)"
    add("--output", type=Path, help=output)
    add("--overwrite", action="store_true", help="replace another export in --output")
    trust = "load a .pt that holds more than a YOLO model: that may run any code of its author's"
    add("--trust_pickle", action="store_true", help=trust)
    stored = "of the stored weights that are not int8"
    add("--weight_format", choices=("fp32", "fp16"), default="fp32", help=stored)
    side = "side of the network's square input, pixels"
    add("--imgsz", type=cli.positive_int, default=IMGSZ, help=side)
    add("--verbose", action="store_true", help="show what the libraries print")
    add = parser.add_argument_group("quantization").add_argument
    add("--precision", choices=("float", "int8"), default="float", help="of the computation")
    video = "video or folder of images like those to be segmented"
    add("--calibration_video", default=str(model.DEMO_CLIP), metavar="VIDEO", help=video)
    most = "use at most N frames of it, evenly spread"
    add("--calibration_frames", type=cli.positive_int, default=300, metavar="N", help=most)
    truth = "COCO JSON of the calibration video's frames (default: the demo clip, with its own)"
    add("--ground_truth", type=Path, metavar="FILE", help=truth)
    loss = "refuse a model whose mask mAP50-95, in percent, fell by more"
    add("--max_map_loss", type=cli.non_negative_float, default=1.0, metavar="POINTS", help=loss)
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    int8 = args.precision == "int8"
    source, truth = calibration(args) if int8 else (None, None)
    output = args.output or default_output(args)
    # Only the classes of a YOLO model are unpickled, unless the user trusts the file.
    os.environ["ULTRALYTICS_SAFE_LOAD"] = str(not args.trust_pickle).lower()
    if args.model.is_file():
        os.environ.setdefault("YOLO_OFFLINE", "true")  # nothing to fetch, no usage data to send
    else:
        download(args)
    name = output.name.removesuffix("_openvino_model")
    stamp = stamp_of(args, source)
    asked = {"is_named": bool(args.output), "overwrite": args.overwrite}
    if model_files.is_to_be_made(output, stamp, **asked):
        with model_files.exporting(output, stamp) as folder:
            export(args, folder, name)
            if int8:
                scores = quantize(folder / f"{name}.xml", args, source, truth)
                stamp["results"] = {"mask_map50_95": scores}
        form = f"{args.weight_format} weights"
        if int8:
            form = f"int8, calibrated on {source.name}"
        print(f"{output}: {args.model.name}, {form}, {args.imgsz} × {args.imgsz}")
    clip = model_files.shown(model.DEMO_CLIP)
    options = (f"--model_path={output / name}.xml", "--device=CPU", f"--video={clip}")
    print(model_files.next_command(__file__, *options))
    return cli.EXIT_OK


def default_output(args: argparse.Namespace) -> Path:
    """infer.py's default for fp32 at the usual size; whatever else is in the name."""
    parts = ["int8"] * (args.precision == "int8") + ["fp16"] * (args.weight_format == "fp16")
    parts += [str(args.imgsz)] * (args.imgsz != IMGSZ)
    return model_files.beside(__file__, "_".join([args.model.stem, *parts, "openvino_model"]))


def stamp_of(args: argparse.Namespace, source: VideoSource | None) -> dict:
    """What the model is made from and with. `source`: of frames to calibrate on, for int8."""
    parameters = {
        "precision": args.precision,
        "weight_format": args.weight_format,
        "imgsz": args.imgsz,
        "source_sha256": model_files.sha256(args.model),
    }
    if source:
        parameters |= {
            "calibration": source.name,
            "calibration_sha256": source.sha256(),
            "calibration_frames": args.calibration_frames,
        }
        if args.ground_truth:
            parameters["ground_truth_sha256"] = model_files.sha256(args.ground_truth)
    packages = (*PACKAGES, "nncf") if source else PACKAGES
    return model_files.stamp(args.model.name, packages, **parameters)


def download(args: argparse.Namespace) -> None:
    """Fetch official weights by name. Raises UserError where there are none, or no network."""
    weights, fetched = args.model, args.model
    if weights.parent == Path(".") or weights == model_files.beside(__file__, OFFICIAL):
        try:
            with progress.stage(f"Downloading {weights}"), progress.quiet(args.verbose):
                from ultralytics.utils.downloads import attempt_download_asset

                fetched = Path(attempt_download_asset(weights, retry=0, progress=False))
        except Exception as error:  # whatever ultralytics and its HTTP libraries raise
            instead = "put it here, or use --model demo/yolov8n-seg-demo.pt"
            raise UserError(
                f"cannot download {weights} ({cli.one_line(error)}): {instead}"
            ) from None
    if not fetched.is_file():
        which = "give an ultralytics segmentation .pt, e.g. demo/yolov8n-seg-demo.pt"
        raise UserError(f"no weights {weights}: {model_files.where(weights, which)} (--model)")


def export(args: argparse.Namespace, folder: Path, name: str) -> None:
    """Make name.xml, name.bin and metadata.yaml in `folder`. Raises UserError."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        weights = shutil.copy(args.model, Path(scratch, f"{name}.pt"))
        quantize = 16 if args.weight_format == "fp16" else None
        try:
            with progress.stage(f"Exporting {args.model}"), progress.quiet(args.verbose):
                from ultralytics import YOLO

                network = YOLO(weights)
                if network.task == "segment":
                    made = network.export(
                        format="openvino", dynamic=False, imgsz=args.imgsz, quantize=quantize
                    )
        except Exception as error:  # torch.load and ultralytics raise whatever they like
            if isinstance(error.__cause__, (pickle.UnpicklingError, EOFError, RuntimeError)):
                trust = ": if you trust its author, add --trust_pickle"
                why = model_files.why_refused(error, trust)
                raise UserError(f"{args.model} {why}") from None
            raise UserError(f"cannot export {args.model}: {cli.one_line(error)}") from None
        if network.task != "segment":
            raise UserError(f"{args.model} is a model for '{network.task}', not for segmentation")
        for path in Path(made).iterdir():
            shutil.move(path, folder / path.name)


def calibration(args: argparse.Namespace) -> tuple:
    """The video to calibrate on, and its ground truth where that was given. Raises UserError."""
    source = VideoSource(args.calibration_video)
    if source.live:
        raise UserError("calibration takes a file or a folder of images (--calibration_video)")
    truth = average_precision.read_truth(args.ground_truth) if args.ground_truth else None
    return source, truth


def calibration_frames(source: VideoSource, most: int, height: int, width: int) -> list[np.ndarray]:
    """Frames, evenly spread, as the network takes them: uint8 [height, width, 3]."""
    every = max(1, source.announced_frames // most)
    frames = []
    for number, (picture, _) in enumerate(source.frames(every * most)):
        if number % every == 0:
            frames.append(np.empty((height, width, 3), np.uint8))
            Letterbox.of(picture, (height, width)).place(picture, frames[-1])
    return frames


def quantize(xml: Path, args: argparse.Namespace, source: VideoSource, truth) -> dict[str, float]:
    """Put an int8 model in the place of the one in this .xml; returns mask mAP50-95 before, after.

    `source`, `truth`: from calibration(). Raises UserError where it lost more than --max_map_loss.
    """
    video = args.calibration_video
    if not truth:
        video, truth = str(model.DEMO_CLIP), demo_truth()
    with progress.stage("Scoring the float model"):
        before = mask_map(xml, video, truth)
    with progress.stage("Quantizing"), progress.quiet(args.verbose):
        quantize_file(xml, source, args.calibration_frames, args.weight_format == "fp16")
    with progress.stage("Scoring the int8 model"):
        after = mask_map(xml, video, truth)
    print(f"Mask mAP50-95: {before:.3f} before quantization, {after:.3f} after")
    lost = 100 * (before - after)
    if lost > args.max_map_loss:
        raise UserError(
            f"int8 costs {lost:.1f} points of {100 * before:.1f} of mask mAP50-95: calibrate on "
            "frames more like those to be segmented (--calibration_video), or allow it "
            "(--max_map_loss)"
        )
    return {"before": before, "after": after}


def quantize_file(xml: Path, source: VideoSource, most_frames: int, fp16: bool) -> None:
    """Quantize the model in this .xml, calibrated on frames of `source`.

    fp16 : the format of the weights that stay floats; else fp32.
    """
    import nncf
    import openvino as ov

    nncf.set_log_level(logging.WARNING)
    network = ov.Core().read_model(xml)
    _, _, height, width = network.input().shape
    frames = calibration_frames(source, most_frames, height, width)
    names = {op.get_friendly_name(): op.get_type_name() for op in network.get_ordered_ops()}
    head = [name for name, kind in names.items() if kind == "Sigmoid"][-1].split("/")[0]
    kept = [name for name in names if name.startswith((f"{head}/", f"{head}.dfl"))]
    quantized = nncf.quantize(
        network,
        nncf.Dataset(frames, lambda frame: frame.transpose(2, 0, 1)[None].astype(np.float32) / 255),
        preset=nncf.QuantizationPreset.MIXED,  # asymmetric activations, as SiLU's go below zero
        subset_size=len(frames),
        ignored_scope=nncf.IgnoredScope(names=kept),
    )
    made = xml.with_name(f"quantized_{xml.name}")  # the float model's weights are still being read
    ov.save_model(quantized, made, compress_to_fp16=fp16)
    for suffix in (".xml", ".bin"):
        os.replace(made.with_suffix(suffix), xml.with_suffix(suffix))


def demo_truth():
    """The demo clip's ground truth: it is drawn once more."""
    sys.path.append(str(model.DEMO_CLIP.parent / "demo"))
    from make_clip import FPS, NUM_FRAMES, SEED, coco

    return average_precision.truth_from(coco(SEED, NUM_FRAMES, FPS))


def mask_map(xml: Path, video: str, truth) -> float:
    """Mask mAP50-95 of a model, from 0 to 1, computing in f32 where it is not int8."""
    placement = Placement(tuple(sorted(os.sched_getaffinity(0))), None, None, "f32")
    loaded = model.load(model.LoadSettings(xml, placement, hint="latency"))
    classes = average_precision.shared_classes(loaded.names, truth)
    frames = average_precision.video_frames(video, truth)
    thresholds = Thresholds(average_precision.LEAST_SCORE, model.IOU)
    found = dict(average_precision.detect(loaded, frames, classes, thresholds))
    detections = [each for of_image in found.values() for each in of_image]
    return average_precision.mean_average_precision(
        truth, detections, sorted(found), sorted(classes.values())
    )["mask_map50_95"]


if __name__ == "__main__":
    cli.run(main)
