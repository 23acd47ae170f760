"""Clips as curation leaves them, and their review media, for the stages that people's answers hang on."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_schemas.tables import CAPTIONS, CLIPS, DEDUPE, KEYFRAMES, SELECTION, VIDEOS
from stages.review.clip_media import ReviewMediaParams, review_media
from tests.context import LocalContext

KEPT, REJECTED = 6, 40


def jpeg(shade: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((36, 64, 3), shade, np.uint8)).save(out, "JPEG")
    return out.getvalue()


def curated(source: Path) -> dict[str, Any]:
    """One 20-frame source with clips of 10 frames: six survivors, one duplicate, and forty that ``motion`` rejected."""
    ids = [f"clip-{n:03d}" for n in range(KEPT + 1 + REJECTED)]
    clips = [
        {
            "clip_id": clip_id, "video_id": "v", "video_uri": str(source), "start_s": 0.0, "end_s": 1.0, "start_frame": n % 10,
            "end_frame": n % 10 + 10, "boundary_in": "start", "boundary_out": "end", "duration_s": 1.0, "width": 128,
            "height": 72, "fps": 10.0,
        }
        for n, clip_id in enumerate(ids)
    ]  # fmt: skip
    selection = [
        {"clip_id": c, "kept": n <= KEPT, "first_failing_rule": None if n <= KEPT else "motion", "review": False}
        for n, c in enumerate(ids)
    ]
    dedupe = [{"clip_id": c, "kept": n < KEPT, "kept_id": ids[min(n, KEPT - 1)]} for n, c in enumerate(ids[: KEPT + 1])]
    frames = [
        {"clip_id": c, "position": p, "time_s": p, "jpeg": jpeg(int(200 * p))} for c in ids for p in (0.25, 0.5, 0.75)
    ]
    video = {
        "video_id": "v", "uri": str(source), "path": source.name, "media_type": "video", "bytes": source.stat().st_size, "sha256": "s" * 64,
        "status": "ok",
    }  # fmt: skip
    return {
        "clips": CLIPS.table(clips),
        "selection": SELECTION.table(selection),
        "dedupe": DEDUPE.table(dedupe),
        "keyframes": KEYFRAMES.table(frames),
        "captions": CAPTIONS.table([{"clip_id": ids[0], "caption": "a bar"}]),
        "videos": VIDEOS.table([video]),
    }


def media_of(tmp_path: Path, inputs: dict[str, Any], **params: Any) -> LocalContext:
    """The stage ``review_media``, run on these inputs."""
    ctx = LocalContext(tmp_path, review_media, {name: inputs[name] for name in inputs if name != "captions"})
    ctx.run(ReviewMediaParams(**params))
    return ctx


def gate_inputs(tmp_path: Path, inputs: dict[str, Any], **params: Any) -> dict[str, Any]:
    """What the filter gate is wired to, its media made."""
    return media_of(tmp_path, inputs, **params).outputs | {"captions": inputs["captions"]}
