"""Scores candidates' key frames with the models a user names: NSFW, watermark, text, technical quality. None is named by default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator, model_validator

from data_schemas.tables import CANDIDATES, KEYFRAME_SCORES, KEYFRAMES
from models.scorers.dear.base import DearSpec
from stages.contract import Context, Group, Params, Resources, Shards, StageError, Table, stage
from stages.curation.keyframes import FrameBatch, FrameIndex, frame_batches, index_frames, read_frames
from stages.curation.ledgers import ledger_table

CHUNK = 50_000


class DearParams(Params):
    """See ``models.scorers.dear.base.DearSpec``. The scorer's columns begin with ``model_<name>``."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=60)
    kind: str
    model: str
    revision: str | None = None
    sha256: str | None = None
    labels: tuple[str, ...] = ()
    reduce: Literal["mean", "max", "min"] = "mean"
    options: dict[str, Any] = {}

    @model_validator(mode="after")
    def _code_is_pinned(self) -> DearParams:
        """A saved network is a program: whoever could change the file could run anything here."""
        if self.kind == "network" and self.sha256 is None:
            raise ValueError(
                f"scorer {self.name}: opening {self.model} runs what is in it; check where it comes from, "
                "then pin it with sha256 (sha256sum FILE)"
            )
        return self

    def spec(self) -> DearSpec:
        return DearSpec(**self.model_dump())


class ScoreKeyframesParams(Params):
    """``clips_per_batch`` clips are committed together; ``images_per_forward`` pictures, of any clips, go through at once."""

    scorers: tuple[DearParams, ...] = ()
    clips_per_batch: int = Field(default=256, ge=1)
    images_per_forward: int = Field(default=32, ge=1)
    gpus: float = Field(default=0.0, ge=0)

    @field_validator("scorers", mode="before")
    @classmethod
    def _by_name(cls, scorers: object) -> object:
        """A mapping by name says the same as a list, as everywhere in a configuration; null leaves one out."""
        if not isinstance(scorers, Mapping):
            return scorers
        return [{"name": name, **scorer} for name, scorer in scorers.items() if isinstance(scorer, Mapping)]

    @field_validator("scorers")
    @classmethod
    def _distinct(cls, scorers: tuple[DearParams, ...]) -> tuple[DearParams, ...]:
        names = [scorer.name for scorer in scorers]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two scorers are named {', '.join(twice)}")
        return scorers


def _digests(params: ScoreKeyframesParams) -> Mapping[str, str]:
    from models.scorers.dear.base import dear_class, dear_digests
    from models.scorers.errors import ScorerError

    found = {}
    try:
        for scorer in params.scorers:
            found[f"{scorer.name}.version"] = dear_class(scorer.spec()).version
            found |= {f"{scorer.name}.{file}": digest for file, digest in dear_digests(scorer.spec()).items()}
    except ScorerError as error:
        raise StageError(f"score_keyframes: {error}") from error
    return found


@stage(
    name="score_keyframes",
    version="1",
    params=ScoreKeyframesParams,
    inputs={"candidates": Table(CANDIDATES), "keyframes": Table(KEYFRAMES)},
    outputs={"scores": Table(KEYFRAME_SCORES)},
    resources=lambda params: Resources(1.0, params.gpus),
    models=_digests,
)
def score_keyframes(ctx: Context, params: ScoreKeyframesParams) -> None:
    """Each scorer over the key frames of every candidate, in batches that span clips and videos.

    Scores are kept by the content of the pictures, each scorer's under its own recipe: a further scorer costs its own forwards
    only, and a changed one recomputes only its columns.
    """
    if not params.scorers:
        ctx.write("scores", KEYFRAME_SCORES.empty())
        return
    wanted = ctx.dataset("candidates").to_table(columns=["clip_id"], filter=pc.field("kept")).column("clip_id")
    index = index_frames(ctx.dataset("keyframes"), wanted)
    digests = _digests(params)
    groups: dict[str, Group] = {}
    failed: dict[str, dict[str, dict[str, str]]] = {}
    for scorer in params.scorers:
        own = {key: value for key, value in digests.items() if key.startswith(f"{scorer.name}.")}
        made_with = scorer.model_dump(mode="json", exclude={"model", "sha256"}) | own
        group = groups[scorer.name] = Group(
            f"scorer:{scorer.name}", ctx.recipe(scorer.name, digests[f"{scorer.name}.version"], made_with)
        )
        failed[scorer.name] = _run(ctx, params, scorer.spec(), group, index)
    _write(ctx, params, index, groups)
    _account(ctx, index, wanted, failed)


def _run(
    ctx: Context, params: ScoreKeyframesParams, spec: DearSpec, group: Group, index: FrameIndex
) -> dict[str, dict[str, str]]:
    """Score what this recipe has not scored; returns the failures by record key. They are not committed: the next run tries again."""
    batches = frame_batches(index, ctx.records.done(group), params.clips_per_batch)
    failed: dict[str, dict[str, str]] = {}
    if not batches:
        return failed
    init = {
        "spec": spec,
        "images_per_forward": params.images_per_forward,
        "gpus": params.gpus,
        "shards": ctx.records.shards([group]),
        "group": group.name,
    }
    with ctx.progress(sum(len(batch.clip_ids) for batch in batches), "clips") as bar:
        for done, errors in ctx.map(KeyframeActor, batches, init=init, gpus=params.gpus):
            failed |= errors
            bar.advance(done + len(errors), failed=len(errors))
    return failed


class KeyframeActor:
    """One model in one process, and where finished records go."""

    def __init__(self, spec: DearSpec, images_per_forward: int, gpus: float, shards: Shards, group: str) -> None:
        from models.scorers.dear.base import dear_class
        from models.scorers.errors import ScorerError

        scorer = dear_class(spec)
        self.names = [column.name for column in scorer.columns(spec)]
        self.shards, self.group = shards, group
        try:
            self.score = scorer(spec, "cuda" if gpus else "cpu", images_per_forward)
        except ScorerError as error:
            raise StageError(f"score_keyframes: {error}") from error

    def __call__(self, batch: FrameBatch) -> tuple[int, dict[str, dict[str, str]]]:
        pictures, failed = {}, {}
        for key, frames in read_frames(batch).items():
            try:
                pictures[key] = [_picture(jpeg) for _, jpeg in frames]
            except ValueError as error:
                failed[key] = {
                    "error_type": "UnreadablePicture",
                    "error_message": f"a key frame cannot be read: {error}",
                }
        if pictures:
            scores = self.score(list(pictures.values()))
            columns = {name: pa.array(scores[:, n], from_pandas=True) for n, name in enumerate(self.names)}
            self.shards.commit({self.group: pa.table({"record_key": list(pictures), **columns})}, list(pictures))
        return len(pictures), failed


def _picture(jpeg: bytes) -> np.ndarray:
    """A key frame, uint8 RGB HW3. Raises ``ValueError``."""
    import cv2

    bgr = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) if jpeg else None
    if bgr is None:
        raise ValueError(f"its {len(jpeg):,} bytes are no picture")
    return np.ascontiguousarray(bgr[..., ::-1])


def _write(ctx: Context, params: ScoreKeyframesParams, index: FrameIndex, groups: Mapping[str, Group]) -> None:
    """The clips with every scorer's columns; null where a scorer failed."""
    from models.scorers.dear.base import dear_class

    schema = KEYFRAME_SCORES.extend(
        column for scorer in params.scorers for column in dear_class(scorer.spec()).columns(scorer.spec())
    )
    ctx.write("scores", schema.empty())
    for start in range(0, index.clips.num_rows, CHUNK):
        part = index.clips.slice(start, CHUNK).select(["clip_id", "record_key"])
        keys = part.column("record_key").to_pylist()
        columns: dict[str, pa.Array] = {"clip_id": part.column("clip_id")}
        for scorer in params.scorers:
            rows = ctx.records.read(groups[scorer.name], sorted(set(keys)))
            at = _places(rows, keys)
            for column in dear_class(scorer.spec()).columns(scorer.spec()):
                found = rows.column(column.name).combine_chunks().take(at) if rows.num_rows else pa.nulls(len(keys))
                columns[column.name] = found.cast(pa.float64())
        ctx.write("scores", schema.validate(pa.table(columns)))


def _places(rows: pa.Table, keys: Sequence[str]) -> pa.Array:
    at = {key: row for row, key in enumerate(rows.column("record_key").to_pylist())} if rows.num_rows else {}
    return pa.array([at.get(key) for key in keys], pa.int64())


def _account(
    ctx: Context, index: FrameIndex, wanted: pa.ChunkedArray, failed: Mapping[str, Mapping[str, dict[str, str]]]
) -> None:
    """A ledger row for every candidate: accepted, or failed with the first scorer's error or without key frames."""
    errors: dict[str, dict[str, str]] = {}
    for name, found in failed.items():
        for key, error in found.items():
            errors.setdefault(key, {**error, "error_message": f"{name}: {error['error_message']}"})
    bad = pa.array(list(errors), pa.string())
    fine = index.clips.filter(pc.invert(pc.is_in(index.clips.column("record_key"), value_set=bad)))
    ctx.ledger(ledger_table(ctx.name, fine.column("clip_id"), "accepted"))
    ill = index.clips.filter(pc.is_in(index.clips.column("record_key"), value_set=bad))
    rows = zip(ill.column("clip_id").to_pylist(), ill.column("record_key").to_pylist(), strict=True)
    ctx.ledger([{"record_id": clip, "status": "failed", **errors[key]} for clip, key in rows])
    seen = index.clips.column("clip_id").combine_chunks()
    none = {"error_type": "NoKeyFrames", "error_message": "the decoding pass left no key frame of this clip"}
    lost = wanted.filter(pc.invert(pc.is_in(wanted, value_set=seen))).to_pylist()
    ctx.ledger([{"record_id": clip, "status": "failed", **none} for clip in lost])
