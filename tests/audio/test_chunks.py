"""--chunked: where long recordings are cut, and what becomes of the pieces."""

import numpy as np
import pytest
from audio_media import ONCE, RATE, SAMPLE, write_wav

NOISE = np.random.default_rng(0)


def pieces_of(samples):
    import chunks

    return chunks.cut(samples.astype(np.float32))


def assert_whole(pieces, count):
    """Nothing is left out, nothing is heard twice."""
    assert pieces[0].start == 0 and pieces[-1].stop == count
    assert all(before.stop == after.start for before, after in zip(pieces, pieces[1:]))


@pytest.mark.parametrize("between", [0.0, 0.01])
def test_it_is_cut_in_the_pauses(between):
    """Of silence, or of a noise much quieter than the speech."""
    pauses_s = [7, 16, 26.4, 39, 51.2, 63, 79, 99]
    samples = NOISE.normal(0, 0.1, 110 * RATE)
    for pause_s in pauses_s:
        samples[round(pause_s * RATE) : round((pause_s + 0.4) * RATE)] *= between
    pieces = pieces_of(samples)
    assert_whole(pieces, len(samples))
    ends_s = [piece.stop / RATE for piece in pieces]
    assert ends_s[:-1] == pytest.approx([26.6, 51.4, 79.2, 99.2], abs=0.1)


@pytest.mark.parametrize("seconds", [30.001, 31, 36, 50, 60.01, 90, 123.4567, 600])
@pytest.mark.parametrize("level", [0, 0.1])
def test_without_a_pause_it_is_cut_all_the_same(seconds, level):
    samples = NOISE.normal(0, level, round(seconds * RATE))
    pieces = pieces_of(samples)
    assert_whole(pieces, len(samples))
    lengths_s = [(piece.stop - piece.start) / RATE for piece in pieces]
    assert len(pieces) > 1 and max(lengths_s) <= 30 and min(lengths_s) >= 5
    assert min(lengths_s[:-2], default=20) >= 20


@pytest.mark.parametrize("count", [1, 160, 799, 800, 5 * RATE, 30 * RATE])
def test_a_short_file_is_one_piece(count):
    assert pieces_of(np.zeros(count)) == [slice(0, count)]


def test_the_pieces_times_become_those_of_the_file():
    import chunks
    from whisper_openvino import Transcription

    word = {"word": " one", "start": np.float64(0.5), "end": 1.0, "probability": 0.9}
    segment = {"id": 0, "seek": 0, "start": 0.5, "end": 1.0, "text": " one.", "words": [word]}
    once = {"text": " one.", "segments": [segment], "language": "en"}
    late = {**segment, "seek": 100, "end": 27.0}  # after the piece, which is 25 s long
    twice = {**once, "text": " one. one.", "segments": [segment, late]}
    pieces = [slice(0, 20 * RATE), slice(20 * RATE, 45 * RATE)]
    done = [Transcription(once, 5.0, 6.0), Transcription(twice, 4.0, 5.5)]
    joined = chunks.join(done, pieces)
    assert joined.result["text"] == " one. one. one." and joined.result["language"] == "en"
    assert joined.time_s == 2
    found = joined.result["segments"]
    assert [each["id"] for each in found] == [0, 1, 2]
    assert [each["seek"] for each in found] == [0, 2000, 2100]
    assert [each["start"] for each in found] == [0.5, 20.5, 20.5]
    assert [each["end"] for each in found] == [1.0, 21.0, 45.0]
    assert [each["words"][0]["end"] for each in found] == [1.0, 21.0, 21.0]
    assert segment["start"] == word["start"] == 0.5  # what was given is as it was


@pytest.fixture(scope="module")
def long_file(speech, tmp_path_factory):
    """The sample twice, in different loudness, with pauses; and what is said."""
    pause = np.zeros(RATE, np.float32)
    parts = [part for gain in (1, 0.1) for part in (gain * speech, pause)]
    folder = tmp_path_factory.mktemp("long")
    text = SAMPLE.with_suffix(".txt").read_text()
    (folder / "long.txt").write_text(" ".join([text] * 2))
    return write_wav(folder / "long.wav", np.concatenate(parts))


def test_pieces_have_the_words_of_the_file_at_its_times(audio, speech, long_file):
    reference = ("--reference", long_file.with_suffix(".txt"))
    run, printed = audio.measure(
        "--audio", long_file, "--chunked", "--word_timestamps", *reference, *ONCE
    )
    assert run["metrics"]["word_error_rate"]["median"] <= 0.01
    assert run["task"]["chunked"] is True and run["configuration"]["batch size"] == 2
    assert run["input"]["duration_s"] == pytest.approx(len(speech) / RATE * 2 + 2, abs=0.01)
    segments = run["output"]["segments"]
    assert "".join(each["text"] for each in segments).strip() == run["output"]["transcript"]
    starts_s = [each["start"] for each in segments]
    assert starts_s == sorted(starts_s)
    said_s = [
        word["start"]
        for each in segments
        for word in each["words"]
        if word["word"].strip(" ,.").lower() == "pharmacy"
    ]
    every_s = len(speech) / RATE + 1
    assert np.diff(said_s) == pytest.approx([every_s], abs=0.2)


def test_pieces_are_transcribed_without_timestamps(audio, long_file):
    reference = ("--reference", long_file.with_suffix(".txt"))
    run, printed = audio.measure(
        "--audio", long_file, "--chunked", "--without_timestamps", *reference, *ONCE
    )
    assert run["metrics"]["word_error_rate"]["median"] <= 0.01
    assert run["task"]["without timestamps"] is run["task"]["chunked"] is True
    segments = run["output"]["segments"]  # one for each piece
    assert len(segments) == 2
    assert [each["start"] for each in segments[1:]] == [each["end"] for each in segments[:-1]]
