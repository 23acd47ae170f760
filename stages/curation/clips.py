"""Joins shots with the scores of the dear models into ``clips``: every shot, all its score columns, nothing filtered."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from data_schemas.tables import CLIPS, EMBEDDINGS, KEYFRAME_SCORES
from stages.contract import Context, Params, StageError, Table, stage
from stages.curation.joins import join_stream, quoted

SCORES = ("aesthetic", "clip_text")


class ClipsParams(Params):
    """``encoder`` names the encoder whose scores become columns; empty takes the only one there is."""

    encoder: str = ""


@stage(
    name="clips",
    version="1",
    params=ClipsParams,
    inputs={"shots": Table(CLIPS), "embeddings": Table(EMBEDDINGS), "scores": Table(KEYFRAME_SCORES)},
    optional=("embeddings", "scores"),
    outputs={"clips": Table(CLIPS)},
)
def clips(ctx: Context, params: ClipsParams) -> None:
    """Add the dear scores to every shot: those of the encoder, and those of key frame scorers; null where a shot has none."""
    shots = ctx.dataset("shots")
    tables: dict[str, pads.Dataset] = {"shots": shots}
    fields: list[pa.Field] = []
    if ctx.has("embeddings"):
        embeddings = ctx.dataset("embeddings")
        encoder = _encoder(embeddings.to_table(columns=["encoder"]).column("encoder"), params.encoder)
        tables["embeddings"] = embeddings.filter(pc.field("encoder") == encoder) if encoder else embeddings
        fields += [_named(EMBEDDINGS.arrow.field(name), encoder) for name in SCORES]
    if ctx.has("scores"):
        tables["scores"] = ctx.dataset("scores")
        fields += [field for field in tables["scores"].schema if field.name not in KEYFRAME_SCORES.key]
    names = [*shots.schema.names, *(field.name for field in fields)]
    taken = sorted({name for name in names if names.count(name) > 1})
    if taken:
        raise StageError(f"two scorers write a column {', '.join(taken)} of table clips; rename one of them.")
    if not fields:
        for batch in shots.to_batches():
            ctx.write("clips", pa.Table.from_batches([batch], schema=shots.schema))
        return
    columns = ", ".join(
        [*(f"shots.{quoted(n)}" for n in shots.schema.names), *(quoted(field.name) for field in fields)]
    )
    joins = " ".join(f"LEFT JOIN {name} USING (clip_id)" for name in list(tables)[1:])
    like = pa.schema([*shots.schema, *fields], metadata=shots.schema.metadata)
    ctx.write("clips", join_stream(f"SELECT {columns} FROM shots {joins}", tables, like))


def _encoder(present: pa.ChunkedArray, wanted: str) -> str | None:
    names = sorted(pc.unique(present).to_pylist())
    if wanted and names and wanted not in names:
        raise StageError(f"table embeddings has no encoder {wanted}; it has {', '.join(names)}.")
    if not wanted and len(names) > 1:
        raise StageError(f"table embeddings has several encoders ({', '.join(names)}); name one as clips.encoder.")
    return wanted or (names[0] if names else None)


def _named(field: pa.Field, encoder: str | None) -> pa.Field:
    """The score's field saying which encoder made it, since a score of random weights reads like any other."""
    metadata = dict(field.metadata or {})
    if encoder:
        metadata[b"encoder"] = encoder.encode()
    return field.with_metadata(metadata)
