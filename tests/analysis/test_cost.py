"""Costs of work and of demands, from the command line and in comparisons."""

import argparse
import json
import math
import time

import pytest
from conftest import assert_one_line, run_analysis
from simulated import capacity_record, record, write

from analysis import cost, tco

EXACT = [  # no ranges, no cost of capital: sums to be worked out by hand
    *("--utilization", "0.5", "--usd_per_kwh", "0.2", "--pue", "1.5", "--maintenance_share", "0.1"),
    *("--set", "discount_rate=0", "--set", "residual_share=0", "--set", "idle_power_share=0"),
    *("--set", "purchase_price_factor=1", "--set", "interference_share=0"),
]


@pytest.mark.parametrize("text", ["tokens", "x=metric", "x=metric:0", "x=metric:y", "0 things"])
def test_a_unit_that_says_no_amount_is_wrong_usage(text):
    with pytest.raises((ValueError, argparse.ArgumentTypeError)):
        cost.unit_of_work(text)


@pytest.mark.parametrize(
    "unit, throughput, units",
    [
        ("million tokens", 100, 0.36),
        ("hour of audio", 20, 20),
        ("1,000 requests", 5, 18),
        ("1,000 camera-hours=frames_per_second:108e6", 90, 0.003),
    ],
)
def test_units_of_work_per_hour(unit, throughput, units):
    assert cost.unit_of_work(unit).per_hour(throughput) == pytest.approx(units)


def compared(*args) -> dict:
    done = run_analysis("compare", *args, "--json")
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
    done = run_analysis("cost", "million tokens", "R760xa=1200", *options)
    assert done.returncode == 2 and words in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_power_that_would_change_nothing_is_refused(tmp_path):
    power = "--power_w", "m7i.48xlarge=900"
    assert_one_line(
        run_analysis("cost", "million tokens", "m7i.48xlarge=1", *power), "power is in the price"
    )
    write(tmp_path, record([1.0] * 6, machine="desk"))
    done = run_analysis("compare", tmp_path, "--power_w", "desk=200")
    assert_one_line(done, "no system of sut/ is desk", "--sut desk=NAME")
    done = run_analysis("cost", "million tokens", "R760xa=1", "--power_w", "foo=1")
    assert_one_line(done, "foo is no side")


@pytest.fixture
def edge_and_cloud(tmp_path):
    write(tmp_path / "edge", record([120.0] * 6, machine="PowerEdge R760xa"))
    write(tmp_path / "cloud", record([100.0] * 6, machine="m7i.48xlarge"))
    return tmp_path / "edge", tmp_path / "cloud"


def usd(row: dict, side: str) -> float:
    (found,) = [each["usd"]["value"] for each in row["alternatives"] if each["side"] == side]
    return found


def test_a_comparison_has_the_costs_of_its_systems_with_every_input_and_its_source(edge_and_cloud):
    options = ("--baseline", "cloud", "--power_w", "edge=900", *EXACT)
    found = compared(*edge_and_cloud, *options)
    (row,) = found["costs"]
    # 86,169.07 x (1/4 + 0.1) / 8760 / 0.5 + 0.9 x 1.5 x 0.2 = 7.1557 USD per hour in use;
    # 0.432 million tokens per hour
    assert usd(row, "edge") == pytest.approx(7.1557 / 0.432, rel=1e-4)
    assert usd(row, "cloud") == pytest.approx(9.6768 / 0.36, rel=1e-6)
    (even,) = row["break_evens"]
    assert (even["decision"]["first"], even["decision"]["other"]) == (
        "edge, bought",
        "cloud, on demand",
    )
    assert even["instances"]["value"] == pytest.approx(1.2)
    assert even["left_out"] == [["rack space", "administration"], ["storage", "egress"]]
    prices = {side: each["price"] for side, each in found["sides"].items()}
    assert prices["edge"]["full_w"] == 900
    assert prices["cloud"]["offers"][0]["source"] == "published with the original study"
    kwh = found["assumptions"]["usd_per_kwh"]
    assert (kwh["value"], kwh["low"], kwh["source"]) == (0.2, 0.2, "given")
    assert found["assumptions"]["load"]["source"].startswith("the kit's default")


def test_the_runs_spread_is_carried_into_dollars(tmp_path):
    for side, medians in (("edge", (119.0, 121.0, 120.0, 118.0)), ("cloud", (90.0, 110, 99, 101))):
        for median in medians:
            write(tmp_path / side, record([median] * 6, machine="m7i.48xlarge"))
    (row,) = compared(tmp_path / "edge", tmp_path / "cloud", *EXACT, "--allow_invalid")["costs"]
    widths = {a["side"]: (a["usd"]["high"] - a["usd"]["low"]) / a["usd"]["value"] for a in
              row["alternatives"]}  # fmt: skip
    assert 0.02 < widths["edge"] < widths["cloud"] < 0.5


def test_a_part_of_a_machine_is_priced_only_where_that_is_asked_for(tmp_path):
    part = record([120.0] * 6, machine="R760xa")
    part["placement"]["share_of_machine"] = 0.25
    write(tmp_path / "edge", part)
    write(tmp_path / "cloud", record([100.0] * 6, machine="m7i.48xlarge"))
    both = tmp_path / "edge", tmp_path / "cloud", "--power_w", "edge=900", *EXACT
    (row,) = compared(*both)["costs"]
    assert [each["side"] for each in row["alternatives"]] == ["cloud"] and not row["break_evens"]
    assert row["missing"] == [
        "edge: was allowed 25% of its machine's CPUs: --share prices that part of the machine"
    ]
    (row,) = compared(*both, "--share")["costs"]
    assert usd(row, "edge") == pytest.approx(7.1557 / 0.432 / 4, rel=1e-4)


def test_a_server_elsewhere_is_not_priced_as_the_machine_that_sent_the_requests(tmp_path):
    remote = record([5.0] * 6, workload="gpu-tgi", machine="m7i.48xlarge")
    remote["server"] = {"name": "TGI", "url": "http://far", "is_local": False}
    write(tmp_path / "far", remote)
    write(tmp_path / "near", record([4.0] * 6, workload="gpu-tgi", machine="g5.8xlarge"))
    both = tmp_path / "far", tmp_path / "near"
    (row,) = compared(*both)["costs"]
    assert [each["side"] for each in row["alternatives"]] == ["near"]
    assert any("far: no system of sut/" in line and "--sut far=NAME" in line for line in
               row["missing"])  # fmt: skip
    (row,) = compared(*both, "--sut", "far=g5.8xlarge")["costs"]
    assert usd(row, "far") == pytest.approx(2.448 / 18, rel=1e-6)


def test_work_is_priced_in_a_unit_of_ones_own_too(edge_and_cloud):
    unit = "--unit", "page=tokens_per_second:500"
    found = compared(*edge_and_cloud, "--power_w", "edge=900", *unit)
    assert [row["unit"] for row in found["costs"]] == ["million tokens", "page"]
    cloud = [usd(row, "cloud") for row in found["costs"]]
    assert cloud[1] == pytest.approx(cloud[0] * 500 / 1e6)
    unknown = run_analysis("compare", *edge_and_cloud, "--unit", "frame=frames_per_second:1")
    assert_one_line(unknown, "--unit frame", "no metric frames_per_second", "tokens_per_second")


def test_without_a_price_there_is_no_cost_and_without_power_no_verdict_on_owning(tmp_path):
    write(tmp_path / "edge", record([1.0] * 6, machine="PowerEdge XR4520c"))
    write(tmp_path / "home", record([1.0] * 6, machine="desk"))
    (row,) = compared(tmp_path / "edge", tmp_path / "home")["costs"]
    assert row["alternatives"] == [] and row["break_evens"] == []
    assert "edge: sut/XR4520c.toml has no price" in row["missing"]
    assert any(missing.startswith("home: no system") for missing in row["missing"])
    done = run_analysis("cost", "million tokens", "R760xa=1200", "m7i.48xlarge=1000")
    assert "without energy and rack space and administration" in done.stdout
    assert "not known: R760xa's power, so no verdict on owning it: --power_w." in done.stdout
    assert "costs less than" not in done.stdout


def test_the_published_systems_at_throughputs_of_ones_own():
    priced = "million tokens", "R760xa=1200", "m7i.48xlarge=1000", "--power_w", "R760xa=900"
    done = run_analysis("cost", *priced)
    assert done.returncode == 0, done.stderr
    assert "R760xa, bought costs less than m7i.48xlarge, on demand with a prob" in done.stdout
    assert "the price has no date" in done.stdout
    assert "price of electricity" in done.stdout and "the kit's default" in done.stdout
    assert "USD per page" in run_analysis("cost", *priced, "--unit", "page=tokens:500").stdout
    assert_one_line(run_analysis("cost", "million tokens", "R760=1"), "R760 is no system")
    for wrong in (("million tokens", "R760xa=fast"), ("tokens", "R760xa=1"), ("million tokens",)):
        done = run_analysis("cost", *wrong)
        assert done.returncode == 2 and "error: " in done.stderr, done.stderr


CAPACITIES = [
    *("--capacity", "R760xa:cameras=50,users=300", "--power_w", "R760xa=900"),
    *("--capacity", "m7i.48xlarge:cameras=40,users=200"),
]


def priced(*args) -> dict:
    done = run_analysis("cost", "--demand", *args, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_demand_takes_whole_machines_and_their_cost_over_the_years():
    (work,) = priced("cameras=120", *CAPACITIES, *EXACT)["works"]
    bought, rented = work["alternatives"]
    # 90 % of 50 cameras: 45, so 3 servers; of 40: 36, so 4 instances
    assert (bought["machines"]["value"], rented["machines"]["value"]) == (3, 4)
    busy = 120 / 50 / 3  # the power follows the load
    per_server = 86_169.07 * 1.4 + 4 * 8760 * 0.9 * busy * 1.5 * 0.2
    assert bought["usd"]["value"] == pytest.approx(3 * per_server, abs=0.01)
    assert rented["usd"]["value"] == pytest.approx(4 * 9.6768 * 8760 * 4, abs=0.01)
    assert sum(item["usd"] or 0 for item in bought["items"]) == pytest.approx(
        bought["usd"]["value"]
    )
    (even,) = work["break_evens"]
    saved = rented["usd"]["value"] - bought["usd"]["value"]
    assert even["decision"]["saved"]["value"] == pytest.approx(saved)
    assert even["room_usd"] == pytest.approx(saved / 3 / 48)
    months = even["month"]["value"]
    fixed, per_month = 3 * 86_169.07, (3 * per_server - 3 * 86_169.07) / 48
    assert months == math.ceil(fixed / (4 * 9.6768 * 730 - per_month))


def test_less_is_rented_where_machines_are_off_without_work():
    always, hours, scaled = (
        priced("cameras=120", *CAPACITIES, *EXACT, "--profile", "office", "--billing", billing)
        ["works"][0]["alternatives"][1]["usd"]["value"]
        for billing in ("always_on", "active_hours", "scale_to_zero")
    )  # fmt: skip
    assert hours == pytest.approx(always * 12 / 24)
    assert scaled < hours


def test_spare_machines_and_growth_cost_more():
    args = "cameras=120", *CAPACITIES, *EXACT
    plain, spare, growing = (
        priced(*args, *more)["works"][0]["alternatives"][0]["machines"]["value"]
        for more in ((), ("--spare", "1"), ("--headroom", "0.5"))
    )
    assert (plain, spare, growing) == (3, 4, 4)


def test_a_hosted_api_is_priced_by_what_the_demand_takes(tmp_path):
    api = tmp_path / "api.toml"
    api.write_text(
        'name = "hosted"\nsource = "made up"\ndate = 2026-11-01\n'
        '[usd_per]\n"million output tokens" = 2.0\n'
    )
    args = "users=200", *CAPACITIES, *EXACT, "--api", api
    assert_one_line(run_analysis("cost", "--demand", *args), "--api needs --api_use of users")
    used = "--api_use", "users:million output tokens=0.01"
    (work,) = priced(*args, *used, "--profile", "always")["works"]
    hosted = next(each for each in work["alternatives"] if each["side"] == "hosted")
    assert hosted["usd"]["value"] == pytest.approx(200 * 0.01 * 2 * 8760 * 4)
    assert {e["decision"]["other"] for e in work["break_evens"]} >= {"hosted, hosted API"}


def test_data_sent_and_kept_are_paid_where_stated():
    args = "cameras=120", *CAPACITIES, *EXACT
    options = "--egress_gb", "cameras=0.1", "--storage_gb", "cameras=20"
    before, after = (
        priced(*args, "--set", "usd_per_gb_egress=0.09", "--set", "usd_per_gb_month=0.1", *more)
        ["works"][0]["alternatives"][1]
        for more in ((), options)
    )  # fmt: skip
    more = 120 * 0.1 * 730 * 48 * 0.09 + 120 * 20 * 48 * 0.1
    assert after["usd"]["value"] - before["usd"]["value"] == pytest.approx(more, abs=0.01)
    assert before["without"] == ["storage", "egress"] and after["without"] == []


def test_what_was_not_measured_is_no_capacity(tmp_path):
    (work,) = priced("calls=3,users=5", *CAPACITIES)["works"]
    assert work["alternatives"] == []
    assert work["missing"][0] == "R760xa: no capacity of calls was measured"
    write(tmp_path, record([1.0] * 6, machine="R760xa"))
    assert_one_line(
        run_analysis("cost", "--demand", "users=5", tmp_path), "no capacity was measured"
    )
    done = run_analysis("cost", "--demand", "users=5")
    assert done.returncode == 2 and "--capacity" in done.stderr
    assert_one_line(
        run_analysis("cost", "--demand", "users=5", *CAPACITIES, "--profile", "x"), "--profile x"
    )


@pytest.mark.alone
def test_five_systems_are_priced_in_a_second_or_two():
    sides = "R760xa", "XR4520c", "m7i.48xlarge", "m6i.8xlarge", "g5.8xlarge"
    many = [word for s in sides for word in ("--capacity", f"{s}:cameras=40,calls=30,users=200")]
    begin = time.monotonic()
    demand = ["--demand", "cameras=120,calls=40,users=200", "--profile", "office"]
    how = ["--billing", "scale_to_zero", "--power_w", "R760xa=900"]
    done = run_analysis("cost", *demand, *many, *how)
    took = time.monotonic() - begin
    print(f"{took:.2f} s")
    assert done.returncode == 0 and took < 4, done.stderr


def test_a_year_is_8760_hours_and_twelve_months():
    assert tco.HOURS_PER_MONTH * 12 == tco.HOURS_PER_YEAR


def test_a_comparison_of_capacities_leads_with_what_a_demand_costs(tmp_path):
    for side, machine, users in (("edge", "R760xa", 50), ("cloud", "m7i.48xlarge", 20)):
        write(tmp_path / side, *[capacity_record(users, machine=machine) for _ in range(4)])
    both = tmp_path / "edge", tmp_path / "cloud", "--power_w", "edge=900", *EXACT
    demand = "--demand", "users=600", "--spare", "1", "--headroom", "0.2"
    found = compared(*both, *demand)
    (alone,) = priced("users=600", *demand[2:], *both)["works"]
    assert found["demand"]["work"] == alone
    assert "basis" not in alone  # what a page needs is in no JSON
    machines = {a["side"]: a["machines"]["value"] for a in alone["alternatives"]}
    assert machines == {"edge": 17, "cloud": 41}  # 600 x 1.2 / 0.9 = 800 users, and a spare
    assert found["demand"]["capacities"]["edge"]["users"]["conditions"]
    text = run_analysis("compare", *both, *demand).stdout
    assert text.startswith("600 users cost least on ") and "One machine carries" in text
    assert (
        "- 600 users cost least on " in run_analysis("compare", *both, *demand, "--markdown").stdout
    )
    assert compared(*both)["demand"] is None


def test_what_goes_with_a_demand_only_is_wrong_usage_without_one(tmp_path):
    write(tmp_path, capacity_record(20, machine="R760xa"))
    for option in (("--spare", "1"), ("--profile", "office"), ("--capacity", "R760xa:users=5")):
        done = run_analysis("compare", tmp_path, *option)
        assert done.returncode == 2 and f"{option[0]}: goes with --demand" in done.stderr
