"""A long recording cut at pauses into pieces that are transcribed at the same time.

As in faster-whisper's BatchedInferencePipeline, no piece knows another's text; there a neural
network finds the speech, here the pauses are where it is quietest, and nothing is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from audio_input import SAMPLE_RATE

HOP = 800  # samples, 0.05 s: pieces begin at a multiple of this
SEEK_HOP = 160  # samples: the unit of a segment's "seek"
PAUSE_HOPS = 6  # how much of a pause has to be quiet: 0.3 s
LONGEST = 30 * SAMPLE_RATE  # what Whisper encodes at once
EARLIEST = 20 * SAMPLE_RATE  # a piece has at least that many samples, where more than it follow
SHORTEST = 5 * SAMPLE_RATE  # that the last piece of several has


def cut(samples: np.ndarray) -> list[slice]:
    """Where to cut a recording, float32 [n]: pieces of at most 30 s, in order, all of it.

    Each ends in the middle of the quietest 0.3 s of its last third.
    """
    if len(samples) <= LONGEST:
        return [slice(0, len(samples))]
    hops, half = len(samples) // HOP, PAUSE_HOPS // 2
    framed = samples[: hops * HOP].reshape(hops, HOP)
    energy = np.einsum("ij,ij->i", framed, framed)
    around = np.convolve(energy, np.ones(PAUSE_HOPS), "valid")  # i: of a cut at hop i + half
    pieces, begin = [], 0
    while (rest := len(samples) - begin) > LONGEST:
        first = (begin + min(EARLIEST, rest // 2)) // HOP
        last = (begin + min(LONGEST, rest - SHORTEST)) // HOP
        there = around[first - half : last - half + 1]
        end = (last - int(there[::-1].argmin())) * HOP  # of several the last
        pieces.append(slice(begin, end))
        begin = end
    return [*pieces, slice(begin, len(samples))]


def join(done: Sequence, pieces: Sequence[slice]):
    """A recording's whisper_openvino.Transcription, from those of its pieces."""
    segments: list[dict] = []
    for each, piece in zip(done, pieces):
        whole = piece.start / SAMPLE_RATE, piece.stop / SAMPLE_RATE
        for segment in each.result["segments"]:
            moved = _later(segment, *whole)
            moved |= {"id": len(segments), "seek": segment["seek"] + piece.start // SEEK_HOP}
            if "words" in segment:
                moved["words"] = [_later(word, *whole) for word in segment["words"]]
            segments.append(moved)
    text = "".join(each.result["text"] for each in done)
    result = {"text": text, "segments": segments, "language": done[0].result["language"]}
    began_s, ended_s = min(each.began_s for each in done), max(each.ended_s for each in done)
    return replace(done[0], result=result, began_s=began_s, ended_s=ended_s)


def _later(timed: dict, by_s: float, end_s: float) -> dict:
    """A piece's segment or word, later; Whisper has some end after what it heard."""
    return {**timed, **{key: round(min(timed[key] + by_s, end_s), 2) for key in ("start", "end")}}
