"""The search for the best layout of instances."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness import record, topology, tune
from harness.topology import Core, Topology
from harness.tune import Layout, Trial, fastest, quickest, search, sizes, stopped_helping

SCRIPT = Path(__file__).resolve().parent.parent / "small_workload.py"


class Machine(tune.Tuner):
    """Made up: one instance of c cores does c ** alone, and n instances n ** together of that."""

    def __init__(self, alone: float, together: float, smt: float = 1.0):
        self.trials, self.left_out = [], []
        self.alone, self.together, self.smt = alone, together, smt

    def try_(self, layout: Layout) -> Trial:
        number, each = len(layout.slots), layout.cores**self.alone
        rate = each * number**self.together * (self.smt if layout.use_smt else 1.0)
        rate *= 1.3 if layout.words else 1.0
        trial = Trial(layout, rate, number**0.1 / each, 0.0, None)
        self.trials.append(trial)
        return trial


def machine(cores: int, nodes: int = 1, threads: int = 1) -> Topology:
    every = range(cores * nodes)
    siblings = [tuple(n + t * cores * nodes for t in range(threads)) for n in every]
    return Topology(tuple(Core(cpus, n // cores) for n, cpus in enumerate(siblings)))


@pytest.mark.parametrize(
    "alone, together, instances, cores",
    [(0.5, 1.0, 112, 1), (1.0, 0.5, 2, 56), (1.0, 1.0, 2, 56)],
)
def test_the_layout_with_the_highest_throughput_is_found(alone, together, instances, cores):
    tuner = Machine(alone, together)
    search(tuner, machine(56, nodes=2), ())
    best = fastest(tuner.trials).layout
    assert (len(best.slots), best.cores) == (instances, cores)


def test_layouts_that_cannot_win_any_more_are_not_tried():
    tuner = Machine(alone=1.0, together=0.5)
    search(tuner, machine(56), ())
    assert {trial.layout.cores for trial in tuner.trials} == {56, 28, 14}
    assert sizes(machine(56)) == [56, 28, 14, 7, 3, 1]


def test_smt_and_the_workloads_options_are_tried_with_the_best_layout():
    tuner = Machine(alone=0.5, together=1.0, smt=1.2)
    search(tuner, machine(4, threads=2), [("--batch_size", "4")])
    best = fastest(tuner.trials).layout
    assert best.use_smt and best.words == ("--batch_size", "4") and best.cores == 1
    assert all(len(slot.cpus) == 2 for slot in best.slots)
    assert len(quickest(tuner.trials).layout.slots) == 1


def test_where_more_cores_stop_helping_one_instance_is_told():
    tuner = Machine(alone=0.02, together=1.0)
    search(tuner, machine(8), ())
    assert stopped_helping(tuner.trials)[:2] == (1, 2)
    tuner = Machine(alone=0.9, together=0.99)
    search(tuner, machine(8), ())
    assert stopped_helping(tuner.trials) is None


def test_instances_that_would_not_fit_into_memory_are_not_tried():
    tuner = tune.Tuner("rate", "time", limit_s=60)
    one = Layout(topology.layout(machine(4), 1, 1), False)
    tuner.trials.append(Trial(one, 1.0, 1.0, 10**15, None))
    assert tuner.try_(Layout(topology.layout(machine(4), 4, 1), False)) is None
    assert "GiB of memory" in tuner.left_out[0] and "not tried" in tuner.left_out[0]


def test_nothing_is_tried_for_another_machine(tmp_path):
    words = [sys.executable, str(SCRIPT), "--tune", "--results_dir", str(tmp_path)]
    words += ["--topology", str(SCRIPT.parent.parent / "sut/R760xa.toml")]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "--physcpubind=56-111" in done.stdout, done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.alone
def test_tuning_tries_real_instances_and_prints_the_commands_that_repeat_the_best(tmp_path):
    words = [sys.executable, str(SCRIPT), "--tune", "3", "--results_dir", str(tmp_path)]
    done = subprocess.run(
        [*words, "--pause", "0.05"], cwd=tmp_path, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = [record.read(path) for path in tmp_path.glob("*.json")]
    assert run["workload"] == "hashes-tune" and not run["validity"]["valid"]
    tried = {(each["instances"], each["cores_per_instance"]) for each in run["output"]["trials"]}
    cpus = len(topology.read().cores)
    assert (1, 1) in tried and (cpus, 1) in tried
    assert (tmp_path / "tune.png").exists()
    assert "Highest throughput:" in done.stdout and "Lowest latency:" in done.stdout
    first = sorted(os.sched_getaffinity(0))[0]
    assert f"numactl --localalloc --physcpubind={first}" in done.stdout
    assert "--pause 0.05" in done.stdout and "python3" in done.stdout
