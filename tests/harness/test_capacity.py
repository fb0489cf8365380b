"""The search for the most streams that a machine sustains."""

from types import SimpleNamespace

import pytest

from harness import capacity
from harness.capacity import doubling, is_shown, observations_needed, search


@pytest.mark.parametrize("sustained", [0, 1, 2, 3, 7, 8, 9, 31, 64, 100])
@pytest.mark.parametrize("first, last", [(1, 64), (3, 50), (5, 5), (40, 60)])
def test_it_finds_the_most_that_are_sustained_below_the_first_number_too(sustained, first, last):
    tried = []
    found = search(lambda count: tried.append(count) or count <= sustained, doubling(first, last))
    assert found == min(sustained, last)
    assert len(tried) == len(set(tried)) <= 14
    assert found in (0, last) or {found, found + 1} <= set(
        tried
    )  # both sides of the border were measured


def test_a_level_that_can_not_be_measured_ends_the_search():
    tried = []
    found = search(lambda count: tried.append(count) or (True if count < 4 else None), [1, 2, 4, 8])
    assert (found, tried) == (2, [1, 2, 4])


def test_stated_levels_are_tried_in_turn_and_not_between_unless_asked():
    tried = []
    assert search(lambda count: tried.append(count) or count < 9, [1, 8, 16], bisect=False) == 8
    assert tried == [1, 8, 16]


def test_under_1_percent_late_takes_299_observations_with_none_late():
    assert observations_needed() == 299
    assert is_shown(299, 0) and not is_shown(298, 0)
    assert is_shown(473, 1) and not is_shown(472, 1)  # exact binomial, e.g. scipy's binomtest
    assert 1000 < observations_needed(5) < 1100 and not is_shown(3, 3)


class Machine:
    """Sustains so many streams for any time, and for 60 s a few more."""

    def __init__(self, most, at_first=0):
        self.most, self.at_first, self.runs = most, at_first, []

    def measure(self, count, duration_s):
        self.runs.append((count, duration_s))
        good = count <= self.most + (self.at_first if duration_s <= 60 else 0)
        seen = int(count * duration_s / 10)  # an observation every 10 s of each stream
        return {"sustained": good, "observations": seen, "late": 0 if good else seen // 2}


def find(machine, first=1, last=256, min_observations=299):
    args = SimpleNamespace(
        min_calls=first, max_calls=last, duration=60.0, min_observations=min_observations
    )
    journal = SimpleNamespace(replace=lambda samples, output: None)
    return capacity.find(machine.measure, lambda level: "", args, "call", journal)


@pytest.mark.parametrize("most, at_first", [(1, 0), (7, 0), (7, 1), (7, 5), (40, 3), (0, 2)])
def test_the_result_is_confirmed_on_enough_observations(most, at_first, capsys):
    machine = Machine(most, at_first)
    found = find(machine)
    assert found.most == most
    if most:
        assert found.levels[most]["observations"] >= 299 and f"Confirming {most} call(s)" in (
            capsys.readouterr().out
        )
    assert found.first_over == most + 1 or found.levels[found.first_over]["sustained"] is False
    long_runs = [count for count, duration_s in machine.runs if duration_s > 60]
    assert len(long_runs) <= 1 + at_first and not [w for w in found.warnings if "late" in w]


def test_fewer_observations_are_enough_if_asked_for_and_remarked():
    machine = Machine(3)
    found = find(machine, min_observations=5)
    assert found.most == 3 and all(duration_s == 60 for _, duration_s in machine.runs)
    assert "0 of 18 late do not show at 95% confidence that under 1% are: 299" in found.warnings[0]


def test_a_late_share_that_is_only_just_below_the_limit_is_no_proof():
    def measure(count, duration_s):
        seen = int(count * duration_s * 30)
        return {"sustained": True, "observations": seen, "late": seen * 8 // 1000 * (count > 2)}

    args = SimpleNamespace(min_calls=1, max_calls=4, duration=10.0, min_observations=299)
    journal = SimpleNamespace(replace=lambda samples, output: None)
    assert capacity.find(measure, lambda level: "", args, "call", journal).most == 2
