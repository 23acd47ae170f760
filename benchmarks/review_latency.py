"""Measures, in the browser, the time from a key press to the next item playing on the review page.

python -m benchmarks.review_latency --decisions 200

The real server, Debian's Chromium without a graphics card, and videos of the size that reviewers are shown.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measured import write
from models.video.encode import write_video
from stages.review.campaigns import CampaignSpec, NewItem, create_campaign
from stages.review.database import open_database
from stages.review.media import MediaStore
from stages.review.people import invite
from tests.review.browsing import WIDE, browsing, serving
from tests.review.pages import ReviewPage

LIMIT_MS = 150.0
CLIPS = 6  # different videos, in turn: more than are loaded at a time
FPS, SECONDS, HEIGHT, WIDTH = 24.0, 2.0, 540, 960

# The event's own time is when the browser got the key. `shown`: the first frame of the next video is on the screen and it
# plays; `moving`: the second is too, one frame's time (42 ms) later at best. A pair counts when both its videos are there.
WATCH = """
() => {
  window.latencies = [];
  let pressed = null;
  addEventListener("keydown", (event) => { pressed = event.timeStamp; }, true);
  const frames = (video, wanted, first = null) => new Promise((resolve) => {
    video.requestVideoFrameCallback((now, frame) => {
      if (first === null) first = frame.mediaTime;
      const there = !video.paused && (!wanted || frame.mediaTime !== first);
      resolve(there ? performance.now() : frames(video, wanted, first));
    });
  });
  new MutationObserver(async () => {
    if (pressed === null || !document.body.dataset.item) return;
    const [from, videos] = [pressed, [...document.querySelectorAll("video.current")]];
    pressed = null;
    const times = await Promise.all(videos.flatMap((video) => [frames(video, false), frames(video, true)]));
    const at = (n) => Math.max(...times.filter((_, index) => index % 2 === n)) - from;
    window.latencies.push({ shown: at(0), moving: at(1) });
    document.body.dataset.measured = window.latencies.length;
  }).observe(document.body, { attributes: true, attributeFilter: ["data-item"] });
}
"""


def decide(review: ReviewPage, decisions: int, key: str) -> list[dict[str, float]]:
    """Press ``key`` on ``decisions`` items, each once it plays; milliseconds to the next item ``shown`` and ``moving``."""
    review.page.evaluate(WATCH)
    for n in range(decisions):
        review.decide(key)
        review.page.locator(f'body[data-measured="{n + 1}"]').wait_for(state="attached", timeout=30_000)
    found: list[dict[str, float]] = review.page.evaluate("() => window.latencies")
    return found


def summary(times: list[dict[str, float]]) -> dict[str, Any]:
    """Percentiles in milliseconds."""
    found: dict[str, Any] = {"decisions": len(times)}
    for what in ("shown", "moving"):
        values = np.array([one[what] for one in times])
        found[f"{what}_ms"] = {f"p{q}": round(float(np.percentile(values, q)), 1) for q in (50, 95, 99, 100)}
    return found


def make_clips(media: MediaStore, folder: Path) -> list[str]:
    """Media names of moving pictures as large as a proxy, with enough detail that decoding costs what footage costs."""
    rng = np.random.default_rng(0)
    names = []
    for n in range(CLIPS):
        ground = np.kron(rng.integers(0, 255, (HEIGHT // 12, WIDTH // 12, 3)), np.ones((12, 12, 1))).astype(np.uint8)
        frames = np.stack([np.roll(ground, (k * 2, k * (3 + n)), (0, 1)) for k in range(int(FPS * SECONDS))])
        path = folder / f"{n}.webm"
        write_video(frames, FPS, path, "libvpx-vp9", 36)
        names.append(media.add_bytes(path.read_bytes(), ".webm"))
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decisions", type=int, default=200)
    parser.add_argument("--no-write", action="store_true", help="print only")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fulcrum-latency-") as name:
        folder = Path(name)
        db = open_database(folder / "review.db")
        names = make_clips(MediaStore(folder / "review_media"), folder)
        count = args.decisions + 8
        clips = [{"media": names[n % CLIPS], "caption": "a texture", "fps": FPS} for n in range(count)]
        pairs = [
            {"a": names[n % CLIPS], "b": names[(n + 1) % CLIPS], "prompt": "a texture", "fps": FPS}
            for n in range(count)
        ]
        for form, payloads in (("filter", clips), ("compare", pairs)):
            spec = CampaignSpec(campaign_id=form, form=form, title=form, guidelines="Decide.")  # type: ignore[arg-type]
            create_campaign(db, spec, [NewItem(f"{form}-{n}", one) for n, one in enumerate(payloads)])
        found = {}
        with serving(folder / "review.db") as base, browsing() as browser:
            page = ReviewPage(browser.new_page(viewport=WIDE), base)
            page.log_in(invite(db, "Ada", "annotator"))
            version = browser.version
            for form, key in (("filter", "a"), ("compare", "1")):
                page.open(form)
                found[form] = summary(decide(page, args.decisions, key))
                print(form, found[form], flush=True)
        db.close()
    within = {what: all(one[f"{what}_ms"]["p95"] < LIMIT_MS for one in found.values()) for what in ("shown", "moving")}
    result = {
        "browser": f"Chromium {version}, headless, software decoding",
        "video": f"VP9 {WIDTH}x{HEIGHT}, {FPS:g} frames a second, {SECONDS:g} s",
        "limit_p95_ms": LIMIT_MS,
        "p95_within_limit": within,
        **found,
    }
    if not args.no_write:
        print(write("review_latency", result))
    print(f"p95 under {LIMIT_MS:g} ms: {within}")


if __name__ == "__main__":
    main()
