"""Exporting: int8 as right as float and faster, or refused; names; hostile weights."""

import json
import shlex
import sys

import cv2
import infer
import numpy as np
import pytest
from conftest import Evil, Workload, assert_one_line
from make_clip import FPS, SEED, coco
from video_media import DEMO_WEIGHTS, FOLDER


@pytest.mark.alone
def test_the_int8_model_is_scored_named_and_faster(video, call, few_frames, tmp_path, monkeypatch):
    monkeypatch.chdir(FOLDER)
    folder, truth = tmp_path / "demo_int8_openvino_model", tmp_path / "truth.json"
    truth.write_text(json.dumps(coco(SEED, 10, FPS)))
    export = ("export.py", "--model", DEMO_WEIGHTS, "--precision", "int8", "--output", folder)
    export += ("--calibration_frames", 10, "--ground_truth", truth)
    done = video.run(*export, fresh=True)
    assert done.returncode == 0, done.stderr
    scores, made, following = done.stdout.splitlines()  # nothing that the libraries print
    assert "Mask mAP50-95: 0.8" in scores and made.startswith(f"{folder}: ")
    assert done.stderr == ""
    _, _, *command = shlex.split(following.removeprefix("Next: "))

    less = ("--no_output", "--max_frames", 10, "--num_iters", 3, "--warmup", 0)
    assert call(infer, *command, "--precision", "int8", *less) == 0
    run = video.last_record()
    scored = run["model"]["export"]["results"]["mask_map50_95"]
    assert scored["before"] > 0.75 and abs(scored["before"] - scored["after"]) < 0.01
    assert (
        run["model"]["weight_format"] == "int8"
        and run["model"]["export"]["calibration"] == "pharmacy_drivethru.mp4"
    )
    assert run["placement"]["precision_effective"] == "int8"
    layers = run["placement"]["executed_precisions"]["model"]
    assert layers.get("i8", 0) + layers.get("u8", 0) > 0.8 * sum(layers.values())
    assert sum(run["output"]["found"].values()) > 20
    assert call(infer, "--precision", "f32", *less) == 0
    float_run = video.last_record()
    assert (
        run["metrics"]["frames_per_second"]["median"]
        > 1.15 * float_run["metrics"]["frames_per_second"]["median"]
    )

    again = video.run(*export)
    assert "exported already" in again.stdout and again.stdout.splitlines()[-1] == following


def test_an_int8_model_that_lost_too_much_is_refused_with_the_figure(video, tmp_path):
    (tmp_path / "black").mkdir()
    black = np.zeros((64, 64, 3), np.uint8)  # nothing to calibrate on
    cv2.imwrite(str(tmp_path / "black" / "1.png"), black)
    folder = tmp_path / "bad_int8_openvino_model"
    options = ("--model", DEMO_WEIGHTS, "--imgsz", 320, "--precision", "int8", "--output", folder)
    done = video.run("export.py", *options, "--calibration_video", tmp_path / "black")
    assert_one_line(done, "points of 4", "of mask mAP50-95", "--max_map_loss")
    assert not folder.exists() and not list(tmp_path.glob("*.partial*"))


def test_mistakes_end_it_before_the_work(video, tmp_path):
    def export(*options):
        return video.run(
            "export.py",
            "--model",
            DEMO_WEIGHTS,
            "--precision",
            "int8",
            "--output",
            tmp_path / "out",
            *options,
        )

    assert_one_line(export("--calibration_video", tmp_path / "no.mp4"), "no video file")
    assert_one_line(export("--ground_truth", tmp_path / "no.json"), "cannot read")


@pytest.mark.parametrize(
    "given, output",
    [
        ((), "yolov8n-seg_openvino_model"),
        (("--precision", "int8"), "yolov8n-seg_int8_openvino_model"),
        (("--weight_format", "fp16"), "yolov8n-seg_fp16_openvino_model"),
        (("--imgsz", "320"), "yolov8n-seg_320_openvino_model"),
        (("--model", "my.pt", "--precision", "int8"), "my_int8_openvino_model"),
    ],
)
def test_the_folder_is_named_after_model_and_format(monkeypatch, given, output):
    import export

    monkeypatch.setattr(sys, "argv", ["export.py", *given])
    made = export.default_output(export.parse_args())
    assert made.absolute() == FOLDER / output  # wherever it is run


@pytest.mark.parametrize("is_zip", [True, False])
def test_code_in_weights_is_run_only_if_trusted(video, tmp_path, is_zip):
    ran, path = tmp_path / "ran", tmp_path / "x.pt"
    import torch

    torch.save({"model": Evil(ran)}, path, _use_new_zipfile_serialization=is_zip)
    command = ("export.py", "--model", path, "--output", tmp_path / "out")
    done = video.run(*command, fresh=is_zip)  # a fork has set ultralytics' default, too
    assert_one_line(done, "x.pt holds posix.system", "any code", "--trust_pickle")
    assert not ran.exists()
    if is_zip:  # not in a fork, as ultralytics is told when it is imported
        assert_one_line(video.run(*command, "--trust_pickle", fresh=True), "cannot export")
        assert ran.exists() and not (tmp_path / "out").exists()
    path.write_bytes(b"no checkpoint")
    assert_one_line(video.run(*command), "x.pt is damaged, or no checkpoint")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The demo model at another size: the finished process, and the folder."""
    folder = tmp_path_factory.mktemp("exported")
    options = ("--model", DEMO_WEIGHTS, "--output", folder / "out", "--imgsz", 64, "--verbose")
    video = Workload("video-ai-workload", folder)
    return video.run("export.py", *options, fresh=True), folder / "out"


def test_export_shows_what_libraries_print_if_asked_to(exported):
    done, _ = exported
    assert done.returncode == 0 and "Ultralytics" in done.stdout


def test_another_model_in_a_named_folder_is_left_alone(video, exported):
    _, folder = exported
    command = ("export.py", "--model", DEMO_WEIGHTS, "--output", folder, "--imgsz", 32)
    assert_one_line(video.run(*command), "holds yolov8n-seg-demo.pt (imgsz 64)", "--overwrite")
    done = video.run(*command, "--overwrite")
    assert done.returncode == 0 and "replacing yolov8n-seg-demo.pt (imgsz 64)" in done.stdout
