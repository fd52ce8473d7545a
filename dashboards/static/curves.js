"use strict";
/* Curves by uPlot: those of a sweep's trials, and those of each seed of a run. */
const Curves = (() => {
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const colours = () => [0, 1, 2, 3, 4, 5, 6].map((place) => css(`--series-${place}`));

  function joined(tables) {
    const steps = [...new Set(tables.flatMap((table) => table[0]))].sort((a, b) => a - b);
    const place = new Map(steps.map((step, index) => [step, index]));
    const columns = tables.flatMap((table) => table.slice(1).map((values) => {
      const column = new Array(steps.length).fill(null);
      values.forEach((value, index) => { column[place.get(table[0][index])] = value; });
      return column;
    }));
    return [steps, ...columns];
  }

  const short = (value) => { const size = Math.abs(value); return size >= 1e6 ? `${+(value / 1e6).toPrecision(3)}M` : size >= 1e4 ? `${+(value / 1e3).toPrecision(3)}k` : Plots.figure(value); };

  function options(holder, height, extra) {
    const axis = { stroke: css("--dim"), font: `11.5px ${css("--sans")}`, grid: { stroke: css("--rule"), width: 1 }, ticks: { stroke: css("--rule"), width: 1 }, values: (_, ticks) => ticks.map((tick) => tick === null ? "" : short(tick)) };
    return { width: Math.max(240, holder.clientWidth), height, legend: { show: false }, padding: [8, 12, 0, 0], scales: { x: { time: false }, ...(extra.scales || {}) }, axes: [{ ...axis, size: 30, ...(extra.x ? { label: extra.x, labelSize: 18, labelFont: `12.5px ${css("--sans")}` } : {}) }, { ...axis, size: 54 }], ...extra.rest, series: [{}, ...extra.series], bands: extra.bands || [] };
  }

  /* The trials of a sweep: grey-blue by rank, the best in orange with its band. */
  function trials(holder, data, { say, light, go }) {
    const order = Object.keys(data.curves).map(Number).filter((n) => data.curves[n].step.length);
    if (!order.length) { holder.textContent = "No evaluation yet."; return null; }
    const scores = new Map(data.trials.map((trial) => [trial.n, trial]));
    order.sort((a, b) => (a === data.best) - (b === data.best));
    const tables = order.map((n) => [data.curves[n].step, data.curves[n].mean]);
    const series = order.map((n, place) => {
      const best = n === data.best, status = (scores.get(n) || {}).s;
      const colour = best ? css("--best") : status === "complete" ? css("--amount-2") : status === "running" ? css("--amount") : css("--rule-strong");
      return { label: `trial ${n}`, stroke: colour, width: best ? 2.6 : 1.3, spanGaps: true, points: { show: data.curves[n].step.length < 30, size: best ? 6 : 4, fill: colour }, number: n };
    });
    let bands = [];
    if (order.includes(data.best)) {
      const best = data.curves[data.best];
      tables.push([best.step, best.high, best.low]);
      series.push(...["high", "low"].map(() => ({ stroke: "transparent", width: 0, points: { show: false }, spanGaps: true })));
      bands = [{ series: [series.length - 1, series.length], fill: css("--best-band") }];
    }
    const shown = (n) => { const trial = scores.get(n); return trial ? `<b>trial ${n}</b> ${Plots.figure(trial.y, data.rate)}${trial.lo === null ? "" : ` [${Plots.figure(trial.lo, data.rate)}, ${Plots.figure(trial.hi, data.rate)}]`}` : ""; };
    let over = null;
    const plot = new uPlot(options(holder, 340, {
      series, bands, x: "training steps",
      rest: {
        focus: { alpha: .22 }, cursor: { focus: { prox: 14 }, y: false, points: { show: false } },
        hooks: { setSeries: [(_, index) => { const item = index === null ? null : series[index - 1]; over = item && item.number !== undefined ? item.number : null; light(over); }] },
      },
    }), joined(tables), holder);
    plot.over.addEventListener("click", () => { if (over !== null && go) go(over); });
    return {
      
      light(number) {
        say(number === null ? "" : shown(number));
        const place = number === null ? null : order.indexOf(number) + 1;
        if (number !== over) { over = number; plot.setSeries(place || null, { focus: Boolean(place) }, false); }
      },
      destroy() { plot.destroy(); },
    };
  }

  /* A run: a figure for each metric, a line for each seed, and the mean with its band for the objective. */
  function seeds(holder, data) {
    const rank = (key) => [`eval/${data.objective}`, "eval/", "episode/", "train/"].findIndex((start) => key.startsWith(start));
    const names = Object.keys(data.seeds).sort((a, b) => rank(a) - rank(b) || a.localeCompare(b));
    const plots = [], palette = colours();
    for (const name of names) {
      const figure = document.createElement("figure"), caption = document.createElement("figcaption"), place = document.createElement("div");
      const own = data.seeds[name], tables = [], series = [];
      Object.entries(own).forEach(([seed, [steps, values]], index) => {
        const colour = palette[index % palette.length];
        tables.push([steps, values]);
        series.push({ label: `seed ${seed}`, stroke: colour, width: 1.4, spanGaps: true, points: { show: steps.length < 30, size: 4, fill: colour } });
      });
      let bands = [];
      if (name === `eval/${data.objective}` && data.mean.step.length && Object.keys(own).length > 1) {
        tables.push([data.mean.step, data.mean.mean, data.mean.high, data.mean.low]);
        series.push({ label: "mean", stroke: css("--text"), width: 2.4, spanGaps: true, points: { show: false } });
        series.push(...["high", "low"].map(() => ({ stroke: "transparent", width: 0, points: { show: false }, spanGaps: true })));
        bands = [{ series: [series.length - 1, series.length], fill: css("--best-band") }];
      }
      caption.textContent = name;
      figure.append(caption, place); holder.append(figure);
      const plot = new uPlot(options(place, 190, { series, bands, rest: { cursor: { y: false } } }), joined(tables), place);
      plots.push({ destroy() { plot.destroy(); } });
    }
    return plots;
  }

  /* Runs beside each other: a colour and a band each. */
  function overlay(holder, data) {
    const palette = colours(), names = Object.keys(data.overlay), tables = [], series = [], bands = [];
    names.forEach((name, index) => {
      const own = data.overlay[name], colour = palette[index % palette.length];
      tables.push([own.step, own.mean, own.high, own.low]);
      series.push({ label: name, stroke: colour, width: 2, spanGaps: true, points: { show: own.step.length < 30, size: 5, fill: colour } });
      series.push(...["high", "low"].map(() => ({ stroke: "transparent", width: 0, points: { show: false }, spanGaps: true })));
      bands.push({ series: [series.length - 1, series.length], fill: colour + "22" });
    });
    const legend = document.createElement("p"), place = document.createElement("div");
    legend.className = "legend";
    names.forEach((name, index) => {
      const item = document.createElement("span"), line = document.createElement("i");
      line.className = `line${index % palette.length}`;
      item.append(line, name); legend.append(item);
    });
    holder.append(legend, place);
    const plot = new uPlot(options(place, 300, { series, bands, rest: { cursor: { y: false } }, x: holder.dataset.x }), joined(tables), place);
    return { destroy() { plot.destroy(); } };
  }

  /* The columns of one episode: a line for each dimension. `at` is called with the step of a click. */
  function episode(holder, data, { height = 170, at = null } = {}) {
    const palette = colours();
    return Object.entries(data.episode).map(([name, dims]) => {
      const figure = document.createElement("figure"), caption = document.createElement("figcaption"), place = document.createElement("div");
      const all = (data.dims || {})[name] || dims.length;
      caption.textContent = all > dims.length ? `${name}, the first ${dims.length} of ${all} dims` : all > 1 ? `${name}, ${all} dims` : name;
      figure.append(caption, place); holder.append(figure);
      const steps = dims[0].map((_, index) => index);
      const series = dims.map((_, index) => ({ label: String(index), stroke: palette[index % palette.length], width: 1.3, points: { show: false } }));
      const plot = new uPlot(options(place, height, { series, rest: { cursor: { y: false, sync: { key: "episode" } } } }), [steps, ...dims], place);
      if (at) plot.over.addEventListener("click", () => { if (plot.cursor.left >= 0) at(plot.posToVal(plot.cursor.left, "x")); });
      const line = document.createElement("div");
      line.className = "hand"; plot.over.append(line);
      return { plot, show(step) { line.style.transform = `translateX(${plot.valToPos(Math.min(step, steps.length - 1), "x")}px)`; }, destroy() { plot.destroy(); } };
    });
  }

  return { trials, seeds, overlay, episode };
})();
