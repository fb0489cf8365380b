"""What infer.py writes besides the record: whole or not at all, and over nothing of the user's."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import Workload, assert_one_line
from video_media import CLIP, FOLDER, ONE_PASS

from harness.files import has_mark

FEW = (*ONE_PASS, "--max_frames", 4)


def infer_in(folder, video: Workload, *args, prefix=()):
    """infer.py run from another folder, where its default output goes."""
    command = [*prefix, sys.executable, FOLDER / "infer.py", "--results_dir", video.results, *args]
    how = {"cwd": folder, "capture_output": True, "text": True}
    return subprocess.run(list(map(str, command)), **how)


def test_from_another_folder_the_defaults_are_those_beside_the_script(video, tmp_path):
    done = infer_in(tmp_path, video, *FEW)
    assert done.returncode == 0, done.stderr
    assert has_mark(tmp_path / "output.mp4")
    assert video.last_record()["input"]["name"] == CLIP.name


def test_the_default_output_replaces_what_the_kit_made_and_nothing_else(video, tmp_path):
    output = tmp_path / "output.mp4"
    assert infer_in(tmp_path, video, *FEW).returncode == 0
    assert infer_in(tmp_path, video, *FEW).returncode == 0 and has_mark(output)
    shutil.copy(CLIP, output)  # a film of the user's
    assert_one_line(infer_in(tmp_path, video, *FEW), "output.mp4 exists", "--overwrite")
    assert output.read_bytes() == CLIP.read_bytes()
    assert infer_in(tmp_path, video, *FEW, "--overwrite").returncode == 0 and has_mark(output)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["output.mp4", "results"]


@pytest.mark.parametrize("option, name", [("--output", "a.mkv"), ("--save_detections", "a.jsonl")])
def test_a_file_that_was_named_is_not_replaced_before_anything_is_measured(
    video, tmp_path, option, name
):
    path = tmp_path / name
    path.write_text("mine")
    assert_one_line(video.infer(option, path, *FEW), f"{option} {path} exists", "--overwrite")
    assert_one_line(video.infer(option, CLIP, *FEW, "--overwrite"), "is the input video")
    assert path.read_text() == "mine" and not video.results.exists()


def test_two_outputs_of_one_name_are_refused(video, tmp_path):
    both = ("--output", tmp_path / "a.mp4", "--save_detections", tmp_path / "a.mp4")
    assert_one_line(video.infer(*both, *FEW), "--save_detections is --output's file, too")


def test_a_full_disk_leaves_the_file_that_was_there(video, tmp_path):
    output = tmp_path / "output.mp4"
    assert infer_in(tmp_path, video, *FEW).returncode == 0
    before = output.read_bytes()
    small = ("bash", "-c", f'ulimit -f {os.path.getsize(output) // 1024}; exec "$@"', "-")
    done = infer_in(tmp_path, video, *ONE_PASS, prefix=small)
    assert_one_line(done, "cannot write the video output.mp4", "File too large")
    assert output.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["output.mp4", "results"]


def test_options_without_effect_do_not_make_it_other_work(video, tmp_path):
    def work(*args):
        run, _ = video.measure("--no_output", *FEW, *args)
        return run["task"], run["comparable_by"], run["configuration"]

    odd = ("--preset", "slow", "--encoder", "mpeg4", "--retry", 3, "--output", tmp_path / "x.mp4")
    assert work() == work(*odd) and not (tmp_path / "x.mp4").exists()
