"""Costs against a spreadsheet worked by hand."""

import argparse
import json
import subprocess
import sys
from dataclasses import replace

import pytest
from conftest import REPO, assert_one_line
from simulated import record, write

from analysis import cost

# A server of 40,000 USD that draws 500 W, kept 4 years, 10 % maintenance, PUE 1.5, 0.20 USD/kWh,
# in use half the time:
#   a year      40,000 / 4 + 40,000 x 0.1 = 14,000 USD; per calendar hour 14,000 / 8760 = 1.59817
#   energy      0.5 kW x 1.5 x 0.20 = 0.15 USD per hour in use
#   in use      1.59817 / 0.5 + 0.15 = 3.34635 USD per hour
OWNED = cost.Machine("server", usd=40_000, power_w=500)
RENTED = cost.Machine("instance", usd_per_hour=2.00)
ASSUMED = cost.Assumptions(
    years=4, utilization=0.5, usd_per_kwh=0.20, pue=1.5, maintenance_share=0.1
)


def test_an_hour_of_a_server_and_of_an_instance():
    assert cost.fixed_per_hour(OWNED.usd, ASSUMED) == pytest.approx(1.59817, abs=1e-5)
    assert cost.energy_per_hour(OWNED.power_w, ASSUMED) == pytest.approx(0.15)
    assert cost.per_hour(OWNED, ASSUMED) == pytest.approx(3.34635, abs=1e-5)
    assert cost.per_hour(RENTED, ASSUMED) == 2.00


@pytest.mark.parametrize(
    "unit, throughput, usd",
    [
        ("million tokens", 100, 5.5556),  # 0.36 million tokens per hour; 2 / 0.36
        ("hour of audio", 20, 0.1),  # 20 hours of audio per hour; 2 / 20
        ("1,000 requests", 5, 2 / 18),  # 5/s are 18,000 per hour
        # 3 cameras of 30 frames/s: 0.003 thousand camera-hours per hour; 2 / 0.003
        ("1,000 camera-hours=frames_per_second:108e6", 90, 666.667),
    ],
)
def test_a_unit_of_work(unit, throughput, usd):
    units_per_hour = cost.unit_of_work(unit).per_hour(throughput)
    assert cost.price(RENTED, units_per_hour, ASSUMED).usd_per_unit == pytest.approx(usd, rel=1e-4)


@pytest.mark.parametrize("text", ["tokens", "x=metric", "x=metric:0", "x=metric:y", "0 things"])
def test_a_unit_that_says_no_amount_is_wrong_usage(text):
    with pytest.raises((ValueError, argparse.ArgumentTypeError)):
        cost.unit_of_work(text)


def test_break_even():
    # One server does the work of 1.5 instances: renting costs 3.00 USD per hour in use, 2.85 more
    # than the server's energy.
    #   utilization   1.59817 / 2.85 = 0.56076
    #   month         at 0.75: saved 2.85 x 0.75 x 730 = 1,560.375 per month, less
    #                 40,000 x 0.1 / 12 = 333.333 of maintenance: 1,227.04;
    #                 40,000 / 1,227.04 = 32.6, so the 33rd
    assumed = replace(ASSUMED, utilization=0.75)
    even = cost.break_even(OWNED, RENTED, 3.0, 2.0, assumed)
    assert (even.instances, even.month) == (1.5, 33)
    assert even.utilization == pytest.approx(0.56076, abs=1e-5)
    spent = [even.purchase_usd + even.owning_usd_per_month * month for month in (32, 33)]
    assert even.months == 48 and even.purchase_usd == 40_000
    assert even.renting_usd_per_month == pytest.approx(3 * 0.75 * 730)
    assert spent[0] > even.renting_usd_per_month * 32
    assert spent[1] < even.renting_usd_per_month * 33


def test_owning_that_never_pays_is_said_so():
    # 0.05 instances' work costs less than the energy
    even = cost.break_even(OWNED, RENTED, 1.0, 20.0, ASSUMED)
    assert even.utilization is None and even.month is None
    assert cost.break_even(OWNED, RENTED, 3.0, 2.0, replace(ASSUMED, utilization=0.3)).month is None


def test_unknown_stays_unknown():
    for known in ({"power_w": 500}, {"usd": 40_000}, {}):
        owned = cost.Machine("owned", **known)
        assert cost.per_hour(owned, ASSUMED) is None and owned.missing()
        assert cost.break_even(owned, RENTED, 1, 1, ASSUMED) is None
    assert cost.break_even(OWNED, cost.Machine("no rate"), 1, 1, ASSUMED) is None


def test_power_is_taken_as_measured_before_as_rated():
    system = {"system": {"name": "s"}, "price": {"usd": 1.0}, "power": {"rated_w": 1000}}
    assert cost.machine(system, None, 0.7, "on_demand").power_w == 700
    assert cost.machine(system, 450.0, 0.7, "on_demand").power_w == 450
    assert cost.machine({"system": {"name": "s"}}, None, 0.7, "on_demand").power_w is None


def test_sensitivity_changes_one_thing_at_a_time():
    cases = cost.alternatives(ASSUMED)
    assert list(cases)[:3] == ["usd_per_kwh 0.1", "usd_per_kwh 0.4", "years 3"] and len(cases) == 7
    assert cases["years 3"] == replace(ASSUMED, years=3)
    dearer = cost.break_even(OWNED, RENTED, 3.0, 2.0, cases["usd_per_kwh 0.4"])
    assert dearer.owned_usd_per_unit == pytest.approx((3.34635 + 0.15) / 3, abs=1e-5)


def run(module: str, *args) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", f"analysis.{module}", *map(str, args)]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True)


def compared(*args) -> dict:
    done = run("compare", *args, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "options, words",
    [
        (["--pue", "0.5"], "--pue: must be a number from 1 to 10, not '0.5'"),
        (["--years", "1e9"], "--years: must be a number from 0.1 to 100, not '1e9'"),
        (["--usd_per_kwh", "nan"], "--usd_per_kwh: must be a number from 0 to 1000, not 'nan'"),
        (["--load", "much"], "--load: must be a number from 0 to 1, not 'much'"),
        (["--power_w", "R760xa=-1"], "--power_w: R760xa=-1: must be a number from 1e-09 to"),
        (["--power_w", "R760xa=9", "--power_w", "R760xa=8"], "--power_w: R760xa is given 2 times"),
        (["--sut", "R760xa=R760xa", "--sut", "R760xa=XR4520c"], "--sut: R760xa is given 2 times"),
        (["--unit", "x=m:1", "--unit", "x=m:2"], "--unit: x is given 2 times"),
        (["R760xa=5"], "SYSTEM=RATE: R760xa is given 2 times"),
        (["--unit", "tokens"], "--unit: 'tokens' says no amount: 'million items'"),
        (["m7i.48xlarge=1e400"], "must be a number from 1e-09 to 1e+24, not '1e400'"),
    ],
)
def test_what_makes_no_sense_is_wrong_usage(options, words):
    done = run("cost", "million tokens", "R760xa=1200", *options)
    assert done.returncode == 2 and words in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_power_that_would_change_nothing_is_refused(tmp_path):
    power = "--power_w", "m7i.48xlarge=900"
    assert_one_line(
        run("cost", "million tokens", "m7i.48xlarge=1", *power), "power is in the price"
    )
    write(tmp_path, record([1.0] * 6, machine="desk"))
    done = run("compare", tmp_path, "--power_w", "desk=200")
    assert_one_line(done, "no system of sut/ is desk", "--sut desk=NAME")
    done = run("cost", "million tokens", "R760xa=1", "--power_w", "foo=1")
    assert_one_line(done, "foo is no side")


@pytest.fixture
def edge_and_cloud(tmp_path):
    write(tmp_path / "edge", record([120.0] * 6, machine="PowerEdge R760xa"))
    write(tmp_path / "cloud", record([100.0] * 6, machine="m7i.48xlarge"))
    return tmp_path / "edge", tmp_path / "cloud"


def test_a_comparison_has_the_costs_of_its_systems_with_every_input_and_its_source(edge_and_cloud):
    options = ("--baseline", "cloud", "--power_w", "edge=900", "--usd_per_kwh", "0.2")
    found = compared(*edge_and_cloud, *options)
    (row,) = found["costs"]
    # 86,169.07 x (1/4 + 0.1) / 8760 / 0.5 + 0.9 x 1.5 x 0.2 = 7.1557 USD per hour in use;
    # 0.432 million tokens per hour
    assert row["sides"]["edge"]["usd_per_unit"] == pytest.approx(7.1557 / 0.432, rel=1e-4)
    assert row["sides"]["cloud"]["usd_per_unit"] == pytest.approx(9.6768 / 0.36, rel=1e-6)
    (even,) = row["break_evens"]
    assert (even["owned"], even["rented"]) == ("edge", "cloud")
    assert even["instances"] == pytest.approx(1.2)
    prices = {side: each["price"] for side, each in found["sides"].items()}
    assert prices["edge"]["power_source"] == "measured"
    assert prices["cloud"]["price_source"].endswith("published with the original study")
    given = {"label": "USD per kWh", "value": 0.2, "source": "given"}
    assert found["assumptions"]["usd_per_kwh"] == given
    assert found["assumptions"]["pue"]["source"] == "the kit's default"


def test_work_is_priced_in_a_unit_of_ones_own_too(edge_and_cloud):
    unit = "--unit", "page=tokens_per_second:500"
    found = compared(*edge_and_cloud, "--power_w", "edge=900", *unit)
    assert [row["unit"] for row in found["costs"]] == ["million tokens", "page"]
    cloud = [row["sides"]["cloud"]["usd_per_unit"] for row in found["costs"]]
    assert cloud[1] == pytest.approx(cloud[0] * 500 / 1e6)
    unknown = run("compare", *edge_and_cloud, "--unit", "frame=frames_per_second:1")
    assert_one_line(unknown, "--unit frame", "no metric frames_per_second", "tokens_per_second")


def test_without_price_or_power_the_cost_is_unknown_and_says_what_is_missing(tmp_path):
    write(tmp_path / "edge", record([1.0] * 6, machine="PowerEdge XR4520c"))
    write(tmp_path / "home", record([1.0] * 6, machine="desk"))
    (row,) = compared(tmp_path / "edge", tmp_path / "home")["costs"]
    assert all(side["usd_per_unit"] is None for side in row["sides"].values())
    assert row["break_evens"] == []
    assert "edge: price" in row["missing"] and "edge: power" in row["missing"]
    assert any(missing.startswith("home: ") for missing in row["missing"])


def test_the_published_systems_at_throughputs_of_ones_own():
    priced = "million tokens", "R760xa=1200", "m7i.48xlarge=1000", "--power_w", "R760xa=900"
    done = run("cost", *priced)
    assert done.returncode == 0, done.stderr
    assert "one R760xa does the work of 1.20 m7i.48xlarge" in done.stdout
    assert "USD per kWh: 0.15" in done.stdout
    assert "USD per page" in run("cost", *priced, "--unit", "page=tokens:500").stdout
    assert_one_line(run("cost", "million tokens", "R760=1"), "R760 is no system")
    for wrong in (("million tokens", "R760xa=fast"), ("tokens", "R760xa=1")):
        done = run("cost", *wrong)
        assert done.returncode == 2 and "error: argument" in done.stderr
