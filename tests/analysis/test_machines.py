"""Several machines of one kind on one side, by simulation with known truth.

TRIALS=2000 harness/.venv/bin/python -m pytest tests/analysis/test_machines.py -s
"""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from conftest import run_analysis
from simulated import record, write

from analysis import machines, ratio
from analysis.records import read_runs

TRIALS = int(os.environ.get("TRIALS", "400"))
BETWEEN, WITHIN, RUNS = 0.05, 0.01, 3


def side(folder, count: int, of_each: int, random, level: float = 100.0):
    for host in range(count):
        own = level * np.exp(random.normal(0, BETWEEN))
        for _ in range(of_each):
            made = record([own * np.exp(random.normal(0, WITHIN))] * 6, machine="m7i.48xlarge")
            made["system"]["hostname"] = f"{folder.name}-{host}"
            write(folder, made)
    return folder


def compared(*folders) -> dict:
    done = run_analysis("compare", *folders, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["comparisons"][0]


def test_machines_not_their_runs_are_what_a_verdict_rests_on(tmp_path):
    random = np.random.default_rng(3)
    a, b = (side(tmp_path / name, 3, 8, random) for name in ("a", "b"))
    found = compared(a, b)
    assert found["ratios"]["tokens_per_second"]["verdict"] == ratio.MORE_RUNS
    assert found["counted"] == ["machine", "machine"] and found["runs"] == [3, 3]
    assert any("3 machines, each one observation: they differ by" in n for n in found["notes"])
    text = run_analysis("compare", a, b).stdout
    assert "1 more machine needed on each side" in text.splitlines()[0]


def test_one_machine_of_several_runs_counts_its_runs(tmp_path):
    random = np.random.default_rng(4)
    one, many = side(tmp_path / "edge", 1, 5, random), side(tmp_path / "cloud", 5, 2, random)
    found = compared(one, many)
    assert (found["counted"], found["runs"]) == (["run", "machine"], [5, 5])
    medians = found["ratios"]["tokens_per_second"]["medians"]
    assert [len(each) for each in medians] == [5, 5]


def test_a_host_name_of_each_run_is_no_machine_of_its_own(tmp_path):
    side(tmp_path, 5, 1, np.random.default_rng(5))
    runs, _ = read_runs([tmp_path])
    assert machines.counted(runs) == (5, "run") and machines.sentence(runs) is None


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Runs whose medians and hosts are replaced: reading records takes longer than all else."""
    folder = side(tmp_path_factory.mktemp("m"), 5, RUNS, np.random.default_rng(6))
    return read_runs([folder])[0]


def drawn(runs, random):
    found = []
    for host in {run.host: None for run in runs}:
        own = 100 * np.exp(random.normal(0, BETWEEN))
        for run in (each for each in runs if each.host == host):
            median = own * np.exp(random.normal(0, WITHIN))
            result = replace(run.result, median=float(median))
            found.append(replace(run, metrics={**run.metrics, run.primary: result}))
    return found


def test_spreads_and_what_most_machines_reach_are_those_of_the_truth(template):
    random = np.random.default_rng(7)
    spreads = [machines.spread(drawn(template, random)) for _ in range(TRIALS)]
    between = np.sqrt(np.mean([each.between**2 for each in spreads]))
    within = np.sqrt(np.mean([each.within**2 for each in spreads]))
    print(f"between {between:.2%} (true {BETWEEN:.0%}), within {within:.2%} (true {WITHIN:.0%})")
    assert between == pytest.approx(BETWEEN, rel=0.15) and within == pytest.approx(WITHIN, rel=0.1)
    others = 100 * np.exp(random.normal(0, BETWEEN, TRIALS))
    reached = np.mean([other >= each.reached for other, each in zip(others, spreads)])
    print(f"another machine reaches the bound: {reached:.1%}")
    assert reached == pytest.approx(0.95, abs=0.02 + 2 * 0.22 / TRIALS**0.5)


def test_equal_kinds_of_machines_are_seldom_told_apart(template):
    random = np.random.default_rng(8)
    verdicts = {"machines": 0, "runs": 0}
    for _ in range(TRIALS):
        both = [drawn(template, random) for _ in range(2)]
        metric = template[0].primary
        by_machine = [machines.observations(each, metric) for each in both]
        by_run = [[run.result.median for run in each] for each in both]
        for name, (ours, theirs) in (("machines", by_machine), ("runs", by_run)):
            verdict = ratio.compare(ours, theirs, "higher").verdict
            verdicts[name] += verdict in ("better", "worse")
    print({name: f"{count / TRIALS:.1%}" for name, count in verdicts.items()})
    assert verdicts["machines"] / TRIALS < 0.05 + 2 * 0.22 / TRIALS**0.5
    assert verdicts["runs"] > 3 * verdicts["machines"]  # what taking runs for machines would do
