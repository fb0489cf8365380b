"""Verdicts are right as often as they say, and what can't be compared is not."""

import csv
import io
import json
import os
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from conftest import REPO, assert_one_line, run_analysis
from simulated import MACHINE, changed, record, write

from analysis import ratio

run = partial(run_analysis, "compare")


def compared(*args) -> dict:
    done = run(*args, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def sides(folder, a, b) -> list:
    """The records a and b (or lists of them) in folders of these names."""
    a, b = ([each] if isinstance(each, dict) else each for each in (a, b))
    return [*write(folder / "a", *a), *write(folder / "b", *b)]


TRIALS = int(os.environ.get("TRIALS", 400))  # TRIALS=2000 for figures to report


def run_medians(generator, median: float, runs: int, iterations: int = 10) -> np.ndarray:
    """[TRIALS, runs]: runs that differ by 2 % from one another, of iterations that differ by 2 %
    and are each like the one before (AR(1), 0.4), one in twenty of them slowed 1.5 times."""
    noise = generator.standard_normal((TRIALS, runs, iterations))
    for i in range(1, iterations):
        noise[..., i] = 0.4 * noise[..., i - 1] + np.sqrt(1 - 0.4**2) * noise[..., i]
    levels = generator.standard_normal((TRIALS, runs, 1))
    slowed = np.where(generator.random(noise.shape) < 0.05, 1.5, 1)
    return np.median(median * np.exp(0.02 * (levels + noise)) / slowed, axis=-1)


@pytest.mark.parametrize("runs", [4, 5, 6, 8, 12])
def test_false_verdicts_found_differences_and_intervals_are_as_often_as_they_say(runs):
    generator = np.random.default_rng(runs)
    sides = [run_medians(generator, median, runs) for median in (100, 100, 105)]
    false = found = covered = 0
    for base, same, faster in zip(*sides):
        false += ratio.compare(base, same, "higher").verdict != ratio.NO_DIFFERENCE
        better = ratio.compare(base, faster, "higher")
        found += better.verdict == "better"
        covered += better.ci95[0] <= 1.05 <= better.ci95[1]
    false, found, covered = (count / TRIALS for count in (false, found, covered))
    print(f"{runs} runs per side: false {false:.1%}, found {found:.1%}, covered {covered:.1%}")
    margin = 3 * np.sqrt(0.05 * 0.95 / TRIALS) - 0.0146  # 0 with 2,000 trials
    assert false <= 0.06 + margin and covered >= 0.93 - margin
    assert found >= (0.9 if runs >= 8 else 0.5)


def test_one_side_may_vary_more_than_the_other():
    """A quiet server and a shared instance: 12 % false verdicts, were both taken to be alike."""
    generator, false = np.random.default_rng(3), 0
    for loud in run_medians(generator, 100, 4):
        quiet = 100 * np.exp(0.0002 * generator.standard_normal(4))
        false += ratio.compare(quiet, loud, "higher").verdict != ratio.NO_DIFFERENCE
    assert false / TRIALS <= 0.09


def test_quantiles_of_students_t_are_those_of_tables():
    # Abramowitz and Stegun, table 26.10
    tabled = {1: 12.706, 2: 4.303, 3: 3.182, 7: 2.365, 30: 2.042, 120: 1.980}
    for degrees, quantile in tabled.items():
        assert ratio.t_quantile(0.975, degrees) == pytest.approx(quantile, abs=6e-4)
    assert ratio.t_quantile(0.95, 4) == pytest.approx(2.132, abs=6e-4)
    assert ratio.t_quantile(0.5, 3.7) == 0


def test_the_interval_is_welchs():
    # Worked by hand: means 2 and 4, variances 5/3 and 20/3 over 4, so the standard error is
    # sqrt(25 / 12); Satterthwaite's degrees of freedom (25/12)^2 / ((5/12)^2/3 + (20/12)^2/3).
    low, high = ratio.welch_interval(np.array([0.5, 1.5, 2.5, 3.5]), np.array([1.0, 3, 5, 7]))
    half = ratio.t_quantile(0.975, 4.4117647) * np.sqrt(25 / 12)
    assert (low, high) == pytest.approx((2 - half, 2 + half))


def test_identical_sides_give_a_ratio_of_1_inside_its_interval():
    same = [99.0, 101.0, 100.0, 102.0]
    found = ratio.compare(same, same, "higher")
    assert found.ratio == 1 and found.ci95[0] <= 1 <= found.ci95[1]
    assert found.verdict == "no difference shown"


@pytest.mark.parametrize(
    "better, side, verdict",
    [("higher", 2.0, "better"), ("higher", 0.5, "worse"), ("lower", 0.5, "better")],
)
def test_what_is_better_depends_on_the_metric(better, side, verdict):
    assert ratio.compare([1.0] * 4, [side] * 4, better).verdict == verdict


def test_too_few_runs_and_a_baseline_of_0_give_no_interval():
    found = ratio.compare([1.0] * 4, [2.0] * 3, "higher")
    assert (found.ratio, found.ci95, found.verdict) == (2, None, "more runs needed")
    found = ratio.compare([0.0] * 4, [0.0] * 4, "lower")
    assert found.ratio is None and found.verdict == "no ratio: the baseline is 0"
    assert ratio.compare([8.0] * 4, [0.0] * 4, "higher").verdict == "no interval: a run with 0"


def test_swapping_the_sides_gives_the_reciprocal():
    a, b = [3.0, 4.0, 5.0, 4.5], [6.0, 9.0, 7.0, 8.0, 7.5]
    one, other = ratio.compare(a, b, "higher"), ratio.compare(b, a, "higher")
    assert one.ratio == pytest.approx(1 / other.ratio)
    assert one.ci95 == pytest.approx((1 / other.ci95[1], 1 / other.ci95[0]))
    assert (one.verdict, other.verdict) == ("better", "worse")


def test_records_of_two_folders_are_two_sides(tmp_path):
    samples = [i for i in range(8)]
    edge = [record([120 + i for i in samples], machine="PowerEdge R760xa") for _ in range(4)]
    cloud = [record([100 + i for i in samples], machine="m7i.48xlarge") for _ in range(4)]
    write(tmp_path / "edge", *edge)
    write(tmp_path / "cloud", *cloud)
    folders = tmp_path / "edge", tmp_path / "cloud"
    found = compared(*folders, "--baseline", "m7i.48xlarge")
    (comparison,) = found["comparisons"]
    assert (comparison["baseline"], comparison["side"]) == ("cloud", "edge")
    assert comparison["runs"] == [4, 4]
    assert comparison["ratios"]["tokens_per_second"]["ratio"] == pytest.approx(123.5 / 103.5)
    assert comparison["marks"] == []
    assert comparison["ratios"]["tokens_per_second"]["verdict"] == "better"
    assert comparison["differences"]["machine"][0].startswith("m7i.48xlarge")
    printed = run(*sorted((tmp_path / "edge").iterdir()), folders[1], "--baseline", "cloud").stdout
    assert "edge is better than cloud, 1.193 times the throughput (95 % CI" in printed


def test_records_of_one_folder_are_sides_by_machine(tmp_path):
    write(tmp_path, record([1.0] * 6, machine="a"), record([2.0] * 6, machine="b"))
    assert set(compared(tmp_path)["sides"]) == {"a", "b"}


@pytest.mark.parametrize(
    "name, value, words",
    [
        ("precision", "bf16", "precision f32 against bf16"),
        ("model", "c" * 12, "model aaaaaaaaaaaa against cccccccccccc"),
        ("weight format", "int4", "weight format int8 against int4"),
        ("runtime", "genai", "runtime not given against genai"),
        ("device", "GPU", "device CPU against GPU"),
        ("KV cache", "u8", "KV cache not given against u8"),
        ("dynamic quantization group", 0, "dynamic quantization group not given against 0"),
    ],
)
def test_what_makes_a_ratio_unfair_is_said_instead_of_a_ratio(tmp_path, name, value, words):
    other = changed(record([200.0] * 8), f"comparable_by/{name}", value)
    paths = sides(tmp_path, record([100.0] * 8), other)
    (comparison,) = compared(*paths)["comparisons"]
    assert comparison["unfair"] == [words] and comparison["ratios"] == {}
    printed = run(*paths).stdout
    assert "can't be compared fairly" in printed and "2.0" not in printed


def test_null_false_and_absent_are_the_same(tmp_path):
    other = record([2.0] * 6, stream=False, chat=None)
    other = changed(other, "comparable_by/runtime", None)
    (comparison,) = compared(*sides(tmp_path, record([1.0] * 6), other))["comparisons"]
    assert comparison["ratios"]["tokens_per_second"]["ratio"] == 2


@pytest.mark.parametrize("entry", [{"max new tokens": 7}, {"batch size": 8}, {"beam size": 0}])
def test_other_work_is_not_compared_at_all(tmp_path, entry):
    paths = sides(tmp_path, record([1.0] * 6), record([1.0] * 6, **entry))
    assert compared(*paths)["comparisons"] == [] and "Nothing to compare" in run(*paths).stdout


def test_other_versions_threads_and_kernels_are_shown_beside_the_ratio(tmp_path):
    other = changed(record([1.0] * 6, threads=8), "context/kernel", "5.15")
    other = changed(other, "context/openvino", "2025.0")
    (comparison,) = compared(*sides(tmp_path, record([1.0] * 6), other))["comparisons"]
    assert comparison["differences"] == {
        "kernel": ["6.1", "5.15"],
        "openvino": ["2026.4.1", "2025.0"],
        "threads": ["16", "8"],
    }


def test_runs_with_other_threads_are_no_repetitions_the_best_stand_for_the_side(tmp_path):
    side = [record([r] * 6, threads=n) for n, r in ((8, 90.0), (16, 120.0), (32, 110.0))]
    (comparison,) = compared(*sides(tmp_path, record([100.0] * 6), side))["comparisons"]
    assert comparison["ratios"]["tokens_per_second"]["ratio"] == pytest.approx(1.2)
    assert comparison["runs"] == [1, 1]
    assert any("taken at its best, threads 16" in note for note in comparison["notes"])


@pytest.mark.parametrize(
    "name, value", [("memory tuned", "glibc.malloc.hugetlb=1"), ("batch size", 8)]
)
def test_another_way_of_using_the_machine_is_no_repetition(tmp_path, name, value):
    side = [record([100.0] * 6), record([120.0] * 6, configuration={name: value})]
    (comparison,) = compared(*sides(tmp_path, record([100.0] * 6), side))["comparisons"]
    assert comparison["ratios"]["tokens_per_second"]["ratio"] == pytest.approx(1.2)
    assert comparison["runs"] == [1, 1]
    assert comparison["differences"][name] == ["not given", str(value)]


def test_levels_of_concurrency_are_compared_each_with_its_own(tmp_path):
    a, b = (
        [record([rate * c] * 6, workload="gpu-tgi", concurrency=c) for c in (1, 4)]
        for rate in (1.0, 2.0)
    )
    best, *found = compared(*sides(tmp_path, a, b))["comparisons"]
    assert best["label"] == "LLM server, each at its best concurrency"
    assert [c["label"] for c in found] == ["LLM server, concurrency 1", "LLM server, concurrency 4"]
    ratios = [c["ratios"]["requests_per_second"]["ratio"] for c in found]
    assert ratios == pytest.approx([2, 2])


def test_a_record_that_only_lists_others_is_left_out_silently(tmp_path):
    paths = sides(tmp_path, record([1.0] * 6), record([2.0] * 6))
    sweep = write(tmp_path / "b", changed(record([9.0] * 6), "primary", None))
    done = run(*paths, *sweep)
    assert done.returncode == 0 and done.stderr == "" and "2.000 times" in done.stdout


def levels(rates: dict[int, float], latency_s: float = 0.5, runs: int = 4) -> list[dict]:
    """Runs at levels of concurrency, whose latency grows with it."""
    return [
        record([rate], workload="gpu-tgi", latency_s=[latency_s * level], concurrency=level)
        for level, rate in rates.items()
        for _ in range(runs)
    ]


def test_of_a_sweep_each_side_is_taken_at_its_own_best_level_whoever_is_the_baseline(tmp_path):
    paths = sides(tmp_path, levels({1: 1.0, 4: 3.8, 16: 2.0}), levels({1: 1.5, 4: 2.0, 16: 4.0}))
    found = {}
    for base, other in (("a", "b"), ("b", "a")):
        data = compared(*paths, "--baseline", base)
        assert data["leading"] == ["LLM server, each at its best concurrency"]
        (best,) = [c for c in data["comparisons"] if c["leads"]]
        found[other] = best["ratios"]["requests_per_second"]["ratio"]
        assert best["differences"]["concurrency"] == (["4", "16"] if base == "a" else ["16", "4"])
        lines = run(*paths, "--baseline", base).stdout.splitlines()
        assert sum("is better" in line or "is worse" in line for line in lines[:3]) == 1
    assert found["b"] == pytest.approx(4 / 3.8) and found["a"] == pytest.approx(3.8 / 4)


def test_of_a_sweep_only_levels_within_the_limit_count_for_both(tmp_path):
    paths = sides(tmp_path, levels({1: 1.0, 4: 3.8, 16: 9.0}), levels({1: 1.5, 4: 2.0, 16: 4.0}))
    best, *_ = compared(*paths, "--limit", "request_latency_s=2")["comparisons"]
    assert best["ratios"]["requests_per_second"]["ratio"] == pytest.approx(2 / 3.8)
    best, *_ = compared(*paths, "--limit", "request_latency_s=0.1")["comparisons"]
    assert best["unfair"] == [f"{s} has no level within request_latency_s 0.1" for s in "ab"]
    assert_one_line(run(*paths, "--limit", "speed=1"), "--limit speed: no record has this metric")


def test_the_primary_metric_alone_has_a_verdict(tmp_path):
    a, b = (
        [record([rate], latency_s=[[0.5 / rate + i / 1e4 for i in range(50)]]) for _ in range(4)]
        for rate in (1.0, 2.0)
    )
    (comparison,) = compared(*sides(tmp_path, a, b))["comparisons"]
    verdicts = {name: found["verdict"] for name, found in comparison["ratios"].items()}
    assert verdicts == {"tokens_per_second": "better", "request_latency_s": None}
    assert comparison["ratios"]["request_latency_s"]["ci95"]


@pytest.mark.parametrize("iterations", [1, 50])
def test_one_run_per_side_is_no_verdict_however_many_iterations_it_has(tmp_path, iterations):
    """Nor does another metric with many samples stand in for it."""
    a, b = (
        record([rate] * iterations, latency_s=[[0.5 / rate + i / 1e4 for i in range(50)]])
        for rate in (1.0, 2.0)
    )
    first, *_ = run(*sides(tmp_path, a, b)).stdout.splitlines()
    assert first == (
        "LLM: b against a: 2.000 times the throughput. No verdict: 3 more runs needed on each side."
    )


def test_it_is_said_how_many_runs_each_side_lacks(tmp_path):
    paths = sides(tmp_path, [record([1.0])] + [record([1.0])], [record([2.0]) for _ in range(5)])
    assert "No verdict: 2 more runs of a needed." in run(*paths).stdout
    paths = sides(tmp_path / "both", [record([1.0])], [record([2.0]) for _ in range(3)])
    assert "1 more run of b and 3 more runs of a needed." in run(*paths).stdout


STEAL = "the hypervisor took 5.5% of the CPU time for others (steal)"


def test_invalid_runs_are_shown_and_left_out_of_verdicts(tmp_path):
    good, bad = ([record([rate]) for _ in range(4)] for rate in (2.0, 50.0))
    bad = [changed(each, "validity", {"valid": False, "reasons": [STEAL]}) for each in bad]
    paths = sides(tmp_path, [record([1.0]) for _ in range(4)], [*good, *bad])
    (comparison,) = compared(*paths)["comparisons"]
    assert comparison["ratios"]["tokens_per_second"]["ratio"] == 2 and comparison["runs"] == [4, 4]
    assert "b: 4 invalid run(s) left out (--allow_invalid uses them)" in comparison["notes"]
    assert run(*paths, "--markdown").stdout.count(STEAL) == 4
    allowed = run(*paths, "--allow_invalid").stdout
    assert "is better than a, 10.000 times" in allowed
    assert "[4 invalid run(s) of b used]" in allowed.splitlines()[0]


def test_a_side_without_valid_runs_has_a_ratio_and_no_verdict(tmp_path):
    bad = changed(record([2.0]), "validity", {"valid": False, "reasons": [STEAL]})
    bad = [{**bad, "id": str(i)} for i in range(6)]
    paths = sides(tmp_path, [record([1.0]) for _ in range(4)], bad)
    first, *_ = run(*paths).stdout.splitlines()
    assert "2.000 times" in first and "No verdict: 4 more runs of b needed." in first
    assert "[no run of b is valid as evidence]" in first
    (comparison,) = compared(*paths)["comparisons"]
    assert comparison["ratios"]["tokens_per_second"]["ci95"] is None


def test_every_sentence_on_cost_is_marked_too(tmp_path):
    bad = [
        changed(record([rate]), "validity", {"valid": False, "reasons": [STEAL]})
        for rate in (1.0, 2.0)
    ]
    priced = "--sut", "a=m7i.48xlarge", "--sut", "b=R760xa", "--power_w", "b=900"
    out = run(*sides(tmp_path, *bad), *priced, "--allow_invalid").stdout
    told = out[: out.index("\nRatios")].splitlines()
    assert any("USD per million tokens" in line for line in told)
    assert all("[1 invalid run(s) of a used; 1 invalid" in line for line in told if line)


def gated(passed: bool, **options) -> dict:
    """An accuracy record of what record() simulates."""
    made = changed(record([0.2], **options), "workload", "speech-accuracy")
    value = 0.01 if passed else 0.2
    gate = {"metric": "word_error_rate", "limit": 0.1, "value": value, "passed": passed}
    return {**made, "title": "Speech accuracy", "output": {"gate": gate}}


def test_a_speed_that_missed_its_accuracy_gate_has_no_verdict(tmp_path):
    fast = [[record([rate]) for _ in range(4)] for rate in (1.0, 2.0)]
    missed = "accuracy gate missed: word_error_rate 0.2, limit 0.1"
    paths = sides(tmp_path, [*fast[0], gated(False)], fast[1])
    first, *_ = run(*paths).stdout.splitlines()
    assert "No verdict: the accuracy gate is missed." in first and missed in first
    assert missed in run(*paths, "--allow_invalid").stdout.splitlines()[0]
    (comparison,) = compared(*paths)["comparisons"]  # quality itself is not compared
    assert comparison["label"] == "LLM"
    newer = write(tmp_path / "a", gated(True, day=9))
    (comparison,) = compared(*paths, *newer)["comparisons"]
    assert comparison["ratios"]["tokens_per_second"]["verdict"] == "better"
    assert comparison["gate"] is None and not any("accuracy" in n for n in comparison["notes"])


def test_a_setting_without_an_accuracy_record_says_so(tmp_path):
    paths = sides(tmp_path, [record([1.0]), gated(True, precision="bf16")], record([2.0]))
    (note,) = [n for n in compared(*paths)["comparisons"][0]["notes"] if "accuracy" in n]
    assert note.endswith("model aaaaaaaaaaaa, weight format int8, precision f32")


def test_folders_of_the_same_name_are_two_sides(tmp_path):
    for side, rate in (("edge", 2.0), ("cloud", 1.0)):
        write(tmp_path / side / "results", *(record([rate]) for _ in range(4)))
    paths = [*(tmp_path / "edge/results").iterdir(), *(tmp_path / "cloud/results").iterdir()]
    data = compared(*paths, "--baseline", "cloud")
    assert set(data["sides"]) == {"edge", "cloud"}
    assert data["comparisons"][0]["ratios"]["tokens_per_second"]["ratio"] == 2


def test_folders_without_a_name_of_their_own_are_named_by_their_paths(tmp_path):
    names = ["edge/one", "edge/two", "cloud/one"]
    for name in names:
        write(tmp_path / name, record([1.0]))
    assert set(compared(*(tmp_path / name for name in names))["sides"]) == set(names)


def test_runs_of_several_machines_are_sides_of_their_own_unless_pooled(tmp_path):
    mixed = [record([1.0], machine=machine) for machine in "xy"]
    paths = sides(tmp_path, record([1.0]), mixed)
    assert set(compared(*paths)["sides"]) == {"a", "b: x", "b: y"}
    (comparison,) = compared(*paths, "--pool")["comparisons"]
    assert comparison["side"] == "b" and comparison["runs"] == [1, 2]
    both = f"{MACHINE.format('x')} / {MACHINE.format('y')}"
    assert f"b: runs of 2 machines are taken together: {both}" in comparison["notes"]


def test_folders_that_are_given_one_name_are_one_side(tmp_path):
    paths = [tmp_path / name for name in ("m-1", "m-2", "edge")]
    for path in paths:
        write(path, record([1.0]))
    given = ["--side", "m-1=m", "--side", "m-2=m"]
    (comparison,) = compared(*paths, *given, "--baseline", "m")["comparisons"]
    assert comparison["side"] == "edge" and comparison["runs"] == [2, 1]
    assert set(compared(paths[0], "--side", "m-1=R760xa")["sides"]) == {"R760xa"}
    wrong = run(*paths, "--side", "m-3=m")
    assert_one_line(wrong, "--side m-3", "edge, m-1, m-2")


def test_machines_of_one_name_and_different_hardware_are_two_sides(tmp_path):
    small, large = record([1.0], machine="VM"), record([2.0], machine="VM")
    large = changed(large, "context/machine", "VM, 1 × 64 cores")
    write(tmp_path, small, large)
    assert set(compared(tmp_path)["sides"]) == {MACHINE.format("VM"), "VM, 1 × 64 cores"}


def test_a_part_of_a_machine_is_never_compared_unmarked(tmp_path):
    part = [changed(record([2.0]), "placement/share_of_machine", 0.25) for _ in range(4)]
    paths = sides(tmp_path, [record([1.0]) for _ in range(4)], part)
    first, *_ = run(*paths).stdout.splitlines()
    assert "b is better" in first and "[b was allowed 25% of its machine's CPUs]" in first


def test_warnings_of_the_runs_are_carried_along(tmp_path):
    steal = "the hypervisor took {}.5% of the CPU time for others (steal)"
    warned = [record([1.0] * 6, warnings=[steal.format(i)]) for i in range(3)]
    (comparison,) = compared(*sides(tmp_path, record([1.0] * 6), warned))["comparisons"]
    (note,) = [note for note in comparison["notes"] if "hypervisor" in note]
    assert note.endswith("(and the like in 2 more runs)")


def test_what_is_no_record_is_named_and_skipped(tmp_path):
    good = sides(tmp_path, record([1.0] * 6), record([2.0] * 6))
    odd = {
        "cut": (json.dumps(record([1.0]))[:300], "cut off"),
        "empty": ("", "no JSON"),
        "foreign": ('{"hello": 1}', "not a record"),
        "newer": (json.dumps({**record([1.0]), "schema_version": 3}), "newer than this kit's"),
        "failed": (json.dumps(record([1.0], status="failed")), "failed"),
    }
    for name, (content, _) in odd.items():
        (tmp_path / f"b/{name}.json").write_text(content)
    done = run(tmp_path / "a", tmp_path / "b", tmp_path / "b/missing.json", good[0])
    assert done.returncode == 0 and "2.000 times" in done.stdout
    lines = [line for line in done.stderr.splitlines() if line.startswith("skipped: ")]
    assert len(lines) == len(odd) + 2
    for name, (_, words) in {**odd, "missing": ("", "No such file")}.items():
        assert any(f"{name}.json" in line and words in line for line in lines), (name, lines)
    assert any("the same run as another file" in line for line in lines)


def test_nothing_but_damaged_records_or_a_baseline_that_is_not_there_is_one_line(tmp_path):
    (tmp_path / "x.json").write_text("{")
    assert_one_line(run(tmp_path / "x.json"), "no record to compare")
    (tmp_path / "none").mkdir()
    assert_one_line(run(tmp_path / "none"), "no record (*.json) in this folder")
    paths = write(tmp_path / "a", record([1.0] * 6))
    assert_one_line(run(*paths, "--baseline", "m5.large"), "m5.large", "m6i.8xlarge")
    assert_one_line(run(*paths, "--html", tmp_path / "x.json/report.html"), "cannot write")
    assert_one_line(run(*paths, "--power_w", "m7=1"), "m7 is no side", "m6i.8xlarge")
    assert_one_line(run(*paths, "--sut", "m6i.8xlarge=R9"), "no R9.toml")
    wrong = run(*paths, "--power_w", "m6i.8xlarge=much")
    assert wrong.returncode == 2 and "m6i.8xlarge=much" in wrong.stderr


def test_csv_and_markdown_hold_every_ratio(tmp_path):
    a, b = (
        [record([rate], latency_s=[latency_s]) for _ in range(4)]
        for rate, latency_s in ((1.0, 0.5), (2.0, 0.2))
    )
    paths = sides(tmp_path, a, b)
    rows = list(csv.DictReader(io.StringIO(run(*paths, "--csv").stdout)))
    rows, prices = ([row for row in rows if (row["metric"] == "cost") is c] for c in (False, True))
    assert all(float(row["usd_low90"]) <= float(row["usd"]) for row in prices) and prices
    ratios = {row["metric"]: float(row["ratio"]) for row in rows}
    assert ratios == pytest.approx({"tokens_per_second": 2.0, "request_latency_s": 0.4})
    assert [row["verdict"] for row in rows] == ["better", ""] and float(rows[0]["ci95_low"]) == 2
    done = run(*paths, "--markdown", tmp_path / "r.md")
    assert done.returncode == 0 and "| LLM | Throughput | b |" in (tmp_path / "r.md").read_text()


def test_records_of_version_1_are_compared():
    folders = REPO / "tests/version_1/threads-1", REPO / "tests/version_1/threads-2"
    (comparison,) = compared(*folders, "--allow_invalid")["comparisons"]
    found = comparison["ratios"]["tokens_per_second"]
    assert found["ratio"] == pytest.approx(1.1487, abs=1e-4)
    assert found["ci95"] == pytest.approx([0.8633, 1.5283], abs=1e-3)
    assert found["verdict"] == "no difference shown"
    assert comparison["differences"] == {"threads": ["1", "2"]} and comparison["runs"] == [4, 4]


def test_10000_records_are_compared_in_10_seconds_and_500_mb(tmp_path):
    generator = np.random.default_rng(4)
    noise = np.exp(0.015 * generator.standard_normal(10))
    made = record((100 * noise).tolist(), latency_s=noise.tolist())
    content = json.dumps(made)
    for side in ("a", "b"):
        (tmp_path / side).mkdir()
        for i in range(5000):
            (tmp_path / f"{side}/{i}.json").write_text(content.replace(made["id"], f"{side}{i}"))
    code = f"""
import sys, time
from analysis import compare, report
from harness.monitor import peak_rss_bytes
sys.argv = ["compare", {str(tmp_path / "a")!r}, {str(tmp_path / "b")!r}]
began = time.perf_counter()
text = report.text(compare.build(compare.parse_args()))
print(time.perf_counter() - began, peak_rss_bytes() / 2**20)
assert "no difference shown" in text
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True
    )
    seconds, mib = map(float, done.stdout.split())
    print(f"{seconds:.1f} s, {mib:.0f} MiB")
    assert seconds < 30 and mib < 500  # 7 s on two cores, one of them busy
