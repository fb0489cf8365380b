"""The audio workload's input: files and folders, videos, references, and mistakes in them."""

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import audio_media  # noqa: F401 (finds the workload's modules)
import numpy as np
import pytest
from audio_media import FOLDER, MODEL, ONCE, RATE, SAMPLE, write_media, write_wav
from conftest import assert_one_line

from harness.cli import UserError


def same_sound(samples, expected) -> bool:
    n = min(len(samples), len(expected))
    return (
        abs(len(samples) - len(expected)) < 0.1 * RATE
        and np.corrcoef(samples[:n], expected[:n])[0, 1] > 0.99
    )


@pytest.mark.alone
def test_a_folder_is_measured_as_a_whole_and_reported_file_by_file(audio, speech, tmp_path):
    folder, references, written = tmp_path / "in", tmp_path / "references", tmp_path / "out"
    folder.mkdir()
    references.mkdir()
    first, second = speech[: int(2.3 * RATE)], speech[int(2.3 * RATE) : int(4.9 * RATE)]
    write_wav(folder / "a.wav", first)
    write_media(folder / "b.mp4", second, video=True)
    (folder / "notes.txt").write_text("no audio")
    (references / "a.txt").write_text("Good morning, and welcome to the PHARMACY!")
    (references / "b.txt").write_text("My subscription should be ready today.")
    run, printed = audio.measure(
        "--audio",
        folder,
        "--reference",
        references,
        "--num_iters",
        2,
        "--warmup",
        0,
        "--word_timestamps",
        "--output_format",
        "srt",
        "--output_dir",
        written,
    )
    a, b = run["output"]["files"]
    assert (
        (a["name"], b["name"])
        == ("a.wav", "b.mp4")
        == tuple(file["name"] for file in run["input"]["files"])
    )
    assert "pharmacy" in a["transcript"] and "prescription" in b["transcript"]
    assert (
        run["input"]["duration_s"]
        == a["duration_s"] + b["duration_s"]
        == pytest.approx(4.9, abs=0.1)
    )
    total_s = [time_s for (time_s,) in run["samples"]["transcription_time_s"]]
    each_s = zip(a["transcription_times_s"], b["transcription_times_s"])
    assert total_s == pytest.approx([sum(times_s) for times_s in each_s], rel=0.02)
    rtfx = [rate for (rate,) in run["samples"]["rtfx"]]
    assert rtfx == pytest.approx([run["input"]["duration_s"] / time_s for time_s in total_s])
    # One wrong word of thirteen: over all files together, not the mean of the files' rates.
    assert (a["word_error_rate"], b["word_error_rate"]) == (0, pytest.approx(1 / 6))
    assert run["metrics"]["word_error_rate"]["median"] == pytest.approx(1 / 13)
    assert 0 < run["metrics"]["character_error_rate"]["median"] < 1 / 13
    words = [word for segment in a["segments"] for word in segment["words"]]
    assert all(0 <= word["start"] <= word["end"] <= 2.4 for word in words) and len(words) == 7
    assert sorted(path.name for path in written.iterdir()) == ["a.srt", "b.srt"]
    assert (
        "pharmacy" in (written / "a.srt").read_text()
        and "00:00:0" in (written / "a.srt").read_text()
    )
    assert "b.mp4: 2.6" in printed and "word error rate 16.67%" in printed


def test_transcripts_are_written_in_every_format_and_never_over_a_file(speech, tmp_path):
    import infer

    result = {
        "text": " Hi.",
        "language": "en",
        "segments": [{"start": 0.0, "end": 1.5, "text": " Hi.", "tokens": [1]}],
    }
    folder = tmp_path / "new" / "folder"

    def check(output_format, folder, *paths, reference=None, overwrite=False):
        args = types.SimpleNamespace(
            output_format=output_format, output_dir=folder, reference=reference, overwrite=overwrite
        )
        infer.check_output(args, paths or [SAMPLE])

    check("all", folder)
    assert infer.write_transcripts("all", folder, [SAMPLE], [result]) == [
        f"Transcripts: {folder}/*.*"
    ]
    texts = {path.suffix: path.read_text() for path in folder.iterdir()}
    assert set(texts) == {".txt", ".srt", ".vtt", ".json", ".tsv"}
    assert (
        json.loads(texts[".json"])["segments"][0]["end"] == 1.5
        and texts[".tsv"].splitlines()[1] == "0\t1500\tHi."
    )
    assert "00:00:00,000 --> 00:00:01,500" in texts[".srt"] and texts[".vtt"].startswith("WEBVTT")
    (folder / "sample.txt").write_text("mine")
    with pytest.raises(UserError, match=f"{folder}/sample.txt exists: .* add --overwrite"):
        check("all", folder)
    check("all", folder, overwrite=True)
    with pytest.raises(UserError, match="would replace an input"):
        check("txt", folder, reference=folder / "sample.txt", overwrite=True)
    with pytest.raises(UserError, match="would both be written to"):
        check("txt", tmp_path, SAMPLE, tmp_path / "sample.wav")
    with pytest.raises(UserError, match="cannot write to /proc/no"):
        check("txt", Path("/proc/no"))


def test_a_full_disk_leaves_no_part_of_a_transcript_and_none_replaced(tmp_path, monkeypatch):
    import errno

    import infer
    from whisper import utils

    def fails_halfway(output_format, folder):
        def write(result, audio_path, options):
            Path(folder, "sample.txt").write_text("ha")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        return write

    (tmp_path / "sample.txt").write_text("whole")
    monkeypatch.setattr(utils, "get_writer", fails_halfway)
    assert infer.write_transcripts("txt", tmp_path, [SAMPLE], [{}]) == []
    assert [path.read_text() for path in tmp_path.iterdir()] == ["whole"]


def test_any_container_rate_and_number_of_channels_is_read_as_mono_at_16_khz(speech, tmp_path):
    import audio_input
    import soxr

    short = speech[: 4 * RATE]
    for path in (
        write_media(tmp_path / "video.mp4", short, video=True),
        write_media(tmp_path / "sound.m4a", short),
        write_media(tmp_path / "opus.mkv", short, "libopus"),
        write_media(tmp_path / "float.wav", short, "pcm_f32le"),
        write_media(tmp_path / "law.wav", short, "pcm_mulaw"),
        write_wav(tmp_path / "telephone.wav", soxr.resample(short, RATE, 8000), 8000),
        write_wav(tmp_path / "eight.wav", soxr.resample(short, RATE, 48_000), 48_000, channels=8),
        write_wav(tmp_path / "array.wav", short, channels=12),
    ):
        samples = audio_input.read(path).samples
        # Telephone audio lacks what is above 4 kHz.
        assert samples.dtype == np.float32 and same_sound(samples, short), path.name


def test_sound_in_a_single_channel_is_not_lost(speech, tmp_path):
    import audio_input

    path = tmp_path / "one.wav"
    eight = np.zeros((2 * RATE, 8))
    eight[:, 3] = speech[: 2 * RATE]  # where a film has its bass channel, which players leave out
    write_wav(path, eight.reshape(-1), channels=1)
    header = bytearray(path.read_bytes())
    header[22:24], header[32:34] = (8).to_bytes(2, "little"), b"\x10\0"
    header[28:32] = (RATE * 16).to_bytes(4, "little")
    path.write_bytes(header)
    assert same_sound(audio_input.read(path).samples * 8, speech[: 2 * RATE])


def test_a_recording_that_was_cut_is_read_as_far_as_it_goes(speech, tmp_path):
    import audio_input

    whole = SAMPLE.read_bytes()
    (tmp_path / "cut.mp3").write_bytes(whole[: len(whole) // 2])
    recording = audio_input.read(tmp_path / "cut.mp3")
    samples = recording.samples
    assert len(samples) == pytest.approx(len(speech) / 2, rel=0.02) and same_sound(
        samples, speech[: len(samples)]
    )
    (warning,) = recording.warnings
    assert warning.startswith("cut.mp3 is cut or damaged: 12.") and "of the 24.4 s" in warning
    assert not audio_input.read(SAMPLE).warnings


@pytest.mark.parametrize("name", ["cut.wav", "cut.flac", "cut.mkv", "cut.webm", "cut.aac"])
def test_a_cut_file_is_told_from_a_whole_one(speech, tmp_path, name):
    import audio_input

    codec = {"cut.flac": "flac", "cut.wav": "pcm_s16le", "cut.webm": "libopus"}.get(name, "aac")
    path = write_media(tmp_path / name, speech[: 10 * RATE], codec)
    assert not audio_input.read(path).warnings
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 4 // 10])
    warnings = audio_input.read(path).warnings
    assert warnings and name in warnings[0]


def test_sound_that_is_off_scale_or_missing_is_refused_or_remarked(refused, speech, tmp_path):
    import audio_input

    def wav(name, samples):
        return write_media(tmp_path / name, np.asarray(samples), "pcm_f32le")

    assert "up to 1e+30 where 1 is full scale" in refused(
        "--audio", wav("loud.wav", np.clip(speech[:RATE] * 1e32, -1e30, 1e30))
    )
    for value in (np.inf, -np.inf, np.nan):
        holes = speech[:RATE].copy()
        holes[77] = value
        assert "samples that are not numbers" in refused("--audio", wav("holes.wav", holes))
    assert "holds no sound" in refused("--audio", wav("click.wav", [0.5] * 100))
    assert audio_input.read(wav("silent.wav", np.zeros(RATE))).warnings == ("silent.wav is silent",)
    assert not audio_input.read(wav("over.wav", speech[:RATE] * 2)).warnings
    slow = write_wav(tmp_path / "slow.wav", speech[:RATE], rate=1)
    assert "1 samples per second" in refused("--audio", slow)


def test_damaged_media_of_all_kinds_end_in_samples_or_one_line(speech, tmp_path):
    import audio_input

    rng = np.random.default_rng(15)
    codecs = {"wav": "pcm_s16le", "flac": "flac", "ogg": "libopus", "mp3": "libmp3lame"}
    codecs |= {"m4a": "aac", "mkv": "aac", "webm": "libopus", "ts": "aac"}
    read = 0
    for suffix, codec in codecs.items():
        whole = bytearray(write_media(tmp_path / f"a.{suffix}", speech[:RATE], codec).read_bytes())
        for _ in range(8):
            damaged = bytearray(whole)
            for at in rng.integers(0, len(whole), 1 + len(whole) // 500):
                damaged[at] = rng.integers(256)
            damaged[: 8 * rng.integers(2)] = b""
            path = tmp_path / f"damaged.{suffix}"
            path.write_bytes(damaged[: rng.integers(len(whole) // 2, len(whole))])
            try:
                samples = audio_input.read(path).samples
            except UserError as error:
                assert "\n" not in str(error) and path.name in str(error)
            else:
                assert np.isfinite(samples).all()
                read += 1
    assert read


ODD_NAMES = ("a:b $x$.wav", "\x1b[31mred\nline.wav", os.fsdecode(b"\xff.wav"))


def test_files_of_odd_names_are_read_recorded_and_printed_safely(audio, speech, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ODD_NAMES:
        write_wav(folder / name, speech[:RATE])
    env = {"PYTHONIOENCODING": "ascii"}
    run, printed = audio.measure("--audio", folder, *ONCE, env=env)
    names = {name.replace("\udcff", "\\udcff") for name in ODD_NAMES}
    assert {file["name"] for file in run["input"]["files"]} == names
    assert printed.isascii() and "\x1b" not in printed and "\\x1b[31mred" in printed


def test_long_audio_is_held_once_with_its_spectrogram(tmp_path):
    """Reading and spectrogram take the samples, half as much again, and little besides."""
    write_wav(tmp_path / "long.wav", np.zeros(1200 * RATE // 2), 8000)
    code = """
import resource, sys
from pathlib import Path
import audio_input, whisper_openvino, numpy
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
whisper_openvino.log_mel_spectrogram(audio_input.read(Path("sample.mp3")).samples, 80, 480000)
before = peak()
samples = audio_input.read(Path(sys.argv[1])).samples
mel = whisper_openvino.log_mel_spectrogram(samples, 80, 480000)
print(samples.nbytes, peak() - before)
"""
    env = {**os.environ, "PYTHONPATH": str(FOLDER.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "long.wav")],
        cwd=FOLDER,
        capture_output=True,
        text=True,
        env=env,
    )
    assert done.returncode == 0, done.stderr
    held, grown = map(int, done.stdout.split())
    assert held == pytest.approx(1200 * RATE * 4, rel=0.01) and grown < 1.9 * held


def test_error_rates_are_counted_after_whispers_normalization():
    import error_rates

    def rates(*texts) -> tuple[float, float]:
        found = error_rates.rates(texts)
        return found["word_error_rate"], found["character_error_rate"]

    assert rates(("The cat sat, on the mat.", "the cat sat on the MAT", "en")) == (0, 0)
    wrong = ("the cat sat there", "the hat sat there", "en")
    assert rates(wrong) == pytest.approx((1 / 4, 1 / 17))
    assert rates(("colour", "color", "en"))[0] == 0 and rates(("colour", "color", "de"))[0] == 1
    chinese = ("你好，世界", "你好时界", "zh")  # no spaces: words are characters
    assert rates(chinese) == (1 / 4, 1 / 4)
    surplus = ("yes", "yes yes yes", "en")
    assert rates(surplus)[0] == 2
    assert rates(wrong, surplus)[0] == pytest.approx(3 / 5)  # errors over words of both
    assert rates(wrong, chinese) == pytest.approx((2 / 8, 2 / 21))


def test_times_of_words_are_compared_where_the_reference_knows_them(
    audio, refused, clip_file, tmp_path
):
    import error_rates

    def words(*timed):
        return [error_rates.Word(*word) for word in timed]

    true = words(
        ("Good", 0.0, 0.4),
        ("morning,", 0.5, 0.9),
        ("and", 1.0, 1.1),
        ("don't", 1.2, 1.5),
        ("go", 1.6, 1.8),
    )
    found = words(
        (" good", 0.1, 0.4),
        (" Morning.", 0.5, 0.8),
        (" or", 1.0, 1.1),
        (" -", 1.1, 1.1),
        (" don't", 1.2, 1.9),
    )
    starts_s, ends_s = error_rates.word_time_errors(true, found, "en")
    assert starts_s == pytest.approx([0.1, 0, 0]) and ends_s == pytest.approx([0, 0.1, 0.4])
    assert error_rates.word_time_errors([], found, "en") == ([], [])

    written = tmp_path / "clip.json"
    how = "--audio", clip_file, "--word_timestamps", *ONCE
    first, _ = audio.measure(*how, "--output_format", "json", "--output_dir", tmp_path)
    assert "word_start_error_s" not in first["metrics"]
    content = json.loads(written.read_text())
    for segment in content["segments"]:
        for word in segment["words"]:
            word["start"] += 0.25
    written.write_text(json.dumps(content))
    second, printed = audio.measure(*how, "--reference", written)
    assert (
        second["metrics"]["word_error_rate"]["median"] == 0
        and "Word start error: 0.25 s" in printed
    )
    assert (
        second["metrics"]["word_start_error_s"]["max"] == pytest.approx(0.25)
        and second["metrics"]["word_end_error_s"]["max"] < 1e-6
    )
    assert second["metrics"]["word_start_error_s"]["n"] > 10
    (tmp_path / "list.json").write_text("[1]")
    assert "openai-whisper's JSON" in refused("--reference", tmp_path / "list.json")


def test_references_that_do_not_fit_are_one_line_of_error(refused, speech, tmp_path):
    for name in ("a", "b"):
        write_wav(tmp_path / f"{name}.wav", speech[:RATE])
    both = (tmp_path / "a.wav", tmp_path / "b.wav")
    assert "no.txt" in refused("--reference", tmp_path / "no.txt")
    assert "one transcript for 2 audio files" in refused(
        "--audio", *both, "--reference", "sample.txt"
    )
    (tmp_path / "a.txt").write_text("hello")
    assert f"no reference {tmp_path}/b.txt" in refused("--audio", *both, "--reference", tmp_path)
    (tmp_path / "b.txt").write_text(" \n")
    assert "b.txt is empty" in refused("--audio", *both, "--reference", tmp_path)
    (tmp_path / "b.txt").write_text("[music] ...")
    assert "b.txt holds no words" in refused("--audio", *both, "--reference", tmp_path)
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\x00")
    assert "b.txt is not a UTF-8 text file" in refused("--audio", *both, "--reference", tmp_path)


def test_audio_that_is_none_is_one_line_of_error(refused, speech, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "no audio or video file in the folder" in refused("--audio", tmp_path / "empty")
    assert "has no audio track" in refused(
        "--audio", write_media(tmp_path / "silent film.mp4", video=True)
    )
    holes = speech[:RATE].copy()
    holes[77] = np.nan
    assert "samples that are not numbers" in refused(
        "--audio", write_media(tmp_path / "nan.wav", holes, "pcm_f32le")
    )
    assert "holds no sound" in refused("--audio", write_wav(tmp_path / "zero.wav", np.zeros(0)))
    for name, content in (
        ("text.mp3", b"this is not music\n" * 50),
        ("empty.mp3", b""),
        ("random.wav", bytes(range(256)) * 40),
    ):
        (tmp_path / name).write_bytes(content)
        assert f"{name} can't be read as audio" in refused("--audio", SAMPLE, tmp_path / name)


def test_languages_that_the_model_does_not_know_are_one_line_of_error(refused):
    import model

    assert "no language 'klingon'" in refused("--language", "klingon")
    assert "does not know cantonese" in refused("--language", "yue")
    english = types.SimpleNamespace(is_multilingual=False, num_languages=99)
    for wrong in (("de", "transcribe"), (None, "translate")):
        with pytest.raises(UserError, match="English only"):
            model.check_model_knows(english, *wrong)
    model.check_model_knows(english, "en", "transcribe")


def test_an_older_export_without_alignment_heads_must_be_made_again(audio, tmp_path):
    for path in MODEL.iterdir():
        if path.name != "dims.json":
            (tmp_path / path.name).symlink_to(path)
    dims = json.loads((MODEL / "dims.json").read_text())
    (tmp_path / "dims.json").write_text(
        json.dumps({name: value for name, value in dims.items() if name != "alignment_heads"})
    )
    assert_one_line(
        audio.infer("--ovmodel_path", tmp_path, "--word_timestamps"), "alignment heads", "export.py"
    )
