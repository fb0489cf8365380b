"""YOLOv8 segmentation around the network: a frame in, boxes and masks out, and drawn.

Follows ultralytics' own pre- and post-processing (letterbox, non-maximum suppression by class,
masks from prototypes at frame size); masks are computed only inside their boxes.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

PADDING_GREY = 114
MAX_DETECTIONS = 300
MASK_OPACITY = 0.5
FONT, FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.5
# Eight hues that colour-blind readers tell apart (Okabe and Ito, 2008), RGB.
HUES = "e69f00 56b4e9 009e73 f0e442 0072b2 d55e00 cc79a7 ffffff"
PALETTE = [tuple(bytes.fromhex(hue)) for hue in HUES.split()]
# Per colour, a table that maps a pixel to the same seen through a mask: uint8 [256, 1, 3].
GREYS = np.arange(256)[:, None, None]
TINTS = [
    (GREYS * (1 - MASK_OPACITY) + np.array(colour) * MASK_OPACITY).astype(np.uint8)
    for colour in PALETTE
]


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

    @property
    def gain(self) -> float:
        return min(self.input_height / self.frame_height, self.input_width / self.frame_width)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the frame inside the input, pixels."""
        sides = round(self.frame_width * self.gain), round(self.frame_height * self.gain)
        return max(1, sides[0]), max(1, sides[1])

    @property
    def left(self) -> int:
        return round((self.input_width - self.size[0]) / 2 - 0.1)

    @property
    def top(self) -> int:
        return round((self.input_height - self.size[1]) / 2 - 0.1)

    def place(self, frame: np.ndarray, network_input: np.ndarray) -> None:
        """Write a frame, uint8 [H, W, 3], into the network's input, padded grey.

        network_input : uint8 [input_height, input_width, 3].
        """
        width, height = self.size
        network_input[: self.top] = PADDING_GREY
        network_input[self.top + height :] = PADDING_GREY
        network_input[:, : self.left] = PADDING_GREY
        network_input[:, self.left + width :] = PADDING_GREY
        inside = network_input[self.top :, self.left :][:height, :width]
        cv2.resize(frame, (width, height), dst=inside, interpolation=cv2.INTER_LINEAR)


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
    prototypes : float32 [32, input_height / 4, input_width / 4]: what masks are weighted sums of.
    """
    conf, iou = thresholds.conf, thresholds.iou
    n_masks = prototypes.shape[0]
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

    weighted = np.tensordot(candidates[-n_masks:, kept].T, prototypes, axes=1)
    masks = [_mask_in_box(logits, corner, letterbox) for logits, corner in zip(weighted, corners)]
    return Detections(boxes, scores[kept], classes[kept], masks, corners)


def _mask_in_box(logits: np.ndarray, corners: np.ndarray, letterbox: Letterbox) -> np.ndarray:
    """A mask at frame size, of just the pixels that its box touches.

    Parameters
    ----------
    logits : float32 [input_height / 4, input_width / 4], above 0 on the object.
    corners : left, top, right, bottom of the box, frame pixels.
    """
    x0, y0, x1, y1 = corners
    gain, (height, width) = letterbox.gain, logits.shape
    step_x, step_y = width / letterbox.input_width, height / letterbox.input_height
    # Frame pixel (x, y) has its centre at x + 1/2; so has every pixel of the mask map.
    map_x = ((x0 + 0.5) * gain + letterbox.left) * step_x - 0.5
    map_y = ((y0 + 0.5) * gain + letterbox.top) * step_y - 0.5
    to_map = np.array([[gain * step_x, 0, map_x], [0, gain * step_y, map_y]])
    size = (max(int(x1 - x0), 1), max(int(y1 - y0), 1))
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    scaled = cv2.warpAffine(logits, to_map, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return (scaled > 0).astype(np.uint8)


def draw(frame: np.ndarray, found: Detections, names: dict[int, str]) -> None:
    """Draw masks, boxes, class names and scores over a frame, uint8 [H, W, 3], RGB, in place."""
    labels = [f"{name} {score:.2f}" for name, score in zip(found.named(names), found.scores)]
    for box, kind, label, mask, (x0, y0, _, _) in zip(
        found.boxes, found.classes, labels, found.masks, found.corners
    ):
        colour, tint = PALETTE[int(kind) % len(PALETTE)], TINTS[int(kind) % len(TINTS)]
        region = frame[y0 : y0 + mask.shape[0], x0 : x0 + mask.shape[1]]
        if region.size:
            cv2.copyTo(cv2.LUT(region, tint), mask[: region.shape[0], : region.shape[1]], region)
        left, top, right, bottom = (int(v) for v in box)
        cv2.rectangle(frame, (left, top), (right, bottom), colour, 2)
        (width, height), _ = cv2.getTextSize(label, FONT, FONT_SCALE, 1)
        base = max(top, height + 6)
        cv2.rectangle(frame, (left, base - height - 6), (left + width + 4, base), colour, -1)
        at = left + 2, base - 4
        cv2.putText(frame, label, at, FONT, FONT_SCALE, (0, 0, 0), 1, cv2.LINE_AA)
