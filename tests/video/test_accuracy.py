"""Mean average precision: of detections made up to be right or wrong, and of the demo model."""

import copy
import json

import accuracy
import pytest
from video_media import CLIP, MODEL


@pytest.fixture(scope="module")
def truth_file(tmp_path_factory):
    """Of the first half of the demo clip."""
    from make_clip import FPS, NUM_FRAMES, SEED, coco

    path = tmp_path_factory.mktemp("truth") / "truth.json"
    path.write_text(json.dumps(coco(SEED, NUM_FRAMES // 2, FPS)))
    return path


def score(truth_file, detections) -> dict[str, float]:
    from average_precision import mean_average_precision, read_truth

    truth = read_truth(truth_file)
    return mean_average_precision(truth, detections, sorted(truth.imgs), sorted(truth.cats))


def perfect(truth_file) -> list[dict]:
    dataset = json.loads(truth_file.read_text())["annotations"]
    kept = ("image_id", "category_id", "bbox", "segmentation")
    return [
        {**{name: copy.deepcopy(truth[name]) for name in kept}, "score": 0.9}
        for truth in dataset
        if not truth["iscrowd"]
    ]


def test_detections_equal_to_the_truth_score_1_and_none_score_0(truth_file):
    assert score(truth_file, perfect(truth_file)) == pytest.approx(
        dict.fromkeys(("mask_map50_95", "mask_map50", "box_map50_95", "box_map50"), 1.0)
    )
    assert set(score(truth_file, []).values()) == {0.0}


def test_half_of_the_objects_score_half_and_wrong_classes_nothing(truth_file):
    half = score(truth_file, perfect(truth_file)[::2])
    assert 0.4 < half["mask_map50_95"] < 0.6
    swapped = [{**found, "category_id": 2 - found["category_id"]} for found in perfect(truth_file)]
    assert score(truth_file, swapped)["mask_map50"] < 0.05


def test_the_demo_model_is_right_about_the_demo_clip(video, truth_file, tmp_path):
    done = video.run(
        "accuracy.py",
        "--ground_truth",
        truth_file,
        "--results_dir",
        video.results,
        "--precision",
        "f32",
        "--save_detections",
        tmp_path / "found.json",
        "--gate_limit",
        0.7,
        fresh=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    run = video.last_record()
    values = {name: metric["median"] for name, metric in run["metrics"].items()}
    gate = run["output"]["gate"]
    assert gate["passed"] and gate["value"] == values["mask_map50_95"] and gate["limit"] == 0.7
    assert run["workload"] == "video-accuracy" and run["output"]["images"] == 20
    assert (
        values["mask_map50"] > 0.95
        and values["mask_map50_95"] > 0.75
        and values["box_map50"] > 0.95
    )
    saved = json.loads((tmp_path / "found.json").read_text())
    assert len(saved) == run["output"]["detections"]
    assert score(truth_file, saved) == pytest.approx(values)


def test_images_in_a_folder_are_scored_like_the_frames_of_a_video(
    video, call, truth_file, tmp_path
):
    import cv2
    from video_source import VideoSource

    dataset = json.loads(truth_file.read_text())
    dataset["images"] = dataset["images"][:3]
    dataset["annotations"] = [truth for truth in dataset["annotations"] if truth["image_id"] < 3]
    for image, (frame, _) in zip(dataset["images"], VideoSource(str(CLIP)).frames(3)):
        image["file_name"] = f"{image['id']}.png"
        cv2.imwrite(str(tmp_path / image["file_name"]), frame.to_ndarray(format="bgr24"))
    (tmp_path / "few.json").write_text(json.dumps(dataset))
    values = []
    for source in (["--images", tmp_path], ["--max_images", 3]):
        assert call(accuracy, "--ground_truth", tmp_path / "few.json", *source) == 0
        values.append(
            {name: metric["median"] for name, metric in video.last_record()["metrics"].items()}
        )
    # RGB and back rounds.
    assert values[0] == pytest.approx(values[1], abs=0.02) and values[0]["mask_map50"] > 0.9


def test_mistakes_end_in_one_line(refused, truth_file, tmp_path):
    def line(truth, *options):
        return refused(accuracy, "--model_path", MODEL, "--ground_truth", truth, *options)

    assert "cannot read" in line(tmp_path / "no.json")
    (tmp_path / "odd.json").write_text('{"images": []}')
    assert "names no images" in line(tmp_path / "odd.json")
    (tmp_path / "cut.json").write_text('{"images": [')
    assert "not ground truth" in line(tmp_path / "cut.json")
    assert "can't be read as an image" in line(truth_file, "--images", tmp_path)
    other = json.loads(truth_file.read_text())
    other["categories"] = [{"id": 0, "name": "unicorn"}, {"id": 2, "name": "dragon"}]
    (tmp_path / "other.json").write_text(json.dumps(other))
    no_class = line(tmp_path / "other.json")
    assert "no class of the model" in no_class and "unicorn" in no_class
