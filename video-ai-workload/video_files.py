"""Reading and writing video with PyAV: every whole frame in order, at the times the source gives them."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from collections.abc import Iterator

import av
import cv2
import numpy as np

from harness import cli
from harness.cli import UserError

ENCODER, PRESET = "libx264", "veryfast"


class VideoReader:
    """A video file's frames. `damaged` counts packets and frames that could not be decoded, in the last pass.

    Raises UserError where the file is no video.
    """

    def __init__(self, path: Path):
        self.path, self.damaged = path, 0
        with self._open() as container:
            stream = container.streams.video[0]
            self.width, self.height = stream.codec_context.width, stream.codec_context.height
            self.time_base = stream.time_base or Fraction(1, 90_000)
            self.rate = stream.average_rate or stream.guessed_rate or Fraction(25)
            self.announced_frames = stream.frames  # 0 where the container does not say
            self.codec = stream.codec_context.name

    def _open(self):
        if not self.path.is_file():
            raise UserError(f"no video file {self.path} (--video)")
        try:
            container = av.open(str(self.path))
        except (av.error.FFmpegError, OSError) as error:
            raise UserError(f"{self.path} can't be read as video ({error.strerror or cli.one_line(error)})") from None
        if not container.streams.video or not container.streams.video[0].codec_context.width:
            container.close()
            raise UserError(f"{self.path} has no video stream")
        return container

    def frames(self, max_frames: int | None = None) -> Iterator[tuple[np.ndarray, int]]:
        """Each frame, uint8 [H, W, 3], RGB, and when it is shown, in units of time_base from the first one."""
        self.damaged, index, first, last = 0, 0, None, -1
        with self._open() as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for decoded in self._decoded(container, stream):
                if decoded.is_corrupt:
                    self.damaged += 1
                    continue
                pts = decoded.pts
                if pts is None:
                    pts = (first or 0) + round(index / self.rate / self.time_base)
                first = pts if first is None else first
                last = max(pts - first, last + 1)  # an encoder takes rising times only
                yield decoded.to_ndarray(format="rgb24"), last
                index += 1
                if index == max_frames:
                    return

    def _decoded(self, container, stream) -> Iterator[av.VideoFrame]:
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.error.FFmpegError:  # the file ends in the middle of a packet
                self.damaged += 1
                return
            try:
                yield from packet.decode()
            except av.error.FFmpegError:
                self.damaged += 1


class VideoWriter:
    """An H.264 file with the source's frame times, written beside `path` and put in its place by close(keep=True).

    Raises UserError where it can't be written.
    """

    def __init__(self, path: Path, reader: VideoReader):
        self.path, self.partial = path, path.with_name(f"{path.stem}.partial{path.suffix}")
        self.time_base = reader.time_base
        try:
            self.container = av.open(str(self.partial), "w")
            self.stream = self.container.add_stream(ENCODER, rate=reader.rate, options={"preset": PRESET})
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise UserError(f"cannot write the video {path}: {cli.one_line(error)} (--output, --no_output)") from None
        self.stream.width, self.stream.height = reader.width + reader.width % 2, reader.height + reader.height % 2
        self.stream.pix_fmt = "yuv420p"
        self.stream.codec_context.time_base = self.time_base

    def write(self, picture: np.ndarray, pts: int) -> None:
        """Add a frame, uint8 [H, W, 3], RGB. H.264 wants even sizes: odd ones get a last row or column twice."""
        height, width = picture.shape[:2]
        if height % 2 or width % 2:
            picture = cv2.copyMakeBorder(picture, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = pts, self.time_base
        self._mux(frame)

    def _mux(self, frame: av.VideoFrame | None) -> None:
        try:
            for packet in self.stream.encode(frame):
                self.container.mux(packet)
        except (av.error.FFmpegError, OSError) as error:
            raise UserError(f"cannot write the video {self.path}: {cli.one_line(error)} (--output, --no_output)") from None

    def close(self, keep: bool) -> None:
        """Finish the file; keep it as `path`, or, where another pass has left a whole one there, drop it."""
        try:
            self._mux(None)
            self.container.close()
        finally:
            if keep and self.partial.exists():
                os.replace(self.partial, self.path)
            else:
                self.partial.unlink(missing_ok=True)
