"""The system under test (SUT): what it takes to interpret, repeat or compare a measurement.

Reads /proc and /sys, and lscpu, dmidecode and nvidia-smi where they are installed; needs neither
root nor network. What the machine does not report is None.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path

import psutil

DMI = Path("/sys/class/dmi/id")
CPU = Path("/sys/devices/system/cpu")
CGROUP = Path("/sys/fs/cgroup")
PCI = Path("/sys/bus/pci/devices")
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
GPU_VENDORS = ("0x10de", "0x1002", "0x8086")  # others' display controllers drive a server's console
CLOUDS = {  # by vendor and product
    ("Google", "Google Compute Engine"): "Google Compute Engine",
    ("Microsoft Corporation", "Virtual Machine"): "Microsoft Azure or Hyper-V",
}
ISA_FLAGS = "avx2 avx_vnni avx512f avx512_vnni avx512_bf16 avx512_fp16 amx_bf16 amx_int8 amx_fp16"


def describe() -> dict:
    """The machine, its operating system and this Python environment, for a record."""
    lscpu = _lscpu()
    return {
        "hostname": platform.node(),
        "machine": _machine(lscpu),
        "cpu": _cpu(lscpu),
        "memory": _memory(),
        "gpus": _gpus(),
        "os": _os(),
        "software": _software(),
    }


def one_line(system: dict) -> str:
    """The machine in one line, for tables and the terminal."""
    machine, cpu = system["machine"], system["cpu"]
    cores = f"{cpu['sockets'] or '?'} × {cpu['cores_per_socket'] or '?'} cores"
    parts = (
        machine["instance_type"] or machine["product"],
        cpu["model"],
        f"{cores}, {cpu['logical_cpus']} CPUs",
        f"{system['memory']['bytes'] / 2**30:.0f} GiB",
        machine["virtualization"],
    )
    return ", ".join(part for part in parts if part)


def context(system: dict, packages: Sequence[str] = ()) -> dict[str, str | None]:
    """A record's context entries that every workload has, and the versions of these packages."""
    cpu, software = system["cpu"], system["software"]
    turbo = cpu.get("turbo")
    return {
        "machine": one_line(system),
        "GPUs": ", ".join(gpu["name"] for gpu in system["gpus"]) or None,
        "governor": cpu.get("governor"),
        "turbo": None if turbo is None else "on" if turbo else "off",
        "kernel": system["os"]["kernel"],
        "operating system": system["os"]["name"],
        "Python": software["python"],
        **{package: software["packages"].get(package) for package in packages},
    }


def thread_siblings(cpu: int, root: Path = CPU) -> str:
    """The logical CPUs of this one's physical core, e.g. "0,32"; itself alone where not known."""
    return read(root / f"cpu{cpu}/topology/thread_siblings_list") or str(cpu)


def physical_cores(cpus: Iterable[int], root: Path = CPU) -> int:
    """How many physical cores these logical CPUs belong to."""
    return len({thread_siblings(cpu, root) for cpu in cpus})


def one_cpu_per_core(cpus: Iterable[int], root: Path = CPU) -> list[int]:
    """These CPUs, first one of each physical core, then the others: OpenVINO's order too."""
    first: dict[str, int] = {}
    others = []
    for cpu in cpus:
        if first.setdefault(thread_siblings(cpu, root), cpu) != cpu:
            others.append(cpu)
    return [*first.values(), *others]


def read(path: Path) -> str | None:
    """A file's text, or None where it is missing, refused or empty."""
    try:
        return path.read_text(errors="replace").strip() or None
    except OSError:
        return None


def output(*command: str) -> str | None:
    """A command's standard output, or None where it is missing, refused or slow."""
    env = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(command, env=env, capture_output=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace")


def _software() -> dict:
    versions = {dist.metadata["Name"]: dist.version for dist in metadata.distributions()}
    names = sorted(filter(None, versions), key=str.lower)
    packages = {name: versions[name] for name in names}
    return {"python": platform.python_version(), "packages": packages}


def _machine(lscpu: dict[str, str]) -> dict:
    vendor, product = read(DMI / "sys_vendor"), read(DMI / "product_name")
    is_ec2 = vendor == "Amazon EC2"
    return {
        "vendor": vendor,
        "product": product,
        "bios": _dmi("bios", "vendor", "version", "date"),
        "board": _dmi("board", "vendor", "name", "version"),
        "cloud": "AWS EC2" if is_ec2 else CLOUDS.get((vendor or "", product or "")),
        "instance_type": product if is_ec2 else None,  # Nitro's product name is the type
        "virtualization": (output("systemd-detect-virt") or "").strip()
        or lscpu.get("Hypervisor vendor"),
    }


def _dmi(part: str, *fields: str) -> str | None:
    return " ".join(filter(None, (read(DMI / f"{part}_{field}") for field in fields))) or None


def lscpu_fields(entries: Iterable[dict]) -> dict[str, str]:
    """The fields of `lscpu --json` by name, nested ones too."""
    fields: dict = {}
    for entry in entries:
        fields[entry["field"].rstrip(":")] = entry.get("data")
        fields |= lscpu_fields(entry.get("children", []))
    return fields


def _lscpu() -> dict[str, str]:
    text = output("lscpu", "--json")
    return lscpu_fields(json.loads(text)["lscpu"]) if text else {}


def _cpu(lscpu: dict[str, str]) -> dict:
    cpuinfo = read(Path("/proc/cpuinfo")) or ""

    def number(name: str) -> int | None:
        value = lscpu.get(name) or ""
        return int(value) if value.isdigit() else None

    def first(name: str) -> str | None:
        found = re.search(rf"^{name}\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
        return found.group(1) if found else None

    flags = (lscpu.get("Flags") or first("flags") or "").split()
    family = (str(lscpu.get(field, "?")) for field in ("CPU family", "Model", "Stepping"))
    numa_nodes = {name: cpus for name, cpus in lscpu.items() if re.match(r"NUMA node\d+ ", name)}
    frequency = psutil.cpu_freq()
    return {
        "model": lscpu.get("Model name") or first("model name") or platform.processor() or None,
        "vendor": lscpu.get("Vendor ID"),
        "architecture": platform.machine(),
        "family_model_stepping": "/".join(family),
        "microcode": first("microcode"),
        "sockets": number("Socket(s)"),
        "cores_per_socket": number("Core(s) per socket"),
        "threads_per_core": number("Thread(s) per core"),
        "logical_cpus": os.cpu_count(),
        "numa_nodes": {name.split()[1][4:]: cpus for name, cpus in numa_nodes.items()},
        "caches": {name[:-6]: size for name, size in lscpu.items() if name.endswith(" cache")},
        "isa": [flag for flag in ISA_FLAGS.split() if flag in flags],
        "max_mhz": round(frequency.max) if frequency and frequency.max else None,
        "governor": read(CPU / "cpu0/cpufreq/scaling_governor"),
        "turbo": _turbo(),
        "smt": read(CPU / "smt/control"),
        "cgroup_cpu_quota": cgroup_cpu_quota(),
    }


def _turbo() -> bool | None:
    no_turbo, boost = read(CPU / "intel_pstate/no_turbo"), read(CPU / "cpufreq/boost")
    if no_turbo is not None:
        return no_turbo == "0"
    return boost == "1" if boost is not None else None


def cgroups(
    controller: str, root: Path = CGROUP, own: Path = Path("/proc/self/cgroup")
) -> set[Path]:
    """The folders of this process's control groups, in either version of cgroups.

    A container sees its own group at the root; systemd's CPUQuota and the like are below it.
    """
    folders = {root, root / controller}
    for line in (read(own) or "").splitlines():
        _, controllers, path = (line.split(":", 2) + ["", ""])[:3]
        if not controllers or controller in controllers.split(","):
            group = root / (controller if controllers else "") / path.lstrip("/")
            folders |= {each for each in (group, *group.parents) if each.is_relative_to(root)}
    return folders


def cgroup_cpu_quota(root: Path = CGROUP, own: Path = Path("/proc/self/cgroup")) -> float | None:
    """CPUs' worth of time that this process's control groups may use; None where not limited."""
    quotas = []
    for folder in cgroups("cpu", root, own):
        version_1 = (read(folder / f"cpu.cfs_{name}_us") or "" for name in ("quota", "period"))
        quota, _, period = (read(folder / "cpu.max") or " ".join(version_1)).partition(" ")
        if quota.isdigit() and period.isdigit():
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def _memory() -> dict:
    huge_pages = re.search(r"\[(\w+)\]", read(HUGE_PAGES) or "")
    return {
        "bytes": psutil.virtual_memory().total,
        "modules": _memory_modules() or None,
        "swap_bytes": psutil.swap_memory().total,
        "transparent_hugepages": huge_pages[1] if huge_pages else None,
        # e.g. glibc.malloc.hugetlb=1: weights in huge pages
        "glibc_tunables": os.environ.get("GLIBC_TUNABLES", "none"),
    }


def _memory_modules() -> list[dict]:
    """The memory modules as the firmware lists them; only root may read that."""
    text = (output("dmidecode", "-t", "memory") or "").replace("\r", "")
    modules = []
    for block in text.split("\n\n"):
        fields = dict(re.findall(r"^\t([^\t:]+): *(.*?) *$", block, re.MULTILINE))
        size = re.fullmatch(r"(\d+) ([kMGT])B", fields.get("Size", ""))
        kind = fields.get("Type", "")
        if "\nMemory Device\n" not in block or not size or "non-volatile" in kind.lower():
            continue
        names = ("Configured Memory Speed", "Configured Clock Speed", "Speed")  # the true one first
        speed = re.search(r"\b([1-9]\d*) M", "; ".join(fields.get(name, "") for name in names))
        gb = int(size[1]) * 1024.0 ** ("kMGT".index(size[2]) - 2)
        module = {"gb": gb, "type": kind, "mt_per_s": int(speed[1]) if speed else None}
        modules.append({**module, "part": fields.get("Part Number")})
    return modules


def _gpus() -> list[dict]:
    """GPUs by NVIDIA's driver; without it those in PCI slots, named by vendor and device number."""
    query = "--query-gpu=name,memory.total,driver_version"
    text = output("nvidia-smi", query, "--format=csv,noheader,nounits") or ""
    rows = [line.split(", ") for line in text.splitlines() if line.count(", ") == 2]
    if rows:
        sizes = [int(mib) if mib.isdigit() else None for _, mib, _ in rows]
        return [dict(name=r[0], memory_mib=mib, driver=r[2]) for r, mib in zip(rows, sizes)]
    gpus = []
    for slot in sorted(PCI.glob("*")):
        vendor, kind = read(slot / "vendor"), read(slot / "class") or ""
        if kind.startswith("0x03") and vendor in GPU_VENDORS:
            name = f"PCI {vendor}:{read(slot / 'device')}"
            gpus.append(dict(name=name, memory_mib=None, driver=None, pci_slot=slot.name))
    return gpus


def _os() -> dict:
    try:
        name = platform.freedesktop_os_release().get("PRETTY_NAME")
    except OSError:
        name = platform.system()
    return {"name": name, "kernel": platform.release(), "isolated_cpus": read(CPU / "isolated")}
