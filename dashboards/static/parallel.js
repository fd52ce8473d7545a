"use strict";
/* Parallel coordinates on a canvas: a line is a trial. Drag along an axis keeps a part of it; Esc lets go. By keys:
   left and right choose an axis, up and down a quarter of it, with Shift they widen it. */
function drawParallel(holder, data, { say, light, go }) {
  const canvas = document.createElement("canvas"), axes = [...data.axes, { key: data.objective, score: true }];
  holder.replaceChildren(canvas);
  const trials = data.trials.filter((trial) => trial.y !== null);
  const kept = new Map(); // axis place -> [low pixel, high pixel]
  let lit = null, at = [], xs = [], width = 0, height = 300, drag = null, chosen = 0;
  const top = 40, bottom = () => height - 14;
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function layout() {
    width = Math.max(300, holder.clientWidth);
    const ratio = window.devicePixelRatio || 1;
    canvas.width = width * ratio; canvas.height = height * ratio;
    canvas.style.width = `${width}px`; canvas.style.height = `${height}px`;
    canvas.getContext("2d").setTransform(ratio, 0, 0, ratio, 0, 0);
    const margin = Math.min(90, width * .08);
    xs = axes.map((_, place) => margin + (width - 2 * margin) * (axes.length > 1 ? place / (axes.length - 1) : .5));
    at = axes.map((axis, place) => axis.score
      ? Plots.scale(...Plots.extent(trials.map((trial) => trial.y), .02), bottom(), top)
      : Plots.keyScale(axis, trials.map((trial) => trial.v[place]), bottom(), top, .02));
  }

  const pixel = (trial, place) => {
    const value = axes[place].score ? trial.y : trial.v[place];
    return value === null ? null : at[place](value);
  };
  const passes = (trial) => [...kept].every(([place, [low, high]]) => { const y = pixel(trial, place); return y !== null && y >= low && y <= high; });

  function line(context, trial) {
    context.beginPath();
    let pen = false;
    axes.forEach((_, place) => {
      const y = pixel(trial, place);
      if (y === null) { pen = false; return; }
      if (!pen) context.moveTo(xs[place], y);
      else { const middle = (xs[place - 1] + xs[place]) / 2; context.bezierCurveTo(middle, pixel(trial, place - 1), middle, y, xs[place], y); }
      pen = true;
    });
    context.stroke();
  }

  function draw() {
    const context = canvas.getContext("2d"), ramp = [1, 2, 3, 4].map((n) => css(`--amount-${n}`));
    const scores = trials.map((trial) => trial.y * (data.minimized ? -1 : 1)).sort((a, b) => a - b);
    const rank = (trial) => { const y = trial.y * (data.minimized ? -1 : 1); return scores.length > 1 ? (scores.lastIndexOf(y) + scores.indexOf(y)) / 2 / (scores.length - 1) : 1; };
    context.clearRect(0, 0, width, height);
    const many = trials.length > 200;
    const ordered = trials.map((trial) => [rank(trial), trial]).sort((a, b) => a[0] - b[0]);
    for (const [share, trial] of ordered) {
      const inside = passes(trial);
      context.globalAlpha = inside ? (many ? .5 : .85) : .07;
      context.lineWidth = many ? 1 : 1.5;
      context.strokeStyle = ramp[Math.min(3, Math.floor(share * 4))];
      line(context, trial);
    }
    for (const [number, colour, thick] of [[data.best, css("--best"), 2.6], [lit, css("--text"), 2.2]]) {
      const trial = trials.find((item) => item.n === number);
      if (!trial || (number === data.best && !passes(trial))) continue;
      context.globalAlpha = 1; context.lineWidth = thick; context.strokeStyle = colour;
      line(context, trial);
    }
    context.globalAlpha = 1;
    axes.forEach((axis, place) => {
      context.strokeStyle = css("--rule-strong"); context.lineWidth = 1;
      context.beginPath(); context.moveTo(xs[place], top); context.lineTo(xs[place], bottom()); context.stroke();
      context.textAlign = place === 0 ? "left" : place === axes.length - 1 ? "right" : "center";
      context.fillStyle = css(place === chosen && holder.matches(":focus-visible") ? "--best" : "--text"); context.font = `600 12.5px ${css("--sans")}`;
      context.fillText(axis.key.replaceAll("_", axis.score ? " " : "_"), xs[place], 18);
      context.textAlign = place === axes.length - 1 ? "left" : "right";
      context.fillStyle = css("--dim"); context.font = `11.5px ${css("--sans")}`;
      for (const tick of at[place].ticks) {
        const y = at[place](tick);
        if (y < top - 8 || y > bottom() + 8) continue;
        const text = at[place].named ? Plots.shorter(tick, 12) : Plots.figure(tick);
        const x = xs[place] + (place === axes.length - 1 ? 9 : -9);
        context.strokeStyle = css("--card"); context.lineWidth = 4; context.lineJoin = "round"; context.strokeText(text, x, y + 4);
        context.fillText(text, x, y + 4);
        context.fillRect(xs[place] - 3, y - .5, 6, 1);
      }
      const part = kept.get(place);
      if (part) { context.fillStyle = css("--best-band"); context.fillRect(xs[place] - 8, part[0], 16, part[1] - part[0]); context.strokeStyle = css("--best"); context.strokeRect(xs[place] - 8, part[0], 16, part[1] - part[0]); }
    });
    const inside = trials.filter(passes).length;
    if (lit === null) say(kept.size ? `${inside} of ${trials.length} trials` : "");
  }

  function near(event) {
    const box = canvas.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    const place = xs.reduce((best, value, index) => Math.abs(value - x) < Math.abs(xs[best] - x) ? index : best, 0);
    return { x, y, place, onAxis: Math.abs(xs[place] - x) < 16 };
  }

  function nearest({ x, y }) {
    let found = null, distance = 9;
    const left = Math.max(0, Math.min(axes.length - 2, xs.findIndex((value) => value > x) - 1));
    if (axes.length < 2) return null;
    const share = Math.min(1, Math.max(0, (x - xs[left]) / (xs[left + 1] - xs[left])));
    const smooth = share * share * (3 - 2 * share);
    for (const trial of trials) {
      const a = pixel(trial, left), b = pixel(trial, left + 1);
      if (a === null || b === null || !passes(trial)) continue;
      const gap = Math.abs(a + (b - a) * smooth - y);
      if (gap < distance) { distance = gap; found = trial.n; }
    }
    return found;
  }

  canvas.addEventListener("pointerdown", (event) => {
    const spot = near(event);
    if (!spot.onAxis) { const number = nearest(spot); if (number !== null && go) go(number); return; }
    drag = { place: spot.place, from: spot.y };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    const spot = near(event);
    if (!drag) { light(nearest(spot)); return; }
    const ends = [drag.from, spot.y].sort((a, b) => a - b).map((y) => Math.min(bottom() + 6, Math.max(top - 6, y)));
    if (ends[1] - ends[0] > 3) kept.set(drag.place, ends); else kept.delete(drag.place);
    draw();
  });
  canvas.addEventListener("pointerup", () => { drag = null; });
  canvas.addEventListener("pointerleave", () => light(null));
  function step(down, wider) {
    const quarter = (bottom() - top) / 4, part = kept.get(chosen), last = down ? bottom() : top;
    let [low, high] = part || (down ? [top - quarter, top] : [bottom(), bottom() + quarter]);
    if (!part || !wider) { low += down ? quarter : -quarter; high += down ? quarter : -quarter; }
    else if (down) high += quarter; else low -= quarter;
    if (down ? high > last + 1 : low < last - 1) return;
    kept.set(chosen, [low, high]);
  }
  holder.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { kept.clear(); draw(); return; }
    if (!event.key.startsWith("Arrow")) return;
    event.preventDefault();
    if (event.key === "ArrowLeft" || event.key === "ArrowRight") chosen = (chosen + (event.key === "ArrowRight" ? 1 : axes.length - 1)) % axes.length;
    else step(event.key === "ArrowDown", event.shiftKey);
    draw();
  });
  for (const kind of ["focus", "blur"]) holder.addEventListener(kind, draw);
  layout(); draw();
  return { light(number) { if (lit !== number) { lit = number; draw(); } } };
}
