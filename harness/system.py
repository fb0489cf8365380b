"""Describe the system under test (SUT): what a reader needs to judge, repeat or compare a measurement.

Reads /proc, /sys and lscpu; needs neither root nor network. What the machine does not tell is None.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path

import psutil

DMI = Path("/sys/class/dmi/id")
CPU = Path("/sys/devices/system/cpu")


def describe() -> dict:
    """The machine, its operating system and this Python environment, as it goes into a record."""
    return {
        "hostname": platform.node(),
        "machine": _machine(),
        "cpu": _cpu(),
        "memory": _memory(),
        "gpus": _gpus(),
        "os": _os(),
        "software": software(),
    }


def software() -> dict:
    """Python's version and that of every package installed beside it."""
    packages = {dist.metadata["Name"]: dist.version for dist in metadata.distributions() if dist.metadata["Name"]}
    return {"python": platform.python_version(), "packages": dict(sorted(packages.items(), key=lambda kv: kv[0].lower()))}


def one_line(system: dict) -> str:
    """The machine in a line, for tables and for the terminal."""
    cpu, memory = system["cpu"], system["memory"]
    name = system["machine"]["instance_type"] or system["machine"]["product"]
    cores = f"{cpu['sockets'] or '?'} × {cpu['cores_per_socket'] or '?'} cores, {cpu['logical_cpus']} CPUs"
    parts = [name, cpu["model"], cores, f"{memory['bytes'] / 2**30:.0f} GiB", system["machine"]["virtualization"]]
    return ", ".join(part for part in parts if part)


def context(system: dict, packages: Sequence[str] = ()) -> dict[str, str | None]:
    """What a reader of any run should know of its machine; `packages`: whose versions matter."""
    cpu, software = system["cpu"], system["software"]
    turbo = cpu.get("turbo")
    return {
        "machine": one_line(system),
        "GPUs": ", ".join(card["name"] for card in system["gpus"]) or None,
        "governor": cpu.get("governor"),
        "turbo": None if turbo is None else "on" if turbo else "off",
        "kernel": system["os"]["kernel"],
        "operating system": system["os"]["name"],
        "Python": software["python"],
        **{package: software["packages"].get(package) for package in packages},
    }


def read(path: Path) -> str | None:
    """A file's text, or None where it is missing, refused or empty."""
    try:
        return path.read_text(errors="replace").strip() or None
    except OSError:
        return None


def output(*command: str) -> str | None:
    """A command's standard output, or None where it is missing, refused or slow."""
    if not shutil.which(command[0]):
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=10,
                              env={**os.environ, "LC_ALL": "C"})  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


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


def _machine() -> dict:
    vendor, product = read(DMI / "sys_vendor"), read(DMI / "product_name")
    bios = [read(DMI / f"bios_{part}") for part in ("vendor", "version", "date")]
    board = [read(DMI / f"board_{part}") for part in ("vendor", "name", "version")]
    cloud, instance_type = None, None
    if vendor == "Amazon EC2":  # Nitro instances carry their type as the product's name
        cloud, instance_type = "AWS EC2", product
    elif vendor == "Google" and product == "Google Compute Engine":
        cloud = "Google Compute Engine"
    elif vendor == "Microsoft Corporation" and product == "Virtual Machine":
        cloud = "Microsoft Azure or Hyper-V"
    return {
        "vendor": vendor,
        "product": product,
        "bios": " ".join(filter(None, bios)) or None,
        "board": " ".join(filter(None, board)) or None,
        "cloud": cloud,
        "instance_type": instance_type,
        "virtualization": (output("systemd-detect-virt") or "").strip() or _lscpu().get("Hypervisor vendor"),
    }


def _lscpu() -> dict[str, str]:
    """lscpu's fields by name, nested ones too."""

    def fields(entries):
        for entry in entries:
            yield entry["field"].rstrip(":"), entry.get("data")
            yield from fields(entry.get("children", []))

    text = output("lscpu", "--json")
    return dict(fields(json.loads(text)["lscpu"])) if text else {}


def _cpu() -> dict:
    listed, cpuinfo = _lscpu(), read(Path("/proc/cpuinfo")) or ""

    def number(name: str) -> int | None:
        value = listed.get(name) or ""
        return int(value) if value.isdigit() else None

    def first(name: str) -> str | None:
        found = re.search(rf"^{name}\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
        return found.group(1) if found else None

    flags = (listed.get("Flags") or first("flags") or "").split()
    telling = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8", "amx_fp16")
    frequency = psutil.cpu_freq()
    return {
        "model": listed.get("Model name") or first("model name") or platform.processor() or None,
        "vendor": listed.get("Vendor ID"),
        "architecture": platform.machine(),
        "family_model_stepping": "/".join(str(listed.get(k, "?")) for k in ("CPU family", "Model", "Stepping")),
        "microcode": first("microcode"),
        "sockets": number("Socket(s)"),
        "cores_per_socket": number("Core(s) per socket"),
        "threads_per_core": number("Thread(s) per core"),
        "logical_cpus": os.cpu_count(),
        "numa_nodes": {k[9:-7]: v for k, v in listed.items() if re.fullmatch(r"NUMA node\d+ CPU\(s\)", k)},
        "caches": {k[:-6]: v for k, v in listed.items() if k.endswith(" cache")},
        "isa": [flag for flag in telling if flag in flags],
        "max_mhz": round(frequency.max) if frequency and frequency.max else None,
        "governor": read(CPU / "cpu0/cpufreq/scaling_governor"),
        "turbo": _turbo(),
        "smt": read(CPU / "smt/control"),
        "cgroup_cpu_quota": _cgroup_cpu_quota(),
    }


def _turbo() -> bool | None:
    no_turbo, boost = read(CPU / "intel_pstate/no_turbo"), read(CPU / "cpufreq/boost")
    if no_turbo is not None:
        return no_turbo == "0"
    return boost == "1" if boost is not None else None


def _cgroup_cpu_quota() -> float | None:
    """CPUs' worth of time that a container may use; None where it is not limited."""
    quota, _, period = (read(Path("/sys/fs/cgroup/cpu.max")) or "max").partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def _memory() -> dict:
    """Size, and where dmidecode may be run (root): modules and their speed."""
    modules = re.findall(
        r"^\tSize: (\d+ [GM]B)$.*?^\tType: (\S+)$.*?^\t(?:Configured Memory|Configured Clock) Speed: (.+?)$",
        (output("dmidecode", "-t", "memory") or "").replace("\r", ""),
        re.MULTILINE | re.DOTALL,
    )
    return {
        "bytes": psutil.virtual_memory().total,
        "modules": [" ".join(module) for module in modules] or None,
        "swap_bytes": psutil.swap_memory().total,
        "transparent_hugepages": (
            re.findall(r"\[(\w+)\]", read(Path("/sys/kernel/mm/transparent_hugepage/enabled")) or "") or [None]
        )[0],
        "glibc_tunables": os.environ.get("GLIBC_TUNABLES", "none"),  # e.g. glibc.malloc.hugetlb=1: weights in huge pages
    }


def _gpus() -> list[dict]:
    text = output("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits")
    rows = [line.split(", ") for line in (text or "").splitlines() if line.count(", ") == 2]
    gpus = [{"name": name, "memory_mib": int(mib) if mib.isdigit() else None, "driver": driver} for name, mib, driver in rows]
    if gpus:
        return gpus
    # PCI class 0x03 is a display controller; vendor:device names it for whoever needs more.
    classes = Path("/sys/bus/pci/devices").glob("*/class")
    devices = [path.parent for path in classes if (read(path) or "").startswith("0x03")]
    return [{"name": f"PCI {read(d / 'vendor')}:{read(d / 'device')}", "memory_mib": None, "driver": None} for d in devices]


def _os() -> dict:
    try:
        name = platform.freedesktop_os_release().get("PRETTY_NAME")
    except OSError:
        name = platform.system()
    return {"name": name, "kernel": platform.release(), "isolated_cpus": read(CPU / "isolated")}
