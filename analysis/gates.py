"""Accuracy gates: a speed counts only at stated quality.

A record that measured quality may hold output.gate: {metric, value, limit, passed}. It stands for
all runs of the same model, weight format and precision.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from analysis.text import plain
from harness import checks

SETTING = ("model", "weight format", "precision")


@dataclass(frozen=True)
class Gate:
    comparable_by: Mapping[str, object]
    finished_at: str
    found: Mapping  # output.gate

    @property
    def passed(self) -> bool:
        return bool(self.found["passed"])

    def __str__(self) -> str:
        return checks.gate_sentence(self.found)


def of_record(record: Mapping) -> Gate | None:
    """The gate that a record holds."""
    found, setting = plain(record["output"].get("gate")), plain(record["comparable_by"])
    return Gate(setting, record["finished_at"], found) if found else None


def deciding(comparable_by: Mapping[str, object], gates: Iterable[Gate]) -> Gate | None:
    """Of the gates of the same setting the one most like it in all else, of these the newest."""
    alike = [
        gate
        for gate in gates
        if all(gate.comparable_by.get(name) == comparable_by.get(name) for name in SETTING)
    ]
    shared = comparable_by.items()
    return max(
        alike,
        key=lambda gate: (len(shared & gate.comparable_by.items()), gate.finished_at),
        default=None,
    )


def setting(comparable_by: Mapping[str, object]) -> str:
    """In words: 'model 3f2a…, weight format int8, precision bf16'."""
    return ", ".join(f"{name} {comparable_by[name]}" for name in SETTING if name in comparable_by)
