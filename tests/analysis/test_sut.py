"""SUT.pdf says what sut/*.toml say, and a mistake in one is one line on stderr."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from conftest import REPO, run_analysis
from pypdf import PdfReader
from sut_pages import assert_all_on_its_page, pages, tomllib

# Whoever captured a machine here has more than those published with the study.
SYSTEMS = {
    path.stem: tomllib.loads(path.read_text(encoding="utf-8"))
    for path in sorted((REPO / "sut").glob("*.toml"))
}
PUBLISHED = [name for name, system in SYSTEMS.items() if "captured" not in system["system"]]


build = partial(run_analysis, "sut")


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
    assert (
        len(PUBLISHED) < len(SYSTEMS) or len(PdfReader(REPO / "SUT.pdf").pages) == len(SYSTEMS) + 1
    )
    for name, system in SYSTEMS.items():
        price = system.get("price", {})
        expected = (
            f"{price['usd']:,.2f} USD"
            if "usd" in price
            else f"{price['usd_per_hour']} USD per hour"
            if "usd_per_hour" in price
            else "not published"
        )
        assert expected in shown[name]
        assert expected in shown["comparison"]


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_fact_of_a_system_is_on_its_page(name):
    assert_all_on_its_page(SYSTEMS[name], pages(REPO / "SUT.pdf")[name])


def test_comparable_systems_name_each_other():
    pairs = {
        (name, pair["name"], pair["on"])
        for name in PUBLISHED
        for pair in SYSTEMS[name]["system"]["comparable_to"]
    }
    assert pairs == {(other, name, on) for name, other, on in pairs}


@pytest.mark.parametrize("name", PUBLISHED)
def test_cores_and_threads_make_the_vcpus(name):
    cpu = SYSTEMS[name]["cpu"]
    assert cpu["cores_per_socket"] * cpu["sockets"] * cpu["threads_per_core"] == cpu["vcpus"]


def test_an_unknown_price_is_not_published_and_never_0(folder, tmp_path):
    path = folder / "m6i.8xlarge.toml"
    path.write_text(
        re.sub("usd_per_hour.*\n", "", path.read_text(encoding="utf-8")), encoding="utf-8"
    )
    assert build("--sut_dir", folder, "--output", tmp_path / "SUT.pdf").returncode == 0
    for page in pages(tmp_path / "SUT.pdf").values():
        assert "not published" in page
        assert "USD" not in page


def test_what_a_person_adds_is_on_the_page(folder, tmp_path):
    path = folder / "m6i.8xlarge.toml"
    added = "usd_per_hour_reserved = 0.967\nusd_per_hour_spot = 0.61\n"
    text = path.read_text(encoding="utf-8").replace("usd_per_hour", added + "usd_per_hour", 1)
    path.write_text(text + '[power]\nrated_w = 1400\nsource = "nameplate"\n', encoding="utf-8")
    done = build("--sut_dir", folder, "--output", tmp_path / "SUT.pdf")
    assert done.returncode == 0, done.stderr
    page = pages(tmp_path / "SUT.pdf")["m6i.8xlarge"]
    for row in (
        "Amount 1.536 USD per hour Reserved 0.967 USD per hour Spot 0.61 USD per hour",
        "Rated 1400 W Source nameplate",
    ):
        assert row in page


def test_a_price_that_is_only_a_reserved_one_is_said_to_be(folder, tmp_path):
    path = folder / "m6i.8xlarge.toml"
    text = path.read_text(encoding="utf-8").replace("usd_per_hour", "usd_per_hour_reserved")
    path.write_text(text, encoding="utf-8")
    assert build("--sut_dir", folder, "--output", tmp_path / "SUT.pdf").returncode == 0
    assert "1.536 USD per hour reserved" in pages(tmp_path / "SUT.pdf")["comparison"]


def test_one_system_more_does_not_part_those_that_are_compared(folder, tmp_path):
    shutil.copytree(REPO / "sut", folder, dirs_exist_ok=True)
    text = re.sub("comparable_to.*\n", "", (folder / "g5.8xlarge.toml").read_text(encoding="utf-8"))
    (folder / "Aardvark.toml").write_text(
        text.replace("g5.8xlarge", "Aardvark", 1), encoding="utf-8"
    )
    assert build("--sut_dir", folder, "--output", tmp_path / "SUT.pdf").returncode == 0
    comparison = [
        page.extract_text()
        for page in PdfReader(tmp_path / "SUT.pdf").pages
        if "one page each" in page.extract_text()
    ]
    for names in (("R760xa", "m7i.48xlarge"), ("XR4520c", "m6i.8xlarge", "g5.8xlarge")):
        assert any(all(name in page for name in names) for page in comparison)


def test_a_page_that_holds_much_is_drawn_smaller(folder, tmp_path):
    path = folder / "m6i.8xlarge.toml"
    packages = "".join(f'package{number} = "1.0.{number}"\n' for number in range(15))
    path.write_text(path.read_text(encoding="utf-8") + packages, encoding="utf-8")
    done = build("--sut_dir", folder, "--output", tmp_path / "SUT.pdf")
    assert done.returncode == 0, done.stderr
    page = pages(tmp_path / "SUT.pdf")["m6i.8xlarge"]
    assert "Package0 1.0.0" in page and "Package14 1.0.14" in page


@pytest.mark.parametrize(
    ("old", "new", "message"),
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
def test_a_mistake_in_a_toml_gives_one_line_and_status_1(folder, tmp_path, old, new, message):
    path = folder / "m6i.8xlarge.toml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    done = build("--sut_dir", folder, "--output", tmp_path / "SUT.pdf")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "m6i.8xlarge" in done.stderr or message == "page"
    assert message in done.stderr
    assert not (tmp_path / "SUT.pdf").exists()


def test_an_empty_folder_or_an_unwritable_output_gives_one_line_and_status_1(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "empty", ignore=lambda *_: ["m6i.8xlarge.toml"])
    for options in (
        ["--sut_dir", tmp_path / "empty"],
        ["--sut_dir", folder, "--output", tmp_path / "none" / "SUT.pdf"],
    ):
        done = build("--output", tmp_path / "SUT.pdf", *options)
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1
        assert done.stdout == ""


def test_the_pdf_can_go_to_a_pipe(folder, tmp_path):
    assert build("--sut_dir", folder, "--output", tmp_path / "SUT.pdf").returncode == 0
    command = [sys.executable, "-m", "analysis.sut", "--sut_dir", folder, "--output", "/dev/stdout"]
    done = subprocess.run(command, cwd=REPO, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith((tmp_path / "SUT.pdf").read_bytes())
