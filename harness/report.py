"""A comparison (harness.compare) in the forms people read: text, Markdown, CSV, JSON, an HTML page, a PDF."""

from __future__ import annotations

import base64
import csv as csv_module
import io
import json as json_module
import statistics
from pathlib import Path

from harness import cli
from harness.compare import NAMES

TEMPLATE = Path(__file__).with_name("report.html.j2")
# Metrics that may stand for a run.
SPEAKING = (
    "tokens_per_second",
    "frames_per_second",
    "rtfx",
    "streams",
    "calls",
    "users",
    "mask_map50_95",
    "perplexity",
    "requests_per_second",
    "request_latency_s",
)
ASSUMED = {
    "years": "years a server is kept", "utilization": "share of all hours with work", "usd_per_kwh": "USD per kWh",
    "pue": "power usage effectiveness of the site", "maintenance_share": "maintenance a year, share of the price",
    "load": "share of rated power drawn while working", "target_fps": "frames per second of a camera",
}  # fmt: skip


def words(metric: str) -> str:
    """A metric's name as one reads it."""
    return metric.removesuffix("_s").removesuffix("_j").removesuffix("_bytes").replace("_", " ").replace("rtfx", "RTFx")


def number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.2f}" if 10 <= abs(value) < 1e9 else f"{value:.3g}"


def amount(value: float, unit: str) -> str:
    return f"{value / 2**30:.3g} GiB" if unit == "bytes" else f"{number(value)} {unit}"


def interval(found: dict) -> str:
    return "no interval" if found["low"] is None else f"95 % CI {found['low']:.3f}–{found['high']:.3f}"


def telling(comparison: dict) -> tuple[str, dict]:
    """The metric to speak of: the headline, or, where that has no interval, the first that has one. (A server under load from a
    fixed number of clients does as many more requests as each takes less time: latency then tells what throughput can't.)"""
    ratios = list(comparison["ratios"].items())
    return next(((name, found) for name, found in ratios if found["low"] is not None and name in SPEAKING), ratios[0])


def sentence(comparison: dict) -> str:
    """What a comparison comes to."""
    about = comparison["label"]
    if comparison["unfair"]:
        return f"{about}: {comparison['side']} and {comparison['baseline']} can't be compared fairly ({'; '.join(comparison['unfair'])})."
    if not comparison["ratios"]:
        return f"{about}: {comparison['side']} and {comparison['baseline']} have no metric in common."
    metric, found = telling(comparison)
    sides = f"{comparison['side']} against {comparison['baseline']}"
    if found["verdict"] == "too few samples":
        return f"{about}: too few samples to tell {sides} apart in {words(metric)}; ratio {number(found['ratio'])}."
    if found["verdict"] == "no difference shown":
        return f"{about}: no difference shown in {words(metric)}, {sides}: {found['ratio']:.3f} times, {interval(found)}."
    return (f"{about}: {comparison['side']} is {found['verdict']} than {comparison['baseline']}, "
            f"{found['ratio']:.3f} times the {words(metric)} ({interval(found)}).")  # fmt: skip


def cost_sentences(row: dict) -> list[str]:
    """What a unit of work costs on either side, and when owning pays."""
    priced = [
        f"{number(side['usd_per_unit'])} on {name}" for name, side in row["sides"].items() if side["usd_per_unit"] is not None
    ]
    told = [f"{row['label']}: USD per {row['unit']}: {', '.join(priced)}."] if priced else []
    if row["missing"]:
        told.append(f"Cost is not known for want of {'; '.join(row['missing'])}.")
    if row["break_even"]:
        told.append(f"{row['label']}: {break_even_sentence(row['break_even'])}")
    return told


def break_even_sentence(even: dict) -> str:
    share = f"from {even['utilization']:.0%} of all hours on" if even["utilization"] is not None else "at no utilization"
    month = f"from month {even['month']} on" if even["month"] is not None else "not within its life"
    return (f"one {even['owned']} does the work of {even['instances']:.2f} {even['rented']}. Owning costs less {share}; as assumed, "
            f"{month}.")  # fmt: skip


def title(told: dict) -> str:
    return "Edge against cloud" if len(told["sides"]) > 1 else f"Performance of {next(iter(told['sides']))}"


def headlines(told: dict) -> list[str]:
    lines = [sentence(comparison) for comparison in told["comparisons"] if comparison["label"] in told["leading"]]
    if len(told["sides"]) == 1:
        lines = [f"{run['label']}: {amount(run['value'], run['unit'])} ({words(run['headline'])}"
                 + ("" if not run["ci95"] else ", 95 % CI {:.4g}–{:.4g}".format(*run["ci95"])) + ")." for run in told["runs"][:20]]  # fmt: skip
    elif not lines:
        lines = ["Nothing to compare: no other side did the same work as the baseline."]
    lines += [line for row in told["costs"] if row["label"] in told["leading"] for line in cost_sentences(row)]
    return list(dict.fromkeys(lines))


def ratio_rows(told: dict) -> list[dict]:
    """Every ratio, flat."""
    return [
        {"work": c["label"], "metric": metric, "unit": c["units"][metric], "baseline": c["baseline"], "side": c["side"],
         "baseline_median": r["baseline"], "side_median": r["side"], "ratio": r["ratio"], "ci95_low": r["low"], "ci95_high": r["high"],
         "better": r["better"], "verdict": r["verdict"]}
        for c in told["comparisons"] for metric, r in c["ratios"].items()
    ]  # fmt: skip


def json(told: dict) -> str:
    return json_module.dumps(told, indent=1, ensure_ascii=False) + "\n"


def csv(told: dict) -> str:
    rows = ratio_rows(told)
    buffer = io.StringIO()
    names = ["work", "metric", "unit", "baseline", "side", "baseline_median", "side_median", "ratio", "ci95_low", "ci95_high",
             "better", "verdict"]  # fmt: skip
    writer = csv_module.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def tables(told: dict) -> list[tuple[str, list[str], list[list[str]]]]:
    """The report's tables: (title, headings, rows)."""
    found = []
    rows = [[r["work"], words(r["metric"]), r["side"], amount(r["side_median"], r["unit"]), r["baseline"], amount(r["baseline_median"], r["unit"]),
             number(r["ratio"]), "–" if r["ci95_low"] is None else f"{r['ci95_low']:.3f}–{r['ci95_high']:.3f}", r["verdict"]]
            for r in ratio_rows(told)]  # fmt: skip
    if rows:
        headings = ["Work", "Metric", "Side", "Median", "Baseline", "Median", "Ratio", "95 % CI", "Side is"]
        found.append(("Ratios", headings, rows))
    rows = [[c["label"], f"{c['side']} / {c['baseline']}", name, theirs, ours]
            for c in told["comparisons"] for name, (ours, theirs) in c["differences"].items()]  # fmt: skip
    if rows:
        found.append(("What differs between the sides", ["Work", "Sides", "What", "Side", "Baseline"], rows))
    rows = [[r["label"], r["unit"], name, number(side["units_per_hour"]), number(side["usd_per_hour"]), number(side["usd_per_unit"])]
            for r in told["costs"] for name, side in r["sides"].items()]  # fmt: skip
    if rows:
        found.append(("Cost", ["Work", "Unit", "Side", "Units per hour", "USD per hour in use", "USD per unit"], rows))
    for row in told["costs"]:
        if row["sensitivity"] and row["label"] in told["leading"]:
            even = row["break_even"]
            name = f"Sensitivity: {row['label']}, {row['unit']}"
            headings = ["Changed", f"{even['owned']}, USD per unit", f"{even['rented']}, USD per unit", "Owning costs less from utilization",
                        "and from month"]  # fmt: skip
            found.append((name, headings, [
                [s["changed"], number(s["owned_usd_per_unit"]), number(s["rented_usd_per_unit"]),
                 "never" if s["break_even_utilization"] is None else f"{s['break_even_utilization']:.0%}",
                 "never" if s["break_even_month"] is None else str(s["break_even_month"])] for s in row["sensitivity"]]))  # fmt: skip
    rows = []
    for side, known in told["sides"].items():
        price = known["price"] or {}
        amounts = [f"{price['usd']:,.2f} USD" if price.get("usd") is not None else None,
                   f"{price['usd_per_hour']:g} USD per hour" if price.get("usd_per_hour") is not None else None]  # fmt: skip
        power = f"{price['power_w']:g} W" if price.get("power_w") is not None else "unknown"
        rows.append([side, known["machine"], str(known["runs"]), " or ".join(filter(None, amounts)) or "unknown",
                     price.get("price_source", "unknown"), power, price.get("power_source", "unknown")])  # fmt: skip
    found.append(("Systems", ["Side", "Machine", "Runs", "Price", "Source", "Power at work", "Source"], rows))
    rows = [[ASSUMED[name], f"{entry['value']:g}", entry["source"]] for name, entry in told["assumptions"].items()]
    if told["costs"]:
        found.append(("Assumptions", ["What", "Value", "Source"], rows))
    rows = [[r["side"], r["label"], f"{number(r['value'])} {r['unit']}", "–" if not r["ci95"] else "{:.4g}–{:.4g}".format(*r["ci95"]),
             ", ".join(f"{k} {v}" for k, v in r["setting"].items() if v), r["finished_at"], str(r["warnings"]), Path(r["record"]).name]
            for r in told["runs"][:500]]  # fmt: skip
    name = "Runs" if len(told["runs"]) <= 500 else f"Runs (the first 500 of {len(told['runs'])})"
    found.append((name, ["Side", "Work", "Result", "95 % CI", "Setting", "Finished", "Warnings", "Record"], rows))
    return found


def notes(told: dict) -> list[str]:
    """What speaks against the figures, and what was left out."""
    found = [f"{c['label']}: {note}" for c in told["comparisons"] for note in c["notes"]]
    return list(dict.fromkeys(found)) + [f"skipped: {line}" for line in told["skipped"]]


METHOD = (
    "A ratio is the side's median over the baseline's; with several runs, the median over runs of the runs' medians. Its 95 % "
    "confidence interval is the percentile bootstrap's, over samples, and over runs where there are several. An interval that holds "
    "1 shows no difference.",
    "Runs are compared where they did the same work with the same model, weight format, precision, runtime and device.",
    "Cost per hour in use of an owned server: price / years + price × maintenance share, over 8,760 hours × utilization, plus power × "
    "PUE × price per kWh. Of a rented instance: its price per hour, while it works. harness/cost.py has all formulas.",
)


def text(told: dict) -> str:
    """For the terminal: the headlines, the ratios, what speaks against them."""
    shown = ["Ratios", "What differs between the sides", "Cost"]
    if any(side["usd_per_unit"] is not None for row in told["costs"] for side in row["sides"].values()):
        shown += ["Systems", "Assumptions"]
    lines = [*headlines(told), ""]
    for name, headings, rows in tables(told):
        if name in shown:
            lines += [name, *(f"  {line}" for line in cli.columns([headings, *rows])), ""]
    lines += [f"note: {note}" for note in notes(told) if not note.startswith("skipped: ")]
    return "\n".join(lines).rstrip() + "\n"


def markdown(told: dict) -> str:
    def row(cells):
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    lines = [f"# {title(told)}", "", *(f"- {line}" for line in headlines(told)), ""]
    for name, headings, rows in tables(told):
        lines += [f"## {name}", "", row(headings), row(["---"] * len(headings)), *map(row, rows), ""]
    if notes(told):
        lines += ["## Notes", "", *(f"- {note}" for note in notes(told)), ""]
    lines += ["## Method", "", *(f"- {line}" for line in METHOD)]
    return "\n".join(lines) + "\n"


def charts(told: dict) -> list:
    """The report's charts, those there is something to draw for."""
    from harness import charts as draw

    found = []
    rows = []
    for c in told["comparisons"]:
        if c["ratios"]:
            _, r = telling(c)
            if r["ratio"]:
                turned = [r["ratio"], r["low"], r["high"]] if r["better"] == "higher" else [
                    1 / r["ratio"], r["high"] and 1 / r["high"], r["low"] and 1 / r["low"]]  # fmt: skip
                rows.append((f"{c['side']}: {c['label']}", *turned))
    if rows:
        found.append(draw.ratios(rows[:25], told["baseline"]))
    sides = list(told["sides"])
    costs = [row for row in told["costs"] if row["label"] in told["leading"]]
    rows = [(row["unit"], name, side["usd_per_unit"]) for row in costs for name, side in row["sides"].items()
            if side["usd_per_unit"]]  # fmt: skip
    if rows:
        found.append(draw.per_dollar(list(dict.fromkeys(rows))[:20], sides))
    for entry in told["distributions"].values():
        if entry["label"] not in told["leading"]:
            continue
        if len(entry["latency_samples"]) == len(sides) or len(entry["latency_samples"]) > 1:
            found.append(
                draw.latencies(
                    f"Latency: {entry['label']}", f"{words(entry['latency'])}, seconds", entry["latency_samples"], sides
                )
            )
    found += [draw.curves(*curve, sides) for curve in curves(told)]
    for row in told["costs"]:
        if row["over_time"] and row["label"] in told["leading"]:
            even = row["break_even"]
            found.append(
                draw.cost_over_time(
                    f"{row['label']}, {row['unit']}", even["owned"], even["rented"], row["over_time"], even["month"]
                )
            )
    return found


def curves(told: dict) -> list[tuple]:
    """(title, across, axis, lines) for every workload measured at several concurrencies or numbers of threads."""
    found = []
    for across, of in (("requests at a time", lambda run: run["concurrency"]), ("threads", lambda run: run["threads"])):
        for workload in dict.fromkeys(run["workload"] for run in told["runs"]):
            measured: dict[str, dict[float, list[float]]] = {}
            for run in told["runs"]:
                if run["workload"] == workload and of(run):
                    measured.setdefault(run["side"], {}).setdefault(float(of(run)), []).append(run["value"])
                    axis = words(run["headline"])
            if any(len(points) > 1 for points in measured.values()):
                lines = {
                    side: [(x, statistics.median(values)) for x, values in points.items()] for side, points in measured.items()
                }
                found.append((f"{NAMES[workload]} over {across}", across, axis, lines))
    return found


def html(told: dict) -> bytes:
    """One page that needs nothing else."""
    import jinja2

    def uri(chart, theme: str) -> str:
        return "data:image/svg+xml;base64," + base64.b64encode(chart.render(theme, "svg")).decode()

    drawn = [{"title": c.title, "alt": c.alt, "light": uri(c, "light"), "dark": uri(c, "dark")} for c in charts(told)]
    template = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        TEMPLATE.read_text(encoding="utf-8")
    )
    return template.render(
        title=title(told),
        told=told,
        headlines=headlines(told),
        charts=drawn,
        tables=tables(told),
        notes=notes(told),
        method=METHOD,
    ).encode()


def pdf(told: dict) -> bytes:
    """The same, to print and send."""
    import matplotlib
    from fpdf import FPDF
    from fpdf.fonts import FontFace

    fonts = Path(matplotlib.get_data_path()) / "fonts/ttf"
    page = FPDF(format="A4", unit="mm")
    page.set_title(title(told))
    page.set_lang("en")
    page.set_margin(16)
    page.add_font("sans", "", fonts / "DejaVuSans.ttf")
    page.add_font("sans", "B", fonts / "DejaVuSans-Bold.ttf")
    page.add_page()

    def say(line: str, size: float, style: str = "", gap: float = 1.5) -> None:
        page.set_font("sans", style, size)
        page.multi_cell(0, size * 0.5, line, align="L", new_x="LMARGIN", new_y="NEXT")
        page.ln(gap)

    say(title(told), 20, "B")
    say(f"Baseline {told['baseline']} · {len(told['runs'])} runs · made {told['made_at'][:16].replace('T', ' ')} UTC", 8, gap=4)
    for line in headlines(told):
        say(line, 10.5, gap=2)
    for chart in charts(told):
        width, high = page.epw, page.epw * chart.size[1] / chart.size[0]
        if page.get_y() + high + 12 > page.page_break_trigger:
            page.add_page()
        page.ln(3)
        say(chart.title, 11, "B")
        page.image(io.BytesIO(chart.render("light", "png")), w=width, h=high, alt_text=chart.alt)
    for name, headings, rows in tables(told):
        page.ln(4)
        if page.get_y() + 30 > page.page_break_trigger:
            page.add_page()
        say(name, 11, "B")
        page.set_font("sans", "", 6.5)
        widths = [max(6, min(40, max(len(row[i]) for row in [headings, *rows]))) for i in range(len(headings))]
        with page.table(col_widths=widths, line_height=3.6, text_align="LEFT", borders_layout="HORIZONTAL_LINES",
                        headings_style=FontFace(emphasis="BOLD")) as table:  # fmt: skip
            for cells in [headings, *rows]:
                table.row(cells)
    for name, lines in (("Notes", notes(told)), ("Method", METHOD)):
        if lines:
            page.ln(4)
            say(name, 11, "B")
            for line in lines:
                say(line, 8)
    return bytes(page.output())
