"""Capturing this machine: what a TOML says of it, and that nothing a person entered is lost."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

import psutil
import pytest
from conftest import REPO, assert_one_line
from sut_pages import assert_all_on_its_page, pages, tomllib

from harness import capture, system

# harness.capture with another folder in the place of /sys, for the machines that this one is not
ELSEWHERE = """
import sys
from pathlib import Path
from harness import capture, cli, system
capture.SYS = Path(sys.argv.pop(1))
system.DMI = capture.SYS / "class/dmi/id"
system.PCI = capture.SYS / "bus/pci/devices"
cli.run(capture.main)
"""

DMIDECODE = """\
# dmidecode 3.3
Getting SMBIOS data from sysfs.
SMBIOS 3.3.0 present.

Handle 0x1000, DMI type 16, 23 bytes
Physical Memory Array
	Location: System Board Or Motherboard
	Use: System Memory
	Maximum Capacity: 512 GB
	Number Of Devices: 3

Handle 0x1100, DMI type 17, 92 bytes
Memory Device
	Array Handle: 0x1000
	Total Width: 72 bits
	Data Width: 64 bits
	Size: 64 GB
	Form Factor: DIMM
	Locator: A1
	Type: DDR4
	Type Detail: Synchronous Registered (Buffered)
	Speed: 3200 MT/s
	Manufacturer: 00AD063200AD
	Serial Number: 9A8B7C6D
	Asset Tag: 00214361
	Part Number: HMAA8GR7AJR4N-XN   \x20
	Rank: 2
	Configured Memory Speed: 2933 MT/s
	Volatile Size: 64 GB

Handle 0x1101, DMI type 17, 92 bytes
Memory Device
	Array Handle: 0x1000
	Size: No Module Installed
	Locator: A2
	Type: Unknown
	Speed: Unknown
	Serial Number: Not Specified
	Part Number: Not Specified
	Configured Memory Speed: Unknown

Handle 0x1102, DMI type 17, 92 bytes
Memory Device
	Array Handle: 0x1000
	Size: 65536 MB
	Form Factor: DIMM
	Locator: A3
	Type: DDR4
	Speed: 3200 MT/s
	Serial Number: 9A8B7C6E
	Part Number: HMAA8GR7AJR4N-XN
	Configured Memory Speed: 2933 MT/s

"""
LSPCI = """\
0000:00:00.0 "Host bridge" "Intel Corporation" "Device 09a2" -r04 -p00 "Dell" "Device 0b0e"
0000:03:00.0 "VGA compatible controller" "Matrox Electronics Systems Ltd." \
"Integrated Matrox G200eW3 Graphics Controller" -r04 "Dell" ""
0000:18:00.0 "Ethernet controller" "Intel Corporation" \
"Ethernet Controller X710 for 10GbE SFP+" -r02 "Dell" "Device 0b0e"
0000:18:00.1 "Ethernet controller" "Intel Corporation" \
"Ethernet Controller X710 for 10GbE SFP+" -r02 "Dell" "Device 0b0e"
0000:19:00.0 "Ethernet controller" "Broadcom Inc. and subsidiaries" "Device 16d9" -r01 "Dell" \
"Device 0b0e"
0000:65:00.0 "3D controller" "NVIDIA Corporation" "GA100GL [A30 PCIe]" -ra1 \
"NVIDIA Corporation" "Device 1532"
"""
NVIDIA_SMI = """\
Fri Nov  3 09:12:41 2023
+-----------------------------------------------------------------------------------------+
| NVIDIA-SMI 550.54.15              Driver Version: 550.54.15      CUDA Version: 12.4     |
|-----------------------------------------+------------------------+----------------------+
| GPU  Name                 Persistence-M | Bus-Id          Disp.A | Volatile Uncorr. ECC |
|   0  NVIDIA A30                     On  | 00000000:65:00.0 Off |                    0 |
+-----------------------------------------+------------------------+----------------------+
"""
LSHW = """\
<?xml version="1.0" standalone="yes" ?>
<list>
  <node id="memory" claimed="true" class="memory" handle="DMI:1000">
   <description>System Memory</description>
   <size units="bytes">68719476736</size>
    <node id="bank:0" claimed="true" class="memory" handle="DMI:1100">
     <description>DIMM DDR4 Synchronous Registered (Buffered) 3200 MHz (0.3 ns)</description>
     <product>HMAA8GR7AJR4N-XN</product>
     <serial>9A8B7C6D</serial>
     <size units="bytes">68719476736</size>
     <clock units="Hz">3200000000</clock>
    </node>
    <node id="bank:1" claimed="true" class="memory" handle="DMI:1101">
     <description>[empty]</description>
    </node>
  </node>
  <node id="network:0" claimed="true" class="network" handle="PCI:0000:18:00.0">
   <description>Ethernet interface</description>
   <product>Ethernet Controller X710 for 10GbE SFP+</product>
   <vendor>Intel Corporation</vendor>
   <businfo>pci@0000:18:00.0</businfo>
   <logicalname>eno1</logicalname>
   <serial>b4:96:91:aa:bb:cc</serial>
   <configuration><setting id="ip" value="10.11.12.13" /></configuration>
  </node>
</list>
"""
PRIVATE = (
    "9A8B7C6D",
    "9A8B7C6E",
    "00214361",
    "b4:96:91:aa:bb:cc",
    "10.11.12.13",
    "7ABCDE3",
    "S5XXNA0R123456",
    "4c4c4544-0041-4210-8043-b7c04f444533",
    "d8:5e:d3:01:02:03",
)


def run(
    folder: Path, *options: object, sys_folder: Path | None = None, prefix: tuple = (), **env
) -> subprocess.CompletedProcess:
    program = ["-c", ELSEWHERE, str(sys_folder)] if sys_folder else ["-m", "harness.capture"]
    command = [*prefix, sys.executable, *program, "--sut_dir", folder, *options]
    return subprocess.run(
        [str(part) for part in command],
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **{k: str(v) for k, v in env.items()}},
    )


def captured(folder: Path, *options: object, name: str = "box", **how) -> dict:
    """A capture that must succeed: what its TOML says. Every fact of it is on its page."""
    done = run(folder, "--name", name, *options, **how)
    assert done.returncode == 0, done.stderr
    return on_its_page(folder, name)


def on_its_page(folder: Path, name: str) -> dict:
    """A TOML of the folder, all of which is on the page that is built from it."""
    facts = tomllib.loads((folder / f"{name}.toml").read_text(encoding="utf-8"))
    pdf = folder.parent / "SUT.pdf"
    command = [sys.executable, "-m", "analysis.sut", "--sut_dir", folder, "--output", pdf]
    subprocess.run(command, cwd=REPO, check=True, timeout=60)
    assert_all_on_its_page(facts, pages(pdf)[name])
    return facts


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "sut"
    path.mkdir()
    return path


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A PATH with nothing on it, to put recorded tools into."""
    path = tmp_path / "bin"
    path.mkdir()
    return path


def put(tools: Path, name: str, text: str, query: str | None = None) -> None:
    """A tool that prints this text, or `query` if called with --query-gpu."""
    (tools / f"{name}.txt").write_text(text)
    (tools / f"{name}-query.txt").write_text(text if query is None else query)
    script = tools / name
    script.write_text(
        f'#!/bin/sh\ncase "$1" in --query-gpu*) file={name}-query;; *) file={name};; esac\n'
        'while IFS= read -r line || [ -n "$line" ]; do printf "%s\\n" "$line"; '
        f'done <"{tools}/$file.txt"\n'
    )
    script.chmod(0o755)


@pytest.fixture
def server(tmp_path: Path) -> Path:
    """An edge server's /sys: four ports, one down, two disks and a stick, a console, a GPU."""
    root = tmp_path / "sys"

    def fill(place: str, **texts: object) -> Path:
        (root / place).mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (root / place / name).write_text(f"{text}\n", encoding="utf-8")
        return root / place

    fill(
        "class/dmi/id",
        sys_vendor="Dell Inc.",
        product_name="PowerEdge XR4520c",
        product_serial="7ABCDE3",
        product_uuid="4c4c4544-0041-4210-8043-b7c04f444533",
        board_vendor="Dell Inc.",
        board_name="034K8F",
        board_version="X31",
        board_serial="7ABCDE3",
        bios_vendor="Dell Inc.",
        bios_version="1.0.2",
        bios_date="09/11/2022",
    )
    for port, slot, speed in (
        ("eno1", "18:00.0", 10000),
        ("eno2", "18:00.1", 10000),
        ("eno3", "19:00.0", 2500),
        ("eno4", "19:00.1", -1),
    ):
        device = fill(f"devices/pci0000:17/0000:{slot}")
        driver = fill(f"bus/pci/drivers/{'i40e' if slot.startswith('18') else 'bnxt_en'}")
        (device / "driver").symlink_to(driver)
        net = fill(f"class/net/{port}", speed=speed, address="d8:5e:d3:01:02:03")
        (net / "device").symlink_to(device)
    fill("class/net/lo", address="00:00:00:00:00:00")
    for slot, kind, vendor, device in (
        ("03:00.0", "0x030000", "0x102b", "0x0536"),
        ("65:00.0", "0x030200", "0x10de", "0x20b7"),
    ):
        fill(f"bus/pci/devices/0000:{slot}", **{"class": kind, "vendor": vendor, "device": device})
    for disk, model, size, removable in (
        ("sda", "DELLBOSS VD", 468862128, 0),
        ("sdb", "Cruzer Blade", 60062500, 1),
        ("sr0", "DVD", 8, 1),
        ("nvme0n1", "Dell Ent NVMe v2 AGN RI U.2 1.6TB", 3125627568, 0),
    ):
        fill(f"block/{disk}", size=size, removable=removable)
        fill(f"block/{disk}/device", model=model, serial="S5XXNA0R123456")
    fill("block/loop0", size=1000, removable=0)
    for number in range(4):
        fill(f"devices/system/memory/memory{number}", state="online")
    fill("devices/system/memory", block_size_bytes="200000000")  # 8 GiB
    for number in range(4):
        fill(f"devices/system/cpu/cpu{number}/topology", physical_package_id=number % 2)
    return root


def test_this_machine_is_captured_as_the_kernel_reports_it(folder):
    facts = captured(folder)
    described = system.describe()
    assert facts["system"]["name"] == "box" and facts["system"]["kind"]
    assert abs(facts["system"]["captured"] - date.today()).days <= 1
    assert facts["cpu"]["vcpus"] == os.cpu_count()
    assert facts["cpu"]["sockets"] >= 1 and facts["cpu"]["cores_per_socket"] >= 1
    assert (
        described["memory"]["bytes"] / 2**30 - 0.5
        <= facts["memory"]["gb"]
        <= described["memory"]["bytes"] / 2**30 * 1.2
    )
    assert facts["os"]["kernel"] == os.uname().release
    assert facts["software"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert "price" not in facts and "power" not in facts


def test_without_a_name_the_file_is_named_for_the_machine(folder):
    done = run(folder)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.toml")
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", path.stem)
    assert str(path) in done.stdout


def test_it_says_how_to_build_the_pdf(folder):
    done = run(folder, "--name", "box")
    assert done.returncode == 0, done.stderr
    pdf = folder.parent / "SUT.pdf"
    command = shlex.split(done.stdout.splitlines()[-1])
    assert command[1:] == ["-m", "analysis.sut", "--sut_dir", str(folder)]
    built = subprocess.run([*command, "--output", pdf], cwd=REPO, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert "box" in pages(pdf)
    assert [path.name for path in folder.iterdir()] == ["box.toml"]


def test_no_root_is_needed():
    """As a user with no rights at all."""
    with tempfile.TemporaryDirectory() as top:
        os.chmod(top, 0o777)
        folder = Path(top) / "sut"
        folder.mkdir(mode=0o777)
        folder.chmod(0o777)
        prefix = ()
        if os.geteuid() == 0:
            if not shutil.which("setpriv"):
                pytest.skip("run by root, and no setpriv to become another user with")
            prefix = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
            if subprocess.run(
                [*prefix, sys.executable, "-c", "import harness.capture"],
                cwd=REPO,
                capture_output=True,
            ).returncode:
                pytest.skip("run by root from a folder that no other user may read")
        facts = captured(folder, prefix=prefix)
        assert facts["cpu"]["vcpus"] == os.cpu_count()
        if prefix:
            assert (folder / "box.toml").stat().st_uid == 65534


def test_no_tool_is_needed(folder, tools):
    facts = captured(folder, PATH=tools)
    assert facts["cpu"]["vcpus"] == os.cpu_count()
    assert {"cores_per_socket", "sockets", "threads_per_core"} <= facts["cpu"].keys()
    with_lscpu = captured(folder, name="again")
    for key in ("cores_per_socket", "sockets", "threads_per_core", "vcpus"):
        assert facts["cpu"][key] == with_lscpu["cpu"][key]


def test_an_edge_server_with_all_tools(folder, tools, server):
    put(tools, "dmidecode", DMIDECODE)
    put(tools, "lspci", LSPCI)
    put(
        tools,
        "nvidia-smi",
        NVIDIA_SMI,
        query="NVIDIA A30, 24576, 550.54.15\nNVIDIA A30, 24576, 550.54.15\n",
    )
    done = run(folder, sys_folder=server, PATH=tools)
    assert done.returncode == 0, done.stderr
    facts = on_its_page(folder, "PowerEdge-XR4520c")
    assert (
        facts["system"]["kind"] == "Dell Inc. PowerEdge XR4520c"
        and facts["system"]["vendor"] == "Dell Inc."
    )
    assert facts["memory"] == {
        "gb": 128,
        "type": "DDR4",
        "mt_per_s": 2933,
        "module": "HMAA8GR7AJR4N-XN",
        "modules": 2,
    }
    assert facts["gpu"] == {"name": "NVIDIA A30", "count": 2, "memory_gb": 24}
    assert (facts["software"]["cuda"], facts["software"]["nvidia_driver"]) == ("12.4", "550.54.15")
    assert facts["board"] == {"vendor": "Dell Inc.", "model": "034K8F", "version": "X31"}
    assert facts["bios"] == {"vendor": "Dell Inc.", "version": "1.0.2", "date": date(2022, 9, 11)}
    assert facts["network"]["adapters"] == [
        {"count": 2, "model": "Intel Ethernet Controller X710 for 10GbE SFP+", "gbit_per_s": 10},
        {"model": "bnxt_en", "gbit_per_s": 2.5},  # lspci has only its number
        {"model": "bnxt_en"},  # down
    ]
    assert facts["storage"] == {
        "gb": 1840,
        "disks": [
            {"model": "Dell Ent NVMe v2 AGN RI U.2 1.6TB", "gb": 1600},
            {"model": "DELLBOSS VD", "gb": 240},
        ],
    }


def test_an_edge_server_with_lshw_only(folder, tools, server):
    put(tools, "lshw", LSHW)
    facts = captured(folder, sys_folder=server, PATH=tools)
    assert facts["memory"] == {
        "gb": 64,
        "type": "DDR4",
        "mt_per_s": 3200,
        "module": "HMAA8GR7AJR4N-XN",
        "modules": 1,
    }
    models = [adapter["model"] for adapter in facts["network"]["adapters"]]
    assert models == ["Intel Ethernet Controller X710 for 10GbE SFP+", "i40e", "bnxt_en", "bnxt_en"]


def test_an_edge_server_without_tools(folder, tools, server):
    facts = captured(folder, sys_folder=server, PATH=tools)
    assert facts["memory"] == {"gb": 32}
    assert facts["gpu"] == {"name": "PCI 0x10de:0x20b7", "count": 1}  # the console's is none
    assert facts["cpu"]["sockets"] == 2
    put(tools, "lspci", LSPCI)
    assert (
        captured(folder, sys_folder=server, PATH=tools)["gpu"]["name"]
        == "NVIDIA GA100GL [A30 PCIe]"
    )


@pytest.mark.parametrize(
    "damage",
    ["", "\x00\xff", "{", "<list><node></list>", "a, b\n", "Memory Device\n\tSize: many GB\n"],
)
def test_a_tool_that_prints_nonsense_is_as_one_that_is_not_there(folder, tools, server, damage):
    for name in ("dmidecode", "lspci", "nvidia-smi", "lshw", "systemd-detect-virt"):
        put(tools, name, damage)
    facts = captured(folder, sys_folder=server, PATH=tools)
    assert facts["memory"] == {"gb": 32}
    assert facts["network"]["adapters"][0]["model"] == "i40e"


def test_a_tool_that_prints_bytes_that_are_no_text_is_as_one_that_is_not_there(
    folder, tools, server
):
    for name in ("lspci", "lshw"):
        put(tools, name, "")
        (tools / f"{name}.txt").write_bytes(b"<list>\xff\xfe</list>\n")
    assert captured(folder, sys_folder=server, PATH=tools)["memory"] == {"gb": 32}


def test_nothing_that_identifies_a_machine_is_captured(folder, tools, server):
    put(tools, "dmidecode", DMIDECODE)
    put(tools, "lspci", LSPCI)
    put(tools, "lshw", LSHW)
    assert run(folder, sys_folder=server, PATH=tools).returncode == 0
    assert run(folder, "--name", "here").returncode == 0
    addresses = {
        address.address.partition("%")[0]
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
    }
    texts = [path.read_text(encoding="utf-8") for path in folder.glob("*.toml")]
    assert len(texts) == 2
    for text in texts:
        for private in {*PRIVATE, *addresses} - {"00:00:00:00:00:00"}:
            assert private.lower() not in text.lower()
        assert not re.search(r"(?i)\b([0-9a-f]{2}[:-]){5}[0-9a-f]{2}\b", text), "a MAC address"
        assert not re.search(r"(?i)\b[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}\b", text), "a UUID"
        assert not re.search(r"\b\d+\.\d+\.\d+\.\d+\b", text), "an IP address"


@pytest.mark.parametrize(
    ("product", "host", "name"),
    [
        ("m7i.48xlarge", "ip-10-1-2-3", "m7i.48xlarge"),
        ("PowerEdge XR4520c", "", "PowerEdge-XR4520c"),
        ("System Product Name", "lab7.example.org", "lab7"),
        ("To Be Filled By O.E.M.", "lab7", "lab7"),
        (None, "ip-10-1-2-3.ec2.internal", "AMD-EPYC"),
        (None, "3f2a9c1b7d5e", "AMD-EPYC"),
        (None, "pi-b8-27-eb-01-02-03", "AMD-EPYC"),
        (None, "localhost.localdomain", "AMD-EPYC"),
        ("../../etc/passwd", "", "etc-passwd"),
        ("智能边缘", "", "AMD-EPYC"),
        ("Edge™ 智能 → Büro", "", "EdgeTM-Buro"),
    ],
)
def test_a_machine_is_named_by_what_it_is_and_never_by_an_address(
    tmp_path, monkeypatch, product, host, name
):
    if product:
        (tmp_path / "product_name").write_text(product + "\n", encoding="utf-8")
    monkeypatch.setattr(system, "DMI", tmp_path)
    monkeypatch.setattr(capture.platform, "node", lambda: host)
    assert capture.default_name({"cpu": {"name": "AMD EPYC"}}) == name


def test_a_product_name_that_the_pdf_has_no_letters_for_is_transliterated(folder, tools, server):
    dmi = server / "class/dmi/id"
    (dmi / "product_name").write_text("ThinkEdge™ 智能 → Büro\n", encoding="utf-8")
    (dmi / "sys_vendor").write_bytes("联想\n".encode())
    (dmi / "board_name").write_bytes(b"X\xff\x01Y\n")
    facts = captured(folder, sys_folder=server, PATH=tools)
    assert facts["system"]["kind"] == "ThinkEdgeTM Büro"
    assert "vendor" not in facts["system"]
    assert facts["board"]["model"] == "X Y"


@pytest.mark.parametrize(
    ("model", "name", "ghz"),
    [
        ("Intel(R) Xeon(R) Platinum 8480+", "Intel Xeon Platinum 8480+", None),
        ("Intel(R) Xeon(R) D-2776NT CPU @ 2.10GHz", "Intel Xeon D-2776NT", 2.1),
        ("AMD EPYC 7763 64-Core Processor", "AMD EPYC 7763", None),
        ("Neoverse-N1", "Neoverse-N1", None),
    ],
)
def test_a_processor_is_named_as_in_the_published_systems(model, name, ghz):
    assert capture._processor(model) == (name, ghz)


def test_sockets_and_cores_that_lscpu_does_not_report_are_counted(folder, tools):
    fields = [
        {"field": "Model name:", "data": "Neoverse-N1"},
        {"field": "Socket(s):", "data": "-"},
        {"field": "Stepping:", "data": "r3p1"},
    ]
    put(tools, "lscpu", json.dumps({"lscpu": fields}))
    facts = captured(folder, PATH=tools)
    assert facts["cpu"]["name"] == "Neoverse-N1" and "stepping" not in facts["cpu"]
    assert facts["cpu"]["sockets"] >= 1


def test_a_machine_that_does_not_report_its_sockets_is_named(folder, tmp_path, monkeypatch):
    facts = capture.facts()
    facts["cpu"]["sockets"] = None
    program = (
        "import datetime; from harness import capture, cli; "
        f"capture.facts = lambda: {facts!r}; cli.run(capture.main)"
    )
    command = [sys.executable, "-c", program, "--sut_dir", str(folder), "--name", "box"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert_one_line(done, "cpu.sockets", "box.toml", "by hand")
    assert not list(folder.iterdir())


def test_a_second_capture_refreshes_what_was_captured_and_keeps_what_was_entered(
    folder, tools, server
):
    put(tools, "dmidecode", DMIDECODE)
    put(tools, "lspci", LSPCI)
    captured(folder, sys_folder=server, PATH=tools)
    shutil.copy(REPO / "sut" / "m6i.8xlarge.toml", folder / "cloud.toml")
    (folder / "cloud.toml").write_text(
        re.sub("comparable_to.*\n", "", (folder / "cloud.toml").read_text()).replace(
            "m6i.8xlarge", "cloud"
        )
    )
    path = folder / "box.toml"
    text = re.sub(
        r"kind = .*",
        'kind = "Edge server" # as we call it\ncomparable_to = [{ name = "cloud", on = "CPU" }]',
        path.read_text(),
    )
    text = 'notes = ["In the shop."]\n' + re.sub(r"captured = .*", "captured = 2020-01-01", text)
    text = text.replace(
        "\n[cpu]\n",
        '\n[price]\nusd = 12345.5\nsource = "our order"\n\n[cpu]\ngeneration = "3rd Gen"\n',
    )
    text = (
        re.sub(r'kernel = ".*"', 'kernel = "1.2.3"', text)
        + 'tgi = "3.3"\n\n[power]\nrated_w = 1400 # nameplate\n'
    )
    path.write_text(text)

    done = run(folder, "--name", "box", sys_folder=server, PATH=tools)
    assert done.returncode == 0, done.stderr
    facts = tomllib.loads(path.read_text())
    assert facts["price"] == {"usd": 12345.5, "source": "our order"}
    assert facts["power"] == {"rated_w": 1400}
    assert facts["notes"] == ["In the shop."]
    assert facts["system"]["kind"] == "Edge server"
    assert facts["system"]["comparable_to"] == [{"name": "cloud", "on": "CPU"}]
    assert facts["cpu"]["generation"] == "3rd Gen" and facts["software"]["tgi"] == "3.3"
    assert "# nameplate" in path.read_text() and "# as we call it" in path.read_text()
    assert facts["os"]["kernel"] == os.uname().release
    assert facts["system"]["captured"] > date(2020, 1, 1)
    (kept,) = [line for line in done.stdout.splitlines() if line.startswith("Kept: ")]
    assert {
        "notes",
        "price",
        "power",
        "system.comparable_to",
        "cpu.generation",
        "software.tgi",
    } <= set(kept[6:].split(", "))
    before = path.read_bytes()
    assert run(folder, "--name", "box", sys_folder=server, PATH=tools).returncode == 0
    assert path.read_bytes() == before


def test_modules_that_only_root_can_read_stay_until_the_memory_is_another(folder, tools, server):
    put(tools, "dmidecode", DMIDECODE.replace("64 GB", "16 GB").replace("65536 MB", "16384 MB"))
    assert captured(folder, sys_folder=server, PATH=tools)["memory"]["modules"] == 2
    (tools / "dmidecode").unlink()
    memory = captured(folder, sys_folder=server, PATH=tools)["memory"]
    assert (memory["gb"], memory["type"], memory["modules"]) == (32, "DDR4", 2)
    (server / "devices/system/memory/memory3/state").write_text("offline\n")
    assert captured(folder, sys_folder=server, PATH=tools)["memory"] == {"gb": 24}


def test_a_system_made_by_hand_is_never_overwritten(tmp_path):
    folder = tmp_path / "sut"
    shutil.copytree(REPO / "sut", folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name in ("XR4520c", "m6i.8xlarge"):
        assert_one_line(run(folder, "--name", name), f"{name}.toml", "--name")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_on_a_published_instance_type_another_name_is_asked_for(tmp_path, server):
    folder = tmp_path / "sut"
    shutil.copytree(REPO / "sut", folder)
    (server / "class/dmi/id/sys_vendor").write_text("Amazon EC2\n")
    (server / "class/dmi/id/product_name").write_text("m6i.8xlarge\n")
    assert_one_line(run(folder, sys_folder=server), "m6i.8xlarge.toml", "--name")
    facts = captured(folder, name="m6i.8xlarge-ours", sys_folder=server)
    assert facts["system"]["vendor"] == "AWS" and facts["system"]["kind"].startswith("AWS EC2")


@pytest.mark.parametrize("name", ["../box", "a/b", "", ".hidden", "büro", "-x"])
def test_a_name_that_is_no_file_name_is_refused(folder, name):
    done = run(folder, f"--name={name}")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert not list(folder.iterdir())


def test_nothing_is_written_where_a_system_beside_it_is_damaged(folder):
    (folder / "other.toml").write_text("[system")
    assert_one_line(run(folder, "--name", "box"), "other.toml", "not TOML")
    assert [path.name for path in folder.iterdir()] == ["other.toml"]
    (folder / "box.toml").write_text("[system")
    assert_one_line(run(folder, "--name", "box"), "box.toml", "not TOML")
    assert (folder / "box.toml").read_text() == "[system"


def test_a_file_is_replaced_whole_and_its_mode_kept(folder):
    captured(folder)
    path = folder / "box.toml"
    path.chmod(0o664)
    inode = path.stat().st_ino
    captured(folder)
    assert path.stat().st_ino != inode, "written into, not replaced"
    assert stat.S_IMODE(path.stat().st_mode) == 0o664
    assert [file.name for file in folder.iterdir()] == ["box.toml"]


def test_a_folder_that_is_not_there_gives_one_line(tmp_path):
    assert_one_line(run(tmp_path / "none", "--name", "box"), "none", "--sut_dir")
