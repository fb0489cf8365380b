"""What is assumed has a source, a range and bounds, and is replaced by a user's own figures."""

import argparse
import re
from dataclasses import fields

import numpy as np
import pytest
from conftest import REPO
from simulated import sample

from analysis import assumptions
from harness.cli import UserError

SHIPPED = assumptions.read()


@pytest.mark.parametrize("each", SHIPPED.values(), ids=SHIPPED)
def test_each_has_a_source_and_a_range_that_is_allowed(each):
    assert each.label and each.unit and each.source
    if each.value is None:
        assert each.low is each.high is None
        assert str(each) == f"{each.label}: unknown"
    else:
        assert each.allowed[0] <= each.low <= each.value <= each.high <= each.allowed[1]


def test_each_is_a_value_and_stands_in_the_docs():
    assert [field.name for field in fields(assumptions.Values)] == list(SHIPPED)
    text = (REPO / "docs/cost.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\S+) \| (.*?) ?\|", text, re.MULTILINE)
    listed = {
        each.name: (
            "none" if each.value is None else f"{each.value:g}",
            "" if each.is_exact else f"{each.low:g} to {each.high:g}",
        )
        for each in SHIPPED.values()
    }
    assert {name: (value, stated) for name, value, stated in rows if name in SHIPPED} == listed


@pytest.mark.parametrize(
    "text, low, value, high",
    [("0.2", 0.2, 0.2, 0.2), ("0.1..0.3", 0.1, 0.2, 0.3), ("0.1..0.15..0.3", 0.1, 0.15, 0.3)],
)
def test_a_figure_is_given_as_a_value_or_a_range(text, low, value, high):
    given = assumptions.read(given={"usd_per_kwh": text})["usd_per_kwh"]
    assert (given.low, given.value, given.high) == pytest.approx((low, value, high))
    assert (given.source, given.date, given.is_exact) == ("given", None, low == high)


def test_a_file_changes_only_its_tables_and_an_option_changes_the_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        "[usd_per_kwh]\nlow = 0.2\nhigh = 0.4\nsource = 'contract'\ndate = 2026-01-31\n"
        "[pue]\nvalue = 1.3\n[admin_usd_per_year]\nvalue = 900\n"
    )
    found = assumptions.read(path, {"pue": "1.4"})
    kwh = found["usd_per_kwh"]
    assert (kwh.low, kwh.high, kwh.evidence) == (0.2, 0.4, "contract, 2026-01-31")
    assert kwh.value == pytest.approx(0.3)
    assert (found["pue"].value, found["pue"].source) == (1.4, "given")
    assert found["admin_usd_per_year"].source == "given in mine.toml"
    changed = {"usd_per_kwh", "pue", "admin_usd_per_year"}
    assert {name: found[name] for name in found if name not in changed} == {
        name: SHIPPED[name] for name in SHIPPED if name not in changed
    }
    assert assumptions.values(found).admin_usd_per_year == 900


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("pue", "0.5", "--set pue: must be a number from 1 to 10, not '0.5'"),
        ("pue", "1..11", "--set pue: must be a number from 1 to 10, not '11'"),
        ("years", "nan", "must be a number from 0.1 to 100"),
        ("utilization", "0", "must be a number from 0.001 to 1"),
        ("pue", "2..1", "from low to high, not '2..1'"),
        ("pue", "1..2..3..4", "VALUE, LOW..HIGH or LOW..VALUE..HIGH"),
        ("pue", "", "must be a number"),
        ("PUE", "1.5", "--set: no assumption 'PUE'; there are years, utilization"),
    ],
)
def test_a_figure_that_is_not_allowed_is_one_line(name, text, words):
    with pytest.raises(UserError) as error:
        assumptions.read(given={name: text})
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text, words",
    [
        ("[pue]\nvalue = 0.5", "mine.toml: pue: must be a number from 1 to 10"),
        ("[pue]\nlow = 1.2", "needs value, or low and high, or all three"),
        ("[pue]\nsource = 'x'", "needs value"),
        ("[pue]\nlow = 1.2\nvalue = 1.1\nhigh = 1.3", "from low to high"),
        ("[pue]\nvalue = true", "must be numbers"),
        ("[pue]\nvalue = nan", "must be a number from 1 to 10"),
        ("[pue]\nvalue = '1.5'", "must be numbers"),
        ("[pue]\nallowed = [0, 99]", "no key 'allowed'"),
        ("pue = 1.5", "must be a table"),
        ("[electricity]\nvalue = 1", "no assumption 'electricity'"),
        ("[pue", "not TOML"),
    ],
)
def test_a_mistake_in_a_file_is_one_line(tmp_path, text, words):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        assumptions.read(path)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_cannot_be_read_is_one_line(tmp_path):
    for path in (tmp_path, tmp_path / "none.toml"):
        with pytest.raises(UserError, match=re.escape(str(path))):
            assumptions.read(path)


def test_draws_are_triangular_over_the_range():
    found = assumptions.read(given={"usd_per_kwh": "0.1..0.15..0.3", "pue": "1.5"})
    drawn = sample(found, 100_000)
    kwh = drawn.usd_per_kwh
    assert 0.1 <= kwh.min() < 0.103 and 0.294 < kwh.max() <= 0.3
    assert kwh.mean() == pytest.approx((0.1 + 0.15 + 0.3) / 3, rel=0.005)
    assert (kwh < 0.15).mean() == pytest.approx(0.25, abs=0.005)  # (0.15 - 0.1) / (0.3 - 0.1)
    assert kwh.var() == pytest.approx((0.05**2 + 0.2**2 - 0.05 * 0.2) / 18, rel=0.02)
    assert (drawn.pue == 1.5).all() and drawn.pue.shape == (100_000,)
    assert drawn.admin_usd_per_year is None


def test_the_mode_of_a_range_may_be_one_of_its_ends():
    for text in ("0.1..0.1..0.3", "0.1..0.3..0.3"):
        found = assumptions.read(given={"usd_per_kwh": text})
        kwh = sample(found, 1000).usd_per_kwh
        assert np.isfinite(kwh).all() and 0.1 <= kwh.min() and kwh.max() <= 0.3


def test_draws_of_one_do_not_depend_on_another_being_exact():
    def draw(**given):
        return sample(assumptions.read(given=given), 50)

    both, fixed = draw(), draw(usd_per_kwh="0.2", admin_usd_per_year="500")
    assert (both.pue == fixed.pue).all() and (both.discount_rate == fixed.discount_rate).all()
    assert (fixed.usd_per_kwh == 0.2).all() and (fixed.admin_usd_per_year == 500).all()


def parse(*options: str) -> dict[str, assumptions.Assumption]:
    parser = argparse.ArgumentParser()
    assumptions.add_arguments(parser)
    return assumptions.from_args(parser.parse_args(options))


def test_options_give_figures():
    found = parse("--years", "5", "--set", "pue=1.2..1.4", "--set", "discount_rate=0")
    assert (found["years"].value, found["years"].source) == (5, "given")
    assert (found["pue"].low, found["pue"].high, found["discount_rate"].value) == (1.2, 1.4, 0)
    assert parse() == SHIPPED


@pytest.mark.parametrize(
    "options, words",
    [
        (["--pue", "0.5"], "--pue: must be a number from 1 to 10, not '0.5'"),
        (["--set", "pue=0.5"], "--set: must be a number from 1 to 10, not '0.5'"),
        (["--set", "PUE=1.5"], "no assumption 'PUE'"),
        (["--set", "pue"], "must be a number"),
    ],
)
def test_an_option_that_is_not_allowed_is_wrong_usage(capsys, options, words):
    with pytest.raises(SystemExit) as ended:
        parse(*options)
    assert ended.value.code == 2 and words in capsys.readouterr().err


def test_one_figure_given_twice_is_refused():
    with pytest.raises(UserError, match="pue is given more than once"):
        parse("--pue", "1.5", "--set", "pue=1.6")
