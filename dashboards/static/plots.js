"use strict";
/* Small plots in SVG (slices, importance, what was confirmed, Pareto front). No style attributes: colours are classes'. */
const Plots = (() => {
  const NS = "http://www.w3.org/2000/svg";

  function make(name, attributes = {}, text = null) {
    const node = document.createElementNS(NS, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== null) node.textContent = text;
    return node;
  }

  function figure(value, rate) {
    if (value === null || value === undefined || Number.isNaN(value)) return "–";
    if (rate) return value.toFixed(2);
    if (value === 0) return "0";
    const size = Math.abs(value);
    if (size >= 1e5 || size < 1e-3) return value.toExponential(1).replace("e+", "e").replace(".0e", "e");
    return String(Number(value.toPrecision(size >= 100 ? 4 : 3)));
  }

  /* A map from values to pixels, with its ticks. */
  function scale(low, high, from, to, { log = false, ticks = null } = {}) {
    const usable = log && low > 0;
    const f = usable ? Math.log10 : (x) => x;
    let a = f(low), b = f(high);
    if (a === b) { a -= usable ? .3 : Math.abs(a) * .1 || .5; b += usable ? .3 : Math.abs(b) * .1 || .5; }
    const at = (value) => from + (f(value) - a) / (b - a) * (to - from);
    at.invert = (pixel) => { const y = a + (pixel - from) / (to - from) * (b - a); return usable ? 10 ** y : y; };
    at.ticks = ticks || (usable ? decades(a, b) : rounds(a, b));
    return at;
  }

  function decades(a, b) {
    const found = [];
    const steps = b - a > 2.2 ? [1] : b - a > 1 ? [1, 3] : [1, 2, 5];
    for (let power = Math.floor(a); power <= Math.ceil(b); power++)
      for (const step of steps) {
        const value = Math.log10(step) + power;
        if (value >= a - 1e-9 && value <= b + 1e-9) found.push(step * 10 ** power);
      }
    return found.length > 1 ? found : [10 ** a, 10 ** b];
  }

  function rounds(a, b, count = 4) {
    const raw = (b - a) / count, size = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 2.5, 5, 10].map((n) => n * size).find((n) => n >= .75 * raw) || 10 * size;
    const found = [];
    for (let value = Math.ceil(a / step - 1e-9) * step; value <= b + step * 1e-6; value += step) found.push(Number(value.toPrecision(12)));
    return found;
  }

  function extent(values, padding = 0) {
    let low = Infinity, high = -Infinity;
    for (const value of values) if (value !== null && Number.isFinite(value)) { if (value < low) low = value; if (value > high) high = value; }
    if (low > high) return [0, 1];
    const room = (high - low) * padding;
    return [low - room, high + room];
  }

  function scoreRange(data, values, padding = .06) {
    const [low, high] = extent(values, padding);
    return data.rate ? [Math.max(-.02, Math.min(low, .98)), Math.min(1.02, Math.max(high, low + .1))] : [low, high];
  }

  /* Where a trial's value of a swept key lies on that key's axis. */
  function keyScale(axis, column, from, to, padding = 0) {
    if (axis.choices) {
      const at = (value) => from + (to - from) * (axis.choices.indexOf(String(value)) + .5) / axis.choices.length;
      at.ticks = axis.choices; at.named = true;
      at.invert = (pixel) => pixel;
      return at;
    }
    let [low, high] = extent([...column, ...(axis.ticks || [])]);
    const log = axis.log && low > 0;
    const room = log ? (high / low) ** padding : (high - low) * padding;
    if (log) { low /= room; high *= room; } else { low -= room; high += room; }
    return scale(low, high, from, to, { log, ticks: axis.ticks && axis.ticks.length < 9 ? axis.ticks : null });
  }

  function frame(width, height, label) {
    return make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  }

  function yAxis(svg, at, left, right, rate) {
    for (const tick of at.ticks) {
      svg.append(make("line", { class: "rule", x1: left, x2: right, y1: at(tick), y2: at(tick) }));
      svg.append(make("text", { x: left - 7, y: at(tick) + 4, "text-anchor": "end" }, figure(tick, rate && Math.abs(tick * 100 % 1) < 1e-6)));
    }
  }

  function xAxis(svg, at, y, height) {
    for (const tick of at.ticks) {
      svg.append(make("line", { class: "axis", x1: at(tick), x2: at(tick), y1: y, y2: y + 4 }));
      svg.append(make("text", { x: at(tick), y: y + 17, "text-anchor": "middle" }, at.named ? shorter(tick, 14) : figure(tick)));
    }
    return height;
  }

  const shorter = (text, most) => String(text).length > most ? String(text).slice(0, most - 1) + "…" : String(text);

  function slices(holder, data, { go }) {
    data.axes.forEach((axis, place) => {
      const width = 420, height = 218, left = 50, right = 408, top = 12, bottom = 172;
      const trials = data.trials.filter((trial) => trial.y !== null && trial.v[place] !== null);
      const svg = frame(width, height, `${data.objective} against ${axis.key}`);
      const x = keyScale(axis, trials.map((trial) => trial.v[place]), left + 14, right - 14);
      const y = scale(...scoreRange(data, trials.flatMap((trial) => [trial.y, trial.lo, trial.hi])), bottom, top);
      yAxis(svg, y, left, right, data.rate);
      svg.append(make("line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom }));
      xAxis(svg, x, bottom, height);
      svg.append(make("text", { class: "name", x: (left + right) / 2, y: height - 6, "text-anchor": "middle" }, axis.key));
      const few = trials.length <= 150, listed = axis.choices || axis.ticks;
      trials.sort((a, b) => (a.n === data.best) - (b.n === data.best));
      trials.forEach((trial) => {
        const nudge = listed ? ((trial.n * 7919) % 13 - 6) * (few ? 1.6 : 1.2) : 0;
        const px = x(trial.v[place]) + nudge, best = trial.n === data.best ? " best" : "";
        if (few && trial.lo !== null && trial.hi !== null)
          svg.append(make("line", { class: "whisker" + best, x1: px, x2: px, y1: y(trial.lo), y2: y(trial.hi) }));
        const dot = make("circle", { class: (trial.s === "complete" ? "dot" : "dot off") + best, cx: px, cy: y(trial.y), r: best ? 5 : few ? 4 : 2.6, "data-trial": trial.n });
        dot.append(make("title", {}, `trial ${trial.n}: ${axis.key} ${axis.choices ? trial.v[place] : figure(trial.v[place])}, ${figure(trial.y, data.rate)}`));
        if (go) dot.addEventListener("click", () => go(trial.n));
        svg.append(dot);
      });
      holder.append(svg);
    });
  }

  function bars(holder, data) {
    const row = 44, width = Math.max(260, holder.clientWidth), left = 8, right = width - 64, height = data.importance.length * row + 26;
    const svg = frame(width, height, "share of the score's variance that each key explains");
    const x = scale(0, 1, left, right);
    for (const tick of [0, .5, 1]) {
      svg.append(make("line", { class: "rule", x1: x(tick), x2: x(tick), y1: 6, y2: height - 20 }));
      svg.append(make("text", { x: x(tick), y: height - 5, "text-anchor": tick ? "middle" : "start" }, `${tick * 100} %`));
    }
    data.importance.forEach((item, place) => {
      const y = place * row + 8, middle = y + 27;
      svg.append(make("text", { class: "name", x: left, y: y + 11 }, shorter(item.key, 34)));
      svg.append(make("rect", { class: "bar", x: left, y: y + 19, width: Math.max(1, x(item.share) - left), height: 15, rx: 3 }));
      svg.append(make("line", { class: "axis", x1: x(item.low), x2: x(Math.min(1, item.high)), y1: middle, y2: middle, "stroke-width": 1.6 }));
      svg.append(make("text", { class: "strong", x: right + 14, y: middle + 4 }, `${Math.round(item.share * 100)} %`));
    });
    holder.append(svg);
  }

  function forest(holder, data) {
    const rows = data.candidates.filter((item) => item.mean !== null), row = 27, width = Math.max(320, holder.clientWidth), left = Math.min(300, width * .42), right = width - 14;
    const height = rows.length * row + 28;
    const svg = frame(width, height, "confirmed scores with their 95 % intervals");
    const x = scale(...scoreRange(data, rows.flatMap((item) => [item.mean, item.low, item.high])), left, right);
    for (const tick of x.ticks) {
      svg.append(make("line", { class: "rule", x1: x(tick), x2: x(tick), y1: 2, y2: height - 22 }));
      svg.append(make("text", { x: x(tick), y: height - 7, "text-anchor": "middle" }, figure(tick, data.rate)));
    }
    svg.append(make("line", { class: "zero", x1: x(rows[0].mean), x2: x(rows[0].mean), y1: 2, y2: height - 22 }));
    rows.forEach((item, place) => {
      const y = place * row + 15, best = item.best ? " best" : "";
      svg.append(make("text", { class: item.best ? "strong" : "name", x: left - 16, y: y + 4, "text-anchor": "end" }, shorter(item.name, Math.floor(left / 6.6))));
      if (item.low !== null && item.high !== null) svg.append(make("line", { class: "span" + best, x1: x(item.low), x2: x(item.high), y1: y, y2: y, "stroke-linecap": "round" }));
      svg.append(make("circle", { class: "dot" + best, cx: x(item.mean), cy: y, r: item.best ? 6 : 5 }));
    });
    holder.append(svg);
  }

  function pareto(holder, data, { go }) {
    const width = Math.max(320, holder.clientWidth), height = 340, left = 60, right = width - 15, top = 28, bottom = 290, found = data.pareto;
    const every = [...found.points, ...found.front].filter((point) => point.x !== null && point.y !== null);
    const svg = frame(width, height, `${found.y} against ${found.x}`);
    const x = scale(...extent(every.map((point) => point.x), .05), left + 8, right - 8);
    const y = scale(...extent(every.map((point) => point.y), .06), bottom, top);
    yAxis(svg, y, left, right, false);
    svg.append(make("line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom }));
    xAxis(svg, x, bottom, height);
    svg.append(make("text", { class: "name", x: (left + right) / 2, y: height - 6, "text-anchor": "middle" }, found.x.replaceAll("_", " ")));
    svg.append(make("text", { class: "name", x: 8, y: 14 }, found.y.replaceAll("_", " ")));
    const ends = found.front.filter((point) => point.x !== null && point.y !== null).sort((a, b) => a.x - b.x);
    svg.append(make("polyline", { class: "front", points: ends.map((point) => `${x(point.x)},${y(point.y)}`).join(" ") }));
    for (const [points, kind] of [[found.points, "dot"], [ends, "dot best"]])
      for (const point of points) {
        if (point.x === null || point.y === null) continue;
        const dot = make("circle", { class: kind, cx: x(point.x), cy: y(point.y), r: kind === "dot" ? 3.5 : 5.5, "data-trial": point.n });
        dot.append(make("title", {}, `trial ${point.n}: ${found.y} ${figure(point.y)}, ${found.x} ${figure(point.x)}`));
        if (go) dot.addEventListener("click", () => go(point.n));
        svg.append(dot);
      }
    holder.append(svg);
  }

  /* Scores of seeds and start states: a cell is an episode. */
  function grid(holder, found, { pick = null, filmed = [] } = {}) {
    const films = new Set(filmed.map(([seed, state]) => `${seed}-${state}`));
    const n = found.columns.length, left = Math.min(220, 14 + 7 * Math.max(...found.rows.map((name) => name.length)));
    const width = Math.max(320, holder.clientWidth), size = Math.min(30, (width - left - 8) / Math.max(1, n)), high = Math.max(14, Math.min(26, size)), gap = size > 8 ? 2 : .6;
    const height = found.rows.length * (high + gap) + 24, svg = frame(width, height, `${found.name} of each row on each start state`);
    const [low, top] = found.rate ? [0, 1] : extent(found.values.flat());
    found.rows.forEach((name, row) => {
      const y = row * (high + gap);
      svg.append(make("text", { class: "name", x: left - 10, y: y + high / 2 + 4, "text-anchor": "end" }, shorter(name, 38)));
      found.values[row].forEach((value, column) => {
        const share = value === null ? null : top > low ? (value - low) / (top - low) : 1;
        const kind = share === null ? "cell none" : found.rate ? (share >= 1 ? "cell won" : share > 0 ? "cell part" : "cell lost") : `cell ramp${Math.min(4, Math.floor(share * 5))}`;
        const cell = make("rect", { class: kind, x: left + column * size, y, width: Math.max(.5, size - gap), height: high, rx: size > 8 ? 3 : 0 });
        cell.append(make("title", {}, `${name}, start state ${found.columns[column]}: ${value === null ? "not played" : `${found.name} ${figure(value)}`}`));
        const seed = name.slice(name.lastIndexOf(" ") + 1);
        if (pick && value !== null) { cell.classList.add("open"); cell.addEventListener("click", () => pick(seed, found.columns[column])); }
        svg.append(cell);
        if (films.has(`${seed}-${found.columns[column]}`)) svg.append(make("circle", { class: "film", cx: left + column * size + (size - gap) / 2, cy: y + high / 2, r: Math.max(1.5, Math.min(5, size / 5)) }));
      });
    });
    if (n) {
      svg.append(make("text", { x: left, y: height - 6 }, `start state ${found.columns[0]}`));
      if (n > 1 && n * size > 240) svg.append(make("text", { x: left + n * size - gap, y: height - 6, "text-anchor": "end" }, String(found.columns[n - 1])));
    }
    holder.append(svg);
  }

  /* Returns of a dataset's episodes. */
  function overview(holder, data) {
    const found = data.overview, width = Math.max(320, holder.clientWidth), height = 170, left = 60, right = width - 10, top = 8, bottom = 138;
    const svg = frame(width, height, "return of each episode");
    const x = scale(...extent(found.numbers), left + 6, right - 6); x.ticks = x.ticks.filter(Number.isInteger);
    const y = scale(...extent(found.returns, .06), bottom, top);
    yAxis(svg, y, left, right, false);
    svg.append(make("line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom }));
    xAxis(svg, x, bottom, height);
    found.numbers.forEach((number, place) => {
      if (found.returns[place] === null) return;
      const here = number === data.number;
      const link = make("a", { href: `?episode=${number}${data.beside ? `&beside=${encodeURIComponent(data.beside)}` : ""}`, "aria-label": `episode ${number}` });
      const dot = make("circle", { class: here ? "dot best" : "dot", cx: x(number), cy: y(found.returns[place]), r: here ? 6 : found.numbers.length > 300 ? 2.5 : 4 });
      dot.append(make("title", {}, `episode ${number}: return ${figure(found.returns[place])}, ${found.lengths[place]} steps`));
      link.append(dot); svg.append(link);
    });
    holder.append(svg);
  }

  return { overview, grid, figure, scale, extent, scoreRange, keyScale, slices, bars, forest, pareto, shorter };
})();
