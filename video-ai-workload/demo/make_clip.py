"""Make pharmacy_drivethru.mp4, the demo clip, from its seed; or, with --ground_truth, the objects in its frames, as COCO has them."""

import argparse
import json
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from ground_truth import MIN_AREA, MIN_VISIBLE_SHARE
from scenes import CAR, DESIGN_HEIGHT, DESIGN_WIDTH, PERSON, clip, whole_area

SEED, NUM_FRAMES, FPS = 79, 40, 10  # below train.TRAIN_SEEDS: never trained on


def coco(seed: int, num_frames: int, fps: float) -> dict:
    """Every drawn object's visible mask, in COCO's format; image ids are frame numbers from 0. What is hardly to be seen is
    marked as a crowd, which COCO neither asks for nor holds against."""
    from pycocotools import mask as rle

    images, annotations = [], []
    for number, (scene, t_s, _, ids) in enumerate(clip(seed, num_frames, fps)):
        images.append({"id": number, "width": ids.shape[1], "height": ids.shape[0], "file_name": f"frame {number}"})
        for index, mover in enumerate(scene.movers, 1):
            mask = ids == index
            area = int(mask.sum())
            if not area:
                continue
            encoded = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
            hidden = area < MIN_AREA or area < MIN_VISIBLE_SHARE * whole_area(scene, index, t_s)
            annotations.append({
                "id": len(annotations) + 1, "image_id": number, "category_id": mover.kind, "area": area, "iscrowd": int(hidden),
                "bbox": rle.toBbox(encoded).tolist(), "segmentation": {**encoded, "counts": encoded["counts"].decode()},
            })  # fmt: skip
    categories = [{"id": PERSON, "name": "person"}, {"id": CAR, "name": "car"}]
    return {
        "info": {"description": f"clip of seed {seed}"},
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent.parent / "pharmacy_drivethru.mp4")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--num_frames", type=int, default=NUM_FRAMES)
    parser.add_argument("--fps", type=Fraction, default=Fraction(FPS))
    parser.add_argument("--ground_truth", type=Path, metavar="FILE", help="write this file (JSON) instead of the clip")
    args = parser.parse_args()
    if args.ground_truth:
        args.ground_truth.write_text(json.dumps(coco(args.seed, args.num_frames, float(args.fps))))
        return
    with av.open(str(args.output), "w") as container:
        stream = container.add_stream("libx264", rate=args.fps, options={"preset": "slow", "crf": "22"})
        stream.pix_fmt, stream.width, stream.height = "yuv420p", DESIGN_WIDTH, DESIGN_HEIGHT
        for _, _, frame, _ in clip(args.seed, args.num_frames, float(args.fps)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    print(f"{args.output}: {args.num_frames} frames, {args.output.stat().st_size / 1e3:.0f} kB", file=sys.stderr)


if __name__ == "__main__":
    main()
