"""Encodes candidates' key frames and captions with CLIP: embedding, aesthetic score, and agreement of picture and caption."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from data_schemas.tables import CANDIDATES, CAPTIONS, EMBEDDINGS, KEYFRAMES
from models.scorers.clip_tower import EncoderError, EncoderSpec, encoder_digests, encoder_name, load_head
from stages.contract import Context, Group, Params, Shards, StageError, Table, stage
from stages.curation.keyframes import FrameBatch, frame_batches, index_frames, read_frames
from stages.curation.ledgers import ledger_table

CHUNK = 50_000
# What PIL raises for a picture it cannot read; anything else is the machine's failure and stops the stage
PICTURE_ERRORS = (OSError, ValueError, SyntaxError)


class EncoderParams(Params):
    """See ``models.scorers.clip_tower.EncoderSpec``."""

    model: str = "tiny-random"
    weights: str | None = None
    sha256: str | None = None
    aesthetic_head: str | None = None
    aesthetic_sha256: str | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = 0

    def spec(self) -> EncoderSpec:
        return EncoderSpec(**self.model_dump())


class EmbedParams(Params):
    """``clips_per_batch`` clips are committed together; ``images_per_forward`` pictures, of any clips, go through at once."""

    encoder: EncoderParams = EncoderParams()
    clips_per_batch: int = Field(default=256, ge=1)
    images_per_forward: int = Field(default=32, ge=1)
    gpus: float = Field(default=0.0, ge=0)


def _digests(params: EmbedParams) -> Mapping[str, str]:
    try:
        return encoder_digests(params.encoder.spec())
    except EncoderError as error:
        raise StageError(f"embed: {error}") from error


@stage(
    name="embed",
    version="1",
    params=EmbedParams,
    inputs={"candidates": Table(CANDIDATES), "keyframes": Table(KEYFRAMES), "captions": Table(CAPTIONS)},
    outputs={"embeddings": Table(EMBEDDINGS)},
    models=_digests,
)
def embed(ctx: Context, params: EmbedParams) -> None:
    """One image-tower forward for each key frame of each candidate, one text-tower forward for each distinct caption.

    Pictures are keyed by their content and captions by their text, each under its own recipe: a changed caption costs a text
    forward and no picture, a changed aesthetic head costs neither.
    """
    spec = params.encoder.spec()
    digests = _digests(params)
    tower = {"model": spec.model, "precision": spec.precision} | {
        k: v for k, v in digests.items() if k.startswith("encoder")
    }
    pictures = Group("pictures", ctx.recipe("pictures", "1", tower))
    texts = Group("texts", ctx.recipe("texts", "1", tower))
    init = {"spec": spec, "images_per_forward": params.images_per_forward, "gpus": params.gpus}

    wanted = ctx.dataset("candidates").to_table(columns=["clip_id"], filter=pc.field("kept")).column("clip_id")
    captions = ctx.dataset("captions").to_table(
        columns=["clip_id", "caption"],
        filter=pc.field("caption").is_valid() & pc.field("clip_id").isin(wanted.combine_chunks()),
    )
    index = index_frames(ctx.dataset("keyframes"), wanted)

    batches = frame_batches(index, ctx.records.done(pictures), params.clips_per_batch)
    failed = _run(ctx, PictureActor, batches, pictures, init, params.gpus, "clips")
    distinct = pc.unique(captions.column("caption")).to_pylist()
    missing = _not_done(distinct, ctx.records.done(texts))
    text_batches = [
        missing[i : i + params.clips_per_batch * 4] for i in range(0, len(missing), params.clips_per_batch * 4)
    ]
    failed |= _run(ctx, TextActor, text_batches, texts, init, params.gpus, "captions")

    _write(ctx, spec, index.clips, captions, pictures, texts)
    for clip_id, key in zip(*(index.clips.column(name).to_pylist() for name in ("clip_id", "record_key")), strict=True):
        if key in failed:
            ctx.ledger([{"record_id": clip_id, "status": "failed", **failed[key]}])
    lost = wanted.filter(
        pc.invert(pc.is_in(wanted, value_set=index.clips.column("clip_id").combine_chunks()))
    ).to_pylist()
    no_frames = {"error_type": "NoKeyFrames", "error_message": "the decoding pass left no key frame of this clip"}
    ctx.ledger([{"record_id": clip_id, "status": "failed", **no_frames} for clip_id in lost])


def caption_key(caption: str) -> str:
    return hashlib.sha256(caption.encode("utf-8", "surrogateescape")).hexdigest()


def _not_done(captions: Sequence[str], done: Container[str]) -> list[tuple[str, str]]:
    return [(key, caption) for caption in captions if (key := caption_key(caption)) not in done]


def _run(
    ctx: Context,
    actor: type[PictureActor] | type[TextActor],
    batches: Sequence[Any],
    group: Group,
    init: Mapping[str, Any],
    gpus: float,
    unit: str,
) -> dict[str, dict[str, str]]:
    """Work through the batches; returns the failures by record key. They are not committed, so the next run tries again."""
    if not batches:
        return {}
    failed: dict[str, dict[str, str]] = {}
    total = sum(len(b.clip_ids) if isinstance(b, FrameBatch) else len(b) for b in batches)
    with ctx.progress(total, unit) as bar:
        for done, errors in ctx.map(
            actor, batches, init={**init, "shards": ctx.records.shards([group]), "group": group.name}, gpus=gpus
        ):
            failed |= errors
            bar.advance(done + len(errors), failed=len(errors))
    return failed


class _Encoder:
    """What both actors share: one tower in one process, and where finished records go."""

    def __init__(self, spec: EncoderSpec, images_per_forward: int, gpus: float, shards: Shards, group: str) -> None:
        from models.scorers.clip_tower import ClipTower

        self.tower = ClipTower(spec, device="cuda" if gpus else "cpu", batch=images_per_forward)
        self.shards, self.group = shards, group

    def commit(self, keys: Sequence[str], vectors: np.ndarray) -> None:
        vector = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1]) if keys else None
        if vector is not None:
            column = vector.cast(pa.list_(pa.float32()))
            self.shards.commit({self.group: pa.table({"record_key": list(keys), "vector": column})}, list(keys))


class PictureActor(_Encoder):
    """Mean of the unit embeddings of each clip's key frames. The mean is stored as it is: heads and cosines come later."""

    def __call__(self, batch: FrameBatch) -> tuple[int, dict[str, dict[str, str]]]:
        frames = {key: [jpeg for _, jpeg in found] for key, found in read_frames(batch).items()}
        failed: dict[str, dict[str, str]] = {}
        try:
            units = self.tower.images([jpeg for found in frames.values() for jpeg in found])
        except PICTURE_ERRORS:
            units, failed = self._one_by_one(frames)
        means, start = [], 0
        for key, found in frames.items():
            if key not in failed:
                means.append(units[start : start + len(found)].mean(axis=0))
                start += len(found)
        self.commit([key for key in frames if key not in failed], np.asarray(means, dtype=np.float32))
        return len(means), failed

    def _one_by_one(self, frames: Mapping[str, list[bytes]]) -> tuple[np.ndarray, dict[str, dict[str, str]]]:
        """A broken picture must not cost its neighbours: find which clip it belongs to."""
        failed, parts = {}, []
        for key, found in frames.items():
            try:
                parts.append(self.tower.images(found))
            except PICTURE_ERRORS as error:
                failed[key] = {
                    "error_type": type(error).__name__,
                    "error_message": f"a key frame cannot be encoded: {error}",
                }
        return (np.concatenate(parts) if parts else np.zeros((0, self.tower.dim), np.float32)), failed


class TextActor(_Encoder):
    """Unit embeddings of captions."""

    def __call__(self, batch: Sequence[tuple[str, str]]) -> tuple[int, dict[str, dict[str, str]]]:
        self.commit([key for key, _ in batch], self.tower.texts([caption for _, caption in batch]))
        return len(batch), {}


def _write(ctx: Context, spec: EncoderSpec, clips: pa.Table, captions: pa.Table, pictures: Group, texts: Group) -> None:
    """Join committed embeddings with the clips that share them, and add the scores that follow from them."""
    head = load_head(spec.aesthetic_head) if spec.aesthetic_head else None
    name = encoder_name(spec)
    clips = clips.join(captions, "clip_id", join_type="left outer").sort_by("clip_id")
    accepted = 0
    for part in _parts(clips):
        keys = part.column("record_key").to_pylist()
        means, has = _vectors(ctx.records.read(pictures, sorted(set(keys))), keys)
        if not has.any():
            continue
        text_keys = [caption_key(c) if c is not None else None for c in part.column("caption").to_pylist()]
        words, said = _vectors(ctx.records.read(texts, sorted({k for k in text_keys if k})), text_keys, means.shape[1])
        norms = np.linalg.norm(means, axis=1, keepdims=True)
        units = np.divide(means, norms, out=np.zeros_like(means), where=norms > 0)
        aesthetic = _scores(head, means, spec) if head else None
        cosine = np.einsum("nd,nd->n", units, words).astype(np.float64)
        flat = pa.array(units[has].reshape(-1))
        table = pa.table(
            {
                "clip_id": part.column("clip_id").filter(pa.array(has)),
                "encoder": pa.repeat(name, int(has.sum())),
                "vector": pa.FixedSizeListArray.from_arrays(flat, max(units.shape[1], 1)).cast(pa.list_(pa.float32())),
                "aesthetic": pa.array(aesthetic[has])
                if aesthetic is not None
                else pa.nulls(int(has.sum()), pa.float64()),
                "clip_text": pa.array(cosine[has], mask=~said[has]),
            }
        )
        ctx.write("embeddings", table)
        ctx.ledger(ledger_table(ctx.name, table.column("clip_id"), "accepted"))
        accepted += table.num_rows
    ctx.event("embedded", encoder=name, clips=accepted)


def _scores(head: Any, means: np.ndarray, spec: EncoderSpec) -> np.ndarray:
    if head.weight.shape[0] != means.shape[1]:
        raise StageError(
            f"embed: the aesthetic head {spec.aesthetic_head} takes {head.weight.shape[0]} numbers, but the encoder "
            f"{spec.model} yields {means.shape[1]}. Use the head that was trained on this encoder."
        )
    return np.asarray(head(means))  # linear, so the head of the mean is the mean of the heads


def _parts(table: pa.Table) -> Iterator[pa.Table]:
    for start in range(0, table.num_rows, CHUNK):
        yield table.slice(start, CHUNK)


def _vectors(rows: pa.Table, keys: Sequence[str | None], width: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Vectors in the order of ``keys``, zeros where there is none, and where there is one."""
    if not rows.num_rows:
        return np.zeros((len(keys), width), np.float32), np.zeros(len(keys), bool)
    stored = np.stack(rows.column("vector").combine_chunks().flatten().to_numpy().reshape(rows.num_rows, -1))
    at = {key: row for row, key in enumerate(rows.column("record_key").to_pylist())}
    index = np.asarray([at.get(key, -1) if key is not None else -1 for key in keys], dtype=np.int64)
    has = index >= 0
    return np.where(has[:, None], stored[index], np.float32(0)), has
