"""Mean average precision (mAP) of detections against ground truth in COCO's format."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import av
from model import Model, objects_of
from segmentation import Detections, Letterbox, Thresholds
from video_source import VideoSource

from harness import cli
from harness.cli import UserError

LEAST_SCORE = 0.001  # low, as mAP weighs scores itself
KINDS = {"mask": "segm", "box": "bbox"}  # as pycocotools calls them


def read_truth(path: Path):
    """Ground truth, as a pycocotools COCO. Raises UserError."""
    try:
        truth = truth_from(json.loads(path.read_text()))
        empty = not (truth.getImgIds() and truth.getAnnIds() and truth.getCatIds())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror} (--ground_truth)") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        message = f"{path} is not ground truth in COCO's format: {cli.one_line(error)}"
        raise UserError(message) from None
    if empty:
        raise UserError(f"{path} names no images, objects or classes (--ground_truth)")
    return truth


def truth_from(dataset: dict):
    """Ground truth from a dict in COCO's format, as a pycocotools COCO."""
    from pycocotools.coco import COCO

    truth = COCO()
    truth.dataset = dataset
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    return truth


def video_frames(
    video: str, truth, max_frames: int | None = None
) -> Iterator[tuple[int, av.VideoFrame]]:
    """(image id, picture) of each frame that the ground truth knows by its number."""
    for number, (frame, _) in enumerate(VideoSource(video).frames(max_frames)):
        if number in truth.imgs:
            yield number, frame


def shared_classes(names: dict[int, str], truth) -> dict[int, int]:
    """The ground truth's category ids, by class index, of classes that the model has too.

    Raises UserError where there are none.
    """
    by_name = {category["name"]: category["id"] for category in truth.cats.values()}
    shared = {index: by_name[name] for index, name in names.items() if name in by_name}
    if not shared:
        known = ", ".join(by_name)
        raise UserError(f"no class of the model is in the ground truth, which has {known}")
    return shared


def detect(
    model: Model, pictures: Iterable, classes: dict[int, int], thresholds: Thresholds
) -> Iterator[tuple[int, list[dict]]]:
    """(image id, detections in COCO's result format) of each (image id, picture)."""
    request, input_size = model.compiled.create_infer_request(), model.input_size
    for image_id, picture in pictures:
        box = Letterbox.of(picture, input_size)
        box.place(picture, request.get_input_tensor().data[0])
        request.infer()
        found = objects_of(request, box, thresholds)
        yield image_id, coco_results(image_id, found, box.frame_size, classes)


def coco_results(
    image_id: int, found: Detections, shape: tuple[int, int], classes: dict[int, int]
) -> list[dict]:
    """Detections of one image in COCO's result format. `classes`: from shared_classes()."""
    results = []
    for index, (box, score, kind) in enumerate(zip(found.boxes, found.scores, found.classes)):
        if int(kind) in classes:
            left, top, right, bottom = map(float, box)
            results.append(
                {
                    "image_id": image_id,
                    "category_id": classes[int(kind)],
                    "score": float(score),
                    "bbox": [left, top, right - left, bottom - top],
                    "segmentation": found.run_lengths(index, shape),
                }
            )
    return results


def mean_average_precision(
    truth, detections: list[dict], image_ids: list[int], category_ids: list[int]
) -> dict[str, float]:
    """mask_map50_95, mask_map50, box_map50_95, box_map50, from 0 to 1, by pycocotools."""
    from pycocotools.cocoeval import COCOeval

    scores = {f"{kind}_{which}": 0.0 for kind in KINDS for which in ("map50_95", "map50")}
    if not detections:
        return scores
    with contextlib.redirect_stdout(io.StringIO()):
        results = truth.loadRes(detections)
        for kind, name in KINDS.items():
            evaluation = COCOeval(truth, results, name)
            evaluation.params.imgIds, evaluation.params.catIds = image_ids, category_ids
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            first, second = (float(max(value, 0.0)) for value in evaluation.stats[:2])
            scores[f"{kind}_map50_95"], scores[f"{kind}_map50"] = first, second
    return scores
