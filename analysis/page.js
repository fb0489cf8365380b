// The page's charts and controls. Costs are recomputed by costModel (page_model.js) and said by
// costPage (page_costs.js).
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const SVG = "http://www.w3.org/2000/svg";
  const FOLDED = 12, SHAPES = 5;  // rows of a table; shapes and colours of sides
  const IDLE_MS = 300;  // after which all works are priced again
  const { answer, costChart, costSections, general, money, overall } = costPage;

  // Elements. Text is only ever set as text.

  function add(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children.filter((child) => child !== null && child !== ""));
    return node;
  }
  const el = (name, attributes = {}, ...children) =>
    add(document.createElement(name), attributes, children);
  const svg = (name, attributes = {}, ...children) =>
    add(document.createElementNS(SVG, name), attributes, children);
  const hue = (side) => {
    const place = data.sides.indexOf(side);
    return place < 0 ? "other" : place % SHAPES;
  };
  const pc = (share) => `${(100 * Math.min(Math.max(share, 0), 1)).toFixed(3)}%`;

  // Charts. Strips are drawn in percent of their width, so that they fit any screen.

  const SHAPE = ["M-6,0a6,6 0 1,0 12,0a6,6 0 1,0 -12,0", "M-5.5,-5.5h11v11h-11z",
    "M0,-7l7,12h-14z", "M0,-8l7,8l-7,8l-7,-8z", "M0,7l7,-12h-14z"];
  function marker(side, x, y, hollow) {
    const d = SHAPE[hue(side)] || "M-6,0h12M0,-6v12";
    const path = svg("path", { d, class: `mark s${hue(side)}${hollow ? " hollow" : ""}` });
    return svg("svg", { x, y, overflow: "visible" }, path);
  }
  const line = (x1, x2, y1, y2, kind) => svg("line", { x1, x2, y1, y2, class: kind });
  function whisker(low, high, kind) {
    const caps = [low, high].map((x) => line(x, x, 6, 18, kind));
    return [line(low, high, 12, 12, kind), ...caps];
  }
  function ticks(low, high, count) {
    const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((each) => each * power >= rough * 0.999);
    const found = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high * (1 + 1e-9); i++) {
      found.push(Number((i * step).toPrecision(12)));
    }
    return found;
  }

  function strips(chart, draw, axis = []) {
    const rows = [];
    chart.rows.forEach((row, i) => {
      if (row.group && (i === 0 || row.group !== chart.rows[i - 1].group)) {
        rows.push(el("div", { class: "group" }, row.group));
      }
      rows.push(el("div", { class: "row" }, el("span", { class: "name" }, row.name),
        svg("svg", { class: "strip" }, ...draw(row)), el("span", { class: "value" }, row.text)));
    });
    if (axis.length) {
      rows.push(el("div", { class: "row axis" }, svg("svg", { class: "strip" }, ...axis)));
    }
    return rows;
  }
  function bars(chart) {
    const most = {};
    for (const row of chart.rows) {
      most[row.group] = Math.max(most[row.group] || 0, row.value, row.high || 0);
    }
    return strips(chart, (row) => {
      const max = chart.kind === "shares" ? 1 : most[row.group] || 1;
      const ranged = row.high !== null && row.low < row.high;
      return [
        ...(chart.kind === "shares" ? [line("100%", "100%", 0, 24, "grid")] : []),
        svg("rect", { x: 0, y: 4, height: 16, width: pc(row.value / max),
          class: `bar s${hue(row.side)}`, fill: `url(#p${hue(row.side)})` }),
        ...(ranged ? ["halo", "range"].flatMap((kind) =>
          whisker(pc(row.low / max), pc(row.high / max), kind)) : []),
      ];
    });
  }
  function ratios(chart) {
    const values = chart.rows.flatMap((row) =>
      [row.value, row.low, row.high, ...row.points.map(([value]) => value)]).filter((v) => v > 0);
    const pad = 1.04, low = Math.min(1, ...values) / pad, high = Math.max(1, ...values) * pad;
    const at = (v) => pc(Math.log(Math.max(v, low) / low) / Math.log(high / low));
    const marks = ticks(low, high, 5).filter((v) => v > 0);
    const grid = () => [...marks.map((v) => line(at(v), at(v), 0, "100%", "grid")),
      line(at(1), at(1), 0, "100%", "one")];
    const axis = marks.map((v) => svg("text", { x: at(v), y: 14, class: "tick" },
      general(v, 4)));
    return strips(chart, (row) => {
      if (row.points.length) {
        const dots = row.points.map(([v, valid]) => marker(row.side, at(v), "50%", !valid));
        return [...grid(), ...dots];
      }
      const range = row.low < row.high ? whisker(at(row.low), at(row.high), `ci s${hue(row.side)}`)
        : [];
      const dot = marker(row.side, at(row.value), "50%", row.low === row.high);
      return [...grid(), ...range, dot];
    }, axis);
  }
  function tornadoStrips(chart) {
    const swings = chart.rows.flatMap((row) => row.at).concat(chart.value);
    const [least, most] = [Math.min(...swings), Math.max(...swings)];
    const isNear = Math.min(Math.abs(least), Math.abs(most)) < 2 * (most - least);
    const low = isNear ? Math.min(least, 0) : least;
    const span = (isNear ? Math.max(most, 0) : most) - low || 1;
    const at = (v) => pc((v - low) / span);
    const zero = () => isNear ? [line(at(0), at(0), 0, "100%", "one")] : [];
    const axis = ticks(low, low + span, 3).map((v) =>
      svg("text", { x: at(v), y: 14, class: "tick" }, short(v)));
    return strips(chart, ({ at: [first, second] }) => {
      const [from, to] = [Math.min(first, second), Math.max(first, second)];
      return [
        svg("rect", { x: at(from), y: 4, height: 16, class: "swing",
          width: pc((to - from) / span) }),
        line(at(chart.value), at(chart.value), 0, "100%", "grid"), ...zero(),
      ];
    }, axis);
  }
  function lines(chart) {
    const all = chart.lines.flatMap(({ points }) => points);
    const xs = [...new Set(all.map(([x]) => x))].sort((a, b) => a - b);
    const isLog = xs[0] > 0 && xs.at(-1) / xs[0] > 8 && !chart.mark && !chart.lines[0].low;
    const along = (x) => isLog ? Math.log(x / xs[0]) / Math.log(xs.at(-1) / xs[0])
      : (x - xs[0]) / (xs.at(-1) - xs[0] || 1);
    const tops = chart.lines.flatMap(({ points, high }) => high || points.map(([, y]) => y));
    const top = Math.max(...tops) || 1, bottom = Math.min(0, ...all.map(([, y]) => y));
    const up = (y) => 1 - (y - bottom) / (top - bottom);
    const path = (points) => points.map(([x, y]) =>
      `${(1000 * along(x)).toFixed(1)},${(1000 * up(y)).toFixed(1)}`).join(" ");
    const few = xs.length <= 12;
    const paths = chart.lines.flatMap(({ side, points, low, high, dashed }) => [
      ...(low ? [svg("polygon", { class: `band s${hue(side)}${dashed ? " dashed" : ""}`,
        points: path([...points.map(([x], i) => [x, high[i]]),
          ...points.map(([x], i) => [x, low[i]]).reverse()]) })] : []),
      svg("polyline", { class: `line s${hue(side)}${dashed ? " dashed" : ""}`,
        points: path(points) }),
    ]);
    const marks = few ? chart.lines.flatMap(({ side, points }) =>
      points.map(([x, y]) => marker(side, pc(along(x)), pc(up(y))))) : [];
    const yTicks = ticks(bottom, top, 5);
    const xTicks = few ? xs : chart.x === "months" ? xs.filter((x) => x % yearly(xs) === 0)
      : ticks(xs[0], xs.at(-1), 6);
    const grid = yTicks.flatMap((y) => [line(0, "100%", pc(up(y)), pc(up(y)), "grid"),
      svg("text", { x: -6, y: pc(up(y)), dy: 4, class: "tick end" }, short(y))]);
    const below = xTicks.map((x) => svg("text", { x: pc(along(x)), y: "100%", dy: 18,
      class: "tick" }, general(x, 6)));
    const meeting = [];
    if (chart.mark) {
      const { x, y, low, high, text } = chart.mark, last = xs.at(-1);
      const [from, to] = [along(low), along(Math.min(high, last))];
      meeting.push(svg("rect", { x: pc(from), width: pc(to - from), y: 0, height: "100%",
        class: "meeting" }));
      const end = along(x) > 0.5 ? " end" : " start";
      meeting.push(line(pc(along(x)), pc(along(x)), 0, "100%", "one"),
        svg("text", { x: pc(along(x)), dx: end === " end" ? -6 : 6, y: 14, class: `tick${end}` },
          text));
    }
    const legend = el("div", { class: "legend" }, ...chart.lines.map(({ name, side, dashed }) =>
      el("span", {}, svg("svg", { width: 28, height: 14 },
        line(0, 28, 7, 7, `line s${hue(side)}${dashed ? " dashed" : ""}`),
        few ? marker(side, 14, 7) : ""), ` ${name}`)));
    const stretched = svg("svg", { viewBox: "0 0 1000 1000", preserveAspectRatio: "none",
      width: "100%", height: "100%", overflow: "visible" }, ...paths);
    return [legend, el("div", { class: "axis-name" }, chart.y),
      el("div", { class: "plot" }, svg("svg", { class: "lines", overflow: "visible" }, ...grid,
        ...(meeting.slice(0, 1)), stretched, ...marks, ...below, ...meeting.slice(1))),
      el("div", { class: "axis-name x" }, chart.x)];
  }
  const yearly = (months) => 12 * Math.ceil(months.length / 121);
  function short(value) {
    const size = Math.abs(value);
    const [by, unit] = size >= 1e6 ? [1e6, "M"] : size >= 1e4 ? [1e3, "k"] : [1, ""];
    return general(value / by, 4) + unit;
  }

  const DRAW = { bars, shares: bars, ratios, tornado: tornadoStrips, lines };
  function said(chart) {  // what a chart shows, in words
    if (chart.kind !== "lines") {
      return chart.rows.map((row) =>
        `${row.group ? `${row.group}, ` : ""}${row.name}: ${row.text}`).join("; ");
    }
    const some = (points) => points.filter((_, i) => i % Math.ceil(points.length / 12) === 0);
    return chart.lines.map(({ name, points }) => `${name}: ${some(points).map(([x, y]) =>
      `${general(y, 4)} at ${general(x, 6)}`).join(", ")}`).join("; ") +
      (chart.mark ? `; both meet in ${chart.mark.text}` : "");
  }
  function draw(figure, chart) {
    const picture = el("div", { class: `chart ${chart.kind}`, role: "img",
      "aria-label": `${chart.title}. ${said(chart)}` }, ...DRAW[chart.kind](chart));
    figure.replaceChildren(el("figcaption", {}, chart.title), picture);
  }

  // Sections, as report.html.j2 has them.

  function drawnTable({ title, headings, rows }) {
    const head = el("tr", {}, ...headings.map((name) => el("th", { scope: "col" }, name)));
    const body = rows.map((row) => el("tr", {}, ...row.map((cell) => el("td", {}, cell))));
    const wide = el("div", { class: "wide", tabindex: 0, role: "region", "aria-label": title },
      el("table", {}, el("thead", {}, head), el("tbody", {}, ...body)));
    const many = rows.length > FOLDED ? `${title} (${rows.length} rows)` : title;
    const folded = el("details", {}, el("summary", {}, many), wide);
    return folded;
  }
  function fill(id, found) {
    const section = byId(id);
    if (!section) return;
    section.hidden = !found;
    if (!found) return;
    section.querySelector("h2").textContent = found.title;
    const open = new Set([...section.querySelectorAll("details[open] > summary")]
      .map((each) => each.textContent));
    const figures = found.charts.map((chart) => {
      const figure = el("figure");
      draw(figure, chart);
      return figure;
    });
    section.querySelector(".body").replaceChildren(
      ...found.lines.map((text) => el("p", {}, text)), ...figures,
      ...found.tables.map(drawnTable));
    for (const each of section.querySelectorAll(".body details")) {
      each.open = open.has(each.firstChild.textContent);
    }
  }

  // Controls.

  const priced = costModel.read(data.costs);
  const moved = {};
  let chosen = 0;
  const quoted = (word) =>
    /^[\w.,:/=@%+-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
  function command() {
    const names = Object.keys(moved).filter((name) => !name.startsWith("demand."));
    const demand = Object.keys(moved).length > names.length;
    const replaced = [...names, ...(demand ? ["demand"] : [])];
    const words = [];
    for (let i = 0; i < data.command.length; i++) {
      const word = data.command[i], next = data.command[i + 1] || "";
      const [option, value] = word.startsWith("--") && word.includes("=")
        ? [word.slice(2, word.indexOf("=")), word.slice(word.indexOf("=") + 1)]
        : [word.slice(2), next];
      const name = option === "set" ? value.split("=")[0] : option;
      if (word.startsWith("--") && replaced.includes(name)) i += word.includes("=") ? 0 : 1;
      else words.push(word);
    }
    for (const name of names) words.push("--set", `${name}=${moved[name]}`);
    if (demand) {
      const counts = data.sliders.filter(({ name }) => name.startsWith("demand."))
        .map(({ name, value }) => `${name.slice(7)}=${moved[name] ?? value}`);
      words.push("--demand", counts.join(","));
    }
    return words.map(quoted).join(" ");
  }
  const yearsNow = () => moved.years ?? data.years;
  function recompute() {  // what is chosen; the first screen of several works follows
    const work = costModel.price(priced[chosen], moved), made = costSections(work);
    for (const id of ["cost", "time", "decides"]) fill(id, made[id]);
    const isDemand = work.alternatives.some((a) => a.machines);
    for (const { name } of data.sliders) {
      const used = name === "utilization" ? !isDemand : isDemand || !name.startsWith("demand.");
      byId(`slider-${name}`).parentNode.hidden = !used;
    }
    byId("result").textContent = answer(work, yearsNow()).slice(0, 2).join(" ");
    byId("command").textContent = command();
    return work;
  }
  function answerAgain(known) {
    const works = data.leading.map((i) =>
      i === chosen ? known : costModel.price(priced[i], moved));
    if (!works.length) return;
    const said = works.length === 1 ? answer(works[0], yearsNow()) : overall(works);
    ["answer", "sure", "noted"].forEach((id, i) => byId(id).replaceChildren(said[i]));
    draw(byId("first"), costChart(works));
  }
  function slider(each) {
    const input = byId(`slider-${each.name}`), output = byId(`value-${each.name}`);
    const say = () => {
      const value = moved[each.name] ?? each.value;
      const usd = each.usd === null ? ""
        : ` × ${money(each.usd)} = ${money(value * each.usd)} USD`;
      const range = each.name in moved || each.low === each.high ? ""
        : ` (${general(each.low, 6)}–${general(each.high, 6)})`;
      output.textContent = `${general(value, 6)}${range}${usd} ${usd ? "" : each.unit}`.trim();
      input.setAttribute("aria-valuetext", output.textContent);
    };
    input.addEventListener("input", () => {
      moved[each.name] = Number(input.value);
      say();
      schedule();
    });
    say();
    return () => {
      input.value = each.value;
      say();
    };
  }
  let waiting = 0;
  function schedule() {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      const work = recompute();
      waiting = setTimeout(() => answerAgain(work), data.leading.length > 1 ? IDLE_MS : 0);
    });
  }

  for (const [id, chart] of Object.entries(data.charts)) draw(byId(id), chart);
  for (const details of document.querySelectorAll("details.table")) {
    details.open = details.dataset.rows <= FOLDED;
  }
  const baseline = byId("baseline");
  if (baseline) {
    baseline.addEventListener("change", () => {
      for (const [id, found] of Object.entries(data.baselines[baseline.value])) fill(id, found);
    });
  }
  if (priced.length) {
    byId("controls").hidden = false;
    const reset = data.sliders.map(slider);
    byId("reset").addEventListener("click", () => {
      for (const name of Object.keys(moved)) delete moved[name];
      for (const each of reset) each();
      schedule();
    });
    const work = byId("work");
    if (work) {
      work.addEventListener("change", () => {
        chosen = Number(work.value);
        schedule();
      });
    }
    recompute();
  }
  addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("section details")) details.open = true;
  });
  for (const button of document.querySelectorAll("button.copy")) {
    button.hidden = !navigator.clipboard;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(byId(button.dataset.of).textContent);
      button.textContent = "Copied";
    });
  }
})();
