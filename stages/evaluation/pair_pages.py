"""The pair browser: every training pair and every refused candidate on one page that scrolls through ten thousand of them.

``pairs.html`` opens from disk. What it lists lies beside it in ``pairs/``: an index of all rows (what is sorted and filtered by), their
texts in parts of ``PART`` rows that are fetched when they come into view, and one small picture for each crop and clip.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlparse

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.subjects.protocols import U8
from stages.contract import Context
from stages.evaluation.curated import prompt_parts
from stages.subjects.locate import in_folder

PAGE = Path(__file__).parent / "page"
PART = 100
SIDE = 144  # px of a picture's long side; rows are 132 px high
_PICTURES = 512


def write_browser(ctx: Context, folder: Path, most: int) -> dict[str, int]:
    """Write the page and its files into ``folder``; at most ``most`` pairs and as many refused candidates, evenly spread.

    Returns how many of each there are and how many are shown.
    """
    rows = _kept(ctx, most)
    total = {"pairs": ctx.dataset("pairs").count_rows(), "shown_pairs": len(rows), "refused": 0, "shown_refused": 0}
    said = _by_reviewers(ctx, rows)
    total["pairs"] -= said
    total["shown_pairs"] -= said
    if ctx.has("candidates"):
        refused, total["refused"] = _refused(ctx, most)
        total["shown_refused"] = len(refused)
        rows += refused
    total["refused"] += said
    total["shown_refused"] += said
    parts = folder / "pairs"
    parts.mkdir(exist_ok=True)
    crops = _crops(ctx, {s for r in rows for s in (*r["refs"], *r["also"])}, parts)
    clips = _targets(ctx, {r["clip"] for r in rows}, parts)
    for row in rows:
        row["refs"] = [s if s in crops else "" for s in row["refs"]]
        row["also"] = [s if s in crops else "" for s in row["also"]]
        row |= clips.get(row["clip"], {})
    for number, start in enumerate(range(0, len(rows), PART)):
        _script(parts / f"part-{number:05d}.js", f"pairPart({number}, ", rows[start : start + PART])
    index = {
        "total": total,
        "part": PART,
        "kind": [r["kind"] for r in rows],
        "split": [r["split"] for r in rows],
        "reason": [r["reason"] for r in rows],
        "similarity": [r["similarity"] for r in rows],
        "reasons": dict(Counter(r["reason"] for r in rows if r["reason"])),
    }
    _script(parts / "index.js", "pairIndex(", index)
    html = (PAGE / "pairs.html").read_text(encoding="utf-8")
    for name in ("report.css", "pairs.css", "pairs.js"):
        html = html.replace(f"{{{{ {name} }}}}", (PAGE / name).read_text(encoding="utf-8"))
    (folder / "pairs.html").write_text(html, encoding="utf-8")
    return total


def _script(path: Path, call: str, value: object) -> None:
    # A script and not JSON: a page that was opened from disk may load scripts beside it, but may not fetch.
    path.write_text(f"{call}{json.dumps(value, ensure_ascii=True, separators=(',', ':'))});\n", encoding="ascii")


def _spread(table: pa.Table, most: int) -> pa.Table:
    if len(table) <= most:
        return table
    return table.take(pa.array(np.unique(np.linspace(0, len(table) - 1, most).astype(np.int64))))


def _kept(ctx: Context, most: int) -> list[dict[str, Any]]:
    dataset = ctx.dataset("pairs")
    keys = dataset.to_table(columns=["sample_id", "kind", "similarity"])
    order = [("kind", "ascending"), ("similarity", "descending"), ("sample_id", "ascending")]
    wanted = _spread(keys.sort_by(order), most)["sample_id"].combine_chunks()
    columns = [
        "sample_id",
        "kind",
        "clip_id",
        "prompt",
        "references",
        "similarity",
        "same_source",
        "split",
        "background",
    ]
    stored = [c for c in columns if c in dataset.schema.names]
    found = dataset.to_table(columns=stored, filter=pc.field("sample_id").isin(wanted))
    found = found.take(pc.index_in(wanted, value_set=found["sample_id"].combine_chunks()))
    return [
        {
            "id": r["sample_id"],
            "kind": r["kind"],
            "split": r["split"],
            "reason": "",
            "similarity": r["similarity"],
            "clip": r["clip_id"],
            "refs": [x["subject_id"] for x in r["references"]],
            "also": [],
            "text": [[p["text"], p["ref"], int(p["head"])] for p in prompt_parts(r["prompt"])],
            "why": _why(r),
        }
        for r in found.to_pylist()
    ]


def _by_reviewers(ctx: Context, rows: Sequence[dict[str, Any]]) -> int:
    """Mark the pairs that people did not accept, and count them."""
    if not ctx.has("pair_verdicts"):
        return 0
    said = {v["external_id"]: v for v in ctx.table("pair_verdicts").to_pylist() if v["verdict"] != "accept"}
    marked = 0
    for row in rows:
        verdict = said.get(row["id"])
        if verdict is not None:
            told = ", ".join(verdict["reasons"]) or verdict["verdict"].replace("_", " ")
            row |= {
                "kind": "refused",
                "reason": "refused_by_reviewers",
                "why": f"people said: {told}. It was {row['why']}",
            }
            marked += 1
    return marked


def _why(row: Mapping[str, Any]) -> str:
    """Why a pair was kept, in words."""
    references = row["references"]
    alike = "not compared" if row["similarity"] is None else f"{row['similarity']:.2f} alike"
    if row["kind"] == "in_pair":
        times = ", ".join(f"{x['time_s']:.1f} s" for x in references if x["time_s"] is not None)
        return f"from the clip itself, at {times or 'another frame'}; {alike} to its other crops"
    if row["kind"] != "cross_pair":
        return ""
    origin = "photograph" if all(x["origin"] == "photo" for x in references) else "clip"
    source = f"another {origin} of the same source" if row["same_source"] else f"a {origin} of another source"
    ground = row.get("background")
    return f"{source}; {alike}" + ("" if ground is None else f", backgrounds {ground:.2f} alike")


def _refused(ctx: Context, most: int) -> tuple[list[dict[str, Any]], int]:
    """Refused candidates, as many of each reason as of any other while there are, and how many there are in all."""
    dataset = ctx.dataset("candidates")
    table = dataset.to_table(filter=pc.field("reason").is_valid())
    order = [
        ("reason", "ascending"),
        ("similarity", "descending"),
        ("target_id", "ascending"),
        ("candidate_id", "ascending"),
    ]
    table = table.sort_by(order)
    names = sorted(set(table["reason"].unique().to_pylist()))
    groups = {name: table.filter(pc.equal(table["reason"], name)) for name in names}
    room, chosen = most, []
    for left, name in zip(range(len(groups), 0, -1), sorted(groups, key=lambda n: len(groups[n])), strict=True):
        part = _spread(groups[name], max(1, room // left)) if room > 0 else groups[name].slice(0, 0)
        chosen.append(part)
        room -= len(part)
    rows = pa.concat_tables(chosen).to_pylist() if chosen else []
    found = [
        {
            "id": f"{r['target_id']}>{r['candidate_id']}",
            "kind": "refused",
            "split": "",
            "reason": r["reason"],
            "similarity": r["similarity"],
            "clip": r["clip_id"],
            "refs": [r["candidate_id"]],
            "also": [r["target_id"]],
            "text": [],
            "why": f"place {r['rank'] + 1} among the candidates; {r['similarity']:.2f} alike"
            + ("" if r["background"] is None else f", backgrounds {r['background']:.2f} alike"),
        }
        for r in rows
    ]
    return found, len(table)


def _crops(ctx: Context, wanted: set[str], parts: Path) -> set[str]:
    """Cut-outs on the page's own ground, one file for each crop."""
    from models.subjects.frames import picture

    if not ctx.has("subjects"):
        return set()
    done = set()
    only = pc.field("subject_id").isin(pa.array(sorted(wanted), pa.string()))
    columns = ["subject_id", "crop", "mask"]
    for batch in ctx.dataset("subjects").scanner(columns=columns, filter=only, batch_size=64).to_batches():
        for row in batch.to_pylist():
            crop, mask = picture(row["crop"], row["subject_id"]), picture(row["mask"], row["subject_id"])[..., 0]
            (parts / f"{_name(row['subject_id'])}.jpg").write_bytes(_boxed(crop, mask))
            done.add(row["subject_id"])
    return done


def _boxed(crop: U8, mask: U8) -> bytes:
    """The crop with its background faded, so that both the subject and where it stood are seen."""
    import cv2

    from models.subjects.frames import faded
    from models.subjects.propose import fit

    _, encoded = cv2.imencode(".jpg", fit(faded(crop, mask, 0.25), SIDE)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])
    return bytes(encoded.tobytes())


def _name(identity: str) -> str:
    """A file name: identities are hashes, and others keep only what a file name may hold."""
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in identity)


def _targets(ctx: Context, clip_ids: Iterable[str], parts: Path) -> dict[str, dict[str, str]]:
    """For each clip its middle key frame as a file and the address of its media."""
    wanted = pa.array(sorted(clip_ids), pa.string())
    found: dict[str, dict[str, str]] = {c: {} for c in wanted.to_pylist()}
    only = pc.field("clip_id").isin(wanted)
    if ctx.has("subset") and ctx.has("media"):
        here = urlparse(ctx.final_uri("report"))
        for row in ctx.dataset("subset").to_table(columns=["clip_id", "media_uri"], filter=only).to_pylist():
            if here.scheme in (
                "",
                "file",
            ):  # from the page to the clip within one store, so that the store can be moved
                path = in_folder(ctx.path("media"), row["media_uri"])
                found[row["clip_id"]]["video"] = quote(os.path.relpath(path, here.path))
    if ctx.has("keyframes"):
        _posters(ctx, wanted, found, parts)
    return found


def _posters(ctx: Context, wanted: pa.Array, found: dict[str, dict[str, str]], parts: Path) -> None:
    import base64

    from stages.evaluation.thresholds import thumbnails

    ids: Sequence[str] = wanted.to_pylist()
    for start in range(0, len(ids), _PICTURES):
        for clip_id, src in thumbnails(ctx, ids[start : start + _PICTURES], SIDE).items():
            name = f"clip-{_name(clip_id)}.jpg"
            (parts / name).write_bytes(base64.b64decode(src.split(",", 1)[1]))
            found[clip_id]["poster"] = name
