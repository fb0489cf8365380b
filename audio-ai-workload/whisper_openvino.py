"""A Whisper model whose encoder and decoder run on OpenVINO, for openai-whisper's own transcribe() and decode()."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import whisper
from whisper.decoding import DecodingOptions, DecodingTask, Inference
from whisper.model import ModelDimensions

from split_model import build_aligner, cross_names

ENCODER, DECODER, DIMS = "whisper_encoder.xml", "whisper_decoder.xml", "dims.json"
ALIGNMENT_HEADS = "alignment_heads"  # in DIMS
FRAMES_AT_ONCE = 6000  # of a spectrogram: a minute
_NO_CACHE = SimpleNamespace(key=None, value=None)


class OpenVINOWhisper:
    """What openai-whisper expects of a model, over two compiled OpenVINO models; no PyTorch weights are needed.

    Parameters
    ----------
    core : openvino.Core
    folder : made by export.py.
    device, config : as for Core.compile_model.
    word_timestamps : compile a third model, of the decoder's weights, which transcribe() with word_timestamps needs.

    Raises ValueError where that is asked of a folder which does not tell the alignment heads.
    """

    device = torch.device("cpu")  # where the tensors between the two models live

    def __init__(self, core, folder: Path, device: str, config: dict, word_timestamps: bool = False):
        dims = json.loads((folder / DIMS).read_text())
        heads = dims.pop(ALIGNMENT_HEADS, None)
        self.dims = ModelDimensions(**dims)
        self.compiled_encoder = core.compile_model(folder / ENCODER, device, config)
        self.compiled_decoder = core.compile_model(folder / DECODER, device, config)
        self._encoder = self.compiled_encoder.create_infer_request()
        self._decoder = self.compiled_decoder.create_infer_request()
        self._mel = self._features = self._content_frames = self._progress = None
        self.compiled_aligner = self._aligner = None
        if word_timestamps:
            if not heads:
                raise ValueError(f"{DIMS} does not tell the alignment heads, which word timestamps are read from")
            self.compiled_aligner = core.compile_model(build_aligner(core.read_model(folder / DECODER), heads), device, config)
            self._aligner = self.compiled_aligner.create_infer_request()
        # openai-whisper's find_alignment() hooks onto each layer's cross-attention and picks the alignment heads. Here one
        # layer is made out, whose heads are just those. (DecodingTask looks for keys and values to hook a cache on.)
        self._attention = _Hooked()
        self.decoder = SimpleNamespace(blocks=[SimpleNamespace(cross_attn=self._attention, attn=_NO_CACHE)])
        self.alignment_heads = torch.eye(1, len(heads or ())).fill_(1).to_sparse()

    @property
    def compiled(self) -> dict:
        """The compiled models by name, the decoder first."""
        named = {"decoder": self.compiled_decoder, "encoder": self.compiled_encoder, "aligner": self.compiled_aligner}
        return {name: model for name, model in named.items() if model is not None}

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
                if self._aligner:
                    self._aligner.set_tensor(name, self._encoder.get_tensor(name))
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
    def __call__(self, mel: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Logits float32 [1, T, n_vocab] of all of a window's tokens, int64 [1, T]. Whoever hooked onto the cross-attention
        is told the alignment heads' attention before the softmax, float32 [1, alignment heads, T, n_audio_ctx]."""
        self.encoder(mel)
        self._aligner.reset_state()
        self._aligner.infer({"tokens": tokens.numpy(), "beam_idx": np.zeros(1, np.int32)}, share_inputs=True)
        self._attention.tell(torch.from_numpy(self._aligner.get_tensor("attention").data))
        return torch.from_numpy(self._aligner.get_tensor("logits").data)

    @torch.no_grad()
    def decode(self, mel: torch.Tensor, options: DecodingOptions = DecodingOptions(), **kwargs):
        """openai-whisper's decode() of one window, mel [n_mels, 2 * n_audio_ctx]."""
        if self._progress and (frame := mel.storage_offset()):  # a whole window is a view into the spectrogram
            self._progress(frame * whisper.audio.HOP_LENGTH / whisper.audio.SAMPLE_RATE)
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

    def transcribe(self, audio: np.ndarray, progress: Callable[[float], None] | None = None, **options) -> dict:
        """openai-whisper's transcribe() of float32 samples at 16 kHz, of any length.

        `progress` is called with the seconds of audio done, before each window of 30 s but the first.
        """
        self._content_frames, self._progress = len(audio) // whisper.audio.HOP_LENGTH, progress
        with _in_place_of_openai_whispers(log_mel_spectrogram=log_mel_spectrogram):
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


def log_mel_spectrogram(audio: np.ndarray, n_mels: int, padding: int) -> torch.Tensor:
    """openai-whisper's log_mel_spectrogram(), a minute at a time: of an hour it would hold gigabytes of spectrum.

    Parameters
    ----------
    audio : float32 [n] at 16 kHz.
    n_mels : 80 or 128.
    padding : zeros to be added after the end.

    Returns
    -------
    float32 [n_mels, (n + padding) // HOP_LENGTH]
    """
    hop, width = whisper.audio.HOP_LENGTH, whisper.audio.N_FFT
    samples = torch.from_numpy(audio)
    n_frames = (len(audio) + padding) // hop
    window, filters = torch.hann_window(width), whisper.audio.mel_filters("cpu", n_mels)
    mel = torch.empty(n_mels, n_frames)
    for first in range(0, n_frames, FRAMES_AT_ONCE):
        last = min(first + FRAMES_AT_ONCE, n_frames)
        # Frame i is centred on sample i * hop; what lies before the first sample mirrors what lies after it.
        begin, end = first * hop - width // 2, (last - 1) * hop + width // 2
        piece = samples[max(begin, 0) : end]
        piece = torch.nn.functional.pad(piece, (0, end - max(begin, 0) - len(piece)))
        if begin < 0:
            piece = torch.cat([piece[1 : 1 - begin].flip(0), piece])
        spectrum = torch.stft(piece, width, hop, window=window, center=False, return_complex=True)
        torch.matmul(filters, spectrum.abs() ** 2, out=mel[:, first:last])
    mel.clamp_(min=1e-10).log10_()
    torch.maximum(mel, mel.max() - 8.0, out=mel)
    return mel.add_(4.0).div_(4.0)


@contextmanager
def _in_place_of_openai_whispers(**others) -> Iterator[None]:
    """Let whisper.transcribe (the module, which its function of that name hides) find these instead of its own."""
    module = sys.modules["whisper.transcribe"]
    own = {name: getattr(module, name) for name in others}
    vars(module).update(others)
    try:
        yield
    finally:
        vars(module).update(own)


class _Hooked:
    """A layer of cross-attention as find_alignment() sees it: something to hook onto."""

    def __init__(self):
        self._hook = None

    def register_forward_hook(self, hook) -> _Hooked:
        self._hook = hook
        return self

    def remove(self) -> None:
        self._hook = None

    def tell(self, attention: torch.Tensor) -> None:
        if self._hook:
            self._hook(self, (), (None, attention))
