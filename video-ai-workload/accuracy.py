"""How right the model's boxes and masks are: mean average precision (mAP) against ground truth in COCO's format.

  python3 demo/make_clip.py --ground_truth truth.json
  python3 accuracy.py --video="pharmacy_drivethru.mp4" --ground_truth="truth.json"
  python3 accuracy.py --images="val2017" --ground_truth="instances_val2017.json"

Run it beside any setting that makes infer.py faster: same model, same pre- and post-processing, same options for precision. A
video's image ids are its frames' numbers from 0. Classes are matched by name. Judged by pycocotools as COCO does it: mAP50-95 is
the mean over the overlaps 0.50, 0.55 ... 0.95 that count as found, mAP50 that of 0.50.
"""

import argparse
import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's threads would spin against OpenVINO's

import cv2
import numpy as np

from harness import cli, measure, model as model_files, placement as place, record, trouble
from harness.cli import UserError
from infer import add_model_arguments, load, objects_of
from segmentation import Detections, Letterbox, class_names
from video_source import VideoSource

METRICS = {"mask": "segm", "box": "bbox"}  # as pycocotools calls them


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--video", default="pharmacy_drivethru.mp4", help="video file")
    source.add_argument("--images", type=Path, help="folder of the images that the ground truth names")
    parser.add_argument("--ground_truth", type=Path, required=True, help="JSON in COCO's format")
    parser.add_argument("--max_images", type=cli.positive_int, help="stop after this many images or frames")
    parser.add_argument("--save_detections", type=Path, metavar="FILE", help="write all detections, in COCO's result format")
    add_judged_arguments(parser)
    parser.set_defaults(hint="throughput")
    return parser.parse_args()


def add_judged_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of how a model is run that is to be judged."""
    add_model_arguments(parser, conf=0.001)  # low, as mAP weighs scores itself
    cli.add_common_arguments(parser, iteration=None)


def read_truth(path: Path):
    """The ground truth as pycocotools has it. Raises UserError."""
    from pycocotools.coco import COCO

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(str(path))
            empty = not (truth.getImgIds() and truth.getAnnIds() and truth.getCatIds())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror} (--ground_truth)") from None
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise UserError(f"{path} is not ground truth in COCO's format: {cli.one_line(error)}") from None
    if empty:
        raise UserError(f"{path} names no images, objects or classes (--ground_truth)")
    return truth


def truth_of(told: dict):
    """Ground truth, told in COCO's format, as pycocotools has it."""
    from pycocotools.coco import COCO

    truth = COCO()
    truth.dataset = told
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    return truth


def video_frames(video: str, truth, max_frames: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
    """(image id, uint8 [H, W, 3] RGB) of each frame of a video that the ground truth knows."""
    for number, (frame, _) in enumerate(VideoSource(video).frames(max_frames)):
        if number in truth.imgs:
            yield number, frame


def images(folder: Path, truth, max_images: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
    """(image id, uint8 [H, W, 3] RGB) of each image that the ground truth names."""
    for image in sorted(truth.imgs.values(), key=lambda image: image["id"])[:max_images]:
        picture = cv2.imread(str(folder / image["file_name"]))
        if picture is None:
            raise UserError(f"{folder / image['file_name']} can't be read as an image (--images)")
        yield image["id"], cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def categories_of(names: dict[int, str], truth) -> dict[int, int]:
    """The model's classes that the ground truth has, to its ids. Raises UserError where there are none."""
    by_name = {category["name"]: category["id"] for category in truth.cats.values()}
    found = {index: by_name[name] for index, name in names.items() if name in by_name}
    if not found:
        raise UserError(f"no class of the model is in the ground truth: that has {', '.join(by_name)}")
    return found


def detect(compiled, pictures, categories: dict[int, int], args: argparse.Namespace) -> Iterator[tuple[int, list[dict]]]:
    """(image id, detections in COCO's result format) of each picture."""
    _, *input_size, _ = compiled.input().shape
    request = compiled.create_infer_request()
    for image_id, picture in pictures:
        box = Letterbox(*picture.shape[:2], *input_size)
        box.place(picture, request.get_input_tensor().data[0])
        request.infer()
        yield image_id, results(image_id, objects_of(request, box, args), picture.shape[:2], categories)


def results(image_id: int, found: Detections, shape: tuple[int, int], categories: dict[int, int]) -> list[dict]:
    """Detections of one image in COCO's result format. `categories`: from categories_of()."""
    told = []
    for index, (box, score, kind) in enumerate(zip(found.boxes, found.scores, found.classes)):
        if int(kind) in categories:
            left, top, right, bottom = map(float, box)
            told.append({
                "image_id": image_id, "category_id": categories[int(kind)], "score": float(score),
                "bbox": [left, top, right - left, bottom - top], "segmentation": found.run_lengths(index, shape),
            })  # fmt: skip
    return told


def mean_average_precision(truth, detections: list[dict], image_ids: list[int], category_ids: list[int]) -> dict[str, float]:
    """mask_map50_95, mask_map50, box_map50_95 and box_map50, from 0 to 1, over these images and classes."""
    from pycocotools.cocoeval import COCOeval

    found = {f"{what}_{which}": 0.0 for what in METRICS for which in ("map50_95", "map50")}
    if not detections:
        return found
    with contextlib.redirect_stdout(io.StringIO()):
        judged = truth.loadRes(detections)
        for what, kind in METRICS.items():
            evaluation = COCOeval(truth, judged, kind)
            evaluation.params.imgIds, evaluation.params.catIds = image_ids, category_ids
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            found[f"{what}_map50_95"], found[f"{what}_map50"] = (float(max(value, 0.0)) for value in evaluation.stats[:2])
    return found


def main() -> int:
    args = parse_args()
    placement = place.Placement.from_arguments(args)
    model_files.check_ir(args.model_path, hint=f"make it with `python3 export.py --output {args.model_path.parent}`")
    truth = read_truth(args.ground_truth)
    record.check_destination(args)
    compiled, weight_format, load_time_s = load(args, placement)
    names = class_names(args.model_path.parent)
    categories = categories_of(names, truth)
    told_model = model_files.describe(args.model_path.stem, args.model_path.parent, [args.model_path], weight_format)
    told_placement = place.describe(placement, {"model": compiled})
    machine = record.introduce(told_model, told_placement, args.device, load_time_s)

    detections, image_ids = [], []
    if args.images:
        pictures = images(args.images, truth, args.max_images)
    else:
        pictures = video_frames(args.video, truth, args.max_images)
    with measure.Watch() as watch:
        for image_id, found in detect(compiled, pictures, categories, args):
            image_ids.append(image_id)
            detections += found
    if not image_ids:
        if watch.status == "interrupted":
            raise KeyboardInterrupt
        raise UserError(watch.error or "the ground truth is of other pictures")
    values = mean_average_precision(truth, detections, image_ids, sorted(categories.values()))
    if args.save_detections:
        try:
            args.save_detections.write_text(json.dumps(detections))
        except OSError as error:
            raise UserError(f"cannot write {args.save_detections}: {error.strerror} (--save_detections)") from None

    print(f"\nMask mAP50-95: {values['mask_map50_95']:.3f}, mAP50: {values['mask_map50']:.3f}")
    print(f"Box  mAP50-95: {values['box_map50_95']:.3f}, mAP50: {values['box_map50']:.3f}")
    print(
        f"Over {len(image_ids)} images and {len(categories)} classes: {', '.join(names[index] for index in sorted(categories))}"
    )
    run = record.build(
        "video-accuracy",
        args,
        headline="mask_map50_95",
        metrics={name: measure.summarize([value], "share", "higher") for name, value in values.items()},
        samples={},
        model=told_model,
        source={"name": str(args.images or args.video), "sha256": model_files.sha256(args.ground_truth)},
        machine=machine,
        placement=told_placement,
        watch=watch,
        output={
            "images": len(image_ids),
            "detections": len(detections),
            "classes": [names[index] for index in sorted(categories)],
        },
        resolved={"runtime": "openvino"},
        signs=trouble.of_machine(watch.usage, machine),
    )
    return record.finish(run, args)


if __name__ == "__main__":
    cli.run(main)
