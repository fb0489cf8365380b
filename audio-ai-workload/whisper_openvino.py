"""Whisper on OpenVINO for openai-whisper's own transcribe(): one file, or several at a time.

A Stream has the requests that the windows of one batch of files are computed with. A Slot is one
file's place in it, and what transcribe() takes for its model. Each file is transcribed in a thread
of its own, but what a thread requests of its slot waits until all other slots in use of the stream
have requested something too. Then one thread does it for all: windows are encoded one by one, and
decoded together.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import TypeVar

import numpy as np
import openvino as ov
import torch
import whisper
from decoding import WindowsTask
from split_model import build_aligner, cross_names, store_cross
from whisper.decoding import DecodingOptions
from whisper.model import ModelDimensions

from harness import openvino_setup

ENCODER, DECODER, DIMS = "whisper_encoder.xml", "whisper_decoder.xml", "dims.json"
ALIGNMENT_HEADS = "alignment_heads"  # in DIMS
FRAMES_AT_ONCE = 6000  # of a spectrogram: a minute
T = TypeVar("T")
_NO_CACHE = SimpleNamespace(key=None, value=None)


@dataclass(frozen=True)
class Transcription:
    result: dict  # openai-whisper's
    began_s: float  # by time.perf_counter()
    ended_s: float

    @property
    def time_s(self) -> float:
        """From beginning with this file to its end, others' windows in between."""
        return self.ended_s - self.began_s


class OpenVINOWhisper:
    """The compiled models, and the streams that use them; no PyTorch weights are needed.

    Parameters
    ----------
    folder : Path, made by export.py.
    core, device, config : as for Core.compile_model; `config` must allow for `num_streams`.
    word_timestamps : compile a third model, of the decoder's weights, for word timestamps.
    batch_size : files whose windows are decoded together.
    num_streams : such batches at a time.

    Raises ValueError where `word_timestamps` are requested of a folder without alignment heads.
    """

    def __init__(
        self, core, folder, device, config, word_timestamps=False, batch_size=1, num_streams=1
    ):
        dims = json.loads((folder / DIMS).read_text())
        self.alignment_heads = dims.pop(ALIGNMENT_HEADS, None)  # [layer, head] of each
        self.dims = ModelDimensions(**dims)
        self.is_multilingual = self.dims.n_vocab >= 51865
        self.num_languages = self.dims.n_vocab - 51765 - int(self.is_multilingual)
        if word_timestamps and not self.alignment_heads:
            raise ValueError(f"{DIMS} lacks the alignment heads that word timestamps need")
        # The encoder first: its precision is the record's.
        models = {"encoder": core.read_model(folder / ENCODER)}
        models["decoder"] = core.read_model(folder / DECODER)
        if word_timestamps:
            models["aligner"] = build_aligner(models["decoder"].clone(), self.alignment_heads)
        self.cross_type = openvino_setup.computed_in(core, device, config)
        if self.cross_type != ov.Type.f32:
            for each in models.values():
                store_cross(each, self.cross_type)
        self.compiled = {
            name: core.compile_model(model, device, config) for name, model in models.items()
        }
        self.batch_size = batch_size
        self.streams = [Stream(self, batch_size) for _ in range(num_streams)]
        # One slot of each stream, then the next of each, so that few files use all streams.
        self.slots = [
            slot for row in zip(*(stream.slots for stream in self.streams)) for slot in row
        ]

    def work(self) -> tuple[int, int]:
        """Windows encoded and steps decoded so far, of all streams."""
        encoded, steps = zip(*((stream.encoded, stream.steps) for stream in self.streams))
        return sum(encoded), sum(steps)

    def transcribe_all(
        self,
        files: Sequence[np.ndarray],
        progress: Callable[[int, float], None],
        languages: Sequence[str] | None = None,
        **options,
    ) -> list[Transcription]:
        """openai-whisper's transcribe() of each file, float32 samples at 16 kHz of any length.

        `progress` is called, from several threads, with a file's index and the seconds of it that
        are done: before each window but the first, and at the end. `languages` are those of each
        file. Order and errors: see _for_each(). Nothing is remembered of earlier calls.
        """

        def transcribe(slot: Slot, index: int) -> Transcription:
            own = {**options, "language": languages[index]} if languages else options
            began_s = time.perf_counter()
            result = slot.transcribe(files[index], lambda done_s: progress(index, done_s), **own)
            ended_s = time.perf_counter()
            progress(index, len(files[index]) / whisper.audio.SAMPLE_RATE)
            return Transcription(result, began_s, ended_s)

        with spectrogram_by_the_minute():
            return self._for_each(files, transcribe)

    def detect_languages(self, files: Sequence[np.ndarray]) -> list[str]:
        """The language spoken in the first 30 s of each file, as transcribe() detects it."""
        if not self.is_multilingual:
            return ["en"] * len(files)
        return self._for_each(files, lambda slot, index: slot.language(files[index]))

    def _for_each(self, files: Sequence[np.ndarray], work: Callable[[Slot, int], T]) -> list[T]:
        """What `work` returns for each file: one file per slot at a time, the longest first.

        Raises what the first to fail raises, and KeyboardInterrupt, once the others have ended.
        """
        order = iter(sorted(range(len(files)), key=lambda index: -len(files[index])))
        done: dict[int, T] = {}
        errors: list[BaseException] = []

        def serve(slot: Slot) -> None:
            try:
                for index in order:  # which all threads share
                    if errors:
                        break
                    done[index] = work(slot, index)
            except BaseException as error:
                errors.append(error)
            finally:
                slot.stream.leave()

        slots = self.slots[: len(files)]
        for slot in slots:
            slot.stream.take()
        threads = [threading.Thread(target=serve, args=(each,), daemon=True) for each in slots[1:]]
        for thread in threads:
            thread.start()
        serve(slots[0])  # in the main thread, which receives Ctrl-C
        while any(thread.is_alive() for thread in threads):
            try:
                for thread in threads:
                    thread.join()
            except KeyboardInterrupt as error:
                errors.append(error)
        if errors:
            raise errors[0]
        return [done[index] for index in range(len(files))]


@contextmanager
def spectrogram_by_the_minute() -> Iterator[None]:
    """Let openai-whisper's transcribe() make its spectrogram by log_mel_spectrogram() below."""
    module = sys.modules["whisper.transcribe"]  # which its function of that name hides
    own, module.log_mel_spectrogram = module.log_mel_spectrogram, log_mel_spectrogram
    try:
        yield
    finally:
        module.log_mel_spectrogram = own


class Stream:
    """Decodes up to `batch_size` windows at a time, each of another file."""

    def __init__(self, model: OpenVINOWhisper, batch_size: int):
        self.model, dims = model, model.dims
        requests = {name: each.create_infer_request() for name, each in model.compiled.items()}
        self._encoder, self.decoder = requests["encoder"], requests["decoder"]
        self.aligner = requests.get("aligner")
        width = dims.n_text_state // dims.n_text_head
        shape = (batch_size, dims.n_text_head, dims.n_audio_ctx, width)
        # What the encoder makes of each slot's window, where the decoder reads it. NumPy lacks
        # bf16: what the bytes mean is said where OpenVINO gets them.
        stored = np.float32 if model.cross_type == ov.Type.f32 else np.uint16
        self._cross = {name: np.empty(shape, stored) for name in cross_names(dims.n_text_layer)}
        self.slots = [Slot(self, number) for number in range(batch_size)]
        self._turn = threading.Condition()
        self._taken = 0  # slots
        self.encoded, self.steps = 0, 0  # windows, and steps of the decoder
        self._requests: list[Request] = []

    def take(self) -> None:
        """One slot more is in use: from now on the others wait for what it requests."""
        with self._turn:
            self._taken += 1

    def leave(self) -> None:
        with self._turn:
            self._taken -= 1
            self._turn.notify_all()

    def run(self, request: Request):
        """Do this as soon as all slots in use have requested something; returns its result."""
        with self._turn:
            self._requests.append(request)
            while not request.done:
                if len(self._requests) >= self._taken:
                    self._run_all()
                    self._turn.notify_all()
                else:
                    self._turn.wait()
        if request.error:
            raise request.error
        return request.result

    def _run_all(self) -> None:
        requests, self._requests = self._requests, []
        try:
            groups: dict[str, list[Request]] = {}  # by the options that must be equal
            for request in requests:
                if request.options is None:
                    request.result = request.work()
                else:
                    self.encode(request.slot, request.mel)
                    key = str(replace(request.options, prompt=None, language=None))
                    groups.setdefault(key, []).append(request)
            for group in groups.values():
                self._decode(group)
        except BaseException as error:
            for request in requests:
                request.error = error
        for request in requests:
            request.done = True

    def _decode(self, group: Sequence[Request]) -> None:
        slots = [request.slot for request in group]
        options = [request.options for request in group]
        for request, result in zip(group, WindowsTask(self, slots, options).run_all()):
            request.result = result

    def encode(self, slot: Slot, mel: torch.Tensor) -> torch.Tensor:
        """Audio features float32 [1, n_audio_ctx, n_audio_state] of a mel spectrogram
        [n_mels, 2 * n_audio_ctx]; what the decoder needs of it goes to the slot's place.

        Nothing is computed for the window that the slot had last, as for every temperature that
        transcribe() falls back to and after detecting the language.
        """
        frame = mel.storage_offset()  # a whole window is a view into the spectrogram
        if slot.mel is None or frame != slot.frame or not torch.equal(mel, slot.mel):
            slot.mel = None
            for name, cross in self._cross.items():
                place = cross[slot.number : slot.number + 1]
                self._encoder.set_tensor(name, self._tensor(place))
            self._encoder.infer({"mel": mel[None].numpy()}, share_inputs=True, share_outputs=True)
            self.encoded += 1
            slot.mel, slot.frame = mel.clone(), frame
        return torch.from_numpy(self._encoder.get_tensor("audio_features").data)

    def begin(self, request, slots: Sequence[Slot]) -> None:
        """Run these slots' windows through `request`, decoder or aligner, from now on."""
        numbers = [slot.number for slot in slots]
        in_a_row = numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        rows = slice(numbers[0], numbers[-1] + 1) if in_a_row else numbers  # a list makes a copy
        # Kept, as OpenVINO does not keep them alive.
        self._picked = {name: cross[rows] for name, cross in self._cross.items()}
        for name, picked in self._picked.items():
            request.set_tensor(name, self._tensor(picked))
        request.reset_state()

    def _tensor(self, cross: np.ndarray) -> ov.Tensor:
        """Of this memory, which it does not keep alive."""
        return ov.Tensor(cross, ov.Shape(cross.shape), self.model.cross_type)

    def step(
        self, request, tokens: np.ndarray, beam_idx=None, padding=None, logits_at=None
    ) -> np.ndarray:
        """Logits float32 [N, L, n_vocab] of the next T tokens, int64 [N, T], of each sequence.

        Parameters
        ----------
        request : decoder or aligner.
        beam_idx : int32 [N]; sequence i continues what sequence beam_idx[i] was (default: itself).
        padding : int64 [N]; how many of each sequence's first tokens, in all, are none.
        logits_at : which of the T tokens (default: all).
        """
        n, t = tokens.shape
        inputs = {
            "tokens": tokens,
            "beam_idx": np.arange(n, dtype=np.int32) if beam_idx is None else beam_idx,
            "padding": np.zeros(n, np.int64) if padding is None else padding,
            "logits_at": np.arange(t) if logits_at is None else np.array(logits_at, np.int64),
        }
        request.infer(inputs, share_inputs=True, share_outputs=True)
        self.steps += request is self.decoder
        return request.get_tensor("logits").data

    def align(self, slot: Slot, mel: torch.Tensor, tokens: np.ndarray) -> tuple:
        """Logits float32 [1, T, n_vocab] of all of a window's tokens, int64 [1, T], and the
        alignment heads' attention before the softmax, float32 [1, heads, T, n_audio_ctx]."""
        self.encode(slot, mel)
        self.begin(self.aligner, [slot])
        # Copies, as another slot's turn may come before this one's thread reads them.
        logits = self.step(self.aligner, tokens).copy()
        return logits, self.aligner.get_tensor("attention").data.copy()


class Slot:
    """What openai-whisper's transcribe() expects of a model, for one file."""

    device = torch.device("cpu")

    def __init__(self, stream: Stream, number: int):
        self.stream, self.number, model = stream, number, stream.model
        self.dims, self.num_languages = model.dims, model.num_languages
        self.is_multilingual = model.is_multilingual
        self.mel, self.frame = None, 0  # the window encoded last, and where it begins
        self._content_frames, self._progress = 0, lambda done_s: None
        # openai-whisper's find_alignment() hooks onto each layer's cross-attention and picks the
        # alignment heads. Here it finds one layer, whose heads are just those. (DecodingTask looks
        # for keys and values to hook a cache on.)
        self._attention = torch.nn.Identity()
        block = SimpleNamespace(cross_attn=self._attention, attn=_NO_CACHE)
        self.decoder = SimpleNamespace(blocks=[block])
        self.alignment_heads = torch.ones(1, len(model.alignment_heads or ())).to_sparse()

    def transcribe(self, audio: np.ndarray, progress: Callable[[float], None], **options) -> dict:
        """See OpenVINOWhisper.transcribe_all(). The stream must have been taken for this slot."""
        self.mel = None
        self._content_frames, self._progress = len(audio) // whisper.audio.HOP_LENGTH, progress
        return whisper.transcribe(self, audio, fp16=False, **options)

    def language(self, audio: np.ndarray) -> str:
        """Of the first 30 s of a file. The stream must have been taken for this slot."""
        self.mel, self._content_frames = None, len(audio) // whisper.audio.HOP_LENGTH
        beginning = audio[: whisper.audio.N_SAMPLES]
        mel = log_mel_spectrogram(beginning, self.dims.n_mels, whisper.audio.N_SAMPLES)
        _, probabilities = self.detect_language(mel)
        return max(probabilities, key=probabilities.get)

    def decode(self, mel: torch.Tensor, options: DecodingOptions = DecodingOptions()):
        """openai-whisper's decode() of one window, mel [n_mels, 2 * n_audio_ctx]."""
        if frame := mel.storage_offset():  # a whole window is a view into the spectrogram
            self._progress(frame * whisper.audio.HOP_LENGTH / whisper.audio.SAMPLE_RATE)
        return self.stream.run(Request(self, mel, options))

    def detect_language(self, mel: torch.Tensor, tokenizer=None):
        """openai-whisper's, on the first window just as decoded, so that it is encoded once.

        transcribe() passes the window with the spectrogram of silence after the audio's end; for
        decoding it pads with zeros.
        """
        mel = whisper.pad_or_trim(mel[:, : self._content_frames], 2 * self.dims.n_audio_ctx)
        detect = whisper.decoding.detect_language
        return self.stream.run(Request(self, work=lambda: detect(self, mel, tokenizer)))

    def encoder(self, mel: torch.Tensor) -> torch.Tensor:
        """For detect_language()."""
        return self.stream.encode(self, mel[0])

    def logits(self, tokens: torch.Tensor, audio_features: torch.Tensor) -> torch.Tensor:
        """For detect_language(), right after encoder()."""
        self.stream.begin(self.stream.decoder, [self])
        return torch.from_numpy(self.stream.step(self.stream.decoder, tokens.numpy()))

    def __call__(self, mel: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Logits of a window's tokens; hooks on the cross-attention get its attention."""
        work = Request(self, work=lambda: self.stream.align(self, mel[0], tokens.numpy()))
        logits, attention = self.stream.run(work)
        self._attention((None, torch.from_numpy(attention)))
        return torch.from_numpy(logits)


@dataclass
class Request:
    """A window to be decoded, or with no `options` some other work; and its result."""

    slot: Slot
    mel: torch.Tensor | None = None
    options: DecodingOptions | None = None
    work: Callable | None = None
    result: object = None
    error: BaseException | None = None
    done: bool = False


def log_mel_spectrogram(audio: np.ndarray, n_mels: int, padding: int) -> torch.Tensor:
    """openai-whisper's, a minute at a time: of an hour it would hold gigabytes of spectrum.

    `audio` is float32 [n] at 16 kHz, `n_mels` 80 or 128, `padding` the zeros to be added at its
    end. Returns float32 [n_mels, (n + padding) // HOP_LENGTH].
    """
    hop, width = whisper.audio.HOP_LENGTH, whisper.audio.N_FFT
    samples = torch.from_numpy(audio)
    n_frames = (len(audio) + padding) // hop
    window, filters = torch.hann_window(width), whisper.audio.mel_filters("cpu", n_mels)
    mel = torch.empty(n_mels, n_frames)
    for first in range(0, n_frames, FRAMES_AT_ONCE):
        last = min(first + FRAMES_AT_ONCE, n_frames)
        # Frame i is centred on sample i * hop; what precedes sample 0 mirrors what follows it.
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
