"""The costs that a page computes are those that Python does."""

import html
import json
import math
import random
import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from analysis import assumptions, page_model, pricing, sizing, uncertainty
from analysis.prices import Api, Offer, System
from analysis.sizing import Capacity, Mix
from analysis.text import as_json

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
BOUGHT = Offer("bought", "bought", usd=86_169.07, source="a list", date="2026-11-01")
RENTED = (
    Offer("on demand", "on demand", usd_per_hour=9.6768),
    Offer("reserved", "reserved", usd_per_hour=5.4),
    Offer("reserved 1 y, no up-front", "reserved", usd_per_hour=6.1, term_years=1),
    Offer("reserved 3 y, partial", "reserved", usd_per_hour=1.9, upfront_usd=51e3, term_years=3),
    Offer("reserved 3 y, all", "reserved", upfront_usd=98_765.43, term_years=3),
    Offer("spot", "spot", usd_per_hour=3.21),
)
EDGE = System("edge", (BOUGHT,), rated_w=1400.0, notes=("bought: the price has no date",))
CLOUD = System("cloud", RENTED)
METERED = System("metered", (replace(BOUGHT, usd=40_000.0), RENTED[1]), full_w=900.0, idle_w=310.0)
UNMETERED = System("unmetered", (replace(BOUGHT, usd=20_000.0),))
SYSTEMS = {"edge": EDGE, "cloud": CLOUD, "metered": METERED, "unmetered": UNMETERED}
API = Api("hosted", {"million tokens": 0.31, "image": 0.0007}, "a list", "2026-10-01")
# What a reader may move, and between what; the demand and the years among them.
MOVED = {
    **{"years": (1, 7), "utilization": (0.05, 1), "usd_per_kwh": (0, 0.6), "pue": (1, 2.5)},
    **{"load": (0.3, 1), "idle_power_share": (0, 0.6), "maintenance_share": (0, 0.3)},
    **{"residual_share": (0, 0.3), "discount_rate": (0, 0.2), "usd_per_gb_month": (0, 0.3)},
    **{"usd_per_gb_egress": (0, 0.3), "spot_overhead_share": (0, 0.5), "peak_factor": (1, 3)},
    **{"planning_share": (0.5, 1), "interference_share": (0, 1)},
    **{"purchase_price_factor": (0.3, 1.5), "rental_price_factor": (0.3, 1.5)},
    **{"rack_units_usd_per_month": (0, 300), "admin_usd_per_year": (0, 9000)},
}


def capacity(side, unit, count, runs=4, share=1.0) -> Capacity:
    if not runs:
        return sizing.given(side, unit, count)
    spread = math.log(count + 0.5), 0.04, 7.0
    return Capacity(unit, side, count, count, count, runs, "measured", (), share, *spread)


CAPACITIES = {
    side: {unit: capacity(side, unit, count, *more) for unit, count in counts.items()}
    for side, counts, *more in (
        ("edge", {"cameras": 50.0, "users": 310.0, "calls": 95.0}),
        ("cloud", {"cameras": 41.0, "users": 205.0, "calls": 88.0}),
        ("metered", {"cameras": 23.0, "users": 90.0, "calls": 31.0}, 1, 0.5),
        ("unmetered", {"cameras": 12.0, "users": 60.0, "calls": 9.0}, 0),
    )
}
MIXES = {
    "edge": [
        Mix({"cameras": 20.0, "users": 120.0}, 4),
        Mix({"cameras": 30.0, "calls": 30.0}, 4, is_limit=False),
        Mix({"cameras": 12.0, "users": 90.0, "calls": 20.0}, 4),
    ],
    "cloud": [Mix({"cameras": 25.0, "users": 100.0}, 4, is_limit=False)],
}


def works(chance: random.Random):
    """Functions that price each kind of work, from assumptions and streams by unit (None: as they
    are), and the units of its demand."""

    def unit(sides, rates):
        def price(assumed, streams):
            return pricing.price_unit("LLM", "million tokens", rates, SYSTEMS, assumed)

        return price, ()

    def demand(streams, sides, **more):
        used = {u: {"million tokens": 0.02, "image": i} for i, u in enumerate(streams)}
        stated = pricing.Demand(streams, api_use=used, **more)
        own = {side: CAPACITIES[side] for side in sides}

        def price(assumed, moved):
            asked = replace(stated, streams={**streams, **moved})
            return pricing.price_demand(asked, own, MIXES, SYSTEMS, assumed, [API])

        return price, tuple(streams)

    measured = {
        side: uncertainty.measured(f"rate of {side}", f"rate of {side}", medians, "more runs")
        for side, medians in (
            ("edge", [4.3, 4.4, 4.2, 4.35]),
            ("cloud", [3.6]),
            ("metered", [1.9, 2.0, 2.2]),
            ("unmetered", [0.5, 0.6]),
        )
    }
    given = {
        side: uncertainty.assumed(f"rate of {side}", side, rate, rate, rate, "")
        for side, rate in (("edge", 4.0), ("cloud", 3.0))
    }
    found = [unit("all", measured)] * 4 + [unit("two", given)] * 2
    kinds = [(p, b) for p in sizing.read_profiles().values() for b in sizing.BILLING]
    for profile, billing in kinds:
        units = chance.sample(["cameras", "users", "calls"], chance.choice([1, 2, 3]))
        streams = {name: float(chance.randint(1, 900)) for name in units}
        more = {"spare": chance.choice([0, 1]), "headroom": chance.choice([0.0, 0.25])}
        if chance.random() < 0.5:
            more |= {"storage_gb": {units[0]: 20.0}, "egress_gb": {units[-1]: 0.1}}
        sides = ["edge", "cloud", *chance.sample(["metered", "unmetered"], chance.choice([0, 1]))]
        found.append(demand(streams, sides, profile=profile, billing=billing, **more))
    return found


def in_browser(folder, page_works, settings) -> list:
    """What the page computes: of each setting, which has the index of a work and what is moved."""
    data = {"payload": page_model.payload(page_works), "settings": settings}
    script = """
        const data = JSON.parse(document.getElementById("data").textContent);
        const works = costModel.read(data.payload), begin = performance.now();
        const found = data.settings.map(([work, moved]) => costModel.price(works[work], moved));
        const each_ms = (performance.now() - begin) / found.length;
        const plain = (_, x) => typeof x === "number" && !Number.isFinite(x) ? String(x) : x;
        document.body.textContent = JSON.stringify({each_ms, found}, plain);
    """
    page = folder / "page.html"
    page.write_text(
        f"<!DOCTYPE html><meta charset=utf-8><body><script>{page_model.SCRIPT.read_text()}</script>"
        f'<script type="application/json" id="data">{json.dumps(data, default=as_json)}</script>'
        f"<script>{script}</script>"
    )
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120)
    body = re.search(r"<body>(.*)</body>", done.stdout, re.DOTALL)
    assert body, done.stderr
    answer = json.loads(html.unescape(body[1]))
    print(f"{answer['each_ms']:.0f} ms each in the browser")
    return answer["found"]


def differences(ours, theirs, where="") -> list[str]:
    """Where what Python says and what the page says are not the same to the cent, and far less."""
    if isinstance(ours, dict):
        if not isinstance(theirs, dict) or set(ours) != set(theirs):
            return [f"{where}: {ours} {theirs}"]
        return [d for key in ours for d in differences(ours[key], theirs[key], f"{where}.{key}")]
    if isinstance(ours, list):
        if not isinstance(theirs, list) or len(ours) != len(theirs):
            return [f"{where}: {ours} {theirs}"]
        each = (differences(*pair, f"{where}[{i}]") for i, pair in enumerate(zip(ours, theirs)))
        return [d for found in each for d in found]
    if isinstance(ours, float) and theirs in ("Infinity", "-Infinity", "NaN"):
        theirs = float(theirs)
    if isinstance(ours, (int, float)) and isinstance(theirs, (int, float)):
        same = math.isclose(ours, theirs, rel_tol=1e-9, abs_tol=1e-6)
        return (
            []
            if same or (math.isnan(ours) and math.isnan(theirs))
            else [f"{where}: {ours} {theirs}"]
        )
    return [] if ours == theirs else [f"{where}: {ours} {theirs}"]


@pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed")
@pytest.mark.parametrize("count, draws", [(200, 500), (10, uncertainty.DRAWS)])
def test_a_browser_agrees_with_python_to_the_cent(tmp_path, monkeypatch, count, draws):
    monkeypatch.setattr(uncertainty, "DRAWS", draws)
    chance = random.Random(19)
    priced, settings, expected = works(chance), [], []
    for _ in range(count):
        index = chance.randrange(len(priced))
        price, units = priced[index]
        names = chance.sample(list(MOVED), chance.choice([0, 1, 3, 6]))
        moved = {name: round(chance.uniform(*MOVED[name]), 3) for name in names}
        streams = {unit: float(chance.randint(1, 2000)) for unit in units if chance.random() < 0.5}
        given = assumptions.read(given={name: repr(value) for name, value in moved.items()})
        expected.append(json.loads(json.dumps(price(given, streams), default=as_json)))
        demand = {f"demand.{unit}": count for unit, count in streams.items()}
        settings.append((index, {**moved, **demand}))
    as_stated = [price(assumptions.read(), {}) for price, _ in priced]
    found = in_browser(tmp_path, as_stated, settings)
    wrong = [
        f"{setting}{line}"
        for setting, ours, theirs in zip(settings, expected, found)
        for line in differences(ours, theirs)
    ]
    assert len(found) == count and not wrong, "\n".join(wrong[:20])
    evens = [even for each in expected for even in each["break_evens"]]
    chances = np.array([even["decision"]["probability"] for even in evens])
    assert ((0.1 < chances) & (chances < 0.9)).sum() > count / 10, "few are undecided"
    assert sum(even["month"] is not None for even in evens) > count / 2
