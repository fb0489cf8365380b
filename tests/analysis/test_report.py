"""The report's page as it is written, and its PDF."""

import html as html_module
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from browser import CHROMIUM, DARK, LIGHT, browse, needs_browser
from conftest import REPO, run_analysis
from pypdf import PdfReader
from simulated import record, write

from analysis import pages


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """(page, plain PDF, JSON) of simulated records of two priced systems."""
    folder, generator = tmp_path_factory.mktemp("report"), np.random.default_rng(6)

    def side(name: str, machine: str, speed: float) -> None:
        def samples(median):
            return (median * np.exp(0.02 * generator.standard_normal(20))).tolist()

        def one(rate, latency_s, **options) -> dict:
            times = samples(latency_s / speed)
            return record(samples(speed * rate), machine=machine, latency_s=times, **options)

        for _ in range(4):
            made = [one(40 + threads, 2, threads=threads) for threads in (8, 16)]
            made += [one(c, c, workload="gpu-tgi", concurrency=c) for c in (1, 4, 16)]
            made += [one(9, 1, workload="audio", levels=levels) for levels in ("1,2,4,8", "1,2")]
            write(folder / name, *made)

    side("edge", "PowerEdge R760xa", 2.0)
    side("cloud", "m7i.48xlarge", 1.0)
    (folder / "edge/broken.json").write_text("<script>")
    command = [*(sys.executable, "-m", "analysis.compare", folder / "edge", folder / "cloud")]
    command += ["--baseline", "cloud", "--power_w", "edge=900"]
    command += ["--html", "r.html", "--pdf", "r.pdf", "--json", "r.json"]
    environment = {"PYTHONPATH": str(REPO), "PATH": ""}  # where no browser is
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return (
        (folder / "r.html").read_text(),
        folder / "r.pdf",
        json.loads((folder / "r.json").read_text()),
    )


def test_curves_are_drawn_over_every_number_that_was_varied_and_over_nothing_else(report):
    page, _, _ = report
    (payload,) = re.findall(r'id="data">(.*?)</script>', page)
    charts = [each for each in json.loads(payload)["charts"].values() if each["kind"] == "lines"]
    titles = [chart["title"] for chart in charts]
    assert sorted(titles) == ["LLM over threads", "LLM server over concurrency"]
    (server,) = [each for each in charts if each["y"] == "Throughput, requests/s"]
    assert [x for x, _ in server["lines"][0]["points"]] == [1, 4, 16]


def cells(page: str) -> list[str]:
    return [html_module.unescape(each) for each in re.findall(r"<td>(.*?)</td>", page)]


def test_the_page_says_the_verdict_and_the_cost(report):
    page, _, _ = report
    verdict = r"LLM: edge is better than cloud, [\d.]+ times the throughput \(95 % CI [\d.]+–"
    assert any(re.match(verdict, cell) for cell in cells(page))
    answer, sure, _ = re.findall(r'<p class="(?:answer|sure|quiet)" id="\w+">(.*?)</p>', page)
    assert re.fullmatch(r"edge, bought, costs least for (all|\d of) \d works\.", answer), answer
    assert re.search(r"LLM: (edge, bought, )?(over )?\d+ ?%", sure)


def test_of_the_levels_of_a_sweep_the_page_mentions_the_best_only(report):
    page, _, data = report
    lines = [cell for cell in cells(page) if re.match("LLM server, [^:]*: edge is ", cell)]
    best = "LLM server, each at its best concurrency: edge is better"
    assert len(lines) == 1 and lines[0].startswith(best)
    levels = [c for c in data["comparisons"] if c["label"].startswith("LLM server, concurrency")]
    assert len(levels) == 3  # all are in the tables


def luminance(colour: str) -> float:
    colour = colour.lstrip("#")
    colour = "".join(c * 2 for c in colour) if len(colour) == 3 else colour
    parts = [int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    """As WCAG 2.2 defines it."""
    dark, light = sorted((luminance(a), luminance(b)))
    return (light + 0.05) / (dark + 0.05)


def test_text_and_charts_stand_out_from_their_ground_in_light_and_dark(report):
    page, _, _ = report
    themes = re.findall(r":root \{(.*?)\}", page, re.DOTALL)
    assert len(themes) == 2
    for declared in themes:
        colour = dict(re.findall(r"--(\w+): (#\w+);", declared))
        for ink in ("ink", "quiet"):
            for ground in ("ground", "soft"):
                assert contrast(colour[ink], colour[ground]) >= 4.5
        sides = [f"s{i}" for i in range(5)]
        assert all(contrast(colour[side], colour["ground"]) >= 3 for side in [*sides, "other"])


@needs_browser
def test_the_page_is_dark_where_the_reader_wants_it_dark(report, tmp_path):
    from matplotlib import image

    page, _, _ = report
    (tmp_path / "r.html").write_text(page)
    ground = {}
    for theme, setting in (("light", LIGHT), ("dark", DARK)):
        browse(
            *("--hide-scrollbars", "--window-size=1000,1600"),
            f"--blink-settings=preferredColorScheme={setting}",
            f"--user-data-dir={tmp_path / theme}",
            f"--screenshot={tmp_path / theme}.png",
            (tmp_path / "r.html").as_uri(),
        )
        picture = image.imread(tmp_path / f"{theme}.png")[..., :3]
        ground[theme] = float(np.median(picture))
        # charts and text, not an empty page
        assert len(np.unique((255 * picture).astype(int) @ [1, 256, 65536])) > 50  # colours
    assert ground["light"] > 0.9 and ground["dark"] < 0.2


def printed_text(pdf) -> str:
    return " ".join(" ".join(page.extract_text() for page in PdfReader(pdf).pages).split())


def test_without_a_browser_the_pdf_is_plain_holds_the_same_and_says_so(report):
    _, pdf, data = report
    text = printed_text(pdf)
    assert pages.NO_BROWSER in text
    assert "edge is better than cloud" in text and "Method" in text
    assert "published with the original study" in text
    for comparison in data["comparisons"]:
        for ratio in comparison["ratios"].values():
            assert "{:.3f}–{:.3f}".format(*ratio["ci95"]) in text.replace(" ", "")


@needs_browser
def test_the_pdf_is_the_page_with_its_charts_and_all_that_is_folded(report, tmp_path):
    page, _, data = report
    (tmp_path / "r.pdf").write_bytes(pages.printed(CHROMIUM, page.encode()))
    text = printed_text(tmp_path / "r.pdf")
    assert "edge, bought, costs least for" in text and "Cost, with 90 % ranges" in text
    assert pages.NO_BROWSER not in text
    for comparison in data["comparisons"]:
        for ratio in comparison["ratios"].values():
            assert "{:.3f}–{:.3f}".format(*ratio["ci95"]) in text.replace(" ", "")


def test_a_browser_that_does_not_print_is_as_none(tmp_path):
    assert pages.printed("/bin/false", b"") is None and pages.printed("/bin/true", b"") is None


def test_one_machine_alone_gets_a_report_of_its_results(tmp_path):
    short = record([50.0], workload="audio", machine="alone", warnings=["too short"])
    write(tmp_path, record([100.0] * 8, machine="alone"), short)
    done = run_analysis("compare", tmp_path, "--markdown")
    assert done.returncode == 0 and "# Performance of alone" in done.stdout
    assert "LLM: 100.00 tokens/s (throughput; 95 % CI 100–100)." in done.stdout
    assert r"Audio AI: 50.00 × real time (RTFx). \[not valid as evidence\]" in done.stdout
