"""Fixtures of the audio workload's tests, on the demo model that ./run.sh --prepare exports."""

import pytest
from audio_media import FOLDER, MODEL, SAMPLE, at_f32
from conftest import Workload


@pytest.fixture
def audio(tmp_path) -> Workload:
    return Workload("audio-ai-workload", tmp_path / "results")


@pytest.fixture(scope="module")
def models():
    """The kit's model on OpenVINO at f32, and openai-whisper's own on PyTorch.

    Both have the same weights and alignment heads.
    """
    import torch
    import whisper

    torch.set_num_threads(1)  # two tests run at a time, and its threads spin
    theirs = whisper.load_model(str(FOLDER / "models" / "base.pt"), device="cpu")
    theirs.set_alignment_heads(whisper._ALIGNMENT_HEADS["base"])
    return at_f32(MODEL), theirs


@pytest.fixture(scope="session")
def speech():
    import audio_input

    return audio_input.read(SAMPLE).samples
