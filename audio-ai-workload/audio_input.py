"""Audio files: which are meant, and their samples as Whisper takes them.

librosa reads what libsndfile knows (wav, flac, ogg, mp3 ...). Everything else, a video's sound
track too, is decoded by FFmpeg's libraries (PyAV), packet by packet; so are long recordings, which
are then never in memory at their own rate.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness import cli, model_files
from harness.cli import UserError

SAMPLE_RATE = 16_000  # Hz, Whisper's
# Of samples at their own rate that librosa may take at once; it needs several times as much.
WHOLE_BYTES = 1 << 26
# What is taken from a folder; a file named by itself may have any name.
EXTENSIONS = frozenset(
    ".aac .ac3 .aif .aiff .amr .au .caf .flac .m4a .m4b .mka .mp2 .mp3 .oga .ogg .opus .wav .wma "
    ".3gp .avi .flv .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ts .webm .wmv".split()
)


@dataclass(frozen=True)
class Recording:
    path: Path
    samples: np.ndarray  # float32 [n] at SAMPLE_RATE

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


def find(paths: Sequence[Path]) -> list[Path]:
    """The files meant by these files and folders, in order; those of a folder by name.

    Raises UserError where one does not exist, or a folder has no audio in it. Subfolders are left
    out.
    """
    files = []
    for path in paths:
        if path.is_file():
            files.append(path)
            continue
        if not path.is_dir():
            raise UserError(f"no audio file {path} (--audio)")
        try:
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in EXTENSIONS)
        except OSError as error:
            raise UserError(f"cannot read the folder {path}: {error.strerror} (--audio)") from None
        if not any(p.is_file() for p in inside):
            raise UserError(f"no audio or video file in the folder {path} (--audio)")
        files += filter(Path.is_file, inside)
    return files


def read(path: Path) -> np.ndarray:
    """An audio file, or a video's first audio track: float32 [n] at 16 kHz, mean of the channels.

    Raises UserError where there is no audio track, all of it is damaged, it is empty, or it has
    values that are not numbers.
    """
    samples = _read_whole(path)
    if samples is None:
        samples = _read_in_pieces(path)
    if not len(samples):
        raise UserError(f"{path} holds no sound: it is 0 s long")
    if not np.isfinite(samples).all():
        raise UserError(f"{path} holds samples that are not numbers: re-encode it")
    return samples


def _read_whole(path: Path) -> np.ndarray | None:
    """By librosa; None where that fails or takes too much memory, for FFmpeg to try."""
    import librosa
    import soundfile

    try:
        info = soundfile.info(path)
        if 4 * info.frames * info.channels > WHOLE_BYTES:
            return None
        return librosa.load(path, sr=SAMPLE_RATE, mono=True)[0]
    except Exception:  # whatever libsndfile, audioread and soxr raise
        return None


def _read_in_pieces(path: Path) -> np.ndarray:
    import av

    samples = bytearray()  # grows in place; joining a list of arrays would hold all samples twice
    try:
        for chunk in _resampled(_decoded(path)):
            samples += memoryview(np.ascontiguousarray(chunk)).cast("B")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or cli.one_line(error)
        raise UserError(
            f"{path} can't be read as audio ({reason}): give an audio file, or a video with sound"
        ) from None
    return np.frombuffer(samples, dtype=np.float32)


def _decoded(path: Path) -> Iterator[tuple[np.ndarray, int]]:
    """Pieces of the first audio track: float32 [n], the mean of the channels, and their rate in Hz.

    Damaged packets are left out, with a warning. Raises av.error.FFmpegError or ValueError where
    it can't be read.
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
                layout, rate = frame.layout, frame.sample_rate
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
            print(f"warning: {path}: damaged packets left out: {damaged}", file=sys.stderr)


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
