"""Every pair row ends in the cache or in the ledger, and what was encoded once is not encoded again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from data_schemas.tables import PAIRS
from models.training.cache import CacheError, CacheReader
from stages.contract import NotEnoughRows, StageError
from stages.training.encode import EncodeParams, encode
from stages.training.generate import entries_of
from tests.context import LocalContext
from tests.training_stages.conftest import Encoded
from tests.training_stages.footing import BACKBONE, BUCKET, world

PARAMS = EncodeParams(backbone=BACKBONE, buckets=(BUCKET,), views=2)


def events(context: LocalContext, kind: str) -> dict[str, Any]:
    return next(fields for name, fields in context.events if name == kind)


def test_the_cache_holds_latents_views_and_one_text_per_prompt(encoded: Encoded) -> None:
    assert encoded.cache.num_rows == 12
    reader = CacheReader(encoded.latents, entries_of(encoded.cache.to_pylist()))
    # 9 frames of 32x32 through a codec of 4x8x8 with 4 channels: (4, 1 + 8/4, 32/8, 32/8).
    assert reader.latents("in_pair-0").shape == (4, 3, 4, 4)
    views = [reader.references("in_pair-0", [v]) for v in range(3)]
    assert all(v is not None and v.shape == (1, 4, 4, 4) for v in views)
    assert views[0] is not None
    assert views[1] is not None
    assert not torch.equal(views[0], views[1])
    assert len(set(encoded.cache["text_key"].to_pylist())) == 2  # twelve samples, two prompts
    assert torch.equal(reader.text("in_pair-0"), reader.text("cross_pair-2"))
    assert not torch.equal(reader.text("in_pair-0"), reader.null_text)
    assert (encoded.latents / "references" / "in_pair-0.png").exists()
    assert {row["status"] for row in encoded.context.ledger_rows} == {"accepted"}


def test_shards_are_named_by_their_content(encoded: Encoded) -> None:
    for path in encoded.latents.glob("*.safetensors"):
        assert path.stem.endswith(hashlib.sha256(path.read_bytes()).hexdigest()[:24])


def test_the_size_that_was_announced_is_the_size_that_it_has(encoded: Encoded) -> None:
    said = events(encoded.context, "cache_estimate")
    # Latents 4*3*4*4 floats; views 3 of 4*4*4 floats each; the text width is the model's own.
    assert said["latent_bytes"] == 12 * 192 * 4
    assert said["view_bytes"] == 12 * 3 * 64 * 4
    size = sum(p.stat().st_size for p in encoded.latents.glob("*.safetensors"))
    assert said["total_bytes"] == pytest.approx(size, rel=0.1)


def test_a_broken_clip_a_short_clip_and_a_lost_subject_end_in_the_ledger(tmp_path: Path) -> None:
    inputs = world(tmp_path, clips=4)
    media, subset = inputs["media"], inputs["subset"]
    assert isinstance(media, Path)
    assert isinstance(subset, pa.Table)
    (media / "clip0.mp4").write_bytes(b"not a video at all")
    rows = subset.to_pylist()
    rows[1]["frames"] = 3
    inputs["subset"] = pa.Table.from_pylist(rows, schema=subset.schema)
    pairs = inputs["pairs"].to_pylist()  # type: ignore[union-attr]
    pairs[4]["references"][0]["subject_id"] = "gone"
    inputs["pairs"] = PAIRS.table(pairs)
    context = LocalContext(tmp_path, encode, inputs)
    context.run(PARAMS)
    ended = {row["record_id"]: row for row in context.ledger_rows}
    assert len(ended) == 8
    assert ended["in_pair-0"]["status"] == ended["cross_pair-0"]["status"] == "failed"
    assert "not video in a known container" in ended["in_pair-0"]["error_message"]
    assert ended["in_pair-1"]["status"] == "rejected"
    assert ended["in_pair-1"]["reason"] == "too_short: 3 frames, needs 9"
    assert ended["in_pair-2"]["error_message"] == "subjects gone are missing"
    assert sorted(context.outputs["cache"]["sample_id"].to_pylist()) == ["cross_pair-2", "cross_pair-3", "in_pair-3"]


def test_one_more_sample_costs_one_sample_and_the_result_is_the_same(tmp_path: Path) -> None:
    inputs = world(tmp_path, clips=3)
    pairs = inputs["pairs"]
    assert isinstance(pairs, pa.Table)
    first = LocalContext(tmp_path, encode, {**inputs, "pairs": pairs.slice(0, 5)})
    first.run(PARAMS)
    second = LocalContext(tmp_path, encode, inputs)
    second.run(PARAMS)
    assert events(second, "cache_reuse") == {"samples": 6, "reused": 5}
    fresh = LocalContext(tmp_path / "fresh", encode, inputs)
    fresh.run(PARAMS)
    assert second.outputs["cache"].equals(fresh.outputs["cache"])
    assert shards(second.outputs["latents"]) == shards(fresh.outputs["latents"])


def test_other_views_are_other_work_but_prompts_are_kept(tmp_path: Path) -> None:
    inputs = world(tmp_path, clips=2)
    LocalContext(tmp_path, encode, inputs).run(PARAMS)
    again = LocalContext(tmp_path, encode, inputs, seed=1)
    again.run(PARAMS)
    assert events(again, "cache_reuse") == {"samples": 4, "reused": 0}


def test_a_wrong_bucket_says_what_fits(tmp_path: Path) -> None:
    inputs = world(tmp_path, clips=1)
    with pytest.raises(StageError, match="6 frames do not fit"):
        LocalContext(tmp_path, encode, inputs).run(EncodeParams(backbone=BACKBONE, buckets=("6x32x32",)))
    with pytest.raises(StageError, match="gives 8 frames back for 5"):
        LocalContext(tmp_path, encode, inputs).run(EncodeParams(backbone=BACKBONE, buckets=("5x32x32",)))
    with pytest.raises(ValueError, match="is not frames x height x width"):
        EncodeParams(buckets=("5x32",))


def test_no_pairs_is_said_by_name(tmp_path: Path) -> None:
    inputs = {**world(tmp_path, clips=1), "pairs": PAIRS.empty()}
    with pytest.raises(NotEnoughRows, match="needs 1 rows in pairs, has 0"):
        LocalContext(tmp_path, encode, inputs).run(PARAMS)


def test_a_lost_shard_is_named(encoded: Encoded, tmp_path: Path) -> None:
    rows = encoded.cache.filter(pc.equal(encoded.cache["kind"], "in_pair")).to_pylist()
    with pytest.raises(CacheError, match=r"samples-.* is missing"):
        CacheReader(tmp_path, entries_of(rows)).latents("in_pair-0")


def shards(folder: Path) -> dict[str, Any]:
    assert json.loads((folder / "cache.json").read_text())["samples"]
    return {p.name: p.stat().st_size for p in folder.rglob("*") if p.is_file()}
