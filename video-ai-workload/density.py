"""How many live cameras this machine carries: the most streams that all hold their frame rate (stream density).

  python3 density.py --model_path="yolov8n-seg_openvino_model/yolov8n-seg.xml" --video="pharmacy_drivethru.mp4" --target_fps 30

Each stream plays the video, over and over, at --target_fps, as a camera would: a frame is decoded when it is due, segmented with
boxes and masks, and gone. A frame for which no inference request gets free before the next one is due is dropped; one whose result
comes later than --max_latency after it was due is late. A stream holds the target if fewer than 1 % of its frames are dropped or
late. The number of streams is doubled until one does not hold, then found by bisection; each number runs for --duration.
"""

import argparse
import math
import os
import queue
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's threads would spin against OpenVINO's

import cv2

from harness import cli, density, measure, model as model_files, placement as place, record, trouble
from harness.cli import UserError
from infer import SPARE_REQUESTS, add_model_arguments, add_parallel_arguments, load, objects_of, requests_at_a_time
from segmentation import Letterbox
from video_source import VideoSource

SETTLE_S = 1.0  # at the start of each number of streams, not counted


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    parser.add_argument(
        "--video", default="pharmacy_drivethru.mp4", help="video file or folder of images that every stream plays"
    )
    parser.add_argument("--target_fps", type=cli.positive_float, default=30.0, help="frames per second of each stream")
    density.add_arguments(parser, "stream", 30.0, "frames per second")
    parser.add_argument(
        "--max_latency", type=cli.positive_float, default=1.0, metavar="S", help="from due to done, above which a frame is late"
    )
    add_model_arguments(parser)
    add_parallel_arguments(parser)
    cli.add_common_arguments(parser, iteration=None)
    args = parser.parse_args()
    density.check_arguments(parser, args, "stream")
    return args


@dataclass
class Stream:
    """What became of one stream's frames."""

    due: int = 0  # frames, while measuring
    dropped: int = 0
    done_s: list[tuple[float, float]] = field(
        default_factory=list
    )  # when each frame was due and when done, from measuring's start

    def latencies_s(self) -> list[float]:
        """From due to done, of the frames that were due while measuring."""
        return [done - due for due, done in self.done_s if due >= 0]

    def lost(self, max_latency_s: float) -> int:
        """Frames without a result in time: dropped, late, or not even begun with."""
        return self.due - sum(latency <= max_latency_s for latency in self.latencies_s())

    def fps(self, duration_s: float) -> float:
        """Frames done while measuring, late ones too, a second."""
        return sum(0 <= done < duration_s for _, done in self.done_s) / duration_s


class Cameras:
    """Plays `count` streams in real time through one compiled model."""

    def __init__(self, compiled, args: argparse.Namespace):
        self.args = args
        _, self.height, self.width, _ = compiled.input().shape
        self.parallel = requests_at_a_time(compiled, args)
        self.requests = [compiled.create_infer_request() for _ in range(self.parallel + SPARE_REQUESTS)]

    def run(self, count: int) -> list[Stream]:
        """Run for --duration. Raises what a stream raises."""
        streams, errors = [Stream() for _ in range(count)], []
        free, done, stop = queue.Queue(), queue.Queue(), threading.Event()
        for request in self.requests:
            request.set_callback(done.put, None)
            free.put(request)
        begins_s = time.perf_counter() + 0.2
        counted_s = begins_s + SETTLE_S
        ends_s = counted_s + self.args.duration

        def guarded(work, *args):
            try:
                work(*args)
            except BaseException as error:
                errors.append(error)
                stop.set()

        def finish():
            while (item := done.get()) is not None:
                stream, due_s, box, request = item
                objects_of(request, box, self.args)
                free.put(request)
                stream.done_s.append((due_s - counted_s, time.perf_counter() - counted_s))

        finishers = [threading.Thread(target=guarded, args=(finish,), daemon=True) for _ in range(min(4, os.cpu_count() or 1))]
        players = [threading.Thread(target=guarded, args=(self._play, stream, begins_s + number / count / self.args.target_fps, counted_s,
                                                           ends_s, free, stop), daemon=True)
                   for number, stream in enumerate(streams)]  # fmt: skip
        try:
            for thread in finishers + players:
                thread.start()
            for thread in players:
                thread.join()
        finally:
            stop.set()
            for request in self.requests:
                request.wait()
            for thread in finishers:
                done.put(None)
            for thread in finishers:
                thread.join()
        if errors:
            raise errors[0]
        return streams

    def _play(
        self, stream: Stream, first_s: float, counted_s: float, ends_s: float, free: queue.Queue, stop: threading.Event
    ) -> None:
        """One camera: a frame each 1 / target_fps from `first_s` on, until `ends_s`."""
        interval_s = 1 / self.args.target_fps
        source = VideoSource(self.args.video)
        frames = source.frames()
        dues_s = [first_s + number * interval_s for number in range(math.ceil((ends_s - first_s) / interval_s))]
        stream.due = sum(due_s >= counted_s for due_s in dues_s)
        for due_s in dues_s:
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
                stream.dropped += due_s >= counted_s
                continue
            box = Letterbox(*frame[0].shape[:2], self.height, self.width)
            box.place(frame[0], request.get_input_tensor().data[0])
            request.start_async(userdata=(stream, due_s, box, request))


def main() -> int:
    args = parse_args()
    placement = place.Placement.from_arguments(args)
    model_files.check_ir(args.model_path, hint=f"make it with `python3 export.py --output {args.model_path.parent}`")
    source = VideoSource(args.video)
    if source.remote:
        raise UserError("streams play a file at their own pace: give a video file or a folder of images (--video)")
    record.check_destination(args)
    cv2.setNumThreads(1)  # the streams already run side by side
    compiled, weight_format, load_time_s = load(args, placement)
    cameras = Cameras(compiled, args)
    told_model = model_files.describe(args.model_path.stem, args.model_path.parent, [args.model_path], weight_format)
    told_placement = place.describe(placement, {"model": compiled})
    machine = record.introduce(told_model, told_placement, args.device, load_time_s,
                               more=f"; {cameras.parallel} requests at a time")  # fmt: skip

    found = density.find(lambda count: summary(cameras.run(count), args), sentence, args, "stream")
    density.report(found, args, "stream", f"at {args.target_fps:g} frames/s")
    density.plot(found, {"slowest stream": "slowest_fps", "average stream": "mean_fps"}, ("target", args.target_fps), "stream",
                 "frames per second of a stream", args.plot)  # fmt: skip
    metrics = {
        "streams": measure.summarize([found.most], "streams", "higher"),
        "frames_per_second": measure.summarize([sum(found.levels[found.shown]["fps"])], "frames/s", None),
    }
    latencies_s = {count: level.pop("latencies_s") for count, level in found.levels.items()}[found.shown]
    if latencies_s:
        metrics["frame_latency_s"] = measure.summarize(latencies_s, "s", None)
    run = record.build(
        "video-density",
        args,
        headline="streams",
        metrics=metrics,
        samples={"streams": [found.most]},
        model=told_model,
        source={
            "name": source.name,
            "sha256": source.sha256(),
            "width": source.width,
            "height": source.height,
        },
        machine=machine,
        placement=told_placement,
        watch=found.watch,
        output=found.output("stream"),
        resolved={"runtime": "openvino", "requests": cameras.parallel},
        signs=trouble.of_machine(found.watch.usage, machine),
    )
    return record.finish(run, args)


def summary(streams: list[Stream], args: argparse.Namespace) -> dict:
    """What a number of streams came to."""
    lost = [stream.lost(args.max_latency) / max(stream.due, 1) for stream in streams]
    latencies_s = sorted(latency for stream in streams for latency in stream.latencies_s())
    fps = [stream.fps(args.duration) for stream in streams]
    return {
        "holds": max(lost) < density.MAX_LOST_SHARE,
        "fps": fps,  # of each stream
        "slowest_fps": min(fps),
        "mean_fps": sum(fps) / len(fps),
        "lost_share": max(lost),
        "dropped": [stream.dropped for stream in streams],
        "latency_p95_s": measure.percentile(latencies_s, 0.95) if latencies_s else float(args.duration),
        "latencies_s": latencies_s,
    }


def sentence(level: dict) -> str:
    return (f"slowest {level['slowest_fps']:.2f} frames/s, lost {level['lost_share']:.1%} at worst, "
            f"latency p95 {level['latency_p95_s']:.3f} s")  # fmt: skip


if __name__ == "__main__":
    cli.run(main)
