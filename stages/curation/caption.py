"""Gives every clip the caption that came with its source, from the list's column or a sidecar file, else null."""

from __future__ import annotations

from data_schemas.tables import CAPTIONS, CLIPS, VIDEOS
from stages.contract import Context, Params, Table, stage
from stages.curation.joins import join_stream

_SQL = """
SELECT s.clip_id, v.caption, CASE WHEN v.caption IS NULL THEN NULL ELSE v.caption_source END AS source,
       CAST(NULL AS VARCHAR) AS model
FROM shots s LEFT JOIN videos v USING (video_id)
"""


class CaptionParams(Params):
    """Captions come with the source; there is nothing to choose."""


@stage(
    name="caption",
    version="1",
    params=CaptionParams,
    inputs={"shots": Table(CLIPS), "videos": Table(VIDEOS)},
    outputs={"captions": Table(CAPTIONS)},
)
def caption(ctx: Context, params: CaptionParams) -> None:
    """Carry the source's caption to each of its clips; a source without one leaves null, never an empty text."""
    tables = {"shots": ctx.dataset("shots"), "videos": ctx.dataset("videos")}
    ctx.write("captions", join_stream(_SQL, tables, CAPTIONS.arrow))
