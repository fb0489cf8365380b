"""Fixtures of the audio workload's tests, on the demo model that ./run.sh --prepare exports."""

from functools import partial

import pytest
from audio_media import CLIP_S, CLIP_TEXT, FOLDER, MODEL, RATE, SAMPLE, at_f32, write_wav
from conftest import Workload


@pytest.fixture
def audio(tmp_path) -> Workload:
    return Workload("audio-ai-workload", tmp_path / "results")


@pytest.fixture
def refused(refusal):
    """refused(*args): infer.py's one line on these arguments."""
    import infer

    return partial(refusal, infer)


@pytest.fixture(scope="session")
def ours():
    """The kit's model on OpenVINO at f32."""
    return at_f32(MODEL)


@pytest.fixture(scope="session")
def models(ours):
    """The kit's model, and openai-whisper's own on PyTorch, which encodes equal windows once.

    Both have the same weights and alignment heads.
    """
    import torch
    import whisper

    torch.set_num_threads(1)  # two tests run at a time, and its threads spin
    theirs = whisper.load_model(str(FOLDER / "models" / "base.pt"), device="cpu")
    theirs.set_alignment_heads(whisper._ALIGNMENT_HEADS["base"])
    encode, encoded = theirs.encoder.forward, {}

    def encode_once(mel):
        key = mel.numpy().tobytes()
        if key not in encoded:
            encoded[key] = encode(mel)
        return encoded[key]

    theirs.encoder.forward = encode_once
    return ours, theirs


@pytest.fixture(scope="session")
def speech():
    import audio_input

    return audio_input.read(SAMPLE).samples


@pytest.fixture(scope="session")
def clip(speech):
    """Its first two sentences, CLIP_TEXT: as costly to encode as all of it, but soon decoded."""
    return speech[: round(CLIP_S * RATE)]


@pytest.fixture(scope="session")
def clip_file(clip, tmp_path_factory):
    """clip.wav, with clip.txt beside it."""
    path = write_wav(tmp_path_factory.mktemp("clip") / "clip.wav", clip)
    path.with_suffix(".txt").write_text(CLIP_TEXT)
    return path
