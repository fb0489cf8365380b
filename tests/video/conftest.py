"""Fixtures of the video workload's tests.

What a real network finds is asked of the demo model that ./run.sh --prepare exports. All else is
measured with a network of a few operations, in the tests' own process.
"""

import numpy as np
import pytest
import video_media
from conftest import Workload

from harness import record


@pytest.fixture
def video(tmp_path) -> Workload:
    return Workload("video-ai-workload", tmp_path / "results")


@pytest.fixture(scope="session")
def network(tmp_path_factory):
    """A segmentation model that finds one object, in frames whose mean is above 100 of 255."""
    import openvino as ov
    from openvino import opset13 as op

    image = op.parameter([1, 3, 64, 64], np.float32, name="images")
    mean = op.reduce_mean(image, [1, 2, 3], True)
    boxed = np.array([32, 32, 20, 20, 0, *[1] * 32], np.float32).reshape(1, 37, 1)
    scored = np.eye(1, 37, 4, dtype=np.float32).reshape(1, 37, 1)
    score = op.reshape(mean, [-1, 1, 1], False)
    predictions = op.add(op.multiply(score, op.constant(scored)), op.constant(boxed))
    prototypes = op.add(mean, op.constant(np.ones((1, 32, 16, 16), np.float32)))
    path = tmp_path_factory.mktemp("model") / "tiny.xml"
    ov.save_model(ov.Model([predictions, prototypes], [image], "tiny"), path)
    return path


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    """40 frames, ever brighter."""
    return video_media.brightening_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", 40)


@pytest.fixture
def measure(call, network, clip, tmp_path):
    """measure(*options): infer.py's exit status and record, with the network above."""

    def run(*options, video=clip):
        import infer

        status = call(
            infer, "--model_path", network, "--video", video, "--conf", 100 / 255, *options
        )
        (path,) = (tmp_path / "results").glob("*.json")
        made = record.read(path)
        path.unlink()
        return status, made

    return run


@pytest.fixture
def few_frames(monkeypatch):
    """The least frames of an iteration are one per request, and few are played before."""
    import infer
    import pipeline

    monkeypatch.setattr(infer, "FRAMES_PER_REQUEST", 1)
    monkeypatch.setattr(pipeline, "ENCODER_DELAY", 0)


@pytest.fixture
def refused(refusal, network):
    """refused(module, *args): the one line in which its main() ends, with the network above."""
    return lambda module, *args: refusal(module, "--model_path", network, *args)
