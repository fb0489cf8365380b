"""Describe this machine as a system under test: python3 -m harness.capture

Writes sut/NAME.toml. Captured again, its facts are refreshed and what a person entered is kept.
Reads /sys and /proc and uses the tools that are installed; needs neither root nor network, but only
root can read the memory modules (with dmidecode or lshw). Serial numbers, UUIDs and addresses are
never among the facts.
"""

from __future__ import annotations

import argparse
import math
import platform
import re
import shlex
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable
from datetime import date, datetime
from importlib import metadata
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import psutil
import tomlkit

from harness import cli, files, sut_toml, system

ROOT = Path(__file__).resolve().parent.parent
SYS = Path("/sys")
ASCII, LATIN_1 = "\x7f", "\xff"  # their last characters; the PDF's fonts have Latin-1
Facts = dict[str, dict[str, Any]]  # tables of a TOML; a value not known is None

# What firmware reports where no value was entered.
PLACEHOLDERS = (
    "|none|unknown|undefined|default string|no dimm|n/a|not specified|not applicable|not available|"
    "system manufacturer|system product name|system version"
).split("|")
PACKAGES = {  # pip's name: a TOML's
    "openvino": "openvino",
    "torch": "pytorch",
    "transformers": "transformers",
    "ultralytics": "ultralytics",
    "ultralytics-opencv-headless": "ultralytics",
    "optimum-intel": "optimum_intel",
    "openai-whisper": "whisper",
}
PCI_SLOT = re.compile(r"[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
ADDRESS = re.compile(r"\d{1,3}([-.]\d{1,3}){3}|([0-9a-f]{2}[-:]?){6}|^localhost", re.IGNORECASE)

# The fact that identifies a table's part: where it differs, what was known of the old part goes.
PART = dict(cpu="name", memory="gb", gpu="name", board="model", bios="version", storage="gb")
HEADER = """\
# Captured by python3 -m harness.capture. You may add the following, which later captures keep:
# notes = [...] (above the first table), kind and comparable_to in [system], generation in [cpu],
# used_for in [gpu], [price] usd or usd_per_hour, usd_per_hour_spot, basis, source, date;
# [[price.reserved]] term_years, upfront_usd, usd_per_hour; [power] rated_w, idle_w, source.
"""


def facts() -> Facts:
    """What this machine reports about itself, by table of a system's TOML."""
    described = system.describe()
    lshw = _lshw()
    names = _pci_names(lshw)
    machine, gpu = described["machine"], _gpu(described["gpus"], names)
    vendor = _dmi("sys_vendor")
    brand = "AWS" if machine["cloud"] == "AWS EC2" else vendor
    return {
        "system": {"kind": _kind(machine, vendor, gpu["name"]), "vendor": brand},
        "cpu": _cpu(described["cpu"]),
        "memory": _memory(described["memory"], lshw),
        "gpu": gpu,
        "board": dict(
            vendor=_dmi("board_vendor"), model=_dmi("board_name"), version=_dmi("board_version")
        ),
        "bios": dict(vendor=_dmi("bios_vendor"), version=_dmi("bios_version"), date=_bios_date()),
        "storage": _storage(),
        "network": {"adapters": _adapters(names) or None},
        "os": _os(described["os"]),
        "software": _software(described),
    }


def default_name(captured: Facts) -> str:
    """A file name for this machine: its product (on EC2 the instance type), host name, or CPU."""
    host = platform.node()
    if ADDRESS.search(host):  # would be published; and a container's id changes every time
        host = ""
    for text in (_dmi("product_name"), host.partition(".")[0], captured["cpu"]["name"]):
        safe = re.sub(r"[^A-Za-z0-9._+-]+", "-", _transliterate(text or "", ASCII))
        if safe := safe[:40].strip("-._+"):
            return safe
    return "this-machine"


def toml(captured: Facts, name: str, today: date, old: str | None = None) -> tuple[str, list[str]]:
    """A system's TOML with these facts, and which entries of the `old` TOML it keeps.

    Everything that was not captured now is kept, and so are comments and order.
    """
    document = tomlkit.parse(HEADER if old is None else old)
    kept = [key for key in document if key not in captured]
    for title, values in captured.items():
        known = {key: value for key, value in values.items() if value is not None}
        table: Any = document.get(title)
        if title == "system":
            kind = {"kind": table["kind"]} if table else {}
            known = {"name": name, **known, **kind, "captured": today}
        if table is None:
            if not known:
                continue
            table = document[title] = tomlkit.table()
        part = PART.get(title)
        if part in known and part in table and not _is_same(known[part], table[part]):
            for key in values.keys() - known.keys():
                table.pop(key, None)
        for key, value in known.items():
            if table.get(key) != value:
                table[key] = _item(value)
        kept += [f"{title}.{key}" for key in table if key not in known]
    return tomlkit.dumps(document), kept


def unknown(captured: Facts) -> list[str]:
    """What this machine does not report, as "table.key"; whole tables by their name."""
    missing = []
    for title, values in captured.items():
        keys = [f"{title}.{key}" for key, value in values.items() if value is None]
        missing += [title] if len(keys) == len(values) else keys
    return missing


def _item(value: Any) -> Any:
    """A list of tables is written one table per line."""
    if not isinstance(value, list):
        return tomlkit.item(value)
    array = tomlkit.array().multiline(True)
    array.extend(value)
    return array


def _is_same(new: Any, old: Any) -> bool:
    """Whether it is the same part. Firmware and kernel report slightly different sizes."""
    if isinstance(new, (int, float)) and isinstance(old, (int, float)):
        return math.isclose(new, old, rel_tol=0.1)
    return new == old


def _transliterate(text: str, last: str = LATIN_1) -> str:
    """Text in the characters up to `last`; others become their closest match, or are left out."""

    def plain(character: str) -> str:
        if character > last:
            character = unicodedata.normalize("NFKD", character)
            character = character.encode("ascii", "ignore").decode()
        return character if character.isprintable() else " "

    return " ".join("".join(map(plain, text)).split())


def _known(text: str | None) -> str | None:
    """Text that the PDF can show; None where it says nothing."""
    text = _transliterate(text or "")
    lower = text.lower()
    if lower.rstrip(".") in PLACEHOLDERS or lower.startswith("to be filled"):
        return None
    return text if any(map(str.isalnum, text)) else None


def _dmi(field: str) -> str | None:
    return _known(system.read(system.DMI / field))


def _round(quantity: float) -> int | float:
    """To 1 decimal place under 100: 251, 23.5, 10."""
    rounded = round(quantity, 1 if quantity < 100 else 0)
    return int(rounded) if rounded == int(rounded) else rounded


def _distinct(texts: Iterable[str | None]) -> list[str]:
    return list(dict.fromkeys(text for text in texts if text))


def _counted(entries: Iterable[tuple[str, float | None]], quantity: str) -> list[dict[str, Any]]:
    """Devices as (model, quantity): one table per kind, without what is 1 or not known."""
    return [
        {**({"count": n} if n > 1 else {}), "model": model, **({quantity: value} if value else {})}
        for (model, value), n in Counter(entries).items()
    ]


def _kind(machine: dict, vendor: str | None, gpu: str | None) -> str:
    if machine["cloud"]:
        return machine["cloud"] + (" (GPU)" if gpu else "")
    product = " ".join(_distinct([vendor, _dmi("product_name")]))
    virtualization = _known(machine["virtualization"])
    return product or (f"virtualized ({virtualization})" if virtualization else "computer")


def _processor(model: str | None) -> tuple[str | None, float | None]:
    """The processor's name without what all names have, and the clock in GHz that some end in."""
    words, _, clock = re.sub(r"\((R|TM)\)", " ", model or "", flags=re.IGNORECASE).partition("@")
    words = re.sub(r"\s+(?:CPU|(?:\d+-Core )?Processor)\s*$", "", words)
    ghz = re.match(r"\s*(\d+\.\d+)\s*GHz", clock)
    return _known(words) or platform.machine() or None, float(ghz[1]) if ghz else None


def _cpu(cpu: dict) -> dict[str, Any]:
    name, ghz = _processor(cpu["model"])
    base_khz = system.read(SYS / "devices/system/cpu/cpu0/cpufreq/base_frequency") or ""
    stepping = cpu["family_model_stepping"].rpartition("/")[2]
    caches = {level.lower(): size.partition("(")[0] for level, size in cpu["caches"].items()}
    # Without lscpu, or where it does not report them: the kernel's own count.
    vcpus, cores = cpu["logical_cpus"], psutil.cpu_count(logical=False)
    sockets = cpu["sockets"] or len(_packages()) or None
    cores_per_socket = cores // sockets if cores and sockets else None
    threads_per_core = vcpus // cores if vcpus and cores else None
    return {
        "name": name,
        "base_ghz": ghz or (int(base_khz) / 1e6 if base_khz.isdigit() else None),
        "max_mhz": cpu["max_mhz"],
        "stepping": int(stepping) if stepping.isdigit() else None,
        "cores_per_socket": cpu["cores_per_socket"] or cores_per_socket or None,
        "sockets": sockets,
        "threads_per_core": cpu["threads_per_core"] or threads_per_core or None,
        "vcpus": vcpus,
        **{f"cache_{level}": _known(caches.get(level)) for level in ("l1d", "l1i", "l2", "l3")},
    }


def _packages() -> set[str | None]:
    paths = (SYS / "devices/system/cpu").glob("cpu[0-9]*/topology/physical_package_id")
    cpuinfo = system.read(Path("/proc/cpuinfo")) or ""
    ids = {system.read(path) for path in paths} - {None}
    return ids or set(re.findall(r"^physical id\s*:\s*(\d+)", cpuinfo, re.MULTILINE))


def _memory(memory: dict, lshw: list[ElementTree.Element]) -> dict[str, Any]:
    """The installed size, which is more than the kernel's MemTotal."""
    modules = memory["modules"] or _lshw_modules(lshw)
    kinds = [re.search(r"\b(?:LP)?DDR\d\w*|\bHBM\w*", module["type"]) for module in modules]
    speeds = [module["mt_per_s"] for module in modules if module["mt_per_s"]]
    gb = sum(module["gb"] for module in modules)
    return {
        "gb": _round(gb or (_online_memory_bytes() or memory["bytes"]) / 2**30),
        "type": " and ".join(_distinct(kind and kind[0] for kind in kinds)) or None,
        "mt_per_s": min(speeds, default=None),  # all channels run at the slowest module's
        "module": ", ".join(_distinct(_known(module["part"]) for module in modules)) or None,
        "modules": len(modules) or None,
    }


def _lshw_modules(lshw: list[ElementTree.Element]) -> list[dict[str, Any]]:
    modules = []
    for node in lshw:
        size, hertz = node.findtext("size", ""), node.findtext("clock", "")
        kind = node.findtext("description", "")
        is_bank = node.get("class") == "memory" and node.get("id", "").startswith("bank")
        if is_bank and size.isdigit() and "non-volatile" not in kind.lower():
            mt_per_s = round(int(hertz) / 1e6) if hertz.isdigit() else None
            module = {"gb": int(size) / 2**30, "type": kind, "mt_per_s": mt_per_s}
            modules.append({**module, "part": node.findtext("product")})
    return modules


def _online_memory_bytes() -> int | None:
    """Size of the blocks that the kernel divides the memory into."""
    folder = SYS / "devices/system/memory"
    try:
        block = int(system.read(folder / "block_size_bytes") or "", 16)
    except ValueError:
        return None
    states = map(system.read, folder.glob("memory[0-9]*/state"))
    return block * sum(state == "online" for state in states) or None


def _gpu(gpus: list[dict], names: dict[str, str | None]) -> dict[str, Any]:
    named = (names.get(gpu.get("pci_slot", "")) or _known(gpu["name"]) for gpu in gpus)
    kinds = Counter(zip(named, (gpu["memory_mib"] for gpu in gpus)))
    if len(kinds) != 1:
        each = " and ".join(f"{count} × {name}" for (name, _), count in kinds.items())
        return {"name": each or None, "count": None, "memory_gb": None}
    [((name, mib), count)] = kinds.items()
    return {"name": name, "count": count, "memory_gb": _round(mib / 1024) if mib else None}


def _bios_date() -> date | None:
    try:  # SMBIOS has the month first
        return datetime.strptime(_dmi("bios_date") or "", "%m/%d/%Y").date()
    except ValueError:
        return None


def _storage() -> dict[str, Any]:
    """Fixed disks, in their makers' GB of 10⁹ bytes."""
    disks = []
    for disk in sorted((SYS / "block").glob("*")):
        sectors = system.read(disk / "size") or ""
        flags = system.read(disk / "removable"), system.read(disk / "hidden")
        is_fixed = (disk / "device").exists() and "1" not in flags
        is_other = re.match(r"sr|fd|nbd|mmcblk\d+(?:boot|rpmb)", disk.name)
        if is_fixed and not is_other and sectors.isdigit() and int(sectors):
            model = _known(system.read(disk / "device" / "model"))
            disks.append((model, _round(int(sectors) * 512 / 1e9)))
    models = _counted(((model, gb) for model, gb in disks if model), "gb")
    return {"gb": _round(sum(gb for _, gb in disks)) or None, "disks": models or None}


def _adapters(names: dict[str, str | None]) -> list[dict[str, Any]]:
    """The ports of network adapters."""
    ports = []
    for port in sorted((SYS / "class/net").glob("*")):
        device = port / "device"
        if not device.exists() or (device / "physfn").exists():  # virtual, or a share of a port
            continue
        slots = PCI_SLOT.findall(str(device.resolve()))
        driver = device / "driver"
        model = names.get(slots[-1]) if slots else None
        model = model or (_known(driver.resolve().name) if driver.exists() else None)
        mbit = system.read(port / "speed") or ""  # -1 or an error where the link is down
        if model:
            ports.append((model, _round(int(mbit) / 1000) if mbit.isdigit() else None))
    return _counted(ports, "gbit_per_s")


def _pci_names(lshw: list[ElementTree.Element]) -> dict[str, str | None]:
    """What the device in each PCI slot is called: by lspci, else by lshw."""
    names = {}
    for node in lshw:
        bus, product = node.findtext("businfo", ""), node.findtext("product", "")
        if bus.startswith("pci@") and product:
            names[bus[4:]] = _device_name(node.findtext("vendor", ""), product)
    for line in (system.output("lspci", "-D", "-mm") or "").splitlines():
        quoted = re.findall(r'"([^"]*)"', line)
        slot, device = line.partition(" ")[0], quoted[2] if len(quoted) > 2 else ""
        if device and not re.fullmatch(r"Device [0-9a-f]{4}", device):
            slot = slot if slot.count(":") > 1 else f"0000:{slot}"
            names[slot] = _device_name(quoted[1], device)
    return names


def _device_name(vendor: str, product: str) -> str | None:
    """A device's name with its maker's, in short."""
    legal_form = r",? (?:Inc|Corp|Co\b|Ltd|Limited|LLC|Technologies|Semiconductor)"
    maker = re.split(legal_form, vendor)[0]
    return _known(product if product.startswith(maker) else f"{maker} {product}")


def _lshw() -> list[ElementTree.Element]:
    """lshw's memory and network nodes; as XML, because its JSON is not always JSON."""
    text = system.output("lshw", "-quiet", "-xml", "-class", "memory", "-class", "network")
    try:
        return list(ElementTree.fromstring(text).iter("node")) if text else []
    except ElementTree.ParseError:
        return []


def _os(described: dict) -> dict[str, Any]:
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    # VERSION has the point release, which VERSION_ID leaves out.
    version = re.match(r"\d[\d.]*", release.get("VERSION", ""))
    return {
        "name": _known(release.get("NAME") or described["name"]),
        "version": version[0] if version else _known(release.get("VERSION_ID")),
        "kernel": _known(described["kernel"]),
    }


def _software(described: dict) -> dict[str, str | None]:
    """Python, the packages that the workloads use from their environments, and the GPU's driver."""
    folders = [str(path) for path in sorted(ROOT.glob("*/.venv/lib/python*/site-packages"))]
    versions = _versions(folders) or _versions(sys.path)
    smi = system.output("nvidia-smi") or ""
    cuda = re.search(r"CUDA (?:UMD )?Version\s*:\s*(\d[\d.]*)", smi)
    return {
        "python": described["software"]["python"],
        **{product: versions.get(product) for product in PACKAGES.values()},
        "cuda": cuda[1] if cuda else None,
        "nvidia_driver": next(filter(None, (gpu["driver"] for gpu in described["gpus"])), None),
    }


def _versions(folders: list[str]) -> dict[str, str]:
    versions: dict[str, set[str]] = {}
    for package in metadata.distributions(path=folders):
        product = PACKAGES.get((package.metadata["Name"] or "").lower().replace("_", "-"))
        if product:
            versions.setdefault(product, set()).add(package.version)
    return {product: ", ".join(sorted(found)) for product, found in versions.items()}


def file_name(text: str) -> str:
    """For argparse."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", text):
        raise argparse.ArgumentTypeError(f"{text!r}: use letters, digits and . _ + -")
    return text


def write(folder: Path, name: str | None) -> Path:
    """Capture this machine into a TOML of the folder. Prints what is kept in it, and missing.

    Raises cli.UserError where it may not be written, or a TOML of the folder is wrong.
    """
    captured = facts()
    name = name or default_name(captured)
    path, old = folder / f"{name}.toml", None
    if path.exists():
        if "captured" not in sut_toml.read(path)["system"]:
            problem = "was made by hand (no system.captured) and is not overwritten"
            raise cli.UserError(f"{path} {problem}: choose another name (--name)")
        old = path.read_text(encoding="utf-8")
    text, kept = toml(captured, name, date.today(), old)
    missing = [fact for fact in unknown(captured) if fact not in kept]
    if needed := ", ".join(fact for fact in sut_toml.required() if fact in missing):
        raise cli.UserError(f"this machine does not report {needed}: write {path} by hand")
    sut_toml.read_all(folder, {path: text})
    try:
        files.write_whole(path, text.encode(), overwrite=True)
    except OSError as error:
        raise cli.UserError(f"cannot write {path}: {error.strerror} (--sut_dir, --name)") from None
    if kept:
        print(f"Kept: {', '.join(kept)}")
    # GPUs and packages that are not reported are not there.
    if missing := [fact for fact in missing if not fact.startswith(("gpu", "software."))]:
        root = " (root can read the memory modules)" if "memory.module" in missing else ""
        print(f"Not reported by this machine: {', '.join(missing)}{root}")
    return path


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python3 -m harness.capture", description=__doc__, formatter_class=cli.HelpFormatter
    )
    add, default = parser.add_argument, "EC2 instance type, else product name, else host name"
    add("--name", type=file_name, help=f"file name (default: {default})")
    add("--sut_dir", type=Path, default=sut_toml.FOLDER, help="folder with one TOML per system")
    args = parser.parse_args()
    path = write(args.sut_dir, args.name)
    command = [sys.executable, "-m", "analysis.sut"]
    if args.sut_dir != sut_toml.FOLDER:
        command += ["--sut_dir", str(args.sut_dir)]
    print(f"{path}: this machine. To build the PDF with it:\n  {shlex.join(command)}")
    return cli.EXIT_OK


if __name__ == "__main__":
    cli.run(main)
