"""The physical cores of a machine, and how concurrent instances of a workload are laid out on them.

An instance has physical cores of its own, within one NUMA node: two instances on the two threads of
one core would share its execution units, and memory of another node is slower to reach.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from harness import cli, sut_toml, system

SYS = Path("/sys")
LSCPU = "LC_ALL=C lscpu -J -e=CPU,CORE,SOCKET,NODE,ONLINE"
MAX_CPUS = 8192  # the most that Linux can be built for (NR_CPUS, x86-64)


@dataclass(frozen=True)
class Core:
    """A physical core."""

    cpus: tuple[int, ...]  # its logical CPUs that may be used (online and in the mask), ascending
    node: int  # NUMA node


@dataclass(frozen=True)
class Topology:
    cores: tuple[Core, ...]  # that may be used, ordered by node, then by first CPU
    quota_cpus: float | None = None  # CPUs' worth of time that a container may use (cgroup)
    nodes_without_memory: frozenset[int] = frozenset()
    masked: bool = False  # the affinity mask leaves out cores that are online


@dataclass(frozen=True)
class Slot:
    """Where one instance runs."""

    cpus: tuple[int, ...]  # ascending
    nodes: tuple[int, ...]
    cores: int  # physical


def read(mask: Iterable[int] | None = None, root: Path = SYS) -> Topology:
    """This machine, as far as the affinity mask (this process's, or `mask`) lets it be used."""
    cpu_folder, cgroup = root / "devices/system/cpu", root / "fs/cgroup"
    allowed = set(os.sched_getaffinity(0) if mask is None else mask)
    online = parse_cpus(system.read(cpu_folder / "online") or "") or sorted(allowed)
    node_of: dict[int, int] = {}
    without_memory = set()
    for folder in root.glob("devices/system/node/node[0-9]*"):
        node = int(folder.name[4:])
        node_of |= dict.fromkeys(parse_cpus(system.read(folder / "cpulist") or ""), node)
        if re.search(r"MemTotal:\s*0 kB", system.read(folder / "meminfo") or ""):
            without_memory.add(node)
    cores = _cores(
        {
            cpu: (node_of.get(cpu, 0), system.thread_siblings(cpu, cpu_folder))
            for cpu in online
            if cpu in allowed
        }
    )
    masked = len(cores) < system.physical_cores(online, cpu_folder)
    return Topology(cores, system.cgroup_cpu_quota(cgroup), frozenset(without_memory), masked)


def from_file(path: Path) -> Topology:
    """Another machine: from its `lscpu -J`, its `lscpu -J -e`, or a TOML as in sut/.

    Raises cli.UserError, one line, where the file can't be read, or doesn't say which CPUs share a
    core.
    """
    if path.suffix == ".toml":
        return Topology(_cores(_numbered(path)))
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise cli.UserError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise cli.UserError(f"{path}: not JSON; make it with: {LSCPU}") from None
    try:
        places = _listed(document["cpus"]) if "cpus" in document else _summarized(document["lscpu"])
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        why = "it doesn't say which CPUs share a core"
        raise cli.UserError(f"{path}: {why}; make it with: {LSCPU}") from None
    return Topology(_cores(places))


def layout(
    topology: Topology,
    instances: int | None,
    cores_per_instance: int | None,
    use_smt: bool = False,
) -> list[Slot]:
    """The slots of `instances` instances of `cores_per_instance` physical cores, by node and CPU.

    Without the number of cores, instances get as many as fit; without the number of instances, as
    many as fit are laid out; without both, one per NUMA node has all its cores. No two share a core
    and none spans nodes, unless it is to have more cores than any node has. Instances are spread
    evenly over the nodes. With `use_smt` an instance has all logical CPUs of its cores, else one of
    each. Altogether they have at most as many CPUs as the quota is worth, but at least one core.
    Raises cli.UserError, one line, where that is not possible.
    """
    if not topology.cores:
        raise cli.UserError("no CPU may be used: none is online and in the affinity mask")
    limit = _cores_within_quota(topology, use_smt)
    nodes = _by_node(topology)
    sizes = [len(cores) for cores in nodes]
    if instances is None and cores_per_instance is None:
        nodes.sort(key=len, reverse=True)
        while sum(map(len, nodes[:-1])) >= limit:
            nodes.pop()
        shares = _spread(limit, list(map(len, nodes)))
        parts = [cores[:share] for cores, share in zip(nodes, shares)]
    else:
        size = cores_per_instance or _most_cores(instances or 1, sizes, limit, max(sizes))
        most = _most_instances(size, sizes, limit) if size else 0
        number = most if instances is None else instances
        if not 0 < number <= most:
            raise cli.UserError(_does_not_fit(topology, instances, cores_per_instance, limit))
        if size > max(sizes):
            nodes = [list(topology.cores)]
        counts = _spread(number, [len(cores) // size for cores in nodes])
        parts = [
            cores[index * size : (index + 1) * size]
            for cores, count in zip(nodes, counts)
            for index in range(count)
        ]
    return sorted(
        (_slot(part, use_smt) for part in parts), key=lambda slot: (slot.nodes, slot.cpus)
    )


def parse_cpus(text: str) -> list[int]:
    """The CPUs of a list as Linux writes it, e.g. "0-3,8". Raises ValueError for anything else."""
    cpus: set[int] = set()
    for part in text.replace(" ", "").split(",") if text.strip() else ():
        found = re.fullmatch(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if not first <= last < MAX_CPUS:
            raise ValueError(f"not a list of CPUs: {text!r:.40}")
        cpus.update(range(first, last + 1))
    return sorted(cpus)


def format_cpus(cpus: Iterable[int]) -> str:
    """CPUs as a list as Linux writes it, e.g. "0-3,8"."""
    runs: list[list[int]] = []
    for cpu in sorted(set(cpus)):
        if runs and cpu == runs[-1][-1] + 1:
            runs[-1][1:] = [cpu]
        else:
            runs.append([cpu])
    return ",".join("-".join(map(str, run)) for run in runs)


def numactl(slot: Slot) -> list[str]:
    """What binds a command to a slot's CPUs and its memory to their node."""
    return ["numactl", "--localalloc", f"--physcpubind={format_cpus(slot.cpus)}"]


def command(slot: Slot, words: Sequence[str]) -> str:
    """The shell command that runs `words` (program and arguments) as the instance of this slot."""
    return f"OMP_NUM_THREADS={len(slot.cpus)} {shlex.join([*numactl(slot), *words])}"


def lines(slots: Sequence[Slot], words: Sequence[str]) -> list[str]:
    """The layout as a table, and the command of each instance."""
    rows = [("instance", "cores", "CPUs", "NUMA node")]
    for number, slot in enumerate(slots, 1):
        nodes = format_cpus(slot.nodes)
        rows.append((str(number), str(slot.cores), format_cpus(slot.cpus), nodes))
    return [*cli.columns(rows), "", *(command(slot, words) for slot in slots)]


def _cores(places: dict[int, tuple[int, object]]) -> tuple[Core, ...]:
    """Cores from each CPU's NUMA node and whatever its siblings in that node have in common."""
    siblings: dict[tuple[int, object], list[int]] = {}
    for cpu in sorted(places):
        siblings.setdefault(places[cpu], []).append(cpu)
    cores = (Core(tuple(cpus), node) for (node, _), cpus in siblings.items())
    return tuple(sorted(cores, key=lambda core: (core.node, core.cpus)))


def _numbered(path: Path) -> dict[int, tuple[int, object]]:
    """The CPUs of a TOML as Linux numbers them: one thread of each core, then the others."""
    cpu = sut_toml.read(path)["cpu"]
    cores, vcpus = cpu["sockets"] * cpu["cores_per_socket"], cpu["vcpus"]
    if cores * cpu["threads_per_core"] != vcpus or vcpus > MAX_CPUS:
        product = "sockets × cores_per_socket × threads_per_core"
        raise cli.UserError(f"{path}: cpu.vcpus must be {product}, and {MAX_CPUS} at most")
    return {n: (n % cores // cpu["cores_per_socket"], n % cores) for n in range(vcpus)}


def _listed(rows: list[dict]) -> dict[int, tuple[int, object]]:
    """The online CPUs of `lscpu -J -e`: values are numbers, or in older versions text."""
    places: dict[int, tuple[int, object]] = {}
    for row in rows:
        if row.get("online", row["core"] is not None) in (False, None, "no"):
            continue
        cpu, node = int(row["cpu"]), int(row.get("node") or 0)
        if not 0 <= cpu < MAX_CPUS:
            raise ValueError
        places[cpu] = node, (str(row.get("socket")), int(row["core"]))
    return places


def _summarized(entries: list[dict]) -> dict[int, tuple[int, object]]:
    """The online CPUs of `lscpu -J`, which has no siblings: from Linux's usual numbering.

    Within a node, one thread of each core comes first, then the others in the same order. Raises
    ValueError where the numbers contradict that.
    """
    fields = system.lscpu_fields(entries)
    threads = int(fields["Thread(s) per core"])
    offline = set(parse_cpus(fields.get("Off-line CPU(s) list") or ""))
    nodes = {
        int(found[1]): parse_cpus(cpus or "")
        for name, cpus in fields.items()
        if (found := re.fullmatch(r"NUMA node(\d+) CPU\(s\)", name))
    } or {0: parse_cpus(fields["On-line CPU(s) list"])}
    node_of = {cpu: node for node, cpus in nodes.items() for cpu in cpus if cpu not in offline}
    if not offline and threads > 1:  # not so where cores differ, as in a hybrid CPU
        if len(node_of) != threads * int(fields["Core(s) per socket"]) * int(fields["Socket(s)"]):
            raise ValueError
    if offline.issubset(chain(*nodes.values())):
        cores = [core for cpus in nodes.values() for core in _siblings(cpus, threads)]
    else:  # a node's list has only what is online: siblings follow from all CPUs' numbers
        cores = _siblings(sorted({*node_of, *offline}), threads)
    online = [[cpu for cpu in core if cpu in node_of] for core in cores]
    if max(map(len, online)) < threads or any(
        len({node_of[c] for c in core}) > 1 for core in online
    ):
        raise ValueError
    return {cpu: (node_of[cpu], index) for index, core in enumerate(online) for cpu in core}


def _siblings(cpus: list[int], threads: int) -> list[tuple[int, ...]]:
    """Each core's CPUs: the i-th of each of `threads` equal runs."""
    size, rest = divmod(len(cpus), threads)
    if rest:
        raise ValueError
    return list(zip(*(cpus[start : start + size] for start in range(0, len(cpus), size or 1))))


def _by_node(topology: Topology) -> list[list[Core]]:
    nodes: dict[int, list[Core]] = {}
    for core in topology.cores:
        nodes.setdefault(core.node, []).append(core)
    return list(nodes.values())


def _cores_within_quota(topology: Topology, use_smt: bool) -> int:
    if topology.quota_cpus is None:
        return len(topology.cores)
    cpus_per_core = max(len(core.cpus) for core in topology.cores) if use_smt else 1
    return min(len(topology.cores), max(1, int(topology.quota_cpus) // cpus_per_core))


def _most_instances(size: int, nodes: list[int], limit: int) -> int:
    """How many instances of `size` cores fit into nodes with so many cores, `limit` in all."""
    within = sum(cores // size for cores in nodes)
    return limit // size if size > max(nodes) else min(limit // size, within)


def _most_cores(instances: int, nodes: list[int], limit: int, largest: int) -> int:
    """The most cores, `largest` at most, that each of so many instances can have; 0: none."""
    sizes = range(min(largest, limit), 0, -1)
    return next((n for n in sizes if _most_instances(n, nodes, limit) >= instances), 0)


def _spread(number: int, room: list[int]) -> list[int]:
    """Shares of `number` as even as they can be, each within its room."""
    shares = [0] * len(room)
    for _ in range(number):
        free = (index for index in range(len(room)) if shares[index] < room[index])
        shares[min(free, key=shares.__getitem__)] += 1
    return shares


def _slot(cores: Sequence[Core], use_smt: bool) -> Slot:
    cpus = chain(*(core.cpus if use_smt else core.cpus[:1] for core in cores))
    return Slot(tuple(sorted(cpus)), tuple(sorted({core.node for core in cores})), len(cores))


def _does_not_fit(
    topology: Topology, instances: int | None, cores_per_instance: int | None, limit: int
) -> str:
    """What is wrong, why, and what to give instead."""
    number, size = instances or 1, cores_per_instance or 1
    nodes = [len(cores) for cores in _by_node(topology)]
    what = _count(number, "instance") if instances else "an instance"
    what += f" of {_count(size, 'core')}" if cores_per_instance else ""
    if number * size > limit:
        causes = ["affinity mask"] if topology.masked else []
        if limit < len(topology.cores):
            causes.append(f"CPU quota {topology.quota_cpus:g}")
        there = f"{_count(limit, 'core')} may be used"
        there += f" ({', '.join(causes)})" if causes else ""
    else:
        each = " or ".join(map(str, sorted(set(nodes))))
        there = f"{len(nodes)} NUMA nodes have {each} cores each"
    most, largest = _most_instances(size, nodes, limit), _most_cores(number, nodes, limit, limit)
    fixes = [f"--instances {most}"] if instances and most else []
    fixes += [f"--cores_per_instance {largest}"] if cores_per_instance and largest else []
    fix = f"{' or '.join(fixes)} at most" if fixes else "fewer --instances of fewer cores"
    return f"{what} {'do' if number > 1 else 'does'} not fit: {there}; give {fix}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number > 1)}"
