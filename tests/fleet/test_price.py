"""fleet/price.py: hourly prices of sut/, added up, written, read from AWS's price list."""

import importlib.util
import json
import shutil
import subprocess
import sys
from datetime import date

import pytest
from conftest import REPO

from harness.cli import UserError
from harness.sut_toml import tomllib

spec = importlib.util.spec_from_file_location("price", REPO / "fleet/price.py")
price = importlib.util.module_from_spec(spec)
spec.loader.exec_module(price)


def run(*words) -> subprocess.CompletedProcess:
    command = [sys.executable, "fleet/price.py", *map(str, words)]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True)


@pytest.fixture
def sut(tmp_path):
    for name in ("m7i.48xlarge", "R760xa", "XR4520c"):
        shutil.copy(REPO / f"sut/{name}.toml", tmp_path)
    return tmp_path


def test_a_new_price_has_its_date_and_all_else_stays(sut):
    path = sut / "m7i.48xlarge.toml"
    before = path.read_text()
    given = ["set", "m7i.48xlarge", 10.5, "--source", "AWS price list", "--sut_dir", sut]
    assert run(*given, "--date", "2026-11-01").stdout == "written\n"
    after = path.read_text()
    assert tomllib.loads(after)["price"] == {
        "usd_per_hour": 10.5,
        "basis": "on demand, Linux",
        "source": "AWS price list",
        "date": date(2026, 11, 1),
    }
    facts = [text[text.index("[cpu]") :] for text in (before, after)]
    assert facts[0] == facts[1]
    assert run(*given, "--date", "2026-11-01").stdout == "the same\n"
    assert path.read_text() == after
    assert run(*given).stdout == "written\n"  # of another day


def test_a_machine_that_is_bought_costs_nothing_by_the_hour(sut):
    names = ["m7i.48xlarge", "R760xa", "m7i.48xlarge"]
    assert float(run("hourly", *names, "--sut_dir", sut).stdout) == pytest.approx(2 * 9.6768)


@pytest.mark.parametrize(
    "words, said",
    [
        (["hourly", "XR4520c"], "has no price"),
        (["hourly", "m8i.large"], "No such file"),
        (["set", "m8i.large", "1"], "No such file"),
    ],
)
def test_what_is_missing_is_one_line(sut, words, said):
    done = run(*words, "--sut_dir", sut)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and said in done.stderr


def product(*usd: str, unit: str = "Hrs") -> str:
    """As AWS documents GetProducts: offers by SKU and term, each with dimensions."""
    dimensions = {
        f"D{n}": {"unit": unit, "pricePerUnit": {"USD": each}} for n, each in enumerate(usd)
    }
    return json.dumps({"terms": {"OnDemand": {"SKU.TERM": {"priceDimensions": dimensions}}}})


def test_the_price_on_demand_is_read_from_awss_list():
    assert price.on_demand([product("9.6768000000"), product("0.0000000000")]) == 9.6768
    for unclear in ([], [product("1.0"), product("2.0")], [product("5.0", unit="Quantity")]):
        with pytest.raises(UserError, match="enter ec2_usd_per_hour"):
            price.on_demand(unclear)
