// Talking to the server, and the little that a browser remembers.

export class Refused extends Error {
  constructor(status, message) { super(message); this.status = status; }
}

/** What the server answers, as an object. Throws `Refused` for its no, and what `fetch` throws where there is no connection. */
export async function call(csrf, method, path, body) {
  const options = { method, headers: { "X-CSRF-Token": csrf } };
  if (body !== undefined) {
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  const response = await fetch(path, options);
  const answer = await response.json().catch(() => ({}));
  if (response.ok) return answer;
  if (response.status === 401 || response.status === 403) reloadOnce();
  throw new Refused(response.status, answer.error ?? `The server answered ${response.status}.`);
}

/** A login that has ended, or a page from before a new one: a fresh page mends both, and unsent answers outlive it. */
function reloadOnce() {
  const last = Number(sessionStorage.getItem("fulcrum.reloaded") ?? 0);
  if (Date.now() - last < 10_000) return;
  sessionStorage.setItem("fulcrum.reloaded", String(Date.now()));
  location.reload();
}

export function load(key, otherwise) {
  try { return JSON.parse(localStorage.getItem(key)) ?? otherwise; } catch { return otherwise; }
}

export function save(key, value) {
  try { localStorage.setItem(key, JSON.stringify(value)); } catch { /* a full or forbidden storage only loses comfort */ }
}

/** Wait, but no longer than until the connection comes back. */
export function wait(ms) {
  return new Promise((resolve) => {
    const done = () => { clearTimeout(timer); removeEventListener("online", done); resolve(); };
    const timer = setTimeout(done, ms);
    addEventListener("online", done);
  });
}
