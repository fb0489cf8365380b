"""Instances of the audio workload side by side."""

import os

import pytest
from conftest import assert_two_at_once


@pytest.mark.alone
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two instances take two CPUs")
def test_two_instances_transcribe_at_once_and_one_writes_the_transcript(audio, clip_file, tmp_path):
    out = tmp_path / "transcripts"
    written = "--output_format", "txt", "--output_dir", out
    run, _ = audio.measure("--audio", clip_file, "--instances", 2, "--num_iters", 2, *written)
    assert_two_at_once(run)
    assert run["output"]["same_transcript_every_iteration"] is True
    (text,) = out.iterdir()
    assert text.read_text().split() == run["output"]["transcript"].split()
