"""The video workload, run as a user runs it, on the demo model that ./run.sh --prepare exports."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from fractions import Fraction

import av
import infer
import numpy as np
import pytest
from conftest import REPO, assert_one_line
from video_media import CLIP, DEMO_WEIGHTS, MODEL, ONE_PASS, Score, flat, write_clip

from harness.openvino_setup import Placement

os.environ.update(YOLO_AUTOINSTALL="false", YOLO_OFFLINE="true")


def times_of(path) -> list[float]:
    """Seconds at which each frame of a video is shown."""
    with av.open(str(path)) as container:
        return [frame.time for frame in container.decode(video=0)]


def numbered_frames(count, height=90, width=160):
    """Frames that tell their number: ever brighter."""
    return [np.full((height, width, 3), 20 + 10 * n, np.uint8) for n in range(count)]


def test_the_guides_command_segments_every_frame_and_writes_a_playable_video(video, tmp_path):
    out = tmp_path / "out.mp4"
    run, printed = video.measure(
        "--model_path=yolov8n-seg_openvino_model/yolov8n-seg.xml",
        "--device=CPU",
        "--video=pharmacy_drivethru.mp4",
        "--output",
        out,
        "--num_iters",
        1,
        "--warmup",
        0,
        fresh=True,
    )
    assert printed.count("Inference time per frame: ") == 1 and " frames/s" in printed
    assert run["output"]["frames"] == 40
    frames = run["parameters"]["frames_per_iteration"]
    assert frames % 40 == 0 and frames >= 20 * run["parameters"]["requests"]
    assert [len(each) for each in run["samples"]["inference_time_per_frame_s"]] == [frames]
    assert len(run["samples"]["frames_per_second"]) == 1
    rates, times_s = (flat(run["samples"][name]) for name in ("frames_per_second", "pass_time_s"))
    assert rates == pytest.approx([40 / time_s for time_s in times_s])
    assert (
        set(run["output"]["found"]) == {"car", "person"}
        and min(run["output"]["found"].values()) > 40
    )
    with av.open(str(out)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.width, stream.height, stream.average_rate) == (
            "h264",
            768,
            432,
            10,
        )
    assert times_of(out) == pytest.approx(times_of(CLIP), abs=1e-3)
    assert not out.with_name("out.partial.mp4").exists()


def find_in(frames):
    """(network input, detections of the exported demo model) of frames, by the kit's own code."""
    import openvino as ov
    from picture import standard
    from segmentation import Letterbox, Thresholds, find_objects

    compiled = ov.Core().compile_model(MODEL, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for frame in frames:
        height, width = frame.shape[:2]
        box, network_input = Letterbox(height, width, 640, 640), np.zeros((640, 640, 3), np.uint8)
        box.place(standard(av.VideoFrame.from_ndarray(frame)), network_input)
        outputs = compiled(network_input.transpose(2, 0, 1)[None].astype(np.float32) / 255)
        prototypes = outputs[1][0].transpose(1, 2, 0)
        found = find_objects(outputs[0][0], prototypes, box, Thresholds(0.25, 0.7))
        yield network_input, found


def full_mask(found, index, shape):
    x0, y0, x1, y1 = found.corners[index]
    mask = np.zeros(shape, bool)
    mask[y0:y1, x0:x1] = found.masks[index]
    return mask


def test_the_demo_model_finds_what_was_drawn_in_clips_it_never_saw():
    from make_clip import SEED
    from scenes import clip
    from train import TRAIN_SEEDS

    overall = Score()
    for seed in (SEED, 164, 31, 32):
        assert seed < TRAIN_SEEDS
        score = Score()
        moments = list(clip(seed, 5, 0.5))
        for (scene, t_s, _, ids), (_, found) in zip(
            moments, find_in(frame for _, _, frame, _ in moments)
        ):
            kinds = enumerate(found.classes)
            masks = [(int(kind), full_mask(found, i, ids.shape)) for i, kind in kinds]
            score.add_frame(scene, t_s, ids, masks)
        overall.add(score)
        if seed == SEED:
            assert score.recall >= 0.95
    assert overall.drawn > 50 and overall.recall >= 0.95 and overall.false_share < 0.05


def test_the_shipped_clip_is_the_one_drawn_from_the_seed():
    from make_clip import FPS, SEED
    from scenes import clip

    with av.open(str(CLIP)) as container:
        shipped = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    for index, (_, _, drawn, _) in enumerate(clip(SEED, 21, FPS)):
        if index % 10 == 0:
            assert np.abs(shipped[index].astype(int) - drawn.astype(int)).mean() < 6
    assert len(shipped) == 40


def test_boxes_and_masks_agree_with_ultralytics_own_on_pytorch():
    import torch
    from scenes import clip
    from ultralytics import YOLO
    from ultralytics.utils import nms, ops

    network = YOLO(DEMO_WEIGHTS).model.float().eval()
    frames = [frame for _, _, frame, _ in clip(164, 3, 0.5)]
    compared = 0
    for frame, (network_input, found) in zip(frames, find_in(frames)):
        with torch.no_grad():
            raw = network(
                torch.from_numpy(network_input.transpose(2, 0, 1)[None].astype(np.float32) / 255)
            )
        predictions, prototypes = (
            raw[0]
            if isinstance(raw[0], tuple)
            else (raw[0], raw[1]["proto"] if isinstance(raw[1], dict) else raw[1][-1])
        )
        (theirs,) = nms.non_max_suppression(predictions, 0.25, 0.7, nc=80)
        boxes = ops.scale_boxes((640, 640), theirs[:, :4].clone(), frame.shape)
        masks = (
            ops.process_mask_native(prototypes[0], theirs[:, 6:], boxes, frame.shape[:2])
            .bool()
            .numpy()
        )
        assert len(theirs) == len(found.boxes) > 0
        np.testing.assert_allclose(found.boxes, boxes.numpy(), atol=0.5)
        np.testing.assert_allclose(found.scores, theirs[:, 4].numpy(), atol=1e-3)
        assert found.classes.tolist() == theirs[:, 5].int().tolist()
        for index, mask in enumerate(masks):
            mine = full_mask(found, index, mask.shape)
            x0, y0, x1, y1 = found.corners[index]
            for inside, least in ((1, 0.995), (0, 0.95)):  # a box's edge may be one between pixels
                area = slice(y0 + inside, y1 - inside), slice(x0 + inside, x1 - inside)
                both, either = mine[area] & mask[area], mine[area] | mask[area]
                assert both.sum() / either.sum() >= least
            compared += 1
    assert compared >= 10


@pytest.mark.parametrize("rate", [Fraction(25, 2), Fraction(30000, 1001)])
def test_a_fractional_frame_rate_is_kept(measure, tmp_path, rate):
    clip, out = write_clip(tmp_path / "in.mp4", numbered_frames(8), rate), tmp_path / "out.mp4"
    measure("--output", out, *ONE_PASS, video=clip)
    assert times_of(out) == pytest.approx([n / float(rate) for n in range(8)], abs=1e-3)


def test_frames_at_uneven_times_stay_at_their_times_and_in_order(measure, tmp_path):
    pts = [0, 40, 300, 310, 900, 1500]
    clip = write_clip(
        tmp_path / "in.mkv", numbered_frames(6), 25, pts=pts, time_base=Fraction(1, 1000)
    )
    out = tmp_path / "out.mp4"
    measure("--output", out, "--conf", 1, *ONE_PASS, video=clip)  # draws nothing
    assert times_of(out) == pytest.approx([t / 1000 for t in pts], abs=2e-3)
    with av.open(str(out)) as container:
        brightness = [frame.to_ndarray(format="gray").mean() for frame in container.decode(video=0)]
    assert brightness == sorted(brightness)


def test_odd_sizes_are_encoded(measure, tmp_path):
    clip, out = write_clip(tmp_path / "in.mkv", numbered_frames(3, 91, 161)), tmp_path / "out.mp4"
    measure("--output", out, *ONE_PASS, video=clip)
    with av.open(str(out)) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (162, 92)


def test_a_cut_video_is_measured_to_its_last_whole_frame(measure, tmp_path):
    whole = tmp_path / "whole.mkv"
    rng = np.random.default_rng(0)
    write_clip(whole, [rng.integers(0, 255, (90, 160, 3), np.uint8) for _ in range(20)])
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    _, run = measure("--output", tmp_path / "out.mp4", *ONE_PASS, video=cut)
    assert 2 <= run["output"]["frames"] < 20
    assert len(times_of(tmp_path / "out.mp4")) == run["output"]["frames"]
    if run["output"]["damaged"]:
        assert any("damaged or cut" in warning for warning in run["warnings"])


def test_encoding_can_be_left_out_and_frames_limited(measure, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    _, run = measure("--no_output", "--max_frames", 5, *ONE_PASS)
    assert run["output"]["frames"] == 5 and "drawing" in capsys.readouterr().out
    assert [each.name for each in tmp_path.iterdir()] == ["results"]


def test_latency_and_the_time_of_each_stage_are_measured(measure, tmp_path, capsys):
    _, run = measure(
        "--output", tmp_path / "out.mp4", "--max_frames", 8, *ONE_PASS, "--num_requests", 3
    )
    printed = capsys.readouterr().out
    assert run["parameters"]["requests"] == 3 and "3 concurrent request(s)" in printed
    assert "Busy share of each stage" in printed
    metrics, samples = run["metrics"], run["samples"]
    latencies_s = flat(samples["frame_latency_s"])
    inferences_s = flat(samples["inference_time_per_frame_s"])
    assert run["output"]["frames"] == 8 and len(latencies_s) == len(inferences_s) == 64
    assert all(latency_s > inference_s for latency_s, inference_s in zip(latencies_s, inferences_s))
    stages = [
        name
        for name in metrics
        if name.endswith("_time_per_frame_s") and not name.startswith(("inference", "cpu"))
    ]
    expected = {"decode", "letterbox", "postprocess", "draw", "encode"}
    assert {name.split("_")[0] for name in stages} == expected
    cpu_s, utilization = (
        metrics[name]["median"] for name in ("cpu_time_per_frame_s", "cpu_utilization")
    )
    cores_busy = cpu_s * metrics["frames_per_second"]["median"]
    assert 0 < cores_busy / len(run["placement"]["cpus"]) == pytest.approx(utilization)
    assert utilization < 1.05
    # A stage is one thread: it can't be busy for longer than the frames took.
    assert all(
        0 < metrics[name]["median"] < 1 / metrics["frames_per_second"]["median"] for name in stages
    )


def test_the_latency_hint_runs_requests_one_by_one(measure):
    once = ("--num_iters", 1, "--warmup", 0)
    _, run = measure("--no_output", "--max_frames", 5, "--hint", "latency", *once)
    assert run["parameters"]["requests"] == 1 and "encode_time_per_frame_s" not in run["metrics"]
    assert run["placement"]["openvino_properties"]["model"]["PERFORMANCE_HINT"] == "LATENCY"


def test_ctrl_c_keeps_what_was_measured_and_a_playable_video(video, network, tmp_path):
    out = tmp_path / "out.mp4"
    endless = ("--num_iters", 100_000, "--warmup", 0, "--num_requests", 1)
    process = video.start("infer.py", "--model_path", network, "--output", out, *endless)
    while process.poll() is None and not out.exists():  # the first pass
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and "Traceback" not in errors
    run = video.last_record()
    assert run["status"] == "interrupted" and len(run["samples"]["frames_per_second"]) >= 1
    assert len(times_of(out)) == 40


def test_a_cut_video_that_says_its_length_is_warned_of(measure, tmp_path):
    rng = np.random.default_rng(0)
    whole, cut = tmp_path / "whole.mp4", tmp_path / "cut.mp4"
    with av.open(str(whole), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 160, 90, "yuv420p"
        for _ in range(20):
            container.mux(
                stream.encode(
                    av.VideoFrame.from_ndarray(
                        rng.integers(0, 255, (90, 160, 3), np.uint8), format="rgb24"
                    )
                )
            )
        container.mux(stream.encode(None))
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    _, run = measure("--output", tmp_path / "out.mp4", *ONE_PASS, video=cut)
    assert 2 <= run["output"]["frames"] < 20
    assert any(
        "damaged or cut" in warning and "of the 20 announced" in warning
        for warning in run["warnings"]
    )


@pytest.mark.parametrize("stage", ["objects_of", "draw", "decode", "encode"])
def test_a_failing_stage_ends_the_run_instead_of_hanging_it(network, monkeypatch, tmp_path, stage):
    import model
    import pipeline
    from segmentation import Thresholds
    from video_output import OutputSettings, VideoWriter
    from video_source import VideoSource

    def fail(*args):
        raise RuntimeError("broken stage")

    def broken_frames(max_frames):
        yield from itertools.islice(frames(max_frames), 3)
        fail()

    loaded = model.load(model.LoadSettings(network, Placement((0,), None, None, "auto")))
    source, output = VideoSource(str(CLIP)), tmp_path / "out.mp4" if stage == "encode" else None
    frames = source.frames
    if stage == "decode":
        monkeypatch.setattr(source, "frames", broken_frames)
    elif stage == "encode":
        monkeypatch.setattr(VideoWriter, "write", fail)
    else:
        monkeypatch.setattr(pipeline, stage, fail)
    settings = pipeline.PipelineSettings(Thresholds(0.25, 0.7), OutputSettings(output, None))
    with pytest.raises(RuntimeError, match="broken stage"):
        list(pipeline.Pipeline(loaded, settings).play(source))
    assert not list(tmp_path.iterdir())


def test_all_that_changes_the_timed_work_is_part_of_the_task(measure, tmp_path):
    less = ("--no_output", "--max_frames", 3, *ONE_PASS)
    _, plain = measure(*less)
    _, saved = measure(*less, "--save_detections", tmp_path / "d.jsonl")
    assert "detections saved" not in plain["task"] and saved["task"]["detections saved"] is True
    _, encoded = measure("--max_frames", 3, "--output", tmp_path / "out.mp4", *ONE_PASS)
    assert encoded["task"]["encoder"] == "libx264 veryfast" and "encoder" not in plain["task"]
    _, batched = measure(*less, "--batch_size", 2, "--num_requests", 1)
    assert batched["task"] == plain["task"]
    assert (batched["configuration"]["batch size"], batched["configuration"]["requests"]) == (2, 1)
    camera_hours, frames = plain["work"]
    assert camera_hours["unit"] == "1,000 camera-hours at 30 frames/s"
    assert (camera_hours["metric"], camera_hours["amount"]) == (
        "frames_per_second",
        30 * 3600 * 1000,
    )
    assert (frames["unit"], frames["amount"]) == ("million frames", 1e6)


def test_mistakes_end_in_one_line(video, refused, call, tmp_path):
    assert_one_line(video.infer("--video", tmp_path / "no.mp4"), "no video file")
    (tmp_path / "text.mp4").write_text("not a video\n" * 100)
    assert "can't be read as video" in refused(infer, "--video", tmp_path / "text.mp4")
    sound = REPO / "audio-ai-workload" / "sample.mp3"
    assert "no video stream" in refused(infer, "--video", sound)
    (tmp_path / "half.mp4").write_bytes(CLIP.read_bytes()[:60_000])  # its index was at the end
    assert "can't be read as video" in refused(infer, "--video", tmp_path / "half.mp4")
    assert "cannot write to" in refused(infer, "--output", tmp_path / "no" / "out.mp4")
    assert "cannot write the video" in refused(infer, "--output", tmp_path / "out.nothing")
    assert "choose another name" in refused(infer, "--output", CLIP)
    less = ("--no_output", "--model_path")
    assert "no device 'XPU'" in refused(infer, "--no_output", "--device", "XPU")
    assert "weights are fp32" in refused(infer, *less, MODEL, "--precision", "int8")
    line = refused(infer, *less, "nowhere/m.xml")
    assert "no model file nowhere/m.xml" in line and "export.py" in line
    shutil.copy(MODEL, tmp_path / "m.xml")
    assert "m.bin" in refused(infer, *less, tmp_path / "m.xml")
    (tmp_path / "m.bin").write_bytes(b"short")
    assert "cannot load" in refused(infer, *less, tmp_path / "m.xml")
    for option in (("--conf", "1.5"), ("--max_frames", "0"), ("--num_iters", "-1")):
        with pytest.raises(SystemExit, match="^2$"):
            call(infer, *option)
    assert CLIP.stat().st_size > 80_000


def test_weights_that_are_none_end_in_one_line(video, tmp_path):
    (tmp_path / "x.pt").write_bytes(b"no weights")
    assert_one_line(
        video.run("export.py", "--model", tmp_path / "x.pt", "--output", tmp_path / "out"),
        "x.pt is damaged, or no checkpoint",
    )
    assert_one_line(
        video.run("export.py", "--model", tmp_path / "no.pt", "--output", tmp_path / "out"),
        "no weights",
    )
    assert list(tmp_path.iterdir()) == [tmp_path / "x.pt"]


def test_real_people_are_found_with_the_official_architecture(
    video, measure, few_frames, tmp_path, shared
):
    folder = tmp_path / "coco_openvino_model"
    weights = shared / "models" / "yolov8n-seg.pt"
    done = video.run("export.py", "--model", weights, "--output", folder)
    assert done.returncode == 0, done.stderr
    with av.open(str(shared / "media" / "one-by-one-person-detection.mp4")) as container:
        pictures = itertools.islice(container.decode(video=0), 50, 120, 10)  # nobody in the first
        frames = [picture.to_ndarray(format="rgb24") for picture in pictures]
    clip = write_clip(tmp_path / "in.mp4", frames)
    how = ("--model_path", folder / "coco.xml", "--output", tmp_path / "out.mp4", *ONE_PASS)
    _, run = measure(*how, video=clip)
    assert run["output"]["frames"] == 7 and 4 <= run["output"]["found"].get("person", 0) <= 6


FIRST_ARRAYS = f"""
import sys, threading
sys.path.insert(0, {str(REPO)!r})
import openvino
from concurrent.futures import ThreadPoolExecutor
from harness import openvino_setup

core = openvino.Core()
placement = openvino_setup.Placement((0, 1), None, None, "auto")
config = openvino_setup.compile_config(core, "CPU", placement, "LATENCY", {{}})
compiled = core.compile_model(sys.argv[1], "CPU", config)
requests = [compiled.create_infer_request() for _ in range(3)]
together = threading.Barrier(3)

def first_array(request):
    together.wait()
    return request.get_input_tensor().data.shape

with ThreadPoolExecutor(3) as pool:
    list(pool.map(first_array, requests))
"""


def test_threads_with_their_first_arrays_at_the_same_time_do_not_wait_for_each_other(network):
    """Without openvino_setup.bind_numpy() one process in two or three hung."""
    for _ in range(8):
        subprocess.run([sys.executable, "-c", FIRST_ARRAYS, network], check=True, timeout=60)
