"""The switching road on one CPU, without Ray: footage goes in, an adapter, its samples and their numbers come out."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.dataset as pads
import pytest

from tests.pipelines.command import INLINE, SCRIPTED, fulcrum, outputs

TINY = (
    "--set", "shared.engine=inline", "--set", "switching.steps=6", "--set", "switching.batch=2", "--set", "switching.image_batch=2",
    "--set", "switching.checkpoint_every=3", "--set", "switching.gradients_every=3", "--set", "switching.warmup=0",
    "--set", "switching.video_probability=0.5", "--set", "switching.lora.rank=2", "--set", "switching.held_out_parts=2",
    "--set", "sample.sampling.steps=2", "--set", "sample.prompts=1", "--set", "sample.seeds=1", "--set", "disentangle.frames=1",
    "--set", "pairs.held_out=0.5", "--set", 'encode.buckets=["1x32x32","9x32x32"]', "--set", "encode.views=1",
    "--set", "subjects.min_side_px=40",
)  # fmt: skip


@pytest.mark.timeout(280)
def test_disentangled_trains_on_both_kinds_and_is_evaluated(tmp_path: Path) -> None:
    world, store = tmp_path / "world", tmp_path / "store"
    assert fulcrum("world", "render", "--seed", "5", "--count", "8", "--out", world).code == 0
    # These models are too small for a second thread, which only waits where the cores are busy.
    command = ("run", "disentangled", "--source", world, "--store", store, "--json", *INLINE, *SCRIPTED, *TINY)
    done = fulcrum(*command, OMP_NUM_THREADS="1")
    assert done.code == 0, done.out[-3000:] + done.err[-2000:]
    found = outputs(store)
    log = [json.loads(line) for line in (found["adapter_switching"] / "log.jsonl").read_text().splitlines()]
    assert [step["step"] for step in log] == [1, 2, 3, 4, 5, 6]
    assert any("image_loss" in step for step in log)
    assert any("video_loss" in step for step in log)
    assert "gradient/cosine" in log[0]
    assert "Agreement of image and video gradients" in (found["adapter_switching"] / "training.html").read_text()
    samples = pads.dataset(found["samples"]).to_table().to_pylist()
    assert {(row["system"], row["status"]) for row in samples} == {("base", "ok"), ("final", "ok")}
    assert set(pads.dataset(found["metrics"]).to_table()["system"].to_pylist()) == {"base", "final"}
