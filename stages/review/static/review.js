// The review page: one key per decision, the next items already loaded, every answer kept until the server has it.

import { filterForm, likertForm, pairForm } from "./forms.js";
import { Outbox } from "./outbox.js";
import * as player from "./player.js";
import { Refused, call, load, save, wait } from "./server.js";

const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const AHEAD = 3; // items loaded beyond the one on show
// Nobody judges an item faster; a key pressed sooner was meant for the item before, or was pressed twice.
const SETTLE_MS = 200;
const RETRY_MS = [500, 1000, 2000, 5000];
const REPEATING = new Set(["back", "forward", "rewind", "ahead"]); // what a held key may do again
const RECENT = 50; // items whose unsent answers can be taken back without a connection

const DRAFT = `fulcrum.draft.${data.campaign}.${data.person}`;

const outbox = new Outbox(`fulcrum.outbox.${data.campaign}.${data.person}`);
let buffer = []; // what this person holds: [0] is on show
let recent = []; // what this page has answered, newest last
let mode = "loading"; // loading | judge | skips | done | closed, and the form's own: reasons | second
let settling = 0; // runs until a decision is taken for one on the item now on show
let draft = load(DRAFT, null); // ratings that the server does not have yet
let pumping = false;
let busy = false; // an undo or an earlier answer is on its way
let offline = false;
let past = { answers: [], more: true, at: -1 }; // own answers, newest first, and the one on show
const watched = { since: 0, ms: 0 }; // time in front of the item, while the page can be seen

const send = (method, path, body) => call(data.csrf, method, path, body);
const page = { decide, enter, draft: keepDraft, get mode() { return mode; } };
const form = { filter: filterForm, pairwise: pairForm, likert: likertForm }[data.kind](page, data);

// ---- talking to the server

/** Do what is due, one thing after the other, until nothing is; safe to call at any moment. */
async function pump() {
  if (pumping || busy) return;
  pumping = true;
  for (let tries = 0; ;) {
    try {
      if (!(await step())) break;
      tries = 0;
    } catch (error) {
      if (error instanceof Refused && refused(error)) {
        if (mode === "closed" && !outbox.length) break; // later answers go to the log all the same
        continue;
      }
      disconnected(error instanceof Refused ? error.message : null);
      await wait(RETRY_MS[Math.min(tries++, RETRY_MS.length - 1)]);
    }
  }
  pumping = false;
}

/** One thing that is due: an answer, a draft, or more items; false when there is none. */
async function step() {
  if (outbox.length) {
    await outbox.sendFirst((item, body) => send("POST", `/api/items/${item}/response`, body));
  } else if (draft) {
    const sending = draft;
    await send("PUT", `/api/items/${sending.item}/draft`, { scores: sending.scores });
    if (draft === sending) setDraft(null);
  } else if (mode === "closed" || buffer.filter((one) => !one.past).length > AHEAD) return false;
  else if (!(await refill())) {
    connected();
    return outbox.length > 0 || draft !== null; // decided while the server was being asked
  }
  return connected();
}

/** Claim up to a full buffer; false when the server had nothing new. */
async function refill() {
  const answer = await send("POST", `/api/campaigns/${data.campaign}/claim`, { n: AHEAD + 1 });
  progress(answer.progress);
  const held = new Set(answer.items.map((view) => view.id));
  if (buffer[0]?.away && held.has(buffer[0].view.id)) {
    buffer[0].away = false;
    notice();
  }
  const known = new Set(buffer.filter((one) => !one.past).map((one) => one.view.id));
  const fresh = answer.items.filter((view) => !known.has(view.id) && !outbox.holds(view.id));
  for (const view of fresh) buffer.push(player.preload(view, broken));
  if (buffer.length && (mode === "loading" || mode === "done")) show();
  if (!buffer.length && !outbox.length) finish("done", null, answer.progress);
  return fresh.length > 0;
}

function connected() {
  if (offline && outbox.length) return true; // there is more to send
  if (offline) say("Connected again: every answer is stored.");
  offline = false;
  $("pending").hidden = true;
  return true;
}

function disconnected(why) {
  offline = true;
  const kept = outbox.length;
  $("pending").hidden = false;
  $("pending").textContent = (why ?? "No connection")
    + (kept ? ` · ${kept} ${kept === 1 ? "answer" : "answers"} kept here, sent by itself later` : "");
}

/** The server's no to what was due. True when that is dropped and the rest can go on; false when it is worth another try. */
function refused(error) {
  if (error.status === 409) {
    outbox.drop();
    setDraft(null);
    finish("closed", error.message);
    return true;
  }
  if (![404, 413, 422].includes(error.status) || (!outbox.length && !draft)) return false;
  if (outbox.length) outbox.drop();
  else setDraft(null);
  say(`Not stored: ${error.message}`, 8000);
  return true;
}

function progress(now) {
  $("progress").max = now.items || 1;
  $("progress").value = now.done;
  $("count").textContent = `${now.done} of ${now.items} · ${now.mine} by you`;
}

/** Keep this person's items theirs while they look; say so kindly when a lease ran out while nobody did. */
async function heartbeat() {
  const mine = buffer.filter((one) => !one.past);
  if (document.hidden || !mine.length || mode === "closed") return;
  let held;
  try {
    held = new Set((await send("POST", "/api/leases/heartbeat", { items: mine.map((one) => one.view.id) })).held);
  } catch { return; } // the next beat comes
  const lost = mine.filter((one) => buffer.includes(one) && !held.has(one.view.id));
  if (!lost.length) return;
  for (const one of lost) {
    if (one === buffer[0]) one.away = true;
    else drop(one);
  }
  notice();
  claimAgain();
}

function claimAgain() {
  if (pumping) return;
  pumping = true;
  refill().catch(() => {}).finally(() => { pumping = false; pump(); });
}

// ---- what is on show

function show() {
  const one = buffer[0];
  const { view } = one;
  player.present(one);
  const name = data.kind === "filter" ? "key frame" : "reference";
  $("pictures").replaceChildren(...view.pictures.map((url, n) => {
    const label = view.labels?.[n];
    const shown = Object.assign(new Image(), { src: url, alt: label ?? `${name} ${n + 1} of ${view.pictures.length}` });
    return label ? labelled(shown, label) : shown;
  }));
  document.body.classList.toggle("still", !view.videos.length);
  $("pictures").hidden = !view.pictures.length;
  $("text").textContent = view.text ?? (data.kind === "filter" ? "No caption." : "");
  $("text").classList.toggle("none", !view.text);
  document.body.dataset.item = view.id;
  delete document.body.dataset.ready;
  Object.assign(watched, { since: performance.now(), ms: 0 });
  clearTimeout(settling);
  settling = setTimeout(() => { document.body.dataset.ready = view.id; }, SETTLE_MS);
  enter("judge");
  form.start(one);
  notice();
  $("news").textContent = `New item. ${view.text ?? ""}`;
}

function labelled(shown, label) {
  const figure = document.createElement("figure");
  figure.append(shown, Object.assign(document.createElement("figcaption"), { textContent: label }));
  return figure;
}

function broken(one) { if (one === buffer[0]) notice(); }

/** What has to be known of the item on show: it does not play, it is an old answer, or it may have gone to somebody else. */
function notice() {
  const one = buffer[0];
  const lines = [];
  if (mode === "loading") lines.push("Fetching the next one…");
  if (one?.videos.some((video) => video.error)) lines.push("This video does not play here: skip it with S.");
  if (one?.past) lines.push(`You said: ${spoken(one.said)}. A new answer replaces it; N goes back.`);
  else if (one?.said) lines.push(`Taken back: ${spoken(one.said)}. Judge it again.`);
  if (one?.away) lines.push("You were away, so somebody else may judge this one too. Your answer is kept all the same.");
  $("notice").hidden = !lines.length;
  $("notice").textContent = lines.join(" ");
}

function spoken(said) {
  const label = data.keymap.find((key) => key.action === said.choice)?.label ?? said.choice;
  const rest = said.rest_same == null ? [] : [said.rest_same ? "all else the same" : "something else differs"];
  const scores = Object.entries(said.scores ?? {}).map(([name, score]) => `${name} ${score}`);
  const detail = [...(said.reasons ?? []), ...rest, ...scores].join(", ");
  return detail ? `${label.toLowerCase()} (${detail})` : label.toLowerCase();
}

function enter(next) {
  mode = next;
  const over = mode === "done" || mode === "closed";
  document.body.dataset.mode = mode;
  for (const part of document.querySelectorAll("[data-modes]")) {
    part.hidden = !part.dataset.modes.split(" ").includes(mode);
    part.classList.toggle("asking", part.dataset.row === mode);
  }
  for (const id of ["work", "question"]) $(id).hidden = over;
  $("side").hidden = over || mode === "loading";
  $("done").hidden = !over;
  form.leave(mode);
}

/** No item is on show, so no decision is taken. */
function clear() {
  clearTimeout(settling);
  delete document.body.dataset.item;
  delete document.body.dataset.ready;
}

/** Nothing is loaded; more may come. */
function loading() {
  clear();
  enter("loading");
  notice();
}

function finish(how, message, now) {
  clear();
  for (const one of buffer.splice(0)) player.unload(one);
  enter(how);
  const all = how === "closed" || now.remaining === 0;
  $("notice").hidden = true;
  $("done-title").textContent = how === "closed" ? "This campaign is closed" : all ? "All done. Thank you." : "Nothing left for you";
  $("done-text").textContent = message
    ?? (all ? `${now.items} judged, ${now.mine} of them by you.`
      : `${now.remaining} of ${now.items} wait for other people's answers, or are open in another browser. This page looks again by itself.`);
  $("done-next").hidden = !all;
}

function drop(one) {
  buffer = buffer.filter((other) => other !== one);
  player.unload(one);
}

/** Show this item before everything else. */
function put(view, said, isPast) {
  const known = buffer.find((one) => one.view.id === view.id);
  if (known) drop(known);
  const one = player.preload(view, broken);
  Object.assign(one, { said, past: isPast });
  buffer.unshift(one);
  show();
}

// ---- deciding

/** Store the decision and show the next item at once; the answer travels meanwhile. */
function decide(choice, rest = {}) {
  const one = buffer.shift();
  if (draft?.item === one.view.id) setDraft(null);
  const watched_ms = Math.round(watchedMs());
  outbox.push({ item: one.view.id, choice, watched_ms, replays: one.replays, ...rest });
  recent = [...recent, { view: one.view, said: { choice, ...rest } }].slice(-RECENT);
  past = { answers: [], more: true, at: -1 };
  if (buffer.length) show();
  else loading();
  setTimeout(() => player.unload(one), 100); // the next clip starts first
  pump();
}

function watchedMs() {
  return watched.ms + (document.hidden ? 0 : performance.now() - watched.since);
}

function keepDraft(scores) {
  if (buffer[0].past) return; // the answer stands until another replaces it
  setDraft({ item: buffer[0].view.id, scores });
  pump();
}

/** Ratings wait for the server in this browser too: a page that is closed or loaded again at once loses none. */
function setDraft(value) {
  draft = value;
  save(DRAFT, value);
}

/** Run `work` alone, once every answer has arrived; without a connection say so instead. */
async function alone(work) {
  if (busy) return;
  pump();
  while (pumping && !offline) await wait(10);
  if (offline) return say("No connection yet: this needs one.");
  if (busy) return; // another press got here first
  busy = true;
  try {
    await work();
  } catch (error) {
    if (error instanceof Refused && error.status === 409) finish("closed", error.message);
    else say(error instanceof Refused ? error.message : "No connection: try again.");
  }
  busy = false;
  pump();
}

function undo() {
  const unsent = outbox.takeBack();
  if (unsent) {
    const { view, said } = recent.pop();
    if (offline) disconnected();
    return put({ ...view, draft: said.scores ?? null }, said, false);
  }
  return alone(async () => {
    const last = recent.at(-1)?.view.id;
    const { item, answer } = await send("POST", `/api/campaigns/${data.campaign}/undo`, last ? { item: last } : {});
    recent.pop();
    if (item) put(item, answer, false);
    else say("Nothing to undo.");
  });
}

/** Open an own answer again: `by` 1 is the one before, -1 the one after; past the newest lies the item one came from. */
function browse(by) {
  const at = past.at + by;
  if (at < -1) return;
  if (at === -1) {
    past.at = -1;
    if (!buffer[0]?.past) return;
    drop(buffer[0]);
    if (buffer.length) return show();
    loading();
    return pump();
  }
  alone(async () => {
    if (at >= past.answers.length && past.more) {
      const before = past.answers.length ? `&before=${past.answers.at(-1).sequence}` : "";
      const found = await send("GET", `/api/campaigns/${data.campaign}/mine?limit=20${before}`);
      past.answers.push(...found.answers);
      past.more = found.more;
    }
    if (at >= past.answers.length) return say(past.answers.length ? "This is your first answer." : "You have not answered yet.");
    const { item, answer } = await send("GET", `/api/items/${past.answers[at].item}/mine`);
    if (buffer[0]?.past) drop(buffer[0]);
    past.at = at;
    put(item, answer, true);
  });
}

// ---- keys and buttons

const ACTIONS = {
  undo,
  pause: player.pause,
  back: () => player.frames(-1),
  forward: () => player.frames(1),
  rewind: () => player.jump(-0.5),
  ahead: () => player.jump(0.5),
  restart: player.restart,
  slower: () => player.faster(-1),
  faster: () => player.faster(1),
  loop: player.loop,
  sound: player.sound,
  earlier: () => browse(1),
  later: () => browse(-1),
  guidelines: () => $("guidelines").showModal(),
  help: () => $("help").showModal(),
};
const WITHOUT_ITEM = new Set(["undo", "earlier", "later", "guidelines", "help"]);

/** Do what a key or a button asks for; false when it means nothing now. */
function act(action) {
  const showing = buffer.length > 0 && mode !== "done" && mode !== "closed";
  if (action in ACTIONS) {
    if (!showing && !WITHOUT_ITEM.has(action)) return false;
    ACTIONS[action]();
    return true;
  }
  if (!showing) return false;
  if (action === "cancel") {
    if (mode === "judge") return false;
    enter("judge");
    return true;
  }
  if (!document.body.dataset.ready) return true;
  if (mode === "skips" && action !== "skip") enter("judge"); // a change of mind
  if (action === "skip" && mode !== "second") {
    enter("skips");
    return true;
  }
  return form.act(action);
}

function digit(n) {
  if (!document.body.dataset.ready) return true;
  if (mode !== "skips") return form.digit(n);
  if (n >= data.skipReasons.length) return false;
  decide("skip", { reasons: [data.skipReasons[n]] });
  return true;
}

const byKey = new Map();
for (const entry of data.keymap) {
  for (const key of entry.keys) byKey.set(key.toLowerCase(), [...(byKey.get(key.toLowerCase()) ?? []), entry]);
}

function onKey(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing) return;
  const target = event.target instanceof Element ? event.target : document.body;
  const key = event.key.toLowerCase();
  if (target.closest("input:not([type=range]):not([type=checkbox]), textarea, select, [contenteditable]")) return;
  if (target.closest("[type=range]") && /^(arrow|home|end|page)/.test(key)) return;
  if (target.closest("button, a, summary, [type=checkbox]") && (key === " " || key === "enter")) return;
  if (!load("fulcrum.keys", true) && key !== "escape" && key !== "enter") return;
  const open = document.querySelector("dialog[open]");
  if (open) {
    if (byKey.get(key)?.some((entry) => entry.action === open.id)) { open.close(); event.preventDefault(); }
    return;
  }
  let used = false;
  if (key === "escape") used = act("cancel");
  else if (key === "enter" && mode === "reasons") used = act("confirm");
  else if (/^[1-9]$/.test(key) && (mode === "skips" || data.kind !== "pairwise")) used = !event.repeat && digit(Number(key) - 1);
  else {
    const entries = byKey.get(key) ?? [];
    const entry = entries.find((one) => (one.group === "second") === (mode === "second")) ?? entries[0];
    if (entry && (!event.repeat || REPEATING.has(entry.action))) used = act(entry.action);
  }
  if (used) event.preventDefault();
}

function onClick(event) {
  const button = event.target.closest("button");
  if (!button) return;
  const { action, reason, skip, score } = button.dataset;
  if (action) act(action);
  else if (reason || skip) digit(Number(reason ?? skip));
  else if (score && document.body.dataset.ready) form.rate(button.closest("[data-dimension]").dataset.dimension, Number(score));
  // After a click with the mouse the next press of Space must mean the video again, not this button.
  if (event.detail > 0) button.blur();
}

let saying = 0;
function say(message, ms = 2500) {
  $("say").textContent = message;
  $("say").classList.add("shown");
  clearTimeout(saying);
  saying = setTimeout(() => $("say").classList.remove("shown"), ms);
}

function onVisible() {
  if (document.hidden) watched.ms += performance.now() - watched.since;
  else {
    watched.since = performance.now();
    heartbeat();
  }
}

document.addEventListener("keydown", onKey);
document.addEventListener("click", onClick);
document.addEventListener("visibilitychange", onVisible);
$("keys-on").checked = load("fulcrum.keys", true);
$("keys-on").addEventListener("change", () => save("fulcrum.keys", $("keys-on").checked));
setInterval(heartbeat, (data.leaseSeconds * 1000) / 3);
setInterval(() => { if (mode === "done" && !document.hidden) pump(); }, 5000);
player.showSettings();
loading();
pump();
