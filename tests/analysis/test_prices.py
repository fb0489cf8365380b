"""Prices with their dates and terms, power with where it is from, and hosted APIs."""

import re
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from conftest import REPO
from simulated import sample

from analysis import assumptions, prices, sut
from harness import sut_toml
from harness.cli import UserError

TODAY = date(2026, 11, 27)
V = assumptions.values(assumptions.read())
MACHINE = (REPO / "sut/m6i.8xlarge.toml").read_text(encoding="utf-8")


def system(**tables) -> dict:
    return {"system": {"name": "s"}, **tables}


def read(price: str, tmp_path: Path) -> dict:
    """A system that has this [price], as its file is read and checked."""
    text = re.sub("comparable_to.*\n", "", MACHINE)
    text = re.sub(r"\[price\].*?\n\n", price + "\n", text, flags=re.DOTALL)
    return sut_toml.read(tmp_path / "m6i.8xlarge.toml", text)


PRICE = """
[price]
usd = 40000
usd_per_hour = 2.0
usd_per_hour_spot = 0.8
basis = "on demand, Linux"
source = "price list"
date = 2026-11-01
[[price.reserved]]
term_years = 1
usd_per_hour = 1.3
[[price.reserved]]
term_years = 3
upfront_usd = 9000
usd_per_hour = 0.35
[[price.reserved]]
term_years = 3
upfront_usd = 17500
source = "quote 7"
date = 2025-01-31
"""


def test_each_form_of_price_is_an_offer(tmp_path):
    found = prices.read_system(read(PRICE, tmp_path), TODAY)
    assert [(o.name, o.kind, o.usd, o.usd_per_hour, o.upfront_usd) for o in found.offers] == [
        ("bought", "bought", 40000, 0, 0),
        ("on demand", "on demand", 0, 2.0, 0),
        ("reserved 1 y, no up-front", "reserved", 0, 1.3, 0),
        ("reserved 3 y, partial up-front", "reserved", 0, 0.35, 9000),
        ("reserved 3 y, all up-front", "reserved", 0, 0, 17500),
        ("spot", "spot", 0, 0.8, 0),
    ]
    assert [o.term_years for o in found.offers] == [None, None, 1, 3, 3, None]
    evidence = {o.name: o.evidence for o in found.offers}
    assert evidence["on demand"] == "on demand, Linux, price list, 2026-11-01"
    assert evidence["reserved 1 y, no up-front"] == "price list, 2026-11-01"
    assert evidence["reserved 3 y, all up-front"] == "quote 7, 2025-01-31"
    old = "reserved 3 y, all up-front: the price of 2025-01-31 is older than a year"
    assert found.notes == (old,)


def test_terms_and_dates_are_on_the_systems_page(tmp_path):
    shown = sut.facts(read(PRICE + "[power]\nrated_w = 900\nidle_w = 210\n", tmp_path))
    assert shown["Price"]["Reserved for"].splitlines() == [
        "1 year: 1.3 USD per hour",
        "3 years: 9,000.00 USD at its start and 0.35 USD per hour",
        "3 years: 17,500.00 USD at its start (quote 7, 2025-01-31)",
    ]
    assert shown["Price"]["Date"] == "2026-11-01"
    assert "210" in shown["Power"]["Idle"]


@pytest.mark.parametrize(
    "price, words",
    [
        ("[[price.reserved]]\nusd_per_hour = 1", "term_years"),
        ("[[price.reserved]]\nterm_years = 1", "price.reserved.0"),
        ("[[price.reserved]]\nterm_years = 0\nusd_per_hour = 1", "term_years"),
        ("[[price.reserved]]\nterm_years = 1\nusd_an_hour = 1", "usd_an_hour"),
        ("[price]\nusd = 1\ndate = 'May'", "price.date"),
        ("[price]\nusd = 1\ndate = 2026-11-01T10:00:00", "price.date"),
    ],
)
def test_a_mistake_in_a_price_is_one_line(tmp_path, price, words):
    with pytest.raises(UserError) as error:
        read(price + "\n", tmp_path)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "priced_on, note",
    [
        ("2025-11-27", None),
        ("2025-11-26", "the price of 2025-11-26 is older than a year"),
        ("2026-11-27", None),
        ("2026-11-28", "the price is dated 2026-11-28, after today"),
        (None, "the price has no date"),
    ],
)
def test_an_old_price_is_marked(priced_on, note):
    assert prices.age_note(priced_on, TODAY) == note


@pytest.mark.parametrize("path", sorted((REPO / "sut").glob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_price_is_an_offer_and_marked_if_undated(path):
    described = sut_toml.read(path)
    found = prices.read_system(described, TODAY)
    price = described.get("price", {})
    assert bool(found.offers) == bool({"usd", "usd_per_hour"} & price.keys())
    assert all(offer.source for offer in found.offers)
    assert len(found.notes) == sum(prices.age_note(o.date, TODAY) is not None for o in found.offers)


def test_a_reservation_without_a_term_is_still_read():
    (offer,) = prices.read_system(system(price={"usd_per_hour_reserved": 0.9}), TODAY).offers
    assert (offer.kind, offer.usd_per_hour, offer.term_years) == ("reserved", 0.9, None)


@pytest.mark.parametrize(
    "power, measured, idle_and_full, source",
    [
        ({}, (None, None), None, "unknown"),
        ({"idle_w": 200}, (None, None), None, "unknown"),
        ({}, (500, None), (150, 500), "measured; idle assumed"),
        ({}, (500, 120), (120, 500), "measured; idle 120 W"),
        ({"rated_w": 1000}, (None, None), (210, 700), "rated 1000 W × load; idle assumed"),
        (
            {"rated_w": 1000, "idle_w": 200},
            (None, None),
            (200, 700),
            "rated 1000 W × load; idle 200 W",
        ),
        ({"rated_w": 1000, "idle_w": 200}, (500, 120), (120, 500), "measured; idle 120 W"),
    ],
)
def test_power_is_taken_as_measured_before_as_rated(power, measured, idle_and_full, source):
    found = prices.read_system(system(power=power), TODAY, *measured)
    assert found.power_w(V) == (idle_and_full and pytest.approx(idle_and_full))
    assert found.power_source == source


def test_assumed_power_is_drawn_and_idle_never_above_full_work():
    found = prices.read_system(system(power={"rated_w": 1000, "idle_w": 600}), TODAY)
    drawn = sample(assumptions.read(), 500)
    idle, full = found.power_w(drawn)
    assert np.ptp(full) > 0 and (idle <= full).all()


@pytest.mark.parametrize("power, measured", [({"idle_w": 600}, (500, None)), ({}, (500, 600))])
def test_more_power_idle_than_at_full_work_is_refused(power, measured):
    with pytest.raises(UserError, match="s: idle power 600 W is above the 500 W of full work"):
        prices.read_system(system(power=power), TODAY, *measured)


API = """
name = "Example API"
source = "price list"
date = 2025-01-31
[usd_per]
"million input tokens" = 0.15
image = 0
"""


def test_a_hosted_api(tmp_path):
    path = tmp_path / "api.toml"
    path.write_text(API)
    found = prices.read_api(path, TODAY)
    assert (found.name, found.source, found.date) == ("Example API", "price list", "2025-01-31")
    assert found.usd_per == {"million input tokens": 0.15, "image": 0}
    assert found.notes == ("Example API: the price of 2025-01-31 is older than a year",)
    path.write_text(API.replace("2025-01-31", "2026-11-01"))
    assert prices.read_api(path, TODAY).notes == ()
    path.write_text(API.replace("date = 2025-01-31", ""))
    assert prices.read_api(path, TODAY).notes == ("Example API: the price has no date",)


@pytest.mark.parametrize(
    "old, new, words",
    [
        ('name = "Example API"', "", "needs name and source"),
        ('source = "price list"', "source = 1", "needs name and source"),
        ("0.15", "-0.15", "usd_per 'million input tokens' must be a number from 0 on"),
        ("0.15", "nan", "usd_per 'million input tokens'"),
        ("0.15", "true", "usd_per 'million input tokens'"),
        ("2025-01-31", "'May'", "date must be like 2026-11-27"),
        ("[usd_per]", "[usd]", "no key 'usd'"),
        (API[API.index("[usd_per]") :], "", "needs a table [usd_per]"),
        ("[usd_per]", "[usd_per", "not TOML"),
    ],
)
def test_a_mistake_in_an_api_is_one_line(tmp_path, old, new, words):
    path = tmp_path / "api.toml"
    assert old in API
    path.write_text(API.replace(old, new))
    with pytest.raises(UserError) as error:
        prices.read_api(path, TODAY)
    assert words in str(error.value) and "\n" not in str(error.value)
