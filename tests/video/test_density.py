"""Stream density: real streams in real time are told apart from those that can't keep up."""

import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from conftest import Workload, assert_one_line
from harness import record
from video_media import FOLDER


def density(video: Workload, tmp_path, *args):
    return video.run("density.py", "--results_dir", video.results, "--plot", tmp_path / "density.png", *args)


def test_a_stream_that_loses_1_percent_does_not_hold():
    from density import Stream, summary

    args = SimpleNamespace(max_latency=1.0, duration=10.0)
    due_s = [number / 20 for number in range(200)]
    fine = Stream(due=200, dropped=1, done_s=[(due, due + 0.01) for due in due_s[1:]])
    late = Stream(due=200, done_s=[(due, due + 0.01) for due in due_s[:198]] + [(due, due + 1.5) for due in due_s[198:]])
    assert summary([fine, fine], args)["holds"] and not summary([fine, late], args)["holds"]
    told = summary([fine, late], args)
    assert told["fps"] == [19.9, 19.8] and told["slowest_fps"] == 19.8 and told["lost_share"] == 0.01


def test_streams_that_a_machine_carries_are_all_counted_frame_by_frame(video, tmp_path):
    done = density(video, tmp_path, "--target_fps", 0.5, "--max_streams", 2, "--duration", 8, "--max_latency", 10)
    assert done.returncode == 0, done.stdout + done.stderr
    run = video.last_record()
    assert run["workload"] == "video-density" and run["output"]["streams"] == 2 and run["output"]["first_over"] is None
    level = run["output"]["levels"]["2"]
    assert (
        level["fps"] == pytest.approx([0.5, 0.5], abs=0.13)
        and level["lost_share"] == 0
        and level["dropped"] == [0, 0]
        and level["latency_p95_s"] > 0
    )
    assert "2 stream(s) at 0.5 frames/s: as many as were tried" in done.stdout
    assert (tmp_path / "density.png").read_bytes().startswith(b"\x89PNG")


def test_a_machine_that_carries_not_one_says_0_and_what_it_reached(video, tmp_path):
    done = density(video, tmp_path, "--target_fps", 500, "--duration", 3)
    assert done.returncode == 0 and "Stream density: 0 stream(s)" in done.stdout
    run = video.last_record()
    assert run["output"]["first_over"] == 1 and 0 < run["output"]["levels"]["1"]["slowest_fps"] < 500


def test_ctrl_c_keeps_the_numbers_of_streams_so_far(video, tmp_path):
    command = [sys.executable, "density.py", "--results_dir", str(video.results), "--plot", str(tmp_path / "d.png"), "--target_fps", "0.5",
               "--duration", "6", "--max_latency", "10"]  # fmt: skip
    process = subprocess.Popen(command, cwd=FOLDER, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("1 stream(s)"):
            break
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in errors
    (path,) = video.results.glob("*.json")
    run = record.read(path)
    assert run["status"] == "interrupted" and list(run["output"]["levels"]) == ["1"] and run["output"]["streams"] == 1


def test_mistakes_are_told_in_one_line(video, tmp_path):
    assert_one_line(density(video, tmp_path, "--video", tmp_path / "no.mp4"), "no video file")
    assert_one_line(density(video, tmp_path, "--model_path", tmp_path / "no.xml"), "no.xml")
    assert density(video, tmp_path, "--min_streams", 4, "--max_streams", 2).returncode == 2
    assert density(video, tmp_path, "--target_fps", 0).returncode == 2
