"""One pass over a video: decoded, segmented, drawn and encoded side by side, in order."""

from __future__ import annotations

import queue
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from model import Model, objects_of
from segmentation import Letterbox, Thresholds, draw
from video_output import OutputSettings, Writers, opened
from video_source import VideoSource

SPARE_REQUESTS = 2  # hold results while others run
STAGES = ("decode", "letterbox", "postprocess", "save", "draw", "encode")  # besides inference


@dataclass(frozen=True)
class PipelineSettings:
    thresholds: Thresholds
    output: OutputSettings
    max_frames: int | None = None  # None: all


@dataclass
class Frame:
    """A frame in the pipeline, and what was found in it."""

    pixels: np.ndarray  # uint8 [H, W, 3], RGB
    pts: int  # when it is shown, in units of the source's time_base
    audio: list  # packets between the frame before and this one
    decoded_s: float  # the clock when it was decoded
    stage_s: dict[str, float]  # time taken, by stage
    found: list[str] = field(default_factory=list)  # classes of objects
    detections: list[dict] = field(default_factory=list)  # for --save_detections
    inference_s: float = 0.0  # its OpenVINO request's time, over the frames in it


@dataclass
class Pass:
    """What one pass over a video took and found."""

    inference_s: list[float] = field(default_factory=list)  # of each frame
    latency_s: list[float] = field(default_factory=list)  # of each frame, to encoded, or drawn
    busy_s: Counter = field(default_factory=Counter)  # by stage, in all its threads together
    found: Counter = field(default_factory=Counter)  # objects by class
    complete: bool = True  # False where Ctrl-C cut it short
    wall_s: float = 0.0  # set by who has the clock
    cpu_s: float = 0.0

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
    """

    def __init__(self, model: Model, settings: PipelineSettings):
        self.model, self.settings = model, settings
        self.batch_size, *self.input_size, _ = model.compiled.input().shape
        self.workers = model.requests + max(SPARE_REQUESTS, model.requests // 4)
        self.free: queue.Queue = queue.Queue()
        self.running = threading.Semaphore(model.requests)
        for _ in range(self.workers):
            self.free.put(model.compiled.create_infer_request())

    def run(self, source: VideoSource, keep_partial: bool) -> Pass:
        """One pass, from opening the source to finished files.

        After source.stop() it ends with what has been decoded; its files are then kept only if
        `keep_partial`. Raises what a stage raises.
        """
        with opened(self.settings.output, source) as writers:
            writers.keep = keep_partial
            with ctrl_c_stops(source):
                done = self._segment_all(source, writers)
            writers.keep = done.complete or keep_partial
        return done

    def _segment_all(self, source: VideoSource, writers: Writers) -> Pass:
        done, stop = Pass(), threading.Event()
        # besides the queue, one batch is being handed in and one taken out
        under_way: queue.Queue = queue.Queue(maxsize=self.workers - 2)

        def decode() -> None:
            try:
                for batch in self._batches(source):
                    under_way.put(workers.submit(self._segment, batch))
                    if stop.is_set():
                        return
            finally:
                under_way.put(None)

        with ThreadPoolExecutor(self.workers) as workers, ThreadPoolExecutor(1) as decoder:
            decoding = decoder.submit(decode)
            try:
                for future in iter(under_way.get, None):
                    for frame in future.result():
                        self._finish(frame, done, source, writers)
            except BaseException:
                stop.set()
                for _ in iter(under_way.get, None):  # let the decoder run dry
                    pass
                raise
            decoding.result()  # raises what decoding raised
        if writers.video:
            writers.video.write_audio(source.take_audio())
        done.complete = not source.stopped
        return done

    def _batches(self, source: VideoSource) -> Iterator[list[Frame]]:
        frames = source.frames(self.settings.max_frames)
        while True:
            batch: list[Frame] = []
            while len(batch) < self.batch_size:
                stage_s: dict[str, float] = {}
                with timed(stage_s, "decode"):
                    pixels, pts = next(frames, (None, None))
                if pixels is None:
                    break
                audio = source.take_audio()
                batch.append(Frame(pixels, pts, audio, time.perf_counter(), stage_s))
            if not batch:
                return
            yield batch

    def _segment(self, batch: list[Frame]) -> list[Frame]:
        """Find the objects in these frames and draw them."""
        request = self.free.get()
        try:
            boxes = [Letterbox(*f.pixels.shape[:2], *self.input_size) for f in batch]
            for frame, box, network_input in zip(batch, boxes, request.get_input_tensor().data):
                with timed(frame.stage_s, "letterbox"):
                    box.place(frame.pixels, network_input)
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
        for frame, objects in zip(batch, found):
            frame.found = objects.named(names)
            if self.settings.output.detections:
                with timed(frame.stage_s, "save"):
                    frame.detections = objects.to_json(names, frame.pixels.shape[:2])
            with timed(frame.stage_s, "draw"):
                draw(frame.pixels, objects, names)
        return batch

    def _finish(self, frame: Frame, done: Pass, source: VideoSource, writers: Writers) -> None:
        """Encode a frame and count it."""
        if writers.video:
            with timed(frame.stage_s, "encode"):
                writers.video.write_audio(frame.audio)
                writers.video.write(frame.pixels, frame.pts)
        done.latency_s.append(time.perf_counter() - frame.decoded_s)
        if writers.detections:
            time_s = float(frame.pts * source.time_base)
            writers.detections.write(done.frames, time_s, frame.detections)
        done.inference_s.append(frame.inference_s)
        done.busy_s.update(frame.stage_s)
        done.found.update(frame.found)

    def busy_shares(self, passes: list[Pass]) -> dict[str, float]:
        """By stage, highest first, the share of the time in which its threads were busy."""
        wall_s = sum(done.wall_s for done in passes)
        busy_s = Counter(inference=sum(sum(done.inference_s) for done in passes))
        for done in passes:
            busy_s.update(done.busy_s)
        threads = {"decode": 1, "encode": 1, "inference": self.model.requests}
        shares = Counter(
            {stage: s / threads.get(stage, self.workers) / wall_s for stage, s in busy_s.items()}
        )
        return dict(shares.most_common())
