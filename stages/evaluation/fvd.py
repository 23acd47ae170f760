"""FVD as an option of ``evaluate``: features of every video once, then one distance per system."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stages.contract import Context, Group, StageError
from stages.evaluation.folders import videos_in
from stages.evaluation.params import FvdParams
from stages.work import Item, content_key, run_items

KEY = "fvd"


class Features:
    """``features(path)`` gives ``{"vector": float32 bytes}`` of one video."""

    def __init__(self, encoder: str) -> None:
        from models.metrics.plugins import plugin_class

        self.encoder = plugin_class(encoder, "video_encoder")()

    def __call__(self, path: str) -> Mapping[str, Any]:
        from models.subjects.frames import clip_frames, frames_per_second

        video, times = clip_frames(path)
        vector = np.asarray(self.encoder.encode(video, frames_per_second(times)), np.float32)
        if vector.ndim != 1 or not np.isfinite(vector).all():
            raise ValueError(f"encoder {self.encoder.name} gave {vector.shape}, not a finite vector")
        return {"vector": vector.tobytes()}


def distances(
    ctx: Context, params: FvdParams, samples: Sequence[Mapping[str, Any]], items: Mapping[str, Item]
) -> list[dict[str, object]]:
    """A row of METRICS per system. ``items`` are the samples' videos by record_id; a system with under two has no value."""
    from models.metrics.frechet import caveats, frechet_distance
    from models.metrics.plugins import plugin_class

    name = plugin_class(params.encoder, "video_encoder").name
    found = {f"real/{key}": path for key, path in videos_in(Path(params.real), "real").items()}
    real = [Item(content_key(path.read_bytes()), key, str(path)) for key, path in found.items()]
    made = [Item(content_key(Path(i.payload.video).read_bytes()), i.record_id, i.payload.video) for i in items.values()]
    group = Group("features", ctx.recipe("features", "1", {"encoder": f"{params.encoder} {name}"}))
    work = run_items(
        ctx, group=group, items=[*real, *made], make=Features, init={"encoder": params.encoder}, unit="videos"
    )
    done = [i.record_id for i in (*real, *made) if i.record_id not in work.failed]
    vectors = {r["record_id"]: np.frombuffer(r["vector"], np.float32).astype(np.float64) for r in work.rows(ctx, done)}
    true = [vectors[i.record_id] for i in real if i.record_id in vectors]
    if len(true) < 2:
        raise StageError(
            f"evaluate.fvd.real: {len(true)} of {len(real)} videos of {params.real} could be encoded; two are needed"
        )
    told = {"metric": f"{KEY}/1", "models": {"encoder": name}, "recipe": group.recipe}
    source = json.dumps({**told, "samples": ctx.digest("samples")[0]}, sort_keys=True)
    rows: list[dict[str, object]] = []
    for system in dict.fromkeys(s["system"] for s in samples):
        mine = [s["record_id"] for s in samples if s["system"] == system]
        seen = [vectors[i] for i in mine if i in vectors]
        value = frechet_distance(np.stack(seen), np.stack(true)) if len(seen) > 1 else None
        note = caveats(name, len(seen), len(true), len(true[0])) if value is not None else "fewer than two videos"
        row = {"system": system, "metric": KEY, "value": value, "n": len(seen), "coverage": len(seen) / len(mine)}
        rows.append({**row, "low": None, "high": None, "better": "lower", "note": note, "source": source})
    return rows
