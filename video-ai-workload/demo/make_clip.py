"""Make pharmacy_drivethru.mp4, the demo clip, from its seed. The ground truth of every frame: scenes.clip() with the same."""

import argparse
import sys
from fractions import Fraction
from pathlib import Path

import av
from scenes import DESIGN_HEIGHT, DESIGN_WIDTH, clip

SEED, NUM_FRAMES, FPS = 79, 40, 10  # below train.TRAIN_SEEDS: never trained on


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent.parent / "pharmacy_drivethru.mp4")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--num_frames", type=int, default=NUM_FRAMES)
    parser.add_argument("--fps", type=Fraction, default=Fraction(FPS))
    args = parser.parse_args()
    with av.open(str(args.output), "w") as container:
        stream = container.add_stream("libx264", rate=args.fps, options={"preset": "slow", "crf": "22"})
        stream.pix_fmt, stream.width, stream.height = "yuv420p", DESIGN_WIDTH, DESIGN_HEIGHT
        for _, _, frame, _ in clip(args.seed, args.num_frames, float(args.fps)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    print(f"{args.output}: {args.num_frames} frames, {args.output.stat().st_size / 1e3:.0f} kB", file=sys.stderr)


if __name__ == "__main__":
    main()
