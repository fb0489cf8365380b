"""Mean average precision (mAP) of the model's boxes and masks against ground truth.

  python3 demo/make_clip.py --ground_truth truth.json
  python3 accuracy.py --video="pharmacy_drivethru.mp4" --ground_truth="truth.json"
  python3 accuracy.py --images="val2017" --ground_truth="instances_val2017.json"

Run it beside any setting that makes infer.py faster: same model, same pre- and post-processing,
same options for precision. Ground truth is JSON in COCO's format; a video's image ids are its
frames' numbers from 0, and classes are matched by name. pycocotools scores as COCO does: mAP50-95
is the mean over the overlaps 0.50, 0.55 ... 0.95 that count as found, mAP50 that of 0.50.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's threads would spin against OpenVINO's

from harness import cli

cli.quit_on_signals()  # while the libraries load

import av
import average_precision
import cv2
import model
from picture import standard

from harness import gate, model_files, progress, run
from harness.cli import UserError
from harness.monitor import SystemMonitor

GATE = "mask_map50_95"


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--video", default=str(model_files.shown(model.DEMO_CLIP)), help="video file"
    )
    images = "folder of the images that the ground truth names"
    source.add_argument("--images", type=Path, help=images)
    add = parser.add_argument
    add("--ground_truth", type=Path, required=True, help="JSON in COCO's format")
    most = "stop after N images or frames"
    add("--max_images", type=cli.positive_int, metavar="N", help=most)
    save = "write all detections, in COCO's result format"
    add("--save_detections", type=Path, metavar="FILE", help=save)
    model.add_model_arguments(parser, conf=average_precision.LEAST_SCORE)
    cli.add_common_arguments(parser, iteration=None)
    gate.add_arguments(parser, GATE)
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    truth = average_precision.read_truth(args.ground_truth)
    least = gate.limit(args, GATE, model_files.sha256(args.ground_truth))
    prepared = model.prepare(args, num_requests=1)
    names = prepared.model.names
    classes = average_precision.shared_classes(names, truth)
    if args.images:
        pictures = images(args.images, truth, args.max_images)
    else:
        pictures = average_precision.video_frames(args.video, truth, args.max_images)

    detections, image_ids = [], []
    thresholds, total = model.thresholds(args), args.max_images or len(truth.imgs)
    with (
        SystemMonitor(keep=lambda: bool(image_ids)) as monitor,
        progress.bar("Images", total) as line,
    ):
        for image_id, found in average_precision.detect(
            prepared.model, pictures, classes, thresholds
        ):
            image_ids.append(image_id)
            detections += found
            line.update()
    if not image_ids:
        raise UserError("the ground truth is of other pictures")
    category_ids = sorted(classes.values())
    with progress.stage("Scoring"):
        scores = average_precision.mean_average_precision(
            truth, detections, image_ids, category_ids
        )
    if args.save_detections:
        save(detections, args.save_detections)
    output = {
        "images": len(image_ids),
        "detections": len(detections),
        "classes": [names[index] for index in sorted(classes)],
        **gate.output(least, GATE, scores[GATE] if monitor.status == "complete" else None),
    }
    return run.finish(build_record(args, prepared, scores, output, monitor), args)


def images(folder: Path, truth, most: int | None = None) -> Iterator[tuple[int, av.VideoFrame]]:
    """(image id, picture) of each image that the ground truth names."""
    for image in sorted(truth.imgs.values(), key=lambda image: image["id"])[:most]:
        picture = cv2.imread(str(folder / image["file_name"]))
        if picture is None:
            raise UserError(f"{folder / image['file_name']} can't be read as an image (--images)")
        yield image["id"], standard(av.VideoFrame.from_ndarray(picture, format="bgr24"))


def save(detections: list[dict], path: Path) -> None:
    try:
        path.write_text(json.dumps(detections))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror} (--save_detections)") from None


def build_record(
    args: argparse.Namespace,
    prepared: model.Prepared,
    scores: dict[str, float],
    output: dict,
    monitor: SystemMonitor,
) -> dict:
    classes = output["classes"]
    return run.build(
        args,
        workload="video-accuracy",
        title="Video AI accuracy",
        primary=GATE,
        samples={name: [[score]] for name, score in scores.items()},
        task={"max images": args.max_images, "conf": args.conf, "iou": args.iou},
        work=[],
        input={
            "name": str(args.images or args.video),
            "sha256": model_files.sha256(args.ground_truth),
        },
        monitor=monitor,
        output=output,
        details=[
            f"Over {output['images']} images and {len(classes)} classes: {', '.join(classes)}"
        ],
        check_samples=False,
        **prepared.record_parts(),
    )


if __name__ == "__main__":
    cli.run(main)
