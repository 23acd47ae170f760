// The review page: one key per decision, the next items already loaded, every answer kept until the server has it.

const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const AHEAD = 3; // items loaded beyond the one on show
// Nobody judges a clip faster; a key pressed sooner was meant for the clip before, or was pressed twice.
const SETTLE_MS = 200;
const RETRY_MS = [500, 1000, 2000, 5000];
const SPEEDS = [0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 3, 4];
const outboxKey = `fulcrum.outbox.${data.campaign}.${data.person}`;
const byKey = new Map();
for (const entry of data.keymap) {
  for (const key of entry.keys) {
    const name = key.toLowerCase();
    byKey.set(name, [...(byKey.get(name) ?? []), entry]);
  }
}

let buffer = []; // what this person holds: [0] is on show
let outbox = load(outboxKey, []); // answers that the server has not confirmed yet
let mode = "loading"; // loading | judge | reasons | skips | second | done | closed
let chosen = new Set(); // reason numbers while rejecting with several
let preferred = null; // the side preferred while the second question is asked
let shownAt = 0;
let settling = 0; // runs until a decision is taken for one on the clip now on show
let speed = load("fulcrum.speed", 1);
let pumping = false;
let undoing = false;

// ---- talking to the server

class Refused extends Error {
  constructor(status, message) { super(message); this.status = status; }
}

async function post(path, body) {
  const response = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-CSRF-Token": data.csrf },
    body: JSON.stringify(body ?? {}),
  });
  const answer = await response.json().catch(() => ({}));
  if (response.status === 401 || response.status === 403) location.reload(); // the outbox outlives the page
  if (!response.ok) throw new Refused(response.status, answer.error ?? `The server answered ${response.status}.`);
  return answer;
}

function load(key, otherwise) {
  try { return JSON.parse(localStorage.getItem(key)) ?? otherwise; } catch { return otherwise; }
}

function save(key, value) {
  try { localStorage.setItem(key, JSON.stringify(value)); } catch { /* a full or forbidden storage only loses comfort */ }
}

function wait(ms) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    addEventListener("online", () => { clearTimeout(timer); resolve(); }, { once: true });
  });
}

/** Send what waits, in order, then claim until enough items are loaded. One at a time; safe to call at any moment. */
async function pump() {
  if (pumping || undoing) return;
  pumping = true;
  for (let tries = 0; ;) {
    try {
      if (outbox.length) {
        const { item, ...body } = outbox[0];
        await post(`/api/items/${item}/response`, body);
        sent();
        // The page shows the next clip first; more are claimed once something is known to be stored.
      } else if (mode !== "closed" && buffer.length <= AHEAD) {
        if (!(await refill())) break;
      } else break;
      tries = 0;
      if (!outbox.length && buffer.length > AHEAD) break;
    } catch (error) {
      if (error instanceof Refused && [404, 409, 413, 422].includes(error.status)) {
        refused(error);
        if (mode === "closed") break;
        continue;
      }
      $("pending").hidden = false;
      $("pending").textContent = outbox.length ? `no connection: ${outbox.length} kept here` : "no connection";
      await wait(RETRY_MS[Math.min(tries++, RETRY_MS.length - 1)]);
    }
  }
  pumping = false;
}

function sent() {
  outbox.shift();
  save(outboxKey, outbox);
  $("pending").hidden = true;
}

function refused(error) {
  if (outbox.length) sent();
  if (error.status === 409) return finish("closed", error.message);
  say(error.message);
}

/** Claim up to a full buffer; false when the server had nothing new. */
async function refill() {
  const answer = await post(`/api/campaigns/${data.campaign}/claim`, { n: AHEAD + 1 });
  $("pending").hidden = true;
  progress(answer.progress);
  const known = new Set([...buffer.map((one) => one.view.id), ...outbox.map((one) => one.item)]);
  const fresh = answer.items.filter((view) => !known.has(view.id));
  for (const view of fresh) buffer.push(loaded(view));
  if (buffer.length && (mode === "loading" || mode === "done")) show();
  if (!buffer.length && !outbox.length) finish("done", null, answer.progress);
  return fresh.length > 0;
}

function progress(now) {
  $("progress").max = now.items || 1;
  $("progress").value = now.done;
  $("count").textContent = `${now.done} of ${now.items} · ${now.mine} by you`;
}

// ---- the videos

/** An item with its videos already loading, hidden behind the one on show. */
function loaded(view) {
  const videos = view.videos.map((url, index) => {
    const video = document.createElement("video");
    Object.assign(video, { muted: true, playsInline: true, preload: "auto", loop: view.videos.length === 1 });
    video.setAttribute("playsinline", "");
    video.setAttribute("aria-label", view.videos.length === 1 ? "clip" : ["left video", "right video"][index]);
    video.addEventListener("error", () => { if (buffer[0]?.view.id === view.id) notice(true); });
    video.src = url;
    document.querySelector(`[data-pane="${index}"]`).append(video);
    return video;
  });
  for (const url of view.pictures) new Image().src = url;
  return { view, videos };
}

function unload(one) {
  for (const video of one.videos) {
    video.pause();
    video.removeAttribute("src");
    video.load(); // ends a download that nobody waits for
    video.remove();
  }
}

function show() {
  const { view, videos } = buffer[0];
  for (const old of document.querySelectorAll("video.current")) old.classList.remove("current");
  for (const video of videos) {
    video.classList.add("current");
    video.playbackRate = speed;
  }
  notice(videos.some((video) => video.error));
  $("pictures").replaceChildren(...view.pictures.map((url) => Object.assign(new Image(), { src: url, alt: "" })));
  $("text").textContent = view.text ?? (data.form === "filter" ? "No caption." : "");
  $("text").classList.toggle("none", !view.text);
  document.body.dataset.item = view.id;
  shownAt = performance.now();
  delete document.body.dataset.ready;
  clearTimeout(settling);
  settling = setTimeout(() => { document.body.dataset.ready = view.id; }, SETTLE_MS);
  enter("judge");
  play(buffer[0]);
}

function notice(broken) {
  $("notice").hidden = !broken;
  if (broken) $("notice").textContent = "This video does not play here. Skip it with S.";
}

/** Start an item's videos; a pair starts when both can, and then runs on one clock. */
async function play(one) {
  const ready = (video) => video.readyState >= 3 || video.error
    || new Promise((resolve) => { video.oncanplay = video.onerror = resolve; });
  if (one.videos.length > 1) {
    await Promise.all(one.videos.map(ready));
    if (buffer[0] !== one) return;
    keepTogether(one);
  }
  for (const video of one.videos) video.play().catch(() => {}); // a refusal shows as a paused video; Space starts it
}

/** The longer video leads; the other follows it to within a frame and waits at its own end. */
function keepTogether({ view, videos }) {
  const [lead, follow] = videos[0].duration >= videos[1].duration ? videos : [videos[1], videos[0]];
  const frame = 1 / view.fps;
  const step = () => {
    if (!lead.isConnected) return;
    const due = Math.min(lead.currentTime, follow.duration || 0);
    if (Math.abs(follow.currentTime - due) > 1.5 * frame && !follow.seeking) follow.currentTime = due;
    again();
  };
  const again = () => (lead.requestVideoFrameCallback ? lead.requestVideoFrameCallback(step) : requestAnimationFrame(step));
  lead.onended = () => { for (const video of videos) { video.currentTime = 0; video.play().catch(() => {}); } };
  again();
}

function eachVideo(act) {
  if (buffer.length && mode !== "done" && mode !== "closed") buffer[0].videos.forEach(act);
}

function setSpeed(step) {
  const next = SPEEDS[SPEEDS.indexOf(speed) + step];
  if (!next) return;
  speed = next;
  save("fulcrum.speed", speed);
  eachVideo((video) => { video.playbackRate = speed; });
  showSpeed();
}

function showSpeed() {
  $("speed").textContent = speed === 1 ? "" : `${speed}×`;
}

// ---- deciding

function enter(next) {
  mode = next;
  for (const row of document.querySelectorAll("[data-row]")) {
    const name = row.dataset.row;
    if (name === "decide") row.hidden = mode === "second";
    if (name === "reasons") row.hidden = mode === "skips" || mode === "done" || mode === "closed";
    if (name === "skips") row.hidden = mode !== "skips";
    if (name === "second") row.hidden = mode !== "second";
    row.classList.toggle("asking", name === mode);
  }
  for (const button of document.querySelectorAll(".confirm")) button.hidden = mode !== "reasons";
  if (mode !== "reasons") chosen.clear();
  if (mode !== "second") preferred = null;
  showChosen();
  const over = mode === "done" || mode === "closed";
  for (const id of ["stage", "side", "question"]) $(id).hidden = over;
  $("done").hidden = !over;
}

function showChosen() {
  for (const button of document.querySelectorAll("[data-reason]")) {
    button.setAttribute("aria-pressed", String(chosen.has(Number(button.dataset.reason))));
  }
}

/** Store the decision and show the next item at once; the answer travels meanwhile. */
function decide(choice, extra = {}) {
  const one = buffer.shift();
  outbox.push({
    item: one.view.id,
    key: crypto.randomUUID(),
    choice,
    watched_ms: Math.round(performance.now() - shownAt),
    ...extra,
  });
  save(outboxKey, outbox);
  if (buffer.length) show();
  else {
    enter("loading");
    delete document.body.dataset.item;
  }
  unload(one);
  pump();
}

async function undo() {
  if (undoing) return;
  while (pumping || outbox.length) {
    if (!pumping) pump();
    await wait(20);
  }
  undoing = true;
  try {
    const { item } = await post(`/api/campaigns/${data.campaign}/undo`);
    if (!item) say("Nothing to undo.");
    else {
      buffer = buffer.filter((one) => one.view.id !== item.id || unload(one));
      buffer.unshift(loaded(item));
      show();
      say("Undone: judge it again.");
    }
  } catch (error) {
    say(error instanceof Refused ? error.message : "No connection: try again.");
  }
  undoing = false;
  pump();
}

function finish(how, message, now) {
  enter(how);
  delete document.body.dataset.item;
  for (const one of buffer.splice(0)) unload(one);
  const all = how === "closed" || now.remaining === 0;
  $("done-title").textContent = how === "closed" ? "This campaign is closed" : all ? "All done. Thank you." : "Nothing left for you";
  $("done-text").textContent = message
    ?? (all ? `${now.items} judged, ${now.mine} of them by you.`
      : `${now.remaining} of ${now.items} wait for other people's answers, or are open in another browser. This page looks again by itself.`);
  $("done-next").hidden = !all;
}

function judge(action) {
  if (!document.body.dataset.ready) return;
  if (mode === "second") {
    if (action === "rest_yes" || action === "rest_no") decide(preferred, { rest_same: action === "rest_yes" });
    return;
  }
  if (action === "skip") enter("skips");
  else if (action === "reject") enter("reasons");
  else if (data.form === "consis" && (action === "left" || action === "right")) {
    enter("second");
    preferred = action;
  } else decide(action);
}

function confirmReject() {
  decide("reject", { reasons: [...chosen].sort().map((index) => data.reasons[index]) });
}

function digit(index) {
  if (mode === "skips" && index < data.skipReasons.length) decide("skip", { reasons: [data.skipReasons[index]] });
  else if (mode === "reasons" && index < data.reasons.length) {
    if (!chosen.delete(index)) chosen.add(index);
    showChosen();
  } else if (mode === "judge" && index < data.reasons.length && document.body.dataset.ready) {
    decide("reject", { reasons: [data.reasons[index]] });
  } else return false;
  return true;
}

const ACTIONS = {
  undo,
  pause: () => {
    const paused = buffer[0]?.videos[0].paused;
    eachVideo((video) => (paused ? video.play() : video.pause()));
  },
  back: () => eachVideo((video) => { video.pause(); video.currentTime = Math.max(0, video.currentTime - 1 / buffer[0].view.fps); }),
  forward: () => eachVideo((video) => { video.pause(); video.currentTime += 1 / buffer[0].view.fps; }),
  restart: () => eachVideo((video) => { video.currentTime = 0; video.play(); }),
  slower: () => setSpeed(-1),
  faster: () => setSpeed(1),
  guidelines: () => $("guidelines").showModal(),
  help: () => $("help").showModal(),
  confirm: () => mode === "reasons" && confirmReject(),
  cancel: () => ["reasons", "skips", "second"].includes(mode) && enter("judge"),
};

/** Do what a key or a button asks for; false when it means nothing now. */
function act(action) {
  if (action in ACTIONS) {
    ACTIONS[action]();
    return true;
  }
  if (mode === "reasons" && action === "reject") confirmReject();
  else if (mode === "judge" || mode === "second") judge(action);
  else if ((mode === "reasons" || mode === "skips") && (action === "skip" || action === "accept" || action === "reject")) {
    enter("judge"); // a change of mind
    judge(action);
  } else return false;
  return true;
}

function onKey(event) {
  const typing = event.target.closest?.("input, textarea, select, [contenteditable]");
  const pressing = event.target.closest?.("button, a, summary") && (event.key === " " || event.key === "Enter");
  const open = document.querySelector("dialog[open]");
  if (event.ctrlKey || event.altKey || event.metaKey || typing || pressing) return;
  const key = event.key.toLowerCase();
  if (open) {
    const closes = byKey.get(key)?.some((entry) => entry.action === open.id);
    if (closes) { open.close(); event.preventDefault(); }
    return;
  }
  // A held key repeats; only stepping through frames may.
  if (event.repeat && key !== "," && key !== ".") return;
  let used = false;
  if (key === "enter") used = mode === "reasons" && act("confirm") !== undefined;
  else if (key === "escape") used = act("cancel");
  else if (/^[1-9]$/.test(key) && (mode === "skips" || (mode !== "second" && data.form === "filter"))) used = digit(Number(key) - 1);
  else {
    const group = mode === "second" ? "second" : "decide";
    const entries = byKey.get(key) ?? [];
    const entry = entries.find((one) => one.group === group) ?? entries.find((one) => one.group !== "second");
    if (entry) used = act(entry.action);
  }
  if (used) event.preventDefault();
}

function onClick(event) {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.action) act(button.dataset.action);
  else if (button.dataset.reason) digit(Number(button.dataset.reason));
  else if (button.dataset.skip) digit(Number(button.dataset.skip));
  // After a click with the mouse the next press of Space must mean the video again, not this button.
  if (event.detail > 0) button.blur();
}

let sayTimer = 0;
function say(message) {
  $("say").textContent = message;
  $("say").classList.add("shown");
  clearTimeout(sayTimer);
  sayTimer = setTimeout(() => $("say").classList.remove("shown"), 2500);
}

async function heartbeat() {
  if (document.hidden || !buffer.length || mode === "closed") return;
  try { await post("/api/leases/heartbeat", { items: buffer.map((one) => one.view.id) }); } catch { /* the next beat comes */ }
}

document.addEventListener("keydown", onKey);
document.addEventListener("click", onClick);
document.addEventListener("visibilitychange", heartbeat);
setInterval(heartbeat, (data.leaseSeconds * 1000) / 3);
setInterval(() => { if (mode === "done" && !document.hidden) pump(); }, 5000);
showSpeed();
enter("loading");
pump();
