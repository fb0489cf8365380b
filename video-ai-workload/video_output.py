"""What becomes of segmented frames: a video, through PyAV, and a list of detections.

Both are written beside their place and put there when whole, so that a run that fails leaves what
an earlier one has written.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
from picture import PIXELS
from segmentation import Letterbox
from video_source import VideoSource

from harness import cli, files
from harness.cli import UserError

ENCODER = "libx264"
PRESETS = {"libx264": "veryfast", "libx265": "veryfast"}  # unless one is given
ENCODER_DELAY = 32  # frames that an encoder takes in before it begins to return any; libx264: 19


@dataclass(frozen=True)
class OutputSettings:
    video: Path | None  # None: no encoding
    detections: Path | None
    encoder: str = ENCODER  # FFmpeg's name
    preset: str | None = None  # None: the encoder's own

    @property
    def encoder_label(self) -> str | None:
        """Encoder and preset; None without encoding."""
        return " ".join(filter(None, (self.encoder, self.preset))) if self.video else None


def check_encoder(name: str) -> None:
    """Raise UserError unless PyAV has this encoder."""
    try:
        is_video = av.codec.Codec(name, "w").type == "video"
    except av.codec.codec.UnknownCodecError:
        is_video = False
    if not is_video:
        known = "libx264, libx265, libsvtav1, libvpx-vp9, mpeg4 or another of FFmpeg's"
        raise UserError(f"no video encoder '{name}' here: {known} (--encoder)")


class OutputFile:
    """A file written beside its path; close(keep=True) puts it in its place, if it is whole.

    `discard`: there is no file; what is written to it goes nowhere.
    """

    def __init__(self, path: Path, what: str, options: str, discard: bool):
        self.path, self.what, self.options, self.discard = path, what, options, discard
        self.partial = Path(os.devnull)
        if not discard:
            with self.errors():
                handle, name = tempfile.mkstemp(path.suffix, ".partial-", path.parent)
            os.close(handle)
            self.partial = Path(name)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn what cannot be written into a UserError."""
        try:
            yield
        except (av.error.FFmpegError, OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or cli.one_line(error)
            raise UserError(f"cannot write {self.what}: {reason} ({self.options})") from None

    def close(self, keep: bool) -> None:
        """Finish the file; keep it, or drop it."""
        try:
            if keep:
                with self.errors():
                    self.finish()
                    if not self.discard:
                        self.partial.chmod(0o644)
                        os.replace(self.partial, self.path)
            else:
                with suppress(UserError), self.errors():
                    self.finish()
        finally:
            self.drop()

    def drop(self) -> None:
        if not self.discard:
            self.partial.unlink(missing_ok=True)


class VideoWriter(OutputFile):
    """A video with the source's frame times and its audio.

    Raises UserError where it can't be written.
    """

    def __init__(self, settings: OutputSettings, source: VideoSource, discard: bool):
        options = "--output, --encoder, --no_output"
        super().__init__(settings.video, f"the video {settings.video}", options, discard)
        self.time_base, self.audio = source.time_base, None
        self.size = source.height, source.width
        try:
            with self.errors():
                self._open(settings, source)
        except UserError:
            self.drop()
            raise

    def _open(self, settings: OutputSettings, source: VideoSource) -> None:
        options = {"preset": settings.preset} if settings.preset else {}
        self.container = av.open(str(self.partial), "w", "null" if self.discard else None)
        self.container.metadata["comment"] = files.MARK
        stream = self.container.add_stream(settings.encoder, rate=source.rate, options=options)
        stream.height, stream.width = (side + side % 2 for side in self.size)  # encoders want even
        formats = [known.name for known in stream.codec_context.codec.video_formats or ()]
        stream.pix_fmt = PIXELS if PIXELS in formats or not formats else formats[0]
        stream.codec_context.time_base = self.time_base
        for name, value in source.colours.items():
            setattr(stream.codec_context, name, value)
        self.stream = stream
        if source.audio_codec in self.container.supported_codecs and not self.discard:
            with source.template() as original:
                audio = original.streams.audio[0]
                self.audio = self.container.add_stream_from_template(audio)
        self.container.start_encoding()

    def write(self, picture: av.VideoFrame, pts: int) -> None:
        """Add a frame. One of another size than the first is fitted in."""
        if (picture.height, picture.width) != (self.stream.height, self.stream.width):
            picture = self._fitted(picture)
        picture.pts, picture.time_base = pts, self.time_base
        self._encode(picture)

    def _fitted(self, picture: av.VideoFrame) -> av.VideoFrame:
        """The picture in the first one's size, and that extended to the encoder's, as RGB."""
        fitted = np.empty((*self.size, 3), np.uint8)
        Letterbox.of(picture, self.size).place(picture, fitted)
        bottom, right = self.stream.height - self.size[0], self.stream.width - self.size[1]
        fitted = cv2.copyMakeBorder(fitted, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
        frame = av.VideoFrame.from_ndarray(fitted)
        frame.colorspace = self.stream.codec_context.colorspace  # what encoding makes of it
        return frame

    def _encode(self, frame: av.VideoFrame | None) -> None:
        with self.errors():
            self.container.mux(self.stream.encode(frame))

    def write_audio(self, packets: list[av.Packet]) -> None:
        """Add packets of the source's audio track, as they are."""
        if self.audio:
            for packet in packets:
                packet.stream = self.audio
                with self.errors():
                    self.container.mux(packet)

    def finish(self) -> None:
        self._encode(None)
        self.container.close()


class DetectionsWriter(OutputFile):
    """What was found, as JSON Lines, one object each.

    A line has frame, time_s, class, score, box (left, top, right, bottom, in pixels of the frame)
    and mask (run lengths in COCO's format). Raises UserError where it can't be written.
    """

    def __init__(self, path: Path, discard: bool):
        super().__init__(path, str(path), "--save_detections", discard)
        with self.errors():
            self.file = open(os.devnull if discard else self.partial, "w")

    def write(self, frame: int, time_s: float, detections: list[dict]) -> None:
        """Add one frame's detections, from Detections.to_json()."""
        with self.errors():
            for each in detections:
                line = json.dumps({"frame": frame, "time_s": round(time_s, 6), **each})
                self.file.write(line + "\n")

    def finish(self) -> None:
        self.file.close()


class Outputs:
    """The first pass's video and detections. Later passes are the same work, but go nowhere.

    Later ones are encoded as one endless video: an encoder that is ended drains.
    """

    def __init__(self, settings: OutputSettings, source: VideoSource):
        self.settings, self.source, self.first_pass = settings, source, True
        self.video: VideoWriter | None = None
        self.detections: DetectionsWriter | None = None

    def open(self) -> None:
        discard = not self.first_pass
        if self.settings.detections:
            self.detections = DetectionsWriter(self.settings.detections, discard)
        if self.settings.video:
            self.video = VideoWriter(self.settings, self.source, discard)

    def write_audio(self, packets: list[av.Packet]) -> None:
        if self.video:
            self.video.write_audio(packets)

    def end_pass(self) -> None:
        """Put the first pass's files in their place."""
        if self.first_pass:
            self.close(keep=True)
            self.first_pass = False
            self.open()

    def close(self, keep: bool) -> None:
        """Finish the files; keep them, or drop them."""
        video, detections, self.video, self.detections = self.video, self.detections, None, None
        with ExitStack() as stack:  # closes both, whatever happens to one
            for writer in filter(None, (detections, video)):
                stack.callback(writer.close, keep)


@contextmanager
def opened(settings: OutputSettings, source: VideoSource) -> Iterator[Outputs]:
    """The outputs that are wanted, closed at the end of the block; an error drops its files."""
    outputs, keep = Outputs(settings, source), True
    try:
        outputs.open()
        yield outputs
    except Exception:
        keep = False
        raise
    finally:
        outputs.close(keep)
