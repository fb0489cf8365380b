"""The layout of instances that carries most."""

import contextlib
from types import SimpleNamespace

import pytest

from harness import capacity, layouts
from harness.cli import UserError
from harness.topology import Core, Topology


def machine(cores: int, nodes: int = 1, threads: int = 1) -> Topology:
    numbers = range(cores * nodes)
    siblings = [tuple(n + t * cores * nodes for t in range(threads)) for n in numbers]
    return Topology(tuple(Core(cpus, n // cores) for n, cpus in enumerate(siblings)))


def stream(is_late: bool) -> capacity.Stream:
    return capacity.Stream([0.0, 10.0], [is_late] * 2, {"window_delay_s": [0.1]}, {}, {})


class Machine:
    """Made up: an instance of c cores carries `each(c)` streams."""

    def __init__(self, each, smt: float = 1.0, fails: tuple[int, ...] = ()):
        self.each, self.smt, self.fails, self.levels = each, smt, fails, []

    @contextlib.contextmanager
    def open_job(self, args):
        cores = args.cores_per_instance
        if cores in self.fails:
            raise UserError("no memory")
        most = int(args.instances * self.each(cores) * (self.smt if args.smt else 1.0))

        def play(numbers, begins_s, duration_s):
            self.levels.append((cores, len(numbers)))
            return [stream(len(numbers) > most) for _ in numbers]

        yield capacity.Job({}, play)


def choose(made, topology, last=4096, minutes=20.0, **given):
    args = SimpleNamespace(
        **{"instances": None, "cores_per_instance": None, "smt": False, **given},
        **{"tune": minutes, "min_users": 1, "max_users": last},
        **{"duration": 20.0, "min_observations": 59},
    )
    tried = layouts.choose(args, made.open_job, "user", capacity.Limit(), topology)
    return args, tried


@pytest.mark.parametrize(
    "each, instances, cores",
    [
        (lambda cores: 8 * cores**0.5, 112, 1),  # small instances carry more together
        (lambda cores: cores**1.2, 2, 56),  # one large one batches better
        (lambda cores: min(cores, 14) ** 1.2, 8, 14),  # up to a point
    ],
)
def test_the_layout_that_carries_most_is_found(each, instances, cores):
    args, tried = choose(Machine(each), machine(56, nodes=2))
    assert (args.instances, args.cores_per_instance) == (instances, cores)
    exact = instances * each(cores)
    assert exact / (1 + 2 * layouts.BETTER) <= args.min_users <= exact
    assert args.duration == 20.0 and args.min_observations == 59  # of the search that follows


def test_a_layout_that_does_not_carry_clearly_more_costs_one_level():
    made = Machine(lambda cores: cores)
    args, tried = choose(made, machine(16))
    assert [each.cores for each in tried] == [16, 8, 4]  # two in a row are not better
    assert [level for level in made.levels if level[0] != 16] == [(8, 18), (4, 18)]
    assert tried[1].most is None and tried[1].why == "does not carry 18 user(s)"
    assert (args.instances, args.cores_per_instance, args.min_users) == (1, 16, 16)


def test_smt_is_tried_with_the_best_layout():
    args, tried = choose(Machine(lambda cores: 10.0, smt=1.3), machine(4, threads=2))
    assert args.smt and args.cores_per_instance == tried[-1].cores == 1
    assert not choose(Machine(lambda cores: 10.0, smt=0.9), machine(4, threads=2))[0].smt


def test_what_cannot_be_tried_is_named():
    _, tried = choose(Machine(lambda cores: cores, fails=(8,)), machine(16))
    assert tried[1].why == "failed: no memory"
    _, tried = choose(Machine(lambda cores: 100.0), machine(4), last=150)
    assert tried[-1].why == "not tried: --max_users 150 were reached"
    with pytest.raises(UserError, match="no layout could be tried: failed: no memory"):
        choose(Machine(lambda cores: cores, fails=(2, 1)), machine(2))
    with pytest.raises(UserError, match="--tune finds the layout"):
        choose(Machine(lambda cores: cores), machine(2), instances=2)


def test_nothing_is_tried_that_would_end_after_the_time(monkeypatch):
    now_s = iter(range(0, 100_000, 40))
    monkeypatch.setattr(layouts.time, "monotonic", lambda: next(now_s))
    args, tried = choose(Machine(lambda cores: 10.0), machine(16), minutes=2)
    assert tried[-1].why == "not tried: the time was up (--tune MIN)"
    assert args.instances == max(each.instances for each in tried if each.most)
