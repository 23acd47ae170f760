"""The sweep of RoPE offsets: what it measures, what it chooses and what it shows."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stages.training.offsets import SweepOffsetsParams, choose, scene_kept, summarise, sweep_offsets
from tests.context import LocalContext
from tests.training_stages.conftest import Encoded, Road
from tests.training_stages.footing import BACKBONE, SAMPLING

torch.set_num_threads(1)


def video(value: int) -> np.ndarray:
    return np.full((3, 8, 8, 3), value, np.uint8)


def test_the_scene_is_judged_outside_the_subject_against_another_noise() -> None:
    winner, outside = video(100), np.ones((3, 8, 8), bool)
    outside[:, :4] = False
    assert scene_kept(winner, winner, video(200), outside) == 1.0
    assert scene_kept(winner, video(150), video(200), outside) == 0.5
    assert scene_kept(winner, video(200), video(200), outside) == 0.0
    changed = winner.copy()
    changed[:, :4] = 0  # the subject alone
    assert scene_kept(winner, changed, video(200), outside) == 1.0
    assert scene_kept(winner, changed, winner, outside) == 0.0  # nothing to compare with


def measured(identity: float, *pairs: tuple[float | None, float]) -> dict[str, Any]:
    return {"identity": identity, "offsets": [{"identity": i, "scene": s} for i, s in pairs]}


def test_the_offset_that_keeps_most_of_the_scene_is_chosen_among_those_that_lose_the_subject() -> None:
    params = SweepOffsetsParams(offsets=((0, 1, 1), (0, 4, 4), (0, 9, 9), (0, 20, 20)), min_identity_drop=0.1)
    found = [
        measured(0.9, (0.88, 0.99), (0.7, 0.8), (0.5, 0.6), (0.1, 0.2)),
        measured(0.8, (0.80, 0.97), (0.7, 0.7), (0.4, 0.6), (0.1, 0.1)),
        measured(0.8, (0.80, 0.98), (0.7, 0.9), (None, 0.6), (0.1, 0.3)),
    ]
    points = summarise(params.offsets, found)
    # Drops: 0.02/0/0, then 0.2/0.1/0.1, then 0.4/0.4 and one that cannot be told.
    assert points[1]["identity_drop"] == pytest.approx(0.4 / 3)
    assert (points[2]["identity_drop"], points[2]["measured"]) == (pytest.approx(0.4), 2)
    assert points[0]["share"] == pytest.approx(1 / 3)
    best = choose(points, params)
    assert best is not None
    assert best["offset"] == [0, 4, 4]  # the first loses too little, the last keeps too little
    assert choose(points[:1], params) is None


def test_a_sweep_on_a_model_leaves_numbers_and_a_contact_sheet(tmp_path: Path, encoded: Encoded, road: Road) -> None:
    inputs = {"cache": encoded.cache, "latents": encoded.latents, "adapter": road.adapters["cross_pair"]}
    params = SweepOffsetsParams(backbone=BACKBONE, sampling=SAMPLING, offsets=((0, 0, 0), (0, 3, 3)), samples=2)
    context = LocalContext(tmp_path, sweep_offsets, inputs)
    context.run(params)
    folder = context.outputs["sweep"]
    note = json.loads((folder / "offsets.json").read_text())
    nothing, shifted = note["points"]
    # No offset is the winner itself, bit for bit: nothing is lost and all is kept.
    assert (nothing["identity_drop"], nothing["scene_kept"]) == (0.0, 1.0)
    assert shifted["scene_kept"] < 1.0
    sheet = Image.open(io.BytesIO((folder / "sheet.png").read_bytes()))
    assert (sheet.width // 4, (sheet.height - 44) // 2 - 4) == (128, 128)  # four columns, two rows of 32 px times 4
    again = LocalContext(tmp_path, sweep_offsets, inputs)
    again.run(params.model_copy(update={"min_scene_kept": 0.9, "samples": 3}))
    assert len(json.loads((again.outputs["sweep"] / "offsets.json").read_text())["samples"]) == 3
    assert again.kept_ledger.tables
