"""What infer.py writes besides the record: whole or not at all, and over nothing of the user's."""

import argparse
import resource
import shutil
from contextlib import contextmanager
from pathlib import Path

import infer
import model
import numpy as np
import pytest
from video_media import CLIP, MODEL, ONE_PASS, write_clip

from harness.cli import UserError
from harness.files import has_mark


def write(path, source_path, **settings):
    """A pass whose frames are written as they are."""
    from video_output import OutputSettings, opened
    from video_source import VideoSource

    source = VideoSource(str(source_path))
    with opened(OutputSettings(path, None, **settings), source) as outputs:
        for frame, pts in source.frames():
            outputs.video.write(frame, pts)


@contextmanager
def files_of_at_most(size_bytes):
    """As on a full disk, writing fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def check(output=None, detections=None, no_output=False, overwrite=False, video=CLIP) -> Path:
    """Where infer.py would write its video."""
    args = argparse.Namespace(output=output, save_detections=detections, no_output=no_output)
    args.overwrite, args.video = overwrite, str(video)
    infer.check_outputs(args)
    return args.output


def test_from_another_folder_the_defaults_are_those_beside_the_script(
    video, call, few_frames, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert call(infer, *ONE_PASS, "--max_frames", 2, "--no_output") == 0
    run = video.last_record()
    assert (run["input"]["name"], run["model"]["name"]) == (CLIP.name, MODEL.stem)


def test_the_default_output_replaces_what_the_kit_made_and_nothing_else(
    clip, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    output = Path("output.mp4")
    assert check() == output
    write(output, clip)
    assert check() == output and has_mark(output)
    shutil.copy(CLIP, output)  # a film of the user's
    with pytest.raises(UserError, match="^--output output.mp4 exists: .*add --overwrite"):
        check()
    assert check(overwrite=True) == output and check(no_output=True) is None


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".avi"])
def test_the_kits_videos_carry_its_mark(clip, tmp_path, suffix):
    write(tmp_path / f"a{suffix}", clip)
    assert has_mark(tmp_path / f"a{suffix}") and not has_mark(CLIP)


def test_a_file_that_was_named_is_not_replaced_unless_asked(clip, tmp_path):
    path = tmp_path / "a.mp4"
    write(path, clip)
    with pytest.raises(UserError, match=f"^--output {path} exists: .*add --overwrite"):
        check(path)
    with pytest.raises(UserError, match=f"^--save_detections {path} exists: .*add --overwrite"):
        check(None, path)
    assert check(path, overwrite=True) == path


def test_an_output_that_is_the_input_or_another_output_is_refused(tmp_path):
    with pytest.raises(UserError, match="--output is the input video"):
        check(CLIP, overwrite=True)
    with pytest.raises(UserError, match="--save_detections is the input video"):
        check(None, CLIP, overwrite=True)
    with pytest.raises(UserError, match="--save_detections is --output's file, too"):
        check(tmp_path / "a.mp4", tmp_path / "a.mp4")


def test_outputs_that_can_not_be_written_are_refused_before_measuring(refused, tmp_path):
    assert "cannot write to /proc/no" in refused(infer, "--output", "/proc/no/a.mp4")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_file_that_was_there_and_no_part_of_another(clip, tmp_path):
    path = tmp_path / "a.mp4"
    write(path, clip)
    before = path.read_bytes()
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (432, 768, 3), dtype=np.uint8) for _ in range(8)]
    noisy = write_clip(tmp_path / "noise.mkv", noise, codec="ffv1")
    for size_bytes in (20_000, 300_000):  # fails at the end only, or while frames are written
        with files_of_at_most(size_bytes), pytest.raises(UserError, match="File too large"):
            write(path, noisy)
        assert path.read_bytes() == before
        assert sorted(each.name for each in tmp_path.iterdir()) == ["a.mp4", "noise.mkv"]


def test_an_encoder_that_fails_leaves_the_file_that_was_there(clip, tmp_path):
    path = tmp_path / "a.mp4"
    path.write_text("mine")
    with pytest.raises(UserError, match="cannot write the video"):
        write(path, clip, preset="no such preset")
    assert path.read_text() == "mine" and [each.name for each in tmp_path.iterdir()] == ["a.mp4"]


def test_options_without_effect_do_not_make_it_other_work():
    def encoder(*args):
        parser = argparse.ArgumentParser()
        for option in ("--output", "--preset", "--save_detections"):
            parser.add_argument(option)
        parser.add_argument("--no_output", action="store_true")
        parser.add_argument("--encoder", default="libx264")
        parser.add_argument("--max_frames", type=int)
        model.add_model_arguments(parser)
        source = argparse.Namespace(live=False)
        parsed = parser.parse_args(["--output", "a.mp4", *args])
        if parsed.no_output:
            parsed.output = None
        settings = infer.pipeline_settings(parsed, source)
        return settings.output.encoder_label

    assert encoder("--no_output", "--preset", "slow", "--encoder", "mpeg4") is None
    assert encoder("--preset", "slow") != encoder()
