"""This machine as a system under test: what sut/NAME.toml says of it.

Reads /sys and /proc, and asks those tools that are installed; needs neither root nor network. What the machine does not tell
is None. Serial numbers, UUIDs and addresses are never among the facts.
"""

from __future__ import annotations

import math
import platform
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import date, datetime
from importlib import metadata
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import psutil
import tomlkit

from harness import system

ROOT = Path(__file__).resolve().parent.parent
SYS = Path("/sys")

# What firmware holds where its maker entered nothing.
PLACEHOLDERS = ("", "none", "unknown", "default string", "not specified", "not applicable", "not available", "n/a", "undefined",
                "system manufacturer", "system product name", "system version", "no dimm")  # fmt: skip
PACKAGES = {  # as pip names them: as a TOML does
    "openvino": "openvino",
    "torch": "pytorch",
    "transformers": "transformers",
    "ultralytics": "ultralytics",
    "ultralytics-opencv-headless": "ultralytics",
    "optimum-intel": "optimum_intel",
    "openai-whisper": "whisper",
}
GPU_VENDORS = ("0x10de", "0x1002", "0x8086")  # of the others, display controllers only drive a server's console
PCI_SLOT = re.compile(r"[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")

# The fact that tells whether a table still speaks of the same part. Where it is another, what was known of the old one goes.
PART = {"cpu": "name", "memory": "gb", "gpu": "name", "board": "model", "bios": "version", "storage": "gb"}
HEADER = """\
# Captured by python3 -m harness.sut. What it cannot tell is yours to add, and is kept when it captures again:
# notes = [...] (above the first table), kind and comparable_to in [system], generation in [cpu], used_for in [gpu],
# [price] usd or usd_per_hour, usd_per_hour_reserved, usd_per_hour_spot, basis, source; [power] rated_w, source.
"""


def facts() -> dict[str, dict[str, Any]]:
    """The tables of a system's TOML, each with all it can tell; what this machine does not tell is None."""
    told = system.describe()
    tree = _lshw()
    names = {**_lshw_names(tree), **_lspci_names()}
    machine = told["machine"]
    gpu = _gpu(told["gpus"], names)
    return {
        "system": {"kind": _kind(machine, gpu["name"]), "vendor": _vendor(machine)},
        "cpu": _cpu(told["cpu"]),
        "memory": _memory(told["memory"], tree),
        "gpu": gpu,
        "board": {"vendor": _dmi("board_vendor"), "model": _dmi("board_name"), "version": _dmi("board_version")},
        "bios": {"vendor": _dmi("bios_vendor"), "version": _dmi("bios_version"), "date": _bios_date()},
        "storage": _storage(),
        "network": {"adapters": _adapters(names) or None},
        "os": _os(told["os"]),
        "software": _software(told),
    }


def name(captured: dict[str, dict[str, Any]]) -> str:
    """What to call this machine: its type in a cloud, its product's name, its host name; safe for a file's name."""
    host = platform.node()
    # One made of an IP or MAC address would publish it, and a container's number is another each time.
    if re.search(r"\d{1,3}([-.]\d{1,3}){3}|([0-9a-f]{2}[-:]?){6}|^localhost", host, re.IGNORECASE):
        host = ""
    for text in (_dmi("product_name"), host.partition(".")[0], captured["cpu"]["name"]):  # EC2's product is the instance type
        safe = re.sub(r"[^A-Za-z0-9._+-]+", "-", _spelt(text or "", "ascii"))[:40].strip("-._+")
        if safe:
            return safe
    return "this-machine"


def toml(captured: dict[str, dict[str, Any]], name: str, today: date, old: str | None = None) -> tuple[str, list[str]]:
    """A system's TOML with these facts, and which others it keeps of the `old` one: all that was not captured now.

    Comments and order of the old one are kept too.
    """
    document = tomlkit.parse(HEADER if old is None else old)
    kept = [key for key in document if key not in captured]
    for title, values in captured.items():
        known = {key: value for key, value in values.items() if value is not None}
        table = document.get(title)
        if title == "system":
            known = {"name": name, **known, **({"kind": table["kind"]} if table else {}), "captured": today}
        if table is None:
            if known:
                document.append(title, _table(known))
            continue
        part = PART.get(title)
        if part in known and part in table and not _same(known[part], table[part]):
            for key in values.keys() - known.keys():
                table.pop(key, None)
        for key, value in known.items():
            if key not in table:
                table.append(key, _item(value))
            elif table[key] != value:
                table[key] = _item(value)
        kept += [f"{title}.{key}" for key in table if key not in known]
    return tomlkit.dumps(document), kept


def unknown(captured: dict[str, dict[str, Any]]) -> list[str]:
    """What this machine does not tell, whole tables by their name."""
    missing = []
    for title, values in captured.items():
        keys = [key for key, value in values.items() if value is None]
        missing += [title] if len(keys) == len(values) else [f"{title}.{key}" for key in keys]
    return missing


def _table(values: dict[str, Any]) -> tomlkit.items.Table:
    table = tomlkit.table()
    for key, value in values.items():
        table.append(key, _item(value))
    return table


def _item(value: Any) -> tomlkit.items.Item:
    """A list of tables is written as in the TOMLs made by hand, a table a line."""
    if not isinstance(value, list):
        return tomlkit.item(value)
    array = tomlkit.array().multiline(True)
    for entry in value:
        inline = tomlkit.inline_table()
        inline.update(entry)
        array.append(inline)
    return array


def _same(new: Any, old: Any) -> bool:
    """Is it the same part? Sizes differ a little by who tells them, the firmware or the kernel."""
    numbers = isinstance(new, (int, float)) and isinstance(old, (int, float))
    return math.isclose(new, old, rel_tol=0.1) if numbers else new == old


def _spelt(text: str, encoding: str = "latin-1") -> str:
    """Text in the characters of an encoding, the others replaced by what they stand for, or left out."""

    def spelt(character: str) -> str:
        try:
            character.encode(encoding)
        except UnicodeEncodeError:
            return unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
        return character if character.isprintable() else " "

    return " ".join("".join(map(spelt, text)).split())


def _known(text: str | None) -> str | None:
    """Text as the PDF can show it; None where it says nothing."""
    text = _spelt(text or "")
    says = text.lower().rstrip(".") not in PLACEHOLDERS and not text.lower().startswith("to be filled")
    return text if says and any(map(str.isalnum, text)) else None


def _dmi(field: str) -> str | None:
    return _known(system.read(system.DMI / field))


def _round(quantity: float) -> int | float:
    """To a digit that says something: 251, 23.5, 10."""
    rounded = round(quantity, 1 if quantity < 100 else 0)
    return int(rounded) if rounded == int(rounded) else rounded


def _kind(machine: dict, gpu: str | None) -> str:
    if machine["cloud"]:
        return machine["cloud"] + (" (GPU)" if gpu else "")
    product = " ".join(filter(None, (_dmi("sys_vendor"), _dmi("product_name"))))
    virtualized = f"virtualized ({_known(machine['virtualization'])})" if _known(machine["virtualization"]) else None
    return product or virtualized or "computer"


def _vendor(machine: dict) -> str | None:
    return "AWS" if machine["cloud"] == "AWS EC2" else _dmi("sys_vendor")


def _processor(model: str | None) -> tuple[str | None, float | None]:
    """The processor's name without what every one of its maker's names has, and the clock in GHz that some of them end in."""
    words, _, clock = re.sub(r"\((?:R|TM)\)", " ", model or "", flags=re.IGNORECASE).partition("@")
    words = re.sub(r"\s+(?:CPU|(?:\d+-Core )?Processor)\s*$", "", words)
    ghz = re.match(r"\s*(\d+\.\d+)\s*GHz", clock)
    return _known(words) or platform.machine() or None, float(ghz[1]) if ghz else None


def _cpu(told: dict) -> dict[str, Any]:
    name, ghz = _processor(told["model"])
    base_khz = system.read(SYS / "devices/system/cpu/cpu0/cpufreq/base_frequency") or ""
    stepping = told["family_model_stepping"].rpartition("/")[2]
    caches = {key.lower(): _known(re.sub(r"\s*\(.*", "", size)) for key, size in told["caches"].items()}
    # lscpu is not everywhere, and on some machines does not tell sockets or cores: then the kernel's own count.
    vcpus, cores = told["logical_cpus"], psutil.cpu_count(logical=False)
    sockets = told["sockets"] or len(_packages()) or None
    return {
        "name": name,
        "base_ghz": ghz or (int(base_khz) / 1e6 if base_khz.isdigit() else None),
        "max_mhz": told["max_mhz"],
        "stepping": int(stepping) if stepping.isdigit() else None,
        "cores_per_socket": told["cores_per_socket"] or (cores // sockets if cores and sockets else None) or None,
        "sockets": sockets,
        "threads_per_core": told["threads_per_core"] or (vcpus // cores if vcpus and cores else None) or None,
        "vcpus": vcpus,
        **{f"cache_{level}": caches.get(level) for level in ("l1d", "l1i", "l2", "l3")},
    }


def _packages() -> set[str]:
    paths = (SYS / "devices/system/cpu").glob("cpu[0-9]*/topology/physical_package_id")
    ids = {system.read(path) for path in paths} - {None}
    return ids or set(re.findall(r"^physical id\s*:\s*(\d+)", system.read(Path("/proc/cpuinfo")) or "", re.MULTILINE))


def _memory(told: dict, tree: list[ElementTree.Element]) -> dict[str, Any]:
    """The size as installed, which is more than what the kernel has left to give."""
    modules = list(_dmidecode_modules()) or list(_lshw_modules(tree))
    speeds = [module["mt_per_s"] for module in modules if module["mt_per_s"]]
    return {
        "gb": _round(sum(module["gb"] for module in modules) or (_online_memory() or told["bytes"]) / 2**30),
        "type": " and ".join(_distinct(module["type"] for module in modules)) or None,
        "mt_per_s": min(speeds, default=None),  # all channels run at the slowest module's
        "module": ", ".join(_distinct(module["part"] for module in modules)) or None,
        "modules": len(modules) or None,
    }


def _distinct(texts: Iterable[str | None]) -> list[str]:
    return list(dict.fromkeys(text for text in texts if text))


def _dmidecode_modules() -> Iterator[dict[str, Any]]:
    """The memory modules as the firmware lists them; only root may read that."""
    for block in (system.output("dmidecode", "-t", "memory") or "").replace("\r", "").split("\n\n"):
        fields = dict(re.findall(r"^\t([^\t:]+): *(.*?) *$", block, re.MULTILINE))
        size = re.fullmatch(r"(\d+) ([kMGT])B", fields.get("Size", ""))
        if "\nMemory Device\n" not in block or not size or "non-volatile" in fields.get("Type", "").lower():
            continue
        speeds = (fields.get(f"{kind}Speed", "") for kind in ("Configured Memory ", "Configured Clock ", ""))
        yield {
            "gb": int(size[1]) * 1024.0 ** ("kMGT".index(size[2]) - 2),
            "type": _memory_type(fields.get("Type", "")),
            "mt_per_s": next((int(speed.split()[0]) for speed in speeds if re.match(r"[1-9]\d* M", speed)), None),
            "part": _known(fields.get("Part Number")),
        }


def _lshw_modules(tree: list[ElementTree.Element]) -> Iterator[dict[str, Any]]:
    for node in tree:
        size, hertz = node.findtext("size", ""), node.findtext("clock", "")
        if node.get("class") == "memory" and node.get("id", "").startswith("bank") and size.isdigit():
            description = node.findtext("description", "")
            if "non-volatile" in description.lower():
                continue
            yield {
                "gb": int(size) / 2**30,
                "type": _memory_type(description),
                "mt_per_s": round(int(hertz) / 1e6) if hertz.isdigit() else None,
                "part": _known(node.findtext("product")),
            }


def _memory_type(text: str) -> str | None:
    found = re.search(r"\b(?:LP)?DDR\d\w*|\bHBM\w*", text)
    return found[0] if found else None


def _online_memory() -> int | None:
    """Bytes of the blocks that the kernel divides the memory into."""
    folder = SYS / "devices/system/memory"
    try:
        block = int(system.read(folder / "block_size_bytes") or "", 16)
    except ValueError:
        return None
    return block * sum(system.read(path) == "online" for path in folder.glob("memory[0-9]*/state")) or None


def _gpu(told: list[dict], names: dict[str, str]) -> dict[str, Any]:
    gpus = [(_known(gpu["name"]), gpu["memory_mib"]) for gpu in told if gpu["driver"]]
    if not gpus:  # no driver that tells of itself: only what is plugged in
        for device in sorted((SYS / "bus/pci/devices").glob("*")):
            vendor = system.read(device / "vendor")
            if (system.read(device / "class") or "").startswith("0x03") and vendor in GPU_VENDORS:
                gpus.append((names.get(device.name) or f"PCI {vendor}:{system.read(device / 'device')}", None))
    kinds = Counter(gpus)
    if not kinds:
        return {"name": None, "count": None, "memory_gb": None}
    if len(kinds) > 1:
        each = (f"{count} × {name}" for (name, _), count in kinds.items())
        return {"name": " and ".join(each), "count": None, "memory_gb": None}
    [((name, mib), count)] = kinds.items()
    return {"name": name, "count": count, "memory_gb": _round(mib / 1024) if mib else None}


def _bios_date() -> date | None:
    try:
        return datetime.strptime(_dmi("bios_date") or "", "%m/%d/%Y").date()  # SMBIOS: the month comes first
    except ValueError:
        return None


def _storage() -> dict[str, Any]:
    """Fixed disks. Their makers' GB are of 10⁹ bytes."""
    disks = []
    for disk in sorted((SYS / "block").glob("*")):
        size = system.read(disk / "size") or ""
        virtual = not (disk / "device").exists() or re.match(r"sr|fd|nbd|mmcblk\d+(?:boot|rpmb)", disk.name)
        if virtual or "1" in (system.read(disk / "removable"), system.read(disk / "hidden")) or not size.isdigit():
            continue
        if int(size):
            disks.append((_known(system.read(disk / "device" / "model")), _round(int(size) * 512 / 1e9)))
    models = [
        {**({"count": count} if count > 1 else {}), "model": model, "gb": gb}
        for (model, gb), count in Counter(disks).items()
        if model
    ]
    return {"gb": _round(sum(gb for _, gb in disks)) or None, "disks": models or None}


def _adapters(names: dict[str, str]) -> list[dict[str, Any]]:
    """The ports of network adapters, as many as are alike in one entry."""
    ports = []
    for port in sorted((SYS / "class/net").glob("*")):
        device = port / "device"
        if not device.exists() or (device / "physfn").exists():  # not hardware, or a share of a port that is listed itself
            continue
        slots = PCI_SLOT.findall(str(device.resolve()))
        driver = _known((device / "driver").resolve().name) if (device / "driver").exists() else None
        model = names.get(slots[-1]) if slots else None
        speed = system.read(port / "speed") or ""  # -1 or an error where the link is down
        if model or driver:
            ports.append((model or driver, _round(int(speed) / 1000) if speed.isdigit() and speed != "0" else None))
    return [
        {**({"count": count} if count > 1 else {}), "model": model, **({"gbit_per_s": gbit} if gbit else {})}
        for (model, gbit), count in Counter(ports).items()
    ]


def _lspci_names() -> dict[str, str]:
    """What the device in each PCI slot is called."""
    names = {}
    for line in (system.output("lspci", "-D", "-mm") or "").splitlines():
        quoted = re.findall(r'"([^"]*)"', line)
        slot, device = line.partition(" ")[0], quoted[2] if len(quoted) > 2 else ""
        if device and not re.fullmatch(r"Device [0-9a-f]{4}", device):
            names[slot if slot.count(":") > 1 else f"0000:{slot}"] = _device(quoted[1], device)
    return {slot: name for slot, name in names.items() if name}


def _lshw_names(tree: list[ElementTree.Element]) -> dict[str, str]:
    nodes = ((node.findtext("businfo", ""), node.findtext("vendor", ""), node.findtext("product", "")) for node in tree)
    names = {bus[4:]: _device(vendor, product) for bus, vendor, product in nodes if bus.startswith("pci@") and product}
    return {slot: name for slot, name in names.items() if name}


def _device(vendor: str, product: str) -> str | None:
    """A device's name with its maker's, in short."""
    maker = re.split(r",? (?:Inc|Corp|Co\b|Ltd|Limited|LLC|Technologies|Semiconductor)", vendor)[0]
    return _known(product if product.startswith(maker) else f"{maker} {product}")


def _lshw() -> list[ElementTree.Element]:
    """Memory and network as lshw tells them; as XML, because its JSON is not always JSON."""
    text = system.output("lshw", "-quiet", "-xml", "-class", "memory", "-class", "network")
    try:
        return list(ElementTree.fromstring(text).iter("node")) if text else []
    except ElementTree.ParseError:
        return []


def _os(told: dict) -> dict[str, Any]:
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    version = re.match(r"\d[\d.]*", release.get("VERSION", ""))  # with the point release, which VERSION_ID leaves out
    return {
        "name": _known(release.get("NAME") or told["name"]),
        "version": version[0] if version else _known(release.get("VERSION_ID")),
        "kernel": _known(told["kernel"]),
    }


def _software(told: dict) -> dict[str, str | None]:
    """Python, what the workloads run on in their environments, and the GPU's driver."""
    folders = [str(path) for path in sorted(ROOT.glob("*/.venv/lib/python*/site-packages"))]
    found = _versions(folders) or _versions(sys.path)
    cuda = re.search(r"CUDA (?:UMD )?Version\s*:\s*(\d[\d.]*)", system.output("nvidia-smi") or "")
    return {
        "python": told["software"]["python"],
        **{product: found.get(product) for product in dict.fromkeys(PACKAGES.values())},
        "cuda": cuda[1] if cuda else None,
        "nvidia_driver": next((gpu["driver"] for gpu in told["gpus"] if gpu["driver"]), None),
    }


def _versions(folders: list[str]) -> dict[str, str]:
    versions: dict[str, list[str]] = {}
    for package in metadata.distributions(path=folders):
        product = PACKAGES.get((package.metadata["Name"] or "").lower().replace("_", "-"))
        if product:
            versions.setdefault(product, []).append(package.version)
    return {product: ", ".join(sorted(set(found))) for product, found in versions.items()}
