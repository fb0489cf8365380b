"""What a page says of costs, and what its reader may change of them.

page_costs.js says the same in the same words when a figure was changed; tests/analysis/test_page.py
holds both together.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from analysis import cost
from analysis.assumptions import PLAIN
from analysis.page_parts import Chart, Row, Section
from analysis.pricing import Alternative, BreakEven, PricedWork
from analysis.report import Report
from analysis.uncertainty import UNDECIDED, Decision, Estimate

ALMOST_CERTAIN, SURE = 0.99, UNDECIDED[1]  # probabilities
BARS, GROUPS, MAX_PRICES = 6, 3, 160  # rows, works, characters
FIRST = ("utilization", "years", "usd_per_kwh", "purchase_price_factor", "rental_price_factor")
Answer = tuple[str, str, str]  # what it is, how sure, and what a reader must know of it


def candidates(work: PricedWork) -> list[Alternative]:
    """The alternatives that are decided between, the cheapest first; all where none is."""
    some = [a for a in work.alternatives if a.least is not None] or work.alternatives
    return sorted(some, key=lambda a: a.usd.value)


def is_decided(work: PricedWork) -> bool:
    """Whether there are two ways, priced in full, to decide between."""
    return sum(a.least is not None for a in work.alternatives) > 1


def main_decision(work: PricedWork) -> BreakEven | None:
    """Of the cheapest alternative's decisions the least sure one."""
    if not work.break_evens:
        return None
    least = candidates(work)[0].name
    of_it = [e for e in work.break_evens if least in (e.decision.first, e.decision.other)]
    return min(of_it, key=lambda even: _share(even.decision, least))


def _share(d: Decision, name: str) -> float:
    """The probability that `name` costs less."""
    return d.probability if d.first == name else 1 - d.probability


def answer(work: PricedWork, years: float) -> Answer:
    least, even = candidates(work)[0], main_decision(work)
    count = cost.whole(least.machines) if least.machines else ""
    per = f"over {years:g} years" if count else f"per {work.unit}"
    costs = "costs" if count in ("", "1") else "cost"
    claim = " least:" if is_decided(work) and is_sure(least) else ""
    line = f"{count} × {least.name}" if count else least.name
    line += f", {costs}{claim} {about(least.usd)} {per}."
    line = f"Not decided: {line}" if is_decided(work) and not is_sure(least) else line
    line = f"{work.label}: {line}" if work.label else line
    left_out = cost.left_out(even) if even else []
    noted = [*remarks([work]), *left_out, *unknown([work]), *prices([work])]
    return line, certainty(work), " ".join(noted)


def remarks(works: Sequence[PricedWork]) -> list[str]:
    """What every sentence about the works has to say."""
    marks = dict.fromkeys(mark for work in works for mark in work.marks)
    return [f"Note: {'; '.join(marks)}."] if marks else []


def is_sure(least: Alternative) -> bool:
    return least.least is not None and least.least >= SURE


def unknown(works: Sequence[PricedWork]) -> list[str]:
    """Which side has no price, in a sentence, or none."""
    missing = list(dict.fromkeys(why for work in works for why in work.missing))
    return [f"Not known: {'; '.join(missing)}."] if missing else []


def about(usd: Estimate) -> str:
    """'301,000 USD (90 % range 262,000–349,000)'"""
    value, low, high = (cost.money(float(f"{v:.3g}")) for v in (usd.value, usd.low, usd.high))
    return f"{value} USD" + (f" (90 % range {low}–{high})" if low != high else "")


def prices(works: Sequence[PricedWork]) -> list[str]:
    """What the prices are from, in a sentence; none where there is more than fits."""
    found = list(dict.fromkeys(a.evidence for work in works for a in candidates(work)))
    said = f"Prices: {'; '.join(found)}."
    return [said] if len(said) <= MAX_PRICES else []


def overall(works: Sequence[PricedWork]) -> Answer:
    leasts = [candidates(work)[0] for work in works]
    wins = Counter(least.name for least in leasts if is_sure(least))
    line = f"The data do not decide what costs least for any of {len(works)} works."
    if wins:
        name, count = max(wins.items(), key=lambda each: each[1])
        of = "all" if count == len(works) else f"{count} of"
        line = f"{name}, costs least for {of} {len(works)} works."
        undecided = len(works) - sum(wins.values())
        line += f" {undecided} not decided." if undecided else ""
    sure = []
    for work, least in zip(works, leasts):
        who = "" if len({each.name for each in leasts}) == 1 else f"{least.name}, "
        decided = "" if is_sure(least) else ", not decided"
        share = cost.percent(least.least or 0.0)
        sure.append(f"{work.label or work.unit}: {who}{share}{decided}")
    probable = f"Probability that it costs least: {'; '.join(sure)}."
    return line, probable, " ".join([*remarks(works), *unknown(works), *prices(works)])


def certainty(work: PricedWork) -> str:
    if not is_decided(work):
        return "No verdict: fewer than two ways to have it done are priced in full."
    least, other, *others = candidates(work)
    share, usd = least.least or 0.0, cost.money(float(f"{other.usd.value:.3g}"))
    line = f"{cost.percent(share)} that it costs less than {other.name} ({usd} USD)"
    if others:
        line += f" and the {len(others)} other{'s' * (len(others) > 1)}"
    if is_sure(least):
        return f"{'Almost certain' if share > ALMOST_CERTAIN else 'Very likely'}: {line}."
    even = main_decision(work)
    swings = even.decision.swings if even else []
    return f"{line}." + (f" What would narrow it most: {swings[0].remedy}." if swings else "")


def cost_chart(works: Sequence[PricedWork]) -> Chart:
    rows = []
    for work in works[:GROUPS]:
        several = len(works) > 1
        unit = f"USD per {work.unit}" if not any(a.machines for a in work.alternatives) else ""
        for a in sorted(work.alternatives, key=lambda a: a.usd.value)[: 2 if several else BARS]:
            name = f"{cost.whole(a.machines)} × {a.name}" if a.machines else a.name
            text = about(a.usd).replace("90 % range ", "")
            text = text.replace(" USD", "") if unit else text
            group = ": ".join(filter(None, [work.label, unit]))
            rows.append(Row(name, a.side, a.usd.value, text, a.usd.low, a.usd.high, group))
    some = f" ({GROUPS} of {len(works)} works)" if len(works) > GROUPS else ""
    return Chart("bars", f"Cost, with 90 % ranges{some}", rows)


def cost_sections(work: PricedWork) -> list[Section]:
    """What a slider changes."""
    what = f"{work.label}: " if work.label else ""
    first, *rest = cost.tables(work)
    swings = [t for t in rest if t.title.startswith("What decides")]
    pairs = [t for t in rest if t.title.startswith("Owning")]
    items = [t for t in rest if t not in swings and t not in pairs]
    even = main_decision(work)
    made = [
        Section(
            "cost",
            what + _verdict(work),
            [*(cost.left_out(even) if even else []), *unknown([work])],
            [cost_chart([work])],
            [first, *items],
        )
    ]
    if even:
        made += [
            Section("time", time_title(even), tables=pairs),
            Section("decides", decides_title(even), flips(even), tables=swings),
        ]
    return made


def _verdict(work: PricedWork) -> str:
    least = candidates(work)[0]
    if not is_decided(work):
        return f"What {least.name}, costs"
    undecided = "The data do not decide what costs least"
    return f"{least.name}, costs least" if is_sure(least) else undecided


def time_title(even: BreakEven) -> str:
    owned = even.curves[0].name
    if even.month:
        return f"{owned}: cheaper from month {cost.months(even)} on than {even.curves[1].name}"
    last = len(even.curves[0].usd) - 1
    return f"{owned}: not cheaper than {even.curves[1].name} within {last} months"


def decides_title(even: BreakEven) -> str:
    swings = even.decision.swings
    if not swings:
        return "No figure has a range that could change the answer"
    changing = [s.label for s in swings if s.flips]
    if not changing:
        return f"No single figure changes the answer; most hangs on “{swings[0].label}”"
    return f"“{changing[0]}” alone can change the answer"


def flips(even: BreakEven) -> list[str]:
    """At which price the other one would be chosen."""
    d = even.decision
    return [
        f"Both cost the same at {cost.factor(flip)} of the {price} of {name}."
        for name, flip, price in zip((d.first, d.other), d.flips, even.paid)
        if flip.value > 0
    ]


@dataclass(frozen=True)
class Slider:
    """A figure that a reader may change; `name` is that of an assumption, or demand.UNIT."""

    name: str
    label: str
    unit: str
    value: float
    low: float
    high: float
    least: float
    most: float
    step: float
    usd: float | None = None  # a price that the figure is a factor on
    is_first: bool = True  # shown without unfolding


def sliders(found: Report) -> list[Slider]:
    made = []
    demand = found.demand and found.demand.work.basis.demand
    for unit, count in (demand.streams if demand else {}).items():
        step = max(1.0, _step(count * 4))
        about = f"demand.{unit}", unit, ""
        made.append(Slider(*about, count, count, count, step, 4 * count, step))
    for a in found.assumptions.values():
        if a.value is None or a.low is None or a.high is None:
            continue
        least, most = a.allowed
        if (least, most) != (0, 1) and a.name != "utilization":
            reach = max(a.high, 2 * a.value) or 1.0
            least, most = max(least, min(a.low, a.value / 4)), min(most, reach)
        step = _step(most - least)
        least = float(f"{math.ceil(least / step - 1e-9) * step:.10g}")
        usd = _price(found, a.name)
        figures = a.value, a.low, a.high, least, most, step, usd
        unit = "" if a.unit in PLAIN else a.unit
        made.append(Slider(a.name, a.label, unit, *figures, a.name in FIRST))
    return sorted(made, key=lambda slider: not slider.is_first)


def _step(span: float) -> float:
    """Some 100 steps, each 1, 2 or 5 times a power of ten."""
    power = 10 ** math.floor(math.log10(span / 100))
    return next(power * each for each in (1, 2, 5, 10) if power * each >= span / 100.001)


def _price(found: Report, name: str) -> float | None:
    """The first price that a factor is on."""
    for side in found.sides.values():
        for offer in side.price.offers if side.price else ():
            if name == "purchase_price_factor" and offer.is_owned:
                return float(offer.usd)
            if name == "rental_price_factor" and not offer.is_owned and offer.usd_per_hour:
                return float(offer.usd_per_hour)
    return None
