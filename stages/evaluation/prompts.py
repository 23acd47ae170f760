"""Prompt by prompt: the videos of all systems beside the reference, every number of every prompt, and what failed."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.contract import Context, StageError
from stages.evaluation import media
from stages.evaluation.curated import prompt_parts, spread
from stages.evaluation.standing import ARROWS, described
from stages.evaluation.systems import in_road_order, title_of
from stages.subjects.locate import in_folder, read_uri

COLUMNS = [
    "system", "prompt_id", "seed", "prompt", "uri", "reference_uri", "reference_uris", "status", "error_type",
    "error_message",
]  # fmt: skip
LONGEST = 1000  # prompts of the drill-down
FAILED_SHOWN = 200


def read_samples(ctx: Context) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = ctx.dataset("samples").to_table(columns=COLUMNS).to_pylist()
    return rows


def side_by_side(ctx: Context, rows: Sequence[Mapping[str, Any]], count: int) -> tuple[list[str], list[dict[str, Any]]]:
    """Systems in order, and for a spread of prompts the references and each system's first video with its numbers."""
    systems = in_road_order(r["system"] for r in rows)
    folder = ctx.path("sample_videos") if ctx.has("sample_videos") else None
    numbers = _numbers(ctx)
    shown = []
    for prompt_id in spread(sorted({r["prompt_id"] for r in rows}), count):
        mine = [r for r in rows if r["prompt_id"] == prompt_id]
        first = min(r["seed"] for r in mine)
        cells = []
        for system in systems:
            row = next((r for r in mine if r["system"] == system and r["seed"] == first), None)
            values = json.dumps(numbers.get((system, prompt_id, first), {}))
            cells.append({**_cell(row, folder), "values": values})
        uris = next((r["reference_uris"] or [r["reference_uri"]] for r in mine if r["reference_uri"]), [])
        shown.append(
            {
                "prompt_id": prompt_id,
                "parts": prompt_parts(mine[0]["prompt"]),
                "seeds": len({r["seed"] for r in mine}),
                "references": [picture for uri in uris if (picture := _reference(uri, folder)) is not None],
                "cells": cells,
            }
        )
    return systems, shown


def _numbers(ctx: Context) -> dict[tuple[str, str, int], dict[str, float]]:
    found: dict[tuple[str, str, int], dict[str, float]] = defaultdict(dict)
    if ctx.has("measurements"):
        columns = ["system", "prompt_id", "seed", "metric", "value"]
        for row in ctx.dataset("measurements").to_table(columns=columns).to_pylist():
            if row["value"] is not None:
                found[row["system"], row["prompt_id"], row["seed"]][row["metric"]] = round(row["value"], 4)
    return found


def _cell(row: Mapping[str, Any] | None, folder: Path | None) -> dict[str, Any]:
    if row is None:
        return {"missing": "not asked for"}
    if row["status"] != "ok" or not row["uri"]:
        return {"missing": f"failed: {row['error_message'] or 'no reason given'}"}
    if folder is None:
        return {"missing": "videos not wired"}
    try:
        video = media.webm(in_folder(folder, row["uri"]))
    except StageError as error:
        return {"missing": str(error)}
    return {"video": video, "fps": media.frame_rate(video)} if video else {"missing": "cannot be read"}


def _reference(uri: str, folder: Path | None) -> str | None:
    try:
        data = in_folder(folder, uri).read_bytes() if folder else read_uri(uri)
    except (StageError, OSError):
        try:
            data = read_uri(uri)
        except OSError:
            return None
    return media.thumbnail(data, "reference", 320)


def drill_down(ctx: Context, rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> dict[str, Any] | None:
    """For the page's script: per metric, prompt and system the mean over seeds, null where nothing was measured.

    None without measurements. At most ``LONGEST`` prompts, the first by name; ``left_out`` counts the others.
    """
    if not ctx.has("measurements"):
        return None
    systems = in_road_order(r["system"] for r in rows)
    texts = {r["prompt_id"]: r["prompt"] for r in rows}
    prompts = sorted(texts)[:LONGEST]
    values: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    columns = ["system", "prompt_id", "metric", "value"]
    better = {}
    for row in ctx.dataset("measurements").to_table(columns=columns).to_pylist():
        if row["value"] is not None:
            values[row["metric"], row["prompt_id"], row["system"]].append(row["value"])
    if ctx.has("metrics"):
        better = {
            r["metric"]: r["better"] for r in ctx.dataset("metrics").to_table(columns=["metric", "better"]).to_pylist()
        }
    measured = [key for key in keys if any((key, p, s) in values for p in prompts for s in systems)]

    def mean(key: str, prompt: str, system: str) -> float | None:
        found = values.get((key, prompt, system))
        return None if not found else round(sum(found) / len(found), 4)

    return {
        "systems": [title_of(s) for s in systems],
        "prompts": [{"id": p, "text": _short(texts[p])} for p in prompts],
        "left_out": len(texts) - len(prompts),
        "metrics": [{"key": k, "title": described(k)[0], "arrow": ARROWS.get(better.get(k, ""), "")} for k in measured],
        "values": {k: [[mean(k, p, s) for s in systems] for p in prompts] for k in measured},
    }


def _short(prompt: str) -> str:
    from models.subjects.prompts import plain

    text = plain(prompt)
    return text if len(text) <= 140 else text[:137] + "…"


def failures(ctx: Context, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per system with failures: how many of how many videos are missing, and which and why, those that measuring lost included."""
    why = {(r["system"], r["prompt_id"], r["seed"]): _reason(r) for r in rows if r["status"] != "ok" or not r["uri"]}
    if ctx.has("measurements"):
        columns = ["system", "prompt_id", "seed", "missing", "value"]
        lost: dict[tuple[str, str, int], list[str | None]] = defaultdict(list)
        for row in ctx.dataset("measurements").to_table(columns=columns).to_pylist():
            lost[row["system"], row["prompt_id"], row["seed"]].append(
                None if row["value"] is not None else row["missing"]
            )
        why |= {key: str(reasons[0]) for key, reasons in lost.items() if all(reasons) and key not in why}
    found = []
    for system in in_road_order(r["system"] for r in rows):
        mine = [(prompt, seed, reason) for (name, prompt, seed), reason in sorted(why.items()) if name == system]
        if mine:
            asked = sum(r["system"] == system for r in rows)
            found.append(
                {
                    "system": title_of(system),
                    "count": len(mine),
                    "asked": asked,
                    "rows": [{"prompt": p, "seed": s, "reason": r} for p, s, r in mine[:FAILED_SHOWN]],
                    "more": max(0, len(mine) - FAILED_SHOWN),
                }
            )
    return found


def _reason(row: Mapping[str, Any]) -> str:
    return ": ".join(str(part) for part in (row["error_type"], row["error_message"]) if part) or "no reason given"
