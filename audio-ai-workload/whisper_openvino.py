"""A Whisper model whose encoder and decoder run on OpenVINO, for openai-whisper's own transcribe() and decode()."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import whisper
from whisper.decoding import DecodingOptions, DecodingTask, Inference
from whisper.model import ModelDimensions

from split_model import cross_names

ENCODER, DECODER, DIMS = "whisper_encoder.xml", "whisper_decoder.xml", "dims.json"


class OpenVINOWhisper:
    """What openai-whisper expects of a model, over two compiled OpenVINO models; no PyTorch weights are needed.

    Parameters
    ----------
    core : openvino.Core
    folder : made by export.py.
    device, config : as for Core.compile_model.
    """

    device = torch.device("cpu")  # where the tensors between the two models live

    def __init__(self, core, folder: Path, device: str, config: dict):
        self.dims = ModelDimensions(**json.loads((folder / DIMS).read_text()))
        self.compiled_encoder = core.compile_model(folder / ENCODER, device, config)
        self.compiled_decoder = core.compile_model(folder / DECODER, device, config)
        self._encoder = self.compiled_encoder.create_infer_request()
        self._decoder = self.compiled_decoder.create_infer_request()
        self._mel = self._features = self._content_frames = None
        self.decoder = _NoBlocks()

    @property
    def is_multilingual(self) -> bool:
        return self.dims.n_vocab >= 51865

    @property
    def num_languages(self) -> int:
        return self.dims.n_vocab - 51765 - int(self.is_multilingual)

    @torch.no_grad()
    def encoder(self, mel: torch.Tensor) -> torch.Tensor:
        """Audio features float32 [W, n_audio_ctx, n_audio_state] of a mel spectrogram [W, n_mels, 2 * n_audio_ctx].

        Asked again for the window it encoded last, as transcribe() does after detecting the language and for every
        temperature it falls back to, it answers from memory.
        """
        if self._mel is None or not torch.equal(mel, self._mel):
            self._encoder.infer({"mel": mel.numpy()}, share_inputs=True)
            self._mel = mel.clone()
            self._features = torch.from_numpy(self._encoder.get_tensor("audio_features").data)
            for name in cross_names(self.dims.n_text_layer):
                self._decoder.set_tensor(name, self._encoder.get_tensor(name))
        return self._features

    def forget(self) -> None:
        """Drop the window in memory, so that transcribing the same audio again does all of the work again."""
        self._mel = None

    def start(self) -> None:
        """Forget the sequences decoded so far."""
        self._decoder.reset_state()

    def step(self, tokens: torch.Tensor, beam_idx: np.ndarray, audio_features: torch.Tensor) -> torch.Tensor:
        """Logits float32 [N, T, n_vocab] of the next T tokens, int64 [N, T], of each sequence.

        Parameters
        ----------
        beam_idx : int32 [N]; sequence i goes on from what sequence beam_idx[i] was.
        audio_features : what encoder() returned last.
        """
        if audio_features.data_ptr() != self._features.data_ptr():
            raise ValueError("only the window that was encoded last can be decoded")
        self._decoder.infer({"tokens": tokens.contiguous().numpy(), "beam_idx": beam_idx}, share_inputs=True)
        return torch.from_numpy(self._decoder.get_tensor("logits").data)

    def logits(self, tokens: torch.Tensor, audio_features: torch.Tensor) -> torch.Tensor:
        self.start()
        return self.step(tokens, np.arange(len(tokens), dtype=np.int32), audio_features)

    @torch.no_grad()
    def decode(self, mel: torch.Tensor, options: DecodingOptions = DecodingOptions(), **kwargs):
        """openai-whisper's decode() of one window, mel [n_mels, 2 * n_audio_ctx]."""
        task = DecodingTask(self, options)
        task.inference = OpenVINOInference(self, len(task.initial_tokens))
        if hasattr(task.decoder, "inference"):  # beam search reorders the cache through it
            task.decoder.inference = task.inference
        return task.run(mel.unsqueeze(0))[0]

    def detect_language(self, mel: torch.Tensor, tokenizer=None):
        """openai-whisper's detect_language(), on the first window just as it will be decoded, so that it is encoded once.

        transcribe() hands in the window with the spectrogram of silence after the audio's end; for decoding it pads with
        zeros.
        """
        if mel.ndim == 2:
            mel = whisper.pad_or_trim(mel[:, : self._content_frames], 2 * self.dims.n_audio_ctx)
        return whisper.decoding.detect_language(self, mel, tokenizer)

    def transcribe(self, audio: np.ndarray, **options) -> dict:
        """openai-whisper's transcribe() of float32 samples at 16 kHz, of any length."""
        self._content_frames = len(audio) // whisper.audio.HOP_LENGTH
        return whisper.transcribe(self, audio, fp16=False, **options)


class OpenVINOInference(Inference):
    """One window's decoding steps, in the terms of openai-whisper's DecodingTask."""

    def __init__(self, model: OpenVINOWhisper, initial_token_length: int):
        self.model, self.initial_token_length = model, initial_token_length
        self.beam_idx = None

    def logits(self, tokens: torch.Tensor, audio_features: torch.Tensor) -> torch.Tensor:
        if tokens.shape[-1] > self.initial_token_length:
            tokens = tokens[:, -1:]
        else:
            self.model.start()
        beam_idx = np.arange(len(tokens), dtype=np.int32) if self.beam_idx is None else self.beam_idx
        self.beam_idx = None
        return self.model.step(tokens, beam_idx, audio_features)

    def rearrange_kv_cache(self, source_indices) -> None:
        self.beam_idx = np.array(source_indices, dtype=np.int32)


class _NoBlocks:
    """DecodingTask looks for PyTorch layers to hook its own cache on; there are none."""

    blocks = ()
