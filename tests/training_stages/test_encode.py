"""Every pair row ends in the cache or in the ledger, and what was encoded once is not encoded again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from safetensors import safe_open

from data_schemas.tables import PAIRS, SUBSET
from models.backbones.load import BackboneSpec, load_backbone
from models.training.cache import CacheError, CacheReader
from models.training.views import fit_video, video_to_unit
from stages.contract import NotEnoughRows, StageError
from stages.training.encode import EncodeParams, encode
from stages.training.generate import entries_of
from stages.training.media import decode_frames
from stages.training.params import BackboneParams
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
    # Latents 4*3*4*4 floats for each of six clips, which show two samples each; views 3 of 4*4*4 floats each.
    assert said["clips"] == 6
    assert said["latent_bytes"] == 6 * 192 * 4
    assert said["view_bytes"] == 12 * 3 * 64 * 4
    size = sum(p.stat().st_size for p in encoded.latents.glob("*.safetensors"))
    assert said["total_bytes"] == pytest.approx(size, rel=0.1)


def test_samples_of_one_clip_share_its_latents(encoded: Encoded) -> None:
    reader = CacheReader(encoded.latents, entries_of(encoded.cache.to_pylist()))
    assert torch.equal(reader.latents("in_pair-0"), reader.latents("cross_pair-0"))
    assert not torch.equal(reader.latents("in_pair-0"), reader.latents("in_pair-1"))
    stored = [name for path in encoded.latents.glob("samples-*") for name in safe_open(path, "pt").keys()]  # noqa: SIM118
    assert sum(name.endswith("/latents") for name in stored) == 6


def test_texts_are_stored_without_padding_and_read_with_it(tmp_path: Path) -> None:
    wan = BackboneParams(family="wan")
    context = LocalContext(tmp_path, encode, world(tmp_path, clips=2))
    context.run(EncodeParams(backbone=wan, buckets=(BUCKET,), views=1))
    folder = context.outputs["latents"]
    said = events(context, "cache_estimate")
    (path,) = folder.glob("text-*")
    rows = [safe_open(path, "pt").get_slice(key).get_shape()[0] for key in safe_open(path, "pt").keys()]  # noqa: SIM118
    # "Ref 1: a square. Video: Ref 1[a square] moves 0" is 47 bytes and the end of the text; the empty prompt that alone.
    assert sorted(rows) == [1, 48, 48]
    assert said["text_bytes"] == 97 * 32 * 4
    reader = CacheReader(folder, entries_of(context.outputs["cache"].to_pylist()))
    backbone = load_backbone(wan.spec())
    prompt = next(row["prompt"] for row in context.outputs["cache"].to_pylist() if row["sample_id"] == "in_pair-0")
    assert torch.equal(reader.text("in_pair-0"), backbone.encode_text([prompt])[0])
    assert torch.equal(reader.null_text, backbone.encode_text([""])[0])


def test_another_transformer_with_the_same_codec_and_encoder_reuses_everything(tmp_path: Path) -> None:
    inputs = world(tmp_path, clips=2)
    folder = tmp_path / "weights"
    load_backbone(BACKBONE.spec()).pipeline().save_pretrained(folder)
    params = EncodeParams(backbone=BackboneParams(weights=str(folder)), buckets=(BUCKET,), views=1)
    LocalContext(tmp_path, encode, inputs).run(params)
    load_backbone(BackboneSpec(seed=9)).transformer.save_pretrained(folder / "transformer")
    again = LocalContext(tmp_path, encode, inputs)
    again.run(params)
    assert events(again, "cache_reuse") == {"clips": 2, "clips_reused": 2, "samples": 4, "samples_reused": 4}


def test_the_plan_is_told_before_the_work_and_warns_when_much_is_dropped(tmp_path: Path) -> None:
    inputs = world(tmp_path, clips=3)
    rows = inputs["subset"].to_pylist()  # type: ignore[union-attr]
    rows[1]["frames"] = 3
    inputs["subset"] = SUBSET.table(rows)
    context = LocalContext(tmp_path, encode, inputs)
    context.run(EncodeParams(backbone=BACKBONE, buckets=(BUCKET,), views=1, plan_batch=3))
    plan = events(context, "bucket_plan")
    assert plan["warn"]  # a third of the samples is far above 2%
    # 12 frames of 64x48 to 9 of 32x32: a quarter unused, a quarter of the width cut, nothing enlarged.
    assert plan["plan"].splitlines() == [
        "6 samples: 4 kept, 0 of them padded, 2 dropped (33.3%); about 2 steps of 3 an epoch",
        "  9x32x32: 4 kept, 0 padded, 2 steps; on average 25% of the frames unused, 25% of the picture cut, 0 enlarged",
        "  dropped, too short: 2",
    ]
    kinds = [kind for kind, _ in context.events]
    assert kinds.index("bucket_plan") < kinds.index("cache_estimate") < kinds.index("cache_reuse")


def test_a_clip_that_may_be_padded_holds_its_last_frame(tmp_path: Path) -> None:
    inputs = world(tmp_path, clips=1, frames=8)
    padded = EncodeParams(backbone=BACKBONE, buckets=(BUCKET,), views=1, max_padding=0.2)
    with pytest.raises(NotEnoughRows, match="too_short: 8 frames, needs 9"):
        LocalContext(tmp_path, encode, inputs).run(padded.model_copy(update={"max_padding": 0.1}))
    context = LocalContext(tmp_path, encode, inputs)
    context.run(padded)
    assert "2 of them padded" in events(context, "bucket_plan")["plan"]
    reader = CacheReader(context.outputs["latents"], entries_of(context.outputs["cache"].to_pylist()))
    frames = decode_frames(tmp_path / "media" / "clip0.mp4", 8, of=8)
    video = video_to_unit(fit_video(np.concatenate([frames, frames[-1:]]), height=32, width=32))
    assert torch.equal(reader.latents("in_pair-0"), load_backbone(BACKBONE.spec()).encode_video(video[None])[0])


def test_each_bucket_is_offered_at_every_aspect(tmp_path: Path) -> None:
    context = LocalContext(tmp_path, encode, world(tmp_path, clips=1))
    context.run(EncodeParams(backbone=BACKBONE, buckets=("9x32x32",), aspects=("9:4", "4:9"), views=1))
    # 64x48 is nearest to the square; a wide one of about 32x32 pixels in multiples of 16 is 48x16.
    assert set(context.outputs["cache"]["bucket"].to_pylist()) == {"9x32x32"}
    with pytest.raises(ValueError, match="is not width:height"):
        EncodeParams(aspects=("1.5",))


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
    assert events(second, "cache_reuse") == {"clips": 3, "clips_reused": 3, "samples": 6, "samples_reused": 5}
    fresh = LocalContext(tmp_path / "fresh", encode, inputs)
    fresh.run(PARAMS)
    assert second.outputs["cache"].equals(fresh.outputs["cache"])
    assert shards(second.outputs["latents"]) == shards(fresh.outputs["latents"])


def test_other_views_are_other_work_but_clips_are_kept(tmp_path: Path) -> None:
    inputs = world(tmp_path, clips=2)
    LocalContext(tmp_path, encode, inputs).run(PARAMS)
    again = LocalContext(tmp_path, encode, inputs, seed=1)
    again.run(PARAMS)
    assert events(again, "cache_reuse") == {"clips": 2, "clips_reused": 2, "samples": 4, "samples_reused": 0}


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
