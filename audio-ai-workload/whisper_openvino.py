"""Whisper on OpenVINO for openai-whisper's own transcribe(): files one after the other, or several at a time.

A Stream holds the requests that the windows of one batch of files are computed with. A Seat is one file's place in it, and what
transcribe() takes for its model. Where several seats of a stream are taken, each file is transcribed in a thread of its own, but
what a thread asks of its seat waits until all others of the stream ask for something too. Then one of them does it for all:
windows are encoded one by one, and decoded together.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import openvino as ov
import torch
import whisper
from whisper.decoding import DecodingOptions, Inference
from whisper.model import ModelDimensions

from decoding import WindowsTask
from split_model import build_aligner, cross_names

ENCODER, DECODER, DIMS = "whisper_encoder.xml", "whisper_decoder.xml", "dims.json"
ALIGNMENT_HEADS = "alignment_heads"  # in DIMS
FRAMES_AT_ONCE = 6000  # of a spectrogram: a minute
_NO_CACHE = SimpleNamespace(key=None, value=None)


@dataclass(frozen=True)
class Transcription:
    result: dict  # openai-whisper's
    time_s: float  # from beginning with this file to its end, others' windows in between


class OpenVINOWhisper:
    """The compiled models, and the streams that use them; no PyTorch weights are needed.

    Parameters
    ----------
    core : openvino.Core
    folder : made by export.py.
    device, config : as for Core.compile_model.
    word_timestamps : compile a third model, of the decoder's weights, which transcribe() with word_timestamps needs.
    batch_size : files whose windows are decoded together.
    num_streams : such batches at a time; `config` must allow for as many.

    Raises ValueError where word timestamps are asked of a folder which does not tell the alignment heads.
    """

    def __init__(self, core, folder: Path, device: str, config: dict, word_timestamps: bool = False, batch_size: int = 1,
                 num_streams: int = 1):  # fmt: skip
        dims = json.loads((folder / DIMS).read_text())
        self.alignment_heads = dims.pop(ALIGNMENT_HEADS, None)  # [layer, head] of each
        self.dims = ModelDimensions(**dims)
        if word_timestamps and not self.alignment_heads:
            raise ValueError(f"{DIMS} does not tell the alignment heads, which word timestamps are read from")
        self.compiled = {
            "decoder": core.compile_model(folder / DECODER, device, config),
            "encoder": core.compile_model(folder / ENCODER, device, config),
        }
        if word_timestamps:
            aligner = build_aligner(core.read_model(folder / DECODER), self.alignment_heads)
            self.compiled["aligner"] = core.compile_model(aligner, device, config)
        self.streams = [Stream(self, batch_size) for _ in range(num_streams)]
        # One seat of each stream, then the next of each, so that few files spread over the streams.
        self.seats = [seat for row in zip(*(stream.seats for stream in self.streams)) for seat in row]

    @property
    def is_multilingual(self) -> bool:
        return self.dims.n_vocab >= 51865

    @property
    def num_languages(self) -> int:
        return self.dims.n_vocab - 51765 - int(self.is_multilingual)

    def transcribe(self, audio: np.ndarray, progress: Callable[[float], None] = lambda done_s: None, **options) -> dict:
        """openai-whisper's transcribe() of float32 samples at 16 kHz, of any length.

        `progress` is called with the seconds of audio done, before each window of 30 s but the first and at the end.
        """
        return self.transcribe_all([audio], lambda index, done_s: progress(done_s), **options)[0].result

    def transcribe_all(
        self, files: Sequence[np.ndarray], progress: Callable[[int, float], None], **options
    ) -> list[Transcription]:
        """transcribe() of each file, as many at a time as there are seats, the longest first. Nothing is remembered of before.

        `progress` is called, from several threads, with a file's index and the seconds of it that are done. Raises what the
        first transcription to fail raises, and KeyboardInterrupt, once the others have ended their window.
        """
        waiting = queue.SimpleQueue()
        for index in sorted(range(len(files)), key=lambda index: -len(files[index])):
            waiting.put(index)
        done: list[Transcription | None] = [None] * len(files)
        errors: list[BaseException] = []

        def serve(seat: Seat) -> None:
            try:
                while not errors:
                    index = waiting.get_nowait()
                    started = time.perf_counter()
                    result = seat.transcribe(files[index], lambda done_s: progress(index, done_s), **options)
                    done[index] = Transcription(result, time.perf_counter() - started)
                    progress(index, len(files[index]) / whisper.audio.SAMPLE_RATE)
            except queue.Empty:
                pass
            except BaseException as error:
                errors.append(error)
            finally:
                seat.leave()

        seats = self.seats[: len(files)]
        for seat in seats:
            seat.take()
        threads = [threading.Thread(target=serve, args=(seat,), daemon=True) for seat in seats[1:]]
        with openai_whispers_spectrogram_replaced():
            for thread in threads:
                thread.start()
            serve(seats[0])  # here, where Ctrl-C is heard
            for thread in threads:
                while thread.is_alive():
                    try:
                        thread.join()
                    except KeyboardInterrupt as error:
                        errors.append(error)
        if errors:
            raise errors[0]
        return done


class Stream:
    """Decodes up to `batch_size` windows at a time, each of another file."""

    def __init__(self, model: OpenVINOWhisper, batch_size: int):
        self.model = model
        requests = {name: compiled.create_infer_request() for name, compiled in model.compiled.items()}
        self._encoder, self._decoder, self._aligner = requests["encoder"], requests["decoder"], requests.get("aligner")
        heads, width = model.dims.n_text_head, model.dims.n_text_state // model.dims.n_text_head
        shape = (batch_size, heads, model.dims.n_audio_ctx, width)
        # What the encoder makes of each seat's window, where the decoder reads it.
        self._crossed = {name: np.empty(shape, np.float32) for name in cross_names(model.dims.n_text_layer)}
        self.seats = [Seat(self, number) for number in range(batch_size)]
        self._turn = threading.Condition()
        self._taken = 0  # seats
        self._asked: list[_Asked] = []

    def take(self) -> None:
        with self._turn:
            self._taken += 1

    def leave(self) -> None:
        with self._turn:
            self._taken -= 1
            self._turn.notify_all()

    def ask(self, asked: _Asked):
        """Have this done as soon as all seats taken have asked for something, and return its result."""
        with self._turn:
            self._asked.append(asked)
            while not asked.done:
                if len(self._asked) >= self._taken:
                    self._do_all()
                    self._turn.notify_all()
                else:
                    self._turn.wait()
        if asked.error:
            raise asked.error
        return asked.result

    def _do_all(self) -> None:
        all_asked, self._asked = self._asked, []
        try:
            together: dict[str, list[_Asked]] = {}  # by the options that must be equal
            for asked in all_asked:
                if asked.options is None:
                    asked.result = asked.work()
                else:
                    self.encode(asked.seat, asked.mel)
                    together.setdefault(str(replace(asked.options, prompt=None, language=None)), []).append(asked)
            for group in together.values():
                seats = [asked.seat for asked in group]
                task = WindowsTask(seats[0], [asked.options for asked in group], lambda *start: Steps(self, seats, *start))
                for asked, asked.result in zip(group, task.run(torch.empty(len(group), 0))):
                    pass
        except BaseException as error:
            for asked in all_asked:
                asked.error = error
        for asked in all_asked:
            asked.done = True

    def encode(self, seat: Seat, mel: torch.Tensor) -> torch.Tensor:
        """Audio features float32 [1, n_audio_ctx, n_audio_state] of a mel spectrogram [n_mels, 2 * n_audio_ctx], and in the seat's
        place what the decoder needs.

        Asked again for the window that the seat had last, as for every temperature that transcribe() falls back to and after
        detecting the language, nothing is computed.
        """
        if seat.mel is None or not torch.equal(mel, seat.mel):
            seat.mel = None
            for name, crossed in self._crossed.items():
                self._encoder.set_tensor(name, ov.Tensor(crossed[seat.number : seat.number + 1], shared_memory=True))
            self._encoder.infer({"mel": mel[None].numpy()}, share_inputs=True, share_outputs=True)
            seat.mel = mel.clone()
        return torch.from_numpy(self._encoder.get_tensor("audio_features").data)

    def begin(self, seats: Sequence[Seat]) -> None:
        """Decode these seats' windows from now on."""
        self._read_from(self._decoder, [seat.number for seat in seats])
        self._decoder.reset_state()

    def _read_from(self, request, numbers: list[int]) -> None:
        in_a_row = numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        rows = slice(numbers[0], numbers[-1] + 1) if in_a_row else numbers  # a list makes a copy
        self._picked = {name: crossed[rows] for name, crossed in self._crossed.items()}  # which OpenVINO does not keep alive
        for name, picked in self._picked.items():
            request.set_tensor(name, ov.Tensor(picked, shared_memory=True))

    def step(self, tokens: np.ndarray, beam_idx: np.ndarray | None = None, padding: np.ndarray | None = None,
             logits_at: Sequence[int] | None = None) -> np.ndarray:  # fmt: skip
        """Logits float32 [N, L, n_vocab] of the next T tokens, int64 [N, T], of each sequence.

        Parameters
        ----------
        beam_idx : int32 [N]; sequence i goes on from what sequence beam_idx[i] was (by default: from itself).
        padding : int64 [N]; how many of each sequence's first tokens, from the beginning on, are none.
        logits_at : which of the T tokens (by default all).
        """
        return self._run(self._decoder, tokens, beam_idx, padding, logits_at)

    def align(self, seat: Seat, mel: torch.Tensor, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logits float32 [1, T, n_vocab] of all of a window's tokens, int64 [1, T], and the alignment heads' attention before the
        softmax, float32 [1, alignment heads, T, n_audio_ctx]."""
        self.encode(seat, mel)
        self._read_from(self._aligner, [seat.number])
        self._aligner.reset_state()
        # Copies, as another seat's turn may come before this one's thread reads them.
        return self._run(self._aligner, tokens).copy(), self._aligner.get_tensor("attention").data.copy()

    def _run(self, request, tokens: np.ndarray, beam_idx=None, padding=None, logits_at=None) -> np.ndarray:
        inputs = {
            "tokens": tokens,
            "beam_idx": np.arange(len(tokens), dtype=np.int32) if beam_idx is None else beam_idx,
            "padding": np.zeros(len(tokens), np.int64) if padding is None else padding,
            "logits_at": np.arange(tokens.shape[1]) if logits_at is None else np.array(logits_at, np.int64),
        }
        request.infer(inputs, share_inputs=True, share_outputs=True)
        return request.get_tensor("logits").data


class Seat:
    """What openai-whisper's transcribe() expects of a model, for one file."""

    device = torch.device("cpu")

    def __init__(self, stream: Stream, number: int):
        self.stream, self.number = stream, number
        self.dims, self.is_multilingual, self.num_languages = (
            getattr(stream.model, name) for name in ("dims", "is_multilingual", "num_languages")
        )
        self.mel = None  # the window encoded last
        self._content_frames, self._progress = 0, lambda done_s: None
        # openai-whisper's find_alignment() hooks onto each layer's cross-attention and picks the alignment heads. Here one
        # layer is made out, whose heads are just those. (DecodingTask looks for keys and values to hook a cache on.)
        self._attention = _Hooked()
        self.decoder = SimpleNamespace(blocks=[SimpleNamespace(cross_attn=self._attention, attn=_NO_CACHE)])
        self.alignment_heads = torch.ones(1, len(stream.model.alignment_heads or ())).to_sparse()

    def take(self) -> None:
        """From now on the stream's other seats wait for what this one asks for."""
        self.stream.take()

    def leave(self) -> None:
        self.stream.leave()

    def transcribe(self, audio: np.ndarray, progress: Callable[[float], None], **options) -> dict:
        """See OpenVINOWhisper.transcribe(). The seat must have been taken."""
        self.mel = None
        self._content_frames, self._progress = len(audio) // whisper.audio.HOP_LENGTH, progress
        return whisper.transcribe(self, audio, fp16=False, **options)

    def decode(self, mel: torch.Tensor, options: DecodingOptions = DecodingOptions()):
        """openai-whisper's decode() of one window, mel [n_mels, 2 * n_audio_ctx]."""
        if frame := mel.storage_offset():  # a whole window is a view into the spectrogram
            self._progress(frame * whisper.audio.HOP_LENGTH / whisper.audio.SAMPLE_RATE)
        return self.stream.ask(_Asked(self, mel, options))

    def detect_language(self, mel: torch.Tensor, tokenizer=None):
        """openai-whisper's detect_language(), on the first window just as it will be decoded, so that it is encoded once.

        transcribe() hands in the window with the spectrogram of silence after the audio's end; for decoding it pads with
        zeros.
        """
        mel = whisper.pad_or_trim(mel[:, : self._content_frames], 2 * self.dims.n_audio_ctx)
        return self.stream.ask(_Asked(self, work=lambda: whisper.decoding.detect_language(self, mel, tokenizer)))

    def encoder(self, mel: torch.Tensor) -> torch.Tensor:
        """For detect_language()."""
        return self.stream.encode(self, mel[0])

    def logits(self, tokens: torch.Tensor, audio_features: torch.Tensor) -> torch.Tensor:
        """For detect_language(), right after encoder()."""
        self.stream.begin([self])
        return torch.from_numpy(self.stream.step(tokens.numpy()))

    def __call__(self, mel: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Logits of a window's tokens. Whoever hooked onto the cross-attention is told its attention. See Stream.align()."""
        logits, attention = self.stream.ask(_Asked(self, work=lambda: self.stream.align(self, mel[0], tokens.numpy())))
        self._attention.tell(torch.from_numpy(attention))
        return torch.from_numpy(logits)


@dataclass
class _Asked:
    """A window to be decoded, or with no `options` some other work, and what came of it."""

    seat: Seat
    mel: torch.Tensor | None = None
    options: DecodingOptions | None = None
    work: Callable | None = None
    result: object = None
    error: BaseException | None = None
    done: bool = False


class Steps(Inference):
    """The decoding steps of some seats' windows. See WindowsTask for the parameters."""

    def __init__(self, stream: Stream, seats: Sequence[Seat], padding: np.ndarray, sot_index: int):
        self._stream, self._padding, self._sot_index = stream, padding, sot_index
        self._beam_idx = None
        self._begun = False
        stream.begin(seats)

    def logits(self, tokens: torch.Tensor, audio_features: torch.Tensor) -> torch.Tensor:
        if self._begun:
            tokens, logits_at = tokens[:, -1:].contiguous(), [0]
        else:
            logits_at = [self._sot_index, tokens.shape[1] - 1]
        self._begun = True
        beam_idx, self._beam_idx = self._beam_idx, None
        return torch.from_numpy(self._stream.step(tokens.numpy(), beam_idx, self._padding, logits_at))

    def rearrange_kv_cache(self, source_indices) -> None:
        self._beam_idx = np.array(source_indices, dtype=np.int32)

    def cleanup_caching(self) -> None:
        pass


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
def openai_whispers_spectrogram_replaced() -> Iterator[None]:
    """Let openai-whisper's transcribe() make its spectrogram by the function above."""
    module = sys.modules["whisper.transcribe"]  # which its function of that name hides
    own, module.log_mel_spectrogram = module.log_mel_spectrogram, log_mel_spectrogram
    try:
        yield
    finally:
        module.log_mel_spectrogram = own


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
