"""For the video workload's tests: what it comes with, videos made on the spot, masks scored."""

import sys
from dataclasses import dataclass

import av
import numpy as np
from conftest import REPO

FOLDER = REPO / "video-ai-workload"
CLIP = FOLDER / "pharmacy_drivethru.mp4"
MODEL = FOLDER / "yolov8n-seg_openvino_model" / "yolov8n-seg.xml"
DEMO_WEIGHTS = FOLDER / "demo" / "yolov8n-seg-demo.pt"
DEMO_MODEL = ("--model_path", MODEL, "--conf", 0.25)
ONE_PASS = ("--num_iters", "1", "--warmup", "0", "--num_requests", "1")  # or 20 frames
MIN_IOU = 0.5
sys.path[:0] = [str(FOLDER), str(FOLDER / "demo")]


def flat(samples: list[list[float]]) -> list[float]:
    """A metric's samples of all iterations together."""
    return [sample for iteration in samples for sample in iteration]


def write_clip(
    path, frames, rate=10, pixels=None, codec="libx264", pts=None, time_base=None, audio_rate=None
):
    """A video of these frames, uint8 [H, W, 3]; with a tone, AAC, where `audio_rate` is given.

    `pts`, in units of `time_base`, are for frames at uneven times.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels or (
            "yuv420p" if stream.width % 2 == 0 and stream.height % 2 == 0 else "yuv444p"
        )
        if time_base:
            stream.codec_context.time_base = time_base
        sound = container.add_stream("aac", rate=audio_rate, layout="mono") if audio_rate else None
        for index, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if pts:
                frame.pts, frame.time_base = pts[index], time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound:
            times = np.arange(int(len(frames) / rate * audio_rate)) / audio_rate
            tone = (0.3 * np.sin(2 * np.pi * 440 * times)).astype(np.float32)[None]
            frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = audio_rate, 0
            container.mux(sound.encode(frame))
            container.mux(sound.encode(None))
    return path


def brightening_clip(path, count):
    """A video of `count` frames of 64 × 64, ever brighter."""
    pictures = [np.full((64, 64, 3), 20 + 200 * n // (count - 1), np.uint8) for n in range(count)]
    return write_clip(path, pictures)


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

    def add(self, other: "Score") -> None:
        self.drawn += other.drawn
        self.found += other.found
        self.false += other.false

    def add_frame(self, scene, t_s: float, ids: np.ndarray, detections) -> None:
        """Score one drawn frame.

        Parameters
        ----------
        ids : uint8 [H, W], from scenes.draw().
        detections : (COCO class, mask bool [H, W]) of each object found, best first.
        """
        from scenes import hardly_visible

        truths = [
            (number, mover.kind, ids == number)
            for number, mover in enumerate(scene.movers, 1)
            if (ids == number).any()
        ]
        wanted = {n for n, _, mask in truths if not hardly_visible(scene, n, t_s, mask.sum())}
        self.drawn += len(wanted)
        taken = set()
        for kind, mask in detections:
            same = [(n, truth) for n, other, truth in truths if other == kind]
            free = [(_iou(mask, truth), n) for n, truth in same if n not in taken]
            best, number = max(free, default=(0.0, 0))
            if best >= MIN_IOU:
                taken.add(number)
                self.found += number in wanted
            elif not any(_iou(mask, truth) > 0.1 for n, truth in same if n not in wanted):
                self.false += 1


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    return np.logical_and(a, b).sum() / np.logical_or(a, b).sum()
