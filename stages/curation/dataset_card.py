"""The card that lies beside the exported clips: what is in the set, where the rest went, licences, how it was made, each column.

Its front matter is what dataset hubs read; the rest is for people.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import yaml

from stages.contract import Context
from stages.curation.road import road
from stages.curation.rules import Rule

CARD = "README.md"

# Licences by the names that hubs know, as https://huggingface.co/docs/hub/repositories-licenses lists them.
_LICENCES = (
    "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0",
    "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0",
    "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "pddl", "odc-by", "odbl", "unlicense",
)  # fmt: skip
_SHORT_SIDES = (240, 360, 480, 720, 1080, 2160)
_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)


@dataclass(frozen=True)
class Made:
    """How the set was made: the encoder's settings, the rules in force, the digest of the metadata, the shards that were written."""

    encoding: Mapping[str, Any]
    rules: Sequence[Rule]
    metadata_sha256: str
    shards: Sequence[str]


class _Tables:
    """The tables that led here, for the account of what was lost on the way."""

    def __init__(self, ctx: Context) -> None:
        self.ctx = ctx

    def has(self, name: str) -> bool:
        return name in ("videos", "clips", "selection", "dedupe", "balance", "verdicts") and self.ctx.has(name)

    def dataset(self, name: str) -> pads.Dataset:
        return self.ctx.dataset(name)


def dataset_card(ctx: Context, subset: pa.Table, made: Made, failed: int) -> str:
    """Markdown with YAML front matter for the exported ``subset``; ``failed`` clips were accepted and could not be encoded."""
    licences = Counter(licence or "not stated" for licence in subset.column("licence").to_pylist())
    parts = [
        _front_matter(subset, licences, made),
        "# Curated clips\n",
        _summary(subset, made),
        "## Where the footage went\n",
        _funnel(ctx, subset, failed),
        "## Licences\n",
        _table(("licence of the source", "clips"), sorted(licences.items())),
        "## Resolutions\n",
        _table(("short side in pixels", "clips"), _resolutions(subset)),
        "## How it was made\n",
        _how(made),
        "## Use\n",
        _use(made),
        "## Columns\n",
        _table(("column", "type", "unit", "meaning"), _columns(subset.schema)),
    ]
    return "\n".join(parts)


def _front_matter(subset: pa.Table, licences: Mapping[str, int], made: Made) -> str:
    known = {_hub_licence(licence) for licence in licences}
    only = next(iter(known)) if len(known) == 1 else None
    told: dict[str, Any] = {"pretty_name": "Curated clips", "license": only or "other"}
    if only is None:
        told["license_name"] = "per-clip"  # each row says its own
        told["license_link"] = f"{CARD}#licences"
    told["task_categories"] = ["text-to-video"]
    told["tags"] = ["video"]
    told["size_categories"] = [next((name for most, name in _SIZES if subset.num_rows < most), "10M<n<100M")]
    told["configs"] = [
        {"config_name": "clips", "default": True, "data_files": [{"split": "train", "path": "metadata.parquet"}]}
    ]
    if made.shards:
        told["configs"].append(
            {"config_name": "webdataset", "data_files": [{"split": "train", "path": "shards/*.tar"}]}
        )
    return f"---\n{yaml.safe_dump(told, sort_keys=False, allow_unicode=True)}---\n"


def _hub_licence(licence: str) -> str | None:
    def plain(text: str) -> str:
        return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")

    return next((name for name in _LICENCES if plain(name) == plain(licence)), None)


def _summary(subset: pa.Table, made: Made) -> str:
    seconds = pc.sum(pc.subtract(subset.column("end_s"), subset.column("start_s"))).as_py() or 0.0
    size = pc.sum(subset.column("media_bytes")).as_py() or 0
    captioned = subset.num_rows - subset.column("caption").null_count
    with_sound = pc.sum(subset.column("sound")).as_py() or 0
    sound = f"{with_sound} with sound" if made.encoding["audio"] == "keep" else "without sound"
    return (
        f"{subset.num_rows} clips from {len(pc.unique(subset.column('video_id')))} source videos, {_hours(seconds / 3600)} hours, "
        f"{size / 1e6:.1f} MB; {captioned} have a caption, {sound}. Each file is one row of `metadata.parquet` "
        "(`file_name`), cut at exact frames and encoded once.\n"
    )


def _funnel(ctx: Context, subset: pa.Table, failed: int) -> str:
    """Clips and hours left after each step, by the same account as the run's report."""
    rows: list[tuple[object, ...]] = []
    left = 0
    for level in road(_Tables(ctx)):
        if level.unit != "clips":
            rows.append((level.name, "", "", level.records, _hours(level.hours)))
            continue
        for loss in level.losses:
            rows.append((loss.reason, -loss.records, f"-{_hours(loss.hours)}" if loss.hours else "", "", ""))
        # who accepted them, people or a script, is not known here
        name = "accepted in review" if level.name.startswith("accepted by") else level.name
        rows.append((f"**{name}**", "", "", level.records, _hours(level.hours)))
        left = level.records
    waiting = left - failed - subset.num_rows
    if failed:
        rows.append(("damaged, or could not be encoded", -failed, "", "", ""))
    if waiting:
        rows.append(("still in review", -waiting, "", "", ""))
    seconds = pc.sum(pc.subtract(subset.column("end_s"), subset.column("start_s"))).as_py() or 0.0
    rows.append(("**exported**", "", "", subset.num_rows, _hours(seconds / 3600)))
    return _table(("step", "clips lost", "hours lost", "left", "hours left"), rows)


def _hours(hours: float | None) -> str:
    """Three figures, however little it is: a small set must not read as nothing."""
    return f"{hours or 0:.3g}" if (hours or 0) < 1000 else f"{hours:,.0f}"


def _resolutions(subset: pa.Table) -> list[tuple[str, int]]:
    short = pc.min_element_wise(subset.column("width"), subset.column("height")).to_pylist()
    bounds = (0, *_SHORT_SIDES)
    counted = Counter(max(bound for bound in bounds if bound <= side) for side in short)
    ends = dict(zip(bounds, _SHORT_SIDES, strict=False))
    return [
        (f"{low} to {ends[low] - 1}" if low in ends else f"{low} and more", counted[low]) for low in sorted(counted)
    ]


def _how(made: Made) -> str:
    settings = ", ".join(f"{name} {value}" for name, value in made.encoding.items() if value is not None)
    lines = [f"Encoding: {settings}. Null settings are the codec's defaults in this project.", ""]
    if made.rules:
        lines += ["Rules in force, in order; a clip is left out by the first that it fails:", ""]
        stated = ((f"`{rule.name}`", _stated(rule), rule.missing) for rule in made.rules)
        lines.append(_table(("rule", "keeps clips where", "score missing"), stated))
    lines += [
        f"Digest (sha256) of `metadata.parquet`: `{made.metadata_sha256}`. `SHA256SUMS` has that of every file: check a copy with "
        "`sha256sum -c SHA256SUMS`.",
        "",
    ]
    return "\n".join(lines)


def _stated(rule: Rule) -> str:
    parts = []
    if rule.min is not None:
        parts.append(f"{rule.column} >= {rule.min:g}")
    if rule.max is not None:
        parts.append(f"{rule.column} <= {rule.max:g}")
    if rule.quantile is not None:
        low, high = rule.quantile.lower or 0, 1 if rule.quantile.upper is None else rule.quantile.upper
        parts.append(f"{rule.column} is between its quantiles {low:g} and {high:g}")
    if rule.where is not None:
        parts.append(rule.where)
    return " and ".join(parts)


def _use(made: Made) -> str:
    lines = [
        "```python",
        'datasets.load_dataset("path/of/this/folder")["train"]  # one row a clip; file_name is relative to the folder',
        "duckdb.sql(\"SELECT file_name, caption FROM 'metadata.parquet'\")",
    ]
    if made.shards:
        lines.append(f'webdataset.WebDataset("shards/clips-{{000000..{len(made.shards) - 1:06d}}}.tar")')
    return "\n".join([*lines, "```", ""])


def _columns(schema: pa.Schema) -> list[tuple[str, str, str, str]]:
    rows = []
    for field in schema:
        metadata = field.metadata or {}
        meaning = metadata.get(b"doc", b"").decode()
        if b"encoder" in metadata:
            meaning += f" (encoder: {metadata[b'encoder'].decode()})"
        rows.append((f"`{field.name}`", str(field.type), metadata.get(b"unit", b"").decode(), meaning))
    return rows


def _table(head: Sequence[str], rows: Any) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(_cell(str(value)) for value in row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
