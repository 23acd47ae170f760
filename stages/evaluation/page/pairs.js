"use strict";
// A list of any length: rows have one height, only those in view are in the page, and their texts come in parts as scripts.
const HEIGHT = 132, SPARE = 6, MOST_PX = 16_000_000; // beyond about 16 million px browsers cut an element's height
const $ = (id) => document.getElementById(id);
const view = $("view"), tall = $("tall"), rows = $("rows");
const parts = new Map(); // number -> rows, or null while it is on its way
let index = null, shown = [], first = -1, scale = 1;

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text; // never HTML: prompts are data
  return element;
}

function load(src) {
  const script = make("script");
  script.src = src;
  document.head.append(script);
}

function need(number) {
  if (parts.has(number)) return;
  parts.set(number, null);
  load(`pairs/part-${String(number).padStart(5, "0")}.js`);
}

function pairIndex(found) {
  index = found;
  const kinds = [...new Set(index.kind)].filter((k) => k !== "refused").sort();
  for (const kind of kinds) $("kind").append(new Option(kind.replaceAll("_", "-"), kind));
  const reasons = Object.entries(index.reasons).sort((a, b) => b[1] - a[1]);
  if (reasons.length) $("kind").append(new Option("all refused candidates", "refused"));
  for (const [reason, count] of reasons) $("kind").append(new Option(`refused: ${reason.replaceAll("_", " ")} (${count})`, `!${reason}`));
  choose();
}

function pairPart(number, found) {
  parts.set(number, found);
  draw(true);
}

function choose() {
  const kind = $("kind").value, split = $("split").value, order = $("order").value;
  const low = $("low").value === "" ? -2 : Number($("low").value), high = $("high").value === "" ? 2 : Number($("high").value);
  shown = [];
  for (let i = 0; i < index.kind.length; i++) {
    const refused = index.kind[i] === "refused";
    const fits = kind === "" ? !refused : kind[0] === "!" ? index.reason[i] === kind.slice(1) : index.kind[i] === kind;
    const alike = index.similarity[i];
    if (fits && (split === "" || refused || index.split[i] === split) && (alike === null ? low <= -1 && high >= 1 : alike >= low && alike <= high)) shown.push(i);
  }
  const sign = order === "up" ? 1 : -1;
  if (order !== "asis") shown.sort((a, b) => sign * ((index.similarity[a] ?? -2) - (index.similarity[b] ?? -2)) || a - b);
  const t = index.total, all = t.pairs + t.refused, listed = t.shown_pairs + t.shown_refused;
  $("count").textContent = `${shown.length.toLocaleString("en")} shown, of ${t.pairs.toLocaleString("en")} pairs and ${t.refused.toLocaleString("en")} refused candidates` + (listed < all ? ` (${listed.toLocaleString("en")} listed here, evenly spread)` : "");
  const height = shown.length * HEIGHT;
  scale = Math.max(1, height / MOST_PX);
  tall.style.height = `${Math.min(height, MOST_PX)}px`;
  view.scrollTop = 0;
  draw(true);
}

function draw(again) {
  if (!index) return;
  const top = Math.floor((view.scrollTop * scale) / HEIGHT);
  const from = Math.max(0, top - SPARE);
  if (from === first && !again) return;
  first = from;
  const until = Math.min(shown.length, top + Math.ceil(view.clientHeight / HEIGHT) + SPARE);
  const fresh = document.createDocumentFragment();
  for (let at = from; at < until; at++) fresh.append(line(at));
  rows.style.transform = `translateY(${scale === 1 ? from * HEIGHT : view.scrollTop - (top - from) * HEIGHT}px)`;
  rows.replaceChildren(fresh);
}

function line(at) {
  const number = shown[at], part = Math.floor(number / index.part);
  const item = make("article", "line");
  item.setAttribute("role", "listitem");
  item.setAttribute("aria-posinset", at + 1);
  item.setAttribute("aria-setsize", shown.length);
  item.append(make("span", "n", (at + 1).toLocaleString("en")));
  const loaded = parts.get(part);
  if (!loaded) {
    need(part);
    item.append(make("div", "shots"), make("p", "why", "loading…"));
    return item;
  }
  const row = loaded[number % index.part];
  item.append(pictures(row), told(row));
  return item;
}

function pictures(row) {
  const shots = make("div", "shots");
  const add = (subject, n, name) => {
    const box = make("div", `ref r${n}`);
    if (subject) {
      const image = make("img");
      image.src = `pairs/${subject.replace(/[^\p{L}\p{N}_-]/gu, "_")}.jpg`;
      image.alt = name;
      image.decoding = "async";
      box.append(image);
    }
    box.append(make("span", "", name));
    shots.append(box);
  };
  row.refs.forEach((subject, i) => add(subject, i + 1, row.reason ? "candidate" : `Ref ${i + 1}`));
  const arrow = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  arrow.setAttribute("viewBox", "0 0 24 24");
  arrow.setAttribute("class", "arrow");
  arrow.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", "M4 12h14m-5-5 5 5-5 5");
  arrow.append(path);
  shots.append(arrow);
  row.also.forEach((subject) => add(subject, 2, "target"));
  shots.append(clip(row));
  return shots;
}

function clip(row) {
  const button = make("button", "clip");
  button.type = "button";
  button.disabled = !row.video;
  button.setAttribute("aria-label", row.video ? "play the target clip" : "target clip");
  if (row.poster) {
    const image = make("img");
    image.src = `pairs/${row.poster}`;
    image.alt = "the target clip";
    image.decoding = "async";
    button.append(image);
  }
  button.addEventListener("click", () => {
    const video = make("video");
    Object.assign(video, { src: row.video, muted: true, loop: true, autoplay: true, playsInline: true });
    video.addEventListener("error", () => button.replaceChildren(make("span", "none", "the clip is not where it was")));
    button.replaceChildren(video);
  });
  return button;
}

function told(row) {
  const box = make("div", "told");
  if (row.text.length) {
    const prompt = make("p", "prompt");
    for (const [text, ref, head] of row.text) prompt.append(make("span", `${ref ? `b r${ref}` : ""}${head ? " head" : ""}`, text), " ");
    prompt.title = row.text.map((piece) => piece[0]).join(" ");
    box.append(prompt);
  }
  box.append(make("p", "why", row.why));
  const chips = make("p", "chips");
  const chip = (text, kind) => chips.append(make("span", `chip ${kind || ""}`, text), " ");
  chip(row.reason ? `refused: ${row.reason.replaceAll("_", " ")}` : row.kind.replaceAll("_", "-"), row.kind);
  if (row.similarity !== null) chip(`similarity ${row.similarity.toFixed(2)}`);
  if (row.split === "held_out") chip("held out");
  box.append(chips);
  return box;
}

view.addEventListener("scroll", () => requestAnimationFrame(() => draw(scale !== 1)), { passive: true });
addEventListener("resize", () => draw(true));
$("filters").addEventListener("change", (event) => {
  if (event.target.id !== "row") return choose();
  view.scrollTop = ((Math.max(1, Number(event.target.value)) - 1) * HEIGHT) / scale;
  draw(true);
});
$("filters").addEventListener("submit", (event) => event.preventDefault());
load("pairs/index.js");
