"""Measure video segmentation: frames per second from source to file, and the inference time of each frame.

  python3 infer.py --model_path="yolov8n-seg_openvino_model/yolov8n-seg.xml" --device="CPU" --video="pharmacy_drivethru.mp4"

Every frame is decoded, segmented (boxes, non-maximum suppression, masks at frame size), drawn over and encoded.
Throughput is over all of that, from opening the video to the finished output file; a frame's inference time is that
of its OpenVINO request alone, while as many others run beside it as OpenVINO finds best (--hint, --num_requests). Its
latency is from decoded to taken by the encoder. How busy each stage was, and the cores, tells what limits.
"""

import argparse
import os
import queue
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's threads would spin against OpenVINO's

import cv2
import numpy as np

from harness import cli, measure, model as model_files, placement as place, record
from harness.cli import UserError
from segmentation import Detections, Letterbox, class_names, draw, find_objects
from video_output import ENCODER, PRESETS, DetectionsWriter, VideoWriter, check_encoder
from video_source import HELP, VideoSource

SPARE_REQUESTS = 2  # that hold results while others run
LIVE_FRAMES = 300  # of a pass over a source that has no end


def add_model_arguments(parser: argparse.ArgumentParser, conf: float = 0.25) -> None:
    """Options of every script that runs the model."""
    parser.add_argument(
        "--model_path", type=Path, default=Path("yolov8n-seg_openvino_model/yolov8n-seg.xml"), help="the .xml made by export.py"
    )
    parser.add_argument("--conf", type=cli.share, default=conf, help="least score of a detection")
    parser.add_argument(
        "--iou", type=cli.share, default=0.7, help="overlap at which the weaker of two boxes of a class is dropped"
    )


def add_parallel_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of every script that runs several requests at a time."""
    parser.add_argument("--hint", choices=("throughput", "latency"), default="throughput",
                        help="what OpenVINO sets itself up for: frames per second, or the time of a single frame")  # fmt: skip
    parser.add_argument("--num_requests", type=cli.positive_int, help="inference requests at a time (default: OpenVINO's choice)")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    parser.add_argument("--video", default="pharmacy_drivethru.mp4", help=HELP)
    parser.add_argument("--output", type=Path, default=Path("output.mp4"), help="video file to write, with the source's audio")
    parser.add_argument("--no_output", action="store_true", help="leave encoding out")
    parser.add_argument("--encoder", default=ENCODER, help="FFmpeg's name of the video encoder")
    parser.add_argument(
        "--preset", help="the encoder's preset (default: veryfast for libx264 and libx265, else the encoder's own)"
    )
    parser.add_argument("--save_detections", type=Path, metavar="FILE",
                        help="write class, score, box and mask (COCO run lengths) of each object, as JSON Lines")  # fmt: skip
    parser.add_argument("--max_frames", type=cli.positive_int,
                        help=f"stop each pass after this many frames (default: all; {LIVE_FRAMES} of a live source)")  # fmt: skip
    parser.add_argument("--batch_size", type=cli.positive_int, default=1, help="frames in a request")
    parser.add_argument("--retry", type=cli.non_negative_float, default=30.0, metavar="S",
                        help="how long a live source that was lost is tried again")  # fmt: skip
    add_model_arguments(parser)
    add_parallel_arguments(parser)
    cli.add_common_arguments(parser, iteration="one pass over the video", num_iters=6)
    return parser.parse_args()


def load(args: argparse.Namespace, placement: place.Placement, batch_size: int = 1):
    """Read, check and compile the model, with an input of bytes, as frames are. Returns it, its weight format, the seconds."""
    import openvino as ov
    from openvino.preprocess import PrePostProcessor

    core = ov.Core()
    config = place.openvino_config(core, args.device, placement, args.hint.upper(), args.ov_config)
    started = time.perf_counter()
    try:
        model = core.read_model(args.model_path)
        if len(model.inputs) != 1 or len(model.outputs) != 2 or model.input().partial_shape.is_dynamic:
            raise UserError(f"{args.model_path} is not a segmentation model of fixed size: export one with export.py")
        _, *size = model.input().shape
        model.reshape([batch_size, *size])
        weight_format = place.weight_format(model)
        place.check_int8(placement, weight_format)
        steps = PrePostProcessor(model)
        steps.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
        steps.input().preprocess().convert_element_type(ov.Type.f32).scale(255.0)
        steps.input().model().set_layout(ov.Layout("NCHW"))
        compiled = core.compile_model(steps.build(), args.device, config)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"cannot load {args.model_path}: {cli.one_line(error)} (export it again with export.py)") from None
    return compiled, weight_format, time.perf_counter() - started


def requests_at_a_time(compiled, args: argparse.Namespace) -> int:
    return args.num_requests or compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")


def objects_of(request, box: Letterbox, args: argparse.Namespace, place_in_batch: int = 0) -> Detections:
    """What a request that is done has found in one of its frames."""
    predictions, prototypes = (request.get_output_tensor(i).data[place_in_batch] for i in (0, 1))
    return find_objects(predictions, prototypes, box, args.conf, args.iou)


STAGES = ("decode", "letterbox", "postprocess", "save", "draw", "encode")  # besides inference


@dataclass
class Frame:
    """A frame on its way, and what became of it."""

    pixels: np.ndarray  # uint8 [H, W, 3], RGB
    pts: int  # when it is shown, in units of the source's time_base
    audio: list  # packets passed on the way to it
    decoded_s: float  # when it was decoded
    took_s: dict[str, float]  # by stage
    found: list[str] = field(default_factory=list)  # classes of objects
    told: list[dict] = field(default_factory=list)  # what --save_detections tells of them
    inference_s: float = 0.0  # its OpenVINO request's time, over the frames in it


@dataclass
class Pass:
    """What one pass over a video took and found."""

    inference_s: list[float] = field(default_factory=list)  # of each frame
    latency_s: list[float] = field(default_factory=list)  # of each frame, from decoded to taken by the encoder, or to drawn
    busy_s: Counter = field(default_factory=Counter)  # by stage, in all its threads together
    found: Counter = field(default_factory=Counter)  # objects by class


@contextmanager
def timed(took_s: dict[str, float], stage: str) -> Iterator[None]:
    """Count the `with` block's time as spent in `stage`."""
    started = time.perf_counter()
    yield
    took_s[stage] = took_s.get(stage, 0.0) + time.perf_counter() - started


class Pipeline:
    """One pass over a video: a thread decodes, workers segment and draw, the caller encodes.

    There are a few more workers than OpenVINO wants requests to run, for what is to be done before and after inference. What
    is under way stands in a short queue in the order of decoding: frames stay in order, and memory does not grow with the video.
    """

    def __init__(self, compiled, args: argparse.Namespace, names: dict[int, str]):
        self.args, self.names = args, names
        self.batch_size, *self.input_size, _ = compiled.input().shape
        self.parallel = requests_at_a_time(compiled, args)
        self.workers = self.parallel + max(SPARE_REQUESTS, self.parallel // 4)
        self.free, self.running = queue.Queue(), threading.Semaphore(self.parallel)
        for _ in range(self.workers):
            self.free.put(compiled.create_infer_request())

    def run(self, source: VideoSource, writer: VideoWriter | None, detections: DetectionsWriter | None = None) -> Pass:
        """Segment the whole video, or, after source.stop(), what has been decoded of it."""
        done, stop = Pass(), threading.Event()
        under_way = queue.Queue(maxsize=self.workers - 2)  # besides it, one batch is being handed in and one taken out

        def decode():
            try:
                for batch in self._batches(source):
                    under_way.put(workers.submit(self._segment, batch))
                    if stop.is_set():
                        break
            except BaseException as error:
                under_way.put(_failed(error))
            finally:
                under_way.put(None)

        with ThreadPoolExecutor(self.workers) as workers, ThreadPoolExecutor(1) as decoder:
            decoder.submit(decode)
            try:
                for number, frame in enumerate(frame for future in iter(under_way.get, None) for frame in future.result()):
                    if writer:
                        with timed(frame.took_s, "encode"):
                            writer.write_audio(frame.audio)
                            writer.write(frame.pixels, frame.pts)
                    done.latency_s.append(time.perf_counter() - frame.decoded_s)
                    if detections:
                        detections.write(number, float(frame.pts * source.time_base), frame.told)
                    done.inference_s.append(frame.inference_s)
                    done.busy_s.update(frame.took_s)
                    done.found.update(frame.found)
            except BaseException:
                stop.set()
                for _ in iter(under_way.get, None):  # let the decoder run dry
                    pass
                raise
        if writer:
            writer.write_audio(source.take_audio())
        return done

    def _batches(self, source: VideoSource) -> Iterator[list[Frame]]:
        frames = source.frames(self.args.max_frames)
        while True:
            batch = []
            while len(batch) < self.batch_size:
                took_s = {}
                with timed(took_s, "decode"):
                    pixels, pts = next(frames, (None, None))
                if pixels is None:
                    break
                batch.append(Frame(pixels, pts, source.take_audio(), time.perf_counter(), took_s))
            if not batch:
                return
            yield batch

    def _segment(self, batch: list[Frame]) -> list[Frame]:
        """Find the objects in these frames and draw them."""
        request = self.free.get()
        try:
            boxes = [Letterbox(*frame.pixels.shape[:2], *self.input_size) for frame in batch]
            for frame, box, network_input in zip(batch, boxes, request.get_input_tensor().data):
                with timed(frame.took_s, "letterbox"):
                    box.place(frame.pixels, network_input)
            with self.running:
                request.start_async()
                request.wait()
            found = []
            for index, (frame, box) in enumerate(zip(batch, boxes)):
                frame.inference_s = request.latency / 1000 / len(batch)
                with timed(frame.took_s, "postprocess"):
                    found.append(objects_of(request, box, self.args, index))
        finally:
            self.free.put(request)
        for frame, objects in zip(batch, found):
            frame.found = objects.named(self.names)
            if self.args.save_detections:
                with timed(frame.took_s, "save"):
                    frame.told = objects.told(self.names, frame.pixels.shape[:2])
            with timed(frame.took_s, "draw"):
                draw(frame.pixels, objects, self.names)
        return batch


def _failed(error: BaseException) -> Future:
    future = Future()
    future.set_exception(error)
    return future


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


def one_pass(pipeline: Pipeline, source: VideoSource, args: argparse.Namespace, first: bool) -> Pass:
    """From opening the source to finished files. A pass that was cut short leaves its files only where it was the first."""
    video = detections = None
    whole = False
    try:
        if not args.no_output:
            video = VideoWriter(args.output, source, args.encoder, args.preset)
        if args.save_detections:
            detections = DetectionsWriter(args.save_detections)
        with ctrl_c_stops(source):
            done = pipeline.run(source, video, detections)
        whole = not source.stopped
        return done
    finally:
        for writer in (video, detections):
            if writer:
                writer.close(keep=whole or first)


def main() -> int:
    args = parse_args()
    placement = place.Placement.from_arguments(args)
    model_files.check_ir(args.model_path, hint=f"make it with `python3 export.py --output {args.model_path.parent}`")
    check_encoder(args.encoder)
    source = VideoSource(args.video, args.retry)
    if source.live:
        args.max_frames = args.max_frames or LIVE_FRAMES
    record.check_destination(args)
    if not args.no_output and args.output.resolve() == Path(args.video).resolve():
        raise UserError("--output is the input video: choose another name")
    cv2.setNumThreads(1)  # the pipeline's stages already run side by side

    compiled, weight_format, load_time_s = load(args, placement, args.batch_size)
    names = class_names(args.model_path.parent)
    pipeline = Pipeline(compiled, args, names)
    told_model = model_files.describe(args.model_path.stem, args.model_path.parent, [args.model_path], weight_format)
    told_placement = place.describe(placement, {"model": compiled})
    machine = record.introduce(told_model, told_placement, args.device, load_time_s,
                               more=f"; {pipeline.parallel} requests at a time")  # fmt: skip

    for _ in range(args.warmup):
        one_pass(pipeline, source, args, first=True)
        if source.stopped:
            raise KeyboardInterrupt

    stages = [stage for stage in STAGES
              if not (args.no_output and stage == "encode") and (args.save_detections or stage != "save")]  # fmt: skip
    names_of_samples = ("frames_per_second", "inference_time_s", "inference_time_per_frame_s", "frame_latency_s",
                        "cpu_time_per_frame_s", "pipeline_efficiency")  # fmt: skip
    samples = {name: [] for name in (*names_of_samples, *(f"{stage}_time_per_frame_s" for stage in stages))}
    found = []
    with measure.Watch() as watch:
        for _ in measure.iterations(args.num_iters, args.min_duration):
            started, cpu_started = time.perf_counter(), time.process_time()
            done = one_pass(pipeline, source, args, first=not (found or args.warmup))
            pass_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu_started
            frames = len(done.inference_s)
            if source.stopped and (found or not frames):  # a part of a pass counts only where there is no whole one
                raise KeyboardInterrupt
            if not frames:
                raise UserError(source.lost or f"{source.name} holds no frame that can be decoded")
            samples["frames_per_second"].append(frames / pass_s)
            samples["inference_time_s"].append(pass_s)
            samples["inference_time_per_frame_s"] += done.inference_s
            samples["frame_latency_s"] += done.latency_s
            samples["cpu_time_per_frame_s"].append(cpu_s / frames)
            samples["pipeline_efficiency"].append(cpu_s / pass_s / len(placement.cpus))
            for stage in stages:
                samples[f"{stage}_time_per_frame_s"].append(done.busy_s[stage] / frames)
            found.append((frames, done.found))
            if source.stopped:
                raise KeyboardInterrupt
            if source.lost:
                raise UserError(source.lost)
    if not found:
        raise UserError(watch.error) if watch.status == "failed" else KeyboardInterrupt

    frames, found_in_all = found[-1]
    higher = {"frames_per_second": "frames/s", "pipeline_efficiency": "share"}
    metrics = {name: measure.summarize(values, higher.get(name, "s"), "higher" if name in higher else "lower")
               for name, values in samples.items()}  # fmt: skip
    metrics["load_time_s"] = measure.summarize([load_time_s], "s", "lower")
    metrics["peak_rss_bytes"] = measure.summarize([watch.usage["peak_rss_bytes"]], "bytes", "lower")
    end, taken = ("drawing", "drawn") if args.no_output else ("encoding", "taken by the encoder")
    print(f"\nInference time per frame: {measure.describe(metrics['inference_time_per_frame_s'])}")
    print(f"Throughput: {measure.describe(metrics['frames_per_second'])}, decoding to {end}")
    print(f"Frame latency: {measure.describe(metrics['frame_latency_s'])}, from decoded to {taken}")
    frame_s = 1 / metrics["frames_per_second"]["median"]
    threads = {"decode": 1, "encode": 1, "inference": pipeline.parallel}  # of a stage; the others': all workers
    shares = {stage: metrics[f"{stage}_time_per_frame_s"]["median"] / threads.get(stage, pipeline.workers)
              for stage in (*stages, "inference")}  # fmt: skip
    told = ", ".join(f"{stage} {s / frame_s:.0%}" for stage, s in sorted(shares.items(), key=lambda item: -item[1]))
    print(f"Busy share of each stage: {told}")
    cpu_s, efficiency = (metrics[name]["median"] for name in ("cpu_time_per_frame_s", "pipeline_efficiency"))
    print(f"CPU: {cpu_s:.4g} core-seconds a frame; {efficiency:.0%} of {len(placement.cpus)} CPUs at work")
    measure.tell_energy(metrics, watch, args.device, "frame", sum(count for count, _ in found))
    told = ", ".join(f"{count} × {name}" for name, count in found_in_all.most_common()) or "nothing"
    print(f"Found in {frames} frames: {told}; peak memory {watch.usage['peak_rss_bytes'] / 2**30:.2f} GiB")
    if not args.no_output:
        print(f"Video: {args.output}")
    if args.save_detections:
        print(f"Detections: {args.save_detections}")
    print()

    preset = args.preset or PRESETS.get(args.encoder)
    run = record.build(
        "video",
        args,
        headline="frames_per_second",
        metrics=metrics,
        samples=samples,
        model=told_model,
        source={
            "name": source.name,
            "sha256": source.sha256(),
            "width": source.width,
            "height": source.height,
            "codec": source.codec,
            "source_frames_per_second": float(source.rate),
        },
        machine=machine,
        placement=told_placement,
        watch=watch,
        output={
            "frames": frames,
            "damaged": source.damaged,
            "reconnected": source.reconnected,
            "found": dict(found_in_all.most_common()),
            "same_detections_every_iteration": all(each == found[0] for each in found),
        },
        resolved={
            "runtime": "openvino",
            "requests": pipeline.parallel,
            "encoder": None if args.no_output else " ".join(filter(None, (args.encoder, preset))),
        },
    )
    run["trouble"] += signs_of(source, frames, whole=watch.status == "complete" and not args.max_frames,
                               frames_per_second=metrics["frames_per_second"]["median"])  # fmt: skip
    return record.finish(run, args)


def signs_of(source: VideoSource, frames: int, whole: bool, frames_per_second: float) -> list[str]:
    """What the source did that speaks against the result."""
    signs = []
    if whole and (source.damaged or frames < source.announced_frames):
        announced = f" of the {source.announced_frames} announced" if source.announced_frames else ""
        signs.append(f"the video is damaged or cut: {frames} frames{announced} could be decoded")
    if source.reconnected:
        signs.append(
            f"the source was lost and came back {source.reconnected} time(s) in the last pass: the gaps are in the figures"
        )
    if source.live and frames_per_second > 0.95 * source.rate:
        signs.append(
            f"frames came at {source.rate:.3g} a second: this is the camera's rate, not what the machine can do (see density.py)"
        )
    return signs


if __name__ == "__main__":
    cli.run(main)
