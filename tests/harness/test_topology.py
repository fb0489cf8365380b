import json
import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from itertools import chain, product

import pytest
from conftest import REPO

from harness import system, topology
from harness.cli import UserError
from harness.topology import Core, Slot, Topology, format_cpus, layout, parse_cpus


def machine(nodes: int, cores: int, threads: int = 2, offline: str = "", **more) -> Topology:
    """So many NUMA nodes of so many cores each, numbered as Linux usually does."""
    all_cores = nodes * cores
    off = parse_cpus(offline)
    siblings = [
        tuple(cpu for t in range(threads) if (cpu := core + t * all_cores) not in off)
        for core in range(all_cores)
    ]
    found = (Core(cpus, core // cores) for core, cpus in enumerate(siblings) if cpus)
    return Topology(tuple(found), **more)


def summary(
    sockets: int,
    cores_per_socket: int,
    threads: int,
    nodes: list[str],
    offline: str = "",
    nested: bool = True,
) -> dict:
    """`lscpu -J`, nested as since util-linux 2.37 or flat as before."""

    def entry(field, data, *children):
        return {"field": f"{field}:", "data": data} | ({"children": children} if children else {})

    on, off = parse_cpus(",".join(filter(None, nodes))), parse_cpus(offline)
    cpus = [entry("On-line CPU(s) list", format_cpus(set(on) - set(off)))]
    if off:
        cpus.append(entry("Off-line CPU(s) list", offline))
    model = [
        entry("Thread(s) per core", str(threads)),
        entry("Core(s) per socket", str(cores_per_socket)),
        entry("Socket(s)", str(sockets)),
    ]
    numa = [entry(f"NUMA node{number} CPU(s)", listed) for number, listed in enumerate(nodes)]
    counts = entry("CPU(s)", str(len({*on, *off}))), entry("NUMA node(s)", str(len(nodes)))
    if not nested:
        return {"lscpu": [entry("Architecture", "x86_64"), counts[0], *cpus, *model, *numa]}
    vendor = entry("Vendor ID", "GenuineIntel", entry("Model name", "Xeon", *model))
    numa_part = {"field": "NUMA:", "data": None, "children": [counts[1], *numa]}
    return {
        "lscpu": [entry("Architecture", "x86_64"), counts[0] | {"children": cpus}]
        + [vendor, numa_part]
    }


def table(known: Topology, offline: str = "", old: bool = False) -> dict:
    """`lscpu -J -e`: numbers and booleans as since util-linux 2.35, or text as before."""
    rows = [
        {"cpu": cpu, "core": index, "socket": core.node, "node": core.node, "online": True}
        for index, core in enumerate(known.cores)
        for cpu in core.cpus
    ]
    for cpu in parse_cpus(offline):
        rows.append({"cpu": cpu, "core": None, "socket": None, "node": None, "online": False})
    if old:
        words = {True: "yes", False: "no", None: None}
        rows = [
            {k: words[v] if k == "online" or v is None else str(v) for k, v in row.items()}
            for row in rows
        ]
    return {"cpus": sorted(rows, key=lambda row: int(row["cpu"]))}


@pytest.fixture
def load(tmp_path):
    """A topology from a file with this content."""

    def from_content(content) -> Topology:
        path = tmp_path / "machine.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return topology.from_file(path)

    return from_content


R760XA = machine(2, 56)
M7I = machine(2, 48)
M6I = machine(1, 16)
TWO_CORES = machine(1, 2, threads=1)
SUB_NUMA = machine(8, 14)
IN_CONTAINER = machine(2, 8, quota_cpus=3.5)
ONE_SMALL_NODE = Topology(machine(2, 8).cores[:12])  # nodes of 8 and 4 cores
HALF_OFF = machine(1, 4, offline="5,7")  # siblings of cores 1 and 3
ONE_LINE = re.compile(
    r".* (?:do|does) not fit: .*(?:may be used|NUMA nodes have).*; give (?:fewer --instances of "
    r"fewer cores|(?:--instances (?P<instances>\d+))?(?: or )?"
    r"(?:--cores_per_instance (?P<cores>\d+))? at most)"
)
MACHINES = {name: known for name, known in globals().items() if isinstance(known, Topology)}


def laid_out(known: Topology, *how) -> list[str]:
    return [
        f"{format_cpus(slot.cpus)} on {format_cpus(slot.nodes)}" for slot in layout(known, *how)
    ]


@pytest.mark.parametrize(
    "known, how, expected",
    [
        (R760XA, (None, None), ["0-55 on 0", "56-111 on 1"]),
        (R760XA, (None, None, True), ["0-55,112-167 on 0", "56-111,168-223 on 1"]),
        (R760XA, (1, None), ["0-55 on 0"]),
        (R760XA, (3, None), ["0-27 on 0", "28-55 on 0", "56-83 on 1"]),
        (R760XA, (4, 16), ["0-15 on 0", "16-31 on 0", "56-71 on 1", "72-87 on 1"]),
        (R760XA, (2, 1, True), ["0,112 on 0", "56,168 on 1"]),
        (R760XA, (None, 40), ["0-39 on 0", "56-95 on 1"]),
        (R760XA, (1, 112), ["0-111 on 0-1"]),
        (R760XA, (None, 57), ["0-56 on 0-1"]),
        (M7I, (None, None), ["0-47 on 0", "48-95 on 1"]),
        (M7I, (None, 24), ["0-23 on 0", "24-47 on 0", "48-71 on 1", "72-95 on 1"]),
        (M6I, (None, None), ["0-15 on 0"]),
        (M6I, (2, None, True), ["0-7,16-23 on 0", "8-15,24-31 on 0"]),
        (M6I, (3, None), ["0-4 on 0", "5-9 on 0", "10-14 on 0"]),
        (TWO_CORES, (None, None), ["0-1 on 0"]),
        (TWO_CORES, (2, 1), ["0 on 0", "1 on 0"]),
        (TWO_CORES, (None, 1), ["0 on 0", "1 on 0"]),
        (SUB_NUMA, (2, None), ["0-13 on 0", "14-27 on 1"]),
        (SUB_NUMA, (None, None), [f"{14 * n}-{14 * n + 13} on {n}" for n in range(8)]),
        (SUB_NUMA, (2, 28), ["0-27 on 0-1", "28-55 on 2-3"]),
        (IN_CONTAINER, (None, None), ["0-2 on 0"]),
        (IN_CONTAINER, (None, None, True), ["0,16 on 0"]),
        (IN_CONTAINER, (2, None), ["0 on 0", "8 on 1"]),
        (IN_CONTAINER, (None, 1), ["0 on 0", "1 on 0", "8 on 1"]),
        (machine(2, 8, quota_cpus=11), (None, None), ["0-5 on 0", "8-12 on 1"]),
        (machine(2, 8, quota_cpus=0.5), (None, None, True), ["0,16 on 0"]),
        (ONE_SMALL_NODE, (None, None), ["0-7 on 0", "8-11 on 1"]),
        (ONE_SMALL_NODE, (None, 3), ["0-2 on 0", "3-5 on 0", "8-10 on 1"]),
        (ONE_SMALL_NODE, (None, 6), ["0-5 on 0"]),
        (HALF_OFF, (2, 2, True), ["0-1,4 on 0", "2-3,6 on 0"]),
    ],
)  # fmt: skip
def test_instances_are_spread_over_nodes_on_consecutive_cores(known, how, expected):
    assert laid_out(known, *how) == expected


def within_nodes(*how) -> bool:
    """Whether that fits, with no instance on several nodes."""
    try:
        return all(len(slot.nodes) == 1 for slot in layout(*how))
    except UserError:
        return False


@pytest.mark.parametrize("use_smt", [False, True])
@pytest.mark.parametrize("name", MACHINES)
def test_no_layout_shares_a_core_spans_nodes_unasked_or_exceeds_the_quota(name, use_smt):
    known = MACHINES[name]
    core_of = {cpu: core for core in known.cores for cpu in core.cpus}
    largest_node = max(Counter(core.node for core in known.cores).values())
    choices = (None, 1, 2, 3, 5, 7, 8, 14, 16, 17, 28, 56, 57, 112, 113, 300)
    for instances, size in product(choices, choices):
        try:
            slots = layout(known, instances, size, use_smt)
        except UserError as error:
            assert instances or size
            assert ONE_LINE.fullmatch(str(error))
            continue
        assert slots and len(slots) == (instances or len(slots))
        used = [{core_of[cpu] for cpu in slot.cpus} for slot in slots]
        assert sum(map(len, used)) == len(set().union(*used))
        if known.quota_cpus:
            cpus = sum(len(slot.cpus) for slot in slots)
            assert cpus <= known.quota_cpus or sum(map(len, used)) == 1
        for slot, cores in zip(slots, used):
            assert slot.cores == len(cores) == (size or slot.cores)
            assert slot.nodes == tuple(sorted({core.node for core in cores}))
            assert len(slot.nodes) == 1 or size > largest_node
            cpus = (core.cpus if use_smt else core.cpus[:1] for core in cores)
            assert slot.cpus == tuple(sorted(chain(*cpus)))
        if instances and not size:
            assert not within_nodes(known, instances, slots[0].cores + 1, use_smt)
        if size and not instances:
            with pytest.raises(UserError):
                layout(known, len(slots) + 1, size, use_smt)


@pytest.mark.parametrize("name", MACHINES)
def test_an_error_names_what_would_fit(name):
    known = MACHINES[name]
    for instances, size in product((None, 1, 3, 9, 17, 113), repeat=2):
        try:
            layout(known, instances, size)
        except UserError as error:
            found = ONE_LINE.fullmatch(str(error))
            if most := found["instances"]:
                layout(known, int(most), size)
                with pytest.raises(UserError):
                    layout(known, int(most) + 1, size)
            if most := found["cores"]:
                layout(known, instances, int(most))
            if not found["instances"] and not found["cores"]:
                for how in ((1, size), (instances, 1)):
                    with pytest.raises(UserError):
                        layout(known, *how)


@pytest.mark.parametrize(
    "known, how, message",
    [
        (
            Topology(TWO_CORES.cores, masked=True),
            (3, 1),
            "3 instances of 1 core do not fit: 2 cores may be used (affinity mask); "
            "give --instances 2 at most",
        ),
        (
            IN_CONTAINER,
            (2, 2),
            "2 instances of 2 cores do not fit: 3 cores may be used (CPU quota 3.5); "
            "give --instances 1 or --cores_per_instance 1 at most",
        ),
        (
            R760XA,
            (3, 30),
            "3 instances of 30 cores do not fit: 2 NUMA nodes have 56 cores each; "
            "give --instances 2 or --cores_per_instance 28 at most",
        ),
        (
            TWO_CORES,
            (None, 3),
            "an instance of 3 cores does not fit: 2 cores may be used; "
            "give --cores_per_instance 2 at most",
        ),
        (
            M6I,
            (17, None),
            "17 instances do not fit: 16 cores may be used; give --instances 16 at most",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_the_cause_and_what_does(known, how, message):
    with pytest.raises(UserError) as raised:
        layout(known, *how)
    assert str(raised.value) == message


HYBRID = summary(1, 12, 2, ["0-19"])  # 8 cores have two threads, 4 have one


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    "known, how, offline",
    [
        (R760XA, (2, 56, 2, ["0-55,112-167", "56-111,168-223"]), ""),
        (M7I, (2, 48, 2, ["0-47,96-143", "48-95,144-191"]), ""),
        (M6I, (1, 16, 2, ["0-31"]), ""),
        (TWO_CORES, (1, 2, 1, ["0,1"]), ""),
        (SUB_NUMA, (2, 56, 2, [f"{n}-{n + 13},{n + 112}-{n + 125}" for n in range(0, 99, 14)]), ""),
        (HALF_OFF, (1, 4, 2, ["0-4,6"]), "5,7"),
        (machine(2, 4, offline="3,9,11"), (2, 4, 2, ["0-2,8,10", "4-7,12-15"]), "3,9,11"),
        (machine(2, 8, offline="3,19"), (2, 8, 2, ["0-7,16-23", "8-15,24-31"]), "3,19"),
        (machine(1, 4, offline="4-7"), (1, 4, 1, ["0-3"]), "4-7"),  # SMT off
    ],
)  # fmt: skip
def test_lscpu_tells_the_same_summarized_and_listed(load, known, how, offline, nested):
    assert load(summary(*how, offline, nested)) == known
    assert load(table(known, offline, old=not nested)) == known


def test_sockets_numbered_in_turn_and_a_node_without_cpus_are_understood(load):
    even, odd = (",".join(map(str, range(first, 8, 2))) for first in (0, 1))
    known = load(summary(2, 2, 2, [even, odd, ""]))
    assert laid_out(known, None, None, True) == ["0,2,4,6 on 0", "1,3,5,7 on 1"]
    assert known.cores[0].cpus == (0, 4)


def test_cores_of_two_sockets_with_the_same_number_are_two(load):
    rows = table(machine(2, 2))["cpus"]
    for row in rows:
        row["core"] %= 2
    assert load({"cpus": rows}) == machine(2, 2)


@pytest.mark.parametrize(
    "name, expected",
    [
        ("R760xa", ["0-55 on 0", "56-111 on 1"]),
        ("XR4520c", ["0-15 on 0"]),
        ("g5.8xlarge", ["0-15 on 0"]),
        ("m6i.8xlarge", ["0-15 on 0"]),
        ("m7i.48xlarge", ["0-47 on 0", "48-95 on 1"]),
    ],
)
def test_each_system_under_test_has_a_layout(name, expected):
    known = topology.from_file(REPO / f"sut/{name}.toml")
    assert laid_out(known, None, None) == expected
    assert {len(core.cpus) for core in known.cores} == {2}
    if name == "R760xa":
        assert known == R760XA


ONE_ROW = {"cpu": 0, "core": 0, "socket": 0, "node": 0, "online": True}


@pytest.mark.parametrize(
    "content, why",
    [
        ("CPU(s):  4\n", "not JSON"),
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "share a core"),
        ("5", "share a core"),
        ({"blockdevices": []}, "share a core"),
        ({"lscpu": []}, "share a core"),
        ({"lscpu": [{"field": "Thread(s) per core:", "data": "-"}]}, "share a core"),
        ({"cpus": [{"cpu": 0, "online": True}]}, "share a core"),
        ({"cpus": [ONE_ROW | {"core": None}]}, "share a core"),
        ({"cpus": [ONE_ROW | {"cpu": 10**9}]}, "share a core"),
        ({"cpus": "all"}, "share a core"),
        (HYBRID, "share a core"),
        (summary(1, 4, 2, ["0-6"]), "share a core"),
        (summary(1, 2, 2, ["0-1"], offline="2-239"), "share a core"),  # none with both threads
        (summary(2, 2, 2, ["0-2", "4-7"], offline="3"), "share a core"),  # siblings on two nodes
    ],
)  # fmt: skip
def test_a_file_that_does_not_tell_siblings_is_refused_in_one_line(load, content, why):
    with pytest.raises(UserError, match=f"machine.json: .*{why}.*lscpu -J -e=") as raised:
        load(content)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_missing_or_a_folder_is_refused(tmp_path):
    for path in (tmp_path / "none.json", tmp_path / "none.toml", tmp_path):
        with pytest.raises(UserError, match="No such file|Is a directory"):
            topology.from_file(path)


def test_a_system_whose_counts_contradict_is_refused(tmp_path):
    text = (REPO / "sut/m6i.8xlarge.toml").read_text()
    path = tmp_path / "m6i.8xlarge.toml"
    path.write_text(text.replace("vcpus = 32", "vcpus = 30"))
    with pytest.raises(UserError, match="cpu.vcpus must be sockets"):
        topology.from_file(path)


@pytest.fixture
def sys_folder(tmp_path):
    """/sys of two NUMA nodes of two cores with SMT: CPUs 0, 1 and 4, 5; 2, 3 and 6, 7; 7 is off."""
    files = {
        "devices/system/cpu/online": "0-6",
        "devices/system/node/node0/cpulist": "0-1,4-5",
        "devices/system/node/node1/cpulist": "2-3,6",
        "devices/system/node/node2/cpulist": "",
        "devices/system/node/node0/meminfo": "Node 0 MemTotal:       15165656 kB",
        "devices/system/node/node1/meminfo": "Node 1 MemTotal:              0 kB",
        "devices/system/node/possible": "0-2",
    }
    for cpu in range(7):
        siblings = "3" if cpu == 3 else f"{cpu % 4},{cpu % 4 + 4}"
        files[f"devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"] = siblings
    write(tmp_path, files)
    return tmp_path


def write(root, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")


def test_sysfs_tells_cores_nodes_and_memory(sys_folder):
    cores = (Core((0, 4), 0), Core((1, 5), 0), Core((2, 6), 1), Core((3,), 1))
    read = topology.read(range(8), sys_folder)
    assert read == Topology(cores, None, frozenset({1}))
    assert laid_out(read, None, None) == ["0-1 on 0", "2-3 on 1"]


@pytest.mark.parametrize(
    "mask, expected, masked",
    [
        ({4, 5, 6, 7}, ["4-5 on 0", "6 on 1"], True),  # second threads; the online ones
        ({0, 1, 2, 3}, ["0-1 on 0", "2-3 on 1"], False),
        ({2}, ["2 on 1"], True),
    ],
)
def test_an_affinity_mask_leaves_out_cpus_and_cores(sys_folder, mask, expected, masked):
    read = topology.read(mask, sys_folder)
    assert laid_out(read, None, None) == expected
    assert read.masked == masked


@pytest.mark.parametrize("mask", [set(), {7}])
def test_a_mask_that_leaves_no_cpu_is_refused(sys_folder, mask):
    with pytest.raises(UserError, match="no CPU may be used"):
        layout(topology.read(mask, sys_folder), None, None)


@pytest.mark.parametrize(
    "files, quota",
    [
        ({"cpu.max": "350000 100000"}, 3.5),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "150000", "cpu/cpu.cfs_period_us": "100000"}, 1.5),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
    ],
)
def test_a_containers_quota_is_read_in_both_versions_of_cgroups(sys_folder, files, quota):
    write(sys_folder / "fs/cgroup", files)
    assert topology.read(range(8), sys_folder).quota_cpus == quota


def test_without_sysfs_each_cpu_of_the_mask_is_a_core(tmp_path):
    assert topology.read([1, 3], tmp_path) == Topology((Core((1,), 0), Core((3,), 0)))


def test_this_machine_is_laid_out_within_its_mask():
    mask = os.sched_getaffinity(0)
    read = topology.read()
    assert {cpu for core in read.cores for cpu in core.cpus} == mask
    assert len(read.cores) == system.physical_cores(mask)
    one = topology.read([min(mask)])
    assert [slot.cpus for slot in layout(one, None, None)] == [(min(mask),)]


def test_lscpu_of_this_machine_agrees_with_sysfs(load):
    listed = system.output("lscpu", "-J", "-e=CPU,CORE,SOCKET,NODE,ONLINE")
    if not listed:
        pytest.skip("no lscpu")
    online = parse_cpus(system.read(system.CPU / "online"))
    assert load(listed).cores == topology.read(online).cores


@pytest.mark.parametrize(
    "text, cpus",
    [("0-3,8", [0, 1, 2, 3, 8]), ("0", [0]), ("", []), ("0,2,4", [0, 2, 4]), ("2-3", [2, 3])],
)
def test_a_list_of_cpus_is_read_and_written_as_linux_does(text, cpus):
    assert parse_cpus(text) == cpus
    assert format_cpus(reversed(cpus)) == text


@pytest.mark.parametrize("text", ["a", "1-", "3-1", "-1", "1,,2", "0-99999", "0x3", "0-8192"])
def test_anything_else_is_no_list_of_cpus(text):
    with pytest.raises(ValueError, match="not a list of CPUs"):
        parse_cpus(text)


def test_a_command_is_quoted_for_the_shell():
    slot = Slot((0, 1, 2, 8), (0,), 4)
    words = ["python3", "infer.py", "--prompt", "what's up", "--device", "CPU"]
    text = topology.command(slot, words)
    bound = "OMP_NUM_THREADS=4 numactl --localalloc --physcpubind=0-2,8 python3 infer.py "
    assert text.startswith(bound)
    assert shlex.split(text)[-4:] == words[-4:]


def test_a_command_runs_on_its_cpus():
    if system.output("numactl", "--localalloc", "true") is None:
        pytest.skip("numactl is missing or refused")
    slot = layout(topology.read(), None, 1)[-1]
    code = "import os; print(os.environ['OMP_NUM_THREADS'], *os.sched_getaffinity(0))"
    text = topology.command(slot, [sys.executable, "-c", code])
    done = subprocess.run(text, shell=True, capture_output=True, text=True)
    assert done.stdout.split() == ["1", str(slot.cpus[0])], done.stderr


def test_a_layout_is_printed_as_a_table_and_commands():
    assert topology.lines(layout(M6I, 2, 8, True), ["python3", "infer.py"]) == [
        "instance  cores  CPUs        NUMA node",
        "1         8      0-7,16-23   0",
        "2         8      8-15,24-31  0",
        "",
        "OMP_NUM_THREADS=16 numactl --localalloc --physcpubind=0-7,16-23 python3 infer.py",
        "OMP_NUM_THREADS=16 numactl --localalloc --physcpubind=8-15,24-31 python3 infer.py",
    ]


@pytest.mark.parametrize(
    "own, limits, expected",
    [
        ("0::/\n", {"cpu.max": "350000 100000"}, 3.5),
        ("0::/kit/run\n", {"kit/cpu.max": "150000 100000", "kit/run/cpu.max": "max 100000"}, 1.5),
        ("3:memory:/m\n1:cpu,cpuacct:/kit\n", {"cpu/kit/cpu.cfs_quota_us": "50000",
                                               "cpu/kit/cpu.cfs_period_us": "100000"}, 0.5),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
    ],
)  # fmt: skip
def test_the_quota_is_the_least_of_this_processs_control_groups(tmp_path, own, limits, expected):
    (tmp_path / "own").write_text(own)
    for name, text in limits.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert system.cgroup_cpu_quota(tmp_path / "cgroup", tmp_path / "own") == expected
