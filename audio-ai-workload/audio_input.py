"""Audio files: which are meant, and their samples as Whisper takes them.

What libsndfile knows (wav, flac, ogg, mp3 ...) librosa reads. All else, a video's sound track too, is decoded by FFmpeg's
libraries (PyAV), packet by packet; so are long recordings, which then never lie in memory at their own rate.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from harness import cli
from harness.cli import UserError

SAMPLE_RATE = 16_000  # Hz, Whisper's
WHOLE_BYTES = 1 << 26  # of samples at their own rate that librosa may take at once, for which it needs several times as much
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
    samples = _read_whole(path) if _size_bytes(path) <= WHOLE_BYTES else None
    if samples is None:
        samples = _read_in_pieces(path)
    if not len(samples):
        raise UserError(f"{path} holds no sound: it is 0 s long")
    if not np.isfinite(samples).all():
        raise UserError(f"{path} holds samples that are not numbers: re-encode it")
    return samples


def _size_bytes(path: Path) -> float:
    """Of the samples at their own rate; infinite where libsndfile does not know the file."""
    import soundfile

    try:
        told = soundfile.info(path)
    except (soundfile.LibsndfileError, OSError, ValueError):
        return float("inf")
    return 4.0 * told.frames * told.channels


def _read_whole(path: Path) -> np.ndarray | None:
    """By librosa; None where that fails, for FFmpeg to try."""
    import librosa

    try:
        return librosa.load(path, sr=SAMPLE_RATE, mono=True)[0]
    except Exception:  # whatever libsndfile, audioread and soxr raise
        return None


def _read_in_pieces(path: Path) -> np.ndarray:
    import av

    samples = bytearray()  # grows in place, where joining a list of arrays would hold all samples twice
    try:
        for chunk in _resampled(_decoded(path)):
            samples += memoryview(np.ascontiguousarray(chunk)).cast("B")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or cli.one_line(error)
        raise UserError(f"{path} can't be read as audio ({reason}): give an audio file, or a video with sound") from None
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
