"""The accuracy gate: what is left of the quality at full precision."""

import argparse

import pytest
from simulated import changed, record, write

from harness import gate
from harness.cli import UserError


def args(**given) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    gate.add_arguments(parser, "tokens_per_second")
    return argparse.Namespace(**{**vars(parser.parse_args([])), **given})


@pytest.mark.parametrize(
    "metric, full, limit",
    [
        ("mask_map50_95", 0.5, 0.495),
        ("word_error_rate", 0.04, 1 - 0.96 * 0.99),  # of the words that were right
        ("perplexity", 20.0, 20.2),
    ],
)
def test_99_percent_of_the_quality_is_kept(metric, full, limit):
    assert gate.allowed(full, metric, 0.01) == pytest.approx(limit)


@pytest.mark.parametrize(
    "metric, value, passed",
    [
        ("mask_map50_95", 0.5, True),
        ("mask_map50_95", 0.49, False),
        ("word_error_rate", 0.5, True),
        ("word_error_rate", 0.51, False),
    ],
)
def test_the_metrics_direction_decides(metric, value, passed):
    found = gate.output(0.5, metric, value)["gate"]
    assert found == {"metric": metric, "limit": 0.5, "value": value, "passed": passed}


def test_without_a_limit_or_a_value_there_is_no_gate():
    assert gate.output(None, "perplexity", 3.0) == gate.output(3.0, "perplexity", None) == {}


def test_the_limit_is_given_or_follows_from_a_record_of_the_same_input(tmp_path):
    (full,) = write(tmp_path, record([100.0]))
    metric, own, other = "tokens_per_second", "b" * 64, "c" * 64
    assert gate.limit(args(), metric, own) is None
    assert gate.limit(args(gate_record=full), metric, own) == pytest.approx(99)
    assert gate.limit(args(gate_record=full, max_loss=0.1), metric, own) == pytest.approx(90)
    assert gate.limit(args(gate_record=full, gate_limit=0.0), metric, own) == 0
    for wrong in ((metric, other), ("perplexity", own)):
        with pytest.raises(UserError, match="--gate_record"):
            gate.limit(args(gate_record=full), *wrong)
    (unread,) = write(tmp_path, changed(record([1.0]), "schema_version", 99))
    with pytest.raises(UserError, match="newer"):
        gate.limit(args(gate_record=unread), metric, own)
