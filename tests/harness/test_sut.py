"""The systems under test: SUT.pdf says what sut/*.toml say, and a mistake in one is told in a line."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPO
from pypdf import PdfReader

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SYSTEMS = {path.stem: tomllib.loads(path.read_text(encoding="utf-8")) for path in sorted((REPO / "sut").glob("*.toml"))}


def build(*options: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "harness.sut", *map(str, options)]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=60)


def pages(pdf: Path) -> dict[str, str]:
    """Each page's text, spaces made one, by what its footer names."""
    texts = [" ".join(page.extract_text().split()) for page in PdfReader(pdf).pages]
    return {match[1] if (match := re.search(r"(\S+)\.toml \d+ / \d+$", text)) else "comparison": text for text in texts}


def leaves(value: object) -> list:
    """Every value of a TOML that is not a table or a list."""
    if isinstance(value, dict):
        value = list(value.values())
    return [leaf for item in value for leaf in leaves(item)] if isinstance(value, list) else [value]


def spellings(value: object) -> set[str]:
    """How a page may show a value."""
    if not isinstance(value, (int, float)):
        return {str(value)}
    return {f"{value}", f"{value:,.2f}", f"{value / 1024:g} TB"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one good system, which is compared with none."""
    text = (REPO / "sut" / "m6i.8xlarge.toml").read_text(encoding="utf-8")
    path = tmp_path / "sut" / "m6i.8xlarge.toml"
    path.parent.mkdir()
    path.write_text(re.sub("comparable_to.*\n", "", text), encoding="utf-8")
    return path.parent


def test_the_shipped_pdf_is_what_the_script_builds_now(tmp_path):
    done = build("--output", tmp_path / "SUT.pdf")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "SUT.pdf").read_bytes() == (REPO / "SUT.pdf").read_bytes()


def test_every_system_has_a_page_with_its_price():
    shown = pages(REPO / "SUT.pdf")
    assert set(shown) == {*SYSTEMS, "comparison"}
    assert len(PdfReader(REPO / "SUT.pdf").pages) == len(SYSTEMS) + 1
    for name, system in SYSTEMS.items():
        price = system["price"]
        expected = (
            f"{price['usd']:,.2f} USD" if "usd" in price
            else f"{price['usd_per_hour']} USD per hour" if "usd_per_hour" in price
            else "not published"
        )  # fmt: skip
        assert expected in shown[name]
        assert expected in shown["comparison"]


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_fact_of_a_system_is_on_its_page(name):
    page = pages(REPO / "SUT.pdf")[name]
    for fact in leaves(SYSTEMS[name]):
        found = [re.search(rf"(?<![\w.,]){re.escape(text)}(?![\w]|[.,]\d)", page) for text in spellings(fact)]
        assert any(found), f"{fact} is not on the page of {name}"


def test_comparable_systems_name_each_other():
    pairs = {(name, pair["name"], pair["on"]) for name, system in SYSTEMS.items() for pair in system["system"]["comparable_to"]}
    assert pairs == {(other, name, on) for name, other, on in pairs}


@pytest.mark.parametrize("name", SYSTEMS)
def test_cores_and_threads_make_the_vcpus(name):
    cpu = SYSTEMS[name]["cpu"]
    assert cpu["cores_per_socket"] * cpu["sockets"] * cpu["threads_per_core"] == cpu["vcpus"]


def test_an_unknown_price_is_not_published_and_never_0(folder, tmp_path):
    path = folder / "m6i.8xlarge.toml"
    path.write_text(re.sub("usd_per_hour.*\n", "", path.read_text(encoding="utf-8")), encoding="utf-8")
    assert build("--sut_dir", folder, "--output", tmp_path / "SUT.pdf").returncode == 0
    for page in pages(tmp_path / "SUT.pdf").values():
        assert "not published" in page
        assert "USD" not in page


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[price]", "[price", "not TOML"),
        ("usd_per_hour = 1.536", "usd_per_hour = 0", "price.usd_per_hour"),
        ("usd_per_hour = 1.536", "usd_per_hour = nan", "nan"),
        ("usd_per_hour", "usd_an_hour", "usd_an_hour"),
        ("vcpus = 32", "", "vcpus"),
        ('name = "m6i.8xlarge"', 'name = "m6i.4xlarge"', "m6i.4xlarge"),
        ('vendor = "AWS"', 'comparable_to = [{ name = "R760", on = "CPU" }]', "R760"),
        ('kind = "AWS EC2"', 'kind = "AWS → EC2"', "→"),
        ("[system]", f"notes = ['{'word ' * 2000}']\n[system]", "page"),
    ],
)
def test_a_mistake_in_a_toml_gives_one_line_and_status_1(folder, tmp_path, old, new, said):
    path = folder / "m6i.8xlarge.toml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    done = build("--sut_dir", folder, "--output", tmp_path / "SUT.pdf")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "m6i.8xlarge" in done.stderr or said == "page"
    assert said in done.stderr
    assert not (tmp_path / "SUT.pdf").exists()


def test_an_empty_folder_or_an_unwritable_output_gives_one_line_and_status_1(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "empty", ignore=lambda *_: ["m6i.8xlarge.toml"])
    for options in (["--sut_dir", tmp_path / "empty"], ["--sut_dir", folder, "--output", tmp_path / "none" / "SUT.pdf"]):
        done = build("--output", tmp_path / "SUT.pdf", *options)
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1
        assert done.stdout == ""
