"""YOLOv8 segmentation around the network: a frame in, boxes and masks out, and drawn.

Follows ultralytics' own pre- and post-processing (letterbox, non-maximum suppression by class, masks from prototypes
at frame size); masks are computed only inside their boxes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

PADDING_GREY = 114
MAX_DETECTIONS = 300
MASK_OPACITY = 0.5
# Eight hues that colour-blind readers tell apart (Okabe and Ito, 2008), RGB.
PALETTE = [
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
    (255, 255, 255),
]
# A table for each colour that maps a pixel to the same pixel seen through a mask: uint8 [256, 1, 3].
TINTS = [
    (np.arange(256)[:, None, None] * (1 - MASK_OPACITY) + np.array(colour) * MASK_OPACITY).astype(np.uint8) for colour in PALETTE
]


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
        return round(self.frame_width * self.gain), round(self.frame_height * self.gain)

    @property
    def left(self) -> int:
        return round((self.input_width - self.size[0]) / 2 - 0.1)

    @property
    def top(self) -> int:
        return round((self.input_height - self.size[1]) / 2 - 0.1)

    def place(self, frame: np.ndarray, network_input: np.ndarray) -> None:
        """Write a frame, uint8 [H, W, 3], into the network's input, uint8 [input_height, input_width, 3], padded grey."""
        width, height = self.size
        network_input[: self.top] = PADDING_GREY
        network_input[self.top + height :] = PADDING_GREY
        network_input[:, : self.left] = PADDING_GREY
        network_input[:, self.left + width :] = PADDING_GREY
        inside = network_input[self.top : self.top + height, self.left : self.left + width]
        cv2.resize(frame, (width, height), dst=inside, interpolation=cv2.INTER_LINEAR)


@dataclass(frozen=True)
class Detections:
    """What was found in a frame, n objects, best first.

    boxes : float32 [n, 4], left, top, right, bottom in frame pixels.
    scores : float32 [n].
    classes : int64 [n], indices of the model's class names.
    masks : n arrays uint8 [h, w], 1 on the object, each covering just the pixels that its box touches.
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

    def told(self, names: dict[int, str], shape: tuple[int, int]) -> list[dict]:
        """Each object as JSON: class, score, box (left, top, right, bottom) and mask, in a frame of this height and width."""
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
        """One object's mask as COCO's run lengths over a frame of this height and width."""
        from pycocotools import mask as rle

        x0, y0, _, _ = self.corners[index]
        whole = np.zeros(shape, np.uint8, order="F")
        region = whole[y0 : y0 + self.masks[index].shape[0], x0 : x0 + self.masks[index].shape[1]]
        region[:] = self.masks[index][: region.shape[0], : region.shape[1]]
        encoded = rle.encode(whole)
        return {**encoded, "counts": encoded["counts"].decode()}


def find_objects(predictions: np.ndarray, prototypes: np.ndarray, letterbox: Letterbox, conf: float, iou: float) -> Detections:
    """Boxes and masks from the network's two outputs.

    Parameters
    ----------
    predictions : float32 [4 + classes + 32, anchors]: box centre and size in input pixels, class scores, mask weights.
    prototypes : float32 [32, input_height / 4, input_width / 4]: what masks are weighted sums of.
    conf : least score. iou : overlap at which the weaker of two boxes of a class is dropped.
    """
    n_masks = prototypes.shape[0]
    class_scores = predictions[4:-n_masks]
    anchors = np.flatnonzero(class_scores.max(axis=0) > conf)
    candidates = predictions[:, anchors]
    classes, scores = candidates[4:-n_masks].argmax(axis=0), candidates[4:-n_masks].max(axis=0, initial=0)
    centre, size = candidates[:2].T, candidates[2:4].T
    boxes = np.concatenate([centre - size / 2, size], axis=1)
    kept = cv2.dnn.NMSBoxesBatched(boxes, scores, classes.astype(np.int32), conf, iou) if len(boxes) else []
    kept = np.array(kept, dtype=np.int64).reshape(-1)
    kept = kept[np.argsort(-scores[kept], kind="stable")][:MAX_DETECTIONS]

    limits = np.array([letterbox.frame_width, letterbox.frame_height] * 2, np.float32)
    boxes = boxes[kept]
    boxes[:, 2:] += boxes[:, :2]
    boxes = (boxes - [letterbox.left, letterbox.top] * 2) / letterbox.gain
    boxes = np.clip(boxes, 0, limits).astype(np.float32)
    corners = np.concatenate([np.ceil(boxes[:, :2] - 1e-3), np.ceil(boxes[:, 2:] - 1e-3)], axis=1).astype(int)

    _, mask_height, mask_width = prototypes.shape
    weighted = candidates[-n_masks:, kept].T @ prototypes.reshape(n_masks, -1)
    step_x, step_y = mask_width / letterbox.input_width, mask_height / letterbox.input_height
    masks = []
    for logits, (x0, y0, x1, y1) in zip(weighted.reshape(-1, mask_height, mask_width), corners):
        # Frame pixel (x, y) has its centre at x + 1/2; so has every pixel of the mask map.
        to_map = np.array([
            [letterbox.gain * step_x, 0, ((x0 + 0.5) * letterbox.gain + letterbox.left) * step_x - 0.5],
            [0, letterbox.gain * step_y, ((y0 + 0.5) * letterbox.gain + letterbox.top) * step_y - 0.5],
        ])  # fmt: skip
        size = (max(int(x1 - x0), 1), max(int(y1 - y0), 1))
        scaled = cv2.warpAffine(
            logits, to_map, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE
        )
        masks.append((scaled > 0).astype(np.uint8))
    return Detections(boxes, scores[kept], classes[kept], masks, corners)


def draw(frame: np.ndarray, found: Detections, names: dict[int, str]) -> None:
    """Draw masks, boxes, class names and scores over a frame, uint8 [H, W, 3], RGB, in place."""
    for box, score, kind, name, mask, (x0, y0, _, _) in zip(
        found.boxes, found.scores, found.classes, found.named(names), found.masks, found.corners
    ):
        colour, tint = PALETTE[int(kind) % len(PALETTE)], TINTS[int(kind) % len(TINTS)]
        region = frame[y0 : y0 + mask.shape[0], x0 : x0 + mask.shape[1]]
        mask = mask[: region.shape[0], : region.shape[1]]
        if region.size:
            cv2.copyTo(cv2.LUT(region, tint), mask, region)
        left, top, right, bottom = (int(v) for v in box)
        cv2.rectangle(frame, (left, top), (right, bottom), colour, 2)
        label = f"{name} {score:.2f}"
        (width, height), _ = cv2.getTextSize(label, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)
        base = max(top, height + 6)
        cv2.rectangle(frame, (left, base - height - 6), (left + width + 4, base), colour, -1)
        cv2.putText(frame, label, (left + 2, base - 4), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)


def class_names(model_folder: Path) -> dict[int, str]:
    """Class names as ultralytics exports them beside the model; empty where they are missing."""
    import yaml

    try:
        return dict(yaml.safe_load((model_folder / "metadata.yaml").read_text())["names"])
    except (OSError, KeyError, TypeError, yaml.YAMLError):
        return {}
