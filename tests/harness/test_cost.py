"""Costs against a spreadsheet worked by hand."""

import json
import subprocess
import sys

import pytest
from conftest import REPO, assert_one_line
from simulated import record, write

from harness import cost

# A server of 40,000 USD that draws 500 W, kept 4 years, 10 % maintenance, PUE 1.5, 0.20 USD/kWh, in use half the time:
#   a year      40,000 / 4 + 40,000 x 0.1 = 14,000 USD; an hour of the calendar 14,000 / 8760 = 1.59817 USD
#   energy      0.5 kW x 1.5 x 0.20 = 0.15 USD per hour in use
#   in use      1.59817 / 0.5 + 0.15 = 3.34635 USD per hour
OWNED = cost.Machine("server", usd=40_000, power_w=500)
RENTED = cost.Machine("instance", usd_per_hour=2.00)
ASSUMED = cost.Assumptions(years=4, utilization=0.5, usd_per_kwh=0.20, pue=1.5, maintenance_share=0.1)


def test_an_hour_of_a_server_and_of_an_instance():
    assert cost.fixed_per_hour(OWNED, ASSUMED) == pytest.approx(1.59817, abs=1e-5)
    assert cost.energy_per_hour(OWNED, ASSUMED) == pytest.approx(0.15)
    assert cost.per_hour(OWNED, ASSUMED) == pytest.approx(3.34635, abs=1e-5)
    assert cost.per_hour(RENTED, ASSUMED) == 2.00


@pytest.mark.parametrize(
    "workload, throughput, usd",
    [
        ("llm", 100, 5.5556),  # 0.36 million tokens an hour; 2 / 0.36
        ("video", 90, 666.667),  # 3 cameras of 30 frames/s: 0.003 thousand camera-hours an hour; 2 / 0.003
        ("audio", 20, 0.1),  # 20 hours of audio an hour; 2 / 20
    ],
)
def test_a_unit_of_work(workload, throughput, usd):
    unit = cost.unit_of(workload, ASSUMED)[0]
    assert cost.per_unit(RENTED, throughput * unit.per_hour, ASSUMED) == pytest.approx(usd, rel=1e-4)


def test_a_thousand_requests():
    tokens, requests = cost.unit_of("gpu-tgi", ASSUMED)
    assert (tokens.name, requests.name) == ("million tokens", "1,000 requests")
    assert cost.per_unit(RENTED, 5 * requests.per_hour, ASSUMED) == pytest.approx(2 / 18)  # 5/s are 18,000 an hour


def test_break_even():
    # One server does the work of 1.5 instances: renting costs 3.00 USD per hour in use, 2.85 more than the server's energy.
    #   utilization   1.59817 / 2.85 = 0.56076
    #   month         at 0.75: saved 2.85 x 0.75 x 730 = 1,560.375 a month, less 40,000 x 0.1 / 12 = 333.333 of maintenance:
    #                 1,227.04; 40,000 / 1,227.04 = 32.6, so the 33rd
    even = cost.break_even(OWNED, RENTED, 3.0, 2.0, cost.replace(ASSUMED, utilization=0.75))
    assert even.instances == 1.5 and even.utilization == pytest.approx(0.56076, abs=1e-5) and even.month == 33
    points = list(cost.over_time(OWNED, RENTED, 1.5, cost.replace(ASSUMED, utilization=0.75)))
    assert len(points) == 49 and points[0] == (0, 40_000, 0)
    assert points[32][1] > points[32][2] and points[33][1] < points[33][2]


def test_owning_that_never_pays_is_said_so():
    even = cost.break_even(OWNED, RENTED, 1.0, 20.0, ASSUMED)  # a tenth of an instance's work costs less than the energy
    assert even.utilization is None and even.month is None
    assert cost.break_even(OWNED, RENTED, 3.0, 2.0, cost.replace(ASSUMED, utilization=0.3)).month is None


def test_unknown_stays_unknown():
    for owned in (cost.Machine("no price", power_w=500), cost.Machine("no power", usd=40_000), cost.Machine("nothing")):
        assert cost.per_hour(owned, ASSUMED) is None and cost.break_even(owned, RENTED, 1, 1, ASSUMED) is None and owned.missing()
    assert cost.break_even(OWNED, cost.Machine("no rate"), 1, 1, ASSUMED) is None


def test_power_is_taken_as_measured_before_as_rated():
    system = {"system": {"name": "s"}, "price": {"usd": 1.0}, "power": {"rated_w": 1000}}
    assert cost.machine(system, None, cost.Assumptions(load=0.7)).power_w == 700
    assert cost.machine(system, 450.0, cost.Assumptions()).power_w == 450
    assert cost.machine({"system": {"name": "s"}}, None, cost.Assumptions()).power_w is None


def test_sensitivity_changes_one_thing_at_a_time():
    rows = cost.sensitivity(OWNED, RENTED, 3.0, 2.0, ASSUMED)
    assert rows[0]["changed"] == "as assumed" and len({row["changed"] for row in rows}) == len(rows) == 8
    dearer = next(row for row in rows if row["changed"] == "usd_per_kwh 0.4")
    assert dearer["owned_usd_per_unit"] == pytest.approx((3.34635 + 0.15) / 3, abs=1e-5)


def compare(*args) -> dict:
    done = subprocess.run(
        [sys.executable, "-m", "harness.compare", *map(str, args), "--json"], cwd=REPO, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_comparison_has_the_costs_of_its_systems_with_every_input_and_its_source(tmp_path):
    edge = write(tmp_path / "edge", record([120.0] * 6, machine="PowerEdge R760xa"))
    cloud = write(tmp_path / "cloud", record([100.0] * 6, machine="m7i.48xlarge"))
    found = compare(*edge, *cloud, "--baseline", "cloud", "--power_w", "edge=900", "--usd_per_kwh", "0.2")
    (row,) = found["costs"]
    # 86,169.07 x (1/4 + 0.1) / 8760 / 0.5 + 0.9 x 1.5 x 0.2 = 7.1557 USD per hour; 0.432 million tokens an hour
    assert row["sides"]["edge"]["usd_per_unit"] == pytest.approx(7.1557 / 0.432, rel=1e-4)
    assert row["sides"]["cloud"]["usd_per_unit"] == pytest.approx(9.6768 / 0.36, rel=1e-6)
    assert row["break_even"]["instances"] == pytest.approx(1.2)
    assert found["sides"]["edge"]["price"]["power_source"] == "measured"
    assert found["sides"]["cloud"]["price"]["price_source"].endswith("published with the original study")
    assert found["assumptions"]["usd_per_kwh"] == {"value": 0.2, "source": "given"}
    assert found["assumptions"]["pue"]["source"] == "assumed by the kit"


def test_without_price_or_power_the_cost_is_unknown_and_says_what_is_missing(tmp_path):
    paths = write(tmp_path / "edge", record([1.0] * 6, machine="PowerEdge XR4520c")) + write(
        tmp_path / "home", record([1.0] * 6, machine="desk")
    )
    (row,) = compare(*paths)["costs"]
    assert all(side["usd_per_unit"] is None for side in row["sides"].values()) and row["break_even"] is None
    assert (
        "edge: price" in row["missing"]
        and "edge: power" in row["missing"]
        and any(m.startswith("home: ") for m in row["missing"])
    )


def test_the_published_systems_at_throughputs_of_ones_own():
    command = [sys.executable, "-m", "harness.cost"]
    done = subprocess.run(
        [*command, "llm", "R760xa=1200", "m7i.48xlarge=1000", "--power_w", "R760xa=900"], cwd=REPO, capture_output=True, text=True
    )
    assert (
        done.returncode == 0
        and "one R760xa does the work of 1.20 m7i.48xlarge" in done.stdout
        and "USD per kWh: 0.15" in done.stdout
    )
    assert_one_line(subprocess.run([*command, "llm", "R760=1"], cwd=REPO, capture_output=True, text=True), "R760 is no system")
    assert_one_line(
        subprocess.run([*command, "llm", "R760xa=fast"], cwd=REPO, capture_output=True, text=True), "not a number above 0"
    )
