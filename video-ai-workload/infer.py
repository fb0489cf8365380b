"""Measure video segmentation: frames per second from source to file, and each frame's inference.

  python3 infer.py --model_path="yolov8n-seg_openvino_model/yolov8n-seg.xml" --device="CPU" \\
                   --video="pharmacy_drivethru.mp4"

Every frame is decoded, segmented (boxes, non-maximum suppression, masks at frame size), drawn over
and encoded. The video is played over and over without a pause: throughput is the frames finished
over time, measured while the pipeline is full. The output file is the first pass. A frame's
inference time is that of its OpenVINO request, while as many others run as OpenVINO finds best
(--hint, --num_requests). Its latency is from decoded to taken by the encoder. The busy share of
each stage and of the CPUs shows what limits.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's threads would spin against OpenVINO's

from harness import cli

cli.quit_on_signals()  # while the libraries load

import cv2
import model
from pipeline import STAGES, Frame, Pipeline, PipelineSettings, Window
from video_output import ENCODER, PRESETS, OutputSettings, check_encoder
from video_source import HELP, VideoSource

from harness import energy, files, instance, instances, model_files, progress, run, tune
from harness.cli import UserError
from harness.journal import Journal
from harness.monitor import iterations

OUTPUT = "output.mp4"
LIVE_FRAMES = 300  # per pass over a source that has no end
MOST_BUSY = 1.1  # share of the time that requests run; frames under way at both ends are part of it
FRAMES_PER_REQUEST = 20  # least frames of an iteration, per frame in flight
ITERATION = f"whole passes over the video, {FRAMES_PER_REQUEST} frames or more per frame in flight"
# What --tune looks at: throughput, latency, and options tried with the best layout.
TUNED = (
    "frames_per_second",
    "frame_latency_s",
    (("--hint", "latency"), ("--num_requests", "1"), ("--batch_size", "4")),
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    add = parser.add_argument
    add("--video", default=str(model_files.shown(model.DEMO_CLIP)), help=HELP)
    output = f"video file to write, with the source's audio (default: {OUTPUT})"
    add("--output", type=Path, help=output)
    add("--no_output", action="store_true", help="leave encoding out")
    add("--encoder", default=ENCODER, help="FFmpeg's name of the video encoder")
    preset = "the encoder's preset (default: veryfast for libx264 and libx265, else its own)"
    add("--preset", help=preset)
    detections = "write class, score, box and mask (COCO run lengths) of each object, as JSON Lines"
    add("--save_detections", type=Path, metavar="FILE", help=detections)
    frames = f"end each pass after N frames (default: all; {LIVE_FRAMES} of a live source)"
    add("--max_frames", type=cli.positive_int, metavar="N", help=frames)
    add("--batch_size", type=cli.positive_int, default=1, help="frames per request")
    retry = "how long a lost live source is tried again"
    add("--retry", type=cli.non_negative_float, default=30.0, metavar="S", help=retry)
    model.add_model_arguments(parser)
    model.add_parallel_arguments(parser)
    instances.add_arguments(parser)
    cli.add_common_arguments(parser, iteration=ITERATION, num_iters=6)
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    source = open_source(args)
    if instances.requested(args):
        return tune.measure(args, *TUNED) if args.tune else instances.measure(args)
    settings = pipeline_settings(args, source)
    parallel = {"hint": args.hint, "num_requests": args.num_requests}
    prepared = model.prepare(args, batch_size=args.batch_size, **parallel)
    pipeline = Pipeline(prepared.model, settings)

    described = describe(args, prepared, pipeline, source)

    windows: list[Window] = []
    with closing(pipeline.play(source)) as frames:  # in order, once encoded
        with progress.stage("Warming up"):
            for _ in islice(frames, pipeline.capacity):  # it fills
                pass
            instance.wait_for_others()
            for _ in range(args.warmup):
                next_window(frames, pipeline, *clocks())
        now = clocks()
        journal = run.start(args, **described)
        with journal.monitor as monitor:
            for _ in iterations(args.num_iters, args.min_duration, "Iterations"):
                window, now = next_window(frames, pipeline, *now)
                # A part of a window counts only where there is no whole one.
                if window.frames and (window.complete or not windows):
                    windows.append(window)
                    journal.add(samples_of(window, pipeline.pass_frames, prepared.placement))
                if source.stopped:
                    break
                if not window.complete:
                    raise UserError(
                        source.lost or f"{source.name} has no frame that can be decoded"
                    )
    if source.stopped:  # by Ctrl-C, which play() catches: it finishes the frames in flight
        if not windows:
            print(cli.NOTHING_MEASURED, file=sys.stderr)
            return cli.EXIT_INTERRUPTED
        monitor.status, monitor.error = "interrupted", cli.why_interrupted(KeyboardInterrupt())
    check_possible(pipeline, windows)
    record = build_record(args, described, prepared, pipeline, source, windows, journal)
    return run.finish(record, args)


def clocks() -> tuple[float, float]:
    """Wall clock and CPU time of the process, seconds."""
    return time.perf_counter(), time.process_time()


def next_window(
    frames: Iterator[Frame], pipeline: Pipeline, began_s: float, cpu_began_s: float
) -> tuple[Window, tuple[float, float]]:
    """What comes out of the full pipeline from `began_s` on, and the clocks when that ended.

    It ends with the last frame of whole passes, so that every window has the same content, and
    begins where the one before ended, so that no work falls between two windows.
    """
    window, ended_s = Window(), began_s
    least = FRAMES_PER_REQUEST * pipeline.model.requests * pipeline.batch_size
    for frame in frames:
        ended_s = time.perf_counter()
        window.add(frame, latency_s=ended_s - frame.decoded_s)
        of_pass = pipeline.pass_frames
        if window.frames >= least and of_pass and window.frames % of_pass == 0:
            window.complete = True
            break
    cpu_ended_s = time.process_time()
    window.wall_s, window.cpu_s = ended_s - began_s, cpu_ended_s - cpu_began_s
    return window, (ended_s, cpu_ended_s)


def open_source(args: argparse.Namespace) -> VideoSource:
    """The source; what cannot work is refused before anything is loaded. Raises UserError."""
    check_encoder(args.encoder)
    source = VideoSource(args.video, args.retry)
    check_outputs(args)
    cv2.setNumThreads(1)  # the pipeline's stages already run side by side
    return source


def check_outputs(args: argparse.Namespace) -> None:
    """Set --output's default. Raises UserError where a file could not be written, or is used."""
    args.output = None if args.no_output else instance.own_path(args.output, OUTPUT)
    if args.save_detections:
        args.save_detections = instance.own_path(args.save_detections, "")
    used = {Path(args.video).resolve(): "the input video"}
    given = {"--output": args.output, "--save_detections": args.save_detections}
    for option, path in given.items():
        if path and path.resolve() in used:
            raise UserError(f"{option} is {used[path.resolve()]}: choose another name")
        if path:
            used[path.resolve()] = f"{option}'s file, too"
            files.check_new(path, option, args.overwrite)
    if not args.no_output:
        args.output = files.output_path(args.output, OUTPUT, "--output", args.overwrite)


def pipeline_settings(args: argparse.Namespace, source: VideoSource) -> PipelineSettings:
    video = None if args.no_output else args.output
    preset = args.preset or PRESETS.get(args.encoder)
    output = OutputSettings(video, args.save_detections, args.encoder, preset)
    max_frames = args.max_frames or (LIVE_FRAMES if source.live else None)
    return PipelineSettings(model.thresholds(args), output, max_frames)


def samples_of(window: Window, pass_frames: int | None, placement: dict) -> dict[str, list[float]]:
    """A window's samples, by metric."""
    samples = {
        "frames_per_second": [window.frames / window.wall_s],
        "inference_time_per_frame_s": window.inference_s,
        "frame_latency_s": window.latency_s,
        "pass_time_s": [window.wall_s * pass_frames / window.frames] if pass_frames else [],
        "cpu_time_per_frame_s": [window.cpu_s / window.frames],
        "cpu_utilization": [window.cpu_s / window.wall_s / len(placement["cpus"])],
    }
    for stage in STAGES:
        if window.busy_s[stage]:
            samples[f"{stage}_time_per_frame_s"] = [window.busy_s[stage] / window.frames]
    return samples


def check_possible(pipeline: Pipeline, windows: list[Window]) -> None:
    """Raise UserError where more frames were counted than can have been segmented."""
    busy = pipeline.busy_shares(windows)["inference"]
    skipped = sum(time_s <= 0 for window in windows for time_s in window.inference_s)
    if skipped or busy > MOST_BUSY:
        raise UserError(
            f"faster than possible: {skipped} frames without inference, "
            f"{pipeline.model.requests} concurrent requests busy {busy:.0%} of the time"
        )


def of_one_pass(window: Window, pipeline: Pipeline) -> tuple[int, dict[str, int]]:
    """Frames of a pass, or of the part of one that was measured; objects found in it, by class."""
    passes = window.frames // pipeline.pass_frames if window.complete else 1
    found = {name: number // passes for name, number in window.found.most_common()}
    return window.frames // passes, found


def details(pipeline: Pipeline, windows: list[Window]) -> list[str]:
    """What is printed besides the metrics."""
    output = pipeline.settings.output
    busy = pipeline.busy_shares(windows).items()
    frames, found = of_one_pass(windows[-1], pipeline)
    objects = ", ".join(f"{count} × {name}" for name, count in found.items())
    lines = [
        f"Timed: decoding to {'encoding' if output.video else 'drawing'}, "
        f"{windows[-1].frames} frames per iteration",
        "Busy share of each stage: " + ", ".join(f"{stage} {share:.0%}" for stage, share in busy),
        f"Found in {frames} frames: {objects or 'nothing'}",
    ]
    lines += [f"Video: {output.video}"] * bool(output.video)
    return lines + [f"Detections: {output.detections}"] * bool(output.detections)


def describe(
    args: argparse.Namespace, prepared: model.Prepared, pipeline: Pipeline, source: VideoSource
) -> dict:
    """What the record says of the run before it has begun."""
    max_frames, fps = pipeline.settings.max_frames, model.CAMERA_FPS
    encoder = pipeline.settings.output.encoder_label
    requests = pipeline.model.requests
    return {
        "workload": "video",
        "title": "Video AI",
        "primary": "frames_per_second",
        "task": {
            "max frames": max_frames,
            "conf": args.conf,
            "iou": args.iou,
            "no output": args.no_output,
            "encoder": encoder,
            "detections saved": bool(args.save_detections),
            "steady state": True,  # unlike records from before it was measured so
        },
        "work": [
            (f"1,000 camera-hours at {fps:g} frames/s", "frames_per_second", fps * 3600 * 1000),
            ("million frames", "frames_per_second", 1e6),
        ],
        "input": source.describe(),
        "resolved": {"max_frames": max_frames, "encoder": encoder, "requests": requests},
        **prepared.record_parts(),
    }


def build_record(
    args: argparse.Namespace,
    described: dict,
    prepared: model.Prepared,
    pipeline: Pipeline,
    source: VideoSource,
    windows: list[Window],
    journal: Journal,
) -> dict:
    monitor, last = journal.monitor, windows[-1]
    measured = sum(window.frames for window in windows)
    energy_j = energy.per_unit_j(monitor.usage, monitor.status, args.device, measured)
    frames, found = of_one_pass(last, pipeline)
    to_its_end = monitor.status == "complete" and not pipeline.settings.max_frames
    rate = statistics.median(window.frames / window.wall_s for window in windows)
    same = all(each.found == last.found for each in windows)
    described["input"] = source.describe()
    described["resolved"]["frames_per_iteration"] = last.frames
    return run.build(
        args,
        **described,
        samples={
            **journal.samples,
            "energy_per_frame_j": [] if energy_j is None else [[energy_j]],
            "load_time_s": [[prepared.model.load_time_s]],
            "peak_rss_bytes": [[monitor.usage["peak_rss_bytes"]]],
        },
        monitor=monitor,
        output={
            "frames": frames,
            "damaged": source.damaged,
            "reconnected": source.reconnected,
            "found": found,
            "same_detections_every_iteration": None if source.live else same,
        },
        details=details(pipeline, windows),
        reasons=source.warnings(frames, rate, to_its_end),
    )


if __name__ == "__main__":
    cli.run(main)
