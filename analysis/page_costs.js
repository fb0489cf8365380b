// What a page says of costs that costModel (page_model.js) has priced: page_costs.py, in the same
// words.
"use strict";
const costPage = (() => {
  const MAX_SWINGS = 6, BARS = 6, GROUPS = 3, MAX_PRICES = 160;
  const SURE = 0.9, ALMOST_CERTAIN = 0.99;

  // Numbers, as analysis/text.py and cost.py print them.

  function fixed(value, digits) {
    const options = { minimumFractionDigits: digits, maximumFractionDigits: digits };
    return new Intl.NumberFormat("en-US", { ...options, roundingMode: "halfEven" }).format(value);
  }
  function general(value, digits) {  // Python's format ".3g"
    if (value === 0 || !isFinite(value)) return value === 0 ? "0" : String(value).slice(0, 3);
    const [mantissa, exponent] = value.toExponential(digits - 1).split("e");
    if (exponent < -4 || exponent >= digits) {
      const sign = exponent < 0 ? "-" : "+";
      return `${Number(mantissa)}e${sign}${String(Math.abs(exponent)).padStart(2, "0")}`;
    }
    return Number(value.toPrecision(digits)).toFixed(Math.max(0, digits - 1 - exponent))
      .replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");
  }
  const money = (value) => {
    const size = Math.abs(value);
    if (size >= 1000 && size < 1e21) return fixed(value, 0);
    return size >= 10 ? fixed(value, 2) : general(value, 3);
  };
  const between = (low, high) => low === high ? "" : ` (${low}–${high})`;
  const describe = (e, unit = "") =>
    `${money(e.value)}${unit}${between(money(e.low), money(e.high))}`;
  const whole = (e) => `${general(e.value, 3)}${between(fixed(e.low, 0), fixed(e.high, 0))}`
    .replaceAll(",", "");
  const percent = (share) =>
    share > 0.99 ? "over 99 %" : share < 0.01 ? "under 1 %" : `${fixed(100 * share, 0)}%`;
  const percents = (share) => `${fixed(100 * share, 0).replaceAll(",", "")}%`;
  const factor = (e) => `${percents(e.value)} (${percents(e.low)}–${percents(e.high)})`;
  const month = (value) => isFinite(value) ? fixed(value, 0).replaceAll(",", "") : "never";
  const months = (even) => even.month
    ? month(even.month.value) + between(month(even.month.low), month(even.month.high)) : "never";
  const named = (a) => `${a.side}, ${a.offer}`;
  function remarks(works) {
    const marks = [...new Set(works.flatMap((work) => work.marks))];
    return marks.length ? [`Note: ${marks.join("; ")}.`] : [];
  }

  function candidates(work) {
    const some = work.alternatives.filter((a) => a.least !== null);
    const found = some.length ? some : [...work.alternatives];
    return found.sort((a, b) => a.usd.value - b.usd.value);
  }
  const isDecided = (work) => work.alternatives.filter((a) => a.least !== null).length > 1;
  const shareOf = (d, name) => d.first === name ? d.probability : 1 - d.probability;
  function mainDecision(work) {
    const least = named(candidates(work)[0]);
    const of = ({ decision: d }) => d.first === least || d.other === least;
    return work.break_evens.filter(of).reduce((a, b) =>
      a && shareOf(a.decision, least) <= shareOf(b.decision, least) ? a : b, null);
  }
  const rounded = (value) => money(Number(value.toPrecision(3)));
  function about(usd) {
    const [value, low, high] = [usd.value, usd.low, usd.high].map(rounded);
    return `${value} USD${low === high ? "" : ` (90 % range ${low}–${high})`}`;
  }
  function leftOut(even) {
    const names = [even.decision.first, even.decision.other];
    const found = even.left_out.map((items, i) =>
      items.length ? `${items.join(" and ")} of ${names[i]}` : "");
    if (found[0] && even.room_usd > 0) {
      found[0] += ` (at ${money(even.room_usd)} USD per server and month both cost the same)`;
    }
    return found.some(Boolean) ? [`Not in it: ${found.filter(Boolean).join("; ")}.`] : [];
  }
  const isSure = (least) => least.least !== null && least.least >= SURE;
  function answer(work, years) {
    const [least] = candidates(work), even = mainDecision(work);
    const count = least.machines ? whole(least.machines) : "";
    const per = count ? `over ${general(years, 6)} years` : `per ${work.unit}`;
    const cost = count && count !== "1" ? "cost" : "costs";
    const claim = isDecided(work) && isSure(least) ? " least:" : "";
    const line = `${count ? `${count} × ` : ""}${named(least)}, ${cost}${claim} ` +
      `${about(least.usd)} ${per}.`;
    const open = isDecided(work) && !isSure(least) ? "Not decided: " : "";
    const label = work.label ? `${work.label}: ` : "";
    const leftOuts = even ? leftOut(even) : [];
    const noted = [...remarks([work]), ...leftOuts, ...unknown([work]), ...prices([work])];
    return [label + open + line, certainty(work), noted.join(" ")];
  }
  function unknown(works) {
    const missing = [...new Set(works.flatMap((work) => work.missing))];
    return missing.length ? [`Not known: ${missing.join("; ")}.`] : [];
  }
  function prices(works) {
    const found = new Set(works.flatMap((work) => candidates(work).map((a) => a.evidence)));
    const said = `Prices: ${[...found].join("; ")}.`;
    return [...said].length <= MAX_PRICES ? [said] : [];
  }
  function overall(works) {
    const leasts = works.map((work) => candidates(work)[0]), wins = new Map();
    for (const name of leasts.filter(isSure).map(named)) wins.set(name, (wins.get(name) || 0) + 1);
    let line = `The data do not decide what costs least for any of ${works.length} works.`;
    if (wins.size) {
      const [name, count] = [...wins].reduce((a, b) => b[1] > a[1] ? b : a);
      const of = count === works.length ? "all" : `${count} of`;
      const undecided = works.length - leasts.filter(isSure).length;
      line = `${name}, costs least for ${of} ${works.length} works.` +
        (undecided ? ` ${undecided} not decided.` : "");
    }
    const several = new Set(leasts.map(named)).size > 1;
    const sure = works.map((work, i) => `${work.label || work.unit}: ` +
      `${several ? `${named(leasts[i])}, ` : ""}${percent(leasts[i].least ?? 0)}` +
      `${isSure(leasts[i]) ? "" : ", not decided"}`);
    const probable = `Probability that it costs least: ${sure.join("; ")}.`;
    const noted = [...remarks(works), ...unknown(works), ...prices(works)];
    return [line, probable, noted.join(" ")];
  }
  function certainty(work) {
    if (!isDecided(work)) {
      return "No verdict: fewer than two ways to have it done are priced in full.";
    }
    const [least, other, ...others] = candidates(work), share = least.least ?? 0;
    let line = `${percent(share)} that it costs less than ${named(other)} ` +
      `(${rounded(other.usd.value)} USD)`;
    if (others.length) line += ` and the ${others.length} other${others.length > 1 ? "s" : ""}`;
    if (isSure(least)) {
      return `${share > ALMOST_CERTAIN ? "Almost certain" : "Very likely"}: ${line}.`;
    }
    const even = mainDecision(work), swings = even ? even.decision.swings : [];
    return `${line}.` + (swings.length ? ` What would narrow it most: ${swings[0].remedy}.` : "");
  }
  function costChart(works) {
    const several = works.length > 1;
    const rows = works.slice(0, GROUPS).flatMap((work) => {
      const isDemand = work.alternatives.some((a) => a.machines);
      const unit = isDemand ? "" : `USD per ${work.unit}`;
      const group = [work.label, unit].filter(Boolean).join(": ");
      const sorted = [...work.alternatives].sort((a, b) => a.usd.value - b.usd.value);
      return sorted.slice(0, several ? 2 : BARS).map((a) => {
        const name = `${a.machines ? `${whole(a.machines)} × ` : ""}${named(a)}`;
        const range = about(a.usd).replace("90 % range ", "");
        const text = unit ? range.replace(" USD", "") : range;
        return { name, side: a.side, value: a.usd.value, text, low: a.usd.low,
          high: a.usd.high, group };
      });
    });
    const some = works.length > GROUPS ? ` (${GROUPS} of ${works.length} works)` : "";
    return { kind: "bars", title: `Cost, with 90 % ranges${some}`, rows };
  }
  function costTables(work) {
    const about = work.label ? `: ${work.label}, ${work.unit}` : `: ${work.unit}`;
    const isDemand = work.alternatives.some((a) => a.machines);
    const unit = isDemand ? "USD over the years" : `USD per ${work.unit}`;
    const count = (a) => isDemand ? [a.machines ? whole(a.machines) : "–"] : [];
    const ways = work.alternatives.map((a) => [a.side, a.offer, ...count(a), describe(a.usd),
      a.without.join(", ") || "–", a.evidence]);
    const items = work.alternatives.flatMap((a) => a.items.map((item) => [named(a), item.name,
      item.usd === null ? "unknown" : money(item.usd), item.source]));
    const pairs = work.break_evens.map((even) => {
      const d = even.decision, share = even.utilization;
      return [d.first, d.other, percent(d.probability), months(even),
        share === null ? "–" : percents(share), ...d.flips.map(factor), describe(even.instances)];
    });
    const swings = work.break_evens.map(({ decision: d }) => table(
      `What decides: ${d.first} against ${d.other}${about}`,
      "What|90 % range|Saved at low|Saved at high|Changes the answer|Narrowed by",
      d.swings.slice(0, MAX_SWINGS).map((s) => [s.label,
        `${general(s.low, 4)}–${general(s.high, 4)}`, money(s.usd_at_low), money(s.usd_at_high),
        isTurning(s) ? "yes" : "no", s.remedy])));
    const machines = isDemand ? "Machines|" : "";
    return {
      costs: [
        table(`Cost${about}`, `Side|Paid|${machines}${unit} (90 %)|Without|Price from`, ways),
        table(`Line items${about}`, "Way|Item|USD, present value|From", items),
      ].filter(({ rows }) => rows.length),
      pairs: [table(`Owning against renting${about}`, "Owned|Rented|Owning costs less with " +
        "probability|from month|from utilization|at purchase price ×|at rent ×|Rented machines",
      pairs)],
      swings: swings.filter(({ rows }) => rows.length),
    };
  }
  const table = (title, headings, rows) => ({ title, headings: headings.split("|"), rows });

  const isTurning = (swing) => (swing.usd_at_low > 0) !== (swing.usd_at_high > 0);
  function timeTitle(even) {
    const [owned, rented] = even.curves.map((curve) => curve.name);
    if (even.month) return `${owned}: cheaper from month ${months(even)} on than ${rented}`;
    const last = even.curves[0].usd.length - 1;
    return `${owned}: not cheaper than ${rented} within ${last} months`;
  }
  function decidesTitle({ decision: { swings } }) {
    if (!swings.length) return "No figure has a range that could change the answer";
    const changing = swings.find(isTurning);
    if (changing) return `“${changing.label}” alone can change the answer`;
    return `No single figure changes the answer; most hangs on “${swings[0].label}”`;
  }
  function flips(even) {
    const { first, other, flips: found } = even.decision;
    return [first, other].map((name, i) => found[i].value > 0
      ? `Both cost the same at ${factor(found[i])} of the ${even.paid[i]} of ${name}.` : "")
      .filter(Boolean);
  }
  function timeChart(even, work) {
    const sideOf = (name) => work.alternatives.find((a) => named(a) === name).side;
    const lines = even.curves.map((curve, i) => ({
      name: curve.name, side: sideOf(curve.name), dashed: i === 1,
      points: curve.usd.map((usd, at) => [at, usd]), low: curve.low, high: curve.high,
    }));
    const [owned] = even.curves, at = even.month && even.month.value;
    const mark = even.month && { low: even.month.low, high: even.month.high, x: at,
      y: owned.usd[at], text: `month ${months(even)}` };
    const title = "USD paid by the end of each month, with 90 % ranges";
    return { kind: "lines", title, lines, x: "months", y: "USD, present value", mark };
  }
  function tornado({ decision: d }) {
    const rows = d.swings.slice(0, MAX_SWINGS).map((s) => ({
      name: s.label, at: [s.usd_at_low, s.usd_at_high],
      text: `${general(s.low, 4)}–${general(s.high, 4)}: ` +
        `${money(s.usd_at_low)} to ${money(s.usd_at_high)} USD`,
    }));
    const title = `What ${d.first} saves over ${d.other}, USD, as each figure goes through its ` +
      "90 % range; below 0 it saves nothing";
    return { kind: "tornado", title, rows, value: d.saved.value };
  }
  function costSections(work) {
    const tables = costTables(work), [least] = candidates(work), even = mainDecision(work);
    const what = work.label ? `${work.label}: ` : "";
    const charts = [costChart([work])];
    const verdict = isSure(least) ? `${named(least)}, costs least`
      : "The data do not decide what costs least";
    const title = what + (isDecided(work) ? verdict : `What ${named(least)}, costs`);
    const made = { cost: { title,
      lines: [...(even ? leftOut(even) : []), ...unknown([work])],
      charts, tables: tables.costs } };
    if (!even) return made;
    made.time = { title: timeTitle(even), lines: [], charts: [timeChart(even, work)],
      tables: tables.pairs };
    made.decides = { title: decidesTitle(even), lines: flips(even),
      charts: even.decision.swings.length ? [tornado(even)] : [], tables: tables.swings };
    return made;
  }

  return { answer, costChart, costSections, general, money, overall };
})();
