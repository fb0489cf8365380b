import argparse
import json
import os
from pathlib import Path

import pytest

from harness import measure, record, summary, system
from harness.cli import UserError


def a_record(**changes) -> dict:
    with measure.Watch() as watch:
        sum(range(1000))
    args = argparse.Namespace(results_dir=Path("results"), json=None, threads=2)
    placement = {"cpus": [0], "threads_asked": 2, "threads_asked_by": "--threads", "threads_given": 1,
                 "precision_asked": "auto", "precision_used": "f32"}  # fmt: skip
    model = {"name": "m", "source": None, "weight_format": "int8", "bytes": 1, "sha256": "0" * 64, "files": [], "export": {}}
    built = record.build(
        "llm", args, headline="tokens_per_second",
        metrics={"tokens_per_second": measure.summarize([1.0, 2.0, 3.0], "tokens/s", "higher")},
        samples={"tokens_per_second": [1.0, 2.0, 3.0]}, model=model, source={"name": "prompt", "sha256": "1" * 64},
        machine=system.describe(), placement=placement, watch=watch, output={"text": "é"},
    )  # fmt: skip
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


def test_an_impossible_destination_is_found_before_measuring(tmp_path):
    (tmp_path / "file").write_text("")
    for args in (
        argparse.Namespace(json=None, results_dir=tmp_path / "file" / "below"),
        argparse.Namespace(json=tmp_path / "file", results_dir=tmp_path),
    ):
        with pytest.raises(UserError):
            record.check_destination(args)


def test_a_record_goes_elsewhere_when_its_folder_has_gone(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(record.tempfile, "gettempdir", lambda: str(tmp_path))
    path = record.save(a_record(), argparse.Namespace(json=None, results_dir=tmp_path / "gone"))
    assert path.parent == tmp_path and record.read(path)
    assert "went elsewhere" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content, told",
    [("", "not a record"), ('{"schema_version": 1, "id', "not a record"), ("[]", "not a record"), ('{"schema_version": 99}', "newer"),
     ('{"schema_version": 1}', "required")],
)  # fmt: skip
def test_what_is_no_record_is_said_in_one_line(tmp_path, content, told):
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(record.RecordError, match=told) as caught:
        record.read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_wrong_unit_or_metric_is_refused():
    bad = a_record()
    bad["metrics"]["tokens_per_second"]["better"] = "sometimes"
    with pytest.raises(record.RecordError, match="better"):
        record.validate(bad)


def test_too_few_samples_and_too_few_threads_are_told():
    signs = a_record()["trouble"]
    assert any("too few for a 95 % interval" in sign for sign in signs)
    assert any("2 threads were asked for (--threads), OpenVINO gave 1" in sign for sign in signs)


def test_the_exit_status_follows_what_happened(tmp_path, capsys):
    args = argparse.Namespace(json=None, results_dir=tmp_path)
    assert record.finish(a_record(), args) == 0
    assert record.finish(a_record(id="2" * 8, status="interrupted"), args) == 130
    assert record.finish(a_record(id="3" * 8, status="failed", error="the disk is full"), args) == 1
    assert "error: the disk is full" in capsys.readouterr().err
    assert len(list(tmp_path.iterdir())) == 3


def test_the_table_skips_what_it_cannot_read(tmp_path, monkeypatch, capsys):
    good, bad = record.write(a_record(), tmp_path / "good.json"), tmp_path / "bad.json"
    bad.write_text("{")
    monkeypatch.setattr("sys.argv", ["summary", str(good), str(bad)])
    assert summary.main() == 0
    printed = capsys.readouterr()
    assert "2 tokens/s" in printed.out and str(bad) in printed.err
    assert os.path.basename(str(good)) in printed.out
