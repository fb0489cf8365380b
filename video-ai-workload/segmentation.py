"""YOLOv8 segmentation around the network: a frame in, boxes and masks out, and drawn.

Follows ultralytics' own pre- and post-processing (letterbox, non-maximum suppression by class,
masks from prototypes at frame size); masks are computed only inside their boxes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache

import av
import cv2
import numpy as np
from picture import copied, planes, write_rgb, yuv

PADDING_GREY = 114
MAX_DETECTIONS = 300
MASK_OPACITY = 0.5
FONT, FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.5
# Eight hues that colour-blind readers tell apart (Okabe and Ito, 2008), RGB.
HUES = "e69f00 56b4e9 009e73 f0e442 0072b2 d55e00 cc79a7 ffffff"
PALETTE = [tuple(bytes.fromhex(hue)) for hue in HUES.split()]
BLACK = (16, 128, 128)  # Y, U, V


@dataclass(frozen=True)
class Thresholds:
    conf: float  # least score of a detection
    iou: float  # overlap at which the weaker of two boxes of a class is dropped


@dataclass(frozen=True)
class Letterbox:
    """How a frame lies in the network's input: scaled by `gain` and centred, at (left, top)."""

    frame_height: int
    frame_width: int
    input_height: int
    input_width: int

    @classmethod
    def of(cls, picture: av.VideoFrame, input_size: tuple[int, int]) -> Letterbox:
        """How a picture lies in an input of this height and width."""
        return cls(picture.height, picture.width, *input_size)

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of the frame, pixels."""
        return self.frame_height, self.frame_width

    @cached_property
    def gain(self) -> float:
        return min(self.input_height / self.frame_height, self.input_width / self.frame_width)

    @cached_property
    def size(self) -> tuple[int, int]:
        """Width and height of the frame inside the input, pixels."""
        sides = round(self.frame_width * self.gain), round(self.frame_height * self.gain)
        return max(1, sides[0]), max(1, sides[1])

    @cached_property
    def left(self) -> int:
        return round((self.input_width - self.size[0]) / 2 - 0.1)

    @cached_property
    def top(self) -> int:
        return round((self.input_height - self.size[1]) / 2 - 0.1)

    def place(self, picture: av.VideoFrame, network_input: np.ndarray) -> None:
        """Write a picture, in picture.PIXELS, into the network's input, as RGB, padded grey.

        network_input : uint8 [input_height, input_width, 3].
        """
        width, height = self.size
        network_input[: self.top] = PADDING_GREY
        network_input[self.top + height :] = PADDING_GREY
        network_input[:, : self.left] = PADDING_GREY
        network_input[:, self.left + width :] = PADDING_GREY
        write_rgb(picture, network_input[self.top :, self.left :][:height, :width])


@dataclass(frozen=True)
class Detections:
    """What was found in a frame, n objects, best first.

    boxes : float32 [n, 4], left, top, right, bottom in frame pixels.
    scores : float32 [n].
    classes : int64 [n], indices of the model's class names.
    masks : n arrays uint8 [h, w], 1 on the object, each of just the pixels that its box touches.
    corners : int [n, 4], left, top, right, bottom of those pixels.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    masks: list[np.ndarray]
    corners: np.ndarray

    def named(self, names: dict[int, str]) -> list[str]:
        """The objects' classes."""
        return [names.get(int(kind), str(kind)) for kind in self.classes]

    def to_json(self, names: dict[int, str], shape: tuple[int, int]) -> list[dict]:
        """Each object's class, score, box and mask; `shape` is the frame's height and width."""
        return [
            {
                "class": name,
                "score": round(float(self.scores[index]), 4),
                "box": [round(float(side), 2) for side in self.boxes[index]],
                "mask": self.run_lengths(index, shape),
            }
            for index, name in enumerate(self.named(names))
        ]

    def run_lengths(self, index: int, shape: tuple[int, int]) -> dict:
        """One object's mask as COCO's run lengths; `shape` is the frame's height and width."""
        from pycocotools import mask as rle

        x0, y0, _, _ = self.corners[index]
        whole = np.zeros(shape, np.uint8, order="F")
        mask = self.masks[index]
        region = whole[y0 : y0 + mask.shape[0], x0 : x0 + mask.shape[1]]
        region[:] = mask[: region.shape[0], : region.shape[1]]
        encoded = rle.encode(whole)
        return {**encoded, "counts": encoded["counts"].decode()}


def find_objects(
    predictions: np.ndarray, prototypes: np.ndarray, letterbox: Letterbox, thresholds: Thresholds
) -> Detections:
    """Boxes and masks from the network's two outputs.

    Parameters
    ----------
    predictions : float32 [4 + classes + 32, anchors]: box centre and size in input pixels, class
        scores, mask weights.
    prototypes : float32 [input_height / 4, input_width / 4, 32]: what masks are weighted sums of.
    """
    conf, iou = thresholds.conf, thresholds.iou
    n_masks = prototypes.shape[2]
    class_scores = predictions[4:-n_masks]
    anchors = np.flatnonzero(class_scores.max(axis=0) > conf)
    candidates = predictions[:, anchors]
    candidate_scores = candidates[4:-n_masks]
    classes, scores = candidate_scores.argmax(axis=0), candidate_scores.max(axis=0, initial=0)
    centre, size = candidates[:2].T, candidates[2:4].T
    boxes = np.concatenate([centre - size / 2, size], axis=1)
    kept = []
    if len(boxes):
        kept = cv2.dnn.NMSBoxesBatched(boxes, scores, classes.astype(np.int32), conf, iou)
    kept = np.array(kept, dtype=np.int64).reshape(-1)
    kept = kept[np.argsort(-scores[kept], kind="stable")][:MAX_DETECTIONS]

    limits = np.array([letterbox.frame_width, letterbox.frame_height] * 2, np.float32)
    boxes = boxes[kept]
    boxes[:, 2:] += boxes[:, :2]
    boxes = (boxes - [letterbox.left, letterbox.top] * 2) / letterbox.gain
    boxes = np.clip(boxes, 0, limits).astype(np.float32)
    corners = np.ceil(boxes - 1e-3).astype(int)

    weights = candidates[-n_masks:, kept].T
    masks = [_mask_in_box(w, prototypes, corner, letterbox) for w, corner in zip(weights, corners)]
    return Detections(boxes, scores[kept], classes[kept], masks, corners)


def _mask_in_box(
    weights: np.ndarray, prototypes: np.ndarray, corners: np.ndarray, letterbox: Letterbox
) -> np.ndarray:
    """A mask at frame size, of just the pixels that its box touches.

    Parameters
    ----------
    weights : float32 [32], of the prototypes; their sum is above 0 on the object.
    corners : left, top, right, bottom of the box, frame pixels.
    """
    x0, y0, x1, y1 = map(int, corners)
    height, width, _ = prototypes.shape
    step_x, step_y = width / letterbox.input_width, height / letterbox.input_height
    # Of the mask map, per frame pixel; and before the frame's first one.
    pixel_x, pixel_y = letterbox.gain * step_x, letterbox.gain * step_y
    columns, skip_x = _span(x0, x1, pixel_x, letterbox.left * step_x, width)
    rows, skip_y = _span(y0, y1, pixel_y, letterbox.top * step_y, height)
    logits = prototypes[rows, columns] @ weights
    upscaled = cv2.resize(logits, None, fx=1 / pixel_x, fy=1 / pixel_y)
    inside = upscaled[skip_y:, skip_x:][: max(y1 - y0, 1), : max(x1 - x0, 1)]
    return (inside > 0).view(np.uint8)


def _span(low: int, high: int, pixel: float, padding: float, size: int) -> tuple[slice, int]:
    """What of the mask map to scale up for frame pixels `low` to `high`, along one axis.

    It begins where a map pixel's edge is closest to a frame pixel's: scaled up, its pixels are the
    frame's. Returns it, and the frame pixels between its beginning and `low`.

    Parameters
    ----------
    pixel : a frame pixel's size, map pixels. padding : before the frame, map pixels.
    size : of the map, pixels.
    """
    first = max(0, int(low * pixel + padding) - 1)
    last = min(size, math.ceil(high * pixel + padding) + 1)
    begin, edge = _beginning(first, pixel, padding)
    return slice(begin, last), low - edge


@lru_cache(maxsize=4096)  # several frame sizes' positions, along both axes
def _beginning(first: int, pixel: float, padding: float) -> tuple[int, int]:
    """Where _span() begins: `first` or a few map pixels before it; and the frame pixel there."""

    def edge(index: int) -> float:
        return (index - padding) / pixel

    starts = range(first, max(0, first - max(8, math.ceil(pixel))) - 1, -1)
    begin = min(starts, key=lambda index: round(abs(edge(index) - round(edge(index))), 3))
    return begin, round(edge(begin))


def draw(picture: av.VideoFrame, found: Detections, names: dict[int, str]) -> av.VideoFrame:
    """A copy of a picture in picture.PIXELS, with masks, boxes, names and scores drawn over it."""
    drawn = copied(picture)
    of_planes = list(zip(planes(drawn), (1, 2, 2), BLACK))
    for index, (name, kind) in enumerate(zip(found.named(names), found.classes)):
        label = f"{name} {found.scores[index]:.2f}"
        colour = yuv(PALETTE[int(kind) % len(PALETTE)], drawn.colorspace)
        for (plane, step, black), ink in zip(of_planes, colour):
            _tint(plane, found.masks[index], found.corners[index], step, ink)
            _box(plane, found.boxes[index], label, step, ink, black)
    return drawn


def _tint(plane: np.ndarray, mask: np.ndarray, corners: np.ndarray, step: int, ink: int) -> None:
    """Draw a mask over a plane that has every `step`-th row and column of the frame."""
    left, top, _, _ = corners
    mask = mask[top % step :: step, left % step :: step]
    region = plane[-(-top // step) :, -(-left // step) :][: mask.shape[0], : mask.shape[1]]
    if region.size:
        seen = cv2.LUT(region, _through_mask(ink))
        cv2.copyTo(seen, mask[: region.shape[0], : region.shape[1]], region)


@cache
def _through_mask(ink: int) -> np.ndarray:
    """What each value of a plane becomes under a mask: uint8 [256]."""
    return (np.arange(256) * (1 - MASK_OPACITY) + ink * MASK_OPACITY).astype(np.uint8)


def _box(plane: np.ndarray, box: np.ndarray, label: str, step: int, ink: int, black: int) -> None:
    """Draw a box and its label over a plane that has every `step`-th row and column."""
    left, top, right, bottom = (int(side) for side in box)
    opposite = right // step, bottom // step
    cv2.rectangle(plane, (left // step, top // step), opposite, ink, 2 // step)
    (width, height), _ = cv2.getTextSize(label, FONT, FONT_SCALE, 1)
    base = max(top, height + 6)
    corner = (left + width + 4) // step, base // step
    cv2.rectangle(plane, (left // step, (base - height - 6) // step), corner, ink, -1)
    at = (left + 2) // step, (base - 4) // step
    cv2.putText(plane, label, at, FONT, FONT_SCALE / step, black, 1, cv2.LINE_AA)
