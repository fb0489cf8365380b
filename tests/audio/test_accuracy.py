"""The door accuracy.py: error rates of one untimed transcription, recorded."""

import json
import subprocess

from audio_media import CLIP_TEXT, FOLDER, transcribe
from conftest import assert_one_line


def accuracy(audio, *args):
    return audio.run("accuracy.py", "--results_dir", audio.results, *args)


def test_error_rates_of_a_text_are_printed_and_recorded(audio, clip_file, tmp_path):
    text = CLIP_TEXT.replace("prescription", "subscription")
    (tmp_path / "clip.txt").write_text(text)
    named = "--model_name", "base", "--audio", clip_file, "--reference", tmp_path
    done = accuracy(audio, *named, "--gate_limit", 0.01)
    assert done.returncode == 0, done.stdout + done.stderr
    run = audio.last_record()
    rate = 1 / len(text.split())
    assert run["workload"] == "audio-accuracy" and run["primary"] == "word_error_rate"
    assert run["metrics"]["word_error_rate"]["median"] == rate
    assert 0 < run["metrics"]["character_error_rate"]["median"] < rate
    gate = {"metric": "word_error_rate", "limit": 0.01, "value": rate, "passed": False}
    assert run["output"]["gate"] == gate and "accuracy gate missed" in done.stdout
    assert any("accuracy gate missed" in reason for reason in run["validity"]["reasons"])
    assert "word_start_error_s" not in run["metrics"] and run["work"] == []
    assert "Word error rate (WER): 7.692 %" in done.stdout, done.stdout
    assert f"clip.wav: word error rate {rate:.2%}" in done.stdout
    assert "pharmacy" in run["output"]["files"][0]["transcript"]
    assert run["task"]["reference sha256"] and "word timestamps" not in run["task"]


def test_times_of_words_are_compared_where_the_reference_has_them(
    audio, ours, clip, clip_file, tmp_path
):
    result = transcribe(ours, clip, temperature=0, word_timestamps=True)
    for segment in result["segments"]:
        segment["words"] = [{**w, "end": float(w["end"]) + 0.5} for w in segment["words"]]
    keep = {"text": result["text"], "segments": result["segments"]}
    (tmp_path / "true.json").write_text(json.dumps(keep, default=float))
    of_clip = "--audio", clip_file, "--reference", tmp_path / "true.json"
    done = accuracy(audio, "--precision", "f32", *of_clip)
    assert done.returncode == 0, done.stdout + done.stderr
    run = audio.last_record()
    assert run["metrics"]["word_error_rate"]["median"] == 0 and run["task"]["word timestamps"]
    assert run["metrics"]["word_start_error_s"]["median"] < 0.05
    assert 0.45 < run["metrics"]["word_end_error_s"]["median"] < 0.55
    assert "Word end error: 0.5 s" in done.stdout


def test_without_arguments_and_from_another_folder_the_sample_is_scored(audio, tmp_path):
    command = audio.command(FOLDER / "accuracy.py", "--results_dir", audio.results)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert audio.last_record()["metrics"]["word_error_rate"]["median"] == 0


def test_audio_of_ones_own_needs_a_reference(audio, tmp_path):
    done = accuracy(audio, "--audio", tmp_path / "other.mp3")
    assert done.returncode == 2 and "--audio needs --reference" in done.stderr
    missing = tmp_path / "no.txt"
    assert_one_line(accuracy(audio, "--reference", missing), "no.txt", "--reference")
    assert_one_line(accuracy(audio, "--ovmodel_path", tmp_path), "whisper_encoder.xml")
