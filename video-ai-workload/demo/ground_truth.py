"""How well masks found in a drawn clip agree with what was drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scenes import Scene, whole_area

MIN_IOU = 0.5
MIN_VISIBLE_SHARE, MIN_AREA = 0.3, 150  # of an object, and pixels: under these it is neither asked for nor held against


@dataclass
class Score:
    """Objects drawn, those found with their class at mask IoU >= 0.5, and detections of nothing."""

    drawn: int = 0
    found: int = 0
    false: int = 0

    @property
    def recall(self) -> float:
        return self.found / self.drawn

    @property
    def false_share(self) -> float:
        """False detections over all detections that count."""
        return self.false / max(self.found + self.false, 1)


def judge(score: Score, scene: Scene, t_s: float, ids: np.ndarray, detections: list[tuple[int, np.ndarray]]) -> None:
    """Add one frame to the score.

    Parameters
    ----------
    ids : uint8 [H, W], from scenes.draw().
    detections : (COCO class, mask bool [H, W]) of each object found, best first.
    """
    truths = [(number, mover.kind, ids == number) for number, mover in enumerate(scene.movers, 1) if (ids == number).any()]
    wanted = {
        n for n, _, mask in truths if mask.sum() >= MIN_AREA and mask.sum() >= MIN_VISIBLE_SHARE * whole_area(scene, n, t_s)
    }
    score.drawn += len(wanted)
    taken = set()
    for kind, mask in detections:
        overlaps = [(_iou(mask, truth), number) for number, other, truth in truths if other == kind and number not in taken]
        best, number = max(overlaps, default=(0.0, 0))
        if best >= MIN_IOU:
            taken.add(number)
            score.found += number in wanted
        elif not any(_iou(mask, truth) > 0.1 for n, other, truth in truths if other == kind and n not in wanted):
            score.false += 1


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    return np.logical_and(a, b).sum() / np.logical_or(a, b).sum()
