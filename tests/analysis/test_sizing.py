"""Machines for a demand: never too few for what was measured, and from the right records."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from simulated import capacity_record, record, write

from analysis import sizing
from analysis.records import read_runs
from analysis.sizing import Capacity, Mix, day, machines_needed
from harness.cli import UserError

EXACT = SimpleNamespace(peak_factor=1.0, planning_share=1.0, interference_share=0.0)


def values(**changed) -> SimpleNamespace:
    return SimpleNamespace(**{**vars(EXACT), **changed})


def carrying(**counts) -> dict[str, Capacity]:
    return {unit: Capacity(unit, "m", n, n, n, 4, "as tested") for unit, n in counts.items()}


def read(folder, *records, **how):
    write(folder, *records)
    return sizing.from_runs(read_runs([folder])[0], **how)


def can_carry(demand, machines: int, capacity, interference: float) -> bool:
    """Brute force: whether some placement of whole streams is within capacity on every machine."""
    if machines == 0:
        return not any(demand)
    for load in itertools.product(*(range(d + 1) for d in demand)):
        mixed = sum(n > 0 for n in load) > 1
        share = sum(n / c for n, c in zip(load, capacity)) * (1 + interference * mixed)
        left = [d - n for d, n in zip(demand, load)]
        if share <= 1 + 1e-9 and can_carry(left, machines - 1, capacity, interference):
            return True
    return False


def test_1000_demands_are_never_undersized():
    """Every stream has a place: tried by brute force, with workloads that disturb one another."""
    generator, larger, cases = np.random.default_rng(0), 0, 0
    for _ in range(1000):
        capacity, demand = (
            generator.integers(1, 6, 2).tolist(),
            generator.integers(0, 5, 2).tolist(),
        )
        disturbance = float(generator.choice([0, 0.1, 0.3]))
        plan = machines_needed(
            dict(zip("ab", demand)),
            carrying(**dict(zip("ab", capacity))),
            [],
            values(interference_share=disturbance),
        )
        machines = int(plan.machines)
        assert plan.machines == machines and can_carry(demand, machines, capacity, disturbance)
        cases += 1
        larger += machines > 0 and can_carry(demand, machines - 1, capacity, disturbance)
    print(f"{larger} of {cases} plans have a machine more than the fewest")
    assert larger <= 0.02 * cases


def test_1000_demands_of_real_size_are_within_capacity_and_planning_share():
    generator = np.random.default_rng(1)
    for _ in range(1000):
        count, demand = int(generator.integers(1, 300)), int(generator.integers(1, 5000))
        v = values(peak_factor=generator.uniform(1, 3), planning_share=generator.uniform(0.5, 1))
        plan = machines_needed({"users": demand}, carrying(users=count), [], v, headroom=0.2)
        peak = demand * v.peak_factor * 1.2
        assert np.ceil(peak) <= plan.machines * count
        assert peak <= plan.machines * count * v.planning_share * (1 + 1e-9)
        fewer = (plan.machines - 1) * count
        assert fewer < np.ceil(peak / v.planning_share * (1 - 1e-9)), "a machine too many"


def test_sampled_numbers_are_planned_one_by_one():
    generator, n = np.random.default_rng(2), 200
    counts = {unit: generator.integers(1, 40, n).astype(float) for unit in "abc"}
    demand = {unit: generator.integers(0, 90, n).astype(float) for unit in "abc"}
    v = values(
        peak_factor=generator.uniform(1, 2, n), interference_share=generator.uniform(0, 0.3, n)
    )
    capacities, mixes = carrying(a=20, b=20, c=20), [Mix({"a": 9, "b": 12}, 4)]
    together = machines_needed(demand, capacities, mixes, v, counts=counts)
    for i in range(n):
        one = values(peak_factor=v.peak_factor[i], interference_share=v.interference_share[i])
        each, these = ({unit: every[unit][i] for unit in "abc"} for every in (demand, counts))
        # A mix of workloads is measured for all samples alike: two units in demand or three.
        alone = machines_needed(each, capacities, mixes, one, counts=these)
        assert alone.machines >= together.machines[i] - 1e-9
        if min(each.values()) > 0:
            assert alone.machines == together.machines[i]


def test_a_plan_by_hand():
    # 120 cameras x 1.5 = 180, over 0.9 = 200, of 30 per machine: 6.67. 6 full, and 20 cameras.
    # 40 calls: 60, 66.7 so 67 of 50: 1 full, and 17. 20/30 + 17/50 = 1.007 is over 1: two more.
    demand, capacities = {"cameras": 120, "calls": 40}, carrying(cameras=30, calls=50)
    v = values(peak_factor=1.5, planning_share=0.9)
    plan = machines_needed(demand, capacities, [], v, spare=1)
    assert (plan.machines, plan.spare) == (10, 1)
    assert plan.alone == {"cameras": 7, "calls": 2}
    assert plan.shares == {"cameras": 6, "calls": pytest.approx(1.2)}
    assert plan.at_peak == pytest.approx(7.2 / 9)
    # With calls at 39 (58.5, 65: 15 are left) they share a machine: 0.667 + 0.3, if undisturbed.
    demand["calls"] = 39
    shared = machines_needed(demand, capacities, [], v)
    assert shared.machines == 8 and shared.method.startswith("shares added, 0.0% assumed")
    disturbed = values(peak_factor=1.5, planning_share=0.9, interference_share=0.1)
    assert machines_needed(demand, capacities, [], disturbed).machines == 9


def test_a_measured_mix_is_used_as_it_was_measured():
    demand, capacities = {"cameras": 30, "users": 12}, carrying(cameras=16, users=10)
    apart = machines_needed(demand, capacities, [], values(interference_share=1.0))
    assert apart.machines == 4 and apart.method == "each workload on machines of its own"
    # 10 + 4 together: 0.625 + 0.4 = 1.025 of a machine, more than the shares allow.
    mixed = machines_needed(demand, capacities, [Mix({"cameras": 10, "users": 4}, 4)], EXACT)
    assert mixed.machines == 3 and mixed.method == "measured mix of 10 cameras + 4 users"
    # A mix of less than a machine's shares says how much is lost: 1 / (0.25 + 0.5) - 1 = 33 %.
    lossy = [Mix({"cameras": 4, "users": 5}, 4)]
    plan = machines_needed({"cameras": 2, "users": 6}, capacities, lossy, EXACT)
    assert plan.machines == 1 and "33.3% measured interference" in plan.method
    assert machines_needed({"cameras": 4, "users": 6}, capacities, lossy, EXACT).machines == 2


def test_more_demand_or_less_capacity_never_takes_fewer_machines_and_spare_is_added():
    needed = [
        machines_needed({"users": n}, carrying(users=7), [], EXACT).machines for n in range(99)
    ]
    assert needed == sorted(needed) and needed[0] == 0
    by_count = [machines_needed({"a": 50}, carrying(a=c), [], EXACT).machines for c in range(1, 60)]
    assert by_count == sorted(by_count, reverse=True)
    assert machines_needed({"a": 50}, carrying(a=5), [], EXACT, spare=2).machines == 12


def test_what_was_not_measured_or_sustains_nothing_is_one_line():
    with pytest.raises(UserError, match="no capacity was measured for calls; there is: users"):
        machines_needed({"calls": 1}, carrying(users=5), [], EXACT)
    with pytest.raises(UserError, match="m sustained not one of users: as tested"):
        machines_needed({"users": 1}, carrying(users=0), [], EXACT)


def test_a_days_hours_by_hand():
    # 20 users of 10 per machine: 2 machines. Full for 6 hours, half for 6, nothing for 12.
    profile = sizing.Profile("p", "", (1.0,) * 6 + (0.5,) * 6 + (0.0,) * 12)
    expected = {
        "always_on": (1, 9 / 24),
        "active_hours": (12 / 24, 9 / 12),
        "scale_to_zero": ((6 * 2 + 6 * 1) / 48, 1),
    }
    for billing, shares in expected.items():
        found = day(profile, billing, {"users": 20}, carrying(users=10), [], EXACT)
        assert (found.on_share, found.busy_share) == pytest.approx(shares), billing


def test_the_shipped_profiles_are_days_and_scaling_never_costs_more_than_staying_on():
    profiles = sizing.read_profiles()
    assert {"always", "office", "retail", "night"} <= set(profiles)
    how = {"users": 200, "calls": 50}, carrying(users=30, calls=9), [], values(peak_factor=1.3)
    for profile in profiles.values():
        on = [day(profile, billing, *how).on_share for billing in sizing.BILLING]
        assert on == sorted(on, reverse=True) and on[0] == 1, profile.name
    assert day(profiles["always"], "scale_to_zero", *how).on_share == 1


@pytest.mark.parametrize(
    "text",
    ["[p]\nlabel='x'\nshares=[1]", "p = 3", "[p]\nshares=[", f"[p]\nlabel='x'\nshares={[0] * 24}"],
)
def test_a_wrong_profile_is_one_line(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UserError, match="mine.toml: "):
        sizing.read_profiles(path)


def test_capacities_are_medians_of_valid_runs_of_the_whole_machine(tmp_path):
    runs = [capacity_record(n) for n in (50, 52, 54, 57)]
    bad = capacity_record(99, warnings=["the hypervisor took 9 % of the CPU time"])
    part = capacity_record(20, cpus=8)
    found, _, problems = read(tmp_path, *runs, bad, part)
    capacity = found["m6i.8xlarge"]["users"]
    assert (capacity.count, capacity.runs, capacity.share) == (53, 4, 1)
    assert capacity.low < 53 < capacity.high <= 60
    assert any("1 invalid run(s) left out" in mark for mark in capacity.marks)
    assert problems == [
        "m6i.8xlarge: users: allowed 25% of its machine's CPUs, left out (--share takes a part)"
    ]


def test_a_part_of_a_machine_is_sized_as_a_part_when_asked(tmp_path):
    found, _, problems = read(tmp_path, capacity_record(20, cpus=8), share=True)
    assert found["m6i.8xlarge"]["users"].share == 0.25 and not problems


def test_invalid_runs_alone_give_no_capacity(tmp_path):
    bad = capacity_record(9, warnings=["steal"])
    found, _, problems = read(tmp_path, bad)
    assert not found and problems == ["m6i.8xlarge: users: no valid run: steal"]
    allowed, _, _ = sizing.from_runs(read_runs([tmp_path])[0], allow_invalid=True)
    assert "1 invalid run(s) of m6i.8xlarge used" in allowed["m6i.8xlarge"]["users"].marks


def test_several_service_levels_are_not_mixed_up(tmp_path):
    one, two = (capacity_record(n, **{"max TTFT s": s}) for n, s in ((5, 1.0), (9, 2.0)))
    found, _, problems = read(tmp_path, one, two)
    assert not found and len(problems) == 1
    assert "max TTFT s 1" in problems[0] and "max TTFT s 2" in problems[0]
    chosen = {("users", "max TTFT s"): "1"}
    found, _, problems = sizing.from_runs(read_runs([tmp_path])[0], where=chosen)
    assert found["m6i.8xlarge"]["users"].count == 5 and not problems
    assert "max TTFT s 1" in found["m6i.8xlarge"]["users"].conditions


def test_sides_are_sized_at_the_work_that_most_did(tmp_path):
    same = [capacity_record(5, machine=name) for name in "ab"]
    other = capacity_record(9, machine="c", precision="bf16")
    found, _, problems = read(tmp_path, *same, other)
    assert set(found) == {"a", "b"}
    assert problems == [
        "c: users: measured with precision bf16, not with precision f32 as elsewhere"
    ]


def test_a_mix_counts_where_both_works_were_measured_alone(tmp_path):
    users, cameras = capacity_record(10), capacity_record(16, "cameras")
    mixed = capacity_record(6, "cameras", beside=("users", 4, {}))
    strict = capacity_record(5, "cameras", beside=("users", 4, {"max TTFT s": 0.1}))
    strict["task"]["beside: late"] = 2
    found, mixes, problems = read(tmp_path, users, cameras, mixed, strict)
    assert found["m6i.8xlarge"]["cameras"].count == 16
    assert mixes["m6i.8xlarge"] == [Mix({"cameras": 6, "users": 4}, 1)]
    assert len(problems) == 1 and "not the work that is sized" in problems[0]


def test_records_of_other_kinds_are_passed_over(tmp_path):
    assert read(tmp_path, record([1.0] * 6)) == ({}, {}, [])


def test_samples_differ_as_runs_do(tmp_path):
    generator = np.random.default_rng(0)
    runs = [capacity_record(n) for n in (50, 52, 54, 57, 55)]
    found, _, _ = read(tmp_path, *runs)
    capacity = found["m6i.8xlarge"]["users"]
    drawn = sizing.quantiles(capacity, generator.random(20_000))
    assert np.all(drawn == np.floor(drawn)) and abs(np.median(drawn) - 53.5) <= 1
    low, high = np.quantile(drawn, (0.025, 0.975))
    assert (low, high) == pytest.approx((capacity.low, capacity.high), abs=1)
    steady = replace(capacity, log_mean=np.log(5.5), log_error=0.0)
    assert set(sizing.quantiles(steady, generator.random(100))) == {5}
