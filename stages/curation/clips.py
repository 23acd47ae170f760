"""Joins shots with the scores of the dear models into ``clips``: every shot, all its score columns, nothing filtered."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from data_schemas.tables import CLIPS, EMBEDDINGS
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
    inputs={"shots": Table(CLIPS), "embeddings": Table(EMBEDDINGS)},
    optional=("embeddings",),
    outputs={"clips": Table(CLIPS)},
)
def clips(ctx: Context, params: ClipsParams) -> None:
    """Add ``aesthetic`` and ``clip_text`` to every shot; null where a shot was not embedded or has no caption."""
    shots = ctx.dataset("shots")
    if not ctx.has("embeddings"):
        for batch in shots.to_batches():
            ctx.write("clips", pa.Table.from_batches([batch], schema=shots.schema))
        return
    embeddings = ctx.dataset("embeddings")
    encoder = _encoder(embeddings.to_table(columns=["encoder"]).column("encoder"), params.encoder)
    taken = [name for name in SCORES if name in shots.schema.names]
    if taken:
        raise StageError(f"table shots already has a column {', '.join(taken)}; rename the scorer that writes it.")
    wanted = embeddings.filter(pc.field("encoder") == encoder) if encoder else embeddings
    columns = ", ".join(f"s.{quoted(name)}" for name in shots.schema.names)
    sql = f"SELECT {columns}, e.aesthetic, e.clip_text FROM shots s LEFT JOIN embeddings e USING (clip_id)"
    fields = [_named(EMBEDDINGS.arrow.field(name), encoder) for name in SCORES]
    like = pa.schema([*shots.schema, *fields], metadata=shots.schema.metadata)
    ctx.write("clips", join_stream(sql, {"shots": shots, "embeddings": wanted}, like))


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
