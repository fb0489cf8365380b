"""Sources and outputs: kinds of video, images, the network, audio, encoders, detections."""

import functools
import http.server
import json
import os
import subprocess
import threading
import time

import av
import cv2
import infer
import numpy as np
import psutil
import pytest
from camera import Camera
from conftest import assert_one_line
from segmentation import PALETTE, Detections, Letterbox, Thresholds, draw, find_objects
from video_media import CLIP, DEMO_MODEL, ONE_PASS, flat, write_clip
from video_output import OutputSettings, opened
from video_source import VideoSource

from harness.cli import UserError


@pytest.fixture
def camera(clip):
    camera = Camera(clip)
    camera.start()
    yield camera
    camera.stop()


def quarters(height=96, width=160):
    """A picture whose corners are red, green, blue and white, clockwise from the left upper one."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[: height // 2, : width // 2] = 255, 0, 0
    picture[: height // 2, width // 2 :] = 0, 255, 0
    picture[height // 2 :, width // 2 :] = 0, 0, 255
    picture[height // 2 :, : width // 2] = 255, 255, 255
    return picture


def frames_of(address, **how):
    """Each frame as RGB."""
    source = VideoSource(str(address), **how)
    return [frame.to_ndarray(format="rgb24") for frame, _ in source.frames()]


def audio_packets(path) -> list[tuple[float, bytes]]:
    with av.open(str(path)) as container:
        return [
            (round(float(p.pts * p.time_base), 3), bytes(p))
            for p in container.demux(audio=0)
            if p.dts is not None
        ]


@pytest.mark.parametrize(
    "pixels", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le"]
)
def test_colours_are_right_at_any_subsampling_and_depth(tmp_path, pixels):
    picture = quarters()
    (frame, *_) = frames_of(write_clip(tmp_path / "in.mp4", [picture] * 3, pixels=pixels))
    for rows in (slice(8, 40), slice(56, 88)):
        for columns in (slice(8, 72), slice(88, 152)):
            assert np.abs(frame[rows, columns].astype(int) - picture[rows, columns]).max() <= 8


@pytest.mark.parametrize("space", ["ITU601", "ITU709"])
@pytest.mark.parametrize("limits", ["MPEG", "JPEG"])
@pytest.mark.parametrize("height, width", [(96, 160), (95, 159)])
def test_the_output_has_the_sources_colours(tmp_path, space, limits, height, width):
    path, out, picture = tmp_path / "in.mkv", tmp_path / "out.mp4", quarters(height, width)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        frame = av.VideoFrame.from_ndarray(picture).reformat(
            format="yuv420p", dst_colorspace=space, dst_color_range=limits
        )
        for name in ("colorspace", "color_range"):
            setattr(stream.codec_context, name, getattr(frame, name))
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    source = VideoSource(str(path))
    with opened(OutputSettings(out, None), source) as outputs:
        for frame, pts in source.frames():
            outputs.video.write(frame, pts)
    (written,) = frames_of(out)
    for rows in (slice(8, 40), slice(56, 88)):
        for columns in (slice(8, 72), slice(88, 152)):
            assert np.abs(written[rows, columns].astype(int) - picture[rows, columns]).max() <= 12
    with av.open(str(out)) as container:
        assert next(container.decode(video=0)).colorspace == frame.colorspace


@pytest.mark.parametrize("space", ["ITU601", "ITU709"])
def test_masks_boxes_and_labels_are_drawn_in_their_colours_on_a_copy(space):
    grey, orange = 100, np.array(PALETTE[0])
    plain = av.VideoFrame.from_ndarray(np.full((120, 160, 3), grey, np.uint8)).reformat(
        format="yuv420p", dst_colorspace=space
    )
    before = plain.to_ndarray()
    corners = np.array([[31, 41, 131, 101]])
    mask = np.ones((60, 100), np.uint8)
    mask[:, 50:] = 0
    boxes, scores, classes = corners.astype(np.float32), np.array([0.9]), np.array([0])
    found = Detections(boxes, scores, classes, [mask], corners)
    drawn = draw(plain, found, {0: "car"}).to_ndarray(format="rgb24").astype(int)
    assert (plain.to_ndarray() == before).all()
    np.testing.assert_allclose(drawn[44:98, 36:76].mean((0, 1)), (grey + orange) / 2, atol=3)
    np.testing.assert_allclose(drawn[44:98, 86:126].mean((0, 1)), grey, atol=2)
    np.testing.assert_allclose(drawn[60:90, 131].mean(0), orange, atol=25)  # half of a pixel pair
    label = drawn[25:40, 32:90]
    assert np.abs(label - orange).max(2).min() < 8
    assert 0 < label.sum(2).min() < 100  # black text
    assert (drawn[:20] == drawn[0, 0]).all()


@pytest.mark.parametrize(
    "matrix, corners",
    [
        ((0, 1, -1, 0), "white red green blue"),  # to be shown turned by 90° clockwise
        ((-1, 0, 0, -1), "blue white red green"),
        ((0, -1, 1, 0), "green blue white red"),
    ],
)
def test_a_video_filmed_upright_is_turned_upright(tmp_path, matrix, corners):
    path = write_clip(tmp_path / "in.mp4", [quarters()] * 3)
    data = bytearray(path.read_bytes())
    header = data.index(b"tkhd") + 4
    a, b, c, d = (
        int(value * 65536) for value in matrix
    )  # 16.16 fixed point; ISO/IEC 14496-12, 8.3.2
    unity = 1 << 30
    data[header + 40 : header + 76] = b"".join(
        value.to_bytes(4, "big", signed=True) for value in (a, b, 0, c, d, 0, 0, 0, unity)
    )
    path.write_bytes(data)
    source = VideoSource(str(path))
    frame = frames_of(path)[0]
    height, width = frame.shape[:2]
    assert (
        (source.height, source.width)
        == (height, width)
        == ((160, 96) if matrix[0] == 0 else (96, 160))
    )
    colours = {
        "red": (255, 0, 0),
        "green": (0, 255, 0),
        "blue": (0, 0, 255),
        "white": (255, 255, 255),
    }
    seen = [
        frame[height // 4, width // 4],
        frame[height // 4, -width // 4],
        frame[-height // 4, -width // 4],
        frame[-height // 4, width // 4],
    ]
    names = [
        min(colours, key=lambda name: np.abs(np.array(colours[name]) - colour).sum())
        for colour in seen
    ]
    assert " ".join(names) == corners


def test_a_damaged_packet_in_mid_file_costs_only_its_frame(tmp_path):
    frames = [np.full((96, 160, 3), 20 + 10 * n, np.uint8) for n in range(20)]
    path = write_clip(tmp_path / "in.mkv", frames, codec="mjpeg", pixels="yuvj420p")
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.dts is not None][9]
        data = path.read_bytes()
        begin = data.index(bytes(packet))
    path.write_bytes(data[:begin] + bytes(packet.size) + data[begin + packet.size :])
    source = VideoSource(str(path))
    seen = [
        (round(frame.to_ndarray(format="rgb24").mean() / 10) - 2, float(pts * source.time_base))
        for frame, pts in source.frames()
    ]
    assert source.damaged == 1
    assert seen == [(n, pytest.approx(n / 10, abs=2e-3)) for n in range(20) if n != 9]


def test_a_decoder_has_the_threads_that_it_is_given():
    def played(threads: int) -> tuple[int, np.ndarray]:
        """How many threads there are for it, and its second frame."""
        before = psutil.Process().num_threads()
        frames = VideoSource(str(CLIP), decoder_threads=threads).frames()
        next(frames)
        picture = next(frames)[0].to_ndarray()
        return psutil.Process().num_threads() - before, picture

    (one, alone), (four, together) = played(1), played(4)
    assert (one, four) == (0, 4) and np.array_equal(alone, together)


def test_a_frame_without_a_time_is_shown_in_its_turn(monkeypatch, tmp_path):
    source = VideoSource(str(write_clip(tmp_path / "in.mkv", [quarters()] * 4)))
    decoded = source._decoded

    def one_untimed(container):
        for number, frame in enumerate(decoded(container)):
            frame.pts = None if number == 2 else frame.pts + 7000
            yield frame

    monkeypatch.setattr(source, "_decoded", one_untimed)
    monkeypatch.setattr(
        source, "_containers", lambda: (source.template() for _ in range(2))
    )  # lost once
    times = [float(pts * source.time_base) for _, pts in source.frames()]
    for begun in (0, 4):
        assert [time - times[begun] for time in times[begun : begun + 4]] == pytest.approx(
            [0, 0.1, 0.2, 0.3], abs=2e-3
        )


def test_a_still_image_and_a_folder_of_images_of_any_size(measure, few_frames, tmp_path):
    folder, out = tmp_path / "images", tmp_path / "out.mp4"
    folder.mkdir()
    scene = cv2.cvtColor(frames_of(CLIP)[20], cv2.COLOR_RGB2BGR)
    cv2.imwrite(str(folder / "a.png"), scene)
    (folder / "b.jpg").write_bytes(b"no image")
    cv2.imwrite(str(folder / "c.jpg"), cv2.resize(scene, (400, 300)))
    cv2.imwrite(str(folder / "d.JPG"), scene[:, :431])
    (folder / "notes.txt").write_text("not an image")
    _, run = measure(*DEMO_MODEL, "--output", out, *ONE_PASS, video=folder)
    assert (
        run["output"]["frames"] == 3
        and run["output"]["damaged"] == 1
        and len(run["input"]["sha256"]) == 64
    )
    assert any("3 frames of the 4 announced" in warning for warning in run["warnings"])
    assert sum(run["output"]["found"].values()) > 5
    with av.open(str(out)) as container:
        assert [(f.width, f.height) for f in container.decode(video=0)] == [(768, 432)] * 3
    assert [frame.shape for frame in frames_of(folder / "c.jpg")] == [(300, 400, 3)]


def test_the_audio_track_is_carried_over_as_it_is(measure, tmp_path):
    path = write_clip(tmp_path / "in.mp4", [quarters()] * 20, audio_rate=16_000)
    out = tmp_path / "out.mp4"
    measure("--output", out, *ONE_PASS, video=path)
    before, after = audio_packets(path), audio_packets(out)
    assert len(before) > 20 and after == [packet for packet in before if packet[0] >= 0]
    with av.open(str(out)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 20


def test_a_video_is_read_over_http(measure, refused, tmp_path):
    clip = write_clip(tmp_path / "clip.mkv", frames_of(CLIP)[:6])
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://me:secret@127.0.0.1:{server.server_port}/{clip.name}"
        _, run = measure("--no_output", *ONE_PASS, video=address)
        assert "can't be read as video" in refused(infer, "--video", address + ".gone")
        server.shutdown()
    assert run["output"]["frames"] == 6 and run["input"]["sha256"] is None
    assert run["input"][
        "name"
    ] == f"http://***@127.0.0.1:{server.server_port}/{clip.name}" and "secret" not in json.dumps(
        run
    )


def test_a_network_camera_is_measured_and_its_rate_not_taken_for_the_machines(
    measure, few_frames, camera, tmp_path
):
    out = tmp_path / "out.mp4"
    less = ("--max_frames", 12, "--num_iters", 2, "--warmup", 0, "--num_requests", 1)
    _, run = measure(*less, "--output", out, video=camera.address)
    assert run["output"]["frames"] == 12 and len(run["samples"]["frames_per_second"]) == 2
    assert "secret" not in json.dumps(run)
    with av.open(str(out)) as container:
        times = [frame.time for frame in container.decode(video=0)]
    assert times == pytest.approx([n / 10 for n in range(12)], abs=2e-3)


def test_a_camera_that_was_lost_is_reported_and_tried_again(camera, capsys):
    source, count = VideoSource(camera.address, retry_s=20), 0
    for count, (_, pts) in enumerate(source.frames(45), 1):
        if count == 5:
            camera.stop()
            threading.Timer(1, camera.start).start()
    assert count == 45 and source.reconnected >= 1 and source.lost is None
    assert f"{source.name} was lost: trying for 20 s" in capsys.readouterr().err


def test_a_camera_that_stays_away_ends_the_run_and_keeps_its_frames(video, network, camera):
    options = ("--model_path", network, "--no_output", *ONE_PASS, "--retry", 1)
    process = video.start("infer.py", "--video", camera.address, *options)
    while not list(video.results.glob("*.jsonl")):  # it measures
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    time.sleep(1)
    camera.stop()
    printed = process.communicate(timeout=60)
    done = subprocess.CompletedProcess(process.args, process.returncode, *printed)
    assert_one_line(done, "did not come back within 1 s (--retry)")
    run = video.last_record()
    assert run["status"] == "failed" and 0 < run["output"]["frames"] < 300
    assert len(flat(run["samples"]["frame_latency_s"])) == run["output"]["frames"]


def test_any_encoder_of_ffmpegs_can_be_chosen(measure, refused, tmp_path):
    out, encoder = tmp_path / "out.mkv", ("--encoder", "libx265", "--preset", "ultrafast")
    _, run = measure("--max_frames", 4, "--output", out, *encoder, *ONE_PASS)
    assert run["parameters"]["encoder"] == "libx265 ultrafast"
    with av.open(str(out)) as container:
        assert (
            container.streams.video[0].codec_context.name == "hevc"
            and sum(1 for _ in container.decode(video=0)) == 4
        )
    assert "no video encoder 'nonsense'" in refused(infer, "--encoder", "nonsense")
    wrong = ("--preset", "nonsense", "--output", tmp_path / "2.mkv", "--max_frames", 1)
    assert "cannot write the video" in refused(infer, *wrong)
    assert not list(tmp_path.glob("*.partial.*"))


def test_detections_are_saved_and_a_batch_finds_the_same(measure, few_frames, tmp_path):
    from pycocotools import mask as rle

    def detect(*options):
        path = tmp_path / f"{len(options)}.jsonl"
        how = ("--precision", "f32", "--no_output", "--max_frames", 5, *ONE_PASS)
        _, run = measure(*DEMO_MODEL, *how, "--save_detections", path, *options, video=CLIP)
        return run, [json.loads(line) for line in path.read_text().splitlines()]

    run, single = detect()
    assert len(single) == sum(run["output"]["found"].values()) > 12
    assert {d["frame"] for d in single} <= set(range(5)) and all(
        d["time_s"] == pytest.approx(d["frame"] / 10) for d in single
    )
    for d in single:
        left, top, right, bottom = d["box"]
        x, y, width, height = rle.toBbox(d["mask"])
        assert d["mask"]["size"] == [432, 768] and rle.area(d["mask"]) > 0
        assert (
            left - 1.5 <= x
            and top - 1.5 <= y
            and x + width <= right + 1.5
            and y + height <= bottom + 1.5
        )
    run, batched = detect("--batch_size", 2)
    assert run["output"]["frames"] == 5
    assert [(d["frame"], d["class"]) for d in batched] == [(d["frame"], d["class"]) for d in single]
    np.testing.assert_allclose([d["box"] for d in batched], [d["box"] for d in single], atol=0.1)


def test_what_is_no_source_ends_in_one_line(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "holds no images" in refused(infer, "--video", tmp_path / "empty")
    for source in ("/dev/video97", "rtsp://127.0.0.1:9/none"):
        assert f"{source} can't be read as video" in refused(infer, "--video", source)
    line = refused(infer, "--save_detections", tmp_path / "no" / "d.jsonl", "--no_output")
    assert "cannot write" in line and "--save_detections" in line


@pytest.mark.parametrize("width, height", [(3000, 2), (2, 3000), (1, 1), (3, 5), (5000, 16)])
def test_frames_of_any_size_are_segmented_drawn_and_encoded(tmp_path, width, height):
    rng = np.random.default_rng(width)
    codec, pixels = ("ffv1", "bgr0") if width % 2 or height % 2 else ("libx264", "yuv420p")
    frames = [rng.integers(0, 255, (height, width, 3), dtype=np.uint8) for _ in range(3)]
    source = VideoSource(str(write_clip(tmp_path / "in.mkv", frames, codec=codec, pixels=pixels)))
    box, network_input = Letterbox(height, width, 640, 640), np.empty((640, 640, 3), np.uint8)
    predictions = rng.uniform(0, 640, (116, 50)).astype(np.float32)
    predictions[4:84] = rng.uniform(0, 1, (80, 50))
    prototypes = rng.normal(size=(160, 160, 32)).astype(np.float32)
    with opened(OutputSettings(tmp_path / "out.mp4", None), source) as outputs:
        for frame, pts in source.frames():
            box.place(frame, network_input)
            found = find_objects(predictions, prototypes, box, Thresholds(0.25, 0.7))
            assert len(found.boxes)
            found.to_json({}, (height, width))
            outputs.video.write(draw(frame, found, {}), pts)
    assert len(frames_of(tmp_path / "out.mp4")) == 3


def test_a_video_3000_pixels_wide_and_2_high_is_measured(measure, few_frames, tmp_path):
    clip = write_clip(tmp_path / "in.mkv", [np.zeros((2, 3000, 3), np.uint8)] * 3)
    how = (*DEMO_MODEL, "--output", tmp_path / "out.mp4", *ONE_PASS)
    _, run = measure(*how, video=clip)
    assert run["output"]["frames"] == 3


@pytest.mark.parametrize("name", ["cut.mkv", "cut.mp4", "cut.ts"])
def test_a_cut_video_is_told_from_a_whole_one(tmp_path, name):
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (90, 160, 3), dtype=np.uint8) for _ in range(30)]
    path = write_clip(tmp_path / name, frames)
    if name == "cut.mp4":  # its index at its beginning
        with (
            av.open(str(path)) as source,
            av.open(str(tmp_path / "fast.mp4"), "w", options={"movflags": "faststart"}) as target,
        ):
            copy = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    packet.stream = copy
                    target.mux(packet)
        path = tmp_path / "fast.mp4"

    def warnings():
        source = VideoSource(str(path))
        return source.warnings(len(list(source.frames())), 1.0, whole=True)

    assert warnings() == []
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 4 // 10])
    if name != "cut.ts":  # says nothing of its length
        (warning,) = warnings()
        assert "damaged or cut" in warning


def test_damaged_videos_of_all_kinds_end_in_frames_or_one_line(tmp_path):
    rng = np.random.default_rng(15)
    frames = [rng.integers(0, 255, (64, 96, 3), dtype=np.uint8) for _ in range(4)]
    kinds = {"mp4": "libx264", "mkv": "libx264", "avi": "mpeg4", "webm": "libvpx", "ts": "libx264"}
    read = 0
    for suffix, codec in kinds.items():
        whole = write_clip(tmp_path / f"a.{suffix}", frames, codec=codec).read_bytes()
        for _ in range(12):
            damaged = bytearray(whole)
            for at in rng.integers(0, len(whole), 1 + len(whole) // 500):
                damaged[at] = rng.integers(256)
            path = tmp_path / f"damaged.{suffix}"
            path.write_bytes(damaged[: rng.integers(len(whole) // 2, len(whole))])
            try:
                read += len(frames_of(path))
            except UserError as error:
                assert "\n" not in str(error) and path.name in str(error)
    for suffix in ("png", "jpg", "bmp", "webp", "tiff"):
        path = tmp_path / f"a.{suffix}"
        cv2.imwrite(str(path), frames[0])
        whole = path.read_bytes()
        for _ in range(4):
            damaged = bytearray(whole)
            for at in rng.integers(0, len(whole), 10):
                damaged[at] = rng.integers(256)
            path.write_bytes(damaged)
            try:
                read += len(frames_of(path))
            except UserError as error:
                assert "\n" not in str(error)
    assert read


@pytest.mark.parametrize(
    "name", ["a:b.mp4", "\x1b[31mred.mp4", "new\nline.mp4", "$x$.mp4", b"\xff.mp4", "a%03d.png"]
)
def test_files_of_odd_names_are_read(tmp_path, name):
    path = tmp_path / os.fsdecode(name)
    if path.suffix == ".png":
        cv2.imwrite(str(tmp_path / "a.png"), quarters())
        (tmp_path / "a.png").rename(path)
    else:
        path.write_bytes(CLIP.read_bytes())
    assert frames_of(path) and VideoSource(str(path)).name == path.name


def test_a_name_too_long_or_a_folder_of_pipes_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no video file"):
        VideoSource("x" * 300 + ".mp4")
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(UserError, match="holds no images"):
        VideoSource(str(tmp_path))
    with pytest.raises(UserError, match="no video file"):
        VideoSource("/dev/zero")


def test_no_secret_of_a_cameras_address_is_printed(refused, capfd):
    """They cannot reach a record either: that of the address is redacted by the same function."""
    secret = "hunter2"
    for address in (
        f"rtsp://admin:{secret}@127.0.0.1:9/a",
        f"RTSP://admin:{secret}@127.0.0.1:9/a",
        f"rtsp://127.0.0.1:9/a?token={secret}&api_key={secret}",
        f"http://127.0.0.1:9/a?user=admin&password={secret}",
        f"rtsp:/admin:{secret}@127.0.0.1:9/a",
    ):
        line = refused(infer, "--video", address)
        assert secret not in "".join((line, *capfd.readouterr()))


def test_frames_that_were_not_segmented_are_not_counted():
    from types import SimpleNamespace

    import infer
    from pipeline import Pipeline, Window

    pipeline = object.__new__(Pipeline)
    pipeline.model, pipeline.workers = SimpleNamespace(requests=2), 4
    real = Window(inference_s=[0.1] * 19, wall_s=1.0)
    infer.check_possible(pipeline, [real])
    for window in (  # one skipped; thrice the frames that fit
        Window(inference_s=[0.1] * 19 + [0.0], wall_s=1.0),
        Window(inference_s=[0.1] * 60, wall_s=1.0),
    ):
        with pytest.raises(UserError, match="faster than possible"):
            infer.check_possible(pipeline, [real, window])
