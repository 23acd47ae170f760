"""Turns shown clips into items of a filter campaign: a proxy to play, key frames, the caption; no score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow.compute as pc

from stages.contract import Context, StageError
from stages.location import child_uri, in_threads
from stages.review.campaigns import NewItem
from stages.review.media import MediaStore
from stages.review.proxies import poster_name
from stages.spool import local_copy

THREADS = 8  # files on their way from an object store at once


def clip_items(ctx: Context, shown: Sequence[Mapping[str, Any]]) -> list[NewItem]:
    """The items of clips that can be shown: rows of the table ``shown`` whose ``media`` is not null."""
    captions = ctx.dataset("captions").to_table(
        columns=["clip_id", "caption"], filter=pc.field("clip_id").isin([row["clip_id"] for row in shown])
    )
    caption = dict(zip(*(captions.column(name).to_pylist() for name in ("clip_id", "caption")), strict=True))
    return [
        NewItem(
            external_id=row["clip_id"],
            payload={
                "media": row["media"],
                "keyframes": row["pictures"],
                "caption": caption.get(row["clip_id"]),
                "duration_s": round(row["duration_s"], 3),
                "fps": round(row["fps"], 3),
            },
            stratum=row["stratum"],
            inclusion_probability=row["inclusion_probability"],
            # A score was missing and a rule left it to people: nothing else is known to be in doubt.
            uncertainty=float(row["undecided"]),
        )
        for row in shown
    ]


def place_media(ctx: Context, shown: Sequence[Mapping[str, Any]], media: MediaStore) -> None:
    """Have every file of the items where the page finds it; what is there already is left alone.

    From a local store a file is linked, so that it takes no room; from an object store only what is missing is fetched.
    Raises ``StageError`` when the store has lost one.
    """
    names = {name for row in shown for name in (poster_name(row["media"]), row["media"], *row["pictures"])}
    missing = [name for name in sorted(names) if media.find(name) is None]
    folder = ctx.uri("proxies")

    def place(name: str) -> None:
        uri = child_uri(folder, name)
        try:
            with local_copy(uri) as file:
                media.add_link(name, file.path)
        except FileNotFoundError as error:
            raise StageError(
                f"{uri} is gone from the store. Delete the store's stages/review_media and run again."
            ) from error

    if missing:
        with ctx.progress(len(missing), "files") as bar:
            for _ in in_threads(place, missing, THREADS):
                bar.advance()
