"""What a page needs to price works again with inputs that its reader changes: page_model.js, which
has the same formulas, and the payload that it reads."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from analysis import uncertainty
from analysis.assumptions import Values
from analysis.pricing import Demand, Fleet, PricedWork, Way, capacity_name

SCRIPT = Path(__file__).with_suffix(".js")


def payload(priced: Sequence[PricedWork]) -> dict[str, Any]:
    """What costModel.read() of the script takes: to be written as JSON.

    "works" has for each work its inputs, ways and fleets, "draws" the inputs' drawn values (32-bit
    floats, little endian, in base64), which works share.
    """
    draws: dict[str, int] = {}  # the index of each
    works = [_work(work, draws) for work in priced]
    return {"draws": list(draws), "works": works}


def _work(work: PricedWork, draws: dict[str, int]) -> dict[str, Any]:
    ways, demand = work.basis.ways, work.basis.demand
    fleets = list({id(way.fleet): way.fleet for way in ways if way.fleet}.values())
    return {
        "label": work.label,
        "unit": work.unit,
        "missing": work.missing,
        "marks": work.marks,
        "inputs": _inputs(work, draws),
        "ways": [_way(way, fleets, demand) for way in ways],
        "fleets": [_fleet(each) for each in fleets],
        "demand": demand and _demand(demand, ways),
    }


def _inputs(work: PricedWork, draws: dict[str, int]) -> list[dict[str, Any]]:
    """The inputs, and then the assumptions that are not known."""
    inputs, found = work.basis.inputs, []
    drawn = uncertainty.draw(inputs)
    about: dict[str, Any]
    for each in inputs:
        low, high = each.range
        about = {"name": each.name, "label": each.label, "value": each.value}
        values = drawn[each.name]
        index = None
        if np.ndim(values):
            text = base64.b64encode(values.astype("<f4").tobytes()).decode()
            index = draws.setdefault(text, len(draws))
        found.append({**about, "low": low, "high": high, "remedy": each.remedy, "draws": index})
    for name in (field.name for field in fields(Values) if field.name not in drawn):
        about = {"name": name, "label": name, "value": None, "low": None, "high": None}
        found.append({**about, "remedy": "", "draws": None})
    return found


def _way(way: Way, fleets: list[Fleet], demand: Demand | None) -> dict[str, Any]:
    offer, system = way.offer, way.system
    names = "name kind usd usd_per_hour upfront_usd term_years usd_per_month price evidence"
    known = "full_w rated_w idle_w power_source"
    usd_per = None
    if way.api and demand:
        usd_per = [way.api.usd_per[unit] for unit in demand.api_units_per_month]
    return {
        "side": way.side,
        "offer": {name: getattr(offer, name) for name in names.split()},
        "system": {name: getattr(system, name) for name in known.split()},
        "notes": system.notes,
        "rate": way.rate,
        "fleet": next((i for i, each in enumerate(fleets) if each is way.fleet), None),
        "usd_per": usd_per,  # of a hosted API, by its unit
    }


def _fleet(fleet: Fleet) -> dict[str, Any]:
    units = fleet.capacities
    return {
        "side": fleet.side,
        "inputs": [capacity_name(fleet.side, unit) for unit in units],
        "capacities": [each.count for each in units.values()],
        "share": min(each.share for each in units.values()),
        "mixes": [
            {
                "counts": _by_unit(mix.counts, units),
                "has_others": not set(mix.counts) <= set(units),
                "is_limit": mix.is_limit,
            }
            for mix in fleet.mixes
        ],
    }


def _demand(demand: Demand, ways: Sequence[Way]) -> dict[str, Any]:
    units, api_units = list(demand.streams), list(demand.api_units_per_month)
    used = demand.api_use or {}
    stored, sent = (gb and _by_unit(gb, units, 0.0) for gb in (demand.storage_gb, demand.egress_gb))
    return {
        "units": units,
        "streams": list(demand.streams.values()),
        "shares": demand.profile.shares,
        "billing": demand.billing,
        "spare": demand.spare,
        "headroom": demand.headroom,
        "storage_gb": stored,
        "egress_gb": sent,
        "api_use": [
            [(api_units.index(work), amount) for work, amount in used.get(unit, {}).items()]
            for unit in units
        ],
        "notes": demand.notes,
    }


def _by_unit(counts: Mapping[str, float], units: Any, absent: float | None = None) -> list:
    return [counts.get(unit, absent) for unit in units]
