"""A review database and campaigns to judge."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from stages.review.campaigns import Campaign, CampaignSpec, NewItem, create_campaign
from stages.review.database import Database, open_database
from stages.review.media import MediaStore


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


@pytest.fixture
def make(db: Database) -> Callable[..., Campaign]:
    """``make(10, form="consis", overlap=2)`` stores a campaign with ten items."""

    def build(count: int, campaign_id: str = "clips", form: str = "filter", **settings: Any) -> Campaign:
        items = filter_items(count) if form == "filter" else pair_items(count)
        return create_campaign(db, spec(campaign_id, form, **settings), items)

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
