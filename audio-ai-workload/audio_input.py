"""Audio files: which are meant, and their samples as Whisper takes them.

Everything is decoded by FFmpeg's libraries (PyAV), packet by packet, whatever the container: so a video's sound track is read
as a wav is, and a long recording with many channels never lies in memory at its own rate. Only the mono result does.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from harness import cli
from harness.cli import UserError

SAMPLE_RATE = 16_000  # Hz, Whisper's
# What is taken from a folder; a file named by itself may have any name.
EXTENSIONS = frozenset(
    ".aac .ac3 .aif .aiff .amr .au .caf .flac .m4a .m4b .mka .mp2 .mp3 .oga .ogg .opus .wav .wma "
    ".3gp .avi .flv .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ts .webm .wmv".split()
)


def find(paths: Sequence[Path]) -> list[Path]:
    """The files meant by these files and folders, in order; those of a folder by name, without its subfolders.

    Raises UserError where one does not exist, or a folder holds no audio.
    """
    files = []
    for path in paths:
        if path.is_dir():
            try:
                inside = sorted(file for file in path.iterdir() if file.suffix.lower() in EXTENSIONS and file.is_file())
            except OSError as error:
                raise UserError(f"cannot read the folder {path}: {error.strerror} (--audio)") from None
            if not inside:
                raise UserError(f"no audio or video file in the folder {path} (--audio)")
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            raise UserError(f"no audio file {path} (--audio)")
    return files


def read(path: Path) -> np.ndarray:
    """The samples of an audio file, or of a video's first audio track: float32 [n] at 16 kHz, the mean of all channels.

    Raises UserError where there is no audio track, it is damaged throughout or empty, or it holds values that are not numbers.
    """
    import av

    # A bytearray grows in place, where joining a list of arrays would hold all samples twice.
    samples = bytearray()
    try:
        for chunk in _resampled(_decoded(path)):
            if not np.isfinite(chunk).all():
                raise UserError(f"{path} holds samples that are not numbers: re-encode it")
            samples += memoryview(np.ascontiguousarray(chunk)).cast("B")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or cli.one_line(error)
        raise UserError(f"{path} can't be read as audio ({reason}): give an audio file, or a video with sound") from None
    if not samples:
        raise UserError(f"{path} holds no sound: it is 0 s long")
    return np.frombuffer(samples, dtype=np.float32)


def _decoded(path: Path) -> Iterator[tuple[np.ndarray, int]]:
    """Pieces of the first audio track: float32 [n], the mean of the channels, and their rate in Hz.

    Damaged packets are left out and told of on stderr. Raises av.error.FFmpegError or ValueError where it can't be read.
    """
    import av

    with av.open(str(path), metadata_errors="replace") as container:
        if not container.streams.audio:
            raise UserError(f"{path} has no audio track: give an audio file, or a video with sound")
        good, damaged, now = 0, 0, None
        for packet in container.demux(container.streams.audio[0]):
            try:
                frames = packet.decode()
            except av.error.InvalidDataError as error:
                damaged, last_error = damaged + 1, error
                continue
            for frame in frames:
                good += 1
                if (key := (frame.format.name, frame.layout.name, frame.sample_rate)) != now:
                    # Interleaved, as PyAV (17.1) crashes on frames that have each of 8 or more channels in a plane of its own.
                    now, to_float = key, av.AudioResampler(format="flt", layout=frame.layout, rate=frame.sample_rate)
                for floats in to_float.resample(frame):
                    channels = floats.to_ndarray().reshape(-1, floats.layout.nb_channels)
                    yield channels.mean(axis=1, dtype=np.float64).astype(np.float32), frame.sample_rate
        if damaged and not good:
            raise last_error
        if damaged:
            print(f"warning: {path}: damaged packets left out: {damaged}", file=sys.stderr)


def _resampled(pieces: Iterator[tuple[np.ndarray, int]]) -> Iterator[np.ndarray]:
    """The pieces at SAMPLE_RATE; a change of rate in between is followed."""
    import soxr

    resampler, at = None, SAMPLE_RATE
    for piece, rate in pieces:
        if rate != at:
            if resampler:
                yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)
            resampler, at = None if rate == SAMPLE_RATE else soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32"), rate
        yield resampler.resample_chunk(piece) if resampler else piece
    if resampler:
        yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


def seconds(samples: np.ndarray) -> float:
    return len(samples) / SAMPLE_RATE
