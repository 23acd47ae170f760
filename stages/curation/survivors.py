"""Which clips reached the end of curation, where each stands, and all that is known of those that go on; joined by DuckDB.

At ten million clips no Python object stands for a clip that did not survive.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.dataset as pads

from stages.contract import Context
from stages.curation.joins import join_stream, quoted

REACHED = pa.schema(
    [("clip_id", pa.string()), ("video_id", pa.string()), ("status", pa.string()), ("reason", pa.string())]
)

_SELECTED = """
    FROM selection JOIN survivors USING (clip_id) JOIN clips USING (clip_id) {verdicts}
    WHERE selection.kept AND survivors.kept
"""
# With a review, people accept; without, a clip goes on unless a rule asked for a person.
_BY_PEOPLE = """
    CASE verdict WHEN 'accept' THEN 'accepted' WHEN 'reject' THEN 'rejected' ELSE 'in_review' END AS status,
    CASE WHEN verdict = 'reject' AND len(reasons) > 0 THEN 'review: ' || array_to_string(reasons, ', ')
         WHEN verdict = 'reject' THEN 'review' END AS reason
"""
_BY_RULES = "if(selection.review, 'in_review', 'accepted') AS status, NULL::VARCHAR AS reason"


def _tables(ctx: Context) -> dict[str, pads.Dataset | pa.Table]:
    tables: dict[str, pads.Dataset | pa.Table] = {
        "selection": ctx.dataset("selection"),
        "survivors": ctx.dataset("balance" if ctx.has("balance") else "dedupe"),
        "clips": ctx.dataset("clips"),
    }
    if ctx.has("verdicts"):
        tables["verdicts"] = ctx.dataset("verdicts")
    return tables


def reached(ctx: Context) -> pa.Table:
    """Clips that rules, deduplication and quotas kept, sorted: where each stands after the review, and the reviewers' reason."""
    people = ctx.has("verdicts")
    source = _SELECTED.format(verdicts="LEFT JOIN verdicts ON external_id = clip_id" if people else "")
    sql = f"SELECT clip_id, clips.video_id, {_BY_PEOPLE if people else _BY_RULES} {source}"
    return pa.concat_tables(join_stream(sql, _tables(ctx), REACHED)).sort_by("clip_id")


def details(ctx: Context, accepted: pa.Table) -> Iterator[pa.Table]:
    """All columns of these clips (column ``clip_id``), with what their video and caption add, in no order.

    Added are ``caption``, ``licence``, ``extra``, ``source_path``, ``sha256``, ``source_bytes`` and ``source_mtime_ns``.
    """
    clips = ctx.dataset("clips")
    added = {
        "caption": ("captions.caption", pa.string()),
        "licence": ("videos.licence", pa.string()),
        "extra": ("videos.extra", pa.string()),
        "source_path": ("videos.path", pa.string()),
        "sha256": ("videos.sha256", pa.string()),
        "source_bytes": ("videos.bytes", pa.int64()),
        "source_mtime_ns": ("videos.mtime_ns", pa.int64()),
    }
    own = [field for field in clips.schema if field.name not in added]
    columns = [f"clips.{quoted(field.name)}" for field in own] + [
        f"{sql} AS {name}" for name, (sql, _) in added.items()
    ]
    sql = (
        f"SELECT {', '.join(columns)} FROM clips SEMI JOIN accepted USING (clip_id) "
        "LEFT JOIN videos ON videos.video_id = clips.video_id LEFT JOIN captions ON captions.clip_id = clips.clip_id"
    )
    like = pa.schema([*own, *(pa.field(name, kind) for name, (_, kind) in added.items())])
    tables = {name: ctx.dataset(name) for name in ("clips", "videos", "captions")}
    yield from join_stream(sql, {**tables, "accepted": accepted.select(["clip_id"])}, like)
