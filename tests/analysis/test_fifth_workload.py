"""A workload that neither harness/ nor analysis/ has heard of is measured, compared, priced,
reported and watched."""

import argparse
import hashlib
import json
import time
from datetime import datetime, timedelta

import pytest
from conftest import REPO, run_analysis
from pypdf import PdfReader

from harness import run, system
from harness.metrics import Metric
from harness.monitor import SystemMonitor, iterations

WIDGETS = Metric("widgets_per_second", "widgets/s", "higher", "Widget rate", "Widgets over time.")
POLISH = Metric("polish_time_s", "s", "lower", "Polishing", "Time to polish one widget.")


def measure(folder, pause_s: float, day: int = 0) -> int:
    """Make 4 widgets in each of 6 iterations, a pause each, and record it."""
    args = argparse.Namespace(results_dir=folder, json=None, pause_s=pause_s)
    run.check_destination(args)
    rates, times = [], []
    with SystemMonitor() as monitor:
        for _ in iterations(6):
            began = time.perf_counter()
            times.append([])
            for _ in range(4):
                polish = time.perf_counter()
                time.sleep(pause_s)
                times[-1].append(time.perf_counter() - polish)
            rates.append([4 / (time.perf_counter() - began)])
    made = run.build(
        args,
        workload="widgets",
        title="Widgets",
        primary="widgets_per_second",
        samples={"widgets_per_second": rates, "polish_time_s": times},
        own_metrics=(WIDGETS, POLISH),
        task={"grain": 240},
        work=[("gross of widgets", "widgets_per_second", 144)],
        model=None,
        input={"name": "wood", "sha256": hashlib.sha256(b"wood").hexdigest()},
        configuration={"benches": 1},
        system=system.describe(),
        placement={"cpus": [0, 1]},
        monitor=monitor,
        output={"widgets": 24},
    )
    finished_at = datetime.fromisoformat(made["finished_at"]) + timedelta(days=day)
    return run.finish({**made, "finished_at": finished_at.isoformat()}, args)


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("widgets")
    for _ in range(4):
        assert measure(folder / "slow", 0.02) == 0
        assert measure(folder / "quick", 0.005, day=1) == 0
    return folder / "slow", folder / "quick"


ALLOWED = "--allow_invalid"  # this machine may be busy


def test_it_is_compared_and_priced(sides):
    priced = "--sut", "slow=m7i.48xlarge", "--sut", "quick=R760xa", "--power_w", "quick=900"
    done = run_analysis("compare", *sides, *priced, ALLOWED, "--json")
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    (comparison,), (row,) = data["comparisons"], data["costs"]
    found = comparison["ratios"]["widgets_per_second"]
    assert 2 < found["ratio"] <= 4.5 and found["verdict"] == "better"
    assert comparison["ratios"]["polish_time_s"]["ci95"][1] < 0.6
    assert comparison["labels"]["polish_time_s"] == "Polishing"
    assert (
        row["unit"] == "gross of widgets" and "quick" in row["break_evens"][0]["decision"]["first"]
    )
    usd = {each["side"]: each["usd"]["value"] for each in row["alternatives"]}["slow"]
    assert usd == pytest.approx(9.6768 / (found["baseline"] * 3600 / 144))


def test_it_is_reported_as_a_page_a_pdf_and_a_line(sides, tmp_path):
    page, pdf = tmp_path / "r.html", tmp_path / "r.pdf"
    done = run_analysis("compare", *sides, ALLOWED, "--html", page, "--pdf", pdf)
    assert done.returncode == 0, done.stderr
    text = " ".join(" ".join(p.extract_text() for p in PdfReader(pdf).pages).split())
    for content in (page.read_text(), text):
        assert (
            "Widgets: quick is better than slow" in content and "times the widget rate" in content
        )
    assert "<td>Polishing</td>" in page.read_text()
    table = run_analysis("summary", *sides, "--details").stdout
    assert table.count("Widgets ") >= 2 and "Polishing: " in table and "widgets/s" in table


def test_it_is_watched(sides):
    slow, quick = (next(side.glob("*.json")) for side in sides)
    done = run_analysis("history", slow, quick, ALLOWED)
    assert done.returncode == 0 and done.stdout.startswith("better: ")
    newest = json.loads(slow.read_text())
    newest.update(id="newest", finished_at="2999-01-01T00:00:00+00:00")
    path = slow.parents[1] / "newest.json"
    path.write_text(json.dumps(newest))
    done = run_analysis("history", quick, path, ALLOWED)
    assert done.returncode == 3 and done.stdout.startswith("SLOWDOWN: "), done.stdout


def test_nothing_knows_it():
    for path in [*(REPO / "harness").rglob("*.py"), *(REPO / "analysis").rglob("*.py")]:
        assert ".venv" in path.parts or "widget" not in path.read_text().lower(), path
