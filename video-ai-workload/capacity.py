"""How many live cameras this machine sustains: the most that all keep their frame rate.

  python3 capacity.py --video="pharmacy_drivethru.mp4" --target_fps 30

Each camera plays the video, over and over, at --target_fps, from a random moment within a frame's
interval on: a frame is decoded when it is due and segmented with boxes and masks. A frame for which
no inference request is free before the next one is due is dropped; one whose result comes later
than --max_latency after it was due is late. A number of cameras is sustained if each has under 1 %
of its frames dropped or late in both halves of --duration. The number is doubled until it is not
sustained, then found by bisection, then confirmed on --min_observations frames.
"""

import argparse
import math
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's threads would spin against OpenVINO's

from harness import cli

cli.quit_on_signals()  # while the libraries load

import cv2
import model
import numpy as np
from pipeline import SPARE_REQUESTS
from segmentation import Letterbox, Thresholds
from video_source import VideoSource

from harness import capacity, model_files, players, run
from harness.capacity import Stream
from harness.cli import UserError

SETTLE_S = 2.0
RATE, DELAY = "camera_frames_per_second", "frame_delay_s"


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    add = parser.add_argument
    video = "video file or folder of images that every camera plays"
    add("--video", default=str(model_files.shown(model.DEMO_CLIP)), help=video)
    fps = "frames per second of each camera"
    add("--target_fps", type=cli.positive_float, default=model.CAMERA_FPS, help=fps)
    players.add_arguments(parser)
    capacity.add_arguments(parser, "camera", 30.0)
    capacity.add_seed(parser)
    late = "from due to done, above which a frame is late"
    add("--max_latency", type=cli.positive_float, default=1.0, metavar="S", help=late)
    model.add_model_arguments(parser)
    model.add_parallel_arguments(parser)
    cli.add_common_arguments(parser, iteration=None)
    args = parser.parse_args()
    capacity.check_arguments(parser, args, "camera")
    return args


@dataclass(frozen=True)
class CameraSettings:
    """What cameras play, and when a frame is late."""

    video: str
    target_fps: float
    max_latency_s: float
    seed: int
    thresholds: Thresholds


@dataclass
class Camera:
    """A camera's frames: those from `first` on are counted."""

    dues_s: list[float]  # when each is due
    first: int
    dropped: int = 0
    done_s: dict[int, float] = field(default_factory=dict)  # when, by the frame's index

    def stream(self, counted_s: float, duration_s: float, max_latency_s: float) -> Stream:
        """The rate is of all frames that were done while counted."""
        done = sum(counted_s <= done_s < counted_s + duration_s for done_s in self.done_s.values())
        stream = Stream(samples={DELAY: []}, rates={RATE: done / duration_s})
        stream.counts["dropped"] = self.dropped
        for index in range(self.first, len(self.dues_s)):
            due_s = self.dues_s[index]
            delay_s = self.done_s.get(index, math.inf) - due_s
            stream.due_s.append(due_s - counted_s)
            stream.late.append(delay_s > max_latency_s)
            if delay_s < math.inf:
                stream.samples[DELAY].append(delay_s)
        return stream


def decoder_threads(cameras: int) -> int:
    """Threads of each camera's decoder, so that all share the CPUs.

    Left to FFmpeg each would have min(CPUs + 1, 16), which doubles the CPU time of 30 cameras.
    """
    return min(16, max(1, len(os.sched_getaffinity(0)) // max(1, cameras)))


def play(
    loaded: model.Model,
    requests: list,
    settings: CameraSettings,
    numbers: Sequence[int],
    begins_s: float,
    duration_s: float,
) -> list[Stream]:
    """Play cameras in real time, a thread each, others take the results: see harness.capacity.Play.

    Raises what goes wrong in a thread.
    """
    interval_s, counted_s = 1 / settings.target_fps, begins_s + SETTLE_S
    ends_s = counted_s + duration_s
    cameras = []
    for number in numbers:
        phase = np.random.default_rng([settings.seed, number]).uniform()
        first_s = begins_s + float(phase) * interval_s
        frames = math.ceil((ends_s - first_s) / interval_s)
        dues_s = [first_s + index * interval_s for index in range(frames)]
        cameras.append(Camera(dues_s, sum(due_s < counted_s for due_s in dues_s)))
    threads_each = decoder_threads(len(numbers))
    free, done, stop = queue.Queue(), queue.Queue(), threading.Event()
    for request in requests:
        request.set_callback(done.put, None)
        free.put(request)

    def ending_all(work: Callable, *args) -> None:
        """Let an error in one thread end all."""
        try:
            work(*args)
        except BaseException:
            stop.set()
            raise

    def finish() -> None:
        """Take results: boxes and masks of each."""
        while (item := done.get()) is not None:
            camera, index, box, request = item
            model.objects_of(request, box, settings.thresholds)
            free.put(request)
            camera.done_s[index] = time.perf_counter()

    def play_camera(camera: Camera) -> None:
        source = VideoSource(settings.video, decoder_threads=threads_each)
        frames = source.frames()
        for index, due_s in enumerate(camera.dues_s):
            now_s = time.perf_counter()
            if stop.is_set() or now_s > ends_s:
                return
            time.sleep(max(0.0, due_s - now_s))
            frame = next(frames, None)
            if frame is None:
                frames = source.frames()
                frame = next(frames)
            try:
                request = free.get(timeout=max(0.0, due_s + interval_s - time.perf_counter()))
            except queue.Empty:
                camera.dropped += index >= camera.first
                continue
            box = Letterbox.of(frame[0], loaded.input_size)
            box.place(frame[0], request.get_input_tensor().data[0])
            request.start_async(userdata=(camera, index, box, request))

    finishing = min(4, os.cpu_count() or 1)
    with ThreadPoolExecutor(finishing + len(cameras)) as threads:
        finishers = [threads.submit(ending_all, finish) for _ in range(finishing)]
        players = [threads.submit(ending_all, play_camera, camera) for camera in cameras]
        try:
            wait(players)
        finally:
            stop.set()
            wait(players)
            for request in requests:
                request.wait()
            for _ in finishers:
                done.put(None)
    for future in players + finishers:
        future.result()
    return [camera.stream(counted_s, duration_s, settings.max_latency_s) for camera in cameras]


def prepare(args: argparse.Namespace) -> capacity.Job:
    """Load the model and print the header. Raises UserError."""
    source = VideoSource(args.video)
    if source.remote:
        reason = "cameras play a file at their own pace"
        raise UserError(f"{reason}: give a video file or a folder of images (--video)")
    cv2.setNumThreads(1)  # the cameras already run side by side
    prepared = model.prepare(args, hint=args.hint, num_requests=args.num_requests)
    loaded, thresholds = prepared.model, model.thresholds(args)
    settings = CameraSettings(args.video, args.target_fps, args.max_latency, args.seed, thresholds)
    number = loaded.requests + SPARE_REQUESTS
    requests = [loaded.compiled.create_infer_request() for _ in range(number)]
    described = {
        "workload": "video-capacity",
        "title": "Video AI capacity",
        "primary": "cameras",
        "task": {
            "conf": args.conf,
            "iou": args.iou,
            "target fps": args.target_fps,
            "max latency": args.max_latency,
        },
        "work": [(f"1,000 camera-hours {at_rate(args)}", "cameras", 3600 * 1000)],
        "input": source.describe(),
        "resolved": {"requests": loaded.requests},
        "check_samples": False,
        **prepared.record_parts(),
    }
    return capacity.Job(described, partial(play, loaded, requests, settings), loaded.load_time_s)


def at_rate(args: argparse.Namespace) -> str:
    return f"at {args.target_fps:g} frames/s"


def main() -> int:
    args = parse_args()
    capacity.check_plot(args)
    with players.job(args, prepare, "camera") as job:
        found = capacity.find(job, args, "camera", run.start(args, **job.described))
    capacity.draw(found, args, "camera", {DELAY: args.max_latency})
    parts = found.record_parts(job, args, "camera", at_rate(args))
    parts["samples"] |= {
        "load_time_s": [[job.extra]],
        "peak_rss_bytes": [[found.monitor.usage["peak_rss_bytes"]]],
    }
    return run.finish(run.build(args, **parts), args)


if __name__ == "__main__":
    cli.run(main)
