"""A review database and campaigns to judge."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest

from stages.review.campaigns import Campaign, CampaignSpec, NewItem, create_campaign
from stages.review.database import Database, open_database
from stages.review.media import MediaStore
from stages.review.people import Role, invite
from tests.curation.storage import s3_options
from tests.review.browsing import WIDE, browsing, serving

if TYPE_CHECKING:
    from tests.review.pages import ReviewPage

__all__ = ["s3_options"]  # a fixture of its own file


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(tmp_path / "review.db")
    yield opened
    opened.close()


def spec(campaign_id: str = "clips", form: str = "filter", **settings: Any) -> CampaignSpec:
    values: dict[str, Any] = {
        "campaign_id": campaign_id,
        "form": form,
        "title": campaign_id,
        "guidelines": "Accept clips that show one clear subject.",
        "reasons": ("no subject", "text", "blur") if form == "filter" else (),
    }
    return CampaignSpec(**(values | settings))


def filter_items(count: int) -> list[NewItem]:
    return [NewItem(f"clip-{n:04d}", {"media": f"{n:032x}.webm", "caption": f"caption {n}"}) for n in range(count)]


def pair_items(count: int) -> list[NewItem]:
    return [
        NewItem(
            f"pair-{n:04d}",
            {"winner": f"{n:031x}a.webm", "loser": f"{n:031x}b.webm", "reference": None, "prompt": f"prompt {n}"},
        )
        for n in range(count)
    ]


def likert_items(count: int) -> list[NewItem]:
    return [
        NewItem(
            f"video-{n:04d}",
            {"media": f"{n:032x}.webm", "references": [f"{n:031x}c.png"], "prompt": f"prompt {n}"},
            hidden={"system": ("base", "sft")[n % 2], "prompt_id": f"prompt {n // 2}"},
        )
        for n in range(count)
    ]


def compare_items(count: int) -> list[NewItem]:
    systems = (("base", "sft"), ("sft", "dpo"), ("base", "dpo"))
    return [
        NewItem(
            f"pair-{n:04d}",
            {"a": f"{n:031x}a.webm", "b": f"{n:031x}b.webm", "reference": None, "prompt": f"prompt {n}"},
            hidden={"systems": systems[n % 3], "prompt_id": f"prompt {n // 3}"},
        )
        for n in range(count)
    ]


ITEMS = {"filter": filter_items, "likert": likert_items, "compare": compare_items}


@pytest.fixture
def make(db: Database) -> Callable[..., Campaign]:
    """``make(10, form="consis", overlap=2)`` stores a campaign with ten items."""

    def build(count: int, campaign_id: str = "clips", form: str = "filter", **settings: Any) -> Campaign:
        return create_campaign(db, spec(campaign_id, form, **settings), ITEMS.get(form, pair_items)(count))

    return build


def write_webm(path: Path, *, hue: int = 0, frames: int = 20, fps: int = 10, size: tuple[int, int] = (128, 72)) -> None:
    """A tiny VP9 video of a bar that moves over a coloured ground: Chromium's free build plays VP9 and no H.264."""
    width, height = size
    container = av.open(str(path), "w")
    stream = container.add_stream("libvpx-vp9", rate=fps)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    stream.options = {"deadline": "realtime", "cpu-used": "8", "g": "5"}
    ground = np.array([(hue * 53) % 200, (hue * 97) % 200, (hue * 31 + 60) % 200], np.uint8)
    for index in range(frames):
        picture = np.tile(ground, (height, width, 1))
        left = index * (width - 12) // max(frames - 1, 1)
        picture[:, left : left + 12] = 240
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
    container.mux(stream.encode())
    container.close()


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Six different two-second WebM videos, about 3 kB each."""
    folder = tmp_path_factory.mktemp("videos")
    paths = [folder / f"{n}.webm" for n in range(6)]
    for n, path in enumerate(paths):
        write_webm(path, hue=n)
    return paths


@pytest.fixture
def media(tmp_path: Path) -> MediaStore:
    return MediaStore(tmp_path / "review_media")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Debian's Chromium; a test that needs it is skipped, with the reason, where it is not there."""
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    try:
        with browsing() as browser:
            yield browser
    except LookupError as missing:
        pytest.skip(str(missing))


@pytest.fixture
def server(db: Database, tmp_path: Path) -> Iterator[str]:
    with serving(tmp_path / "review.db") as base:
        yield base


@pytest.fixture
def visit(chromium: Any, server: str, db: Database) -> Iterator[Callable[..., ReviewPage]]:
    """``visit("Ada")``: a browser of her own, logged in by invitation. At the end no page may have complained."""
    from tests.review.pages import ReviewPage

    opened: list[ReviewPage] = []
    contexts: list[Any] = []

    def make(name: str, role: Role = "annotator", viewport: dict[str, int] = WIDE) -> ReviewPage:
        contexts.append(chromium.new_context(viewport=viewport))
        opened.append(ReviewPage(contexts[-1].new_page(), server))
        opened[-1].log_in(invite(db, name, role))
        return opened[-1]

    yield make
    for review in opened:
        review.should.have_no_errors()
    for context in contexts:
        context.close()


@pytest.fixture
def clips(db: Database, media: MediaStore, videos: list[Path]) -> Callable[..., None]:
    """``clips(10)`` makes a filter campaign of ten two-second clips."""
    names = [media.add_bytes(path.read_bytes(), ".webm") for path in videos]

    def make(count: int, **settings: Any) -> None:
        items = [
            NewItem(f"clip-{n:02d}", {"media": names[n % len(names)], "caption": f"caption {n}", "fps": 10.0})
            for n in range(count)
        ]
        create_campaign(db, spec(**settings), items)

    return make


@pytest.fixture
def pairs(db: Database, media: MediaStore, videos: list[Path]) -> Callable[..., None]:
    """``pairs(3, "consis")`` makes a campaign of three pairs, at most three."""
    names = [media.add_bytes(path.read_bytes(), ".webm") for path in videos]

    def make(count: int, form: str, **settings: Any) -> None:
        first, second = ("a", "b") if form == "compare" else ("winner", "loser")
        shared = {"reference": None, "prompt": "a bar moves", "fps": 10.0}
        items = [NewItem(f"pair-{n}", {first: names[2 * n], second: names[2 * n + 1]} | shared) for n in range(count)]
        create_campaign(db, spec("pairs", form, **settings), items)

    return make


@pytest.fixture
def ratings(db: Database, media: MediaStore, videos: list[Path]) -> Callable[..., None]:
    """``ratings(3)`` makes a Likert campaign of three videos."""
    names = [media.add_bytes(path.read_bytes(), ".webm") for path in videos]

    def make(count: int, **settings: Any) -> None:
        items = [
            NewItem(f"video-{n}", {"media": names[n % len(names)], "references": [], "prompt": "a bar", "fps": 10.0})
            for n in range(count)
        ]
        create_campaign(db, spec("ratings", "likert", **settings), items)

    return make
