"use strict";
// Charts are drawn from the tables behind them, so that both always say the same.
(() => {
  const charts = new Map();
  const tones = ["--accent", "--ink-3", "--bad", "--warn"];
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function read(figure) {
    const rows = [...figure.querySelectorAll("tbody tr")];
    const columns = figure.querySelectorAll("thead th").length;
    const data = Array.from({ length: columns }, () => []);
    for (const row of rows) {
      data[0].push(Date.parse(row.cells[0].querySelector("time").dateTime) / 1000);
      for (let i = 1; i < columns; i++) {
        const value = row.cells[i].dataset.value;
        data[i].push(value === "" ? null : Number(value));
      }
    }
    return data;
  }

  const names = (figure) =>
    [...figure.querySelectorAll("thead th")].slice(1).map((th) => th.textContent.split(",")[0]);

  const short = new Intl.NumberFormat(undefined, { notation: "compact" });
  // Of whole days: days of UTC, and amounts, whose unit may have any name.
  const daily = (figure) => figure.dataset.step === "day";
  const amount = (value) => (Math.abs(value) < 10000 ? Number(value.toPrecision(4)).toLocaleString(undefined, { maximumFractionDigits: 6 }) : short.format(value));

  function written(value, unit, plain = false) {
    if (value === null || value === undefined) return "–";
    if (plain) return `${amount(value)} ${unit}`.trim();
    if (unit === "s") {
      if (value < 1) return `${Math.round(value * 1000)} ms`;
      if (value < 10 && !Number.isInteger(value)) return `${value.toFixed(1)} s`;
      return value < 100 ? `${Math.round(value)} s` : `${Math.round(value / 60)} min`;
    }
    return `${value >= 100 || Number.isInteger(value) ? Math.round(value).toLocaleString() : value.toFixed(1)} ${unit}`;
  }

  function key(figure, plot, index) {
    const unit = figure.dataset.unit;
    const at = index ?? plot.data[0].length - 1;
    figure.querySelectorAll(".key b").forEach((b, i) => { b.textContent = written(plot.data[i + 1][at], unit, daily(figure)); });
  }

  function draw(figure) {
    const holder = figure.querySelector(".plot");
    const data = read(figure);
    const known = charts.get(figure);
    if (known) {
      known.setData(data);
      key(figure, known);
      return;
    }
    if (!data[0].length) return;
    const unit = figure.dataset.unit, log = figure.dataset.scale === "log";
    const kinds = figure.dataset.kinds.split(","), days = daily(figure);
    const tick = days ? (v) => amount(v) : (v) => written(v, unit);
    const moment = days
      ? (t) => new Date(t * 1000).toLocaleDateString([], { month: "short", day: "numeric", timeZone: "UTC" })
      : (t) => new Date(t * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hour12: false });
    const line = { stroke: () => colour("--ink-3"), grid: { stroke: () => colour("--line"), width: 1 },
      ticks: { show: false }, font: "11px system-ui, sans-serif" };
    const plot = new uPlot({
      width: holder.clientWidth || 300, height: 160,
      padding: [8, 18, 0, 0],
      legend: { show: false },
      ...(days ? { tzDate: (t) => uPlot.tzDate(new Date(t * 1000), "Etc/UTC") } : {}),
      cursor: { y: false, points: { size: 6 } },
      scales: { x: { time: true }, y: log ? { distr: 3, log: 10, range: logRange } : { range: fromZero } },
      axes: [
        { ...line, grid: { show: false }, space: 80, size: 24,
          values: (_, at) => at.map(moment) },
        { ...line, size: 56, space: 32, values: (_, at) => at.map((v) => (v === null ? "" : tick(v))),
          ...(log ? { filter: tens, grid: { ...line.grid, filter: tens } } : {}) },
      ],
      series: [{}, ...names(figure).map((name, i) => ({
        label: name, width: i === 0 ? 2 : 1.5, stroke: () => colour(tones[i]), spanGaps: false,
        points: { show: true, size: 5, filter: lonely },
        ...(kinds[i] === "bars" ? { paths: uPlot.paths.bars({ size: [0.7, 12] }), fill: () => colour(tones[i]), width: 0 } : {}),
      }))],
      hooks: { setCursor: [(u) => key(figure, u, u.cursor.idx)] },
    }, data, holder);
    charts.set(figure, plot);
    const legend = document.createElement("p");
    legend.className = "key";
    names(figure).forEach((name, i) => {
      const item = document.createElement("span"), mark = document.createElement("i"), value = document.createElement("b");
      mark.className = `tone-${i}`;
      item.append(mark, ` ${name} `, value);
      legend.append(item);
    });
    holder.before(legend);
    legend.setAttribute("aria-hidden", "true");
    key(figure, plot);
    new ResizeObserver(() => plot.setSize({ width: holder.clientWidth, height: 160 })).observe(holder);
  }

  // A value without neighbours has no line: a dot shows it.
  const lonely = (u, s) => u.data[s].flatMap((v, i, all) => (v != null && all[i - 1] == null && all[i + 1] == null ? [i] : []));
  const tens = (_, at) => at.map((v) => (isTen(v) ? v : null));
  const isTen = (v) => Math.abs(Math.log10(v) - Math.round(Math.log10(v))) < 1e-9;
  const fromZero = (_, low, high) => [low < 0 ? low * 1.1 : 0, high > 0 ? high * 1.1 : 1];
  const logRange = (_, low, high) => {
    if (!(low > 0)) return [0.001, 1];
    return [10 ** Math.floor(Math.log10(low)), 10 ** Math.ceil(Math.log10(high) + 1e-9) * (low === high ? 10 : 1)];
  };

  const all = () => document.querySelectorAll("figure.chart").forEach(draw);
  all();
  document.addEventListener("parts:changed", all);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
    charts.forEach((plot) => plot.redraw()));
})();
