"""Audio files: which are meant, and their samples as Whisper takes them.

librosa reads what libsndfile knows (wav, flac, ogg, mp3 ...). Everything else, a video's sound
track too, is decoded by FFmpeg's libraries (PyAV), packet by packet; so are long recordings, which
are then never in memory at their own rate.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness import cli, model_files
from harness.cli import UserError

SAMPLE_RATE = 16_000  # Hz, Whisper's
# Of samples at their own rate that librosa may take at once; it needs several times as much.
WHOLE_BYTES = 1 << 26
SHORTEST_S = 0.01  # one column of a spectrogram; of less Whisper decodes nothing
LOUDEST = 10.0  # full scale is 1; above this the numbers are not of that scale
LOWEST_RATE, HIGHEST_RATE = 1000, 1_000_000  # Hz
CUT_SHARE, CUT_S = 0.9, 0.5  # of the duration that a file announces, by which it may be off
# What is taken from a folder; a file named by itself may have any name.
EXTENSIONS = frozenset(
    ".aac .ac3 .aif .aiff .amr .au .caf .flac .m4a .m4b .mka .mp2 .mp3 .oga .ogg .opus .wav .wma "
    ".3gp .avi .flv .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ts .webm .wmv".split()
)


@dataclass(frozen=True)
class Recording:
    """A file's sound; `warnings` say what was wrong with the file."""

    path: Path
    samples: np.ndarray  # float32 [n] at SAMPLE_RATE
    warnings: tuple[str, ...] = ()

    def describe(self) -> dict:
        name, sha256 = self.path.name, model_files.sha256(self.path)
        return {"name": name, "sha256": sha256, "duration_s": seconds(self.samples)}


def describe(recordings: Sequence[Recording]) -> dict:
    """The record's input."""
    each = [recording.describe() for recording in recordings]
    if len(each) == 1:
        return each[0]
    return {
        "name": f"{len(each)} files, {each[0]['name']} to {each[-1]['name']}",
        "sha256": model_files.sha256(*(recording.path for recording in recordings)),
        "duration_s": sum(file["duration_s"] for file in each),
        "files": each,
    }


def find(paths: Sequence[Path], option: str = "--audio") -> list[Path]:
    """The files that `option` means by these files and folders, in order; of a folder by name.

    Raises UserError where one does not exist, or a folder has no audio in it. Subfolders are left
    out.
    """
    files = []
    for path in paths:
        if os.path.isfile(path):
            files.append(path)
            continue
        if not os.path.isdir(path):
            raise UserError(f"no audio file {path} ({option})")
        try:
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in EXTENSIONS)
        except OSError as error:
            raise UserError(f"cannot read the folder {path}: {error.strerror} ({option})") from None
        inside = list(filter(os.path.isfile, inside))
        if not inside:
            raise UserError(f"no audio or video file in the folder {path} ({option})")
        files += inside
    return files


def read(path: Path) -> Recording:
    """An audio file, or a video's first audio track: float32 [n] at 16 kHz, mean of the channels.

    Raises UserError where there is no audio track, all of it is damaged, it is empty, or it has
    values that are not numbers or far off full scale.
    """
    found: list[str] = []
    samples = _read_whole(path)
    if samples is None:
        samples = _read_in_pieces(path, found)
    if seconds(samples) < SHORTEST_S:
        raise UserError(f"{path} holds no sound: it is {seconds(samples):.2g} s long")
    loudest = float(max(samples.max(), -samples.min()))  # not a number where one of them is none
    if not math.isfinite(loudest):
        raise UserError(f"{path} holds samples that are not numbers: re-encode it")
    if loudest > LOUDEST:
        raise UserError(f"{path} holds samples up to {loudest:.2g} where 1 is full scale: scale it")
    if not loudest:
        found.append(f"{path.name} is silent")
    announced_s, whole = announced(path)
    if not whole or seconds(samples) < min(CUT_SHARE * announced_s, announced_s - CUT_S):
        of = f" of the {announced_s:.1f} s announced" if announced_s > seconds(samples) else ""
        held = f"{seconds(samples):.1f} s{of} could be decoded"
        found.append(f"{path.name} is cut or damaged: {held}")
    return Recording(path, samples, tuple(found))


def announced(path: Path) -> tuple[float, bool]:
    """Seconds that the container says it holds (0: unknown), and whether all of a WAV is there."""
    import av

    with path.open("rb") as file:
        header = file.read(8)
    size, there = int.from_bytes(header[4:], "little"), path.stat().st_size
    # What streams write for a size that they do not know is 0 or near 4 GiB.
    whole = not (header[:4] == b"RIFF" and there < size + 8 and size < 0xFFFFFF00)
    try:
        with av.open(f"file:{path}", metadata_errors="replace") as container:
            track = container.streams.audio[0] if container.streams.audio else None
            if track and track.duration:
                return float(track.duration * track.time_base), whole
            return (container.duration or 0) / 1_000_000, whole
    except (av.error.FFmpegError, OSError, ValueError):
        return 0.0, whole


def _read_whole(path: Path) -> np.ndarray | None:
    """By librosa; None where that fails or takes too much memory, for FFmpeg to try."""
    import librosa
    import soundfile

    try:
        info = soundfile.info(path)
        if 4 * info.frames * info.channels > WHOLE_BYTES:
            return None
        if not LOWEST_RATE <= info.samplerate <= HIGHEST_RATE:
            return None
        with warnings.catch_warnings():  # librosa tries audioread, and says so
            warnings.simplefilter("ignore")
            return librosa.load(path, sr=SAMPLE_RATE, mono=True)[0]
    except Exception:  # whatever libsndfile, audioread and soxr raise
        return None


def _read_in_pieces(path: Path, found: list[str]) -> np.ndarray:
    """By FFmpeg. What is wrong with the file is added to `found`."""
    import av

    samples = bytearray()  # grows in place; joining a list of arrays would hold all samples twice
    try:
        for chunk in _resampled(_decoded(path, found)):
            samples += memoryview(np.ascontiguousarray(chunk)).cast("B")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or cli.one_line(error)
        raise UserError(
            f"{path} can't be read as audio ({reason}): give an audio file, or a video with sound"
        ) from None
    return np.frombuffer(samples, dtype=np.float32)


def _decoded(path: Path, found: list[str]) -> Iterator[tuple[np.ndarray, int]]:
    """Pieces of the first audio track: float32 [n], the mean of the channels, and their rate in Hz.

    Damaged packets are left out, which is added to `found`. Raises av.error.FFmpegError or
    ValueError where it can't be read.
    """
    import av

    with av.open(f"file:{path}", metadata_errors="replace") as container:
        if not container.streams.audio:
            raise UserError(f"{path} has no audio track: give an audio file, or a video with sound")
        track = container.streams.audio[0]
        if not track.codec_context:  # PyAV crashes on packets of an unknown codec
            raise ValueError("unknown codec")
        good, damaged, now = 0, 0, None
        for packet in container.demux(track):
            try:
                frames = packet.decode()
            except av.error.InvalidDataError as error:
                damaged, last_error = damaged + 1, error
                continue
            for frame in frames:
                good += 1
                layout, rate = frame.layout, frame.sample_rate
                if not LOWEST_RATE <= rate <= HIGHEST_RATE:
                    raise ValueError(f"{rate} samples per second")
                if (key := (frame.format.name, layout.name, rate)) != now:
                    # Interleaved, as PyAV (17.1) crashes on frames that have each of 8 or more
                    # channels in a plane of its own.
                    now, to_float = key, av.AudioResampler(format="flt", layout=layout, rate=rate)
                for floats in to_float.resample(frame):
                    channels = floats.to_ndarray().reshape(-1, floats.layout.nb_channels)
                    yield channels.mean(axis=1, dtype=np.float64).astype(np.float32), rate
        if damaged and not good:
            raise last_error
        if damaged:
            found.append(f"{path.name}: damaged packets left out: {damaged}")


def _resampled(pieces: Iterator[tuple[np.ndarray, int]]) -> Iterator[np.ndarray]:
    """The pieces at SAMPLE_RATE; a change of rate in between is followed."""
    import soxr

    nothing = np.zeros(0, np.float32)
    resampler, current = None, SAMPLE_RATE
    for piece, rate in pieces:
        if rate != current:
            if resampler:
                yield resampler.resample_chunk(nothing, last=True)
            new = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")
            resampler, current = None if rate == SAMPLE_RATE else new, rate
        yield resampler.resample_chunk(piece) if resampler else piece
    if resampler:
        yield resampler.resample_chunk(nothing, last=True)


def seconds(samples: np.ndarray) -> float:
    return len(samples) / SAMPLE_RATE
