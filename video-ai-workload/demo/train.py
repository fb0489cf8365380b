"""Train YOLOv8n-seg from random weights on drawn drive-thru scenes; makes yolov8n-seg-demo.pt.

The network is the official one (yolov8n-seg.yaml, 80 COCO classes), so its speed stands for the
official weights'. It learns persons and cars only, from scenes no two of which are the same, in
plain PyTorch with ultralytics' own loss. Seeds below TRAIN_SEEDS are kept for clips that it must
never have seen.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from copy import deepcopy
from pathlib import Path

import cv2
import numpy as np
import torch
from scenes import draw, make_scene
from torch.utils.data import DataLoader, IterableDataset
from ultralytics.cfg import get_cfg
from ultralytics.nn.tasks import SegmentationModel
from ultralytics.utils import YAML
from ultralytics.utils.checks import check_yaml

TRAIN_SEEDS = 1_000_000
MASK_RATIO = 4  # masks are learnt at a quarter of the input's size, as by the official trainer
SHUFFLE_BUFFER = 256


class DrawnScenes(IterableDataset):
    """Endless crops of new scenes.

    Each is (uint8 [3, S, S], classes [n], boxes xywh 0..1 [n, 4], mask of numbers [S/4, S/4]).
    """

    def __init__(self, size: int, seed: int):
        self.size, self.seed = size, seed

    def __iter__(self):
        rng = np.random.default_rng(TRAIN_SEEDS + self.seed)
        buffer = []
        while True:
            height = int(rng.integers(int(0.9 * self.size), int(1.35 * self.size)))
            scene = make_scene(rng, height)
            for _ in range(3):
                frame, ids = draw(scene, rng.uniform(0, 8), rng)
                frame = self._disturb(frame, rng)
                kinds = [mover.kind for mover in scene.movers]
                for _ in range(2):
                    buffer.append(self._crop(frame, ids, kinds, rng))
            while len(buffer) >= SHUFFLE_BUFFER:
                yield buffer.pop(int(rng.integers(len(buffer))))

    def _disturb(self, frame: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Another exposure, white balance and compression."""
        gain = rng.uniform(0.65, 1.3) * rng.uniform(0.93, 1.07, 3)
        frame = np.clip(frame * gain, 0, 255).astype(np.uint8)
        if rng.random() < 0.5:
            quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(35, 95))]
            _, jpeg = cv2.imencode(".jpg", frame, quality)
            frame = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)
        return frame

    def _crop(self, frame, ids, kinds, rng):
        size = self.size
        pad = (0, max(0, size - frame.shape[0])), (0, 0)
        frame = np.pad(frame, (*pad, (0, 0)), constant_values=114)
        ids = np.pad(ids, pad)
        y = int(rng.integers(0, frame.shape[0] - size + 1))
        x = int(rng.integers(0, frame.shape[1] - size + 1))
        frame, ids = frame[y : y + size, x : x + size], ids[y : y + size, x : x + size]
        if rng.random() < 0.5:
            frame, ids = frame[:, ::-1], ids[:, ::-1]
        areas = np.bincount(ids.ravel(), minlength=len(kinds) + 1)[1:]
        # Largest first, as overlap_mask wants it.
        kept = [n for n in np.argsort(-areas) if areas[n] >= 40]
        classes, boxes = [], []
        mask = np.zeros((size, size), np.uint8)
        for number, n in enumerate(kept, start=1):
            seen = ids == n + 1
            ys, xs = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
            x0, x1, y0, y1 = xs[0], xs[-1] + 1, ys[0], ys[-1] + 1
            boxes.append(np.array([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0]) / size)
            classes.append(kinds[n])
            mask[seen] = number
        step = MASK_RATIO
        return (
            torch.from_numpy(np.ascontiguousarray(frame.transpose(2, 0, 1))),
            torch.tensor(classes, dtype=torch.float32),
            torch.tensor(np.array(boxes), dtype=torch.float32).reshape(-1, 4),
            torch.from_numpy(mask[step // 2 :: step, step // 2 :: step].copy()),
        )


def collate(samples) -> dict[str, torch.Tensor]:
    images, classes, boxes, masks = zip(*samples)
    return {
        "img": torch.stack(images).float() / 255,
        "cls": torch.cat(classes)[:, None],
        "bboxes": torch.cat(boxes),
        "batch_idx": torch.cat([torch.full((len(c),), float(i)) for i, c in enumerate(classes)]),
        "masks": torch.stack(masks),
    }


def learning_rate(done: float, peak: float) -> float:
    """Linear warm-up over the first 4 %, then half a cosine down to 1 % of the peak."""
    return peak * min(done / 0.04, 1.0) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    output = Path(__file__).with_name("yolov8n-seg-demo.pt")
    parser.add_argument("--output", type=Path, default=output)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--peak_lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    torch.manual_seed(args.seed)
    net = SegmentationModel("yolov8n-seg.yaml", nc=80, verbose=False)
    net.names = dict(YAML.load(check_yaml("coco.yaml"))["names"])
    net.args = get_cfg(overrides=dict(task="segment", overlap_mask=True, mask_ratio=MASK_RATIO))
    net.train()
    learnt = [p for p in net.parameters() if p.requires_grad]
    decayed = {"params": [p for p in learnt if p.ndim > 1], "weight_decay": 5e-4}
    plain = {"params": [p for p in learnt if p.ndim <= 1], "weight_decay": 0.0}
    optimizer = torch.optim.AdamW([decayed, plain])
    average = deepcopy(net).eval()  # exponential moving average of the weights: what is kept

    scenes = DrawnScenes(args.imgsz, args.seed)
    loader = DataLoader(scenes, batch_size=args.batch_size, num_workers=1, collate_fn=collate)
    started_s = time.perf_counter()
    for step, batch in enumerate(itertools.islice(loader, args.steps)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step / args.steps, args.peak_lr)
        loss, parts = net.loss(batch)
        loss.sum().backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 10.0)
        optimizer.step()
        optimizer.zero_grad()
        update(average, net, step)
        if step % 50 == 0:
            losses = "  ".join(f"{name} {float(value):.3f}" for name, value in parts.items())
            print(f"step {step:5d}  {time.perf_counter() - started_s:6.0f} s  {losses}", flush=True)
        if step % 400 == 399 or step == args.steps - 1:
            save(average, args.output)
    print(f"{args.output}: {args.output.stat().st_size / 1e6:.1f} MB")


@torch.no_grad()
def update(average: SegmentationModel, net: SegmentationModel, step: int) -> None:
    """Move the average towards the network's weights: slower from step to step."""
    decay = 0.998 * (1 - math.exp(-step / 200))
    for kept, new in zip(average.state_dict().values(), net.state_dict().values()):
        kept.lerp_(new, 1 - decay) if kept.dtype.is_floating_point else kept.copy_(new)


def save(net: SegmentationModel, path: Path) -> None:
    """A checkpoint as ultralytics reads it: half-precision weights, no optimizer."""
    net = deepcopy(net).half().requires_grad_(False)
    if hasattr(net, "criterion"):
        del net.criterion
    train_args = dict(task="segment", model="yolov8n-seg.yaml", imgsz=640)
    train_args["data"] = "drawn drive-thru scenes"
    torch.save(dict(model=net, ema=None, optimizer=None, epoch=-1, train_args=train_args), path)


if __name__ == "__main__":
    main()
