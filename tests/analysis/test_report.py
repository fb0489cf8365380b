"""The report, in a real browser and as a PDF."""

import base64
import html as html_module
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import REPO
from pypdf import PdfReader
from simulated import record, write

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """(page, PDF, JSON) of simulated records of two priced systems, with all there is to draw."""
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
    environment = {"PYTHONPATH": str(REPO), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return (
        (folder / "r.html").read_text(),
        folder / "r.pdf",
        json.loads((folder / "r.json").read_text()),
    )


def test_the_page_needs_nothing_else(report):
    page, _, _ = report
    address = r"""(src|href|srcset|url\()\s*=?\s*["']?\s*(https?:)?//"""
    assert not re.search(address, page) and "<script" not in page.lower()


def test_every_chart_says_in_words_what_it_shows(report):
    page, _, data = report
    alts = [html_module.unescape(alt) for alt in re.findall(r'<img [^>]*alt="([^"]*)"', page)]
    (llm,) = [c["ratios"]["tokens_per_second"] for c in data["comparisons"] if c["label"] == "LLM"]
    assert any(f"{llm['ratio']:.2f}, 95 % CI" in alt for alt in alts)
    assert any(alt.startswith("Cost of edge, bought and of cloud, on demand") for alt in alts)
    assert len(alts) >= 8 and all(len(alt) > 40 for alt in alts)


def test_curves_are_drawn_over_every_number_that_was_varied_and_over_nothing_else(report):
    page, _, _ = report
    titles = re.findall(r"<h3>(.*? over .*?)</h3>", page)
    curves = [title for title in titles if not title.startswith("Cost")]
    assert sorted(curves) == ["LLM over threads", "LLM server over concurrency"]
    assert "Throughput, requests/s over concurrency. cloud: " in page and " at 16" in page


def test_the_summary_says_the_verdict_and_the_cost(report):
    page, _, _ = report
    text = html_module.unescape(page)
    verdict = r"<li>LLM: edge is better than cloud, [\d.]+ times the throughput \(95 % CI [\d.]+–"
    assert re.search(verdict, text)
    assert "USD per million tokens" in text
    assert re.search(r"costs less than (edge|cloud), [a-z ]+ with a probability of", text)


def test_of_the_levels_of_a_sweep_the_summary_mentions_the_best_only(report):
    page, _, data = report
    lines = re.findall(r"<li>(LLM server, [^:]*: edge is .*?)</li>", page)
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
    from analysis import charts

    page, _, _ = report
    themes = re.findall(r":root \{(.*?)\}", page, re.DOTALL)[:2]
    for theme, declared in zip(("light", "dark"), themes):
        colour = dict(re.findall(r"--(\w+): (#\w+);", declared))
        for ink in ("ink", "quiet"):
            for ground in ("ground", "soft"):
                assert contrast(colour[ink], colour[ground]) >= 4.5
        assert (
            all(contrast(c, colour["ground"]) >= 3 for c in charts.COLOURS[theme])
            and contrast(charts.INK[theme], colour["ground"]) >= 7
        )


FRAME = """<!DOCTYPE html><meta charset="utf-8">
<iframe id="f" width="{width}" height="800"></iframe><p id="found"></p><script>
const f = document.getElementById("f");
f.onload = () => {{
  const inner = f.contentDocument, images = [...inner.images], texts = "td, li, p";
  const size = element => parseFloat(getComputedStyle(element).fontSize);
  document.getElementById("found").textContent = JSON.stringify({{
    wide: inner.documentElement.scrollWidth,
    images: images.length,
    drawn: images.filter(i => i.complete && i.naturalWidth > 100).length,
    small: [...inner.querySelectorAll(texts)].filter(e => size(e) < 12).length}});
}};
const bytes = Uint8Array.from(atob("{page}"), c => c.charCodeAt(0));
f.srcdoc = new TextDecoder().decode(bytes);
</script>"""


def browse(*options: str) -> str:
    quiet = "--headless=new", "--no-sandbox", "--disable-gpu"
    command = [CHROMIUM, *quiet, *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120).stdout


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [1200, 390])
def test_a_browser_shows_every_chart_and_no_page_wider_than_the_screen(report, tmp_path, width):
    page = base64.b64encode(report[0].encode()).decode()
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.format(width=width, page=page))
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    done = browse("--virtual-time-budget=10000", "--dump-dom", profile, frame.as_uri())
    found = json.loads(html_module.unescape(re.search(r'<p id="found">(.*?)</p>', done)[1]))
    assert found["images"] == found["drawn"] >= 8 and found["small"] == 0
    assert found["wide"] <= width


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")
def test_the_page_is_dark_where_the_reader_wants_it_dark(report, tmp_path):
    from matplotlib import image

    page, _, _ = report
    (tmp_path / "r.html").write_text(page)
    ground = {}
    for theme, setting in (("light", "1"), ("dark", "0")):
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
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50
    assert ground["light"] > 0.9 and ground["dark"] < 0.2


def test_the_pdf_holds_the_same(report):
    _, pdf, data = report
    pages = PdfReader(pdf).pages
    text = " ".join(" ".join(page.extract_text() for page in pages).split())
    assert "edge is better than cloud" in text and "Method" in text
    assert "published with the original study" in text
    assert sum(len(page.images) for page in pages) >= 8
    for comparison in data["comparisons"]:
        for ratio in comparison["ratios"].values():
            assert "{:.3f}–{:.3f}".format(*ratio["ci95"]) in text.replace(" ", "")


def test_one_machine_alone_gets_a_report_of_its_results(tmp_path):
    write(tmp_path, record([100.0] * 8, machine="alone"))
    command = [sys.executable, "-m", "analysis.compare", str(tmp_path), "--markdown"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0 and "# Performance of alone" in done.stdout
    assert "LLM: 100.00 tokens/s" in done.stdout
