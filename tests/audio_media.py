"""For the audio workload's tests: media, and transcribing with OpenVINO and PyTorch."""

import os
import sys
import wave
from fractions import Fraction

import numpy as np
import pytest
from conftest import REPO

FOLDER = REPO / "audio-ai-workload"
MODEL = FOLDER / "whisper-base-ov-model"
SAMPLE = FOLDER / "sample.mp3"
ONCE = ("--num_iters", "1", "--warmup", "0")
CLIP_S = 5.2  # of the sample, in which CLIP_TEXT is said
CLIP_TEXT = "Good morning, and welcome to the pharmacy. My prescription should be ready today."
RATE = 16_000
EXACT = {
    "PERFORMANCE_HINT": "LATENCY",
    "INFERENCE_PRECISION_HINT": "f32",
    "KV_CACHE_PRECISION": "f32",
}
sys.path.insert(0, str(FOLDER))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the workload does, before PyTorch


def write_wav(path, samples, rate=RATE, channels=1):
    """16-bit; the same samples, float [n], in each channel."""
    samples = np.repeat(np.asarray(samples)[:, None], channels, axis=1)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return path


def write_media(path, samples=None, codec="aac", video=False):
    """Samples, float [n] at 16 kHz, in the container that `path` ends in.

    With or without a second of black video.
    """
    import av

    with av.open(str(path), "w") as container:
        sound = (
            container.add_stream(codec, rate=RATE, layout="mono") if samples is not None else None
        )
        if video:
            picture = container.add_stream("mpeg4", rate=5)
            picture.width = picture.height = 64
            picture.pix_fmt = "yuv420p"
            for _ in range(5):
                container.mux(
                    picture.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8)))
                )
            container.mux(picture.encode())
        if sound:
            frame = av.AudioFrame.from_ndarray(
                samples[None].astype(np.float32), format="fltp", layout="mono"
            )
            frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
            container.mux(sound.encode(frame))
            container.mux(sound.encode())
    return path


def at_f32(folder):
    """The exported model, with nothing rounded that PyTorch does not round."""
    import openvino as ov
    from whisper_openvino import OpenVINOWhisper

    return OpenVINOWhisper(ov.Core(), folder, "CPU", EXACT, word_timestamps=True)


def transcribe(model, samples, **options) -> dict:
    """openai-whisper's result for one file."""
    return model.transcribe_all([samples], lambda index, done_s: None, **options)[0].result


def same_transcript(models, samples, **options) -> dict:
    """Transcribe with both.

    All of the text, the tokens and the times must be equal, of words to a frame of 0.02 s.
    """
    import torch
    import whisper

    torch.manual_seed(0)
    ours = transcribe(models[0], samples, **options)
    torch.manual_seed(0)
    theirs = whisper.transcribe(models[1], samples, fp16=False, **options)
    assert ours["text"] == theirs["text"] and ours["language"] == theirs["language"]
    for mine, other in zip(ours["segments"], theirs["segments"], strict=True):
        assert mine["tokens"] == other["tokens"] and mine["temperature"] == other["temperature"]
        assert (mine["start"], mine["end"]) == pytest.approx(
            (other["start"], other["end"]), abs=0.0201
        )
        assert "words" in other or (mine["start"], mine["end"]) == (other["start"], other["end"])
        for word, same in zip(mine.get("words", ()), other.get("words", ()), strict=True):
            assert word["word"] == same["word"] and word["probability"] == pytest.approx(
                same["probability"], abs=0.01
            )
            assert (word["start"], word["end"]) == pytest.approx(
                (same["start"], same["end"]), abs=0.0201
            )
    return ours
