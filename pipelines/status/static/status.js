// Asks for the page again and puts in what has changed, part by part; nothing moves that did not change.
const EVERY_MS = 2000, SLOW_MS = 10000;
let etag = null;

const part = (root, name) => root.querySelector(`[data-part="${name}"]`);
const names = (root) => [...root.querySelectorAll("[data-part]")].map((one) => one.dataset.part);

function put(fresh) {
  const same = names(fresh).join() === names(document).join();
  if (!same) { document.querySelector("main").replaceWith(fresh.querySelector("main")); }
  for (const name of names(fresh)) {
    const now = part(document, name), next = part(fresh, name);
    if (!now || !next || now.innerHTML === next.innerHTML) continue;
    const held = now.contains(document.activeElement) && document.activeElement.getAttribute("href");
    const scrolled = [...now.querySelectorAll(".scroll")].map((one) => one.scrollLeft);
    now.innerHTML = next.innerHTML;
    now.querySelectorAll(".scroll").forEach((one, at) => { one.scrollLeft = scrolled[at] ?? 0; });
    if (held) now.querySelector(`[href="${CSS.escape(held).replaceAll("\\", "\\")}"]`)?.focus({ preventScroll: true });
  }
  document.title = fresh.title;
}

async function look() {
  let wait = document.hidden ? SLOW_MS : EVERY_MS;
  try {
    const answer = await fetch(location.href, { headers: etag ? { "If-None-Match": etag } : {}, cache: "no-store" });
    if (answer.redirected) { location.reload(); return; }
    if (answer.ok) {
      etag = answer.headers.get("ETag");
      put(new DOMParser().parseFromString(await answer.text(), "text/html"));
    }
    document.getElementById("stale")?.toggleAttribute("hidden", answer.ok || answer.status === 304);
  } catch {
    document.getElementById("stale")?.removeAttribute("hidden");
    wait = SLOW_MS;
  }
  setTimeout(look, wait);
}
setTimeout(look, EVERY_MS);
document.addEventListener("visibilitychange", () => { if (!document.hidden) etag = null; });
