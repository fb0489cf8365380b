"""Fixtures of the video workload's tests, on the demo model that ./run.sh --prepare exports."""

import pytest
import video_media  # noqa: F401 (finds the workload's modules)
from conftest import Workload


@pytest.fixture
def video(tmp_path) -> Workload:
    return Workload("video-ai-workload", tmp_path / "results")
