"""The model that is measured is the one named, and a time needs the work that it stands for."""

import json
import types

import numpy as np
import pytest
from audio_media import MODEL, ONCE, RATE, transcribe, write_wav
from conftest import assert_one_line

from harness import model_files
from harness.cli import UserError

BASE = json.loads((MODEL / "dims.json").read_text())


def dims(**other):
    return types.SimpleNamespace(**{**BASE, **other})


LARGE = {"n_audio_state": 1280, "n_audio_layer": 32, "n_text_layer": 32}


@pytest.mark.parametrize(
    "size, of",
    [
        ("base", {}),
        ("base.en", {"n_vocab": 51864}),
        ("tiny", {"n_audio_state": 384, "n_audio_layer": 4, "n_text_layer": 4}),
        ("large", LARGE),
        ("large-v3", {**LARGE, "n_mels": 128, "n_vocab": 51866}),
        ("large-v3-turbo", {**LARGE, "n_text_layer": 4, "n_mels": 128, "n_vocab": 51866}),
    ],
)
def test_a_models_size_is_that_of_its_dimensions(size, of):
    import model

    assert model.size(dims(**of)) == size


def test_a_name_that_is_not_the_models_is_refused(refused, tmp_path):
    import model

    line = refused("--model_name", "large-v3", "--ovmodel_path", MODEL)
    assert "--model_name large-v3" in line and "holds Whisper base" in line
    assert not list(tmp_path.glob("results/*"))
    large, large_v3 = dims(**LARGE), dims(**LARGE, n_mels=128, n_vocab=51866)
    for name, held, exported_as in (
        ("base", dims(), "base"),
        ("base", dims(), "base-2024"),
        ("large", large_v3, "large-v3"),
        ("large-v2", large, "large-v2"),
        ("large-v1", large, None),
    ):
        assert model.check_name(name, held, exported_as, MODEL) == name
    for name, held, exported_as in (
        ("base.en", dims(), "base"),
        ("large-v3", large, "large-v2"),
        ("large-v1", large, "large-v2"),
        ("turbo", large_v3, "large-v3"),
        ("tiny", dims(), None),
    ):
        with pytest.raises(UserError, match=f"--model_name {name}: "):
            model.check_name(name, held, exported_as, MODEL)


def test_a_model_without_a_name_has_that_of_its_export_or_size():
    import model

    assert model.check_name(None, dims(), "base", MODEL) == "base"
    assert model.check_name(None, dims(), None, MODEL) == "base"
    assert model.check_name("clinic", dims(), "clinic", MODEL) == "clinic (base)"


def test_a_transcript_without_decoding_is_refused():
    import model

    tokens = {"segments": [{"tokens": list(range(20))}]}

    class Remembers:
        """Computes once, then returns what it had."""

        batch_size, done = 1, (0, 0)

        def work(self):
            return self.done

        def transcribe_all(self, audio, progress, **options):
            self.done = 2, 25
            return [types.SimpleNamespace(result=tokens)]

    whisper, minute = Remembers(), [np.zeros(45 * RATE, np.float32)]
    assert model.transcribe(whisper, minute, {}, "")
    with pytest.raises(UserError, match="0 of 2 windows .* 20 tokens .* 0 steps: faster than"):
        model.transcribe(whisper, minute, {}, "")


def test_each_window_is_encoded_even_where_two_are_equal(ours):
    before = ours.work()
    transcribe(ours, np.zeros(60 * RATE, np.float32), language="en")
    assert ours.work()[0] - before[0] == 2


def task_of(
    options: dict, settings: dict, count: int = 1, is_multilingual=True, seconds=1
) -> tuple:
    import audio_input
    import model

    whisper = types.SimpleNamespace(is_multilingual=is_multilingual)
    options = {"language": None, "task": "transcribe", "beam_size": None, **options}
    times = {"word_timestamps": False, "without_timestamps": False}
    options = {"temperature": model.FALLBACK_TEMPERATURES, **times, **options}
    settings = types.SimpleNamespace(
        options=options,
        **{"device": "CPU", "batch_size": 1, "num_streams": 1, "chunked": False, **settings},
    )
    loaded = types.SimpleNamespace(whisper=whisper, model={}, placement={})
    samples = np.zeros(round(seconds * RATE), np.float32)
    recording = audio_input.Recording(MODEL / "dims.json", samples)
    job = model.Job(settings, loaded, {}, [recording] * count, [])
    made = model.record_arguments(job, [{"language": "en"}])
    return made["task"], made["configuration"]


def test_options_without_effect_do_not_make_it_other_work():
    warm = {"temperature": 0.5}
    assert task_of(warm, {}) == task_of({**warm, "beam_size": 5}, {})  # it samples
    assert task_of({}, {}) != task_of({"beam_size": 5}, {})
    assert task_of({"temperature": 0.0}, {}) != task_of({"temperature": 0.0, "beam_size": 5}, {})
    english = {"language": "en"}
    assert task_of({}, {}) != task_of(english, {})  # it is detected
    assert task_of({}, {}, 1, False) == task_of(english, {}, 1, False)
    assert task_of({}, {}) == task_of({}, {"batch_size": 8})  # there is one file
    assert task_of({}, {}, 4) != task_of({}, {"batch_size": 8}, 4)
    assert task_of({}, {"batch_size": 4}, 4) == task_of({}, {"batch_size": 8}, 4)
    assert task_of({}, {"batch_size": 2, "num_streams": 2}, 4) == task_of(
        {}, {"batch_size": 8, "num_streams": 2}, 4
    )


def test_text_without_timestamps_is_other_and_less_work(ours, audio, clip):
    timed, text_only = task_of({}, {})[0], task_of({"without_timestamps": True}, {})[0]
    assert timed["without timestamps"] is None
    assert text_only == {**timed, "without timestamps": True}
    work = [ours.work()]
    for options in ({}, {"without_timestamps": True}):
        result = transcribe(ours, clip, temperature=0, language="en", **options)
        work.append(ours.work())
        assert result["text"].count("pharmacy") == 1
    (timed_windows, timed_steps), (windows, steps) = np.diff(work, axis=0)
    assert windows == 1 <= timed_windows and 0 < steps < timed_steps
    done = audio.infer("--without_timestamps", "--word_timestamps")
    assert done.returncode == 2 and "--word_timestamps finds what" in done.stderr


def test_a_file_cut_into_pieces_is_other_work_and_its_pieces_are_what_is_batched():
    whole, pieces = task_of({}, {}, seconds=300), task_of({}, {"chunked": True}, seconds=300)
    assert "chunked" not in {key for key, value in whole[0].items() if value is not None}
    assert pieces[0] == {**whole[0], "chunked": True}
    _, configuration = task_of({}, {"chunked": True, "batch_size": 8}, seconds=300)
    assert configuration["batch size"] == 8
    _, configuration = task_of({}, {"chunked": True, "batch_size": 8}, seconds=50)
    assert configuration["batch size"] == 2


def test_more_threads_than_the_machine_could_use_are_one_line_of_error(audio, refused, monkeypatch):
    done = audio.infer("--threads", 1_000_000, *ONCE)
    assert_one_line(done, "--threads 1000000 is too many: this machine has")
    done = audio.infer("--threads", 99999999999999, *ONCE)
    assert done.returncode == 2 and "--threads: must be a whole number from 1 to" in done.stderr
    done = audio.infer(*ONCE, env={"OMP_NUM_THREADS": "many"})
    assert_one_line(done, "OMP_NUM_THREADS")
    for threads in ("0", "many", "9" * 5000):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        assert "OMP_NUM_THREADS" in refused()


def test_the_stamp_is_read_where_it_lies():
    assert model_files.read_stamp(MODEL)["model_name"] == "base"


def test_a_cut_recording_is_measured_and_its_record_says_so(audio, speech, tmp_path):
    path = write_wav(tmp_path / "cut.wav", speech[: 6 * RATE])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    run, printed = audio.measure("--audio", path, *ONCE)
    assert any("cut.wav is cut or damaged" in warning for warning in run["warnings"])
    assert "warning: cut.wav is cut or damaged" in printed


def test_in_bf16_the_decoder_reads_16_bits_of_cross_attention_and_computes_the_same(monkeypatch):
    import openvino as ov
    import torch
    import whisper_openvino

    core, logits = ov.Core(), []
    if "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU does not compute in bf16")
    mel = torch.from_numpy(np.random.default_rng(0).standard_normal((80, 3000), np.float32))
    prompt = np.array([[50258, 50259, 50359, 50363]])
    for expected in (ov.Type.bf16, ov.Type.f32):
        config = {"INFERENCE_PRECISION_HINT": "bf16"}
        whisper = whisper_openvino.OpenVINOWhisper(core, MODEL, "CPU", config, True)
        assert whisper.cross_type == expected
        (stream,) = whisper.streams
        (slot,) = stream.slots
        stored = stream._cross["cross_key.0"]
        assert stored.nbytes == (2 if expected == ov.Type.bf16 else 4) * stored.size
        stream.encode(slot, mel)
        stream.begin(stream.decoder, [slot])
        step = stream.step(stream.decoder, prompt, padding=np.zeros(1, np.int64)).copy()
        logits.append([step, *stream.align(slot, mel, prompt)])
        monkeypatch.setattr(
            whisper_openvino.openvino_setup, "computed_in", lambda *args: ov.Type.f32
        )
    for narrow, wide in zip(*logits):
        assert np.array_equal(narrow, wide)
