"""How many live cameras this machine sustains: the most that all keep their frame rate.

  python3 capacity.py --video="pharmacy_drivethru.mp4" --target_fps 30

Each camera plays the video, over and over, at --target_fps: a frame is decoded when it is due and
segmented with boxes and masks. A frame for which no inference request is free before the next one
is due is dropped; one whose result comes later than --max_latency after it was due is late. A
number of cameras is sustained if each has under 1 % of its frames dropped or late. The number is
doubled until it is not sustained, then found by bisection; each one runs for --duration, and the
result until --min_observations frames show it.
"""

import argparse
import math
import os
import queue
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's threads would spin against OpenVINO's

from harness import cli

cli.quit_on_signals()  # while the libraries load

import cv2
import model
from pipeline import SPARE_REQUESTS
from segmentation import Letterbox, Thresholds
from video_source import VideoSource

from harness import capacity, model_files, plot, run, stats
from harness.cli import UserError
from harness.metrics import Metric

SETTLE_S = 1.0  # at the start of each number of cameras, not counted
ALL_FRAMES = "Frames of all cameras, over time."
DUE_TO_DONE = "From when a frame was due to its result."
OWN_METRICS = (
    Metric("frames_per_second", "frames/s", None, "Throughput", ALL_FRAMES),
    Metric("frame_latency_s", "s", None, "Frame latency", DUE_TO_DONE),
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    add = parser.add_argument
    video = "video file or folder of images that every camera plays"
    add("--video", default=str(model_files.shown(model.DEMO_CLIP)), help=video)
    fps = "frames per second of each camera"
    add("--target_fps", type=cli.positive_float, default=model.CAMERA_FPS, help=fps)
    capacity.add_arguments(parser, "camera", 30.0)
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
    duration_s: float
    thresholds: Thresholds


@dataclass
class Camera:
    """What became of one camera's frames.

    due, dropped : frames, while measuring.
    done_s : when each frame was due and when it was done, from the start of measuring.
    """

    due: int = 0
    dropped: int = 0
    done_s: list[tuple[float, float]] = field(default_factory=list)

    def latencies_s(self) -> list[float]:
        """From due to done, of the frames that were due while measuring."""
        return [done - due for due, done in self.done_s if due >= 0]

    def lost(self, max_latency_s: float) -> int:
        """Frames without a result in time: dropped, late, or not even begun."""
        return self.due - sum(latency <= max_latency_s for latency in self.latencies_s())

    def lost_share(self, max_latency_s: float) -> float:
        return self.lost(max_latency_s) / max(self.due, 1)

    def fps(self, duration_s: float) -> float:
        """Frames done while measuring, late ones too, per second."""
        return sum(0 <= done < duration_s for _, done in self.done_s) / duration_s


class Level:
    """One number of cameras in real time: a thread plays each, others take the results."""

    def __init__(self, loaded: model.Model, requests: list, settings: CameraSettings, count: int):
        self.settings, self.input_size = settings, loaded.input_size
        self.requests, self.cameras = requests, [Camera() for _ in range(count)]
        self.free, self.done, self.stop = queue.Queue(), queue.Queue(), threading.Event()
        for request in self.requests:
            request.set_callback(self.done.put, None)
            self.free.put(request)

    def run(self) -> list[Camera]:
        """Play all cameras for their duration. Raises what goes wrong in a thread."""
        begins_s = time.perf_counter() + 0.2
        self.counted_s = begins_s + SETTLE_S
        self.ends_s = self.counted_s + self.settings.duration_s
        finishing = min(4, os.cpu_count() or 1)
        apart_s = 1 / self.settings.target_fps / len(self.cameras)
        with ThreadPoolExecutor(finishing + len(self.cameras)) as threads:
            finishers = [threads.submit(self._guarded, self._finish) for _ in range(finishing)]
            players = [
                threads.submit(self._guarded, self._play, camera, begins_s + number * apart_s)
                for number, camera in enumerate(self.cameras)
            ]
            try:
                wait(players)
            finally:
                self.stop.set()
                wait(players)
                for request in self.requests:
                    request.wait()
                for _ in finishers:
                    self.done.put(None)
        for future in players + finishers:
            future.result()
        return self.cameras

    def _guarded(self, work, *args) -> None:
        """Let an error in one thread end all."""
        try:
            work(*args)
        except BaseException:
            self.stop.set()
            raise

    def _finish(self) -> None:
        """Take results: boxes and masks of each."""
        while (item := self.done.get()) is not None:
            camera, due_s, box, request = item
            model.objects_of(request, box, self.settings.thresholds)
            self.free.put(request)
            camera.done_s.append((due_s - self.counted_s, time.perf_counter() - self.counted_s))

    def _play(self, camera: Camera, first_s: float) -> None:
        """One camera: a frame each interval from `first_s` on, until the end."""
        interval_s = 1 / self.settings.target_fps
        source = VideoSource(self.settings.video)
        frames = source.frames()
        number = math.ceil((self.ends_s - first_s) / interval_s)
        dues_s = [first_s + index * interval_s for index in range(number)]
        camera.due = sum(due_s >= self.counted_s for due_s in dues_s)
        for due_s in dues_s:
            now_s = time.perf_counter()
            if self.stop.is_set() or now_s > self.ends_s:
                return
            time.sleep(max(0.0, due_s - now_s))
            frame = next(frames, None)
            if frame is None:
                frames = source.frames()
                frame = next(frames)
            try:
                request = self.free.get(timeout=max(0.0, due_s + interval_s - time.perf_counter()))
            except queue.Empty:
                camera.dropped += due_s >= self.counted_s
                continue
            box = Letterbox(*frame[0].shape[:2], *self.input_size)
            box.place(frame[0], request.get_input_tensor().data[0])
            request.start_async(userdata=(camera, due_s, box, request))


def figures(cameras: list[Camera], settings: CameraSettings) -> dict:
    """What a number of cameras came to."""
    lost = max(camera.lost_share(settings.max_latency_s) for camera in cameras)
    latencies_s = [latency for camera in cameras for latency in camera.latencies_s()]
    fps = [camera.fps(settings.duration_s) for camera in cameras]
    p95_s = stats.percentile(latencies_s, 0.95) if latencies_s else settings.duration_s
    return {
        "sustained": lost < capacity.MAX_LATE_SHARE,
        "observations": sum(camera.due for camera in cameras),
        "late": sum(camera.lost(settings.max_latency_s) for camera in cameras),
        "fps": fps,  # of each camera
        "slowest_fps": min(fps),
        "mean_fps": sum(fps) / len(fps),
        "lost_share": lost,  # of the worst camera
        "dropped": [camera.dropped for camera in cameras],
        "latency_p95_s": p95_s,
        "latencies_s": latencies_s,
    }


def sentence(level: dict) -> str:
    slowest, p95_s = level["slowest_fps"], level["latency_p95_s"]
    lost = level["lost_share"]
    return f"slowest {slowest:.2f} frames/s, at most {lost:.1%} lost, latency p95 {p95_s:.3f} s"


def main() -> int:
    args = parse_args()
    source = VideoSource(args.video)
    if source.remote:
        reason = "cameras play a file at their own pace"
        raise UserError(f"{reason}: give a video file or a folder of images (--video)")
    capacity.check_plot(args)
    cv2.setNumThreads(1)  # the cameras already run side by side
    prepared = model.prepare(args, hint=args.hint, num_requests=args.num_requests)
    loaded = prepared.model
    settings = CameraSettings(
        args.video, args.target_fps, args.max_latency, args.duration, model.thresholds(args)
    )
    number = loaded.requests + SPARE_REQUESTS
    requests = [loaded.compiled.create_infer_request() for _ in range(number)]

    def measure_level(count: int, duration_s: float) -> dict:
        longer = replace(settings, duration_s=duration_s)
        return figures(Level(loaded, requests, longer, count).run(), longer)

    described = describe(args, prepared, source)
    found = capacity.find(measure_level, sentence, args, "camera", run.start(args, **described))
    draw(found, args)
    return run.finish(build_record(args, described, prepared, found), args)


def draw(found: capacity.Found, args: argparse.Namespace) -> None:
    series = {
        label: [(count, level[name]) for count, level in found.levels.items()]
        for label, name in (("slowest camera", "slowest_fps"), ("average camera", "mean_fps"))
    }
    limit = ("target", args.target_fps)
    plot.lines(args.plot, [plot.Panel("frames per second of a camera", series, limit)], "cameras")


def at_rate(args: argparse.Namespace) -> str:
    return f"at {args.target_fps:g} frames/s"


def describe(args: argparse.Namespace, prepared: model.Prepared, source: VideoSource) -> dict:
    """What the record says of the run before it has begun."""
    return {
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
        "resolved": {"requests": prepared.model.requests},
        "own_metrics": OWN_METRICS,
        "check_samples": False,
        **prepared.record_parts(),
    }


def build_record(
    args: argparse.Namespace, described: dict, prepared: model.Prepared, found: capacity.Found
) -> dict:
    latencies_s = {count: level.pop("latencies_s") for count, level in found.levels.items()}
    return run.build(
        args,
        **described,
        samples={
            "cameras": [[found.most]],
            "frames_per_second": [[sum(found.levels[found.shown]["fps"])]],
            "frame_latency_s": [latencies_s[found.shown]],
            "load_time_s": [[prepared.model.load_time_s]],
            "peak_rss_bytes": [[found.monitor.usage["peak_rss_bytes"]]],
        },
        monitor=found.monitor,
        output=found.output("camera"),
        details=[capacity.report(found, args, "camera", at_rate(args))],
        warnings=found.warnings,
    )


if __name__ == "__main__":
    cli.run(main)
