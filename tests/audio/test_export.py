"""Exporting Whisper: every size of the family, weights in 8 bits, names and mistakes."""

import sys

import numpy as np
import pytest
from audio_media import CLIP_TEXT, FOLDER, MODEL, ONCE, RATE, at_f32, same_transcript, write_wav
from conftest import Evil, assert_one_line


def random_checkpoint(path, **dims):
    """An openai-whisper checkpoint of a few small layers, the rest as in the family.

    Its weights mean nothing.
    """
    import torch
    from whisper.model import ModelDimensions, Whisper

    torch.manual_seed(1)
    shape = ModelDimensions(
        **{
            "n_mels": 80,
            "n_audio_ctx": 1500,
            "n_audio_state": 64,
            "n_audio_head": 2,
            "n_audio_layer": 3,
            "n_vocab": 51865,
            "n_text_ctx": 448,
            "n_text_state": 64,
            "n_text_head": 2,
            "n_text_layer": 2,
            **dims,
        }
    )
    model = Whisper(shape)
    with torch.no_grad():
        model.decoder.positional_embedding.normal_()  # openai-whisper leaves it as memory had it
    torch.save({"dims": vars(shape), "model_state_dict": model.state_dict()}, path)
    return path


# large-v3 and large-v3-turbo have 128 mel bins, one language more, and, in turbo, fewer layers of
# decoder than of encoder.
@pytest.mark.parametrize(
    "dims",
    [{"n_mels": 128, "n_vocab": 51866}, {"n_vocab": 51864}],
    ids=["large-v3", "english only"],
)
def test_other_sizes_of_the_family_transcribe_as_by_openai_whisper(clip, tmp_path, dims):
    import export
    import whisper

    theirs = whisper.load_model(
        str(random_checkpoint(tmp_path / "random.pt", **dims)), device="cpu"
    )
    export.export(theirs, tmp_path, "fp32")
    endless = {
        "no_speech_threshold": None,
        "logprob_threshold": None,
        "compression_ratio_threshold": None,
        "sample_len": 16,
    }
    result = same_transcript((at_f32(tmp_path), theirs), clip, temperature=0, **endless)
    assert result["segments"]


def test_int8_weights_are_half_as_large_and_transcribe_as_well(audio, clip_file, tmp_path):
    options = "--checkpoint models/base.pt --weight_format int8 --output".split()
    done = audio.run("export.py", *options, tmp_path / "model", fresh=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr  # libraries are quiet
    command = f"python3 infer.py --model_name base --ovmodel_path {tmp_path / 'model'}"
    assert done.stdout.splitlines()[1:] == [f"Next: {command}"]
    options = "--audio", clip_file, "--reference", clip_file.with_suffix(".txt")
    options += "--precision", "int8", "--word_timestamps", *ONCE
    run, _ = audio.measure("--ovmodel_path", tmp_path / "model", *options)
    assert run["model"]["weight_format"] == "int8"
    assert run["model"]["export"]["packages"]["nncf"] == "3.4.0"
    assert run["model"]["bytes"] < 0.6 * sum(path.stat().st_size for path in MODEL.glob("*.bin"))
    assert run["metrics"]["word_error_rate"]["median"] <= 0.02
    assert run["output"]["segments"][0]["words"][0]["word"] == " Good"


@pytest.mark.long
def test_int8_activations_are_scored_recorded_and_faster(audio, clip_file, tmp_path):
    folder = tmp_path / "model"
    command = "export.py --checkpoint models/base.pt --precision int8 --calibration_windows 4"
    command = *command.split(), "--output", folder
    done = audio.run(*command)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    rates, made, following = done.stdout.splitlines()  # nothing that the libraries print
    assert rates == "Word error rate: 0.00% before quantization, 0.00% after"
    assert "int8 activations in the encoder, calibrated on sample.mp3" in made
    assert following == f"Next: python3 infer.py --model_name base --ovmodel_path {folder}"

    how = "--audio", clip_file, "--reference", clip_file.with_suffix(".txt")
    how += "--precision", "int8", "--word_timestamps", *ONCE
    run, printed = audio.measure("--ovmodel_path", folder, *how)
    assert run["metrics"]["word_error_rate"]["median"] == 0
    assert run["output"]["segments"][0]["words"][0]["word"] == " Good"
    exported = run["model"]["export"]
    assert exported["precision"] == "int8" and exported["calibration"] == "sample.mp3"
    assert exported["results"] == {"word_error_rate": {"before": 0, "after": 0}}
    assert run["model"]["weight_format"] == "int8"
    assert run["placement"]["precision_effective"] == run["comparable_by"]["precision"] == "int8"
    layers = run["placement"]["executed_precisions"]["encoder"]
    assert layers.get("i8", 0) + layers.get("u8", 0) == sum(layers.values())
    assert "precision int8 in 50 of 50 compute layers of the encoder, " in printed
    assert encoder_time_s(folder) < 0.8 * encoder_time_s(MODEL)

    again = audio.run(*command)
    assert "exported already" in again.stdout and again.stdout.splitlines()[-1] == following


def encoder_time_s(folder) -> float:
    """CPU time of one window, at f32 where it is not int8; the least of a few."""
    import time

    import openvino as ov

    compiled = ov.Core().compile_model(
        folder / "whisper_encoder.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    times_s = []
    for _ in range(3):
        began_s = time.process_time()
        compiled(np.zeros((1, 80, 3000), np.float32))
        times_s.append(time.process_time() - began_s)
    return min(times_s)


def test_an_int8_model_that_lost_too_much_is_refused_with_the_figure(audio, clip, tmp_path):
    recording = write_wav(tmp_path / "clip.wav", np.pad(clip, (0, 21 * RATE - len(clip))))
    recording.with_suffix(".txt").write_text(CLIP_TEXT)
    options = "--calibration", recording, "--reference", recording.with_suffix(".txt")
    # The only window that is picked is the last second: nothing to calibrate on.
    command = "export.py --checkpoint models/base.pt --precision int8 --calibration_windows 1"
    folder = tmp_path / "model"
    done = audio.run(*command.split(), *options, "--output", folder)
    assert_one_line(done, "points to a word error rate of 0.0 %", "--calibration", "--max_wer_loss")
    assert not folder.exists() and not list(tmp_path.glob("*.partial*"))


def test_mistakes_of_quantization_end_it_before_the_work(audio, tmp_path):
    def export(*options):
        command = "export.py --checkpoint models/base.pt --precision int8 --output".split()
        return audio.run(*command, tmp_path / "out", *options)

    assert_one_line(export("--calibration", tmp_path / "no.mp3"), "no audio file", "--calibration")
    assert_one_line(export("--reference", tmp_path / "no.txt"), "no.txt", "--reference")
    done = export("--weight_format", "fp16")
    assert done.returncode == 2 and "--precision int8 stores int8 weights" in done.stderr


def test_what_was_exported_already_is_kept(audio):
    done = audio.run("export.py", "--checkpoint", "models/base.pt")
    assert "exported already" in done.stdout and "Next: python3 infer.py" in done.stdout


def test_another_format_does_not_replace_the_model_that_runs_measure(audio):
    before = (MODEL / "whisper_decoder.bin").stat()
    command = ("export.py", "--checkpoint", "models/base.pt", "--weight_format", "int8")
    done = audio.run(*command, "--output", MODEL)
    assert_one_line(done, "holds base.pt (weight_format fp16)", "--overwrite")
    assert (MODEL / "whisper_decoder.bin").stat() == before


def test_measuring_does_not_load_nncf():
    import subprocess

    code = "import sys, infer, whisper_openvino, accuracy, capacity; print('nncf' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=FOLDER, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    "given, name, output",
    [
        ((), "base", "whisper-base-ov-model"),
        (("--model_name", "large-v3-turbo"), "large-v3-turbo", "whisper-large-v3-turbo-ov-model"),
        (("--checkpoint", "models/small.en.pt"), "small.en", "whisper-small.en-ov-model"),
        (("--weight_format", "int8"), "base", "whisper-base-int8-ov-model"),
        (("--weight_format", "fp32"), "base", "whisper-base-fp32-ov-model"),
        (("--precision", "int8"), "base", "whisper-base-int8-activations-ov-model"),
    ],
)
def test_the_folder_is_named_after_the_model_and_its_format(monkeypatch, given, name, output):
    import export

    monkeypatch.setattr(sys, "argv", ["export.py", *given])
    args = export.parse_args()
    assert args.model_name == name
    made = export.default_output(args)
    assert made.absolute() == FOLDER / output  # wherever it is run


@pytest.mark.parametrize("is_zip", [True, False])
def test_code_in_a_checkpoint_is_not_run(audio, tmp_path, is_zip):
    import torch

    ran, path = tmp_path / "ran", tmp_path / "x.pt"
    torch.save({"dims": Evil(ran)}, path, _use_new_zipfile_serialization=is_zip)
    done = audio.run("export.py", "--checkpoint", path, "--output", tmp_path / "out")
    assert_one_line(done, "x.pt holds posix.system, which could run any code")
    assert not ran.exists() and not (tmp_path / "out").exists()


def test_a_checkpoint_has_the_alignment_heads_of_the_model_it_is_named_after(monkeypatch, tmp_path):
    import export
    import whisper

    def heads(*given):
        monkeypatch.setattr(sys, "argv", ["export.py", *map(str, given)])
        args = export.parse_args()
        return export.load(args.model_name, args.checkpoint).alignment_heads.indices().T.tolist()

    base, other = FOLDER / "models" / "base.pt", random_checkpoint(tmp_path / "base.pt")
    published = whisper.load_model(str(base), device="cpu")
    published.set_alignment_heads(whisper._ALIGNMENT_HEADS["base"])
    assert heads("--checkpoint", base) == published.alignment_heads.indices().T.tolist()
    assert heads("--checkpoint", other) == [
        [1, 0],
        [1, 1],
    ]  # not of base's shape: the upper half of the layers
    assert heads("--checkpoint", base, "--model_name", "mine") == [
        [layer, head] for layer in (3, 4, 5) for head in range(8)
    ]


def test_a_checkpoint_that_is_none_is_one_line_of_error(audio, tmp_path):
    (tmp_path / "x.pt").write_bytes(b"no checkpoint")
    assert_one_line(
        audio.run("export.py", "--checkpoint", tmp_path / "x.pt", "--output", tmp_path / "out"),
        "x.pt",
    )
    assert_one_line(audio.run("export.py", "--checkpoint", tmp_path / "no.pt"), "no checkpoint")
    assert_one_line(
        audio.run("export.py", "--model_name", "enormous", "--output", tmp_path / "out"), "enormous"
    )
    assert not (tmp_path / "out").exists()
