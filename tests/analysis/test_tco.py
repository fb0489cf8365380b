"""Total cost against docs/cost.md, against a ledger of payments, and what must hold of it."""

import math
import re
from dataclasses import replace
from decimal import Decimal, getcontext

import numpy as np
import pytest
from conftest import REPO
from simulated import sample

from analysis import assumptions, tco
from analysis.prices import Api, Offer, System
from analysis.tco import Use
from harness.cli import UserError

getcontext().prec = 40
# The example of docs/cost.md
V = assumptions.values(
    assumptions.read(
        given={
            "years": "4",
            "utilization": "0.5",
            "discount_rate": "0.08",
            "usd_per_kwh": "0.20",
            "pue": "1.5",
            "maintenance_share": "0.1",
            "residual_share": "0.05",
            "rack_units_usd_per_month": "60",
            "spot_overhead_share": "0.1",
            "usd_per_gb_month": "0.08",
            "usd_per_gb_egress": "0.09",
        }
    )
)
USE = Use(1, busy_share=0.5, on_share=0.6, storage_gb=500, egress_gb_per_month=1000)
SYSTEM = System("server", full_w=500, idle_w=150)
BOUGHT = Offer("bought", "bought", usd=40_000)
ON_DEMAND = Offer("on demand", "on demand", usd_per_hour=2.00)
SPOT = Offer("spot", "spot", usd_per_hour=0.80)
ONE_YEAR = Offer("reserved", "reserved", usd_per_hour=1.30, term_years=1)
PARTIAL = Offer("reserved", "reserved", usd_per_hour=0.35, upfront_usd=9000, term_years=3)
ALL = Offer("reserved", "reserved", upfront_usd=17_500, term_years=3)
OFFERS = {
    "Bought": BOUGHT,
    "On demand": ON_DEMAND,
    "Spot": SPOT,
    "Reserved, no up-front": ONE_YEAR,
    "Reserved, partial up-front": PARTIAL,
    "Reserved, all up-front": ALL,
}
DOCS = (REPO / "docs/cost.md").read_text(encoding="utf-8")
cases = pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS)


def by_hand(title: str) -> dict[str, str]:
    """The USD by line item of an example in the docs."""
    section = DOCS.split(f"\n### {title}")[1].split("\n### ")[0]
    rows = re.findall(r"^\| ([\w -]+?) \|.*\| (−?[\d,]+\.\d\d) \|$", section, re.MULTILINE)
    return {name: usd.replace("−", "-") for name, usd in rows}


@pytest.mark.parametrize("title", OFFERS)
def test_every_form_of_price_agrees_with_the_docs_to_the_cent(title):
    found = tco.items(OFFERS[title], SYSTEM, USE, V)
    found["total"] = tco.total(OFFERS[title], SYSTEM, USE, V)
    assert {name: f"{usd:,.2f}" for name, usd in found.items()} == by_hand(title)


def break_even_month(owned, rented, v):
    return tco.break_even_month(tco.cumulative(*owned, v), tco.cumulative(*rented, v))


def test_a_hosted_api_agrees_with_the_docs_to_the_cent():
    api = Api("api", {"million input tokens": 0.15, "million output tokens": 0.60}, "list", None)
    tokens = {"million input tokens": 300, "million output tokens": 50}
    assert by_hand("Hosted API") == {
        "total": f"{tco.total(api.offer(tokens), SYSTEM, USE, V):,.2f}"
    }
    with pytest.raises(UserError, match="api: no price per image; there are prices per million in"):
        api.offer({"image": 1})


def test_costs_per_unit_agree_with_the_docs():
    per_unit = [tco.per_unit(o, SYSTEM, 100, V) for o in (ON_DEMAND, ONE_YEAR, BOUGHT)]
    assert [f"{usd:.6f}" for usd in per_unit] == ["0.020000", "0.026000", "0.038359"]
    assert "= 0.02 USD per unit" in DOCS and "= 0.026 USD" in DOCS and "= 0.038359 USD" in DOCS


def test_break_even_agrees_with_the_docs():
    rented = ON_DEMAND, SYSTEM, Use(1.5, 0.5, 0.8)
    month = break_even_month((BOUGHT, SYSTEM, USE), rented, V)
    share = tco.break_even_utilization((BOUGHT, SYSTEM, 150), (ON_DEMAND, SYSTEM, 100), V)
    assert f"so from month {month:.0f} on" in DOCS
    assert f"= {share:.0%}: owning costs less" in DOCS.replace("\n", " ").replace("64 %", "64%")


def test_an_energy_bill_by_hand_without_cost_of_capital():
    # 325 W x 1.5 x 35,040 h = 17,082 kWh at 0.20 USD
    energy = tco.items(BOUGHT, SYSTEM, USE, replace(V, discount_rate=0.0))["energy"]
    assert energy == pytest.approx(17_082 * 0.20)


def ledger(offer: Offer, use: Use, v: assumptions.Values) -> Decimal:
    """Present value of every single payment, from a list of (month, USD)."""
    d = {name: Decimal(str(value)) for name, value in vars(v).items() if value is not None}
    machines, hours, months = Decimal(str(use.machines)), Decimal(730), round(v.years * 12)
    usd, per_hour, upfront = (
        Decimal(str(x)) for x in (offer.usd, offer.usd_per_hour, offer.upfront_usd)
    )
    paid: list[tuple[int, Decimal]] = []
    if offer.kind == "bought":
        idle, full = Decimal(SYSTEM.idle_w), Decimal(SYSTEM.full_w)
        kw = (idle + (full - idle) * Decimal(str(use.busy_share))) / 1000
        monthly = usd * d["maintenance_share"] / 12 + d["rack_units_usd_per_month"]
        monthly += kw * hours * d["pue"] * d["usd_per_kwh"]
        paid += [(0, usd * machines), (months, -usd * d["residual_share"] * machines)]
        paid += [(month, monthly * machines) for month in range(1, months + 1)]
    else:
        if offer.kind == "reserved":
            term = round(offer.term_years * 12)
            begins = range(0, months, term)
            paid += [(begin, upfront * machines) for begin in begins]
            billed, share = len(begins) * term, Decimal(1)
        else:
            billed, share = months, Decimal(str(use.on_share))
        if offer.kind == "spot":
            share *= 1 + d["spot_overhead_share"]
        rent = per_hour * hours * share * machines
        paid += [(month, rent) for month in range(1, billed + 1)]
        data = Decimal(str(use.storage_gb)) * d["usd_per_gb_month"]
        data += Decimal(str(use.egress_gb_per_month)) * d["usd_per_gb_egress"]
        paid += [(month, data) for month in range(1, months + 1)]
    growth = (1 + d["discount_rate"]) ** (Decimal(1) / 12)
    return sum((usd / growth**month for month, usd in paid), Decimal(0))


def some(seed: int) -> tuple[Use, assumptions.Values]:
    """A use and assumptions made up: whole months, rates of capital from 0 on."""
    rng = np.random.default_rng(seed)
    low, high = sorted(rng.uniform(0, 1, 2).round(3))
    use = Use(int(rng.integers(1, 9)), low, high, *rng.uniform(0, 5000, 2).round(1))
    v = replace(
        V,
        years=int(rng.integers(1, 120)) / 12,
        discount_rate=float(rng.choice([0.0, *rng.uniform(0.001, 0.3, 4).round(4)])),
        pue=round(rng.uniform(1, 2), 2),
        spot_overhead_share=round(rng.uniform(0, 0.5), 3),
        residual_share=round(rng.uniform(0, 0.3), 3),
    )
    return use, v


@cases
def test_every_form_of_price_agrees_with_a_ledger_to_the_cent(offer):
    for seed in range(20):
        use, v = some(seed)
        assert tco.total(offer, SYSTEM, use, v) == pytest.approx(
            float(ledger(offer, use, v)), abs=0.005
        )


@cases
def test_all_draws_cost_what_each_costs_alone(offer):
    drawn = sample(
        assumptions.read(given={"years": "2.5..5", "discount_rate": "0..0.1"}),
        25,
    )
    busy = np.linspace(0.1, 0.9, 25)
    used = replace(USE, machines=np.arange(1, 26), busy_share=busy, on_share=busy)
    system = System("s", rated_w=900)
    together = tco.total(offer, system, used, drawn)
    paid = tco.cumulative(offer, system, used, drawn)
    for draw in range(25):
        v = type(drawn)(
            **{k: None if x is None else float(x[draw]) for k, x in vars(drawn).items()}
        )
        use = replace(USE, machines=draw + 1, busy_share=busy[draw], on_share=busy[draw])
        assert together[draw] == pytest.approx(tco.total(offer, system, use, v))
        alone = tco.cumulative(offer, system, use, v)
        assert paid[: len(alone), draw] == pytest.approx(alone)
        assert paid[len(alone) - 1 :, draw] == pytest.approx(together[draw])


@cases
def test_what_has_been_paid_by_each_month_ends_with_the_total(offer):
    for years in (4, 3.3, 0.1):
        v = replace(V, years=years)
        paid = tco.cumulative(offer, SYSTEM, USE, v)
        assert len(paid) == math.ceil(round(12 * years, 6)) + 1
        assert paid[0] == pytest.approx(offer.usd + offer.upfront_usd)
        assert paid[-1] == pytest.approx(tco.total(offer, SYSTEM, USE, v))
        assert (np.diff(paid)[:-1] > 0).all()  # all but the residual, in the last month


def test_twice_the_price_is_twice_the_capital_cost():
    dear = replace(BOUGHT, usd=2 * BOUGHT.usd)
    once, twice = (tco.items(offer, SYSTEM, USE, V) for offer in (BOUGHT, dear))
    for name in ("purchase", "residual", "maintenance"):
        assert twice[name] == pytest.approx(2 * once[name])
    for name in ("energy", "rack space"):
        assert twice[name] == once[name]


@cases
def test_twice_the_machines_cost_twice(offer):
    twice = replace(USE, machines=2, storage_gb=1000, egress_gb_per_month=2000)
    assert tco.total(offer, SYSTEM, twice, V) == pytest.approx(2 * tco.total(offer, SYSTEM, USE, V))


@cases
def test_more_capacity_is_less_cost_per_unit(offer):
    usd = [tco.per_unit(offer, SYSTEM, rate, V) for rate in (50, 100, 200)]
    assert usd[0] == pytest.approx(2 * usd[1]) and usd[1] == pytest.approx(2 * usd[2])


def test_more_utilization_is_less_cost_per_unit_where_idle_hours_are_paid():
    busy = [replace(V, utilization=share) for share in (0.2, 0.5, 1.0)]
    for offer in (BOUGHT, ONE_YEAR, PARTIAL, ALL):
        usd = [tco.per_unit(offer, SYSTEM, 100, v) for v in busy]
        assert usd == sorted(usd, reverse=True) and usd[2] < usd[0]
    for offer in (ON_DEMAND, SPOT):
        assert np.ptp([tco.per_unit(offer, SYSTEM, 100, v) for v in busy]) < 1e-12


def test_reserved_is_on_demand_where_all_hours_are_used_at_an_equal_price():
    v = replace(V, utilization=1.0)
    reserved = replace(ONE_YEAR, usd_per_hour=2.00)
    assert tco.per_unit(reserved, SYSTEM, 100, v) == pytest.approx(0.02)
    assert tco.per_unit(ON_DEMAND, SYSTEM, 100, v) == pytest.approx(0.02)
    always = replace(USE, on_share=1)
    assert tco.total(reserved, SYSTEM, always, v) == pytest.approx(
        tco.total(ON_DEMAND, SYSTEM, always, v)
    )


def test_a_reservation_is_billed_in_idle_hours_too():
    # 6 USD per hour, of which a quarter is worked: 24 USD per hour in use
    reserved = Offer("reserved", "reserved", usd_per_hour=6.0, term_years=1)
    v = replace(V, utilization=0.25)
    assert tco.per_unit(reserved, SYSTEM, 1, v) == pytest.approx(24)
    assert tco.per_unit(replace(ON_DEMAND, usd_per_hour=6.0), SYSTEM, 1, v) == pytest.approx(6)


def test_a_dearer_capital_makes_later_payments_count_less():
    for offer in OFFERS.values():
        usd = [tco.total(offer, SYSTEM, USE, replace(V, discount_rate=d)) for d in (0, 0.05, 0.2)]
        assert usd == sorted(usd, reverse=True)
        assert usd[0] > usd[2]


def test_a_cost_of_capital_near_0_is_like_none():
    for offer in OFFERS.values():
        usd = [tco.total(offer, SYSTEM, USE, replace(V, discount_rate=d)) for d in (0, 1e-12)]
        assert usd[0] == pytest.approx(usd[1])


def test_an_idle_server_draws_power():
    energy = [
        tco.items(BOUGHT, SYSTEM, replace(USE, busy_share=busy), V)["energy"]
        for busy in (0, 0.5, 1)
    ]
    assert energy[0] == pytest.approx(energy[2] * 150 / 500)  # idle 150 W of 500 W
    assert energy[1] == pytest.approx((energy[0] + energy[2]) / 2)


def test_terms_that_end_with_the_years_leave_nothing_unused():
    for years, paid in ((3, None), (6, None), (4, "6 years are paid, of which 4 are used")):
        v = replace(V, years=years)
        note = tco.unused_commitment(PARTIAL, v)
        assert note == (paid and f"reserved: {paid}")
        assert ("unused commitment" in tco.items(PARTIAL, SYSTEM, USE, v)) == bool(paid)
    assert tco.unused_commitment(ON_DEMAND, V) is None


def test_a_reservation_of_unknown_term_is_for_the_whole_time():
    unknown = replace(ONE_YEAR, term_years=None)
    assert tco.total(unknown, SYSTEM, USE, V) == pytest.approx(tco.total(ONE_YEAR, SYSTEM, USE, V))
    assert tco.unused_commitment(unknown, V) is None


def test_what_is_unknown_is_named_and_never_0():
    nothing = replace(V, rack_units_usd_per_month=None, usd_per_gb_egress=None)
    no_power, unknown = System("s"), Use(storage_gb=None, egress_gb_per_month=None)
    assert tco.missing(BOUGHT, SYSTEM, USE, V) == ["administration", "storage beyond its own disks"]
    assert tco.missing(BOUGHT, no_power, unknown, nothing) == [
        "energy",
        "rack space",
        "administration",
    ]
    assert tco.missing(ON_DEMAND, SYSTEM, USE, nothing) == ["egress"]
    assert tco.missing(SPOT, no_power, unknown, V) == ["storage", "egress"]
    assert tco.missing(ONE_YEAR, SYSTEM, USE, V) == []
    sheet = {item.name: item for item in tco.line_items(BOUGHT, SYSTEM, USE, V)}
    assert sheet["administration"].usd is None and sheet["purchase"].usd == 40_000
    assert sheet["purchase"].source == "entered, no date"
    assert sheet["energy"].source == "measured; idle 150 W, usd_per_kwh, pue"
    assert sum(item.usd for item in sheet.values() if item.usd is not None) == pytest.approx(
        tco.total(BOUGHT, SYSTEM, USE, V)
    )


def test_administration_is_counted_once_given():
    v = replace(V, admin_usd_per_year=1200, discount_rate=0)
    assert tco.items(BOUGHT, SYSTEM, USE, v)["administration"] == pytest.approx(4800)
    assert "administration" not in tco.missing(BOUGHT, SYSTEM, USE, v)


def test_break_even_is_the_month_from_which_owning_stays_cheaper():
    months, shares = set(), set()
    for seed in range(60):
        use, v = some(seed)
        rng = np.random.default_rng(seed)
        rented = replace(list(OFFERS.values())[seed % 5 + 1], usd_per_hour=rng.uniform(0.5, 9))
        owned = replace(BOUGHT, usd=rng.uniform(2000, 60_000))
        month = break_even_month((owned, SYSTEM, use), (rented, SYSTEM, use), v)
        owning, renting = (tco.cumulative(o, SYSTEM, use, v) for o in (owned, rented))
        pays = [bool((owning[m:] < renting[m:]).all()) for m in range(len(owning))]
        assert (pays.index(True) if any(pays) else None) == (None if np.isnan(month) else month)
        months.add(month if any(pays) else None)

        rates = rng.uniform(50, 200, 2)
        share = tco.break_even_utilization(
            (owned, SYSTEM, rates[0]), (rented, SYSTEM, rates[1]), v, 0.1, 0.2
        )
        for utilization in np.linspace(0.01, 1, 12):
            at = replace(v, utilization=utilization)
            usd = tco.per_unit(owned, SYSTEM, rates[0], at)
            pays_now = usd < tco.per_unit(rented, SYSTEM, rates[1], at, 0.1, 0.2)
            if not np.isnan(share):
                assert 0 <= share <= 1
                assert pays_now == (utilization > share)
            elif utilization == 1:
                assert not pays_now
        shares.add(None if np.isnan(share) else share > 0)
    assert len(months) > 5 and None in months and shares == {None, True, False}


def test_break_even_of_all_draws_is_that_of_each():
    drawn = sample(assumptions.read(), 40)
    owned, rented = (BOUGHT, SYSTEM, Use(1, 0.5)), (ON_DEMAND, SYSTEM, Use(1.5, 0.5, 0.65))
    months = break_even_month(owned, rented, drawn)
    shares = tco.break_even_utilization((BOUGHT, SYSTEM, 150), (ON_DEMAND, SYSTEM, 100), drawn)
    for draw in range(40):
        v = type(drawn)(
            **{k: None if x is None else float(x[draw]) for k, x in vars(drawn).items()}
        )
        month = break_even_month(owned, rented, v)
        share = tco.break_even_utilization((BOUGHT, SYSTEM, 150), (ON_DEMAND, SYSTEM, 100), v)
        assert np.array_equal(months[draw], month, equal_nan=True)
        assert shares[draw] == pytest.approx(share, nan_ok=True)
    assert 1 < len(np.unique(months))


def test_owning_from_the_first_month_and_never():
    free, dear = replace(BOUGHT, usd=1), replace(BOUGHT, usd=1e7)
    rented = (ON_DEMAND, SYSTEM, USE)
    assert break_even_month((free, SYSTEM, USE), rented, V) == 1
    assert np.isnan(break_even_month((dear, SYSTEM, USE), rented, V))
    assert np.isnan(tco.break_even_utilization((dear, SYSTEM, 1), (ON_DEMAND, SYSTEM, 1), V))
