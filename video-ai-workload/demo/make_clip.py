"""Make pharmacy_drivethru.mp4, the demo clip, from its seed, or its ground truth (COCO JSON)."""

import argparse
import json
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from scenes import CAR, DESIGN_HEIGHT, DESIGN_WIDTH, PERSON, clip, hardly_visible

SEED, NUM_FRAMES, FPS = 79, 40, 10  # below train.TRAIN_SEEDS: never trained on


def coco(seed: int, num_frames: int, fps: float) -> dict:
    """Every drawn object's visible mask, in COCO's format; image ids are frame numbers from 0.

    What is hardly visible is marked as a crowd: whether it is found does not count in COCO.
    """
    images, annotations = [], []
    for number, (scene, t_s, _, ids) in enumerate(clip(seed, num_frames, fps)):
        height, width = ids.shape
        name = f"frame {number}"
        images.append({"id": number, "width": width, "height": height, "file_name": name})
        for index, mover in enumerate(scene.movers, 1):
            mask = ids == index
            if area := int(mask.sum()):
                crowd = int(hardly_visible(scene, index, t_s, area))
                annotation = {"id": len(annotations) + 1, "image_id": number, "iscrowd": crowd}
                annotation |= {"category_id": mover.kind, "area": area, **run_lengths(mask)}
                annotations.append(annotation)
    categories = [{"id": PERSON, "name": "person"}, {"id": CAR, "name": "car"}]
    info = {"description": f"clip of seed {seed}"}
    return dict(info=info, images=images, annotations=annotations, categories=categories)


def run_lengths(mask: np.ndarray) -> dict:
    """A mask, bool [H, W], and its box in COCO's format."""
    from pycocotools import mask as rle

    encoded = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
    box = rle.toBbox(encoded).tolist()
    return {"bbox": box, "segmentation": {**encoded, "counts": encoded["counts"].decode()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add, output = parser.add_argument, Path(__file__).parent.parent / "pharmacy_drivethru.mp4"
    add("--output", type=Path, default=output)
    add("--seed", type=int, default=SEED)
    add("--num_frames", type=int, default=NUM_FRAMES)
    add("--fps", type=Fraction, default=Fraction(FPS))
    truth = "write this file (JSON) instead of the clip"
    add("--ground_truth", type=Path, metavar="FILE", help=truth)
    args = parser.parse_args()
    if args.ground_truth:
        args.ground_truth.write_text(json.dumps(coco(args.seed, args.num_frames, float(args.fps))))
        return
    with av.open(str(args.output), "w") as container:
        options = {"preset": "slow", "crf": "22"}
        stream = container.add_stream("libx264", rate=args.fps, options=options)
        stream.pix_fmt, stream.width, stream.height = "yuv420p", DESIGN_WIDTH, DESIGN_HEIGHT
        for _, _, frame, _ in clip(args.seed, args.num_frames, float(args.fps)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    size_kb = args.output.stat().st_size / 1e3
    print(f"{args.output}: {args.num_frames} frames, {size_kb:.0f} kB", file=sys.stderr)


if __name__ == "__main__":
    main()
