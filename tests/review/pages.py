"""The review page as a person works it: page objects that wait for a change, and asserters that say what should be seen."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page, expect

# A first video on a busy machine with a software decoder; everything else is a matter of milliseconds.
PLAYBACK_MS = 30_000
STEP_MS = 10_000

# Waits inside the page for its own events: the page's policy forbids eval, which Playwright's wait_for_function needs.
ADVANCES = """
([selector, timeout]) => new Promise((resolve, reject) => {
  const timer = setTimeout(() => reject(new Error("no video advanced: " + document.body.innerText)), timeout);
  const look = (started) => {
    const videos = [...document.querySelectorAll(selector)];
    const now = videos.map((video) => video.currentTime);
    const begun = started?.length === now.length ? started : now;
    if (now.length && now.every((time, n) => time !== begun[n]) && videos.every((video) => !video.paused)) {
      clearTimeout(timer);
      resolve(videos.length);
    } else requestAnimationFrame(() => look(begun));
  };
  look(null);
})
"""
ITEM_IS_NOT = """
([old, timeout]) => new Promise((resolve, reject) => {
  const settled = () => document.body.dataset.item !== old || document.getElementById("done").hidden === false;
  if (settled()) return resolve(document.body.dataset.item ?? null);
  const observer = new MutationObserver(() => {
    if (!settled()) return;
    observer.disconnect();
    resolve(document.body.dataset.item ?? null);
  });
  observer.observe(document.documentElement, { attributes: true, subtree: true });
  setTimeout(() => reject(new Error("the page still shows " + old)), timeout);
})
"""


class ReviewPage:
    """One browser tab on one campaign."""

    def __init__(self, page: Page, base: str) -> None:
        self.page, self.base = page, base
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda message: self._note(message))
        self.should = ReviewAsserter(self)

    def _note(self, message: Any) -> None:
        # Being offline is part of some tests; a policy violation or a script's complaint never is.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.errors.append(message.text)

    def say_name(self, name: str) -> None:
        self.page.goto(f"{self.base}/")
        self.page.get_by_label("Name").fill(name)
        self.page.get_by_role("button", name="Start").click()
        expect(self.page.get_by_role("heading", name="Campaigns")).to_be_visible()

    def open(self, campaign: str) -> None:
        self.page.goto(f"{self.base}/c/{campaign}")
        expect(self.page.locator("body[data-item]")).to_be_attached(timeout=STEP_MS)

    @property
    def item(self) -> str | None:
        return self.page.locator("body").get_attribute("data-item")

    def wait_playing(self) -> int:
        """Wait until every video on show advances; returns how many there are."""
        return int(self.page.evaluate(ADVANCES, ["video.current", PLAYBACK_MS]))

    def wait_ready(self) -> None:
        """Wait until the videos play and the page takes decisions: it ignores keys pressed sooner than anybody can look."""
        self.wait_playing()
        expect(self.page.locator("body[data-ready]")).to_be_attached(timeout=STEP_MS)

    def press(self, key: str) -> None:
        self.page.keyboard.press(key)

    def decide(self, *keys: str) -> str | None:
        """Look, press the keys, and wait for the next item; returns its id, None when nothing is left."""
        self.wait_ready()
        before = self.item
        for key in keys:
            self.press(key)
        return self.wait_item_after(before)

    def wait_item_after(self, before: str | None) -> str | None:
        found: str | None = self.page.evaluate(ITEM_IS_NOT, [before, STEP_MS])
        return found

    def video(self, name: str) -> Any:
        return self.page.evaluate(f"() => document.querySelector('video.current').{name}")


class ReviewAsserter:
    """What a person should see."""

    def __init__(self, review: ReviewPage) -> None:
        self.review = review

    def count(self, text: str) -> None:
        expect(self.review.page.locator("#count")).to_have_text(text, timeout=STEP_MS)

    def be_done(self, text: str) -> None:
        expect(self.review.page.locator("#done")).to_be_visible(timeout=STEP_MS)
        expect(self.review.page.locator("#done")).to_contain_text(text, timeout=STEP_MS)

    def ask_second_question(self, asked: bool = True) -> None:
        row = self.review.page.locator('[data-row="second"]')
        expect(row).to_be_visible() if asked else expect(row).to_be_hidden()

    def have_no_errors(self) -> None:
        assert self.review.errors == []
