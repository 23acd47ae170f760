"""What people said, as tables of the report: preferences, ratings, and each metric's agreement with them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from models.statistics.resample import Estimate
from stages.contract import Context, StageError
from stages.evaluation.people import Agreement, Said, read_decisions, said
from stages.evaluation.systems import title_of


def exports_digest(exports: Sequence[str]) -> str:
    """sha256 over the answers of all exports; ``ValueError`` names one that holds none."""
    digest = hashlib.sha256()
    for folder in exports:
        path = Path(folder).expanduser() / "decisions.parquet"
        if not path.is_file():
            raise ValueError(
                f"people: {path} is missing. Write it: fulcrum review export CAMPAIGN {folder} --format parquet"
            )
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def people_section(ctx: Context, exports: Sequence[str]) -> dict[str, Any] | None:
    """How many people answered, and their tables. ``StageError`` where no answer is about this report's samples."""
    if not exports:
        return None
    if not (ctx.has("samples") and ctx.has("measurements")):
        raise StageError("report.people needs the samples that people were asked about; this pipeline evaluates none")
    decisions = [row for folder in exports for row in read_decisions(Path(folder).expanduser())]
    found = said(decisions, ctx.table("samples").to_pylist(), ctx.table("measurements").to_pylist())
    if not found.preferences and not found.ratings:
        raise StageError(f"none of the {len(decisions)} answers in {', '.join(exports)} is about these samples")
    return {"people": found.people, "unknown": found.unknown, "tables": [t for t in tables(found) if t["rows"]]}


def tables(found: Said) -> list[Mapping[str, Any]]:
    """Title, lead, columns and rows of text of each table."""
    return [
        {
            "title": "Preferences",
            "lead": "GSB = (good − bad) / (good + same + bad), good where the first system's video is better; intervals "
            "drawn by prompt, as are the test's signs.",
            "columns": ["first", "against", "good", "same", "bad", "both bad", "GSB", "sign-flip p"],
            "rows": [
                [
                    *(title_of(p.a), title_of(p.b)),
                    *map(str, (p.good, p.same, p.bad, p.both_bad)),
                    *(interval(p.gsb), f"{p.p:.3f}"),
                ]
                for p in found.preferences
            ],
        },
        {
            "title": "Ratings",
            "lead": "Means of 1 to 5, and how often each was given.",
            "columns": ["system", "dimension", "mean", *"12345"],
            "rows": [
                [title_of(r.system), r.dimension, interval(r.mean, 2), *map(str, r.counts)] for r in found.ratings
            ],
        },
        {
            "title": "Metrics and people",
            "lead": "Spearman's rank correlation of each metric with what people said of the same videos; of a metric that is "
            "better lower (↓) a negative one is agreement.",
            "columns": ["metric", "with people's", "rho", "videos or pairs"],
            "rows": [
                [pointed(a.metric), a.question, interval(a.rho, 2), f"{a.rho.answers:,}"]
                for a in ranked(found.agreement)
            ],
        },
    ]


def ranked(agreement: Sequence[Agreement]) -> list[Agreement]:
    """By question, the strongest rho first; metrics whose rho cannot be told come last and are not left out."""
    return sorted(agreement, key=lambda a: (a.question, a.rho.value is None, -(a.rho.value or 0.0)))


def pointed(metric: str) -> str:
    """The metric with an arrow where lower is better."""
    from models.metrics.catalogue import METRICS

    return f"{metric} ↓" if metric in METRICS and METRICS[metric].better == "lower" else metric


def interval(found: Estimate, digits: int = 3) -> str:
    if found.value is None:
        return "–"
    ends = "" if found.low is None or found.high is None else f" [{found.low:.{digits}f}, {found.high:.{digits}f}]"
    return f"{found.value:.{digits}f}{ends}"
