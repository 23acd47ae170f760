// The lead's dashboard: asks for the campaign's state every few seconds and draws what has changed.

import { curves, el, interval, percent, scale, signed, stacked } from "./plots.js";
import { Refused, call } from "./server.js";

const POLL_MS = 4000;
const SHOWN = 30; // rows of a list that may be long
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const base = `/api/campaigns/${data.campaign}`;
let etag = null;
let now = null;

const NAMES = { raw: "Raw agreement", cohen: "Cohen's κ", fleiss: "Fleiss' κ", krippendorff: "Krippendorff's α", gwet_ac1: "Gwet's AC1" };
const KINDS = { accept: "good", winner: "good", a: "good", reject: "bad", loser: "bad", b: "bad", same: "even", both_bad: "worst",
  in_review: "open", rest_differs: "odd", rate: "good", skip: "odd" };
const words = (name) => name.replaceAll("_", " ");

// ---- asking

async function watch() {
  if (!document.hidden) await look();
  setTimeout(watch, POLL_MS);
}

async function look() {
  try {
    const response = await fetch(`${base}/dashboard`, { headers: etag ? { "If-None-Match": etag } : {}, cache: "no-store" });
    if (response.status === 401) return location.reload();
    if (response.status !== 304) {
      if (!response.ok) throw new Error(`The server answered ${response.status}.`);
      etag = response.headers.get("ETag");
      draw(await response.json());
      await disputes();
    }
    $("stale").hidden = true;
  } catch {
    $("stale").hidden = false;
    $("stale").textContent = "No connection: these numbers are not fresh. Trying again.";
  }
}

// ---- drawing

function fill(id, ...content) {
  const shown = content.flat().filter(Boolean);
  $(id).replaceChildren(...shown);
  $(id).closest("section").hidden = !shown.length;
}

function table(heads, rows, label) {
  const cell = (content, n, tag) => el(tag, { scope: tag === "th" ? "row" : null, class: n && typeof content === "string" ? "number" : null },
    content ?? "–");
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, el("table", {},
    el("thead", {}, el("tr", {}, heads.map((head, n) => el("th", { scope: "col", class: n ? null : "first" }, head)))),
    el("tbody", {}, rows.map((row) => el("tr", {}, row.map((content, n) => cell(content, n, n ? "td" : "th")))))));
}

function draw(found) {
  now = found;
  document.body.dataset.at = String(found.at);
  const { campaign, progress, speed } = found;
  $("state").textContent = campaign.state;
  $("state").className = `state ${campaign.state}`;
  $("close").hidden = campaign.state === "closed";
  fill("progress", el("div", { class: "figures" },
    figure("done", `${progress.done} of ${progress.items}`), figure("remaining", String(progress.remaining)),
    figure("disputed", String(progress.disputed)), figure("on somebody's screen", String(progress.held)),
    figure("answers in the last hour", String(speed.answers_last_hour)),
    figure("left at this speed", speed.remaining_s === null ? "–" : duration(speed.remaining_s)),
    figure("people per item", String(campaign.overlap)), figure("decided by", campaign.aggregation)),
  stacked(found.verdicts.map((one) => ({ name: words(one.verdict), count: one.items, kind: KINDS[one.verdict] ?? "odd" })), "verdicts", 1210));
  fill("people", people(found));
  fill("preference", found.preference && preference(found.preference));
  fill("systems", found.systems && systems(found.systems));
  fill("likert", found.likert && likert(found.likert));
  fill("agreement", agreement(found.agreement));
  fill("rules", found.rules?.length ? found.rules.map(rule) : null);
  fill("gold", found.gold.items + found.gold.withdrawn ? gold(found.gold) : null);
}

const figure = (name, value) => el("div", {}, el("b", {}, value), el("span", {}, name));

function duration(seconds) {
  const minutes = Math.round(seconds / 60);
  if (minutes < 1) return "under a minute";
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h${minutes % 60 ? ` ${minutes % 60} min` : ""}`;
}

function people({ people: all, at, campaign }) {
  if (!all.length) return el("p", { class: "none" }, "Nobody has answered yet. Invite people with fulcrum review invite NAME.");
  const pair = campaign.kind === "pairwise";
  const heads = ["Name", "Answers", "Extra", "Skips", "Median", "Too fast", "Gold right", ...(pair ? ["Left chosen"] : []),
    "Most given", "Last seen", "To look at"];
  return table(heads, all.map((one) => [
    one.role === "annotator" ? one.name : `${one.name} (${one.role})`,
    String(one.answers), String(one.extra), percent(one.skip_rate),
    one.median_s === null ? "–" : `${one.median_s.toFixed(1)} s`,
    percent(one.too_fast?.share),
    one.gold ? `${percent(one.gold.accuracy)} of ${one.gold.n}` : "–",
    ...(pair ? [one.left ? percent(one.left.share) : "–"] : []),
    one.top_answer ? `${words(one.top_answer.choice)} ${percent(one.top_answer.share)}` : "–",
    one.last_at ? ago(at - one.last_at) : "–",
    one.flags.length ? el("ul", { class: "flags" }, one.flags.map((flag) => el("li", {}, flag.text))) : el("span", { class: "fine" }, "nothing"),
  ]), "people");
}

const ago = (seconds) => (seconds < 60 ? "now" : `${duration(seconds)} ago`);

function preference(found) {
  const left = found.left_share;
  return [
    stacked([{ name: "good", count: found.good, kind: "good" }, { name: "same", count: found.same, kind: "even" },
      { name: "bad", count: found.bad, kind: "bad" }], "good, same, bad"),
    table(["", "Value", "95% interval", ""], [
      ["GSB (good − bad) / all", signed(found.gsb), range(found, signed),
        interval({ value: found.gsb, low: found.low, high: found.high }, { from: -1, to: 1, marks: [0], label: "GSB" })],
      ...(left ? [["Left chosen", percent(left.share ?? left.value), range(left, percent),
        interval({ value: left.share ?? left.value, low: left.low, high: left.high }, { from: 0, to: 1, marks: [0.5], label: "left chosen" })]] : []),
    ], "preference"),
    el("p", { class: "note" }, `Good means that the first video of the pair won: the intended winner, or system a. ${found.n} judgements; ${found.both_bad} more found both bad and are left out.`),
  ];
}

const range = ({ low, high }, as) => (low === null || low === undefined ? "–" : `${as(low)} to ${as(high)}`);

function systems(found) {
  const ends = found.flatMap((one) => [one.low ?? one.strength, one.high ?? one.strength]);
  const [from, to] = [Math.min(0, ...ends), Math.max(0, ...ends)];
  return table(["System", "Strength", "95% interval", "", "Wins", "Losses", "Ties"], found.map((one) => [
    one.system, signed(one.strength), range(one, signed),
    interval({ value: one.strength, low: one.low, high: one.high }, { from, to, marks: [0], label: one.system }),
    String(one.wins), String(one.losses), String(one.ties)]), "systems");
}

function likert(found) {
  const asked = found.map((one) => one.dimension);
  found = found.toSorted((a, b) => asked.indexOf(a.dimension) - asked.indexOf(b.dimension));
  return [table(["Question", "System", "Mean", "95% interval", "", "Given", "Answers"], found.map((one) => {
    const name = `${words(one.dimension)}${one.system ? `, ${one.system}` : ""}`;
    return [words(one.dimension), one.system ?? "–", one.mean === null ? "–" : one.mean.toFixed(2), range(one, (v) => v.toFixed(2)),
      interval({ value: one.mean, low: one.low, high: one.high }, { from: 1, to: 5, marks: [2, 3, 4], label: name }),
      scale(one.counts, name), String(one.n)];
  }), "ratings"), el("p", { class: "note" }, "Intervals run from 1 to 5. Questions are never averaged into one number.")];
}

function agreement(found) {
  const from = Math.max(-1, Math.min(-0.2, ...found.map((one) => one.low ?? 0)));
  const rows = found.filter((one) => one.items).map((one) => [
    `${one.dimension ? `${words(one.dimension)}: ` : ""}${NAMES[one.measure] ?? words(one.measure)}${one.scale === "ordinal" ? ", ordinal" : ""}`,
    one.value === null ? "–" : one.value.toFixed(2), range(one, (v) => v.toFixed(2)),
    interval(one, { from, to: 1, marks: [0], label: `${one.dimension ?? ""} ${NAMES[one.measure] ?? one.measure}` }),
    String(one.items)]);
  if (!rows.length) return el("p", { class: "none" }, "Agreement shows once two people have judged the same item.");
  return table(["Measure", "Value", "95% interval", "", "Items"], rows, "agreement");
}

function rule(found) {
  const wrong = found.accepted;
  return el("article", {}, el("h3", {}, found.rule), el("p", { class: "note" },
    `Rule: ${found.told}. ${wrong ? `People would keep ${percent(wrong.share)} (${range(wrong, percent)}) of what it rejects; ${found.judged} judged.`
      : "No clip that it rejected was judged."}`),
  el("div", { class: "lines" }, found.lines.map((line) => {
    const levels = [{ at: line.present, name: "in force", kind: "present" }];
    if (line.suggested !== null) levels.push({ at: line.suggested, name: "advised", kind: "advised" });
    const label = `${line.column}: in force ${line.present}${line.suggested === null ? "" : `, advised ${Number(line.suggested.toPrecision(4))}`}`;
    return el("figure", {}, el("figcaption", {}, `${line.column}, ${line.side} bound`), line.curve.length ? curves(line.curve, levels, label) : null,
      el("p", { class: "legend" }, el("span", { class: "precision" }, "precision"), el("span", { class: "recall" }, "recall"),
        el("span", { class: "present" }, `in force ${Number(line.present.toPrecision(4))}`),
        line.suggested === null ? null : el("span", { class: "advised" }, `advised ${Number(line.suggested.toPrecision(4))}`)),
      line.note ? el("p", { class: "note" }, line.note) : null);
  })));
}

function gold(found) {
  return [
    el("p", { class: "note" }, `${found.items} in use, ${found.withdrawn} withdrawn. Accuracy is counted on those in use. Where most people miss one, its known answer may be wrong.`),
    table(["Item", "Known answer", "Met by", ""], found.list.slice(0, SHOWN).map((one) => [
      one.external_id, known(one.known), one.n ? `${one.right} of ${one.n}` : "–",
      el("button", { type: "button", class: "action plain", "data-item": one.id, "aria-label": `${one.withdrawn ? "Restore" : "Withdraw"} ${one.external_id}` },
        one.withdrawn ? "Restore" : "Withdraw")]), "gold items"),
    found.list.length > SHOWN ? el("p", { class: "note" }, `and ${found.list.length - SHOWN} more`) : null,
  ];
}

const known = ({ choice, scores, rest_same: same }) => (scores
  ? Object.entries(scores).map(([name, score]) => `${words(name)} ${score}`).join(", ")
  : words(choice) + (same === undefined ? "" : same ? ", rest the same" : ", rest differs"));

async function disputes() {
  const { items } = await call(data.csrf, "GET", `${base}/disagreements`);
  fill("disputes", items.length ? table(["Item", "Answers"], items.slice(0, SHOWN).map((one) => [
    one.external_id,
    el("span", {}, one.answers.map((said) => `${said.person}: ${words(said.conclusion)}${said.reasons.length ? ` (${said.reasons.join(", ")})` : ""}`).join(" · ")),
  ]), "disagreements") : null, items.length > SHOWN ? el("p", { class: "note" }, `and ${items.length - SHOWN} more`) : null);
}

// ---- acting

$("close").addEventListener("click", () => {
  const left = now?.progress.remaining ?? 0;
  $("closing-text").textContent = left
    ? `${left} of ${now.progress.items} items lack answers; they stay in review. No answer changes after this.`
    : "Every item is judged. No answer changes after this, and its pipeline can go on.";
  $("close-now").textContent = left ? "Close in part" : "Close";
  $("closing").showModal();
});

$("close-now").addEventListener("click", async () => {
  try {
    await call(data.csrf, "POST", `${base}/close`, { partial: (now?.progress.remaining ?? 0) > 0 });
  } catch (error) {
    $("closing-text").textContent = error instanceof Refused ? error.message : "No connection: nothing was closed. Try again.";
    return;
  }
  $("closing").close();
  etag = null;
  look();
});

$("gold").addEventListener("click", async (event) => {
  const id = event.target.closest("[data-item]")?.dataset.item;
  const one = now?.gold.list.find((item) => item.id === id);
  if (!one) return;
  try {
    if (one.withdrawn) await call(data.csrf, "POST", `/api/items/${id}/gold`, one.known);
    else await call(data.csrf, "POST", `/api/items/${id}/gold/withdraw`);
  } catch (error) {
    $("stale").hidden = false;
    $("stale").textContent = error instanceof Refused ? error.message : "No connection: nothing was changed. Try again.";
    return;
  }
  etag = null;
  look();
});

watch();
