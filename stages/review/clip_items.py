"""Turns clips into items of a filter campaign: a proxy to play, key frames, the caption; no score."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from stages.contract import Context
from stages.review.campaigns import NewItem
from stages.review.media import MediaStore
from stages.review.proxies import ProxyFailure, ProxyJob, ProxyMaker

JOBS_PER_BATCH = 4
_JOBS_OF_A_SOURCE = 32
PICTURES_SHOWN = 4


def clip_items(
    ctx: Context, chosen: pa.Table, media: MediaStore, max_side: int, *, sound: bool, make: bool
) -> tuple[list[NewItem], list[ProxyFailure]]:
    """The items of the chosen clips, and those that cannot be shown.

    ``chosen`` has the columns of ``sampling.CHOSEN``. Without ``make`` (nobody will look) the media are only named, so
    that the items are the same but no time goes into encoding.
    """
    ids = chosen.column("clip_id").combine_chunks()
    of_chosen = pc.field("clip_id").isin(ids)
    clips = ctx.dataset("clips").to_table(
        columns=[
            "clip_id",
            "video_id",
            "video_uri",
            "start_frame",
            "end_frame",
            "start_s",
            "end_s",
            "duration_s",
            "fps",
        ],
        filter=of_chosen,
    )
    rows = {row["clip_id"]: row for row in clips.to_pylist()}
    videos = ctx.dataset("videos").to_table(
        columns=["video_id", "sha256"], filter=pc.field("video_id").isin(pc.unique(clips.column("video_id")))
    )
    content = dict(zip(videos.column("video_id").to_pylist(), videos.column("sha256").to_pylist(), strict=True))
    captions = ctx.dataset("captions").to_table(columns=["clip_id", "caption"], filter=of_chosen)
    caption = dict(zip(captions.column("clip_id").to_pylist(), captions.column("caption").to_pylist(), strict=True))
    asked = ctx.dataset("selection").to_table(columns=["clip_id"], filter=of_chosen & pc.field("review"))
    undecided = set(asked.column("clip_id").to_pylist())
    jobs = {
        clip_id: ProxyJob(
            clip_id,
            row["video_uri"],
            content.get(row["video_id"]) or row["video_id"],
            row["start_frame"],
            row["end_frame"],
            max_side,
            row["start_s"],
            row["end_s"],
            sound,
        )
        for clip_id, row in rows.items()
    }
    failures = _encode(ctx, list(jobs.values()), media) if make else []
    lost = {failure.clip_id for failure in failures}
    pictures = _pictures(ctx, of_chosen, media, make)
    items = [
        NewItem(
            external_id=one["clip_id"],
            payload={
                "media": jobs[one["clip_id"]].name,
                "keyframes": pictures.get(one["clip_id"], []),
                "caption": caption.get(one["clip_id"]),
                "duration_s": round(rows[one["clip_id"]]["duration_s"], 3),
                "fps": round(rows[one["clip_id"]]["fps"], 3),
            },
            stratum=one["stratum"],
            inclusion_probability=one["probability"],
            # A score was missing and a rule left it to people: nothing else is known to be in doubt.
            uncertainty=float(one["clip_id"] in undecided),
        )
        for one in chosen.to_pylist()
        if one["clip_id"] not in lost
    ]
    return items, failures


def _encode(ctx: Context, jobs: Sequence[ProxyJob], media: MediaStore) -> list[ProxyFailure]:
    # Neighbours in one source go to one worker, whose file cache then holds it.
    missing = sorted(
        (job for job in jobs if media.find(job.name) is None), key=lambda job: (job.source, job.start_frame)
    )
    batches: list[list[ProxyJob]] = []
    for job in missing:  # one pass over a source serves all its clips, so they stay together, up to a point
        full = not batches or len(batches[-1]) >= JOBS_PER_BATCH
        one_source = batches and batches[-1][-1].source == job.source and len(batches[-1]) < _JOBS_OF_A_SOURCE
        if full and not one_source:
            batches.append([])
        batches[-1].append(job)
    failures: list[ProxyFailure] = []
    if not batches:
        return failures
    with ctx.progress(len(missing), "proxies") as bar:
        for results in ctx.map(ProxyMaker, batches, init={"root": str(media.root)}):
            found = [failure for _, failure in results if failure is not None]
            failures += found
            bar.advance(len(results), failed=len(found))
    return sorted(failures, key=lambda failure: failure.clip_id)


def _pictures(ctx: Context, of_chosen: Any, media: MediaStore, make: bool) -> dict[str, list[str]]:
    """Names of each clip's key frames in order, evenly thinned; one pass that holds one batch of pictures at a time."""
    found: dict[str, list[tuple[float, str]]] = defaultdict(list)
    columns = ["clip_id", "position", "jpeg"]
    for batch in ctx.dataset("keyframes").to_batches(columns=columns, filter=of_chosen, batch_size=256):
        for row in batch.to_pylist():
            data = row["jpeg"]
            name = media.add_bytes(data, ".jpg") if make else media.name(media.content_key(data), ".jpg")
            found[row["clip_id"]].append((row["position"], name))
    return {clip_id: _thinned([name for _, name in sorted(names)]) for clip_id, names in found.items()}


def _thinned(names: list[str]) -> list[str]:
    if len(names) <= PICTURES_SHOWN:
        return names
    last = len(names) - 1
    return [names[round(n * last / (PICTURES_SHOWN - 1))] for n in range(PICTURES_SHOWN)]
