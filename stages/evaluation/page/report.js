// One clock for the videos of a row, and the table of every prompt. Nothing here asks anything of a network.
"use strict";

const SPEEDS = [1, 0.5, 0.25];

// -- videos in step --------------------------------------------------------------------------------------------------

class Clock {
  // The longest video leads; the others follow it and hold their last frame when they are shorter.
  constructor(article) {
    this.videos = [...article.querySelectorAll("video")];
    this.bar = article.querySelector(".clock");
    this.slider = this.bar.querySelector("input");
    this.output = this.bar.querySelector("output");
    this.wanted = false;
    this.rate = 0;
    if (!this.videos.length) return;
    this.bar.hidden = false;
    this.bar.querySelector(".play").addEventListener("click", () => this.set(!this.wanted));
    this.bar.querySelector(".back").addEventListener("click", () => this.step(-1));
    this.bar.querySelector(".on").addEventListener("click", () => this.step(1));
    this.bar.querySelector(".speed").addEventListener("click", (event) => {
      this.rate = (this.rate + 1) % SPEEDS.length;
      for (const video of this.videos) video.playbackRate = SPEEDS[this.rate];
      event.currentTarget.textContent = { 1: "1×", 0.5: "½×", 0.25: "¼×" }[SPEEDS[this.rate]];
    });
    this.slider.addEventListener("input", () => {
      this.set(false);
      this.seek((this.slider.value / 1000) * this.length);
    });
    article.addEventListener("keydown", (event) => {
      if (event.target !== article && event.target !== this.slider && event.key !== " ") return;
      const act = { " ": () => this.set(!this.wanted), ArrowLeft: () => this.step(-1), ArrowRight: () => this.step(1) }[event.key];
      if (!act || (event.key === " " && event.target.tagName === "BUTTON")) return;
      event.preventDefault();
      act();
    });
  }

  get fps() {
    return Number(this.leader.dataset.fps) || 12;
  }

  get leader() {
    return this.videos.reduce((a, b) => ((b.duration || 0) > (a.duration || 0) ? b : a));
  }

  get length() {
    return this.leader.duration || 0;
  }

  set(playing) {
    this.wanted = playing;
    this.bar.classList.toggle("playing", playing);
    if (!playing) {
      for (const video of this.videos) video.pause();
      return;
    }
    // All start together, once each can: one that loads late would otherwise run behind for good.
    const ready = this.videos.map((video) => (video.readyState >= 3 || video.error ? null : new Promise((go) => {
      for (const name of ["canplay", "error"]) video.addEventListener(name, go, { once: true });
    })));
    Promise.all(ready).then(() => {
      if (!this.wanted) return;
      if (this.leader.ended || this.leader.currentTime >= this.length - 0.01) this.seek(0);
      for (const video of this.videos) if (!video.ended) video.play().catch(() => {});
      this.tick();
    });
  }

  seek(time) {
    for (const video of this.videos) {
      if (video.duration) video.currentTime = Math.min(Math.max(0, time), Math.max(0, video.duration - 0.001));
    }
    this.show(time);
  }

  step(frames) {
    this.set(false);
    this.seek(Math.min(this.length, Math.max(0, this.leader.currentTime + frames / this.fps)));
  }

  show(time) {
    this.output.textContent = `${time.toFixed(2)} s`;
    this.slider.value = this.length ? (1000 * time) / this.length : 0;
  }

  tick() {
    if (!this.wanted) return;
    const now = this.leader.currentTime;
    if (this.leader.ended) {
      this.seek(0);
      for (const video of this.videos) video.play().catch(() => {});
    } else {
      for (const video of this.videos) {
        // A frame at 12 a second: less is not seen, and correcting it would stutter.
        if (video !== this.leader && now < video.duration && Math.abs(video.currentTime - now) > 1 / this.fps) video.currentTime = now;
      }
      this.show(now);
    }
    requestAnimationFrame(() => this.tick());
  }
}

const clocks = new Map([...document.querySelectorAll(".sample")].map((article) => [article, new Clock(article)]));
const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
const inView = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const clock = clocks.get(entry.target);
    if (!clock.videos.length) continue;
    if (!entry.isIntersecting) clock.set(false);
    else if (!calm) clock.set(true);
  }
}, { threshold: 0.35 });
for (const article of clocks.keys()) inView.observe(article);

// Clips of the training pairs play by themselves while they are in view.
const alone = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) isIntersecting && !calm ? target.play().catch(() => {}) : target.pause();
});
for (const video of document.querySelectorAll(".pair video")) alone.observe(video);

// -- every number of every prompt ------------------------------------------------------------------------------------

const drill = document.getElementById("drill");
if (drill) {
  const found = JSON.parse(drill.dataset.drill);
  const metric = document.getElementById("drill-metric");
  const order = document.getElementById("drill-order");
  const cell = (kind, text, parent) => {
    const made = document.createElement(kind);
    made.textContent = text;
    return parent.appendChild(made);
  };
  for (const m of found.metrics) cell("option", `${m.title} ${m.arrow}`, metric).value = m.key;

  const draw = () => {
    const m = found.metrics.find((one) => one.key === metric.value);
    const rows = found.prompts.map((prompt, i) => ({ prompt, values: found.values[m.key][i] }));
    const all = rows.flatMap((r) => r.values).filter((v) => v !== null);
    const [low, high] = [Math.min(...all), Math.max(...all)];
    const sign = m.arrow === "↓" ? -1 : 1;
    const known = (r) => r.values.filter((v) => v !== null);
    const mean = (r) => (known(r).length ? (sign * known(r).reduce((a, b) => a + b, 0)) / known(r).length : -Infinity);
    const spread = (r) => (known(r).length > 1 ? Math.max(...known(r)) - Math.min(...known(r)) : -1);
    if (order.value === "spread") rows.sort((a, b) => spread(b) - spread(a));
    if (order.value === "worst") rows.sort((a, b) => mean(a) - mean(b));
    const [head, body] = [drill.tHead, drill.tBodies[0]];
    head.replaceChildren();
    body.replaceChildren();
    const top = head.appendChild(document.createElement("tr"));
    for (const text of ["prompt", ...found.systems]) cell("th", text, top);
    for (const { prompt, values } of rows) {
      const line = body.appendChild(document.createElement("tr"));
      const name = line.appendChild(document.createElement("th"));
      const target = document.getElementById(`prompt-${prompt.id}`);
      if (target) {
        const link = cell("a", prompt.text, name);
        link.href = `#prompt-${prompt.id}`;
      } else {
        name.textContent = prompt.text;
      }
      name.title = prompt.id;
      for (const value of values) {
        const made = cell("td", value === null ? "–" : value.toFixed(3), line);
        if (value === null) {
          made.className = "none";
          continue;
        }
        const share = high > low ? (value - low) / (high - low) : 0.5;
        made.style.setProperty("--share", (sign > 0 ? share : 1 - share).toFixed(3));
      }
    }
    for (const figure of document.querySelectorAll("[data-values]")) {
      const value = JSON.parse(figure.dataset.values)[m.key];
      figure.querySelector(".number").textContent = value === undefined ? "" : `${m.title} ${value.toFixed(3)}`;
    }
  };
  metric.addEventListener("change", draw);
  order.addEventListener("change", draw);
  draw();
}
