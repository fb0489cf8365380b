"""The search for the most streams that a machine sustains."""

import heapq
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from harness import capacity, memory
from harness.capacity import Limit, Stream, doubling, is_shown, observations_needed, search

GIB = 2**30


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


@pytest.mark.parametrize("share, none_late, one_late", [(0.01, 299, 473), (0.05, 59, 93)])
def test_a_share_takes_so_many_observations(share, none_late, one_late):
    assert observations_needed(share) == none_late
    assert is_shown(none_late, 0, share) and not is_shown(none_late - 1, 0, share)
    assert is_shown(one_late, 1, share)  # exact binomial, e.g. scipy's binomtest
    assert not is_shown(one_late - 1, 1, share) and not is_shown(
        10_000, round(10_000 * share), share
    )
    assert not is_shown(3, 3, share)


def stream(late, of, duration_s=100.0, last=True):
    """So many of its observations are late: the last, or the first."""
    is_late = [False] * (of - late) + [True] * late
    due_s = [index * duration_s / of for index in range(of)]
    return Stream(due_s, is_late if last else is_late[::-1], {}, {}, {})


@pytest.mark.parametrize(
    "streams, of_each, of_all",
    [
        ([stream(0, 200), stream(0, 200)], True, True),
        ([stream(0, 2000), stream(1, 100)], False, True),  # one stream's 1 %
        ([stream(1, 202)] * 9, True, True),
        ([stream(1, 200)] * 9, False, False),  # 1 % of the second half, 0.5 % of all
        ([stream(1, 200, last=False)] * 9, False, False),  # the first half
        ([stream(0, 0)], True, True),
    ],
)
def test_both_halves_must_be_within_the_limit(streams, of_each, of_all):
    for limit, expected in ((Limit(0.01, True), of_each), (Limit(0.01, False), of_all)):
        level, _ = capacity.measured(streams, 100.0, limit, 10**6)
        assert level["sustained"] is expected
        assert level["observations"] == sum(len(each.late) for each in streams)


class Machine:
    """Sustains so many streams for any time, and for 60 s a few more."""

    def __init__(self, most, at_first=0, per_stream_bytes=0):
        self.most, self.at_first, self.runs = most, at_first, []
        self.per_stream_bytes, self.used_bytes = per_stream_bytes, 0

    def play(self, numbers, begins_s, duration_s):
        count = len(numbers)
        self.runs.append((count, duration_s))
        self.used_bytes = count * self.per_stream_bytes
        good = count <= self.most + (self.at_first if duration_s <= 60 else 0)
        seen = int(duration_s / 10)  # an observation every 10 s
        return [stream(0 if good else seen // 2, seen, duration_s) for _ in numbers]

    def available(self):
        return 16 * GIB - self.used_bytes, 20 * GIB


class Journal:
    def replace(self, samples, output):
        self.samples, self.output = samples, output


def find(
    machine, first=1, last=256, min_observations=299, duration_s=60.0, resolution=1 / 16, **more
):
    args = SimpleNamespace(
        **{"min_calls": first, "max_calls": last, "resolution": resolution},
        **{"duration": duration_s, "min_observations": min_observations},
    )
    return capacity.find(capacity.Job({}, machine.play), args, "call", Journal(), **more)


def sentence(found):
    args = SimpleNamespace(max_calls=256)
    return found.record_parts(capacity.Job({}, None), args, "call", "in time")["details"][-1]


@pytest.mark.parametrize("most, at_first", [(1, 0), (7, 0), (7, 1), (7, 5), (40, 3), (0, 2)])
def test_the_result_is_confirmed_on_enough_observations(most, at_first, capsys):
    machine = Machine(most, at_first)
    found = find(machine)
    assert found.most == most
    if most:
        assert found.levels[most]["observations"] >= 299
        assert f"Confirming {most} call(s)" in capsys.readouterr().out
    assert found.first_over == most + 1 or found.levels[found.first_over]["sustained"] is False
    long_runs = [count for count, duration_s in machine.runs if duration_s > 60]
    assert len(long_runs) <= 1 + at_first and not [w for w in found.warnings if "late" in w]
    assert sentence(found) == f"Capacity: {most} call(s) in time"


def test_one_late_observation_is_played_longer_before_fewer_streams_are_tried():
    class Once(Machine):
        def play(self, numbers, begins_s, duration_s):
            streams = super().play(numbers, begins_s, duration_s)
            if len(numbers) == 7 and self.runs[-1][1] > 60 and len(self.long_runs()) == 1:
                streams[0].late[0] = True
            return streams

        def long_runs(self):
            return [count for count, duration_s in self.runs if duration_s > 60]

    machine = Once(7)
    found = find(machine, limit=capacity.Limit(of_each=False))
    assert found.most == 7 and machine.long_runs() == [7, 7]
    assert found.levels[7]["observations"] >= observations_needed(0.01, late=1)


@pytest.mark.parametrize("resolution, tries", [(1 / 16, 16), (0.5, 13), (0, 22)])
def test_a_large_number_is_found_to_a_share_of_it(resolution, tries):
    machine = Machine(997)
    found = find(machine, last=4096, resolution=resolution)
    assert found.most <= 997 < found.first_over <= found.most + max(1, resolution * found.most)
    assert len(machine.runs) <= tries


def test_a_first_number_above_what_is_sustained_goes_down():
    assert find(Machine(3), first=20).most == 3


def test_fewer_observations_are_enough_if_asked_for_and_remarked():
    machine = Machine(3)
    found = find(machine, min_observations=5)
    assert found.most == 3 and all(duration_s == 60 for _, duration_s in machine.runs)
    assert "0 of 18 late do not show at 95% confidence that under 1% are: 299" in found.warnings[0]


def test_a_late_share_that_is_only_just_below_the_limit_is_no_proof():
    def play(numbers, begins_s, duration_s):
        seen = int(duration_s * 30)
        few = stream(0, seen, duration_s)
        if len(numbers) > 2:  # 2 of 300: one in each half
            few.late[0] = few.late[-1] = True
        return [few for _ in numbers]

    assert find(SimpleNamespace(play=play), last=4, duration_s=10.0).most == 2


def test_stated_numbers_are_played_whatever_comes_of_each_and_not_confirmed():
    machine = Machine(4)
    found = find(machine, exactly=[2, 8, 16])
    assert [count for count, _ in machine.runs] == [2, 8, 16]
    assert (found.most, found.first_over) == (2, 8)
    assert find(Machine(4), exactly=[2, 4]).all_tried


def test_numbers_that_would_exhaust_the_memory_are_not_tried(capsys):
    machine = Machine(100, per_stream_bytes=GIB)  # 14 streams leave 2 of 20 GiB
    found = find(machine, available=machine.available)
    assert found.most == 14 and max(machine.runs)[0] == 14
    assert "15 call(s): not tried, for lack of memory" in capsys.readouterr().out
    (warning,) = found.warnings
    assert warning.startswith("15 call(s) were not tried") and "1.00 of 20.00 GiB" in warning
    assert found.first_over is None and "as many as were tried" not in sentence(found)
    plenty = Machine(100, per_stream_bytes=GIB // 100)
    assert find(plenty, available=plenty.available).most == 100


def simulated(seed):
    """play() of a machine in virtual time: windows of periodic streams, each begun at a random
    phase, wait in one queue for one of some servers, whose times are random."""
    random = np.random.default_rng(seed)
    servers, period_s = int(random.integers(1, 9)), random.uniform(1, 4)
    mean_s = servers * period_s / random.uniform(4, 30)  # of service: a load of 1 with so many
    max_delay_s = mean_s * random.uniform(4, 8)

    def play(numbers, begins_s, duration_s):
        settle_s, windows = 10 * period_s, []
        for number in numbers:
            own = np.random.default_rng([seed, number])
            due_s = np.arange(own.uniform(0, period_s), settle_s + duration_s, period_s)
            windows += zip(due_s, own.gamma(4, mean_s / 4, len(due_s)), [number] * len(due_s))
        streams, free_s = {number: Stream() for number in numbers}, [0.0] * servers
        for due_s, takes_s, number in sorted(windows):
            done_s = max(due_s, heapq.heappop(free_s)) + takes_s
            heapq.heappush(free_s, done_s)
            if due_s >= settle_s:
                streams[number].due_s.append(due_s - settle_s)
                streams[number].late.append(done_s - due_s > max_delay_s)
        return list(streams.values())

    return play


@pytest.mark.parametrize("seed", range(10))
def test_the_search_finds_what_a_scan_of_all_numbers_finds_within_one(seed):
    play = simulated(seed)
    found = find(SimpleNamespace(play=play), last=64)
    count, is_sustained = 0, True
    while is_sustained:
        count += 1
        level, _ = capacity.measured(play(range(count), 0.0, 120.0), 120.0, Limit(), 10**6)
        is_sustained = level["sustained"]
    assert abs(found.most - (count - 1)) <= 1 and count > 2


@pytest.mark.parametrize(
    "folder, files",
    [
        ("a", {"memory.max": GIB, "memory.current": GIB // 2, "memory.stat": "inactive_file 4096"}),
        (
            "memory/a",
            {
                "memory.limit_in_bytes": GIB,
                "memory.usage_in_bytes": GIB // 2,
                "memory.stat": "total_inactive_file 4096",
            },
        ),
    ],
)
def test_a_containers_memory_limit_is_read_in_both_versions_of_cgroups(tmp_path, folder, files):
    (tmp_path / folder).mkdir(parents=True)
    for name, content in files.items():
        (tmp_path / folder / name).write_text(f"{content}\n")
    (tmp_path / "own").write_text("0::/a\n" if folder == "a" else "9:memory:/a\n")
    assert memory.available(tmp_path, tmp_path / "own") == (GIB // 2 + 4096, GIB)
    unlimited = tmp_path / folder / next(iter(files))
    unlimited.write_text("max\n" if folder == "a" else f"{2**63 - 4096}\n")
    assert memory.available(tmp_path, tmp_path / "own")[1] == psutil.virtual_memory().total
