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

  function sum(values) {
    let total = 0;
    for (let i = 0; i < values.length; i += 1) total += values[i];
    return total;
  }
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
    const usd = new Map();
    for (const each of flows(offer, system, use, v)) {
      usd.set(each.item, (usd.get(each.item) ?? 0) + paid_of(each, Infinity, v));
    }
    return new Map([...usd].filter(([, each]) => each !== 0));
  }

  function missing(offer, system, use, v) {
    const known = flows(offer, system, use, v).map((each) => each.item);
    const wanted = offer.kind === "hosted API" ? [] : is_owned(offer) ? OWNED_ITEMS : RENTED_ITEMS;
    const beyond = is_owned(offer) && use.storage_gb ? ["storage beyond its own disks"] : [];
    return [...wanted.filter((item) => !known.includes(item)), ...beyond];
  }

  function line_items(offer, system, use, v) {
    const source = (name) =>
      [...(name === "energy" ? [system.power_source] : []), ...(ASSUMED[name] ?? [])].join(", ") ||
      offer.evidence;
    const known = items(offer, system, use, v);
    const names = [...known.keys(), ...missing(offer, system, use, v)];
    return names.map((name) => ({name, usd: known.get(name) ?? null, source: source(name)}));
  }

  function total(offer, system, use, v) {
    return paid(flows(offer, system, use, v), Infinity, v);
  }

  function cumulative(offer, system, use, v) {
    const end = 12 * v.years, known = flows(offer, system, use, v), usd = [];
    for (let month = 0; month <= Math.ceil(end - ALMOST); month += 1) {
      usd.push(paid(known, month < end - ALMOST ? month : Infinity, v));
    }
    return usd;
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

  const flow = (item, usd, start = 0, months = null) => ({item, usd, start, months});

  function flows(offer, system, use, v) {
    const months = 12 * v.years;
    if (offer.kind === "hosted API") return [flow("use", offer.usd_per_month, 0, months)];
    const known = [];
    if (is_owned(offer)) {
      known.push(flow("purchase", use.machines * offer.usd));
      known.push(flow("residual", -use.machines * offer.usd * v.residual_share, months));
    } else if (offer.kind === "reserved") {
      known.push(...reserved(offer, use, months));
    }
    const per_month = is_owned(offer) ? owned_per_month(offer, system, use, v)
      : rented_per_month(offer, use, v);
    for (const item in per_month) {
      if (per_month[item] !== null) known.push(flow(item, per_month[item], 0, months));
    }
    return known;
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
      paid.push(flow("up-front", upfront * used, number * term));
      unused.push(flow("unused commitment", upfront * (1 - used), number * term));
    }
    const hourly = use.machines * HOURS_PER_MONTH * offer.usd_per_hour;
    unused.push(flow("unused commitment", hourly, months, Math.max(terms * term - months, 0)));
    return [...paid, ...unused];
  }

  function paid(known, until, v) {
    let usd = 0;
    for (let i = 0; i < known.length; i += 1) usd += paid_of(known[i], until, v);
    return usd;
  }

  function paid_of({usd, start, months}, until, v) {
    const present_value = start === 0 ? usd : usd * Math.exp(-per_month(v).log_rate * start);
    if (months === null) return start <= until + ALMOST ? present_value : 0;
    return present_value * annuity(Math.min(Math.max(until - start, 0), months), v);
  }

  function annuity(months, v) {
    const {log_rate, rate} = per_month(v);
    return rate === 0 ? months : -Math.expm1(-log_rate * months) / rate;
  }

  let last = {}; // as most calls are with the rate of the one before
  function per_month({discount_rate}) {
    if (last.discount_rate !== discount_rate) {
      const log_rate = Math.log1p(discount_rate) / 12;
      last = {discount_rate, log_rate, rate: Math.expm1(log_rate)};
    }
    return last;
  }

  // ---- sizing.py: a fleet is one side's machines for the streams of a demand

  /** What is the same in all draws and hours: the units in demand and the mixes that have several
   * of them, each with its streams by unit, and the interference that was measured. */
  function make_fleet({side, inputs, capacities, share, mixes}, demand) {
    const units = [...demand.units.keys()].filter((unit) => demand.streams[unit] > 0);
    const is_in = (mix) => (unit) => mix.counts[unit] !== null;
    const joint = mixes.filter((mix) => units.filter(is_in(mix)).length > 1);
    const measured = joint
      .filter((mix) => mix.is_limit && !mix.has_others && units.every(is_in(mix)))
      .map(({counts}) =>
        Math.max(0, 1 / sum(counts.map((n, unit) => (n ?? 0) / capacities[unit])) - 1));
    const of_units = (each) => units.map((unit) => each[unit]);
    return {
      side,
      share,
      units,
      inputs: of_units(inputs),
      capacities: of_units(capacities),
      mixes: joint.map((mix) => of_units(mix.counts)),
      interference: measured.length ? Math.max(...measured) : null,
      peaks: new Map(), // by values: what placed() finds at the peak
      uses: new Map(), // by billing and values
    };
  }

  function at_peak(fleet, v, demand) {
    if (!fleet.peaks.has(v)) fleet.peaks.set(v, placed(fleet, 1, v, demand));
    return fleet.peaks.get(v);
  }

  /** The fewest machines of three ways to place whole streams, without spare, where `share` of the
   * demand is there; `way` is null where each workload is on machines of its own. */
  function placed({units, inputs, capacities, mixes, ...fleet}, share, v, {streams, headroom}) {
    const most = inputs.map((name) => v[name]);
    const peak = units.map((unit) => streams[unit] * share * v.peak_factor * (1 + headroom));
    const planned = peak.map((number) => whole(number / v.planning_share));
    const shares = peak.map((number, i) => number / most[i]);
    let machines = apart(planned, most), way = null;
    if (units.length < 2) return {machines, shares, way};
    const interference = fleet.interference ?? v.interference_share;
    const added = {is_added: true, interference, is_measured: fleet.interference !== null};
    const scaled = mixes.map((mix) => mix.map((n, i) =>
      n === null ? null : Math.floor(n * most[i] / capacities[i] + EPSILON)));
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

  /** The plan's method and notes. */
  function described(fleet, {way}, demand) {
    if (fleet.units.length < 2) return ["one workload"];
    if (!way) return ["each workload on machines of its own"];
    const parts = [];
    if (way.mix) {
      const words = fleet.units.flatMap((unit, i) =>
        way.mix[i] === null ? [] : [`${shortest(way.mix[i])} ${demand.units[unit]}`]);
      parts.push(`measured mix of ${words.join(" + ")}`);
    }
    if (way.is_added) {
      const percent = `${(100 * way.interference).toFixed(1)}%`;
      const source = way.is_measured ? "measured" : "assumed";
      parts.push(`shares added, ${percent} ${source} interference`);
    }
    const memory = "whether the workloads fit into a machine's memory together was not measured";
    return [parts.join("; "), ...(way.is_added ? [memory] : [])];
  }

  const whole = (value) => Math.ceil(value * (1 - EPSILON));

  const apart = (streams, most) => sum(streams.map((number, i) => whole(number / most[i])));

  function mixed(planned, most, mix, interference) {
    let best = Infinity;
    for (let i = 0; i < mix.length; i += 1) {
      if (mix[i] === null) continue;
      const share = planned[i] / Math.max(mix[i], 1);
      for (const machines of [Math.floor(share), Math.ceil(share)]) {
        const rest = planned.map((n, j) => Math.max(n - machines * (mix[j] ?? 0), 0));
        const others = interference === null ? apart(rest, most)
          : packed(rest, most, interference);
        best = Math.min(best, machines + others);
      }
    }
    return best;
  }

  function packed(planned, most, interference) {
    let full = 0;
    const taken = []; // of each machine that is shared: the sum of shares
    for (let i = 0; i < planned.length; i += 1) {
      const own = Math.floor(planned[i] / most[i]);
      let left = planned[i] - own * most[i];
      full += own;
      for (let index = 0; index < taken.length; index += 1) {
        const share = taken[index], free = Math.max(1 / (1 + interference) - share, 0);
        const added = share > 0 ? Math.min(left, Math.floor(free * most[i] + EPSILON)) : 0;
        taken[index] = share + added / most[i];
        left -= added;
      }
      taken.push(left / most[i]);
    }
    for (const share of taken) full += share > 0 ? 1 : 0;
    return full;
  }

  function day(fleet, billing, v, demand) {
    const {levels, shares, spare, headroom} = demand;
    const peak = at_peak(fleet, v, demand), total = peak.machines + spare;
    const machines = levels.map((share) => { // that are on, by the hour's share of the peak
      if (share === 1 || billing === "always_on" || (billing === "active_hours" && share > 0)) {
        return total;
      }
      // what carries the peak carries less, too
      const needed = (found) => Math.min(found.machines, peak.machines) + spare;
      return share > 0 ? needed(placed(fleet, share, v, demand)) : 0;
    });
    let on = 0;
    for (const share of shares) on += machines[levels.indexOf(share)];
    const work = sum(shares) * sum(peak.shares) / v.peak_factor / (1 + headroom);
    return {
      on_share: on / Math.max(total, 1) / HOURS,
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
    const sorted = new Float64Array(drawn).sort();
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
    const [a, b, c, d] = [first.costs(), other.costs(), first.costs(0), other.costs(0)];
    const of_draws = drawn.map((_, i) => compared(a[i], b[i], c[i], d[i]));
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
      name: offer.name,
      kind: offer.kind,
      evidence: offer.evidence,
      term_years: offer.term_years,
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

  function planned(fleet, billing, v, demand) {
    const gb = (per_stream) =>
      per_stream && sum(demand.streams.map((count, unit) => per_stream[unit] * count));
    const sent = gb(demand.egress_gb);
    return {
      machines: (at_peak(fleet, v, demand).machines + demand.spare) * fleet.share,
      ...day(fleet, billing, v, demand),
      storage_gb: gb(demand.storage_gb),
      egress_gb_per_month: sent === null ? null : sent * mean_share(demand) * HOURS_PER_MONTH,
    };
  }

  /** A way to have the work done, with what it uses and costs at some values or in all draws. */
  function make_way(way, fleets, demand, drawn) {
    const fleet = way.fleet === null ? null : fleets[way.fleet], found = new Map();
    const offer = way.usd_per ? api_offer(way.offer, way.usd_per, demand) : way.offer;
    const is_committed = ["bought", "reserved"].includes(offer.kind);
    const billing = is_committed || !demand ? "always_on" : demand.billing;
    if (fleet && !fleet.uses.has(billing)) fleet.uses.set(billing, new Map());

    function use(v) {
      if (way.usd_per) return {machines: 0};
      if (!fleet) return {machines: 1, busy_share: v.utilization, on_share: v.utilization};
      const known = fleet.uses.get(billing);
      if (!known.has(v)) known.set(v, planned(fleet, billing, v, demand));
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

    const by_month = (v, uses = v) => cumulative(at_price(offer, v, 1), way.system, use(uses), v);
    function curves(years) { // of one length
      if (!found.has("curves")) {
        const few = drawn.slice(0, CURVE_DRAWS);
        found.set("curves", few.map((v) => by_month({...v, years}, v)));
      }
      return found.get("curves");
    }

    const name = `${way.side}, ${offer.name}`;
    return {...way, name, offer, use, cost, costs, by_month, curves, is_sized: fleet !== null};
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
    const scaled = (way, v, usd) => {
      const times = owned.rate && way === rented ? instances(v) : 1;
      return times === 1 ? usd : usd.map((each) => each * times);
    };
    const pair = [owned, rented];
    const usd = pair.map((way) => scaled(way, centre, way.by_month(centre)));
    const of_draws = pair.map((way) =>
      way.curves(centre.years).map((each, i) => scaled(way, drawn[i], each)));
    const months = of_draws[0].map((each, i) => break_even_month(each, of_draws[1][i]));
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
   * "demand.UNIT" (--demand UNIT=NUMBER). With fewer `draws` ranges are rougher, and sooner there:
   * for while a slider moves. The result has the fields of pricing.PricedWork, but for
   * `basis`.
   */
  function price(work, settings = {}, draws = Infinity) {
    const demand = work.demand && {
      ...work.demand,
      levels: distinct(work.demand.shares),
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
    const length = Math.min(draws, ranged.length ? ranged[0].draws.length : 1);
    const drawn = Array.from({length}, (_, i) => {
      const v = {...centre};
      for (const each of ranged) v[each.name] = each.draws[i];
      return v;
    });
    const fleets = work.fleets.map((each) => make_fleet(each, demand));
    const ways = work.ways.map((way) => make_way(way, fleets, demand, drawn));
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
    const plans = fleets.flatMap((fleet) =>
      described(fleet, at_peak(fleet, centre, demand), demand).map(
        (note) => `${fleet.side}: ${note}`));
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
