"""The search for the most streams that a machine sustains."""

import pytest

from harness.capacity import doubling, search


@pytest.mark.parametrize("sustained", [0, 1, 2, 3, 7, 8, 9, 31, 64, 100])
@pytest.mark.parametrize("first, last", [(1, 64), (3, 50), (5, 5)])
def test_it_finds_the_most_that_are_sustained(sustained, first, last):
    tried = []
    found = search(lambda count: tried.append(count) or count <= sustained, doubling(first, last))
    assert found == (min(sustained, last) if sustained >= first else 0)
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
