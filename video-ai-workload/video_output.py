"""What becomes of segmented frames: a video, through PyAV, and a list of detections. Both are written beside their place and
put there when whole, so that what an earlier pass has left is lost to no later one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import cv2
import numpy as np

from harness import cli
from harness.cli import UserError
from segmentation import Letterbox
from video_source import VideoSource

ENCODER = "libx264"
PRESETS = {"libx264": "veryfast", "libx265": "veryfast"}  # unless one is asked for
PIXELS = "yuv420p"  # what players know


def check_encoder(name: str) -> None:
    """Raise UserError unless PyAV has this encoder."""
    try:
        is_video = av.codec.Codec(name, "w").type == "video"
    except av.codec.codec.UnknownCodecError:
        is_video = False
    if not is_video:
        raise UserError(
            f"no video encoder '{name}' here: libx264, libx265, libsvtav1, libvpx-vp9, mpeg4 or another of FFmpeg's (--encoder)"
        )


class VideoWriter:
    """A video with the source's frame times and its audio, written beside `path` and put in its place by close(keep=True).

    Raises UserError where it can't be written.
    """

    def __init__(self, path: Path, source: VideoSource, encoder: str = ENCODER, preset: str | None = None):
        self.path, self.partial = path, _partial(path)
        self.time_base, self.audio = source.time_base, None
        self.size = source.height, source.width
        preset = preset or PRESETS.get(encoder)
        try:
            with self._telling():
                self.container = av.open(str(self.partial), "w")
                self.stream = self.container.add_stream(encoder, rate=source.rate, options={"preset": preset} if preset else {})
                self.stream.height, self.stream.width = (side + side % 2 for side in self.size)  # encoders want even sides
                formats = [known.name for known in self.stream.codec_context.codec.video_formats or ()]
                self.stream.pix_fmt = PIXELS if PIXELS in formats or not formats else formats[0]
                self.stream.codec_context.time_base = self.time_base
                if source.audio_codec in self.container.supported_codecs:
                    with source.template() as original:
                        self.audio = self.container.add_stream_from_template(original.streams.audio[0])
                self.container.start_encoding()
        except UserError:
            self.partial.unlink(missing_ok=True)
            raise

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Say in a line what FFmpeg could not do."""
        try:
            yield
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise UserError(
                f"cannot write the video {self.path}: {cli.one_line(error)} (--output, --encoder, --no_output)"
            ) from None

    def write(self, picture: np.ndarray, pts: int) -> None:
        """Add a frame, uint8 [H, W, 3], RGB. One of another size than the video's first is fitted in."""
        if picture.shape[:2] != self.size:
            fitted = np.empty((*self.size, 3), np.uint8)
            Letterbox(*picture.shape[:2], *self.size).place(picture, fitted)
            picture = fitted
        if (self.stream.height, self.stream.width) != self.size:
            bottom, right = self.stream.height - self.size[0], self.stream.width - self.size[1]
            picture = cv2.copyMakeBorder(picture, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = pts, self.time_base
        self._encode(frame)

    def _encode(self, frame: av.VideoFrame | None) -> None:
        with self._telling():
            self.container.mux(self.stream.encode(frame))

    def write_audio(self, packets: list[av.Packet]) -> None:
        """Add packets of the source's audio track, as they are."""
        if self.audio:
            for packet in packets:
                packet.stream = self.audio
                with self._telling():
                    self.container.mux(packet)

    def close(self, keep: bool) -> None:
        """Finish the file; keep it as `path`, or drop it."""
        try:
            self._encode(None)
            self.container.close()
        finally:
            _settle(self.partial, self.path, keep)


class DetectionsWriter:
    """What was found, one JSON object a line: frame, time_s, class, score, box (left, top, right, bottom, in pixels of the
    frame) and mask (run lengths in COCO's format). Written beside `path` and put in its place by close(keep=True)."""

    def __init__(self, path: Path):
        self.path, self.partial = path, _partial(path)
        with self._telling():
            self.file = open(self.partial, "w")

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror} (--save_detections)") from None

    def write(self, frame: int, time_s: float, told: list[dict]) -> None:
        """Add one frame's detections, from Detections.told()."""
        with self._telling():
            for each in told:
                self.file.write(json.dumps({"frame": frame, "time_s": round(time_s, 6), **each}) + "\n")

    def close(self, keep: bool) -> None:
        """Finish the file; keep it as `path`, or drop it."""
        try:
            with self._telling():
                self.file.close()
        finally:
            _settle(self.partial, self.path, keep)


def _partial(path: Path) -> Path:
    return path.with_name(f"{path.stem}.partial{path.suffix}")


def _settle(partial: Path, path: Path, keep: bool) -> None:
    if keep and partial.exists():
        os.replace(partial, path)
    else:
        partial.unlink(missing_ok=True)
