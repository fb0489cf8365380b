"""Capacity: calls are cut at pauses, and sustained where they are transcribed in time."""

import signal
import time

import numpy as np
import pytest
from audio_media import CLIP_S, RATE
from conftest import Workload, assert_one_line

from harness import record


def capacity(audio: Workload, tmp_path, *args, **how):
    plot = tmp_path / "capacity.png"
    return audio.run("capacity.py", "--results_dir", audio.results, "--plot", plot, *args, **how)


def test_calls_are_cut_where_the_speaker_pauses_and_nothing_is_lost():
    from capacity import cut

    tone = np.sin(np.arange(20 * RATE) * 0.3).astype(np.float32)
    tone[7 * RATE : int(7.5 * RATE)] *= 0.01  # a pause
    tone[int(8.5 * RATE) : 9 * RATE] *= 0.01  # one too soon after it
    windows = cut(tone, 10.0)
    assert np.array_equal(np.concatenate(windows), tone)
    seconds = [len(window) / RATE for window in windows]
    assert seconds == [pytest.approx(7.35, abs=0.1), 10.0, pytest.approx(2.65, abs=0.1)]
    assert [len(window) for window in cut(tone[: 6 * RATE + 7], 3.0)] == [3 * RATE, 3 * RATE, 7]


def test_speech_is_cut_between_words(speech):
    from capacity import cut

    windows = cut(speech, 8.0)
    assert np.array_equal(np.concatenate(windows), speech) and max(map(len, windows)) <= 8 * RATE
    loudness = np.sqrt(np.mean(speech**2))
    assert all(
        np.sqrt(np.mean(window[-RATE // 5 :] ** 2)) < 0.2 * loudness for window in windows[:-1]
    )


def test_the_share_of_speech_is_that_of_the_hops_that_are_not_quiet():
    from capacity import speech_share

    noise = np.random.default_rng(0).standard_normal(10 * RATE).astype(np.float32)
    assert speech_share(noise) == 1 and speech_share(0 * noise) == 0
    noise[: 4 * RATE] *= 0.01
    assert speech_share(noise) == pytest.approx(0.6)
    assert speech_share(noise[:100]) == 1  # shorter than a hop


def test_a_call_begins_at_a_random_moment_that_its_number_decides():
    from capacity import File, Limits, schedule

    windows = [np.full(seconds * RATE, seconds, np.float32) for seconds in (4, 6, 10)]
    files, limits = [File(windows, {}), File(windows[:1], {})], Limits(10.0, 2.0, seed=0)
    calls = {number: schedule(files, number, limits, 600.0) for number in range(0, 40, 2)}
    for number, heard in calls.items():
        due_s = [window.due_s for window in heard]
        lengths_s = [len(window.samples) / RATE for window in heard]
        assert np.diff(due_s) == pytest.approx(lengths_s[1:])  # one after the other, no gap
        assert 0 <= due_s[0] < lengths_s[0] and 590 < due_s[-1] < 600
        assert number == 0 or due_s != [window.due_s for window in calls[number - 2]]
    begins = [heard[0].samples[0] for heard in calls.values()]
    assert set(begins) == {4, 6, 10}  # with each of the file's windows
    assert {len(window.samples) for window in schedule(files, 1, limits, 60.0)} == {4 * RATE}


@pytest.mark.alone
def test_calls_that_a_machine_sustains_are_all_transcribed(audio, clip_file, tmp_path):
    options = "--min_calls 2 --max_calls 2 --window 4 --duration 8 --max_delay 10"
    options += f" --min_observations 4 --audio {clip_file} --batch_size 2"
    options += f" --reference {clip_file.with_suffix('.txt')}"
    done = capacity(audio, tmp_path, *options.split(), fresh=True)
    assert done.returncode == 0, done.stdout + done.stderr
    run = audio.last_record()
    assert run["workload"] == "audio-capacity" and run["primary"] == "calls"
    assert run["output"]["calls"] == 2 and run["output"]["first_over"] is None
    assert run["work"] == [{"unit": "1,000 call-hours", "metric": "calls", "amount": 3_600_000}]
    assert run["task"]["window"] == 4 and run["task"]["max delay"] == 10
    level = run["output"]["levels"]["2"]
    of_each = level["of_each"]
    assert of_each["never_transcribed"] == of_each["late_share"] == [0, 0]
    assert 4 <= level["observations"] <= 12 and level["late"] == 0
    delay, first = (run["metrics"][name] for name in ("window_delay_s", "time_to_first_text_s"))
    assert delay["n"] == first["n"] == level["observations"] and 0 < delay["max"] < 10
    assert delay["median"] + 1 < first["median"] < delay["max"] + 4
    assert 0.5 < run["input"]["speech_share"] < 1 and "Speech: " in done.stdout
    (file,) = run["output"]["files"]
    assert (
        sum(window["duration_s"] for window in file["windows"]) == pytest.approx(CLIP_S, abs=0.1)
        and file["language"] == "en"
    )
    assert (
        "pharmacy" in file["windows"][0]["transcript"]
        and run["metrics"]["word_error_rate"]["median"] < 0.15
    )
    assert (
        "2 call(s) with transcripts within 10 s of windows of at most 4 s: as many as were tried"
        in done.stdout
    )
    assert (tmp_path / "capacity.png").read_bytes().startswith(b"\x89PNG")
    assert any("under 1% are: 299 are needed" in warning for warning in run["warnings"])
    again = capacity(audio, tmp_path, *options.split())
    assert_one_line(again, "capacity.png exists", "--overwrite")


def test_a_machine_that_sustains_no_call_reports_0(audio, clip_file, tmp_path):
    limits = "--window", 2, "--duration", 4, "--max_delay", 0.001
    done = capacity(audio, tmp_path, "--audio", clip_file, *limits)
    assert done.returncode == 0 and "Capacity: 0 call(s)" in done.stdout, done.stderr
    run = audio.last_record()
    assert run["output"]["first_over"] == 1
    assert run["output"]["levels"]["1"]["worst_late_share"] == 1


def test_ctrl_c_keeps_the_numbers_of_calls_so_far(audio, clip_file, tmp_path):
    options = "--audio", clip_file, "--window", 3, "--duration", 6, "--max_delay", 10
    process = audio.start("capacity.py", "--plot", tmp_path / "d.png", *options)
    for line in process.stdout:
        if line.startswith("1 call(s)"):
            break
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in errors
    (path,) = audio.results.glob("*.json")
    run = record.read(path)
    assert (
        run["status"] == "interrupted"
        and list(run["output"]["levels"]) == ["1"]
        and run["output"]["calls"] == 1
    )


def test_a_mistake_is_one_line_of_error(audio, tmp_path):
    assert_one_line(capacity(audio, tmp_path, "--audio", tmp_path / "no.mp3"), "no audio file")
    assert_one_line(
        capacity(audio, tmp_path, "--ovmodel_path", tmp_path / "no"), "whisper_encoder.xml"
    )
    assert capacity(audio, tmp_path, "--min_calls", 4, "--max_calls", 2).returncode == 2
    assert capacity(audio, tmp_path, "--window", 31).returncode == 2
    assert capacity(audio, tmp_path, "--window", 10, "--duration", 15).returncode == 2
