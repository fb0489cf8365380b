"""The search for the most streams that a machine carries."""

import pytest

from harness.density import search


@pytest.mark.parametrize("carried", [0, 1, 2, 3, 7, 8, 9, 31, 64, 100])
@pytest.mark.parametrize("first, last", [(1, 64), (3, 50), (5, 5)])
def test_it_finds_the_most_that_hold(carried, first, last):
    tried = []
    found = search(lambda count: tried.append(count) or count <= carried, first, last)
    assert found == (min(carried, last) if carried >= first else 0)
    assert len(tried) == len(set(tried)) <= 14
    assert found in (0, last) or {found, found + 1} <= set(tried)  # both sides of the border were measured
