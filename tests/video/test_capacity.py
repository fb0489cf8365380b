"""Capacity: live cameras in real time, sustained or not."""

import signal
import subprocess
import sys
import time

import pytest
from conftest import Workload, assert_one_line
from video_media import CLIP, FOLDER, MODEL

from harness import record


def capacity(video: Workload, tmp_path, *args):
    plot = tmp_path / "capacity.png"
    return video.run("capacity.py", "--results_dir", video.results, "--plot", plot, *args)


def settings(max_latency_s, duration_s, target_fps=20.0, source=CLIP):
    from capacity import CameraSettings
    from segmentation import Thresholds

    thresholds = Thresholds(0.25, 0.7)
    return CameraSettings(str(source), target_fps, max_latency_s, duration_s, thresholds)


def test_a_camera_that_loses_1_percent_is_not_sustained():
    from capacity import Camera, figures

    limits = settings(max_latency_s=1.0, duration_s=10.0)
    due_s = [number / 20 for number in range(200)]
    fine = Camera(due=200, dropped=1, done_s=[(due, due + 0.01) for due in due_s[1:]])
    in_time = [(due, due + 0.01) for due in due_s[:198]]
    late = Camera(due=200, done_s=in_time + [(due, due + 1.5) for due in due_s[198:]])
    assert figures([fine, fine], limits)["sustained"]
    level = figures([fine, late], limits)
    assert not level["sustained"]
    assert level["fps"] == [19.9, 19.8] and level["slowest_fps"] == 19.8
    assert level["lost_share"] == 0.01


def test_cameras_that_a_machine_carries_are_all_counted_frame_by_frame(video, tmp_path):
    limits = ("--target_fps", 0.5, "--max_cameras", 2, "--duration", 8, "--max_latency", 10)
    limits += ("--min_observations", 4)
    done = capacity(video, tmp_path, *limits)
    assert done.returncode == 0, done.stdout + done.stderr
    run = video.last_record()
    assert run["workload"] == "video-capacity" and run["primary"] == "cameras"
    assert run["metrics"]["cameras"]["median"] == run["output"]["cameras"] == 2
    assert run["output"]["first_over"] is None
    assert run["work"] == [
        {"unit": "1,000 camera-hours at 0.5 frames/s", "metric": "cameras", "amount": 3_600_000}
    ]
    level = run["output"]["levels"]["2"]
    assert level["fps"] == pytest.approx([0.5, 0.5], abs=0.13)
    assert level["lost_share"] == 0 and level["dropped"] == [0, 0] and level["latency_p95_s"] > 0
    assert "2 camera(s) at 0.5 frames/s: as many as were tried" in done.stdout
    assert (tmp_path / "capacity.png").read_bytes().startswith(b"\x89PNG")
    assert (level["observations"], level["late"]) == (8, 0)
    assert any("0 of 8 late do not show" in warning for warning in run["warnings"])
    assert_one_line(capacity(video, tmp_path, *limits), "capacity.png exists", "--overwrite")


def test_a_machine_that_carries_not_one_says_0_and_what_it_reached(video, tmp_path):
    done = capacity(video, tmp_path, "--target_fps", 500, "--duration", 3)
    assert done.returncode == 0 and "Capacity: 0 camera(s)" in done.stdout
    run = video.last_record()
    assert run["output"]["first_over"] == 1
    assert 0 < run["output"]["levels"]["1"]["slowest_fps"] < 500


def test_ctrl_c_keeps_the_numbers_of_cameras_so_far(video, tmp_path):
    command = [sys.executable, "capacity.py", "--results_dir", str(video.results)]
    command += ["--plot", str(tmp_path / "capacity.png"), "--target_fps", "0.5"]
    command += ["--duration", "6", "--max_latency", "10"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=FOLDER, **pipes)
    for line in process.stdout:
        if line.startswith("1 camera(s)"):
            break
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in errors
    (path,) = video.results.glob("*.json")
    run = record.read(path)
    assert run["status"] == "interrupted" and list(run["output"]["levels"]) == ["1"]
    assert run["output"]["cameras"] == 1


@pytest.mark.parametrize("stage", ["objects_of", "VideoSource"])
def test_a_failing_thread_ends_the_level_instead_of_hanging_it(monkeypatch, stage):
    import capacity
    import model

    from harness.openvino_setup import Placement

    def fail(*args):
        raise RuntimeError("broken stage")

    loaded = model.load(model.LoadSettings(MODEL, Placement((0,), None, None, "auto")))
    monkeypatch.setattr(model if stage == "objects_of" else capacity, stage, fail)
    requests = [loaded.compiled.create_infer_request() for _ in range(2)]
    level = capacity.Level(loaded, requests, settings(1.0, 600.0, target_fps=5.0), 2)
    with pytest.raises(RuntimeError, match="broken stage"):
        level.run()


def test_mistakes_end_in_one_line(video, tmp_path):
    assert_one_line(capacity(video, tmp_path, "--video", tmp_path / "no.mp4"), "no video file")
    assert_one_line(capacity(video, tmp_path, "--model_path", tmp_path / "no.xml"), "no.xml")
    camera = "rtsp://127.0.0.1:9/none"
    assert_one_line(capacity(video, tmp_path, "--video", camera), "can't be read as video")
    assert capacity(video, tmp_path, "--min_cameras", 4, "--max_cameras", 2).returncode == 2
    assert capacity(video, tmp_path, "--target_fps", 0).returncode == 2
