import argparse
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import REPO

from harness import record, run, system
from harness.cli import UserError
from harness.monitor import SystemMonitor


def a_record(samples=None, **changes) -> dict:
    with SystemMonitor() as monitor:
        sum(range(1000))
    args = argparse.Namespace(results_dir=Path("results"), json=None, threads=2)
    placement = {
        "cpus": [0],
        "threads_requested": 2,
        "threads_requested_by": "--threads",
        "threads_effective": 1,
        "precision_requested": "auto",
        "precision_effective": "f32",
    }
    model = {
        "name": "m",
        "source": None,
        "weight_format": "int8",
        "bytes": 1,
        "sha256": "0" * 64,
        "files": [],
        "export": {},
    }
    built = run.build(
        args,
        workload="llm",
        title="LLM",
        primary="tokens_per_second",
        samples=samples or {"tokens_per_second": [[1.0], [2.0], [3.0]]},
        task={"max new tokens": 2},
        work=[("million tokens", "tokens_per_second", 1e6)],
        model=model,
        input={"name": "prompt", "sha256": "1" * 64},
        system=system.describe(),
        placement=placement,
        monitor=monitor,
        output={"text": "é"},
    )
    return {**built, **changes}


def test_a_record_reads_back_as_it_was_written(tmp_path):
    written = a_record()
    path = record.write(written, tmp_path / "a.json")
    assert record.read(path) == json.loads(json.dumps(written))
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_record_is_never_overwritten(tmp_path):
    path = record.write(a_record(), tmp_path / "a.json")
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        record.write(a_record(), path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_what_cannot_be_written_whole_leaves_nothing(tmp_path):
    with pytest.raises(ValueError):
        record.write(a_record(output={"bad": float("nan")}), tmp_path / "a.json")
    assert list(tmp_path.iterdir()) == []


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "where, value, kept",
    [
        ("wall_s", NAN, None),
        ("energy_j", {"package": -5.0, "dram": 1.0}, {"package": None, "dram": 1.0}),
        ("throttle_events", -3, None),
        ("busy_share_per_cpu", [0.5, INF], [0.5, None]),
        ("steal_share", 10**400, None),
    ],
)
def test_a_counter_that_is_no_possible_value_is_null_with_a_warning(tmp_path, where, value, kept):
    made = a_record()
    made["usage"][where] = value
    path = record.write(record.sanitized(made), tmp_path / "a.json")
    found = record.read(path)
    assert found["usage"][where] == kept and not found["validity"]["valid"]
    (warning,) = [each for each in found["warnings"] if f"usage.{where}" in each]
    assert "null in the record" in warning and warning in found["validity"]["reasons"]
    assert found["samples"] == made["samples"] and found["metrics"] == made["metrics"]


def test_samples_that_are_no_values_are_null_and_the_others_summarized(tmp_path):
    samples = {"tokens_per_second": [[1.0], [NAN], [3.0, INF], [5.0]], "mfu": [[NAN]]}
    made = record.sanitized(a_record(samples))
    found = record.read(record.write(made, tmp_path / "a.json"))
    assert found["samples"]["tokens_per_second"] == [[1.0], [None], [3.0, None], [5.0]]
    metric = found["metrics"]["tokens_per_second"]
    assert (metric["n"], metric["iterations"], metric["median"]) == (3, 3, 3.0)
    assert "mfu" not in found["metrics"] and found["samples"]["mfu"] == [[None]]
    warnings = [each for each in found["warnings"] if "no possible values" in each]
    assert warnings == [
        "tokens_per_second: 2 of 5 samples are no possible values: null",
        "mfu: 1 of 1 samples are no possible values: null",
    ]
    assert not found["validity"]["valid"]


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"metrics": {}}, "metrics"),
        ({"output": None}, "output"),
        ({"primary": "rtfx"}, "primary metric rtfx"),
        ({"model": {"name": 1}}, "model"),
        ({"warnings": None, "validity": None, "usage": {"wall_s": "x"}}, "usage"),
    ],
)
def test_a_record_that_does_not_validate_is_saved_and_marked(tmp_path, changes, words):
    path = record.write(record.sanitized(a_record(**changes)), tmp_path / "a.json")
    found = json.loads(path.read_text())
    assert not found["validity"]["valid"] and words in " ".join(found["validity"]["reasons"])
    with pytest.raises(record.RecordError):
        record.read(path)


def test_saving_never_fails_on_content(tmp_path):
    cycle: dict = {}
    cycle["again"] = cycle
    odd = [np.float32(2), np.array([1, 2]), Path("x"), b"b", {1, 2}, object(), cycle, "\ud800", INF]
    made = a_record(output={"odd": odd, (1, 2): "key", "\udcff": 1}, command=["\udcff"], details=[])
    made = record.sanitized({**made, "extra": NAN})
    found = json.loads(record.write(made, tmp_path / "a.json").read_text(encoding="utf-8"))
    assert found["output"]["odd"][:3] == [2.0, [1, 2], "x"] and found["command"] == ["\\udcff"]
    assert found["samples"] == made["samples"] and found["extra"] is None


def test_a_sound_record_is_left_as_it_is():
    made = a_record()
    assert record.sanitized(made) == made


def test_an_impossible_destination_is_found_before_measuring(tmp_path):
    (tmp_path / "file").write_text("")
    for args in (
        argparse.Namespace(json=None, results_dir=tmp_path / "file" / "below"),
        argparse.Namespace(json=tmp_path / "file", results_dir=tmp_path),
    ):
        with pytest.raises(UserError):
            run.check_destination(args)


def test_a_record_goes_elsewhere_when_its_folder_has_gone(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run.tempfile, "gettempdir", lambda: str(tmp_path))
    path = run.save(a_record(), argparse.Namespace(json=None, results_dir=tmp_path / "gone"))
    assert path.parent == tmp_path and record.read(path)
    assert "went elsewhere" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content, words",
    [
        ("", "not a record"),
        ('{"schema_version": 1}', "not a record of version 1"),
        ('{"schema_version": 1, "id', "not a record"),
        ("[]", "not a record"),
        ('{"schema_version": 99}', "newer"),
        ('{"schema_version": 2}', "required"),
    ],
)
def test_what_is_no_record_is_said_in_one_line(tmp_path, content, words):
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(record.RecordError, match=words) as caught:
        record.read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_wrong_unit_or_metric_is_refused():
    bad = a_record()
    bad["metrics"]["tokens_per_second"]["better"] = "sometimes"
    with pytest.raises(record.RecordError, match="better"):
        record.validate(bad)


def test_too_few_samples_and_too_few_threads_are_warned_of():
    warnings = a_record()["warnings"]
    assert any("too few for a 95 % interval" in warning for warning in warnings)
    assert any("--threads requested 2 threads, OpenVINO used 1" in warning for warning in warnings)


def test_the_exit_status_follows_what_happened(tmp_path, capsys):
    args = argparse.Namespace(json=None, results_dir=tmp_path)
    assert run.finish(a_record(), args) == 0
    assert run.finish(a_record(id="2" * 8, status="interrupted"), args) == 130
    assert run.finish(a_record(id="3" * 8, status="failed", error="the disk is full"), args) == 1
    assert "error: the disk is full" in capsys.readouterr().err
    assert len(list(tmp_path.iterdir())) == 3


def test_a_record_says_what_the_work_was_and_what_must_be_equal():
    made = a_record()
    assert made["task"] == {"input": "1" * 64, "max new tokens": 2}
    assert made["comparable_by"] == {
        "model": "0" * 12,
        "weight format": "int8",
        "precision": "f32",
    }
    assert made["configuration"] == {"threads": 1, "CPUs allowed": 1}
    assert made["work"] == [
        {"unit": "million tokens", "metric": "tokens_per_second", "amount": 1e6}
    ]
    assert made["metrics"]["tokens_per_second"]["definition"]


def test_an_option_unused_is_the_same_as_one_not_there_but_0_is_a_value():
    assert run._known({"a": None, "b": False, "c": 0, "d": 0.0}) == {"c": 0, "d": 0.0}


def test_what_is_printed_can_be_printed_from_the_file(tmp_path, capsys):
    made = a_record(details=["Text: é"])
    run.finish(made, argparse.Namespace(json=tmp_path / "a.json", results_dir=tmp_path))
    printed = capsys.readouterr().out
    lines = record.text_lines(record.read(tmp_path / "a.json"))
    assert "\n".join(lines) in printed
    assert "Throughput: 2 tokens/s   (median of 3; range 1–3)" in lines and "Text: é" in lines


def test_records_of_version_1_are_read_as_version_2():
    paths = sorted((REPO / "tests/version_1").glob("threads-*/*.json"))
    assert len(paths) == 8
    for path in paths:
        old, new = json.loads(path.read_text()), record.read(path)
        assert (old["schema_version"], new["schema_version"]) == (1, 2)
        rate = old["metrics"]["tokens_per_second"]
        assert new["metrics"]["tokens_per_second"]["median"] == rate["median"]
        assert new["metrics"]["generation_time_s"]["n"] == old["metrics"]["inference_time_s"]["n"]
        assert [s for [s] in new["samples"]["tokens_per_second"]] == old["samples"][
            "tokens_per_second"
        ]
        assert new["task"]["max new tokens"] == old["parameters"]["max_new_tokens"]
        assert new["comparable_by"]["precision"] == old["placement"]["precision_used"]
        assert new["configuration"]["threads"] == old["placement"]["threads_given"]
        assert new["warnings"] == old["trouble"] and new["primary"] == old["headline"]


def test_a_record_of_version_1_says_whether_its_weights_were_in_huge_pages(tmp_path):
    path = min((REPO / "tests/version_1/threads-1").glob("*.json"))
    old = json.loads(path.read_text())
    assert "memory tuned" not in record.read(path)["configuration"]
    old["system"]["memory"]["glibc_tunables"] = "glibc.malloc.hugetlb=1"
    (tmp_path / "tuned.json").write_text(json.dumps(old))
    tuned = record.read(tmp_path / "tuned.json")
    assert tuned["configuration"]["memory tuned"] == "glibc.malloc.hugetlb=1"
