"""Which records are valid as evidence, and why others are not."""

import json
from functools import partial

from conftest import assert_one_line, run_analysis
from simulated import changed, record, write

run = partial(run_analysis, "check")


def test_a_valid_record_is_said_to_be(tmp_path):
    (path,) = write(tmp_path, record([1.0]))
    done = run(tmp_path)
    assert (done.returncode, done.stdout) == (0, f"{path}: valid\n")


def test_an_invalid_one_has_its_reasons_and_status_3(tmp_path):
    good, bad = write(
        tmp_path, record([1.0]), changed(record([1.0]), "validity/reasons", ["steal", "drift"])
    )
    done = run(good, bad)
    assert done.returncode == 3
    assert done.stdout.splitlines() == [f"{good}: valid", f"{bad}: invalid: steal; drift"]


def test_a_warning_that_only_informs_makes_no_run_invalid(tmp_path):
    warned = changed(record([1.0]), "warnings", ["the samples vary by 9.0%"])
    assert run(*write(tmp_path, warned)).returncode == 0


def test_a_missed_accuracy_gate_makes_all_runs_of_its_setting_invalid(tmp_path):
    gate = {"metric": "perplexity_ratio", "limit": 1.05, "value": 1.3, "passed": False}
    accuracy = changed(record([1.3]), "output", {"gate": gate})
    paths = write(tmp_path, record([9.0]), record([9.0], precision="bf16"), accuracy)
    missed = "invalid: accuracy gate missed: perplexity_ratio 1.3, limit 1.05"
    lines = [line.removeprefix(f"{p}: ") for p, line in zip(paths, run(*paths).stdout.split("\n"))]
    assert lines == [missed, "valid", missed]


def test_interrupted_runs_and_files_that_are_no_records_are_invalid(tmp_path):
    good, ended = write(tmp_path, record([1.0]), record([1.0], status="interrupted"))
    (tmp_path / "cut.json").write_text(json.dumps(record([1.0]))[:99])
    done = run(good, ended, tmp_path / "cut.json")
    assert done.returncode == 3 and f"{ended}: invalid: interrupted" in done.stdout
    assert "cut.json: invalid: not a record (no JSON, or cut off)" in done.stdout
    assert_one_line(run(tmp_path / "cut.json"), "no record to check", "not a record")
