"""Instances of the video workload side by side."""

import os

import av
import pytest
from conftest import assert_two_at_once


@pytest.mark.alone
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two instances take two CPUs")
def test_two_instances_segment_at_once_and_one_writes_the_video(video, tmp_path):
    out = tmp_path / "out.mp4"
    less = ("--max_frames", 20, "--num_iters", 2, "--warmup", 0)
    run, _ = video.measure("--instances", 2, *less, "--output", out)
    assert_two_at_once(run)
    assert run["output"]["same_detections_every_iteration"] is True
    with av.open(str(out)) as container:
        assert sum(1 for _ in container.decode(video=0)) == run["output"]["frames"]
    assert {path.name for path in tmp_path.iterdir()} == {"out.mp4", "results"}
