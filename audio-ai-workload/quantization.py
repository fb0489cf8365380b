"""Make an exported Whisper int8: the encoder's weights and activations, the decoder's weights.

The encoder is large matrix products, which a CPU with 8-bit instructions computes faster in them. A
step of the decoder reads all its weights for one token or a few: there their size counts.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import audio_input
import error_rates
import model
import numpy as np
from audio_input import SAMPLE_RATE, Recording
from error_rates import Reference

from harness.openvino_setup import Placement

STEP_S = 10.0  # from one window of a recording to the next
LONGEST_S = 30.0
# Each window as it is, quieter, noisy, and spoken slower by a deeper voice: gain, RMS of the noise
# relative to that of the window, samples per sample.
VARIANTS = ((1.0, 0.0, 1.0), (0.1, 0.0, 1.0), (1.0, 0.1, 1.0), (1.0, 0.0, 1.25))
# Of SmoothQuant. NNCF's 0.95 makes the range of a channel that was quiet while calibrating so small
# that other speech exceeds it by a factor of thousands.
SMOOTHING = 0.5


def calibration_windows(
    recordings: Sequence[Recording], n_mels: int, most: int
) -> list[np.ndarray]:
    """Log-mel spectrograms as the encoder takes them, float32 [1, n_mels, 3000].

    They are of windows of 30 s, or what a recording has from there on, in VARIANTS; at most `most`,
    picked at random.
    """
    import whisper
    from whisper_openvino import log_mel_spectrogram

    places = [
        (recording.samples, round(begin_s * SAMPLE_RATE), variant)
        for recording in recordings
        for begin_s in np.arange(0, audio_input.seconds(recording.samples), STEP_S)
        for variant in VARIANTS
    ]
    random, windows = np.random.default_rng(0), []
    for index in sorted(random.permutation(len(places))[:most]):
        samples, begin, (gain, noise, stretch) = places[index]
        heard = samples[begin : begin + round(LONGEST_S / stretch * SAMPLE_RATE)]
        heard = np.interp(np.arange(0, len(heard) - 1, 1 / stretch), np.arange(len(heard)), heard)
        heard += random.normal(0, noise * np.sqrt(np.square(heard).mean()), len(heard))
        mel = log_mel_spectrogram((gain * heard).astype(np.float32), n_mels, 0)
        windows.append(whisper.pad_or_trim(mel, model.WINDOW_HOPS)[None].numpy())
    return windows


def quantize_encoder(network, windows: Sequence[np.ndarray]):
    """The encoder with weights and activations in 8 bits (post-training quantization)."""
    import nncf
    from nncf.quantization import advanced_parameters as advanced

    nncf.set_log_level("ERROR")
    smoothing = advanced.AdvancedSmoothQuantParameters(matmul=SMOOTHING)
    return nncf.quantize(
        network,
        nncf.Dataset(windows),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(windows),
        advanced_parameters=advanced.AdvancedQuantizationParameters(smooth_quant_alphas=smoothing),
    )


def compress_weights(network):
    """Weights in 8 bits, with a scale and a zero point for each row; nothing else is changed."""
    import nncf

    nncf.set_log_level("ERROR")
    return nncf.compress_weights(network, mode=nncf.CompressWeightsMode.INT8_ASYM)


def quantize(folder: Path, windows: Sequence[np.ndarray]) -> None:
    """Make the models in this folder int8, the encoder calibrated on these windows."""
    import openvino as ov
    from whisper_openvino import DECODER, ENCODER

    core = ov.Core()
    encoder = quantize_encoder(core.read_model(folder / ENCODER), windows)
    decoder = compress_weights(core.read_model(folder / DECODER))
    for name, network in ((ENCODER, encoder), (DECODER, decoder)):
        made = folder / f"quantized_{name}"  # the float model's weights are still being read
        ov.save_model(network, made, compress_to_fp16=True)
        for suffix in (".xml", ".bin"):
            os.replace(made.with_suffix(suffix), (folder / name).with_suffix(suffix))


def word_error_rate(
    folder: Path,
    precision: str,
    recordings: Sequence[Recording],
    references: Sequence[Reference],
) -> float:
    """Of the model in this folder, as infer.py transcribes without options but --precision."""
    import torch

    placement = Placement(tuple(sorted(os.sched_getaffinity(0))), None, None, precision)
    options = {"language": None, "task": "transcribe", "word_timestamps": False}
    settings = model.Settings(None, folder, "CPU", {}, placement, 1, 1, options)
    whisper = model.load(settings).whisper
    torch.manual_seed(0)  # for temperatures above 0
    audio = [recording.samples for recording in recordings]
    done = model.transcribe(whisper, audio, options, "transcribing")
    files = [model.describe(each.result) for each in done]
    return error_rates.score(files, references, "transcribe")["word_error_rate"][0][0]
