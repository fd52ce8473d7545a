"use strict";
/* Filmed episodes: a video with actions and states at its clock, a strip of frames, several videos at one clock. */
const Player = (() => {
  const FRAMES = 8;

  /* Call when the video knows its length and size. */
  function ready(video, then) {
    if (video.readyState >= 1) then(); else video.addEventListener("loadedmetadata", then, { once: true });
  }

  const timeOf = (step, beside) => (step >= beside.length ? Math.ceil(step / beside.skip) : Math.floor(step / beside.skip)) / beside.fps;
  const stepOf = (time, beside) => Math.min(beside.length, Math.round(time * beside.fps) * beside.skip);

  function seek(video, step, beside) {
    if (video.seekable.length) video.currentTime = Math.min(Math.max(0, (video.duration || 1e9) - .01), timeOf(step, beside) + .001);
  }

  async function open(section) {
    const video = section.querySelector("video"), slider = section.querySelector("[data-clock]"), output = section.querySelector("output");
    const button = section.querySelector("[data-play]"), holder = section.querySelector(".beside");
    const answer = await fetch(section.dataset.player);
    if (!answer.ok || !section.isConnected) return null;
    const beside = await answer.json();
    const plots = Object.keys(beside.curves).length ? Curves.episode(holder, { episode: beside.curves, dims: beside.dims }, { height: 128, at: (step) => show(step, true) }) : [];
    if (!plots.length) { const none = document.createElement("p"); none.className = "empty"; none.textContent = "No numbers are kept beside this video."; holder.replaceChildren(none); }
    let playing = 0;
    function show(step, move) {
      step = Math.max(0, Math.min(beside.length, Math.round(step)));
      slider.value = String(step);
      output.firstChild.textContent = `${step} `;
      for (const plot of plots) plot.show(step);
      if (move) seek(video, step, beside);
      section.dispatchEvent(new CustomEvent("clock", { detail: { step, length: beside.length, moved: Boolean(move) } }));
    }
    const follow = () => { if (!video.paused) show(stepOf(video.currentTime, beside), false); playing = video.paused ? 0 : requestAnimationFrame(follow); };
    const named = () => { button.textContent = video.paused ? "play" : "pause"; if (!video.paused && !playing) follow(); };
    slider.addEventListener("input", () => { video.pause(); show(Number(slider.value), true); });
    button.addEventListener("click", () => { if (video.paused) video.play(); else video.pause(); });
    video.addEventListener("click", () => button.click());
    for (const kind of ["play", "pause", "ended"]) video.addEventListener(kind, named);
    video.addEventListener("ended", () => show(beside.length, false));
    ready(video, () => { named(); show(stepOf(video.currentTime, beside), false); });
    strip(section.querySelector(".strip"), video.src, beside, (step) => { video.pause(); show(step, true); });
    return { destroy() { cancelAnimationFrame(playing); for (const plot of plots) plot.destroy(); holder.replaceChildren(); } };
  }

  /* Pictures from the beginning to the end, drawn from a video that is not shown. */
  function strip(holder, source, beside, go) {
    holder.replaceChildren();
    const video = document.createElement("video"), count = Math.min(FRAMES, beside.length + 1);
    video.muted = true; video.preload = "auto"; video.src = source;
    const cells = Array.from({ length: count }, (_, place) => {
      const step = Math.round(place * beside.length / Math.max(1, count - 1)), cell = document.createElement("button"), canvas = document.createElement("canvas"), label = document.createElement("span");
      cell.type = "button"; cell.setAttribute("aria-label", `step ${step}`); label.textContent = String(step);
      canvas.width = canvas.height = 0;
      cell.append(canvas, label); cell.addEventListener("click", () => go(step)); holder.append(cell);
      return { step, canvas };
    });
    let place = 0;
    const next = () => {
      if (place >= cells.length || !holder.isConnected) { video.removeAttribute("src"); holder.dataset.drawn = String(place); return; }
      seek(video, cells[place].step, beside);
    };
    video.addEventListener("seeked", () => {
      const { canvas } = cells[place], wide = 220;
      canvas.width = wide; canvas.height = Math.round(wide * video.videoHeight / Math.max(1, video.videoWidth));
      canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
      place += 1; next();
    });
    video.addEventListener("loadeddata", next, { once: true });
  }

  /* Several videos at one clock of environment steps; one that is over keeps its last picture. */
  function together(section) {
    const all = [...section.querySelectorAll("video")].map((video) => ({ video, beside: { fps: Number(video.dataset.fps) || 10, skip: Number(video.dataset.skip) || 3, length: Number(video.dataset.length) || 0 } }));
    const slider = section.querySelector("[data-clock]"), button = section.querySelector("[data-play]"), output = section.querySelector("output");
    if (!all.length || !slider) return null;
    let step = 0, last = 0, playing = 0;
    const lengthOf = ({ video, beside }) => beside.length || (Number.isFinite(video.duration) ? Math.round(video.duration * beside.fps) * beside.skip : 0);
    const end = () => Math.max(1, ...all.map(lengthOf));
    function show(move) {
      slider.max = String(end()); slider.value = String(Math.round(step));
      output.firstChild.textContent = `${Math.round(step)} `;
      if (move) for (const one of all) seek(one.video, Math.min(step, lengthOf(one) || step), one.beside);
      for (const one of all) one.video.closest("figure").classList.toggle("over", step > 0 && step >= lengthOf(one));
    }
    function stop() { cancelAnimationFrame(playing); playing = 0; button.textContent = "play"; for (const { video } of all) video.pause(); }
    function follow(now) {
      step = Math.min(end(), step + (now - last) / 1000 * 30); last = now;
      for (const one of all) {
        const own = timeOf(Math.min(step, lengthOf(one)), one.beside);
        if (step >= lengthOf(one)) one.video.pause();
        else if (Math.abs(one.video.currentTime - own) > .25) one.video.currentTime = own;
      }
      show(false);
      if (step >= end()) stop(); else playing = requestAnimationFrame(follow);
    }
    button.addEventListener("click", () => {
      if (playing) { stop(); return; }
      if (step >= end()) step = 0;
      button.textContent = "pause"; last = performance.now(); show(true);
      for (const one of all) { one.video.playbackRate = 30 / (one.beside.fps * one.beside.skip); one.video.play(); }
      playing = requestAnimationFrame(follow);
    });
    slider.addEventListener("input", () => { stop(); step = Number(slider.value); show(true); });
    for (const { video } of all) ready(video, () => show(false));
    return { destroy: stop };
  }

  return { open, together };
})();
