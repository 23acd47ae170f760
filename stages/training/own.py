"""A user's own training data as the tables that the training stages read; ``own_table`` says what it looks like.

Files that cannot be read are failed rows of the ledger; a table that cannot be used at all is an error with its remedy.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from data_schemas.ids import short_hash
from data_schemas.tables import PAIRS, SUBJECTS, SUBSET
from stages.contract import Context, Files, Group, NotEnoughRows, Table, stage
from stages.location import child_uri, is_remote
from stages.training.own_table import OwnParams, Row, own_world, reachable, read_rows, stamp
from stages.work import Item, Work, content_key, run_items


class OwnSamplesParams(OwnParams):
    kind: Literal["in_pair", "cross_pair"] = Field("cross_pair", description="kind of rows that do not say theirs")
    held_out: float = Field(0.0, ge=0, lt=1, description="share of rows that are held out where none says its split")


class Look:
    """Decodes a clip once and says what it is; the training stages need its exact number of frames."""

    def __call__(self, uri: str) -> Mapping[str, Any]:
        from models.video.reader import VideoReader
        from stages.spool import local_copy

        with local_copy(uri) as file:
            with VideoReader(file.path) as reader:
                for _ in reader:
                    pass
                facts = reader.facts
            with file.path.open("rb") as opened:
                sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
            return {
                "sha256": sha256,
                "bytes": file.path.stat().st_size,
                "frames": facts.frames,
                "fps": float(facts.fps or facts.frames / facts.duration_s),
                "duration_s": facts.duration_s,
                "width": facts.width,
                "height": facts.height,
            }


@stage(
    name="own_samples",
    version="1",
    params=OwnSamplesParams,
    outputs={"subset": Table(SUBSET), "media": Files("media"), "pairs": Table(PAIRS), "subjects": Table(SUBJECTS)},
    world=own_world("video", "prompt"),
)
def own_samples(ctx: Context, params: OwnSamplesParams) -> None:
    """Rows of the user's table as clips, subjects and pairs; their videos are linked, or copied to a remote store."""
    rows = read_rows(params, ("video", "prompt"))
    videos = sorted({r.video for r in rows if r.video})
    reachable(videos, params)
    looked = run_items(
        ctx,
        group=Group("look", ctx.recipe("look", "1", {})),
        items=[Item(content_key(*stamp(v)), v, v) for v in videos],
        make=Look,
        init={},
        unit="videos",
    )
    facts = {row["record_id"]: row for row in looked.rows(ctx, [v for v in videos if v not in looked.failed])}
    pictures = {r: read_picture(r) for r in sorted({f for row in rows for f in row.references})}
    kept = [r for r in rows if r.video in facts and not any(isinstance(pictures[f], str) for f in r.references)]
    ctx.ledger([_ended(row, looked, pictures) for row in rows])
    if not kept:
        raise NotEnoughRows(f"usable rows in {params.table}", 1, 0, f"First: {_why(rows[0], looked, pictures)}.")
    folder, uri = ctx.folder("media"), ctx.final_uri("media")
    clips = {}
    for video in sorted({r.video for r in kept if r.video}):
        name = _place(video, facts[video]["sha256"], folder)
        clips[video] = _clip_row(
            video, facts[video], child_uri(uri, name), next(r.prompt for r in kept if r.video == video)
        )
    ctx.write("subset", SUBSET.table(list(clips.values())))
    used = {f for row in kept for f in row.references}
    ctx.write("subjects", SUBJECTS.table([_subject_row(f, *pictures[f]) for f in sorted(used)]))
    ctx.write("pairs", PAIRS.table([_pair_row(row, params) for row in kept]))


def read_picture(uri: str) -> tuple[bytes, bytes] | str:
    """(picture, mask) as PNG, or what is wrong with the file."""
    import io

    from PIL import Image, ImageOps

    from stages.spool import local_copy

    try:
        with local_copy(uri) as file:
            opened = ImageOps.exif_transpose(Image.open(file.path))
            opened.load()
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        return f"reference {uri}: {error}"
    seen = opened.convert("RGBA")

    def png(picture: Image.Image) -> bytes:
        buffer = io.BytesIO()
        picture.save(buffer, format="PNG")
        return buffer.getvalue()

    return png(seen.convert("RGB")), png(seen.getchannel("A"))


def _why(row: Row, looked: Work, pictures: Mapping[str, Any]) -> str | None:
    if row.video in looked.failed:
        return f"video {row.video}: {looked.failed[row.video].error_message}"
    return next((pictures[f] for f in row.references if isinstance(pictures[f], str)), None)


def _ended(row: Row, looked: Work, pictures: Mapping[str, Any]) -> dict[str, object]:
    why = _why(row, looked, pictures)
    if why is None:
        return {"record_id": row.sample_id, "status": "accepted"}
    return {"record_id": row.sample_id, "status": "failed", "error_type": "UnreadableInput", "error_message": why}


def _place(uri: str, sha256: str, folder: Path) -> str:
    """The video in ``folder`` under its digest: a link where it lies on this machine, else a copy."""
    from stages.spool import local_copy

    name = sha256[:24] + Path(uri).suffix
    target = folder / name
    if not target.exists():
        if is_remote(uri):
            with local_copy(uri) as file:
                shutil.copy(file.path, target)
        else:
            target.symlink_to(Path(uri.removeprefix("file://")).absolute())
    return name


def _clip_row(video: str, facts: Mapping[str, Any], uri: str, prompt: str) -> dict[str, object]:
    return {
        "clip_id": short_hash("own clip", video),
        "video_id": short_hash("own video", video),
        "media_uri": uri,
        "media_sha256": facts["sha256"],
        "media_bytes": facts["bytes"],
        "caption": prompt,
        "start_s": 0.0,
        "end_s": facts["duration_s"],
        **{name: facts[name] for name in ("frames", "fps", "width", "height")},
    }


def _subject_row(file: str, picture: bytes, mask: bytes) -> dict[str, object]:
    return {
        "subject_id": short_hash("own reference", file),
        "origin": "photo",
        "video_id": short_hash("own video", file),
        "box": [0.0, 0.0, 1.0, 1.0],
        "area": 1.0,
        "mask_area": 1.0,
        "crop": picture,
        "mask": mask,
        "encoder": "none",
        "embedding": [],
    }


def _pair_row(row: Row, params: OwnSamplesParams) -> dict[str, object]:
    draw = int(short_hash("split", row.sample_id), 16) / 16**20
    return {
        "sample_id": row.sample_id,
        "kind": row.kind or params.kind,
        "clip_id": short_hash("own clip", row.video or ""),
        "video_id": short_hash("own video", row.video or ""),
        "prompt": row.prompt,
        "references": [
            {"subject_id": short_hash("own reference", f), "origin": "photo", "video_id": short_hash("own video", f)}
            for f in row.references
        ],
        "same_source": (row.kind or params.kind) == "in_pair",
        "split": row.split or ("held_out" if draw < params.held_out else "train"),
    }
