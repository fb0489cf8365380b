"""Damaged records, hostile text and careless commands: one line at most, and nothing is lost."""

import contextlib
import csv
import io
import json
import os
import re
import shlex
import subprocess
import sys

import pytest
from browser import found_in, needs_browser
from conftest import REPO, assert_one_line, run_analysis
from mutants import mutants, originals
from simulated import capacity_record, record, write

from analysis import check, compare, history, pages, report, summary
from analysis.text import csv_cell, markdown, plain
from harness import cli
from harness import record as records


def called(monkeypatch, main, *args) -> tuple[str, str]:
    """What a command prints in this process: (stdout, stderr). A user's mistake may end it."""
    monkeypatch.setattr(sys, "argv", ["command", *map(str, args)])
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        with contextlib.suppress(cli.UserError):
            main()
    return out.getvalue(), err.getvalue()


def is_plain(text: str) -> bool:
    return all(line.isprintable() for line in text.splitlines())


GROUP = 50


@pytest.mark.parametrize("group", range(12))
def test_a_damaged_record_is_reported_or_named_and_skipped(tmp_path, monkeypatch, group):
    good, bad = tmp_path / "good", tmp_path / "bad"
    write(good, *({**made, "id": f"good {i}"} for i, made in enumerate(originals())))
    bad.mkdir()
    for i, content in enumerate(mutants(group, GROUP)):
        (bad / f"m{i}.json").write_bytes(content)
    monkeypatch.setattr(sys, "argv", ["compare", str(good), str(bad)])
    with contextlib.redirect_stderr(io.StringIO()):
        made = compare.build(compare.parse_args())
    used = {run.path.name for run in made.runs}
    for i in range(GROUP):
        name = f"m{i}.json"
        lines = [line for line in made.skipped if f"/{name}: " in line]
        swept = not lines and name not in used and records.read(bad / name)["primary"] is None
        assert swept or (name in used) + len(lines) == 1, name
        assert all(len(line) < 2000 for line in lines)
    for form in (report.text, report.markdown, report.csv):
        assert is_plain(form(made)), form
        assert not re.search(r"\b(inf|nan)\b", form(made)), form
    json.loads(report.json(made), parse_constant=pytest.fail)
    if group < 3:
        page = pages.html(made).decode()
        (payload,) = re.findall(r'id="data">(.*?)</script>', page)
        assert "Method" in page and json.loads(payload, parse_constant=pytest.fail)["sides"]
    if group == 0:
        assert pages.pdf(made).startswith(b"%PDF")
    for main, options in ((summary.main, ["--details"]), (history.main, []), (check.main, [])):
        out, err = called(monkeypatch, main, good, bad, *options)
        assert is_plain(out) and is_plain(err) and out


@pytest.mark.parametrize(
    "value", ["1e308", "Infinity", "NaN", "-5", "1e999", "1" * 400, "true", '"9"', "1e-400"]
)
@pytest.mark.parametrize("where", ["samples", "median"])
def test_a_number_that_no_measurement_gives_is_not_compared(tmp_path, monkeypatch, value, where):
    a, b = record([1.0] * 8), record([2.0] * 8)
    mark = 777.25
    if where == "samples":
        b["samples"]["tokens_per_second"][3] = [mark]
    else:
        b["metrics"]["tokens_per_second"]["median"] = mark
    write(tmp_path / "a", a)
    (tmp_path / "b").mkdir()
    (tmp_path / "b/odd.json").write_text(json.dumps(b).replace(str(mark), value))
    out, err = called(monkeypatch, compare.main, tmp_path / "a", tmp_path / "b")
    if value == "1e-400":  # is 0
        assert ("0.000 times" if where == "median" else "2.000 times") in out
    else:
        assert err.count("skipped: ") == 1 and "odd.json: " in err and "inf" not in out


def test_a_sample_that_was_no_value_is_left_out_of_a_ratio(tmp_path, monkeypatch):
    b = record([2.0] * 8)
    b["samples"]["tokens_per_second"][2:4] = [[None], [None, 2.0]]
    out, _ = called(monkeypatch, compare.main, *write(tmp_path, record([1.0] * 8, machine="x"), b))
    assert "2.000 times" in out


@pytest.mark.parametrize("module", ["compare", "summary", "history", "check"])
def test_only_regular_files_of_a_sane_size_are_read(tmp_path, module):
    write(tmp_path, *(record([1.0] * 6, day=day) for day in (1, 2)))
    os.mkfifo(tmp_path / "fifo.json")
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "loop.json").symlink_to(tmp_path / "loop.json")
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(records.MAX_BYTES + 1)
    done = run_analysis(module, tmp_path, timeout=20)
    assert done.returncode == (check.EXIT_INVALID if module == "check" else 0), done.stderr
    said = done.stdout if module == "check" else done.stderr
    assert said.count("not a regular file") == 3 and "too large" in said
    assert_one_line(run_analysis(module, tmp_path / ("x" * 300)), "File name too long")


FOLDER = "=1+1 <b>$\\alpha$|`x`\x1b[31m\u202e_"
TITLE = "</script><script>alert(1)</script>|`[x](http://h)`\n# $\\frac{$ \x1b]0;t\x07"
MACHINE = '@SUM(1)"><img src=x onerror=alert(1)>'


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A report of records in which every name is hostile: by form, its content."""
    root = tmp_path_factory.mktemp("hostile")
    for day, name in enumerate((FOLDER, "_" + FOLDER[1:])):
        made = []
        for threads in (1, 1, 1, 1, 2):
            rates = [1.0 + day + threads + i / 100 for i in range(8)]
            one = record(rates, machine=MACHINE, threads=threads, day=day, latency_s=[1.0] * 8)
            one |= {"title": TITLE, "warnings": [TITLE], "workload": TITLE}
            one["task"][TITLE], one["context"][TITLE] = TITLE, f"{TITLE}{day}"
            one["work"][0]["unit"] = f"+{TITLE}"
            one["metrics"]["tokens_per_second"] |= {"label": TITLE, "unit": "=1+1|<b>"}
            made.append(one)
        made += [capacity_record(10 + day, machine=MACHINE, day=i) for i in range(4)]
        for each in made:
            each["details"] = [TITLE, f"Highest throughput: {TITLE}"]
        tuned = {**made[0], "id": f"tuned {day}", "workload": f"{TITLE}-tune"}
        write(root / name, *made, {**tuned, "output": {"trials": []}})
        (root / name / f"{day}\x1b[31m<script>.json").write_text("{")
    out = {name: root / f"r.{name}" for name in compare.FORMS}
    outputs = [word for name, path in out.items() for word in (f"--{name}", path)]
    prices = [f"{FOLDER}=m7i.48xlarge", f"_{FOLDER[1:]}=R760xa"]
    options = ["--sut", prices[0], "--sut", prices[1], "--power_w", f"_{FOLDER[1:]}=900"]
    options += ["--demand", "users=30", "--capacity", f"_{FOLDER[1:]}:=1+1<b>=3"]
    folders = [root / FOLDER, root / f"_{FOLDER[1:]}", "--baseline", FOLDER]
    done = run_analysis("compare", *folders, *options, *outputs)
    assert done.returncode == 0 and is_plain(done.stderr), done.stderr
    assert "Warning" not in done.stderr
    printed = run_analysis("compare", *folders)
    assert is_plain(printed.stdout + printed.stderr) and "No verdict" in printed.stdout
    return {name: path.read_bytes() for name, path in out.items()}


def test_hostile_names_are_text_in_a_page(hostile):
    page = hostile["html"].decode()
    assert page.count("<script") == page.count("</script") == 2
    assert "<b>" not in page and "<img" not in page
    assert "&lt;script&gt;" in page and is_plain(page) and "onerror=alert" in page
    assert all(not link.startswith("javascript") for link in re.findall(r'href="(.*?)"', page))


@needs_browser
def test_hostile_names_are_text_in_what_a_page_draws_and_computes(hostile, tmp_path):
    script = """const input = document.getElementById("slider-years");
      input.value = 2;
      input.dispatchEvent(new window.Event("input"));
      await new Promise((done) => setTimeout(done, 500));
      return [document.querySelectorAll("b, img, main script, header script").length,
        [...document.querySelectorAll(".name, .group")].map((each) => each.textContent),
        document.getElementById("command").textContent, document.body.innerText];"""
    # TITLE's own alert() would stop the page; its policy lets no script run but the page's own.
    elements, names, command, text = found_in(hostile["html"].decode(), script, tmp_path)
    assert elements == 0 and any("<b>$\\alpha$" in name for name in names)
    assert any("</script><script>alert(1)" in name for name in names)
    words = shlex.split(command)
    assert "years=2" in words and any("<b>$\\alpha$|`x`" in word for word in words)
    assert "NaN" not in text and "undefined" not in text


def test_hostile_names_are_text_in_markdown(hostile):
    text = hostile["markdown"].decode()
    assert is_plain(text)
    body = text.replace(f"<!-- {report.MARK} -->", "")
    assert not re.search(r"(?<!\\)[<`$]", body) and "\\<script" in body
    tables = [block for block in body.split("\n\n") if block.startswith("| ")]
    assert len(tables) > 5
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1
    assert markdown("# a_b _c_ 1. *") == "\\# a_b \\_c\\_ 1. \\*"
    assert markdown("1. x") == "1\\. x" and markdown("- x") == "\\- x"


def test_hostile_names_are_text_in_a_spreadsheet(hostile):
    rows = list(csv.reader(io.StringIO(hostile["csv"].decode())))
    assert len([row for row in rows if row[1] == "cost"]) >= 4
    for cell in (cell for row in rows for cell in row):
        assert cell.isprintable() and not cell.startswith(("=", "+", "-", "@"))
    assert rows[1][2].startswith("'=1+1") and float(rows[1][7]) > 1
    assert csv_cell(-1.5) == -1.5 and csv_cell("-1") == "'-1" and csv_cell("\t=1") == "'\t=1"


def test_hostile_names_are_text_in_json_and_a_pdf(hostile):
    data = json.loads(hostile["json"])
    assert plain(FOLDER) in data["sides"] and "\\x1b[31m" in plain(FOLDER)
    assert b"\x1b" not in hostile["json"] and hostile["pdf"].startswith(b"%PDF")


def test_text_that_is_no_utf_8_is_written_as_escapes(tmp_path):
    made = record([1.0] * 6)
    made["title"] = "half \ud800"
    write(tmp_path, made)
    (path,) = tmp_path.iterdir()
    done = run_analysis("compare", path, "--markdown")
    assert done.returncode == 0 and "half \\\\ud800" in done.stdout, done.stderr


@pytest.fixture
def two(tmp_path):
    """Folders of one record each, and a check that nothing in them has changed."""
    paths = [*write(tmp_path / "a", record([1.0] * 6)), *write(tmp_path / "b", record([2.0] * 6))]
    before = [path.read_bytes() for path in paths]
    yield paths
    assert [path.read_bytes() for path in paths] == before


@pytest.mark.parametrize("option", ["--csv", "--markdown", "--json", "--html", "--pdf"])
def test_an_output_never_replaces_a_record(tmp_path, two, option):
    third = write(tmp_path, record([3.0] * 6))[0]
    copy = third.read_bytes()
    for paths in (two, [third, *two]):  # the first is taken for the output
        done = run_analysis("compare", option, *paths, "--overwrite")
        assert_one_line(done, f"{option} {paths[0]} is a record", "name the records before")
    link = tmp_path / "r.html"
    link.symlink_to(two[1])
    assert_one_line(run_analysis("compare", *two, option, link, "--overwrite"), "is a record")
    assert_one_line(run_analysis("compare", option, tmp_path / "a", *two), "is a folder", option)
    assert third.read_bytes() == copy


def test_a_report_may_be_made_again_and_nothing_else_is_replaced(tmp_path, two):
    outputs = {f"--{form}": tmp_path / f"report.{form}" for form in compare.FORMS}
    every = [word for pair in outputs.items() for word in pair]
    for _ in range(2):
        done = run_analysis("compare", *two, *every)
        assert done.returncode == 0 and done.stderr.count("Written: ") == 5, done.stderr
    for option, output in outputs.items():
        output.write_bytes(b"my notes")
        done = run_analysis("compare", *two, option, output)
        assert_one_line(done, f"{option} {output} exists", "--overwrite")
        assert output.read_bytes() == b"my notes"
    assert run_analysis("compare", *two, *every[4:], "--overwrite").returncode == 0
    assert all(output.read_bytes() != b"my notes" for output in list(outputs.values())[2:])
    both = run_analysis("compare", *two, "--csv", tmp_path / "x", "--json", tmp_path / "x")
    assert_one_line(both, "another output goes there")
    assert run_analysis("compare", *two, "--csv", "/dev/stdout").stdout.startswith("work,metric,")


@pytest.mark.parametrize(
    "other, words",
    [
        (record([1.0] * 6, **{"max new tokens": 50}), "differ in max new tokens 100 against 50."),
        (record([1.0] * 6), "differ in max new tokens 100 against not given."),
        (record([1.0] * 6, workload="audio"), "No workload is on both sides: LLM on a, Audio AI"),
    ],
)
def test_when_nothing_compares_the_nearest_pair_and_what_differs_are_named(tmp_path, other, words):
    write(tmp_path / "a", record([1.0] * 6, **{"max new tokens": 100}))
    write(tmp_path / "b", other, record([1.0] * 6, workload="video", levels=7, fps=3))
    printed = run_analysis("compare", tmp_path / "a", tmp_path / "b").stdout
    assert "Nothing to compare" in printed and words in printed


def test_a_level_that_is_not_the_baselines_best_is_compared_in_the_summary_too(tmp_path):
    def levels(*loads):
        return [record([1.0 + c] * 6, workload="gpu-tgi", concurrency=c) for c in loads]

    write(tmp_path / "a", *levels(1, 4))
    write(tmp_path / "b", *levels(1))
    printed = run_analysis("compare", tmp_path / "a", tmp_path / "b").stdout
    assert printed.startswith("LLM server") and "Nothing to compare" not in printed


MODULES = ["accept", "check", "compare", "cost", "history", "summary"]


@pytest.mark.parametrize("shell", ["{} >&-", "{} 2>&-", "{} | head -1", "{} >/dev/full"])
@pytest.mark.parametrize("module", MODULES)
def test_whatever_becomes_of_the_output_there_is_no_traceback(tmp_path, module, shell):
    for folder in (tmp_path, tmp_path / "delivered"):
        write(folder, *(record([1.0] * 6, day=day) for day in (1, 2)))
    args = {"cost": ["million tokens", "R760xa=1200"], "accept": [tmp_path, tmp_path / "delivered"]}
    args = [str(arg) for arg in args.get(module, [tmp_path])]
    command = shlex.join([sys.executable, "-m", f"analysis.{module}", *args])
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    how = {"cwd": REPO, "capture_output": True, "text": True, "env": environment}
    done = subprocess.run(["bash", "-c", shell.format(command)], **how)
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr, done.stderr
    assert done.stderr.count("\n") <= 1
    if "full" in shell:
        assert done.returncode == 1 and done.stderr.startswith("error: ")


@pytest.mark.parametrize("module", [*MODULES, "sut"])
def test_a_command_runs_by_its_path_from_any_folder(tmp_path, module):
    done = subprocess.run(
        [sys.executable, REPO / f"analysis/{module}.py", "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "usage: " in done.stdout, done.stderr
