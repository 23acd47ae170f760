"""Gives every clip its caption: the source's own (the list's column or a sidecar file), else a captioner's, else null."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from data_schemas.tables import CANDIDATES, CAPTIONS, CLIPS, KEYFRAMES, VIDEOS
from stages.asking import DOWN_AFTER, EndpointParams
from stages.contract import Context, Group, Params, RetryableError, Shards, StageError, Table, stage
from stages.curation.joins import join_stream
from stages.curation.keyframes import FrameBatch, frame_batches, index_frames, read_frames

if TYPE_CHECKING:
    from models.captioners.protocols import Writer

_SQL = """
SELECT s.clip_id, v.caption, CASE WHEN v.caption IS NULL THEN NULL ELSE v.caption_source END AS source,
       CAST(NULL AS VARCHAR) AS model
FROM shots s LEFT JOIN videos v USING (video_id)
"""
_WITH_MODEL = """
SELECT s.clip_id, COALESCE({first}.caption, {second}.caption) AS caption,
       CASE WHEN {first}.caption IS NOT NULL THEN {first}.source WHEN {second}.caption IS NOT NULL THEN {second}.source END AS source,
       CASE WHEN COALESCE({first}.source, {second}.source) = 'model' THEN w.model END AS model
FROM shots s LEFT JOIN given g USING (clip_id) LEFT JOIN written w USING (clip_id)
"""
INSTRUCTION = (
    "These are frames of one video clip in order of time. Describe the clip in one to three English sentences: first who or what is "
    "its subject and how it looks, then what happens, then the surroundings. Say only what can be seen. Give the text alone."
)


class LocalParams(Params):
    """A vision-language model on this machine, in from_pretrained's layout."""

    weights: str = Field(description="folder, or repository of the hub")
    revision: str | None = None
    sha256: str | None = None
    max_tokens: int = Field(300, ge=1)
    gpus: float = Field(0.0, ge=0)


class CaptionParams(Params):
    """Without a captioner a source without a caption leaves null."""

    endpoint: EndpointParams | None = None
    local: LocalParams | None = None
    prefer: Literal["source", "model"] = Field("source", description="whose caption counts where both are there")
    instruction: str = Field(INSTRUCTION, min_length=1)
    min_words: int = Field(4, ge=1)
    max_words: int = Field(200, ge=1)
    language: Literal["en", "de", "fr", "es", "it", "pt", "zh", "ja", "ru"] = "en"
    clips_per_batch: int = Field(16, ge=1, description="clips committed together")

    @model_validator(mode="after")
    def _one(self) -> CaptionParams:
        if self.endpoint and self.local:
            raise ValueError("set endpoint or local, not both")
        if self.min_words > self.max_words:
            raise ValueError(f"min_words {self.min_words} is more than max_words {self.max_words}")
        return self


def _models(params: CaptionParams) -> dict[str, str]:
    from models.subjects.weights import Weights, WeightsError

    if params.endpoint is not None:
        return {"captioner": params.endpoint.model}
    if params.local is None:
        return {}
    try:
        return {"captioner": Weights(params.local.weights, params.local.revision, params.local.sha256).name("local")}
    except WeightsError as error:
        raise StageError(f"caption.local: {error}") from error


@stage(
    name="caption",
    version="2",
    params=CaptionParams,
    inputs={
        "shots": Table(CLIPS),
        "videos": Table(VIDEOS),
        "candidates": Table(CANDIDATES),
        "keyframes": Table(KEYFRAMES),
    },
    optional=("candidates", "keyframes"),
    outputs={"captions": Table(CAPTIONS)},
    models=_models,
)
def caption(ctx: Context, params: CaptionParams) -> None:
    """Carry the source's caption to each of its clips, and ask the captioner for the others; never an empty text."""
    tables = {"shots": ctx.dataset("shots"), "videos": ctx.dataset("videos")}
    if params.endpoint is None and params.local is None:
        ctx.write("captions", join_stream(_SQL, tables, CAPTIONS.arrow))
        return
    if not ctx.has("keyframes"):
        raise StageError("a captioner needs pictures: wire keyframes to caption, as the built-in pipelines do")
    given = pa.concat_tables([CAPTIONS.empty(), *join_stream(_SQL, tables, CAPTIONS.arrow)])
    written = _written(ctx, params, given)
    order = ("g", "w") if params.prefer == "source" else ("w", "g")
    sql = _WITH_MODEL.format(first=order[0], second=order[1])
    found = join_stream(sql, {"shots": tables["shots"], "given": given, "written": written}, CAPTIONS.arrow)
    ctx.write("captions", found)


def _written(ctx: Context, params: CaptionParams, given: pa.Table) -> pa.Table:
    """Captions of the clips that were asked about; every such clip ends in the ledger, and what it cost in the metrics."""
    from models.captioners.checks import CaptionRules, fault, tidy

    asked = given if params.prefer == "model" else given.filter(pc.is_null(given["caption"]))
    wanted = asked["clip_id"]
    if ctx.has("candidates"):
        kept = ctx.dataset("candidates").to_table(columns=["clip_id"], filter=pc.field("kept"))["clip_id"]
        wanted = wanted.filter(pc.is_in(wanted, value_set=kept.combine_chunks()))
    index = index_frames(ctx.dataset("keyframes"), wanted)
    group = Group("written", ctx.recipe("written", "1", _recipe(params)))
    batches = frame_batches(index, ctx.records.done(group), params.clips_per_batch)
    init = {"params": params, "shards": ctx.records.shards([group]), "group": group.name}
    failed: dict[str, str] = {}
    total = batches.clips.num_rows
    with ctx.progress(total, "captions") as bar:
        gpus = params.local.gpus if params.local else 0.0
        # One actor holds all requests of an endpoint; it waits for the network, not for a core.
        for done, errors in ctx.map(CaptionActor, batches, init=init, cpus=1.0, gpus=gpus):
            failed |= errors
            bar.advance(done + len(errors), failed=len(errors))
    rules = CaptionRules(params.min_words, params.max_words, params.language)
    name = params.endpoint.model if params.endpoint else _models(params)["captioner"]
    spent = {"requests": 0, "tokens_in": 0, "tokens_out": 0}
    parts: list[pa.Table] = [CAPTIONS.empty()]
    clips = index.clips.sort_by("record_key")
    asked_now = pc.is_in(clips["record_key"], value_set=batches.clips["record_key"].combine_chunks())
    before = ""  # clips of one content are neighbours: what they cost is counted once
    for start in range(0, len(clips), 4096):
        part = clips.slice(start, 4096)
        keys = sorted({k for k in part["record_key"].to_pylist() if k not in failed})
        rows = {r["record_key"]: r for r in ctx.records.read(group, keys).to_pylist()}
        ledger, told = [], []
        columns = (part["clip_id"], part["record_key"], asked_now.slice(start, 4096))
        for clip_id, key, now in zip(*(column.to_pylist() for column in columns), strict=True):
            if key in failed:
                message = failed[key]
                ledger.append(
                    {"record_id": clip_id, "status": "failed", "error_type": "NoCaption", "error_message": message}
                )
                continue
            row = rows[key]
            text = tidy(row["text"])
            reason = fault(text, rules)
            note = f"{row['tokens_in']} tokens given, {row['tokens_out']} written, {row['attempts']} attempts"
            status = "rejected" if reason else "accepted"
            ledger.append(
                {"record_id": clip_id, "status": status, "reason": reason, "note": note, "seconds": row["seconds"]}
            )
            if reason is None:
                told.append({"clip_id": clip_id, "caption": text, "source": "model", "model": name})
            if now and key != before:
                spent["requests"] += row["attempts"]
                spent["tokens_in"] += row["tokens_in"]
                spent["tokens_out"] += row["tokens_out"]
            before = key
        ctx.ledger(ledger)
        parts.append(CAPTIONS.table(told))
    lost = wanted.filter(pc.invert(pc.is_in(wanted, value_set=index.clips["clip_id"].combine_chunks())))
    no_frames = {"error_type": "NoKeyFrames", "error_message": "the decoding pass left no key frame of this clip"}
    ctx.ledger([{"record_id": clip_id, "status": "failed", **no_frames} for clip_id in lost.to_pylist()])
    _account(ctx, params, spent)
    return pa.concat_tables(parts)


def _recipe(params: CaptionParams) -> Mapping[str, Any]:
    """What decides the text: the model by its name, not where it is served, nor how often or how fast it is asked."""
    tokens = (params.endpoint or params.local or LocalParams(weights="")).max_tokens
    return {**_models(params), "instruction": params.instruction, "max_tokens": tokens}


def _account(ctx: Context, params: CaptionParams, spent: Mapping[str, int]) -> None:
    """What this run asked for and what that cost; captions that were there already cost nothing again."""
    cost = 0.0
    if params.endpoint:
        cost = params.endpoint.cost(spent["tokens_in"], spent["tokens_out"])
    for name, value in {**spent, "cost": cost}.items():
        ctx.metric(f"caption/{name}", float(value))
    ctx.event("captioned", **spent, cost=round(cost, 6))


class CaptionActor:
    """Asks about a batch of clips and commits what was written; a clip without an answer is told and not committed."""

    def __init__(self, params: CaptionParams, shards: Shards, group: str) -> None:
        from models.captioners.protocols import WriterRefused

        self.params, self.shards, self.group = params, shards, group
        try:
            self.writer: Writer = _writer(params)
        except WriterRefused as error:
            raise StageError(str(error)) from error
        self.threads = params.endpoint.concurrency if params.endpoint else 1
        self.in_a_row = 0

    def __call__(self, batch: FrameBatch) -> tuple[int, dict[str, str]]:
        from models.captioners.protocols import WriterRefused

        frames = read_frames(batch)
        with ThreadPoolExecutor(self.threads) as pool:
            try:
                told = dict(zip(frames, pool.map(self._ask, frames.values()), strict=True))
            except WriterRefused as error:
                raise StageError(f"{error}. Mend caption.endpoint; what was written is kept.") from error
        rows = [{"record_key": k, **v} for k, v in told.items() if not isinstance(v, str)]
        errors = {k: v for k, v in told.items() if isinstance(v, str)}
        if rows:
            self.shards.commit({self.group: pa.Table.from_pylist(rows)}, [r["record_key"] for r in rows])
        self.in_a_row = 0 if rows else self.in_a_row + len(errors)
        if self.in_a_row >= DOWN_AFTER:
            raise RetryableError(f"{self.in_a_row} clips in a row got no caption; last: {next(iter(errors.values()))}")
        return len(rows), errors

    def _ask(self, frames: Sequence[tuple[float, bytes]]) -> dict[str, Any] | str:
        from models.captioners.protocols import WriterUnavailable

        started = time.monotonic()
        try:
            answer = self.writer.ask(self.params.instruction, [jpeg for _, jpeg in frames])
        except WriterUnavailable as error:
            return str(error)
        return {
            "text": answer.text,
            "tokens_in": answer.tokens_in,
            "tokens_out": answer.tokens_out,
            "attempts": answer.attempts,
            "seconds": time.monotonic() - started,
        }


def _writer(params: CaptionParams) -> Writer:
    if params.endpoint is not None:
        return params.endpoint.open()
    from models.captioners.local import LocalWriter
    from models.subjects.weights import Weights

    assert params.local is not None
    weights = Weights(params.local.weights, params.local.revision, params.local.sha256)
    device = "cuda" if params.local.gpus else "cpu"
    return LocalWriter(weights, device=device, max_tokens=params.local.max_tokens)
