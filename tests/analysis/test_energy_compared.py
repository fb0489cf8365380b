"""Energy per unit of work, compared between two sides."""

import pytest
from simulated import record, write

from analysis import comparison, records
from harness import stats
from harness.metrics import METRICS


def with_energy(joules: float, counted: str) -> dict:
    made = record([1.0] * 6)
    name = "energy_per_token_j"
    made["samples"][name] = [[joules]]
    made["metrics"][name] = stats.summarize(METRICS[name], [[joules]])
    made["context"]["energy counted"] = counted
    return made


def test_a_comparison_has_the_ratio_of_energies_and_says_what_they_counted(tmp_path):
    sides = {"cloud": (1.0, "package + dram"), "edge": (0.4, "package")}
    paths = [
        path
        for side, energy in sides.items()
        for path in write(tmp_path / side, *(with_energy(*energy) for _ in range(6)))
    ]
    runs, skipped = records.read_runs(paths)
    (found,) = comparison.compare(runs, "cloud")
    ratio = found.ratios["energy_per_token_j"]
    assert (
        not skipped
        and ratio.ratio == pytest.approx(0.4)
        and ratio.ci95 == pytest.approx((0.4, 0.4))
    )
    assert found.labels["energy_per_token_j"] and found.units["energy_per_token_j"] == "J/token"
    assert found.differences["energy counted"] == ("package + dram", "package")
