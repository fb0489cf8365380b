"""Measure video segmentation: frames per second from source to file, and each frame's inference.

  python3 infer.py --model_path="yolov8n-seg_openvino_model/yolov8n-seg.xml" --device="CPU" \\
                   --video="pharmacy_drivethru.mp4"

Every frame is decoded, segmented (boxes, non-maximum suppression, masks at frame size), drawn over
and encoded. Throughput covers all of that, from opening the video to the finished output file. A
frame's inference time is that of its OpenVINO request, while as many others run as OpenVINO finds
best (--hint, --num_requests). Its latency is from decoded to taken by the encoder. The busy share
of each stage and of the CPUs shows what limits.
"""

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's threads would spin against OpenVINO's

from harness import cli

cli.quit_on_signals()  # while the libraries load

import cv2
import model
from pipeline import STAGES, Pass, Pipeline, PipelineSettings
from video_output import ENCODER, PRESETS, OutputSettings, check_encoder
from video_source import HELP, VideoSource

from harness import energy, files, progress, run
from harness.cli import UserError
from harness.monitor import SystemMonitor, iterations

OUTPUT = "output.mp4"
LIVE_FRAMES = 300  # per pass over a source that has no end


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    add = parser.add_argument
    add("--video", default=str(model.DEMO_CLIP), help=HELP)
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
    cli.add_common_arguments(parser, iteration="one pass over the video", num_iters=6)
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    source = open_source(args)
    settings = pipeline_settings(args, source)
    parallel = {"hint": args.hint, "num_requests": args.num_requests}
    prepared = model.prepare(args, batch_size=args.batch_size, **parallel)
    pipeline = Pipeline(prepared.model, settings)

    for _ in range(args.warmup):
        with progress.stage("Warming up"):
            pipeline.run(source, keep_partial=True)
        if source.stopped:
            return model.nothing_measured()

    passes: list[Pass] = []
    with SystemMonitor() as monitor:
        for _ in iterations(args.num_iters, args.min_duration, "Passes"):
            keep_partial = not passes and not args.warmup
            started_s, cpu_started_s = time.perf_counter(), time.process_time()
            done = pipeline.run(source, keep_partial)
            done.wall_s = time.perf_counter() - started_s
            done.cpu_s = time.process_time() - cpu_started_s
            # A part of a pass counts only where there is no whole one.
            if done.frames and (done.complete or not passes):
                passes.append(done)
            if not done.complete:
                break
            if source.lost or not done.frames:
                raise UserError(source.lost or f"{source.name} holds no frame that can be decoded")
    if source.stopped:
        monitor.status, monitor.error = "interrupted", "interrupted by the user"
    if not passes:
        return model.nothing_measured(monitor)
    return run.finish(build_record(args, prepared, pipeline, source, passes, monitor), args)


def open_source(args: argparse.Namespace) -> VideoSource:
    """The source; what cannot work is refused before anything is loaded. Raises UserError."""
    check_encoder(args.encoder)
    source = VideoSource(args.video, args.retry)
    check_outputs(args)
    cv2.setNumThreads(1)  # the pipeline's stages already run side by side
    return source


def check_outputs(args: argparse.Namespace) -> None:
    """Set --output's default. Raises UserError where a file could not be written, or is used."""
    if args.no_output:
        args.output = None
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


def samples_of(passes: list[Pass], cpus: int) -> dict[str, list[list[float]]]:
    """Of each metric, the samples of each pass. `cpus`: in the mask."""
    samples = {
        "frames_per_second": [[done.frames / done.wall_s] for done in passes],
        "inference_time_per_frame_s": [done.inference_s for done in passes],
        "frame_latency_s": [done.latency_s for done in passes],
        "pass_time_s": [[done.wall_s] for done in passes],
        "cpu_time_per_frame_s": [[done.cpu_s / done.frames] for done in passes],
        "cpu_utilization": [[done.cpu_s / done.wall_s / cpus] for done in passes],
    }
    for stage in STAGES:
        if any(done.busy_s[stage] for done in passes):
            per_frame_s = [[done.busy_s[stage] / done.frames] for done in passes]
            samples[f"{stage}_time_per_frame_s"] = per_frame_s
    return samples


def details(pipeline: Pipeline, passes: list[Pass]) -> list[str]:
    """What is printed besides the metrics."""
    output = pipeline.settings.output
    busy = pipeline.busy_shares(passes).items()
    last = passes[-1]
    found = ", ".join(f"{count} × {name}" for name, count in last.found.most_common())
    lines = [
        f"Timed: decoding to {'encoding' if output.video else 'drawing'}",
        "Busy share of each stage: " + ", ".join(f"{stage} {share:.0%}" for stage, share in busy),
        f"Found in {last.frames} frames: {found or 'nothing'}",
    ]
    lines += [f"Video: {output.video}"] * bool(output.video)
    return lines + [f"Detections: {output.detections}"] * bool(output.detections)


def build_record(
    args: argparse.Namespace,
    prepared: model.Prepared,
    pipeline: Pipeline,
    source: VideoSource,
    passes: list[Pass],
    monitor: SystemMonitor,
) -> dict:
    samples = samples_of(passes, len(prepared.placement["cpus"]))
    frames = sum(done.frames for done in passes)
    energy_j = energy.per_unit_j(monitor.usage, monitor.status, args.device, frames)
    samples |= {
        "energy_per_frame_j": [] if energy_j is None else [[energy_j]],
        "load_time_s": [[prepared.model.load_time_s]],
        "peak_rss_bytes": [[monitor.usage["peak_rss_bytes"]]],
    }
    last, fps, max_frames = passes[-1], model.CAMERA_FPS, pipeline.settings.max_frames
    encoder = pipeline.settings.output.encoder_label
    to_its_end = monitor.status == "complete" and not max_frames
    rate = statistics.median(done.frames / done.wall_s for done in passes)
    same = all(done.found == last.found for done in passes)
    return run.build(
        args,
        workload="video",
        title="Video AI",
        primary="frames_per_second",
        samples=samples,
        task={
            "max frames": max_frames,
            "conf": args.conf,
            "iou": args.iou,
            "no output": args.no_output,
            "encoder": encoder,
            "detections saved": bool(args.save_detections),
        },
        work=[
            (f"1,000 camera-hours at {fps:g} frames/s", "frames_per_second", fps * 3600 * 1000),
            ("million frames", "frames_per_second", 1e6),
        ],
        input=source.describe(),
        monitor=monitor,
        output={
            "frames": last.frames,
            "damaged": source.damaged,
            "reconnected": source.reconnected,
            "found": dict(last.found.most_common()),
            "same_detections_every_iteration": None if source.live else same,
        },
        details=details(pipeline, passes),
        resolved={
            "max_frames": max_frames,
            "encoder": encoder,
            "requests": pipeline.model.requests,
        },
        reasons=source.warnings(last.frames, rate, to_its_end),
        **prepared.record_parts(),
    )


if __name__ == "__main__":
    cli.run(main)
