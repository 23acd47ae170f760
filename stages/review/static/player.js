// The videos: loaded ahead behind the one on show, one clock for a pair, frame steps, speed and loop remembered.

import { load, save } from "./server.js";

const SPEEDS = [0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 3, 4];
const $ = (id) => document.getElementById(id);

let speed = load("fulcrum.speed", 1);
let looping = load("fulcrum.loop", true);
let loud = load("fulcrum.sound", false);
let current = null; // the item on show
let scrubbing = false;

/** An item with its videos already loading, hidden behind the one on show; `onBroken(item)` when one does not play. */
export function preload(view, onBroken) {
  const one = { view, videos: [], replays: 0, said: null, past: false };
  one.videos = view.videos.map((url, index) => {
    const video = document.createElement("video");
    Object.assign(video, { muted: true, playsInline: true, preload: "auto", loop: looping && view.videos.length === 1 });
    video.poster = url.replace(/[.]webm$/, ".jpg"); // its first frame, so that nothing flashes
    video.setAttribute("aria-label", view.videos.length === 1 ? "clip" : ["left video", "right video"][index]);
    video.addEventListener("error", () => onBroken(one));
    video.src = url;
    document.querySelector(`[data-pane="${index}"]`).append(video);
    return video;
  });
  for (const url of view.pictures) new Image().src = url;
  return one;
}

export function unload(one) {
  if (current === one) current = null;
  for (const video of one.videos) {
    video.pause();
    video.removeAttribute("src");
    video.load(); // ends a download that nobody waits for
    video.remove();
  }
}

/** Put an item's videos on show and start them; a pair starts when both can. */
export async function present(one) {
  for (const old of document.querySelectorAll("video.current")) {
    old.classList.remove("current");
    old.pause();
  }
  current = one;
  for (const video of one.videos) {
    video.classList.add("current");
    video.playbackRate = speed;
    video.loop = looping && one.videos.length === 1;
    video.muted = !loud || video !== one.videos[0]; // of a pair the left is heard: two at once are noise
    video.onplay = video.onpause = showPaused;
  }
  showPaused();
  if (!one.videos.length) return; // pictures alone
  if (one.videos.length > 1) {
    await Promise.all(one.videos.map(canPlay));
    if (current !== one) return;
  }
  follow(one);
  playAll();
}

function canPlay(video) {
  if (video.readyState >= 3 || video.error) return null;
  return new Promise((resolve) => {
    for (const kind of ["canplay", "error"]) video.addEventListener(kind, resolve, { once: true });
  });
}

function playAll() {
  for (const video of current?.videos ?? []) {
    video.play().catch((error) => {
      if (error.name !== "NotAllowedError") return; // a pause came first
      video.muted = true; // before the first key press browsers refuse sound
      video.play().catch(() => {}); // a second refusal shows as a paused video
    });
  }
}

/** At each frame on show: hold the other video of a pair to the same instant, count replays, move the slider. */
function follow(one) {
  const [lead, other] = one.videos.toSorted((a, b) => (b.duration || 0) - (a.duration || 0));
  const slack = 1.5 / one.view.fps;
  let last = 0;
  const step = () => {
    if (current !== one || !lead.isConnected) return;
    if (other && !other.seeking) {
      const due = Math.min(lead.currentTime, other.duration || 0);
      if (Math.abs(other.currentTime - due) > slack) other.currentTime = due;
    }
    if (lead.currentTime < last - 0.5 && !scrubbing && !lead.paused) one.replays += 1;
    last = lead.currentTime;
    showTime(lead);
    again();
  };
  const again = () => lead.requestVideoFrameCallback(step);
  lead.onended = () => {
    if (!looping || current !== one) return;
    for (const video of one.videos) video.currentTime = 0;
    playAll();
  };
  lead.onseeked = () => { if (lead.paused) showTime(lead); };
  lead.onloadedmetadata = () => showTime(lead);
  showTime(lead);
  again();
}

function longest() {
  return current?.videos.toSorted((a, b) => (b.duration || 0) - (a.duration || 0))[0];
}

function seekTo(seconds) {
  for (const video of current?.videos ?? []) video.currentTime = Math.min(Math.max(0, seconds), video.duration || 0);
}

export function pause() {
  const paused = longest()?.paused;
  if (paused && longest().ended) seekTo(0);
  for (const video of current?.videos ?? []) {
    if (paused) video.play().catch(() => {});
    else video.pause();
  }
}

/** Stop, and move by whole frames of the item's rate, onto the middle of a frame so that rounding never sticks. */
export function frames(n) {
  const lead = longest();
  if (!lead) return;
  for (const video of current.videos) video.pause();
  const { fps } = current.view;
  seekTo((Math.floor(lead.currentTime * fps + 1e-3) + n + 0.5) / fps);
}

export function jump(seconds) {
  if (longest()) seekTo(longest().currentTime + seconds);
}

export function restart() {
  seekTo(0);
  playAll();
}

export function faster(steps) {
  const next = SPEEDS[SPEEDS.indexOf(speed) + steps];
  if (!next) return;
  speed = next;
  save("fulcrum.speed", speed);
  for (const video of current?.videos ?? []) video.playbackRate = speed;
  showSettings();
}

export function loop() {
  looping = !looping;
  save("fulcrum.loop", looping);
  if (current?.videos.length === 1) current.videos[0].loop = looping;
  if (looping && longest()?.ended) restart();
  showSettings();
}

export function sound() {
  loud = !loud;
  save("fulcrum.sound", loud);
  if (current?.videos.length) current.videos[0].muted = !loud;
  showSettings();
}

function showTime(lead) {
  const length = lead.duration || 0;
  if (!scrubbing) {
    $("seek").max = length;
    $("seek").value = lead.currentTime;
  }
  const { fps } = current.view;
  $("time").textContent = `${lead.currentTime.toFixed(2)} / ${length.toFixed(2)} s`;
  $("frame").textContent = `frame ${Math.floor(lead.currentTime * fps + 1e-3)}`;
}

function showPaused() {
  for (const button of document.querySelectorAll('[data-action="pause"]')) {
    button.setAttribute("aria-pressed", String(Boolean(longest()?.paused)));
  }
}

export function showSettings() {
  $("speed").textContent = `${speed}×`;
  $("speed").classList.toggle("changed", speed !== 1);
  document.querySelector('[data-action="loop"]').setAttribute("aria-pressed", String(looping));
  document.querySelector('[data-action="sound"]').setAttribute("aria-pressed", String(loud));
}

$("seek").addEventListener("input", () => {
  scrubbing = true;
  seekTo(Number($("seek").value));
  $("seek").setAttribute("aria-valuetext", `${Number($("seek").value).toFixed(1)} seconds`);
});
$("seek").addEventListener("change", () => { scrubbing = false; });
// After the mouse has let go, arrow keys mean decisions again.
$("seek").addEventListener("pointerup", () => { scrubbing = false; $("seek").blur(); });
