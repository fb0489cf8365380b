"""Where frames come from, through PyAV: videos, images, folders of them, web addresses, cameras."""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
from picture import colours, copied, standard

from harness import cli, model_files
from harness.cli import UserError
from harness.redaction import redact

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
IMAGES_PER_SECOND = 25  # of a folder, as a video
LIVE = ("rtsp://", "rtsps://", "rtmp://", "rtp://", "udp://", "srt://", "/dev/video")
ADDRESS = re.compile(r"[a-zA-Z0-9]+://")
TIMEOUT_S = 10.0  # of silence on the network
MAX_RATE = 1000  # frames/s: streams that don't know their rate claim that of their clock
MAX_PIXELS = 1 << 26  # of a frame; twice 8K
CUT_SHARE = 0.9  # of the time that a container announces, below which it is cut
HELP = (
    f"video file, image, folder of images ({IMAGES_PER_SECOND} per second), http(s):// or rtsp:// "
    "address, or webcam (/dev/video0)"
)


class VideoSource:
    """Frames of a video, upright, in order, with their times.

    height, width : of the first frame, pixels.
    colours : of its planes, from picture.colours().
    rate : frames per second, as far as is known. time_base : unit of times, seconds.
    announced_frames, announced_s : what the container says it holds; 0 where it does not say.
    Of the passes so far:
    damaged : packets, frames and images that could not be decoded, in the worst pass.
    lost : why a live source ended before its time; None where it did not.
    reconnected : how often a live source was lost and came back.
    shown_s : the last frame's time from the first one, in the longest pass.

    Parameters
    ----------
    address : see HELP.
    retry_s : how long a live source that was lost is tried again.
    decoder_threads : 0: FFmpeg's choice, min(CPUs + 1, 16).

    Raises UserError where there is nothing to be read as video.
    """

    def __init__(self, address: str, retry_s: float = 30.0, decoder_threads: int = 0):
        if scheme := ADDRESS.match(address):  # FFmpeg knows them in lower case
            address = scheme[0].lower() + address[scheme.end() :]
        self.address, self.retry_s, self.decoder_threads = address, retry_s, decoder_threads
        self.live = address.startswith(LIVE)
        self.remote = bool(ADDRESS.match(address)) or address.startswith("/dev/video")
        self.name = redact(address) if self.remote else Path(address).name
        self.images = self._images()
        self.damaged, self.reconnected, self.lost = 0, 0, None
        self.shown_s = 0.0
        self._damaged = 0  # in this pass
        self._stop = threading.Event()
        self._audio: list[av.Packet] = []
        self._zero_s = Fraction(0)  # the first frame's time
        container = next(self._containers(), None)
        if container is None:
            raise UserError(f"the folder {address} holds no image that can be decoded (--video)")
        with container:
            self._read_properties(container)
            first = next(self._decoded(container), None)
        if first is None:
            raise UserError(f"{self.name} holds no frame that can be decoded (--video)")
        first = upright(first)
        self.height, self.width = first.height, first.width
        self.colours = colours(first)

    def _read_properties(self, container: av.container.InputContainer) -> None:
        stream, audio = container.streams.video[0], container.streams.audio
        self.codec, self.audio_codec = stream.codec_context.name, None
        self.announced_frames = len(self.images) or stream.frames
        known = stream.duration and float(stream.duration * stream.time_base)
        whole = (container.duration or 0) / 1_000_000  # may be the audio track's
        self.announced_s = 0.0 if self.images or self.live else known or whole * (not audio)
        if self.images:
            self.rate, self.time_base = Fraction(IMAGES_PER_SECOND), Fraction(1, IMAGES_PER_SECOND)
            return
        rates = (stream.average_rate, stream.guessed_rate, Fraction(25))
        self.rate = next(rate for rate in rates if rate and rate <= MAX_RATE)
        self.time_base = stream.time_base or Fraction(1, 90_000)
        if audio and audio[0].codec_context and not self.live:
            self.audio_codec = audio[0].codec_context.name

    def _images(self) -> list[Path]:
        """The images of a folder, by name; none where the source is no folder."""
        folder = Path(self.address)
        if self.remote or not os.path.isdir(folder):
            return []
        try:
            images = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        except OSError as error:
            reason = error.strerror
            raise UserError(f"cannot read the folder {folder}: {reason} (--video)") from None
        images = [path for path in images if os.path.isfile(path)]
        if not images:
            known = ", ".join(IMAGE_SUFFIXES)
            raise UserError(f"the folder {folder} holds no images ({known}) (--video)")
        return images

    def sha256(self) -> str | None:
        """Hash of the file's contents, or of all images'; None for what is not a local file."""
        return None if self.remote else model_files.sha256(*(self.images or [Path(self.address)]))

    def describe(self) -> dict:
        """The record's input."""
        return {
            "name": self.name,
            "sha256": self.sha256(),
            "width": self.width,
            "height": self.height,
            "codec": self.codec,
            "source_frames_per_second": float(self.rate),
        }

    def warnings(self, frames: int, frames_per_second: float, whole: bool) -> list[str]:
        """What the source did, in passes of `frames`, that speaks against the result.

        `whole`: whether passes were to go to the source's end, and did.
        """
        found = []
        shown_s = self.shown_s + 1 / self.rate
        cut = frames < self.announced_frames or shown_s < CUT_SHARE * self.announced_s
        if whole and (self.damaged or cut):
            announced = f" of the {self.announced_frames} announced" * bool(self.announced_frames)
            if not announced and self.announced_s:
                announced = f", {shown_s:.3g} s of the {self.announced_s:.3g} s announced,"
            found.append(
                f"the video is damaged or cut: {frames} frames{announced} could be decoded"
            )
        if self.reconnected:
            lost = f"the source was lost and came back {self.reconnected} time(s)"
            found.append(f"{lost} while measuring: the gaps are in the figures")
        if self.live and frames_per_second > 0.95 * self.rate:
            rate = f"frames came at {float(self.rate):.3g} per second: this is the camera's rate"
            found.append(f"{rate}, not what the machine can do (see capacity.py)")
        return found

    def template(self) -> av.container.InputContainer:
        """The source once more, for its streams' parameters."""
        return self._open(self.address)

    def stop(self) -> None:
        """Let this and all later passes end with the next frame."""
        self._stop.set()

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    def take_audio(self) -> list[av.Packet]:
        """The audio packets since the last call, their times from the first frame, from it on."""
        taken, self._audio = self._audio, []
        for packet in taken:
            packet.pts -= round(self._zero_s / packet.time_base)
            packet.dts -= round(self._zero_s / packet.time_base)
        return [packet for packet in taken if packet.pts >= 0]

    def _open(self, address: Path | str):
        options, settings = {}, {"metadata_errors": "replace"}
        if self.remote:
            settings["timeout"] = TIMEOUT_S
            if self.address.startswith("rtsp"):
                options["rtsp_flags"] = "prefer_tcp"  # a lost packet would be a damaged frame
            elif self.address.startswith("/dev/video"):
                settings["format"] = "v4l2"
        elif not os.path.isfile(address):
            as_address = re.sub(r"^(\w+):/+", r"\1://", str(address))  # rtsp:/user:password@host
            raise UserError(f"no video file {redact(as_address)} (--video)")
        try:
            # Otherwise what precedes a colon in a file's name would be a protocol.
            where = self.address if self.remote else f"file:{address}"
            container = av.open(where, options=options, **settings)
        except (av.error.FFmpegError, OSError) as error:
            name, reason = redact(str(address)), error.strerror or cli.one_line(error)
            raise UserError(f"{name} can't be read as video ({reason})") from None
        video = container.streams.video and container.streams.video[0].codec_context
        if not video or not video.width:
            container.close()
            raise UserError(f"{self.name} has no video stream that can be decoded")
        if video.width * video.height > MAX_PIXELS:
            container.close()
            size = f"{video.width} × {video.height}"
            raise UserError(f"{self.name} has frames of {size}: scale them down, twice 8K is most")
        return container

    def frames(self, max_frames: int | None = None) -> Iterator[tuple[av.VideoFrame, int]]:
        """Each frame, in picture.PIXELS, and its time from the first one, in time_base."""
        self._damaged, self.reconnected, self.lost, self._audio = 0, 0, None, []
        index, last, arrived_s = 0, -1, 0.0
        for container in self._containers():
            first, begun = None, index
            gap_s = 1 / self.rate if self.images else time.monotonic() - arrived_s
            base = last + max(1, round(gap_s / self.time_base)) if index else 0
            with container:
                for decoded in self._decoded(container):
                    pts = decoded.pts
                    if pts is None:
                        pts = (first or 0) + round((index - begun) / self.rate / self.time_base)
                    if first is None:
                        first, self._zero_s = pts, pts * self.time_base
                    last = max(base + pts - first, last + 1)  # an encoder takes rising times only
                    arrived_s = time.monotonic()
                    self.shown_s = max(self.shown_s, float(last * self.time_base))
                    yield upright(decoded), last
                    index += 1
                    if index == max_frames or self.stopped:
                        return
                    if self.images:
                        break  # the others are those of a moving image

    def _count_damage(self, number: int = 1) -> None:
        self._damaged += number
        self.damaged = max(self.damaged, self._damaged)

    def _containers(self) -> Iterator[av.container.InputContainer]:
        """What is to be decoded, opened: a file; all images; a live source, as often as it returns.

        Sets `lost` where a live source did not return within retry_s.
        """
        if self.images:
            for image in self.images:
                try:
                    yield self._open(image)
                except UserError:
                    self._count_damage()
            return
        yield self._open(self.address)
        while self.live and not self.stopped:
            lost = f"{self.name} was lost"
            trying = f"trying for {self.retry_s:g} s to reach it again"
            print(f"warning: {lost}: {trying}", file=sys.stderr, flush=True)
            container = self._reopened()
            if container:
                self.reconnected += 1
                yield container
            elif not self.stopped:
                self.lost = f"{lost} and did not come back within {self.retry_s:g} s (--retry)"
                return

    def _reopened(self) -> av.container.InputContainer | None:
        """A lost source, once it is there again; None after retry_s, or after stop()."""
        deadline_s = time.monotonic() + self.retry_s
        while not self.stopped:
            try:
                return self._open(self.address)
            except UserError:
                if time.monotonic() > deadline_s:
                    return None
                self._stop.wait(0.5)
        return None

    def _decoded(self, container) -> Iterator[av.VideoFrame]:
        """An open source's whole frames; its audio is put aside for take_audio()."""
        video = container.streams.video[0]
        video.thread_type = "AUTO"
        video.codec_context.thread_count = self.decoder_threads
        audio = container.streams.audio[0] if self.audio_codec else None
        packets = container.demux([stream for stream in (video, audio) if stream])
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except (av.error.FFmpegError, OSError):  # the file is cut, or the network is gone
                self._count_damage(not self.live)
                return
            if packet.stream is audio:
                if packet.pts is not None and packet.dts is not None:
                    self._audio.append(packet)
                continue
            try:
                for frame in packet.decode():
                    if frame.is_corrupt:
                        self._count_damage()
                    else:
                        yield frame
            except av.error.FFmpegError:
                self._count_damage()


def upright(decoded: av.VideoFrame) -> av.VideoFrame:
    """A frame in picture.PIXELS, turned as its metadata says."""
    quarters = round(decoded.rotation / 90) % 4  # counter-clockwise
    return copied(standard(decoded), quarters) if quarters else standard(decoded)
