"""For the video workload's tests: what it comes with, and videos made on the spot."""

import sys

import av
import numpy as np

from conftest import REPO

FOLDER = REPO / "video-ai-workload"
CLIP = FOLDER / "pharmacy_drivethru.mp4"
MODEL = FOLDER / "yolov8n-seg_openvino_model" / "yolov8n-seg.xml"
DEMO_WEIGHTS = FOLDER / "demo" / "yolov8n-seg-demo.pt"
ONE_PASS = ("--num_iters", "1", "--warmup", "0")
sys.path[:0] = [str(FOLDER), str(FOLDER / "demo")]


def write_clip(path, frames, rate=10, pixels=None, codec="libx264", pts=None, time_base=None, audio_rate=None):
    """A video of these frames, uint8 [H, W, 3]; `pts` in units of `time_base` for frames at uneven times; with a tone, AAC, where
    `audio_rate` is given."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels or ("yuv420p" if stream.width % 2 == 0 and stream.height % 2 == 0 else "yuv444p")
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
