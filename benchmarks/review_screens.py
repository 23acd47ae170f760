"""Takes the pictures of docs/review.md from the real pages: videos of the rendered world, answers by made-up people.

python -m benchmarks.review_screens
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from playwright.sync_api import expect

from models.subjects.frames import faded
from models.subjects.prompts import noun_phrase
from models.video.encode import write_video
from stages.review import gate, queue, subject_gate, subject_items
from stages.review.answers import Answer
from stages.review.campaigns import CampaignSpec, NewItem, create_campaign
from stages.review.database import Database, open_database
from stages.review.media import MediaStore
from stages.review.people import invite, person_named
from stages.review.proxies import place_file
from stages.review.queue import Claimed
from stages.review.subject_items import boxed
from tests.review.browsing import PHONE, WIDE, browsing, serving
from tests.review.pages import LeadPage, ReviewPage
from tinyworld.draw import draw, render_photo
from tinyworld.world import draw_scene

OUT = Path(__file__).resolve().parent.parent / "docs" / "screenshots"
FPS, FRAMES, SIZE = 24, 48, (640, 360)
LIMIT_BYTES = 150_000
RUBRIC = "Rate what you see, one question at a time. The references show the subject as it is."
Choose = Callable[[np.random.Generator, Claimed], dict[str, Any]]


def scenes(media: MediaStore, folder: Path, count: int) -> list[dict[str, Any]]:
    """Rendered clips: media name, key frames, caption, photos of the subject."""
    found = []
    for n in range(count):
        scene = draw_scene(100 + n, SIZE[0] / SIZE[1])
        frames, masks = draw(scene, *SIZE, FRAMES)
        path = folder / f"{n}.webm"
        write_video(frames, FPS, path, "libvpx-vp9")
        pictures = [jpeg(media, frames[k]) for k in (0, 16, 32, 47)]
        photos = [jpeg(media, render_photo(scene.actors[0].identity, seed, 240)) for seed in range(3)]
        text = scene.caption
        found.append(
            {"media": place_file(media, path, True), "keyframes": pictures, "photos": photos, "text": text}
            | {"crop": crop(media, frames[24], masks[24])}
        )
    return found


def crop(media: MediaStore, frame: np.ndarray, mask: np.ndarray) -> list[str]:
    """What the gate for references shows: the crop, what its mask keeps, and the frame with the crop's box."""
    down, along = np.flatnonzero((mask > 127).any(1)), np.flatnonzero((mask > 127).any(0))
    cut = (slice(down[0], down[-1] + 1), slice(along[0], along[-1] + 1))
    height, width = mask.shape
    box = (along[0] / width, down[0] / height, (along[-1] + 1) / width, (down[-1] + 1) / height)
    shown = (frame[cut], faded(frame[cut], mask[cut], 0.0), boxed(frame, box))
    return [media.add_bytes(subject_items.jpeg(np.ascontiguousarray(one)), ".jpg") for one in shown]


def jpeg(media: MediaStore, picture: np.ndarray) -> str:
    _, data = cv2.imencode(".jpg", picture[..., ::-1])
    return media.add_bytes(data.tobytes(), ".jpg")


def campaigns(db: Database, shown: list[dict[str, Any]], count: int) -> None:
    def make(name: str, form: Any, title: str, guidelines: str, payload: Callable[[int], NewItem], **more: Any) -> None:
        spec = CampaignSpec(campaign_id=name, form=form, title=title, guidelines=guidelines, **more)
        create_campaign(db, spec, [payload(n) for n in range(count)])

    def clip(n: int) -> NewItem:
        one = shown[n % len(shown)]
        return NewItem(
            f"clip-{n:03d}", {"media": one["media"], "keyframes": one["keyframes"], "caption": one["text"], "fps": FPS}
        )

    def pair(n: int, first: str, second: str) -> NewItem:
        one, other = shown[n % len(shown)], shown[(n + 1) % len(shown)]
        payload = {
            first: one["media"],
            second: other["media"],
            "reference": one["photos"][0],
            "prompt": one["text"],
            "fps": FPS,
        }
        return NewItem(f"pair-{n:03d}", payload, hidden={"systems": ["dpo", "sft"]} if first == "a" else {})

    def rated(n: int) -> NewItem:
        one = shown[n % len(shown)]
        payload = {"media": one["media"], "references": one["photos"], "prompt": one["text"], "fps": FPS}
        return NewItem(f"video-{n:03d}", payload, hidden={"system": ("dpo", "sft")[n % 2]})

    make("clips", "filter", "Clips of the first crawl", gate.CLIP_GUIDELINES, clip, reasons=gate.CLIP_REASONS)

    def reference(n: int) -> NewItem:
        one = shown[n % len(shown)]
        payload = {"pictures": one["crop"], "labels": list(subject_items.LABELS), "caption": noun_phrase(one["text"])}
        return NewItem(f"subject-{n:03d}", payload)

    clean = {"reasons": subject_gate.CLEAN_REASONS, "asks": subject_gate.CLEAN}
    make("references", "filter", "References", subject_gate.CLEAN_GUIDELINES, reference, **clean)
    make("consis", "consis", "Same subject", gate.CONSIS_GUIDELINES, lambda n: pair(n, "winner", "loser"))
    make("compare", "compare", "DPO against SFT", gate.REAL_FAKE_GUIDELINES, lambda n: pair(n, "a", "b"), overlap=3)
    make("likert", "likert", "How good is DPO", RUBRIC, rated, overlap=3)


def answers(db: Database, campaign: str, each: int, choose: Choose) -> None:
    """Three made-up people at work over the last three quarters of an hour, the third in a hurry."""
    for number, name in enumerate(("Ben", "Cleo", "Dan")):
        rng = np.random.default_rng([number, each])
        who, now = person_named(db, name), time.time() - 2600 + 60 * number
        for n in range(each):
            [one] = queue.claim(db, campaign, who, 1, now=now) or [None]
            if one is None:
                break
            watched = float(rng.lognormal(-0.7, 0.3) if name == "Dan" else rng.lognormal(1.7, 0.4))
            now += watched + 2
            answer = Answer(one.item_id, f"{campaign}-{name}-{n}", watched_ms=int(watched * 1000), **choose(rng, one))
            queue.submit(db, who, answer, now=now)


def compared(rng: np.random.Generator, one: Claimed) -> dict[str, Any]:
    better, worse = ("left", "right") if one.side == "AB" else ("right", "left")
    return {"choice": str(rng.choice([better, "same", worse, "both_bad"], p=[0.5, 0.2, 0.25, 0.05]))}


def rated(rng: np.random.Generator, one: Claimed) -> dict[str, Any]:
    overall = int(rng.integers(2, 6))
    near = np.clip(overall + rng.integers(-1, 2, 3), 1, 5).tolist()
    return {
        "choice": "rate",
        "scores": dict(zip(("identity", "prompt", "motion"), near, strict=True)) | {"overall": overall},
    }


def filtered(rng: np.random.Generator, one: Claimed) -> dict[str, Any]:
    rejected = {"choice": "reject", "reasons": (str(rng.choice(gate.CLIP_REASONS[1:6])),)}
    return {"choice": "accept"} if rng.random() < 0.75 else rejected


def save(page: Any, name: str, out: Path, **options: Any) -> None:
    """A PNG small enough for a repository: as large, and with as many colours, as fit."""
    path = out / f"{name}.png"
    page.screenshot(path=path, **options)
    taken = Image.open(path).convert("RGB")
    for width, colours in ((1280, 256), (1120, 256), (1024, 256), (1024, 160), (896, 160), (896, 96)):
        small = taken.copy()
        small.thumbnail((width, 4096), Image.Resampling.LANCZOS)
        small.quantize(colours, dither=Image.Dither.NONE).save(path, optimize=True)
        if path.stat().st_size < LIMIT_BYTES:
            break
    print(f"{path.name}: {path.stat().st_size // 1024} kB")


def take(base: str, token: str, browser: Any, out: Path) -> None:
    ada = ReviewPage(browser.new_context(viewport=WIDE).new_page(), base)
    ada.log_in(token)
    for name, keys in (("clips", ("r", "2")), ("consis", ()), ("likert", ("4", "5"))):
        ada.open(name)
        ada.wait_ready()
        for key in keys:
            ada.press(key)
        save(ada.page, f"review_{name}", out)
    ada.open("references")
    expect(ada.page.locator("body[data-ready]")).to_be_attached()
    save(ada.page, "review_subject", out)
    ada.open("clips")
    ada.press("?")
    save(ada.page, "review_keys", out)
    lead = LeadPage(ada)
    for name in ("compare", "likert"):
        lead.open(name)
        lead.should.show("agreement", "Raw agreement")
        save(ada.page, f"lead_{name}", out, full_page=True)
    phone = ReviewPage(
        browser.new_context(viewport=PHONE, storage_state=ada.page.context.storage_state()).new_page(), base
    )
    phone.open("clips")
    phone.wait_ready()
    save(phone.page, "review_phone", out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fulcrum-screens-") as name:
        folder = Path(name)
        db = open_database(folder / "review.db")
        campaigns(db, scenes(MediaStore(folder / "review_media"), folder, 6), 40)
        for campaign, each, choose in (("clips", 9, filtered), ("compare", 30, compared), ("likert", 30, rated)):
            answers(db, campaign, each, choose)
        with serving(folder / "review.db") as base, browsing() as browser:
            take(base, invite(db, "Ada", "lead"), browser, args.out)
        db.close()


if __name__ == "__main__":
    main()
