"""The review page as a person works it: page objects that wait for a change, and asserters that say what should be seen."""

from __future__ import annotations

import re
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

SCORES = """
() => Object.fromEntries([...document.querySelectorAll('[data-score][aria-pressed="true"]')]
  .map((button) => [button.closest("[data-dimension]").dataset.dimension, Number(button.dataset.score)]))
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

    def log_in(self, token: str) -> None:
        """Open the invitation's link."""
        self.page.goto(f"{self.base}/login#{token}")
        expect(self.page.get_by_role("heading", name="Campaigns")).to_be_visible()

    def open(self, campaign: str) -> None:
        self.page.goto(f"{self.base}/c/{campaign}")
        self.should.show_an_item()

    def reload(self) -> None:
        self.page.reload()
        self.should.show_an_item()

    @property
    def item(self) -> str | None:
        return self.page.locator("body").get_attribute("data-item")

    def wait_playing(self) -> int:
        """Wait until every video on show advances; returns how many there are."""
        return int(self.page.evaluate(ADVANCES, ["video.current", PLAYBACK_MS]))

    def wait_ready(self) -> None:
        """Wait until an item is on show, its videos play and the page takes decisions: not sooner than anybody can look."""
        expect(self.page.locator("body[data-ready]")).to_be_attached(timeout=STEP_MS)
        self.wait_playing()

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

    def source(self, pane: int) -> str:
        """The media name of the video on show in this pane."""
        found = self.page.locator(f'[data-pane="{pane}"] video.current').get_attribute("src") or ""
        return found.removeprefix("/media/")

    def scores(self) -> dict[str, int]:
        """What the Likert form shows as rated."""
        found: dict[str, int] = self.page.evaluate(SCORES)
        return found

    def go_offline(self, offline: bool = True) -> None:
        self.page.context.set_offline(offline)

    def come_back(self) -> None:
        """What the browser tells a page whose tab is looked at again."""
        self.page.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")


class ReviewAsserter:
    """What a person should see."""

    def __init__(self, review: ReviewPage) -> None:
        self.review = review

    def _have(self, selector: str, text: str | re.Pattern[str]) -> None:
        expect(self.review.page.locator(selector)).to_contain_text(text, timeout=STEP_MS)

    def show_an_item(self) -> None:
        expect(self.review.page.locator("body[data-item]")).to_be_attached(timeout=STEP_MS)

    def count(self, text: str) -> None:
        expect(self.review.page.locator("#count")).to_have_text(text, timeout=STEP_MS)

    def be_done(self, text: str) -> None:
        expect(self.review.page.locator("#done")).to_be_visible(timeout=STEP_MS)
        self._have("#done", text)

    def ask_second_question(self, asked: bool = True) -> None:
        row = self.review.page.locator('[data-row="second"]')
        expect(row).to_be_visible() if asked else expect(row).to_be_hidden()

    def be_offline_with(self, answers: str) -> None:
        self._have("#pending", answers)

    def be_connected(self) -> None:
        expect(self.review.page.locator("#pending")).to_be_hidden(timeout=STEP_MS)

    def notice(self, text: str) -> None:
        self._have("#notice", text)

    def no_notice(self) -> None:
        expect(self.review.page.locator("#notice")).to_be_hidden(timeout=STEP_MS)

    def say(self, text: str) -> None:
        self._have("#say", text)

    def be_at_frame(self, n: int) -> None:
        self._have("#frame", re.compile(rf"frame {n}$"))

    def have_no_errors(self) -> None:
        assert self.review.errors == []


class LeadPage:
    """The dashboard of one campaign, in the tab of somebody who is logged in."""

    def __init__(self, review: ReviewPage) -> None:
        self.page, self.base = review.page, review.base
        self.should = LeadAsserter(self)

    def open(self, campaign: str) -> None:
        self.page.goto(f"{self.base}/c/{campaign}/lead")
        expect(self.page.locator("body[data-at]")).to_be_attached(timeout=STEP_MS)

    def close(self) -> None:
        self.page.get_by_role("button", name="Close the campaign").click()
        self.page.locator("#close-now").click()

    def gold(self, action: str, item: str) -> None:
        self.page.get_by_role("button", name=f"{action} {item}").click()


class LeadAsserter:
    """What a lead should see, at the latest when the page has asked again."""

    def __init__(self, lead: LeadPage) -> None:
        self.lead = lead

    def figure(self, name: str, value: str) -> None:
        figure = self.lead.page.locator("#progress .figures div").filter(has_text=name)
        expect(figure.locator("b")).to_have_text(value, timeout=2 * STEP_MS)

    def show(self, section: str, text: str) -> None:
        expect(self.lead.page.locator(f"#{section}")).to_contain_text(text, timeout=2 * STEP_MS)

    def gold(self, item: str, known: str, met: str) -> None:
        row = self.lead.page.locator("#gold tr").filter(has_text=item)
        expect(row).to_contain_text(known, timeout=2 * STEP_MS)
        expect(row).to_contain_text(met)

    def plot(self, section: str, label: str) -> None:
        expect(self.lead.page.locator(f"#{section}").get_by_role("img", name=label, exact=True)).to_be_visible(
            timeout=STEP_MS
        )

    def state(self, state: str) -> None:
        expect(self.lead.page.locator("#state")).to_have_text(state, timeout=STEP_MS)
