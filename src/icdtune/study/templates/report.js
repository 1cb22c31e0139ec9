"use strict";
// Charts, the per-code table and the note viewer. Data reaches the page as text only: textContent,
// attributes and escaped chart labels.
(() => {
  const data = JSON.parse(document.getElementById("report-data").textContent);
  const byId = (id) => document.getElementById(id);
  const number = new Intl.NumberFormat("en-US");
  const element = (tag, attributes = {}, text = null) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text !== null) made.textContent = text;
    return made;
  };

  // ---- charts -----------------------------------------------------------------------------------
  const SERIES = [
    { key: "micro_f1", name: "micro-F1", colour: "--micro", symbol: "circle", shift: -0.15 },
    { key: "macro_f1", name: "macro-F1", colour: "--macro", symbol: "diamond", shift: 0.15 },
  ];
  const { coders, ladder, bins } = data.charts;
  const highest = Math.max(0.05, ...[ladder, ...bins].flatMap((part) =>
    SERIES.flatMap(({ key }) => part[key].map((point) => (point ? point.high ?? point.value : 0)))));
  const TICKS = highest > 0.45 ? 0.2 : 0.1;
  const RANGE = [0, Math.min(1.02, Math.max(highest * 1.06, highest + 0.02))];

  // Plotly reads <b>, <a> and entities in labels as markup; these characters stop it.
  const literal = (text) =>
    text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(/%\{/g, "% {");

  // At most two lines; the whole name stays in the hover text and the table.
  const wrapped = (name, width) => {
    const lines = [""];
    for (const word of name.split(/\s+/)) {
      const last = lines[lines.length - 1];
      if (last && last.length + 1 + word.length > width) lines.push(word);
      else lines[lines.length - 1] = last ? `${last} ${word}` : word;
    }
    if (lines.length > 2) lines.splice(1, lines.length, lines.slice(1).join(" "));
    return lines.map((l) => literal(l.length > width ? `${l.slice(0, width - 1)}…` : l));
  };

  const theme = () => {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    return { colour, font: getComputedStyle(document.body).fontFamily };
  };

  const traces = (part, axis, { colour }, size) => SERIES.map((series) => {
    const at = part[series.key].map((point, row) => [point, row]).filter(([point]) => point);
    const hasIntervals = at.some(([point]) => point.low !== undefined);
    const upper = at.map(([p]) => (p.high === undefined ? null : Math.max(0, p.high - p.value)));
    const lower = at.map(([p]) => (p.low === undefined ? null : Math.max(0, p.value - p.low)));
    return {
      type: "scatter", mode: "markers", name: series.name,
      x: at.map(([point]) => point.value), y: at.map(([, row]) => row + series.shift),
      xaxis: `x${axis}`, yaxis: `y${axis}`, cliponaxis: false,
      marker: { symbol: series.symbol, size, color: colour(series.colour) },
      error_x: hasIntervals
        ? { type: "data", symmetric: false, array: upper, arrayminus: lower, thickness: 1.6, width: 0,
            color: colour(series.colour) }
        : { visible: false },
      text: at.map(([p, row]) => {
        const interval = p.low === undefined ? "" : ` (${p.low.toFixed(3)}–${p.high.toFixed(3)})`;
        return `${literal(coders[row])}<br>${series.name} ${p.value.toFixed(3)}${interval}`;
      }),
      hoverinfo: "text",
    };
  });

  const base = ({ colour, font }, height, width) => ({
    height, width, showlegend: false, dragmode: false, hovermode: "closest",
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: font, size: 13, color: colour("--ink") },
    hoverlabel: { bgcolor: colour("--surface"), bordercolor: colour("--strong-line"),
                  font: { family: font, size: 13, color: colour("--ink") }, align: "left" },
    annotations: [], shapes: [],
  });
  const xAxis = ({ colour }, more) => ({
    range: RANGE, dtick: TICKS, tick0: 0, fixedrange: true, zeroline: false, gridcolor: colour("--line"),
    tickfont: { size: 12, color: colour("--muted") }, tickformat: ".1f", ...more,
  });
  const yAxis = ({ colour }, labels, more) => ({
    range: [coders.length - 0.5, -0.5], fixedrange: true, zeroline: false, showgrid: false,
    tickvals: coders.map((_, row) => row), ticktext: labels, ticks: "", ticklabelstandoff: 8, automargin: false,
    tickfont: { size: 13, color: colour("--ink") }, ...more,
  });
  const stripes = ({ colour }, x, y) => coders.flatMap((_, row) => (row % 2 ? [] : [{
    type: "rect", layer: "below", line: { width: 0 }, fillcolor: colour("--band"),
    xref: `${x} domain`, yref: y, x0: 0, x1: 1, y0: row - 0.5, y1: row + 0.5 }]));
  const dot = (width) => (width < 560 ? 7 : 9);
  const gutter = (labels) => {
    const longest = Math.max(...labels.flatMap((label) => label.map((line) => line.length)));
    return Math.min(230, Math.max(60, longest * 7.4 + 20));
  };

  const drawLadder = (target, look, width) => {
    const labels = coders.map((name) => wrapped(name, width < 560 ? 17 : 28));
    const margin = { l: gutter(labels), r: 14, t: 6, b: 30 };
    const layout = {
      ...base(look, coders.length * 38 + margin.t + margin.b, width), margin,
      xaxis: xAxis(look, {}), yaxis: yAxis(look, labels.map((lines) => lines.join("<br>")), {}),
      shapes: stripes(look, "x", "y"),
    };
    return Plotly.react(target, traces(ladder, "", look, dot(width)), layout, { displayModeBar: false });
  };

  const drawBins = (target, look, width) => {
    const columns = Math.min(bins.length, width >= 900 ? 4 : width >= 620 ? 2 : 1);
    const rows = Math.ceil(bins.length / columns);
    const labels = coders.map((name) => wrapped(name, width < 560 ? 17 : 22));
    const margin = { l: gutter(labels), r: 14, t: 4, b: 28 };
    const head = 50;
    const between = 30;
    const panel = coders.length * 30;
    const inner = rows * (panel + head) + (rows - 1) * between;
    const layout = { ...base(look, inner + margin.t + margin.b, width), margin };
    const gap = columns > 1 ? 0.028 : 0;
    const wide = (1 - gap * (columns - 1)) / columns;
    bins.forEach((bin, at) => {
      const axis = at ? String(at + 1) : "";
      const column = at % columns;
      const row = Math.floor(at / columns);
      const left = column * (wide + gap);
      const top = 1 - (row * (panel + head + between) + head) / inner;
      layout[`xaxis${axis}`] = xAxis(look, { domain: [left, left + wide], anchor: `y${axis}` });
      layout[`yaxis${axis}`] = yAxis(look, labels.map((lines) => lines.join("<br>")), {
        domain: [Math.max(0, top - panel / inner), top], anchor: `x${axis}`,
        showticklabels: column === 0 });
      layout.shapes.push(...stripes(look, `x${axis}`, `y${axis}`));
      const size = `${number.format(bin.codes)} codes · ${number.format(bin.mentions)} mentions`;
      layout.annotations.push({
        text: `<b>${literal(bin.title)}</b> training notes<br><span style="color:${look.colour("--muted")};font-size:12px">${size}</span>`,
        xref: "paper", yref: "paper", x: left, y: top, xanchor: "left", yanchor: "bottom", yshift: 5,
        align: "left", showarrow: false });
    });
    const drawn = bins.flatMap((bin, at) => traces(bin, at ? String(at + 1) : "", look, dot(width) - 1));
    return Plotly.react(target, drawn, layout, { displayModeBar: false });
  };

  // ---- training ---------------------------------------------------------------------------------
  const { loss, reward, pools } = data.training;
  const COLOURS = 4;
  const stroke = ({ colour }, rung) => (
    { color: colour(`--rung-${rung % COLOURS}`), dash: rung >= COLOURS ? "dash" : "solid" });
  const spoken = (value) => (Number.isInteger(value) ? number.format(value) : value.toPrecision(3));

  // Raw values faint, their running mean strong; one strong line where there are too few for a mean.
  const curve = (look, { name, rung, step, raw, mean }, what, axis) => {
    const line = stroke(look, rung);
    const common = { type: "scatter", mode: step.length > 1 ? "lines" : "markers", x: step, name,
                     xaxis: `x${axis}`, yaxis: `y${axis}`, hoverinfo: "text" };
    const faint = { ...common, y: raw, line: { ...line, width: 1 }, opacity: 0.35, hoverinfo: "skip" };
    const strong = { ...common, y: mean ?? raw, line: { ...line, width: 2.2 }, marker: { color: line.color },
      text: step.map((at, i) => `${literal(name)}<br>update ${at}: ${what} ${spoken(raw[i])}`
        + (mean ? ` (mean ${spoken(mean[i])})` : "")) };
    return mean ? [faint, strong] : [strong];
  };
  const plain = ({ colour }, more) => ({
    fixedrange: true, zeroline: false, gridcolor: colour("--line"), automargin: false, nticks: 6, ticklabelstandoff: 6,
    tickfont: { size: 12, color: colour("--muted") }, ...more,
  });
  const heading = (text, x, y) => ({ text, xref: "paper", yref: "paper", x, y, xanchor: "left",
    yanchor: "bottom", yshift: 5, align: "left", showarrow: false });
  const HIGH = 180;

  // Panels in a grid, each with its own vertical scale; fill(panel, axis) gives a panel's traces.
  const grid = (target, look, width, panels, fill) => {
    const columns = Math.min(panels.length, width >= 900 ? 3 : width >= 620 ? 2 : 1);
    const rows = Math.ceil(panels.length / columns);
    const [head, foot, left] = [28, 44, 52];
    const margin = { l: left, r: 14, t: 0, b: 0 };
    const inner = rows * (head + HIGH + foot);
    const layout = { ...base(look, inner, width), margin, hovermode: "closest" };
    const gap = columns > 1 ? (left + 14) / Math.max(200, width - left - 14) : 0;
    const wide = (1 - gap * (columns - 1)) / columns;
    const traces = panels.flatMap((panel, at) => {
      const axis = at ? String(at + 1) : "";
      const x = (at % columns) * (wide + gap);
      const top = 1 - (Math.floor(at / columns) * (head + HIGH + foot) + head) / inner;
      layout[`xaxis${axis}`] = plain(look, { domain: [x, x + wide], anchor: `y${axis}`, showgrid: false,
        title: { text: panel.below, standoff: 4, font: { size: 12, color: look.colour("--muted") } },
        ...panel.x });
      layout[`yaxis${axis}`] = plain(look, { domain: [Math.max(0, top - HIGH / inner), top],
        anchor: `x${axis}`, ...panel.y });
      layout.annotations.push(heading(`<b>${literal(panel.title)}</b>`, x, top));
      return fill(panel, axis);
    });
    return Plotly.react(target, traces, layout, { displayModeBar: false });
  };

  const drawLoss = (target, look, width) =>
    grid(target, look, width, loss.map((rung) => ({ rung, title: rung.name, below: "update" })),
      ({ rung }, axis) => curve(look, rung, "loss", axis));

  const drawReward = (target, look, width) => Plotly.react(target,
    reward.flatMap((rung) => curve(look, rung, "reward", "")), {
      ...base(look, 300, width), margin: { l: 52, r: 14, t: 8, b: 42 },
      xaxis: plain(look, { showgrid: false, nticks: 10,
        title: { text: "update", standoff: 4, font: { size: 12, color: look.colour("--muted") } } }),
      yaxis: plain(look, {}),
    }, { displayModeBar: false });

  const drawPools = (target, look, width) => {
    const rounds = { dtick: 1, tick0: 0, nticks: 0 };
    const panels = [
      { key: "pool", title: "Pool size (missed codes)", below: "round", x: rounds, y: { rangemode: "tozero", tickformat: ",~r" } },
      { key: "hinted_recall", title: "Recall of hinted codes", below: "round", x: rounds,
        y: { range: [0, 1.02], dtick: 0.2, tickformat: ".1f" } },
    ].filter(({ key }) => pools.some((row) => row[key].some((value) => value !== null)));
    const last = Math.max(...pools.flatMap((row) => row.round));
    rounds.range = [-0.25, last + 0.25];
    return grid(target, look, Math.min(width, 860), panels, ({ key, title }, axis) => pools.map((row) => ({
      type: "scatter", mode: "lines+markers", name: row.name, x: row.round, y: row[key],
      xaxis: `x${axis}`, yaxis: `y${axis}`, line: { ...stroke(look, row.rung), width: 2.2 },
      marker: { size: 8, color: stroke(look, row.rung).color }, hoverinfo: "text", cliponaxis: false,
      text: row.round.map((at, i) => (row[key][i] === null ? ""
        : `${literal(row.name)}<br>round ${at}: ${title.toLowerCase()} ${spoken(row[key][i])}`)),
    })));
  };

  const drawers = Object.entries({
    ladder: drawLadder, bins: drawBins, loss: drawLoss, reward: drawReward, pools: drawPools });
  const draw = (width = null) => {
    const look = theme();
    for (const [id, drawer] of drawers) {
      const target = byId(id);
      if (target && coders.length) drawer(target, look, width ?? target.clientWidth);
    }
  };
  let drawnWidth = byId("bins").clientWidth;
  draw();
  new ResizeObserver(() => {
    const width = byId("bins").clientWidth;
    if (width && width !== drawnWidth && !document.documentElement.classList.contains("printing")) {
      drawnWidth = width;
      draw();
    }
  }).observe(byId("bins"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw());
  addEventListener("beforeprint", () => {
    document.documentElement.classList.add("printing");
    draw(960); // A4 landscape, less its margins
  });
  addEventListener("afterprint", () => {
    document.documentElement.classList.remove("printing");
    draw();
  });

  // ---- headline and comparisons -------------------------------------------------------------------
  byId("all-intervals")?.addEventListener("change", (event) =>
    byId("headline").classList.toggle("every", event.target.checked));

  const metric = byId("comparison-metric");
  if (metric) {
    const table = byId("comparison-table");
    const filter = () => {
      table.classList.add("filtered");
      for (const body of table.tBodies) body.hidden = body.dataset.metric !== metric.value;
    };
    metric.addEventListener("change", filter);
    filter();
  }

  // ---- per-code table ---------------------------------------------------------------------------
  const codes = data.codes;
  const PAGE = 200;
  const columns = [
    { key: "code", title: "Code", values: codes.code, first: 1 },
    { key: "title", title: "Title", values: codes.title, first: 1 },
    { key: "train", title: "Train", values: codes.train, first: -1, numeric: true },
    { key: "gold", title: "Gold", values: codes.gold, first: -1, numeric: true },
    ...coders.map((name, at) => (
      { key: `f1-${at}`, title: name, values: codes.f1[at], first: -1, numeric: true, f1: true })),
  ];
  const haystack = codes.code.map((code, row) => `${code} ${codes.title[row]}`.toLowerCase());
  const state = { by: columns[3], direction: -1, shown: PAGE };
  const [head, body] = [byId("code-table").tHead, byId("code-table").tBodies[0]];
  const collate = new Intl.Collator("en", { numeric: false }).compare;

  const compare = (a, b) => {
    const [x, y] = [state.by.values[a], state.by.values[b]];
    const [noX, noY] = [x === null || x === "", y === null || y === ""];
    if (noX || noY) return noX - noY || a - b; // empty last, whatever the direction
    const order = state.by.numeric ? x - y : collate(x, y);
    return state.direction * order || a - b;
  };
  const matching = () => {
    const words = byId("code-search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const [low, high] = byId("code-bin").value.split(",");
    const from = low ? Number(low) : 0;
    const to = high ? Number(high) : Infinity;
    const rows = [];
    for (let row = 0; row < haystack.length; row += 1) {
      const inBin = codes.train[row] >= from && codes.train[row] <= to;
      if (inBin && words.every((word) => haystack[row].includes(word))) rows.push(row);
    }
    return rows;
  };
  const cell = (column, row) => {
    const value = column.values[row];
    if (column.key === "code") return element("th", { scope: "row", class: "fixed" }, value);
    if (column.key === "title") return element("td", { class: "title" }, value || "–");
    if (!column.f1) return element("td", { class: "n" }, number.format(value));
    if (value === null) return element("td", { class: "n empty" }, "–");
    const made = element("td", { class: "n f1" }, value.toFixed(2));
    made.style.setProperty("--f", value);
    return made;
  };
  const refresh = () => {
    const rows = matching().sort(compare);
    const shown = rows.slice(0, state.shown);
    body.replaceChildren(...shown.map((row) => {
      const line = element("tr");
      line.append(...columns.map((column) => cell(column, row)));
      return line;
    }));
    if (!shown.length) {
      const line = element("tr");
      line.append(element("td", { colspan: columns.length, class: "empty" }, "No code matches."));
      body.append(line);
    }
    const found = `${number.format(shown.length)} of ${number.format(rows.length)} codes`;
    byId("code-status").textContent = rows.length < haystack.length
      ? `${found} (${number.format(haystack.length)} in all)` : found;
    byId("code-more").hidden = shown.length === rows.length;
  };
  const reset = () => {
    state.shown = PAGE;
    byId("code-scroll").scrollTop = 0;
    refresh();
  };
  const line = element("tr");
  for (const column of columns) {
    const kind = column.key === "code" ? "fixed" : column.f1 ? "n f1" : column.numeric ? "n" : "";
    const header = element("th", { scope: "col", class: kind });
    const button = element("button", { type: "button", title: `Sort by ${column.title}` }, column.title);
    button.addEventListener("click", () => {
      state.direction = state.by === column ? -state.direction : column.first;
      state.by = column;
      mark();
      reset();
    });
    header.append(button);
    column.header = header;
    line.append(header);
  }
  const mark = () => {
    for (const column of columns) column.header.removeAttribute("aria-sort");
    state.by.header.setAttribute("aria-sort", state.direction > 0 ? "ascending" : "descending");
  };
  head.append(line);
  byId("code-search").addEventListener("input", reset);
  byId("code-bin").addEventListener("change", reset);
  byId("code-more").addEventListener("click", () => {
    state.shown += PAGE;
    refresh();
  });
  mark();
  refresh();

  // ---- notes ------------------------------------------------------------------------------------
  const coder = byId("note-coder");
  if (coder) {
    const notes = [...document.querySelectorAll(".example")];
    const buttons = [...document.querySelectorAll(".picker button")];
    const press = (chip) => {
      const note = chip.closest(".example");
      const pressed = chip.getAttribute("aria-pressed") === "true";
      for (const other of note.querySelectorAll(".chip")) other.setAttribute("aria-pressed", "false");
      for (const mark of note.querySelectorAll("mark")) mark.classList.remove("found");
      if (pressed) return;
      chip.setAttribute("aria-pressed", "true");
      const found = [...note.querySelectorAll("mark")].filter((mark) =>
        JSON.parse(mark.dataset.codes).includes(chip.dataset.code));
      for (const mark of found) mark.classList.add("found");
      if (found.length) {
        const text = note.querySelector(".body");
        text.scrollTop += found[0].getBoundingClientRect().top - text.getBoundingClientRect().top - 80;
      }
    };
    const show = () => {
      for (const note of notes) {
        for (const answer of note.querySelectorAll(".answer")) {
          answer.hidden = answer.dataset.coder !== coder.value;
        }
        const answer = note.querySelector(".answer:not([hidden])");
        const hits = new Set([...answer.querySelectorAll(".chip.hit")].map((c) => c.dataset.code));
        const missed = new Set([...answer.querySelectorAll(".chip.missed")].map((c) => c.dataset.code));
        for (const mark of note.querySelectorAll("mark.gold")) {
          const under = JSON.parse(mark.dataset.codes);
          const [some, none] = [under.some((c) => hits.has(c)), under.some((c) => missed.has(c))];
          mark.classList.toggle("hit", some && !none);
          mark.classList.toggle("missed", none && !some);
          mark.classList.toggle("mixed", some && none);
        }
      }
    };
    coder.addEventListener("change", show);
    buttons.forEach((button, at) => button.addEventListener("click", () => {
      buttons.forEach((other, i) => other.setAttribute("aria-pressed", String(i === at)));
      notes.forEach((note, i) => { note.hidden = i !== at; });
    }));
    for (const chip of document.querySelectorAll(".chip")) chip.addEventListener("click", () => press(chip));
    show();
  }
})();
