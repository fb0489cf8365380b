"""Capacity: live cameras in real time, sustained or not."""

import signal
import time

import capacity
import model
import pytest
from conftest import assert_one_line
from segmentation import Thresholds
from video_media import CLIP

from harness import record
from harness.openvino_setup import Placement


def test_frames_dropped_late_or_never_done_are_counted_as_late():
    dues_s = [100 + number / 20 for number in range(240)]  # counted from 102 s on, for 10 s
    done_s = {index: due_s + 0.01 for index, due_s in enumerate(dues_s)}
    done_s[50] += 1.5
    del done_s[60], done_s[61]
    stream = capacity.Camera(dues_s, 40, 1, done_s).stream(102.0, 10.0, max_latency_s=1.0)
    assert len(stream.due_s) == len(stream.late) == 200 and stream.due_s[0] == 0
    assert [index for index, late in enumerate(stream.late) if late] == [10, 20, 21]
    delays_s = stream.samples["frame_delay_s"]
    assert len(delays_s) == 198 and max(delays_s) == pytest.approx(1.51)
    # The last frame before is done after counting began.
    assert stream.rates["camera_frames_per_second"] == pytest.approx(19.8, abs=0.11)
    assert stream.counts == {"dropped": 1}


@pytest.mark.alone
def test_cameras_that_a_machine_carries_are_all_counted_frame_by_frame(video, tmp_path):
    limits = ("--target_fps", 1, "--max_cameras", 2, "--duration", 4, "--max_latency", 10)
    limits += ("--min_observations", 4, "--plot", tmp_path / "capacity.png")
    command = ("capacity.py", "--results_dir", video.results, *limits)
    done = video.run(*command, fresh=True)
    assert done.returncode == 0, done.stdout + done.stderr
    run = video.last_record()
    assert run["workload"] == "video-capacity" and run["primary"] == "cameras"
    assert run["metrics"]["cameras"]["median"] == run["output"]["cameras"] == 2
    assert run["output"]["first_over"] is None
    assert run["work"] == [
        {"unit": "1,000 camera-hours at 1 frames/s", "metric": "cameras", "amount": 3_600_000}
    ]
    level = run["output"]["levels"]["2"]
    of_each = level["of_each"]
    assert of_each["camera_frames_per_second"] == pytest.approx([1, 1], abs=0.26)
    assert of_each["late_share"] == of_each["dropped"] == [0, 0]
    assert run["metrics"]["frame_delay_s"]["n"] == 8 and run["metrics"]["load_time_s"]["n"] == 1
    assert "2 camera(s) at 1 frames/s: as many as were tried" in done.stdout
    assert (tmp_path / "capacity.png").read_bytes().startswith(b"\x89PNG")
    assert (level["observations"], level["late"]) == (8, 0)
    assert any("0 of 8 late do not show" in warning for warning in run["warnings"])
    assert_one_line(video.run(*command), "capacity.png exists", "--overwrite")


def test_a_machine_that_carries_not_one_says_0_and_what_it_reached(
    video, call, network, monkeypatch, capsys, tmp_path
):
    monkeypatch.setattr(capacity, "SETTLE_S", 0.5)
    limits = ("--target_fps", 20_000, "--duration", 1, "--plot", tmp_path / "capacity.png")
    assert call(capacity, "--model_path", network, *limits) == 0
    assert "Capacity: 0 camera(s)" in capsys.readouterr().out
    run = video.last_record()
    assert run["output"]["first_over"] == 1
    assert 0 < run["output"]["levels"]["1"]["rates"]["camera_frames_per_second"] < 20_000


def test_ctrl_c_keeps_the_numbers_of_cameras_so_far(video, network, tmp_path):
    limits = ("--target_fps", 4, "--duration", 2, "--max_latency", 10, "--model_path", network)
    process = video.start("capacity.py", "--plot", tmp_path / "capacity.png", *limits)
    for line in process.stdout:
        if line.startswith("1 camera(s)"):
            break
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in errors
    (path,) = video.results.glob("*.json")
    run = record.read(path)
    assert run["status"] == "interrupted" and list(run["output"]["levels"]) == ["1"]
    assert run["output"]["cameras"] == 1


@pytest.fixture
def loaded(network) -> model.Model:
    return model.load(model.LoadSettings(network, Placement((0,), None, None, "auto")))


def play(loaded, numbers, duration_s, target_fps):
    requests = [loaded.compiled.create_infer_request() for _ in range(2)]
    settings = capacity.CameraSettings(str(CLIP), target_fps, 1.0, 0, Thresholds(0.25, 0.7))
    return capacity.play(loaded, requests, settings, numbers, time.perf_counter(), duration_s)


def test_the_decoders_of_cameras_share_the_cpus(monkeypatch):
    monkeypatch.setattr(capacity.os, "sched_getaffinity", lambda process: range(64))
    cameras = (0, 1, 8, 30, 64, 300)
    assert [capacity.decoder_threads(count) for count in cameras] == [16, 16, 8, 2, 1, 1]


@pytest.mark.parametrize("stage", ["objects_of", "VideoSource"])
def test_a_failing_thread_ends_the_level_instead_of_hanging_it(loaded, monkeypatch, stage):
    def fail(*args, **how):
        raise RuntimeError("broken stage")

    monkeypatch.setattr(model if stage == "objects_of" else capacity, stage, fail)
    with pytest.raises(RuntimeError, match="broken stage"):
        play(loaded, range(2), 600.0, target_fps=5.0)


def test_a_camera_has_the_same_random_phase_whoever_plays_it(loaded):
    three = play(loaded, range(3), 1.0, target_fps=4.0)
    (last,) = play(loaded, [2], 1.0, target_fps=4.0)
    assert len(last.due_s) == 4 and last.due_s == pytest.approx(three[2].due_s, abs=1e-6)
    assert len({stream.due_s[0] for stream in three}) == 3


def test_mistakes_end_in_one_line(refused, call, tmp_path):
    plot = ("--plot", tmp_path / "capacity.png")
    assert "no video file" in refused(capacity, *plot, "--video", tmp_path / "no.mp4")
    assert "no.xml" in refused(capacity, *plot, "--model_path", tmp_path / "no.xml")
    camera = "rtsp://127.0.0.1:9/none"
    assert "can't be read as video" in refused(capacity, *plot, "--video", camera)
    for wrong in (("--min_cameras", 4, "--max_cameras", 2), ("--target_fps", 0)):
        with pytest.raises(SystemExit, match="^2$"):
            call(capacity, *plot, *wrong)
