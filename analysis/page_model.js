/* Prices a work again in a page, where its reader changes an input: the formulas of docs/cost.md
 * and docs/sizing.md.
 *
 * A function is that of the same name in analysis/tco.py, sizing.py, uncertainty.py or pricing.py,
 * for one set of values where that one takes all draws as arrays. tests/analysis/test_page_model.py
 * holds both together. Units of a demand are numbers here, the indexes of its `units`.
 */
"use strict";
const costModel = (() => {
  const HOURS_PER_MONTH = 730, HOURS = 24;
  const ALMOST = 1e-9; // of a month or a term
  const EPSILON = 1e-9; // so that rounding errors make no whole number another one
  const LOW = 0.05, HIGH = 0.95; // the probabilities between which a 90 % range lies
  const CURVE_DRAWS = 400; // behind the band of a curve of cost over time

  const sum = (values) => values.reduce((total, each) => total + each, 0);
  const distinct = (values) => [...new Set(values)];
  const has = (object, name) => Object.prototype.hasOwnProperty.call(object, name);
  const shortest = (value) => String(Number(value.toPrecision(6))); // Python's :g
  const english = (value, options) => value.toLocaleString("en-US", options);

  // ---- tco.py: use has machines, busy_share, on_share, storage_gb, egress_gb_per_month; v has the
  // values of the inputs by name, null where unknown

  const ASSUMED = {
    "residual": ["residual_share"],
    "maintenance": ["maintenance_share"],
    "energy": ["usd_per_kwh", "pue"],
    "rack space": ["rack_units_usd_per_month"],
    "administration": ["admin_usd_per_year"],
    "storage": ["usd_per_gb_month"],
    "egress": ["usd_per_gb_egress"],
  };
  const OWNED_ITEMS = ["residual", "maintenance", "energy", "rack space", "administration"];
  const RENTED_ITEMS = ["storage", "egress"];
  const is_owned = (offer) => offer.kind === "bought";

  function items(offer, system, use, v) {
    const paid = Object.entries(flows(offer, system, use, v)).map(
      ([name, each]) => [name, paid_of_all(each, Infinity, v)]);
    return Object.fromEntries(paid.filter(([, usd]) => usd !== 0));
  }

  function missing(offer, system, use, v) {
    const known = flows(offer, system, use, v);
    const wanted = offer.kind === "hosted API" ? [] : is_owned(offer) ? OWNED_ITEMS : RENTED_ITEMS;
    const beyond = is_owned(offer) && use.storage_gb ? ["storage beyond its own disks"] : [];
    return [...wanted.filter((name) => !has(known, name)), ...beyond];
  }

  function line_items(offer, system, use, v) {
    const source = (name) =>
      [...(name === "energy" ? [system.power_source] : []), ...(ASSUMED[name] ?? [])].join(", ") ||
      offer.evidence;
    const known = items(offer, system, use, v);
    const names = [...Object.keys(known), ...missing(offer, system, use, v)];
    return names.map((name) => ({name, usd: known[name] ?? null, source: source(name)}));
  }

  function total(offer, system, use, v) {
    return sum(Object.values(flows(offer, system, use, v)).map(
      (each) => paid_of_all(each, Infinity, v)));
  }

  function cumulative(offer, system, use, v) {
    const end = 12 * v.years, known = Object.values(flows(offer, system, use, v));
    return Array.from({length: Math.ceil(end - ALMOST) + 1}, (_, month) => {
      const until = month < end - ALMOST ? month : Infinity;
      return sum(known.map((each) => paid_of_all(each, until, v)));
    });
  }

  function per_unit(offer, system, rate_per_hour, v) {
    const units = rate_per_hour * HOURS_PER_MONTH * v.utilization; // per month
    const use = {machines: 1, busy_share: v.utilization, on_share: v.utilization};
    return total(offer, system, use, v) / (units * annuity(12 * v.years, v));
  }

  function break_even_month(owning, renting) {
    let month = owning.length;
    while (month > 0 && owning[month - 1] < renting[month - 1]) month -= 1;
    return month < owning.length ? month : NaN;
  }

  function break_even_utilization(owned, rented, v) {
    const owning_more = (utilization) => {
      const use = {machines: 1, busy_share: utilization, on_share: utilization};
      return total(owned.offer, owned.system, use, v) / owned.rate
        - total(rented.offer, rented.system, use, v) / rented.rate;
    };
    const idle = owning_more(0), full = owning_more(1);
    if (full >= 0) return NaN;
    return idle <= 0 ? 0 : idle / (idle - full);
  }

  function unused_commitment(offer, v) {
    if (offer.kind !== "reserved" || !offer.term_years) return null;
    const paid = Math.ceil(v.years / offer.term_years - ALMOST) * offer.term_years;
    if (paid - v.years <= ALMOST * paid) return null;
    const years = `${shortest(paid)} years are paid, of which ${shortest(v.years)} are used`;
    return `${offer.name}: ${years}`;
  }

  function flows(offer, system, use, v) {
    const months = 12 * v.years;
    if (offer.kind === "hosted API") return {"use": [{usd: offer.usd_per_month, months}]};
    let once = {}, monthly;
    if (is_owned(offer)) {
      once = {
        "purchase": [{usd: use.machines * offer.usd}],
        "residual": [{usd: -use.machines * offer.usd * v.residual_share, start: months}],
      };
      monthly = owned_per_month(offer, system, use, v);
    } else {
      if (offer.kind === "reserved") once = reserved(offer, use, months);
      monthly = rented_per_month(offer, use, v);
    }
    for (const name in monthly) {
      if (monthly[name] !== null) once[name] = [{usd: monthly[name], months}];
    }
    return once;
  }

  function owned_per_month(offer, system, use, v) {
    const watts = power_w(system, v);
    const usd_per_watt = HOURS_PER_MONTH / 1000 * v.pue * v.usd_per_kwh;
    const mean_w = watts && watts[0] + (watts[1] - watts[0]) * use.busy_share;
    const rack = v.rack_units_usd_per_month, admin = v.admin_usd_per_year;
    return {
      "maintenance": use.machines * (offer.usd * v.maintenance_share / 12),
      "energy": watts && use.machines * (mean_w * usd_per_watt),
      "rack space": rack === null ? null : use.machines * rack,
      "administration": admin === null ? null : use.machines * (admin / 12),
    };
  }

  function power_w(system, v) {
    if (system.full_w === null && system.rated_w === null) return null;
    const full_w = system.full_w ?? system.rated_w * v.load;
    const idle_w = system.idle_w ?? full_w * v.idle_power_share;
    return [Math.min(idle_w, full_w), full_w];
  }

  function rented_per_month(offer, use, v) {
    let hours = use.machines * HOURS_PER_MONTH;
    if (offer.kind !== "reserved") hours *= use.on_share;
    if (offer.kind === "spot") hours *= 1 + v.spot_overhead_share;
    const priced = (gb, usd) => (gb ?? null) === null || usd === null ? null : gb * usd;
    return {
      "rent": hours * offer.usd_per_hour,
      "storage": priced(use.storage_gb, v.usd_per_gb_month),
      "egress": priced(use.egress_gb_per_month, v.usd_per_gb_egress),
    };
  }

  function reserved(offer, use, months) {
    const term = offer.term_years ? 12 * offer.term_years : months;
    const terms = Math.ceil(months / term - ALMOST);
    const upfront = use.machines * offer.upfront_usd;
    const paid = [], unused = [];
    for (let number = 0; number < terms; number += 1) {
      const used = Math.min(Math.max(months / term - number, 0), 1); // share of this term
      paid.push({usd: upfront * used, start: number * term});
      unused.push({usd: upfront * (1 - used), start: number * term});
    }
    const hourly = use.machines * HOURS_PER_MONTH * offer.usd_per_hour;
    unused.push({usd: hourly, start: months, months: Math.max(terms * term - months, 0)});
    return {"up-front": paid, "unused commitment": unused};
  }

  function paid_of_all(each, until, v) {
    return sum(each.map((flow) => paid_of(flow, until, v)));
  }

  function paid_of({usd, start = 0, months = null}, until, v) {
    const present_value = usd * Math.exp(-per_month(v) * start);
    if (months === null) return start <= until + ALMOST ? present_value : 0;
    return present_value * annuity(Math.min(Math.max(until - start, 0), months), v);
  }

  function annuity(months, v) {
    const log_rate = per_month(v), rate = Math.expm1(log_rate);
    return rate === 0 ? months : -Math.expm1(-log_rate * months) / rate;
  }

  const per_month = (v) => Math.log1p(v.discount_rate) / 12;

  // ---- sizing.py: streams by unit; side = {capacities, mixes, ...}; most = streams per machine

  function machines_needed(streams, side, most, v, demand) {
    const found = fleet(streams, side, most, v, demand.headroom);
    const memory = "whether the workloads fit into a machine's memory together was not measured";
    return {
      machines: found.machines + demand.spare,
      method: found.shares.length > 1 ? described(found, demand) : "one workload",
      notes: found.way && found.way.is_added ? [memory] : [],
    };
  }

  /** The fewest machines of three ways to place whole streams; `way` is null where each workload is
   * on machines of its own. */
  function fleet(streams, side, counts, v, headroom) {
    const units = [...streams.keys()].filter((unit) => streams[unit] > 0);
    const most = units.map((unit) => counts[unit]);
    const peak = units.map((unit) => streams[unit] * v.peak_factor * (1 + headroom));
    const planned = peak.map((number) => whole(number / v.planning_share));
    const alone = planned.map((number, i) => whole(number / most[i]));
    const shares = peak.map((number, i) => number / most[i]);
    let machines = sum(alone), way = null;
    if (units.length < 2) return {machines, shares, way};
    const joint = side.mixes.filter(
      (mix) => units.filter((unit) => mix.counts[unit] !== null).length > 1);
    const measured = joint
      .filter((mix) =>
        mix.is_limit && !mix.has_others && units.every((unit) => mix.counts[unit] !== null))
      .map((mix) => Math.max(0, 1 / sum(mix.counts.map(
        (n, unit) => (n === null ? 0 : n / side.capacities[unit]))) - 1));
    const interference = measured.length ? Math.max(...measured) : v.interference_share;
    const scaled = joint.map((mix) => units.map((unit, i) => mix.counts[unit] === null ? null
      : Math.floor(mix.counts[unit] * most[i] / side.capacities[unit] + EPSILON)));
    const is_measured = measured.length > 0, added = {is_added: true, interference, is_measured};
    const mixes = joint.map(({counts}) => units.map((unit) => [unit, counts[unit]]));
    const ways = [
      ...scaled.map((mix, i) =>
        [{mix: mixes[i], is_added: false}, mixed(planned, most, mix, null)]),
      [added, packed(planned, most, interference)],
      ...scaled.map((mix, i) =>
        [{...added, mix: mixes[i]}, mixed(planned, most, mix, interference)]),
    ];
    for (const [each, needed] of ways) {
      if (needed < machines) [machines, way] = [needed, each];
    }
    return {machines, shares, way};
  }

  function described({way}, demand) {
    if (!way) return "each workload on machines of its own";
    const parts = [];
    if (way.mix) {
      const counts = way.mix.filter(([, n]) => n !== null);
      const words = counts.map(([unit, n]) => `${shortest(n)} ${demand.units[unit]}`);
      parts.push(`measured mix of ${words.join(" + ")}`);
    }
    if (way.is_added) {
      const percent = `${(100 * way.interference).toFixed(1)}%`;
      const source = way.is_measured ? "measured" : "assumed";
      parts.push(`shares added, ${percent} ${source} interference`);
    }
    return parts.join("; ");
  }

  const whole = (value) => Math.ceil(value * (1 - EPSILON));

  function mixed(planned, most, mix, interference) {
    let best = Infinity;
    for (const [i, count] of mix.entries()) {
      if (count === null) continue;
      for (const turn of [Math.floor, Math.ceil]) {
        const machines = turn(planned[i] / Math.max(count, 1));
        const rest = planned.map((n, j) => Math.max(n - machines * (mix[j] ?? 0), 0));
        const others = interference === null ? sum(rest.map((n, j) => whole(n / most[j])))
          : packed(rest, most, interference);
        best = Math.min(best, machines + others);
      }
    }
    return best;
  }

  function packed(planned, most, interference) {
    let full = 0;
    const taken = []; // of each machine that is shared: the sum of shares
    for (const [i, number] of planned.entries()) {
      const own = Math.floor(number / most[i]);
      let left = number - own * most[i];
      full += own;
      for (const [index, share] of taken.entries()) {
        const free = Math.max(1 / (1 + interference) - share, 0);
        const added = share > 0 ? Math.min(left, Math.floor(free * most[i] + EPSILON)) : 0;
        taken[index] = share + added / most[i];
        left -= added;
      }
      taken.push(left / most[i]);
    }
    return full + taken.filter((share) => share > 0).length;
  }

  function day(billing, side, most, v, {streams, shares, spare, headroom}) {
    const at = (share) =>
      fleet(streams.map((number) => number * share), side, most, v, headroom);
    const peak = at(1), all = peak.machines + spare;
    const machines = new Map(); // that are on, by the hour's share of the peak
    for (const share of distinct(shares)) {
      if (share === 1 || billing === "always_on" || (billing === "active_hours" && share > 0)) {
        machines.set(share, all);
      } else if (share > 0) { // what carries the peak carries less, too
        machines.set(share, Math.min(at(share).machines, peak.machines) + spare);
      } else {
        machines.set(share, 0);
      }
    }
    const on = sum(shares.map((share) => machines.get(share)));
    const work = sum(shares) * sum(peak.shares) / v.peak_factor / (1 + headroom);
    return {
      on_share: on / Math.max(all, 1) / HOURS,
      busy_share: Math.min(work / Math.max(on, 1), 1),
    };
  }

  // ---- uncertainty.py: an estimate is of the value and of what each draw comes to

  function quantile(sorted, probability) {
    if (Number.isNaN(sorted[sorted.length - 1])) return NaN;
    const index = (sorted.length - 1) * probability, below = Math.floor(index);
    const a = sorted[below], b = sorted[Math.min(below + 1, sorted.length - 1)];
    const part = index - below;
    return part < 0.5 ? a + (b - a) * part : b - (b - a) * (1 - part);
  }

  function estimate(value, drawn) {
    const sorted = Float64Array.from(drawn).sort();
    return {value, low: quantile(sorted, LOW), high: quantile(sorted, HIGH)};
  }

  function decide(first, other, inputs, centre, drawn) {
    const compared = (paid, other_paid, unpriced, other_unpriced) => [
      other_paid - paid,
      (other_paid - unpriced) / (paid - unpriced),
      (paid - other_unpriced) / (other_paid - other_unpriced),
    ];
    const at = (v) => compared(first.cost(v), other.cost(v), first.cost(v, 0), other.cost(v, 0));
    const swings = inputs.filter((each) => each.low < each.high).map(
      ({name, label, low, high, remedy}) => {
        const [usd_at_low, usd_at_high] = [low, high].map((value) => {
          const v = {...centre, [name]: value};
          return other.cost(v) - first.cost(v);
        });
        return {label, low, high, usd_at_low, usd_at_high, remedy};
      });
    const width_usd = (swing) => Math.abs(swing.usd_at_high - swing.usd_at_low);
    const costs = [first.costs(), other.costs(), first.costs(0), other.costs(0)];
    const of_draws = drawn.map((_, i) => compared(...costs.map((each) => each[i])));
    const [saved, ...flips] = at(centre).map(
      (value, i) => estimate(value, of_draws.map((each) => each[i])));
    const count = (is) => of_draws.filter(([usd]) => is(usd)).length / drawn.length;
    return {
      first: first.name,
      other: other.name,
      saved,
      probability: count((usd) => usd > 0) + count((usd) => usd === 0) / 2,
      swings: swings.filter(width_usd).sort((a, b) => width_usd(b) - width_usd(a)),
      flips,
    };
  }

  // ---- pricing.py

  function at_price(offer, v, price) {
    const paid = {"bought": v.purchase_price_factor, "hosted API": 1}[offer.kind]
      ?? v.rental_price_factor;
    const factor = price * paid;
    return {
      ...offer,
      usd: offer.usd * factor,
      usd_per_hour: offer.usd_per_hour * factor,
      upfront_usd: offer.upfront_usd * factor,
      usd_per_month: offer.usd_per_month * factor,
    };
  }

  const mean_share = (demand) => sum(demand.shares) / demand.shares.length;

  function api_offer(offer, usd_per, demand) {
    const units = {};
    for (const [unit, used] of demand.api_use.entries()) {
      const hours = demand.streams[unit] * mean_share(demand) * HOURS_PER_MONTH;
      for (const [work, amount] of used) units[work] = (units[work] ?? 0) + hours * amount;
    }
    const usd = sum(usd_per.map((each, work) => each * (units[work] ?? 0)));
    const cents = {minimumFractionDigits: 2, maximumFractionDigits: 2};
    const price = usd ? `${english(usd, cents)} USD per month` : "0 USD";
    return {...offer, usd_per_month: usd, price};
  }

  function planned_use(side, billing, v, demand) {
    const most = side.inputs.map((name) => v[name]);
    const {machines} = machines_needed(demand.streams, side, most, v, demand);
    const gb = (per_stream) =>
      per_stream && sum(demand.streams.map((count, unit) => per_stream[unit] * count));
    const sent = gb(demand.egress_gb);
    return {
      machines: machines * side.share,
      ...day(billing, side, most, v, demand),
      storage_gb: gb(demand.storage_gb),
      egress_gb_per_month: sent === null ? null : sent * mean_share(demand) * HOURS_PER_MONTH,
    };
  }

  /** A way to have the work done, with what it uses and costs at some values or in all draws. */
  function make_way(way, sides, demand, drawn) {
    const side = way.fleet === null ? null : sides[way.fleet], found = new Map();
    const offer = way.usd_per ? api_offer(way.offer, way.usd_per, demand) : way.offer;
    const is_committed = ["bought", "reserved"].includes(offer.kind);
    const billing = is_committed || !demand ? "always_on" : demand.billing;

    function use(v) {
      if (!side) {
        return way.usd_per ? {machines: 0}
          : {machines: 1, busy_share: v.utilization, on_share: v.utilization};
      }
      const known = side.known[billing];
      if (!known.has(v)) known.set(v, planned_use(side, billing, v, demand));
      return known.get(v);
    }

    function cost(v, price = 1) {
      const priced = at_price(offer, v, price);
      if (way.rate) return per_unit(priced, way.system, v[way.rate], v);
      return total(priced, way.system, use(v), v);
    }

    function costs(price = 1) {
      if (!found.has(price)) found.set(price, drawn.map((v) => cost(v, price)));
      return found.get(price);
    }

    return {...way, name: `${way.side}, ${offer.name}`, offer, use, cost, costs, is_sized: !!side};
  }

  function least(ways, drawn) {
    const usd = ways.map((way) => way.costs()), shares = new Map(ways.map((way) => [way, 0]));
    for (const i of drawn.keys()) {
      const lowest = Math.min(...usd.map((each) => each[i]));
      const alike = ways.filter((_, which) => usd[which][i] === lowest);
      for (const way of alike) shares.set(way, shares.get(way) + 1 / alike.length / drawn.length);
    }
    return shares;
  }

  function alternative(way, centre, drawn) {
    const use = way.use(centre), offer = at_price(way.offer, centre, 1);
    return {
      side: way.side,
      offer: way.offer.name,
      usd: estimate(way.cost(centre), way.costs()),
      machines: way.is_sized ? estimate(use.machines, drawn.map((v) => way.use(v).machines)) : null,
      items: way.rate ? [] : line_items(offer, way.system, use, centre),
      evidence: way.offer.evidence,
      without: missing(offer, way.system, use, centre),
    };
  }

  function break_even(owned, rented, inputs, centre, drawn) {
    const decision = decide(owned, rented, inputs, centre, drawn);
    const instances = (v) =>
      owned.rate ? v[owned.rate] / v[rented.rate] : rented.use(v).machines;
    const by_month = (way, v, at = v) => {
      const use = {...way.use(v)};
      if (owned.rate && way === rented) use.machines *= instances(v);
      return cumulative(at_price(way.offer, at, 1), way.system, use, at);
    };
    const few = drawn.slice(0, CURVE_DRAWS);
    const pair = [owned, rented], usd = pair.map((way) => by_month(way, centre));
    const of_draws = pair.map((way) =>
      few.map((v) => by_month(way, v, {...v, years: centre.years}))); // curves of one length
    const months = few.map((_, i) => break_even_month(of_draws[0][i], of_draws[1][i]));
    return {
      decision,
      instances: estimate(instances(centre), drawn.map(instances)),
      month: month_range(break_even_month(...usd), months),
      utilization: utilization(owned, rented, centre),
      curves: pair.map((way, i) => curve(way, usd[i], of_draws[i])),
      paid: pair.map((way) => way.offer.price),
      left_out: pair.map((way) => missing(way.offer, way.system, way.use(centre), centre)),
      room_usd: decision.saved.value * units_per_month(owned, centre),
    };
  }

  function curve(way, usd, of_draws) {
    const ranges = usd.map((_, month) => estimate(0, of_draws.map((each) => each[month])));
    return {name: way.name, usd, low: ranges.map((r) => r.low), high: ranges.map((r) => r.high)};
  }

  function month_range(month, of_draws) {
    if (Number.isNaN(month)) return null;
    const sorted = Float64Array.from(of_draws, (m) => (Number.isNaN(m) ? Infinity : m)).sort();
    const nearest = (probability) => sorted[Math.round((sorted.length - 1) * probability)];
    return {value: month, low: nearest(LOW), high: nearest(HIGH)};
  }

  function units_per_month(way, v) {
    if (way.rate) return v[way.rate] * HOURS_PER_MONTH * v.utilization;
    return 1 / (way.use(v).machines * annuity(12 * v.years, v));
  }

  function utilization(owned, rented, v) {
    if (!owned.rate) return null;
    const [own, other] = [owned, rented].map((way) =>
      ({offer: at_price(way.offer, v, 1), system: way.system, rate: v[way.rate]}));
    const found = break_even_utilization(own, other, v);
    return Number.isFinite(found) ? found : null;
  }

  /** A work of read() priced again.
   *
   * `settings` are numbers by the name of an input, which becomes exact (--set NAME=NUMBER), or by
   * "demand.UNIT" (--demand UNIT=NUMBER). The result has the fields of pricing.PricedWork, but for
   * `basis`.
   */
  function price(work, settings = {}) {
    const demand = work.demand && {
      ...work.demand,
      streams: work.demand.units.map(
        (unit, i) => settings[`demand.${unit}`] ?? work.demand.streams[i]),
    };
    const inputs = work.inputs.map((each) => {
      if (!has(settings, each.name)) return each;
      const value = settings[each.name];
      return {...each, value, low: value, high: value, draws: null};
    });
    const centre = Object.fromEntries(inputs.map((each) => [each.name, each.value]));
    const ranged = inputs.filter((each) => each.draws);
    const drawn = Array.from({length: ranged.length ? ranged[0].draws.length : 1}, (_, i) => {
      const v = {...centre};
      for (const each of ranged) v[each.name] = each.draws[i];
      return v;
    });
    const sides = work.fleets.map((side) => {
      const billings = ["always_on", "active_hours", "scale_to_zero"];
      return {...side, known: Object.fromEntries(billings.map((name) => [name, new Map()]))};
    });
    const ways = work.ways.map((way) => make_way(way, sides, demand, drawn));
    const alternatives = ways.map((way) => alternative(way, centre, drawn));
    const found = new Map(ways.map((way, i) => [way, alternatives[i]]));
    const cheapest = new Map(); // spot, which can be taken away, decides nothing
    for (const way of [...ways].sort((a, b) => found.get(a).usd.value - found.get(b).usd.value)) {
      const key = JSON.stringify([way.side, is_owned(way.offer)]);
      if (way.offer.kind !== "spot" && !cheapest.has(key)) cheapest.set(key, way);
    }
    const chosen = [...cheapest.values()], rented = chosen.filter((way) => !is_owned(way.offer));
    const owned = chosen.filter(
      (way) => is_owned(way.offer) && !found.get(way).without.includes("energy"));
    const shares = least([...owned, ...rented], drawn);
    const plans = sides.flatMap((side) => {
      const most = side.inputs.map((name) => centre[name]);
      const plan = machines_needed(demand.streams, side, most, centre, demand);
      return [plan.method, ...plan.notes].map((note) => `${side.side}: ${note}`);
    });
    const unused = ways.map((way) => [way, unused_commitment(way.offer, centre)]);
    return {
      label: work.label,
      unit: demand ? described_demand(demand) : work.unit,
      alternatives: ways.map((way, i) => ({...alternatives[i], least: shares.get(way) ?? null})),
      missing: work.missing,
      break_evens: owned.flatMap((own) =>
        rented.map((other) => break_even(own, other, inputs, centre, drawn))),
      notes: distinct([
        ...(demand ? demand.notes : []),
        ...plans,
        ...unused.filter(([, note]) => note).map(([way, note]) => `${way.side}, ${note}`),
        ...ways.flatMap((way) => way.notes.map((note) => `${way.side}, ${note}`)),
      ]),
      marks: work.marks,
    };
  }

  function described_demand({units, streams}) {
    const names = units.map((unit, i) =>
      `${english(Number(streams[i].toPrecision(6)), {maximumFractionDigits: 6})} ${unit}`);
    return [names.slice(0, -1).join(", "), names[names.length - 1]].filter(Boolean).join(" and ");
  }

  /** The works of page_model.payload(), to be priced. */
  function read(payload) {
    const draws = payload.draws.map((text) =>
      new Float32Array(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer));
    return payload.works.map((work) => ({
      ...work,
      inputs: work.inputs.map((each) =>
        ({...each, draws: each.draws === null ? null : draws[each.draws]})),
    }));
  }

  return {read, price};
})();
if (typeof module !== "undefined") module.exports = costModel;
