"""Rows for the switching recipe: image pairs out of cross-pair rows, and videos that have only themselves.

Learning identity from image pairs and motion from unpaired videos is arXiv 2504.17816. An image pair here is a still of
the target clip with the references of its cross-pair row; a video-only row is a clip with one of its own frames, drawn
uniformly, as the reference. Pairs of other pictures can be trained on as well: they need a cache with rows of these kinds.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from data_schemas.ids import short_hash
from data_schemas.tables import PAIRS, SUBJECTS, SUBSET
from stages.contract import Context, Files, Group, NotEnoughRows, Params, Table, stage
from stages.location import child_uri
from stages.training.media import decode_frames, local_media
from stages.work import Item, Work, content_key, run_items

IMAGE, VIDEO = "image_pair", "video_only"


class DisentangleParams(Params):
    stills: int = Field(1, ge=1, description="image pairs of a cross-pair row, each another frame of its clip")
    frames: int = Field(4, ge=1, description="rows of a video, each another of its frames as the reference")
    reference_frame: Literal["random", "first"] = Field(
        "random", description="which frames: drawn uniformly, or each video's first alone, the paper's ablation"
    )
    videos: int | None = Field(
        None, ge=1, description="most clips that train as videos, drawn by the seed; null is all"
    )


@dataclass(frozen=True)
class FramesPayload:
    """Frames to take out of a clip."""

    media: str
    of: int
    indices: tuple[int, ...]


class TakeFrames:
    """The frames of a clip as PNG files."""

    def __call__(self, clip: FramesPayload) -> Mapping[str, Any]:
        import numpy as np
        from safetensors.numpy import save

        from stages.training.generate import png

        frames = decode_frames(Path(clip.media), clip.of, of=clip.of)
        taken = {str(i): np.frombuffer(png(frames[i]), np.uint8) for i in clip.indices}
        return {"payload": save(taken), "size": json.dumps(frames.shape[1:3])}


@stage(
    name="disentangle",
    version="1",
    params=DisentangleParams,
    inputs={"subset": Table(SUBSET), "media": Files("media"), "pairs": Table(PAIRS), "subjects": Table(SUBJECTS)},
    outputs={"subset": Table(SUBSET), "media": Files("media"), "pairs": Table(PAIRS), "subjects": Table(SUBJECTS)},
)
def disentangle(ctx: Context, params: DisentangleParams) -> None:
    """Every clip ends in the ledger; held-out rows pass through, for they are what is sampled in the end."""
    clips = {row["clip_id"]: row for row in ctx.table("subset").to_pylist()}
    given = sorted(ctx.table("pairs").to_pylist(), key=lambda row: str(row["sample_id"]))
    given = [row for row in given if row["clip_id"] in clips]
    crossed = [row for row in given if row["kind"] == "cross_pair"]
    asked = [row for row in given if row["split"] == "held_out"]
    if not crossed:
        raise NotEnoughRows("cross-pair rows", 1, 0, "Loosen the pair rules or add footage of the same subjects.")
    split = {row["video_id"]: row["split"] for row in given}
    prompts = {clip_id: row["caption"] for clip_id, row in clips.items()} | {r["clip_id"]: r["prompt"] for r in crossed}
    stills = {
        row["sample_id"]: _draw(ctx, row["sample_id"], "still", clips[row["clip_id"]], params.stills) for row in crossed
    }
    told = [i for i in sorted(clips) if prompts[i]]
    left = _left_out(ctx, [i for i in told if split.get(clips[i]["video_id"], "train") == "train"], params.videos)
    own = {i: _references(ctx, i, clips[i], params) for i in told if i not in left}
    wanted: dict[str, set[int]] = defaultdict(set)
    for clip_id, indices in [*((r["clip_id"], stills[r["sample_id"]]) for r in crossed), *own.items()]:
        wanted[clip_id] |= set(indices)
    work = _take(ctx, clips, wanted)
    why = dict.fromkeys(left, "videos: beyond the number asked for")
    why |= {i: "no caption: a video needs a prompt" for i in clips if not prompts[i]}
    ctx.ledger([_ended(clip, work, why.get(i)) for i, clip in sorted(clips.items())])
    taken = {r["record_id"]: r for r in work.rows(ctx, sorted(set(wanted) - set(work.failed)))}
    folder = _Folder(ctx, clips)
    pairs: list[dict[str, object]] = list(asked)
    for row in asked:
        folder.keep(row["clip_id"])
    frames: dict[str, bytes] = {}
    for row in crossed:
        if row["clip_id"] not in taken:
            continue
        pairs += [_image_row(row, folder.still(row["clip_id"], i, taken)) for i in stills[row["sample_id"]]]
    for clip_id in sorted(set(own) & set(taken)):
        folder.keep(clip_id)
        for index in own[clip_id]:
            subject = short_hash("frame", clip_id, index)
            frames[subject] = _png(taken[clip_id], index)
            of = split.get(clips[clip_id]["video_id"], "train")
            pairs.append(_video_row(clips[clip_id], subject, index, str(prompts[clip_id]), of))
    ctx.write("pairs", PAIRS.table(pairs))
    ctx.write("subset", SUBSET.table(folder.rows))
    used = {reference["subject_id"] for row in (*crossed, *asked) for reference in row["references"]}
    subjects = [row for row in ctx.table("subjects").to_pylist() if row["subject_id"] in used]
    ctx.write("subjects", SUBJECTS.table([*subjects, *_frame_subjects(pairs, frames)]))
    ctx.event("disentangled", **{kind: sum(row["kind"] == kind for row in pairs) for kind in (IMAGE, VIDEO)})


def _left_out(ctx: Context, clip_ids: list[str], most: int | None) -> set[str]:
    """All but so many of the clips, drawn by the seed."""
    from models.training.randomness import seed_of

    return set(sorted(clip_ids, key=lambda i: (seed_of(ctx.seed, "videos", i), i))[most:]) if most else set()


def _references(ctx: Context, clip_id: str, clip: Mapping[str, Any], params: DisentangleParams) -> list[int]:
    return [0] if params.reference_frame == "first" else _draw(ctx, clip_id, "reference", clip, params.frames)


def _draw(ctx: Context, record_id: str, purpose: str, clip: Mapping[str, Any], count: int) -> list[int]:
    """Different frames of a clip, uniformly drawn, as many as it has at most."""
    from models.training.randomness import seed_of

    frames = int(clip["frames"])
    return sorted(range(frames), key=lambda i: (seed_of(ctx.seed, purpose, record_id, i), i))[:count]


def _take(ctx: Context, clips: Mapping[str, Mapping[str, Any]], wanted: Mapping[str, set[int]]) -> Work:
    folder, items = ctx.path("media"), []
    for clip_id, indices in sorted(wanted.items()):
        clip, chosen = clips[clip_id], tuple(sorted(indices))
        key = content_key(clip["media_sha256"], clip["frames"], chosen)
        payload = FramesPayload(str(local_media(folder, clip["media_uri"])), int(clip["frames"]), chosen)
        items.append(Item(key, clip_id, payload))
    group = Group("frames", ctx.recipe("frames", "1", {}))
    return run_items(ctx, group=group, items=items, make=TakeFrames, init={}, unit="clips")


def _png(row: Mapping[str, Any], index: int) -> bytes:
    from safetensors.numpy import load

    return bytes(load(row["payload"])[str(index)].tobytes())


class _Folder:
    """The media of the rows: clips as they are, linked, and their stills beside them."""

    def __init__(self, ctx: Context, clips: Mapping[str, Mapping[str, Any]]) -> None:
        self.folder, self.uri, self.source = ctx.folder("media"), ctx.final_uri("media"), ctx.path("media")
        self.clips, self._rows = clips, dict[str, dict[str, object]]()

    @property
    def rows(self) -> list[dict[str, object]]:
        return [self._rows[i] for i in sorted(self._rows)]

    def keep(self, clip_id: str) -> None:
        clip = self.clips[clip_id]
        path = local_media(self.source, clip["media_uri"])
        target = self.folder / f"{clip['media_sha256'][:24]}{path.suffix}"
        if not target.exists():
            target.symlink_to(path.resolve())
        self._rows[clip_id] = {**clip, "media_uri": child_uri(self.uri, target.name)}

    def still(self, clip_id: str, index: int, taken: Mapping[str, Mapping[str, Any]]) -> dict[str, object]:
        clip, blob = self.clips[clip_id], _png(taken[clip_id], index)
        digest = hashlib.sha256(blob).hexdigest()
        (self.folder / f"{digest[:24]}.png").write_bytes(blob)
        height, width = json.loads(taken[clip_id]["size"])
        row = {
            **clip,
            "clip_id": short_hash("still", clip_id, index),
            "media_uri": child_uri(self.uri, f"{digest[:24]}.png"),
            "media_sha256": digest,
            "media_bytes": len(blob),
            "frames": 1,
            "height": height,
            "width": width,
        }
        self._rows[str(row["clip_id"])] = row
        return row


def _image_row(pair: Mapping[str, Any], still: Mapping[str, object]) -> dict[str, object]:
    sample_id = short_hash("sample", IMAGE, pair["sample_id"], still["clip_id"])
    return {**pair, "sample_id": sample_id, "kind": IMAGE, "clip_id": still["clip_id"]}


def _video_row(clip: Mapping[str, Any], subject: str, index: int, prompt: str, split: str) -> dict[str, object]:
    return {
        "sample_id": short_hash("sample", VIDEO, clip["clip_id"], index),
        "kind": VIDEO,
        "clip_id": clip["clip_id"],
        "video_id": clip["video_id"],
        "prompt": prompt,
        "references": [{"subject_id": subject, "origin": "clip", "video_id": clip["video_id"]}],
        "same_source": True,
        "split": split,
    }


def _frame_subjects(pairs: Iterable[Mapping[str, Any]], frames: Mapping[str, bytes]) -> list[dict[str, object]]:
    """Whole frames as subjects: all of the picture is inside."""
    rows = {row["references"][0]["subject_id"]: row for row in pairs if row["kind"] == VIDEO}
    return [
        {
            "subject_id": subject,
            "origin": "clip",
            "clip_id": rows[subject]["clip_id"],
            "video_id": rows[subject]["video_id"],
            "box": [0.0, 0.0, 1.0, 1.0],
            "area": 1.0,
            "mask_area": 1.0,
            "crop": blob,
            "mask": _full(blob),
            "encoder": "none",
            "embedding": [],
        }
        for subject, blob in sorted(frames.items())
    ]


def _full(picture: bytes) -> bytes:
    import io

    from PIL import Image

    size, buffer = Image.open(io.BytesIO(picture)).size, io.BytesIO()
    Image.new("L", size, 255).save(buffer, format="PNG")
    return buffer.getvalue()


def _ended(clip: Mapping[str, Any], work: Work, why_not: str | None) -> dict[str, object]:
    row: dict[str, object] = {"record_id": clip["clip_id"], "video_id": clip["video_id"]}
    failure = work.failed.get(clip["clip_id"])
    if failure is not None:
        return {**row, "status": "failed", "error_type": failure.error_type, "error_message": failure.error_message}
    if why_not and clip["clip_id"] not in work.keys:
        return {**row, "status": "rejected", "reason": why_not}
    return {**row, "status": "accepted"}
