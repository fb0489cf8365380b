"""The page in a real browser: what it shows, computes again and says in words."""

import html
import json
import re
import shlex
import sys
import time
from importlib.resources import files

import numpy as np
import pytest
from browser import DARK, LIGHT, found_in, needs_browser
from conftest import run_analysis
from simulated import MACHINE, capacity_record, record, write

from analysis import compare, pages

SPEEDS = {"R760xa": 2.0, "XR4520c": 0.9, "m7i.48xlarge": 1.5, "m6i.8xlarge": 0.5, "g5.8xlarge": 0.7}
POWER = ["--power_w", "tower=500"]
DEMAND = ["--demand", "cameras=60,calls=40", "--power_w", "R760xa=900"]


def measured(folder, machine: str, speed: float) -> None:
    """Four runs of each of three works, one not valid, and two capacities."""
    generator = np.random.default_rng(int(10 * speed))

    def samples(median: float) -> list[float]:
        return (median * np.exp(0.02 * generator.standard_normal(8))).tolist()

    for i in range(4):
        made = [record(samples(40 * speed), machine=machine, threads=n) for n in (8, 16)]
        noisy = ["other processes kept 0.40 cores busy meanwhile"] if i == 3 else []
        made.append(record(samples(9 * speed), machine=machine, workload="audio", warnings=noisy))
        for unit, count in (("cameras", 20), ("calls", 60)):
            made.append(capacity_record(int(count * speed) + i % 2, unit, machine=machine))
        for each in made:
            usage = {"wall_s": 60, "busy_share_per_cpu": [0.9] * 32, "process_cores_busy": 28}
            usage |= {"other_cores_busy": 0.1, "steal_share": 0.0, "throttle_events": 0}
            each["usage"] = {**usage, "peak_rss_bytes": 2**34}
            each["details"] = ["Busy share of each stage: inference 99%, encode 14%"]
        write(folder / machine, *made)


def tuned(folder, machine: str) -> None:
    made = record([100.0] * 3, machine=machine, warnings=["trials of a few seconds"])
    made |= {"workload": "llm-tune", "title": "LLM, tuned", "output": {"trials": [{}]}}
    best = "Highest throughput: 2 × 8 core(s)"
    made["details"] = ["", "instances", best, "  numactl --physcpubind=0-7 python3 infer.py"]
    write(folder / machine, made)


def judged(folder, machine: str) -> None:
    """A record of quality, whose gate is passed, and calls beside 10 cameras."""
    accuracy = record([0.05], machine=machine, workload="audio")
    gate = {"metric": "word_error_rate", "limit": 0.1, "value": 0.05, "passed": True}
    accuracy |= {"title": "Speech accuracy", "output": {"gate": gate}}
    beside = capacity_record(70, "calls", machine=machine, beside=("cameras", 10, {}))
    write(folder / machine, accuracy, beside)


def compared(folder, *options: str) -> str:
    """The page that analysis.compare writes there."""
    done = run_analysis("compare", *options, "--html", "r.html", "--overwrite", cwd=folder)
    assert done.returncode == 0, done.stderr
    return (folder / "r.html").read_text()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("pages")
    for machine, speed in SPEEDS.items():
        measured(made, machine, speed)
    measured(made, "tower", 1.2)  # which has no price, as XR4520c has none
    tuned(made, "R760xa")
    judged(made, "R760xa")
    return made


@pytest.fixture(scope="module")
def made(folder):
    """Pages by what is compared."""
    two = ["R760xa", "m7i.48xlarge"]
    return {
        "one": compared(folder, "R760xa"),
        "two": compared(folder, *two, *DEMAND),
        "units": compared(folder, *two, "--power_w", "R760xa=900"),
        "undecided": compared(folder, *two, *DEMAND, "--set", "rental_price_factor=0.15..0.6"),
        "owned": compared(folder, "R760xa", "tower", "--sut", "tower=R760xa", *POWER, *DEMAND),
        "unpriced": compared(folder, "XR4520c", "tower"),
        "five units": compared(folder, *SPEEDS, "--power_w", "R760xa=900"),
        "five": compared(folder, *SPEEDS, *DEMAND),
    }


def texts(page: str, *ids: str) -> list[str]:
    """Of elements without others in them, as written by Python."""
    found = [re.search(rf'id="{name}">(.*?)</', page, re.DOTALL) for name in ids]
    return [html.unescape(each[1]).strip() for each in found if each]


AXE = """const found = await window.axe.run(document, OPTIONS);
return {violations: found.violations.map((each) => [each.id, each.impact, each.nodes[0].html]),
  passed: found.passes.map((each) => each.id)};"""


def axe(page: str, folder, theme: str) -> dict:
    checker = files("axe_core_python").joinpath("axe.min.js").read_text()
    options = "{}" if theme == LIGHT else '{runOnly: ["color-contrast"]}'
    return found_in(page, AXE.replace("OPTIONS", options), folder, theme=theme, more=checker)


@needs_browser
@pytest.mark.parametrize("theme", [LIGHT, DARK])
@pytest.mark.parametrize("name", ["one", "two", "five"])
def test_an_accessibility_checker_finds_nothing_serious(made, tmp_path, name, theme):
    found = axe(made[name], tmp_path, theme)
    assert not [each for each in found["violations"] if each[1] in ("serious", "critical")]
    sliders = {"label"} if theme == LIGHT and name != "one" else set()
    others = {"role-img-alt", "region"} if theme == LIGHT else set()
    assert {"color-contrast", *others, *sliders} <= {*found["passed"]}


@needs_browser
def test_the_accessibility_checker_would_find_what_is_wrong(made, tmp_path):
    page = made["two"].replace("--quiet: #555555", "--quiet: #bbbbbb").replace("<label", "<span")
    assert {"color-contrast", "label"} <= {
        each[0] for each in axe(page, tmp_path, LIGHT)["violations"]
    }


@needs_browser
@pytest.mark.parametrize("width, height", [(1280, 800), (390, 844)])
@pytest.mark.parametrize(
    "name", ["one", "two", "units", "unpriced", "undecided", "five", "five units"]
)
def test_the_first_screen_has_answer_certainty_and_bars(made, tmp_path, name, width, height):
    script = """const of = (id) => document.getElementById(id).getBoundingClientRect();
      return {bottoms: ["answer", "sure", "noted", "first"].map((id) => of(id).bottom),
        bars: document.querySelectorAll("#first .mark, #first .bar").length,
        ranges: document.querySelectorAll("#first .range, #first .ci").length,
        wide: document.documentElement.scrollWidth,
        small: [...document.querySelectorAll("td, li, p, text, span")].filter((each) =>
          parseFloat(window.getComputedStyle(each).fontSize) < 12).length};"""
    found = found_in(made[name], script, tmp_path, width, height)
    assert max(found["bottoms"]) <= height and found["bars"] >= 2
    assert found["ranges"] or name == "one"
    assert found["wide"] <= width and found["small"] == 0


SAID = """const text = (each) => each.textContent.trim();
const all = (where) => [...document.querySelectorAll(where)].map(text);
const of = (id) => text(document.getElementById(id));
return {answer: of("answer"), sure: of("sure"), noted: of("noted"),
  titles: all("#cost h2, #time h2, #decides h2"), lines: all("#cost .body p, #decides .body p"),
  cells: all("#cost table td, #time table td, #decides table td"),
  heads: all("#cost th, #time th, #decides th")};"""


def test_an_answer_that_is_not_sure_is_none(made, folder, tmp_path):
    """At the rent at which both cost the same."""
    two = ["R760xa", "m7i.48xlarge"]
    for options in (DEMAND, DEMAND[2:]):
        data = json.loads(run_analysis("compare", *two, *options, "--json", cwd=folder).stdout)
        works = [data["demand"]["work"]] if data["demand"] else data["costs"]
        rents = [
            f"rental_price_factor={work['break_evens'][0]['decision']['flips'][1]['value']}"
            for work in works
        ]
        page = compared(folder, *two, *options, "--set", rents[0])
        answer, sure = texts(page, "answer", "sure")
        assert "ot decide" in answer + sure and "costs least for all" not in answer
        assert re.search(r"[3-7]\d%", sure)
    # Nor is the only one that has a price the least one.
    answer, sure = texts(compared(folder, "R760xa", "tower", *DEMAND), "answer", "sure")
    assert re.fullmatch(r"\d × R760xa, bought, costs? [\d,]+ USD \(.*\) over 4 years\.", answer)
    assert sure.startswith("No verdict: ")


@needs_browser
@pytest.mark.parametrize("name", ["two", "units", "five", "undecided", "owned"])
def test_the_browser_says_of_costs_what_python_says(made, tmp_path, name):
    page = made[name]
    by_python = found_in(re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL), SAID, tmp_path)
    again = 'document.getElementById("reset").click(); '
    again += "await new Promise((done) => setTimeout(done, 3000)); "
    by_browser = found_in(page, again + SAID, tmp_path)
    assert by_browser == by_python and len(by_python["cells"]) > 10 and by_python["answer"]


@needs_browser
def test_without_scripts_all_numbers_are_tables(made, tmp_path):
    page = re.sub(r"<script.*?</script>", "", made["two"], flags=re.DOTALL)
    script = """return [[...document.querySelectorAll("details.table")].every((each) => each.open),
      document.querySelectorAll("table").length, document.body.innerText];"""
    is_open, tables, text = found_in(page, script, tmp_path)
    assert is_open and tables >= 10 and "How sure" not in text
    assert "95 % CI" in text and "price of electricity" in text


MOVE = """const move = (id, value) => {
  const input = document.getElementById(id);
  input.value = value;
  input.dispatchEvent(new window.Event("input"));
};
const settle = () => new Promise((done) => setTimeout(done, 2000));
"""


@needs_browser
def test_a_slider_changes_all_and_the_page_names_the_command_that_says_the_same(
    made, folder, tmp_path
):
    script = f"""{MOVE}
      const before = document.getElementById("answer").textContent;
      move("slider-demand.cameras", 240); move("slider-years", 2);
      move("slider-purchase_price_factor", 0.5);
      await settle();
      const moved = {{command: document.getElementById("command").textContent,
        result: document.getElementById("result").textContent}};
      const said = await (async () => {{ {SAID} }})();
      document.getElementById("reset").click();
      await settle();
      return {{before, moved, said, after: document.getElementById("answer").textContent,
        command: document.getElementById("command").textContent}};"""
    found = found_in(made["two"], script, tmp_path)
    assert found["after"] == found["before"] != found["said"]["answer"]
    assert found["moved"]["result"].startswith(found["said"]["answer"])
    words = shlex.split(found["moved"]["command"])
    assert words[:3] == ["python3", "-m", "analysis.compare"]
    assert "--set purchase_price_factor=0.5" in found["moved"]["command"]
    assert "--set" not in found["command"]
    again = found_in(compared(folder, *words[3:]), SAID, tmp_path)
    assert again == found["said"]


@needs_browser
def test_a_command_that_has_the_option_already_has_it_once(folder, tmp_path):
    options = ["--years=3", "--set", "pue=1.3", "--set", "discount_rate=0.1"]
    page = compared(folder, "R760xa", "m7i.48xlarge", *DEMAND, *options)
    script = f"""{MOVE} move("slider-years", 5); move("slider-pue", 1.5); await settle();
      return document.getElementById("command").textContent;"""
    words = shlex.split(found_in(page, script, tmp_path))
    assert "--years=3" not in words and "pue=1.3" not in words
    assert {"years=5", "pue=1.5", "discount_rate=0.1", "R760xa=900"} <= {*words}
    assert compared(folder, *words[3:])


@needs_browser
def test_another_baseline_is_chosen_by_click(made, folder, tmp_path):
    script = """const state = () => ["#performance", "#differences"].map((id) =>
        [document.querySelector(`${id} h2`).textContent,
         [...document.querySelectorAll(`${id} td`)].map((each) => each.textContent)]);
      const select = document.getElementById("baseline");
      if (select.value !== "m6i.8xlarge") {
        select.value = "m6i.8xlarge";
        select.dispatchEvent(new window.Event("change"));
      }
      return [[...select.options].map((each) => each.text), state()];"""
    sides, chosen = found_in(made["five"], script, tmp_path)
    assert sorted(sides) == sorted(SPEEDS)
    again = compared(folder, *SPEEDS, *DEMAND, "--baseline", "m6i.8xlarge")
    without = re.sub(r"<script>.*?</script>", "", again, flags=re.DOTALL)
    _, expected = found_in(without, script, tmp_path)
    assert chosen[0] == expected[0] and chosen[1][0] == expected[1][0]


@needs_browser
def test_every_chart_says_in_words_what_it_shows_and_a_side_has_one_look(made, tmp_path):
    script = """const colours = {}, patterns = {}, shapes = {};
      for (const row of document.querySelectorAll(".row")) {
        const name = row.querySelector(".name"), mark = row.querySelector(".mark, .bar");
        if (!name || !mark) continue;
        for (const side of ["R760xa", "m7i.48xlarge"]) {
          if (name.textContent.includes(side)) {
            (colours[side] ||= []).push([...mark.classList].find((each) => /^s\\d$/.test(each)));
            const look = mark.matches(".bar") ? [patterns, "fill"] : [shapes, "d"];
            (look[0][side] ||= []).push(mark.getAttribute(look[1]));
          }
        }
      }
      return [[...document.querySelectorAll(".chart")].map((each) =>
        [each.getAttribute("role"), each.getAttribute("aria-label")]),
        colours, patterns, shapes];"""
    charts, *looks = found_in(made["five"], script, tmp_path)
    assert len(charts) >= 8 and all(role == "img" and len(alt) > 60 for role, alt in charts)
    assert any("95 % CI" in alt for _, alt in charts)
    assert any("both meet in month" in alt for _, alt in charts)
    for look in looks:  # colour, pattern and shape
        assert all(len(found) > 2 and len({*found}) == 1 for found in look.values())
        assert len({found[0] for found in look.values()}) == 2


def test_one_machine_alone_says_what_it_carries_what_limits_it_and_what_to_copy(made):
    page = html.unescape(made["one"])
    (answer,) = texts(page, "answer")
    assert re.search(r"R760xa carries 12\d calls .* and 4\d cameras", answer)
    titles = re.findall(r"<h2 [^>]*>(.*?)</h2>", page)
    assert "CPU time limits 4 of 4 best runs" in titles
    assert any(title.startswith("Valid runs of the same work differ by ") for title in titles)
    assert "numactl --physcpubind=0-7 python3 infer.py" in page and "inference 99%" in page


def test_capacities_beside_each_other_and_quality_beside_speed_are_shown(made):
    page = html.unescape(made["two"])
    (payload,) = re.findall(r'id="data">(.*?)</script>', page)
    rows = json.loads(payload)["charts"]["capacity-0"]["rows"]
    (mix,) = [row for row in rows if "beside" in row["group"]]
    assert mix["group"] == "calls beside 10 cameras" and mix["text"] == "70 calls"
    assert "The accuracy gate is passed" in page
    speed = r"<td>Audio AI: 1\d\.\d\d × real time; LLM: \d\d\.\d\d tokens/s; [^<]*</td>"
    assert re.search(speed + "<td>accuracy gate passed: word_error_rate 0.05, limit 0.1", page)


def test_titles_are_findings(made):
    titles = {name: re.findall(r"<h2 [^>]*>(.*?)</h2>", page) for name, page in made.items()}
    assert "R760xa carries 1.3 × the calls and 1.3 × the cameras of m7i.48xlarge" in titles["two"]
    assert any(re.match("R760xa is better than m7i.48xlarge in 3 of 4", t) for t in titles["two"])
    assert "3 of 43 runs are not valid as evidence" in titles["two"]
    assert any("cheaper from month" in t for t in titles["two"])


def test_every_run_links_to_its_record(made, folder):
    links = re.findall(r'<a href="([^#"][^"]*)">', made["two"])
    assert len({*links}) == len(list(folder.glob("R760xa/*"))) + len(list(folder.glob("m7*/*")))
    assert all((folder / link).is_file() for link in links)


def test_the_page_needs_nothing_else_and_lets_no_other_script_run(made):
    for page in made.values():
        assert not re.search(r"""(src|href|srcset|url\()\s*=?\s*["']?\s*(https?:)?//""", page)
        assert "default-src 'none'" in page and page.count("<script") == 2


def test_a_thousand_records_take_seconds_and_a_small_page(tmp_path, monkeypatch):
    for machine, speed in SPEEDS.items():
        for i in range(200):
            made = record(
                [speed * (1 + i % 7 / 100)] * 8,
                machine=machine,
                threads=8 + i % 2,
                **{"prompt tokens": 128 * (1 + i % 10)},
            )
            write(tmp_path / machine, made)
    folders = [str(tmp_path / machine) for machine in SPEEDS]
    command = ["compare", *folders, "--power_w", "R760xa=900", "--html", "r.html"]
    monkeypatch.setattr(sys, "argv", command)
    began = time.process_time()
    page = pages.html(compare.build(compare.parse_args()), tmp_path)
    assert time.process_time() - began < 15 and len(page) < 3e6  # 5 s on a quiet machine


def test_json_has_the_demand_and_one_baseline(folder):
    done = run_analysis("compare", "R760xa", "m7i.48xlarge", *DEMAND, "--json", cwd=folder)
    data = json.loads(done.stdout)
    assert data["demand"]["work"]["alternatives"] and not data["others"]
    assert data["runs"][0]["context"]["machine"] == MACHINE.format("R760xa")
