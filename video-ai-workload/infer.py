"""Measure video segmentation: frames per second from file to file, and the inference time of each frame.

  python3 infer.py --model_path="yolov8n-seg_openvino_model/yolov8n-seg.xml" --device="CPU" --video="pharmacy_drivethru.mp4"

Every frame is decoded, segmented (boxes, non-maximum suppression, masks at frame size), drawn over and encoded.
Throughput is over all of that, from opening the video to the finished output file; a frame's inference time is that
of its OpenVINO request alone, while as many others run beside it as OpenVINO finds best (--hint, --num_requests). Its
latency is from decoded to taken by the encoder. How busy each stage was tells which one limits.
"""

import argparse
import os
import queue
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's threads would spin against OpenVINO's

import cv2

from harness import cli, measure, model as model_files, placement as place, record, system
from harness.cli import UserError
from segmentation import Detections, Letterbox, class_names, draw, find_objects
from video_files import ENCODER, PRESET, VideoReader, VideoWriter

SPARE_REQUESTS = 2  # that hold results while others run


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
    parser.add_argument("--video", type=Path, default=Path("pharmacy_drivethru.mp4"), help="video file")
    parser.add_argument("--output", type=Path, default=Path("output.mp4"), help="video file to write, H.264")
    parser.add_argument("--no_output", action="store_true", help="leave encoding out")
    parser.add_argument("--max_frames", type=cli.positive_int, help="stop each pass after this many frames")
    add_model_arguments(parser)
    add_parallel_arguments(parser)
    cli.add_common_arguments(parser, iteration="one pass over the video", num_iters=6)
    return parser.parse_args()


def load(args: argparse.Namespace, placement: place.Placement):
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


def objects_of(request, box: Letterbox, args: argparse.Namespace) -> Detections:
    """What a request that is done has found."""
    predictions, prototypes = (request.get_output_tensor(i).data[0] for i in (0, 1))
    return find_objects(predictions, prototypes, box, args.conf, args.iou)


STAGES = ("decode", "letterbox", "postprocess", "draw", "encode")  # besides inference


@dataclass
class Pass:
    """What one pass over a video took and found."""

    inference_s: list[float] = field(default_factory=list)  # of each frame's OpenVINO request
    latency_s: list[float] = field(default_factory=list)  # of each frame, from decoded to taken by the encoder, or to drawn
    busy_s: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    found: Counter = field(default_factory=Counter)  # objects by class

    @contextmanager
    def busy(self, stage: str) -> Iterator[None]:
        """Count the `with` block's time as spent in `stage`; each stage runs in one thread."""
        started = time.perf_counter()
        yield
        self.busy_s[stage] += time.perf_counter() - started


class Pipeline:
    """One pass over a video: a thread decodes and starts inference, one finds and draws, the caller encodes.

    Frames stay in order because every queue keeps it; queues are short, so memory does not grow with the video. No more
    requests run than OpenVINO wants, so a request's latency is inference and no waiting.
    """

    def __init__(self, compiled, args: argparse.Namespace, names: dict[int, str]):
        self.args, self.names = args, names
        _, self.input_height, self.input_width, _ = compiled.input().shape
        self.parallel = requests_at_a_time(compiled, args)
        self.requests = [compiled.create_infer_request() for _ in range(self.parallel + SPARE_REQUESTS)]

    def run(self, reader: VideoReader, writer: VideoWriter | None) -> Pass:
        """Segment the whole video."""
        free, running, drawn = queue.Queue(), queue.Queue(), queue.Queue(maxsize=4)
        slots, stop = threading.Semaphore(self.parallel), threading.Event()
        for request in self.requests:
            request.set_callback(lambda _: slots.release(), None)
            free.put(request)
        box = Letterbox(reader.height, reader.width, self.input_height, self.input_width)
        done = Pass()

        def decode_and_start():
            frames = reader.frames(self.args.max_frames)
            while True:
                with done.busy("decode"):
                    frame, pts = next(frames, (None, None))
                if frame is None:
                    return
                decoded_s = time.perf_counter()
                request = free.get()
                with done.busy("letterbox"):
                    box.place(frame, request.get_input_tensor().data[0])
                slots.acquire()
                if stop.is_set():
                    slots.release()
                    return
                request.start_async()
                running.put((frame, pts, decoded_s, request))

        def find_and_draw():
            while (item := running.get()) is not None:
                frame, pts, decoded_s, request = item
                try:
                    request.wait()
                    if stop.is_set():
                        continue
                    done.inference_s.append(request.latency / 1000)
                    with done.busy("postprocess"):
                        found = objects_of(request, box, self.args)
                finally:
                    free.put(request)
                done.found.update(self.names.get(int(kind), str(kind)) for kind in found.classes)
                with done.busy("draw"):
                    draw(frame, found, self.names)
                drawn.put((frame, pts, decoded_s))

        with _Stages(stop) as stages:
            stages.start(decode_and_start, then=lambda: running.put(None))
            stages.start(find_and_draw, then=lambda: drawn.put(None), drain=lambda: self._return_requests(running, free))
            try:
                while (item := drawn.get()) is not None:
                    frame, pts, decoded_s = item
                    if writer:
                        with done.busy("encode"):
                            writer.write(frame, pts)
                    done.latency_s.append(time.perf_counter() - decoded_s)
            except BaseException:
                stop.set()
                while drawn.get() is not None:  # let the other stages run dry
                    pass
                raise
        return done

    @staticmethod
    def _return_requests(running: queue.Queue, free: queue.Queue) -> None:
        """After a failure: let the decoder, which may be waiting for a free request, see that it is to stop."""
        while (item := running.get()) is not None:
            request = item[-1]
            request.wait()
            free.put(request)


class _Stages:
    """Threads whose first exception is raised again by the `with` block's end."""

    def __init__(self, stop: threading.Event):
        self.stop, self.threads, self.errors = stop, [], []

    def start(self, work, then, drain=lambda: None) -> None:
        def guarded():
            try:
                work()
            except BaseException as error:
                self.errors.append(error)
                self.stop.set()
                drain()
            finally:
                then()

        self.threads.append(threading.Thread(target=guarded, daemon=True))
        self.threads[-1].start()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        for thread in self.threads:
            thread.join()
        if error is None and self.errors:
            raise self.errors[0]


def main() -> int:
    args = parse_args()
    placement = place.Placement.from_arguments(args)
    model_files.check_ir(args.model_path, hint=f"make it with `python3 export.py --output {args.model_path.parent}`")
    reader = VideoReader(args.video)
    record.check_destination(args)
    if not args.no_output and args.output.resolve() == args.video.resolve():
        raise UserError("--output is the input video: choose another name")
    cv2.setNumThreads(1)  # the pipeline's stages already run side by side

    compiled, weight_format, load_time_s = load(args, placement)
    names = class_names(args.model_path.parent)
    pipeline = Pipeline(compiled, args, names)
    told_model = model_files.describe(args.model_path.stem, args.model_path.parent, [args.model_path], weight_format)
    told_placement = place.describe(placement, {"model": compiled})
    machine = system.describe()
    print(f"Model: {model_files.one_line(told_model)}; loaded in {load_time_s:.1f} s")
    print(f"System: {system.one_line(machine)}")
    print(f"Placement: {place.one_line(told_placement, args.device)}; {pipeline.parallel} requests at a time", flush=True)

    def one_pass(keep_interrupted: bool):
        writer = None if args.no_output else VideoWriter(args.output, reader)
        try:
            result = pipeline.run(reader, writer)
        except BaseException:
            if writer:
                writer.close(keep=keep_interrupted)
            raise
        if writer:
            writer.close(keep=True)
        return result

    for _ in range(args.warmup):
        one_pass(keep_interrupted=True)

    stages = [stage for stage in STAGES if not (args.no_output and stage == "encode")]
    names_of_samples = ("frames_per_second", "inference_time_s", "inference_time_per_frame_s", "frame_latency_s")
    samples = {name: [] for name in (*names_of_samples, *(f"{stage}_time_per_frame_s" for stage in stages))}
    found = []
    with measure.Watch() as watch:
        for _ in measure.iterations(args.num_iters, args.min_duration):
            started = time.perf_counter()
            done = one_pass(keep_interrupted=not (found or args.warmup))
            pass_s = time.perf_counter() - started
            frames = len(done.inference_s)
            if not frames:
                raise UserError(f"{args.video} holds no frame that can be decoded")
            samples["frames_per_second"].append(frames / pass_s)
            samples["inference_time_s"].append(pass_s)
            samples["inference_time_per_frame_s"] += done.inference_s
            samples["frame_latency_s"] += done.latency_s
            for stage in stages:
                samples[f"{stage}_time_per_frame_s"].append(done.busy_s[stage] / frames)
            found.append((frames, done.found))
    if not found:
        raise UserError(watch.error) if watch.status == "failed" else KeyboardInterrupt

    frames, found_in_all = found[-1]
    metrics = {
        "frames_per_second": measure.summarize(samples["frames_per_second"], "frames/s", "higher"),
        **{name: measure.summarize(values, "s", "lower") for name, values in samples.items() if name != "frames_per_second"},
        "load_time_s": measure.summarize([load_time_s], "s", "lower"),
        "peak_rss_bytes": measure.summarize([watch.usage["peak_rss_bytes"]], "bytes", "lower"),
    }
    print(f"\nInference time per frame: {measure.describe(metrics['inference_time_per_frame_s'])}")
    print(
        f"Throughput: {measure.describe(metrics['frames_per_second'])}, decoding to {'drawing' if args.no_output else 'encoding'}"
    )
    print(
        f"Frame latency: {measure.describe(metrics['frame_latency_s'])}, from decoded to {'drawn' if args.no_output else 'taken by the encoder'}"
    )
    frame_s = 1 / metrics["frames_per_second"]["median"]
    shares = {stage: metrics[f"{stage}_time_per_frame_s"]["median"] for stage in stages}
    shares["inference"] = metrics["inference_time_per_frame_s"]["median"] / pipeline.parallel
    told = ", ".join(f"{stage} {s / frame_s:.0%}" for stage, s in sorted(shares.items(), key=lambda item: -item[1]))
    print(f"Busy share of each stage: {told}")
    told = ", ".join(f"{count} × {name}" for name, count in found_in_all.most_common()) or "nothing"
    print(f"Found in {frames} frames: {told}; peak memory {watch.usage['peak_rss_bytes'] / 2**30:.2f} GiB")
    if not args.no_output:
        print(f"Video: {args.output}")
    print()

    run = record.build(
        "video",
        args,
        headline="frames_per_second",
        metrics=metrics,
        samples=samples,
        model=told_model,
        source={
            "name": args.video.name,
            "sha256": model_files.sha256(args.video),
            "width": reader.width,
            "height": reader.height,
            "codec": reader.codec,
            "source_frames_per_second": float(reader.rate),
        },
        machine=machine,
        placement=told_placement,
        watch=watch,
        output={
            "frames": frames,
            "damaged": reader.damaged,
            "found": dict(found_in_all.most_common()),
            "same_detections_every_iteration": all(each == found[0] for each in found),
        },
        resolved={
            "runtime": "openvino",
            "requests": pipeline.parallel,
            "encoder": None if args.no_output else f"{ENCODER} {PRESET}",
        },
    )
    if watch.status == "complete" and not args.max_frames and (reader.damaged or frames < reader.announced_frames):
        announced = f" of the {reader.announced_frames} announced" if reader.announced_frames else ""
        run["trouble"].append(f"the video is damaged or cut: {frames} frames{announced} could be decoded")
    return record.finish(run, args)


if __name__ == "__main__":
    cli.run(main)
