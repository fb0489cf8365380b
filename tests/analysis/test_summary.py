"""Records as a table: one line each, and what cannot be read is named."""

from functools import partial

from conftest import assert_one_line, run_analysis
from simulated import record, write

run = partial(run_analysis, "summary")


def test_the_table_skips_what_it_cannot_read(tmp_path):
    (good,) = write(tmp_path, record([2.0] * 6))
    bad = tmp_path / "bad.json"
    bad.write_text("{")
    done = run(good, bad)
    assert done.returncode == 0 and str(bad) in done.stderr
    assert "2 tokens/s" in done.stdout and good.name in done.stdout


def test_no_record_at_all_is_one_line_of_error(tmp_path):
    assert_one_line(run(tmp_path), "")


def test_an_interrupted_record_and_its_warnings_are_marked(tmp_path):
    write(tmp_path, record([2.0] * 6, status="interrupted", warnings=["busy", "hot"]))
    assert "interrupted; 2" in run(tmp_path).stdout
