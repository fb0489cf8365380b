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

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """(page, PDF, what the comparison says) of simulated records of two priced systems, with everything there is to draw."""
    folder, generator = tmp_path_factory.mktemp("report"), np.random.default_rng(6)

    def side(name: str, machine: str, speed: float):
        def samples(median):
            return (median * np.exp(0.02 * generator.standard_normal(20))).tolist()

        made = [
            record(samples(speed * (40 + threads)), machine=machine, threads=threads, latency_s=samples(2 / speed))
            for threads in (8, 16)
        ]
        made += [
            record(samples(speed * c), workload="gpu-tgi", machine=machine, concurrency=c, latency_s=samples(c / speed))
            for c in (1, 4, 16)
        ]
        return write(folder / name, *made)

    paths = side("edge", "PowerEdge R760xa", 2.0) + side("cloud", "m7i.48xlarge", 1.0)
    (folder / "broken.json").write_text("<script>")
    command = [sys.executable, "-m", "harness.compare", *map(str, paths), str(folder / "broken.json"), "--baseline", "cloud", "--power_w",
               "edge=900", "--html", "r.html", "--pdf", "r.pdf", "--json", "r.json"]  # fmt: skip
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env={"PYTHONPATH": str(REPO), "PATH": "/usr/bin:/bin"}
    )
    assert done.returncode == 0, done.stderr
    return (folder / "r.html").read_text(), folder / "r.pdf", json.loads((folder / "r.json").read_text())


def test_the_page_needs_nothing_else(report):
    page, _, _ = report
    assert not re.search(r"""(src|href|srcset|url\()\s*=?\s*["']?\s*(https?:)?//""", page) and "<script" not in page.lower()


def test_every_chart_says_in_words_what_it_shows(report):
    page, _, told = report
    alts = [html_module.unescape(alt) for alt in re.findall(r'<img [^>]*alt="([^"]*)"', page)]
    ratio = next(c["ratios"]["tokens_per_second"] for c in told["comparisons"] if c["label"] == "LLM")
    assert any(f"{ratio['ratio']:.2f}, 95 % CI" in alt for alt in alts)
    assert any(alt.startswith("Cost of owning edge") for alt in alts) and any("at 16" in alt and "at 4" in alt for alt in alts)
    assert len(alts) >= 8 and all(len(alt) > 40 for alt in alts)


def test_the_headline_says_the_verdict_and_the_cost(report):
    page, _, _ = report
    text = html_module.unescape(page)
    assert re.search(
        r"<li>LLM: edge is better than cloud, [\d.]+ times the tokens per second \(95 % CI [\d.]+–[\d.]+\)\.</li>", text
    )
    assert "USD per million tokens" in text and re.search(r"Owning costs less from \d+% of all hours on", text)


def test_of_the_levels_of_a_sweep_the_headlines_speak_of_the_best_only(report):
    page, _, told = report
    lines = re.findall(r"<li>(.*?)</li>", page)
    assert any(line.startswith("LLM server, concurrency 16: edge is better") for line in lines)
    assert not any(
        "concurrency 4:" in line or "concurrency 1:" in line for line in lines if "note" not in line and "run(s)" not in line
    )
    assert len([c for c in told["comparisons"] if c["label"].startswith("LLM server")]) == 3  # all are in the tables


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
    from harness import charts

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


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [1200, 390])
def test_a_browser_shows_every_chart_and_no_page_wider_than_the_screen(report, tmp_path, width):
    page, _, _ = report
    (
        tmp_path / "frame.html"
    ).write_text(f"""<!DOCTYPE html><meta charset="utf-8"><iframe id="f" width="{width}" height="800"></iframe><p id="told"></p><script>
    const f = document.getElementById("f");
    f.onload = () => {{
      const inner = f.contentDocument, images = [...inner.images];
      document.getElementById("told").textContent = JSON.stringify({{
        wide: inner.documentElement.scrollWidth, images: images.length, drawn: images.filter(i => i.complete && i.naturalWidth > 100).length,
        small: [...inner.querySelectorAll("td, li, p")].filter(e => parseFloat(getComputedStyle(e).fontSize) < 12).length}});
    }};
    f.srcdoc = new TextDecoder().decode(Uint8Array.from(atob("{base64.b64encode(page.encode()).decode()}"), c => c.charCodeAt(0)));
    </script>""")
    done = subprocess.run([CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=10000", "--dump-dom",
                           f"--user-data-dir={tmp_path / 'profile'}", (tmp_path / "frame.html").as_uri()], capture_output=True, text=True,
                          timeout=120)  # fmt: skip
    told = json.loads(html_module.unescape(re.search(r'<p id="told">(.*?)</p>', done.stdout)[1]))
    assert told["images"] == told["drawn"] >= 8 and told["small"] == 0
    assert told["wide"] <= width


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")
def test_the_page_is_dark_where_the_reader_wants_it_dark(report, tmp_path):
    from matplotlib import image

    page, _, _ = report
    (tmp_path / "r.html").write_text(page)
    ground = {}
    for theme, setting in (("light", "1"), ("dark", "0")):
        subprocess.run([CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1000,1600",
                        f"--blink-settings=preferredColorScheme={setting}", f"--user-data-dir={tmp_path / theme}",
                        f"--screenshot={tmp_path / theme}.png", (tmp_path / "r.html").as_uri()], capture_output=True, timeout=120)  # fmt: skip
        picture = image.imread(tmp_path / f"{theme}.png")[..., :3]
        ground[theme] = float(np.median(picture))
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50  # charts and text, not an empty page
    assert ground["light"] > 0.9 and ground["dark"] < 0.2


def test_the_pdf_holds_the_same(report):
    _, pdf, told = report
    pages = PdfReader(pdf).pages
    text = " ".join(" ".join(page.extract_text() for page in pages).split())
    assert "edge is better than cloud" in text and "Method" in text and "published with the original study" in text
    assert sum(len(page.images) for page in pages) >= 8
    for comparison in told["comparisons"]:
        assert all(f"{ratio['low']:.3f}–{ratio['high']:.3f}" in text for ratio in comparison["ratios"].values())


def test_one_machine_alone_gets_a_report_of_its_results(tmp_path):
    paths = write(tmp_path, record([100.0] * 8, machine="alone"))
    command = [sys.executable, "-m", "harness.compare", *map(str, paths), "--markdown"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0 and "# Performance of alone" in done.stdout and "LLM: 100.00 tokens/s" in done.stdout
