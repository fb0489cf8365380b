"""A video, played over and over: decoded, segmented, drawn and encoded side by side, in order."""

from __future__ import annotations

import queue
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from itertools import count, islice

import av
from model import Model, objects_of
from segmentation import Letterbox, Thresholds, draw
from video_output import ENCODER_DELAY, Outputs, OutputSettings, opened
from video_source import VideoSource

SPARE_REQUESTS = 2  # hold results while others run
STAGES = ("decode", "letterbox", "postprocess", "save", "draw", "encode")  # besides inference


@dataclass(frozen=True)
class PipelineSettings:
    thresholds: Thresholds
    output: OutputSettings
    max_frames: int | None = None  # of a pass; None: all


@dataclass
class Frame:
    """A frame in the pipeline, and what was found in it."""

    picture: av.VideoFrame
    pts: int  # when it is shown, in units of the source's time_base, rising over all passes
    number: int  # within its pass, from 0
    audio: list  # packets between the frame before and this one, of the first pass
    decoded_s: float  # the clock when it was decoded
    stage_s: dict[str, float]  # time taken, by stage
    found: list[str] = field(default_factory=list)  # classes of objects
    detections: list[dict] = field(default_factory=list)  # for --save_detections
    inference_s: float = 0.0  # its OpenVINO request's time, over the frames in it


@dataclass
class Window:
    """What frames that came out of the pipeline in a stretch of time took, and what they show."""

    inference_s: list[float] = field(default_factory=list)  # of each frame
    latency_s: list[float] = field(default_factory=list)  # of each frame, to encoded, or drawn
    busy_s: Counter = field(default_factory=Counter)  # by stage, in all its threads together
    found: Counter = field(default_factory=Counter)  # objects by class
    complete: bool = False  # whole passes, and enough of them
    wall_s: float = 0.0  # set by who has the clock
    cpu_s: float = 0.0

    def add(self, frame: Frame, latency_s: float) -> None:
        self.inference_s.append(frame.inference_s)
        self.latency_s.append(latency_s)
        self.busy_s.update(frame.stage_s)
        self.found.update(frame.found)

    @property
    def frames(self) -> int:
        return len(self.inference_s)


@contextmanager
def timed(stage_s: dict[str, float], stage: str) -> Iterator[None]:
    """Count the `with` block's time as spent in `stage`."""
    started_s = time.perf_counter()
    yield
    stage_s[stage] = stage_s.get(stage, 0.0) + time.perf_counter() - started_s


@contextmanager
def ctrl_c_stops(source: VideoSource) -> Iterator[None]:
    """Ctrl-C ends the source, and what is under way is finished; a second one ends the program."""

    def stop(*_):
        source.stop()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Pipeline:
    """A thread decodes, workers segment and draw, the caller's thread encodes.

    There are a few more workers than requests run at once, for what is done before and after
    inference. Batches under way stand in a short queue in the order of decoding, so frames stay in
    order and memory does not grow with the video.

    pass_frames : frames of a pass; None until the first pass has been decoded.
    """

    def __init__(self, model: Model, settings: PipelineSettings):
        self.model, self.settings = model, settings
        self.batch_size, *self.input_size, _ = model.compiled.input().shape
        self.workers = model.requests + max(SPARE_REQUESTS, model.requests // 4)
        self.pass_frames: int | None = None
        self.free: queue.Queue = queue.Queue()
        self.running = threading.Semaphore(model.requests)
        for _ in range(self.workers):
            self.free.put(model.compiled.create_infer_request())

    @property
    def capacity(self) -> int:
        """The most frames that are under way at once, those that the encoder holds among them."""
        return self.workers * self.batch_size + ENCODER_DELAY * bool(self.settings.output.video)

    def play(self, source: VideoSource) -> Iterator[Frame]:
        """The source, pass after pass without a pause: each frame, in order, when it is encoded.

        The first pass goes to the output files; later ones take the same work and are discarded.
        It has no end but source.stop(), or that of a live source; what was decoded until then still
        comes, and a first pass that ends so is kept. Raises what a stage raises.
        """
        with opened(self.settings.output, source) as outputs:
            with ctrl_c_stops(source), closing(self._segmented(source)) as segmented:
                for frame in segmented:
                    self._write(frame, outputs, source)
                    yield frame
            outputs.write_audio(source.take_audio())

    def _segmented(self, source: VideoSource) -> Iterator[Frame]:
        stop = threading.Event()
        # besides the queue, one batch is being handed in and one taken out
        under_way: queue.Queue = queue.Queue(maxsize=self.workers - 2)

        def decode() -> None:
            frames = self._decoded(source)
            try:
                while batch := list(islice(frames, self.batch_size)):
                    under_way.put(workers.submit(self._segment, batch))
                    if stop.is_set():
                        return
            finally:
                under_way.put(None)

        with ThreadPoolExecutor(self.workers) as workers, ThreadPoolExecutor(1) as decoder:
            decoding = decoder.submit(decode)
            try:
                for future in iter(under_way.get, None):
                    yield from future.result()
            finally:
                stop.set()
                while not decoding.done():  # let the decoder run dry
                    with suppress(queue.Empty):
                        under_way.get(timeout=0.1)
            decoding.result()  # raises what decoding raised

    def _decoded(self, source: VideoSource) -> Iterator[Frame]:
        """Frames of pass after pass. A live source just goes on, its passes max_frames long."""
        max_frames, tail = self.settings.max_frames, []  # tail: audio after the first pass's frames
        gap = max(1, round(1 / source.rate / source.time_base))
        last = -gap
        if source.live:
            self.pass_frames = max_frames
        for index in count():
            frames, begins = source.frames(None if source.live else max_frames), last + gap
            for number in count():
                stage_s: dict[str, float] = {}
                with timed(stage_s, "decode"):
                    picture, pts = next(frames, (None, None))
                if picture is None:
                    break
                last, audio = begins + pts, source.take_audio()
                if index:
                    audio, tail = tail, []
                if source.live:
                    number %= max_frames
                yield Frame(picture, last, number, audio, time.perf_counter(), stage_s)
            if number == 0 or source.live or source.stopped:
                return
            self.pass_frames = number
            tail = [] if index else source.take_audio()

    def _segment(self, batch: list[Frame]) -> list[Frame]:
        """Find the objects in these frames and draw them."""
        request = self.free.get()
        try:
            boxes = [Letterbox.of(frame.picture, self.input_size) for frame in batch]
            for frame, box, network_input in zip(batch, boxes, request.get_input_tensor().data):
                with timed(frame.stage_s, "letterbox"):
                    box.place(frame.picture, network_input)
            with self.running:
                request.start_async()
                request.wait()
            found = []
            for index, (frame, box) in enumerate(zip(batch, boxes)):
                frame.inference_s = request.latency / 1000 / len(batch)
                with timed(frame.stage_s, "postprocess"):
                    found.append(objects_of(request, box, self.settings.thresholds, index))
        finally:
            self.free.put(request)
        names = self.model.names
        for frame, box, objects in zip(batch, boxes, found):
            frame.found = objects.named(names)
            if self.settings.output.detections:
                with timed(frame.stage_s, "save"):
                    frame.detections = objects.to_json(names, box.frame_size)
            with timed(frame.stage_s, "draw"):
                frame.picture = draw(frame.picture, objects, names)
        return batch

    def _write(self, frame: Frame, outputs: Outputs, source: VideoSource) -> None:
        with timed(frame.stage_s, "encode") if outputs.video else nullcontext():
            outputs.write_audio(frame.audio)
            if frame.number == 0 and frame.pts > 0:
                outputs.end_pass()
            if outputs.video:
                outputs.video.write(frame.picture, frame.pts)
        if outputs.detections:
            time_s = float(frame.pts * source.time_base)
            outputs.detections.write(frame.number, time_s, frame.detections)

    def busy_shares(self, windows: list[Window]) -> dict[str, float]:
        """By stage, highest first, the share of the time in which its threads were busy."""
        wall_s = sum(window.wall_s for window in windows)
        busy_s = Counter(inference=sum(sum(window.inference_s) for window in windows))
        for window in windows:
            busy_s.update(window.busy_s)
        threads = {"decode": 1, "encode": 1, "inference": self.model.requests}
        shares = Counter(
            {stage: s / threads.get(stage, self.workers) / wall_s for stage, s in busy_s.items()}
        )
        return dict(shares.most_common())
