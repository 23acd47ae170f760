"""Turns preference pairs into items of a pairwise campaign: two videos, the reference picture, the prompt."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from stages.contract import StageError
from stages.review.campaigns import NewItem
from stages.review.media import MediaStore
from stages.review.proxies import place_file
from stages.training.media import local_media


def pair_files(pairs: pa.Table, shards: Path, *, with_reference: bool) -> dict[str, dict[str, Path]]:
    """For each pair_id the files of winner and loser, and of the reference if it is part of the question."""
    fields = {"winner": "winner_uri", "loser": "loser_uri"} | ({"reference": "reference_uri"} if with_reference else {})
    return {
        row["pair_id"]: {side: local_media(shards, row[field]) for side, field in fields.items()}
        for row in pairs.sort_by("pair_id").to_pylist()
    }


def pair_items(pairs: pa.Table, shards: Path, media: MediaStore, *, with_reference: bool, make: bool) -> list[NewItem]:
    """The items of all pairs. The media are named by their content, so that the name of a file betrays no side.

    Raises ``StageError`` when a video is missing or of a kind that the page cannot play: the stage before wrote it.
    """
    prompts = dict(zip(pairs.column("pair_id").to_pylist(), pairs.column("prompt").to_pylist(), strict=True))
    items = []
    for pair_id, files in pair_files(pairs, shards, with_reference=with_reference).items():
        try:
            names = {side: place_file(media, path, make) for side, path in files.items()}
        except (OSError, ValueError) as error:
            raise StageError(f"Pair {pair_id} cannot be shown: {error}. Make the preferences again.") from error
        items.append(NewItem(pair_id, {"reference": None, "prompt": prompts[pair_id]} | names))
    return items
