"""The card that lies beside the exported clips: what is in the set, where the rest went, licences, what each column means."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc


def dataset_card(subset: pa.Table, selection: pa.Table, dedupe: pa.Table, fates: pa.ChunkedArray, failed: int) -> str:
    """Markdown for the exported ``subset``. ``fates``: the review's status of every clip that rules and dedupe kept."""
    seconds = pc.sum(pc.subtract(subset.column("end_s"), subset.column("start_s"))).as_py() or 0.0
    size = pc.sum(subset.column("media_bytes")).as_py() or 0
    captioned = subset.num_rows - subset.column("caption").null_count
    sources = len(pc.unique(subset.column("video_id")))
    lines = [
        "# Curated clips",
        "",
        f"{subset.num_rows} clips from {sources} source videos, {seconds / 3600:.3f} hours, {size / 1e6:.1f} MB; "
        f"{captioned} have a caption. Each file is `<clip_id>` of the table `subset`, cut at exact frames, encoded once, "
        "without sound.",
        "",
        "## Where the clips went",
        "",
        "| step | clips | left |",
        "|---|---:|---:|",
        f"| shots found | | {selection.num_rows} |",
    ]
    left = selection.num_rows
    for name, count in _counts(selection.column("first_failing_rule")):
        left -= count
        lines.append(f"| rule `{name}` | -{count} | {left} |")
    copies = dedupe.filter(pc.invert(dedupe.column("kept")))
    for name, count in _counts(copies.column("kind")):
        left -= count
        lines.append(f"| {name} copies | -{count} | {left} |")
    statuses = Counter(fates.to_pylist())
    for status, text in (("rejected", "rejected by reviewers"), ("in_review", "still in review")):
        if statuses[status]:
            left -= statuses[status]
            lines.append(f"| {text} | -{statuses[status]} | {left} |")
    if failed:
        left -= failed
        lines.append(f"| could not be encoded | -{failed} | {left} |")
    lines += ["", "## Licences", "", "| licence of the source | clips |", "|---|---:|"]
    licences = Counter(licence or "not stated" for licence in subset.column("licence").to_pylist())
    lines += [f"| {_cell(licence)} | {count} |" for licence, count in sorted(licences.items())]
    lines += ["", "## Columns of `subset`", "", "| column | unit | meaning |", "|---|---|---|"]
    for field in subset.schema:
        metadata = field.metadata or {}
        meaning = metadata.get(b"doc", b"").decode()
        if b"encoder" in metadata:
            meaning += f" (encoder: {metadata[b'encoder'].decode()})"
        lines.append(f"| `{field.name}` | {metadata.get(b'unit', b'').decode()} | {_cell(meaning)} |")
    return "\n".join(lines) + "\n"


def _counts(column: pa.ChunkedArray) -> list[tuple[str, int]]:
    """Values with their counts, the most frequent first, nulls left out."""
    counted = column.drop_null().value_counts().to_pylist()
    return sorted(((entry["values"], entry["counts"]) for entry in counted), key=lambda item: (-item[1], item[0]))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
