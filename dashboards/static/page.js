"use strict";
/* Draws the plots of a page from the numbers that stand in it, again after each change while a run goes on. */
(() => {
  let parts = [], width = 0, waiting = 0;
  const sorted = { column: null, down: false };

  function numbers() {
    const holder = document.getElementById("data");
    return holder ? JSON.parse(holder.dataset.json) : null;
  }

  function readout(name) {
    const line = document.querySelector(`[data-readout="${name}"]`);
    return (html) => { if (line) line.innerHTML = html || "&nbsp;"; };
  }

  function light(number) {
    for (const part of parts) if (part.light) part.light(number);
    document.querySelectorAll("tr[data-trial]").forEach((row) => row.classList.toggle("lit", row.dataset.trial === String(number)));
    document.querySelectorAll("svg .lit").forEach((dot) => dot.classList.remove("lit"));
    if (number !== null) document.querySelectorAll(`svg [data-trial="${Number(number)}"]`).forEach((dot) => dot.classList.add("lit"));
  }

  function draw(data = numbers()) {
    for (const part of parts) if (part.destroy) part.destroy();
    parts = [];
    if (!data) { document.body.dataset.drawn = "1"; performance.mark("drawn"); return; }
    const trials = document.getElementById("data").dataset.trials;
    const go = trials ? (number) => { location.href = trials + String(number).padStart(4, "0"); } : null;
    for (const holder of document.querySelectorAll("[data-plot]")) {
      holder.replaceChildren();
      const tools = { say: readout(holder.dataset.plot), light, go };
      if (holder.dataset.plot === "forest") Plots.forest(holder, data.sections ? data.sections[holder.dataset.section] : data);
      if (holder.dataset.plot === "importance") Plots.bars(holder, data);
      if (holder.dataset.plot === "slices") Plots.slices(holder, data, tools);
      if (holder.dataset.plot === "pareto") Plots.pareto(holder, data, tools);
      if (holder.dataset.plot === "overlay") parts.push(Curves.overlay(holder, data));
      if (holder.dataset.plot === "overview") Plots.overview(holder, data);
      if (holder.dataset.plot === "episode") parts.push(...Curves.episode(holder, data, { at: demonstrate }));
      if (holder.dataset.plot === "grid" && data.grid) Plots.grid(holder, data.grid, { filmed: data.filmed, pick: data.cells ? (seed, state) => { location.href = `${data.cells}&seed=${seed}&state=${state}`; } : null });
      if (holder.dataset.plot === "parallel") parts.push(drawParallel(holder, data, tools));
      if (holder.dataset.plot === "curves") { const made = Curves.trials(holder, data, tools); if (made) parts.push(made); }
      if (holder.dataset.plot === "seed-curves") parts.push(...Curves.seeds(holder, data));
    }
    const own = parts;
    for (const section of document.querySelectorAll("[data-player]")) Player.open(section).then((made) => { if (made) { if (own === parts) parts.push(made); else made.destroy(); } });
    for (const section of document.querySelectorAll("[data-together]")) { const made = Player.together(section); if (made) parts.push(made); }
    if (!document.body.dataset.drawn) performance.mark("drawn");
    document.body.dataset.drawn = String(Number(document.body.dataset.drawn || 0) + 1);
  }

  function sort(table) {
    if (sorted.column === null) return;
    const head = table.tHead.rows[0].cells[sorted.column], body = table.tBodies[0];
    const value = (row) => { const text = row.cells[sorted.column].dataset.value; const number = Number(text); return text !== "" && !Number.isNaN(number) ? number : text; };
    const rows = [...body.rows].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      const order = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
      return sorted.down ? -order : order;
    });
    body.append(...rows);
    for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", sorted.down ? "descending" : "ascending");
  }

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-sortable] th button");
    if (button) {
      const column = button.closest("th").cellIndex;
      sorted.down = sorted.column === column ? !sorted.down : button.closest("th").classList.contains("num");
      sorted.column = column;
      sort(button.closest("table"));
    }
    const named = event.target.closest("[data-command]"), line = document.getElementById("command");
    if (named && line) {
      line.textContent = named.dataset.command;
      line.closest("p").scrollIntoView({ block: "center" });
      line.classList.remove("lit"); void line.offsetWidth; line.classList.add("lit");
    }
    const copy = event.target.closest("[data-copy]");
    if (copy) {
      await navigator.clipboard.writeText(document.querySelector(copy.dataset.copy).textContent);
      copy.textContent = "copied";
    }
    const clip = event.target.closest("[data-clip]"), video = document.getElementById("video");
    if (clip && video) {
      event.preventDefault();
      video.src = clip.getAttribute("href");
      video.scrollIntoView({ block: "center" });
      video.play();
    }
    if (event.target.closest('[data-action="all-curves"]')) {
      event.target.disabled = true;
      const answer = await fetch(document.getElementById("data").dataset.all);
      if (answer.ok) draw(await answer.json());
    }
  });
  document.addEventListener("change", (event) => { if (event.target.matches('[data-action="submit"]')) event.target.form.requestSubmit(); });
  /* The step of a demonstration: its pictures, and a line in its charts. */
  function demonstrate(step) {
    const slider = document.querySelector('[data-action="step"]'), frames = document.querySelector("[data-frames]");
    if (!slider) return;
    slider.value = String(step);
    step = Number(slider.value);
    slider.nextElementSibling.firstChild.textContent = `${step} `;
    for (const part of parts) if (part.show) part.show(step);
    for (const image of frames ? frames.querySelectorAll("img") : []) {
      const source = `${frames.dataset.frames}&camera=${encodeURIComponent(image.dataset.camera)}&row=${Number(frames.dataset.start) + step}`;
      if (image.getAttribute("src") !== source && image.complete) image.src = source;
      else if (image.getAttribute("src") !== source) image.addEventListener("load", () => { if (slider.value === String(step)) image.src = source; }, { once: true });
    }
  }
  document.addEventListener("input", (event) => { if (event.target.matches('[data-action="step"]')) demonstrate(Number(event.target.value)); });
  document.addEventListener("clock", (event) => demonstrate(event.detail.step), true);
  document.addEventListener("pointerover", (event) => {
    const row = event.target.closest("tr[data-trial]");
    if (row) light(Number(row.dataset.trial));
  });
  document.addEventListener("focusin", (event) => { const row = event.target.closest("tr[data-trial]"); light(row ? Number(row.dataset.trial) : null); });
  document.addEventListener("pointerout", (event) => { if (event.target.closest("tr[data-trial]")) light(null); });

  function start() {
    width = innerWidth;
    draw();
    const table = document.querySelector("[data-sortable]");
    if (table) sort(table);
  }
  document.addEventListener("htmx:after:swap", start);
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; clearTimeout(waiting); waiting = setTimeout(start, 120); } });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw());

  (function ask() {
    const live = document.querySelector("[data-live]");
    setTimeout(() => {
      const now = document.querySelector("[data-live]");
      if (now && !document.hidden && window.htmx) htmx.trigger(now, "refresh");
      ask();
    }, 1000 * (live ? Number(live.dataset.live) : 5));
  })();
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start); else start();
})();
