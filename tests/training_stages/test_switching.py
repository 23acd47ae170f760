"""The switching recipe: rows of two kinds, steps of two kinds, and the ablations as configurations of one stage."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_schemas.ids import short_hash
from models.training.cache import CacheReader
from models.training.feed import FeedSpec, SwitchingFeed, rows_of
from models.training.randomness import TimestepSpec
from models.training.sampler import Row, Sampler
from models.training.switching import SwitchingSampler, SwitchingSpec
from stages.contract import NotEnoughRows
from stages.training.adapters import read_card
from stages.training.curves import CURVES
from stages.training.disentangle import DisentangleParams, disentangle
from stages.training.encode import EncodeParams, encode
from stages.training.generate import entries_of
from stages.training.params import BackboneParams
from stages.training.switching import SwitchingParams, switching
from tests.context import LocalContext
from tests.training_stages.footing import BACKBONE, LORA, world

torch.set_num_threads(1)
FAST = settings(max_examples=25, deadline=None)
PARAMS = SwitchingParams(
    backbone=BACKBONE, lora=LORA, engine="inline", steps=8, batch=2, image_batch=3, video_probability=0.4,
    warmup=0, checkpoint_every=4, learning_rate=1e-2, held_out_every=4, held_out_parts=2, histogram_every=4,
)  # fmt: skip


@dataclass(frozen=True)
class Disentangled:
    rows: LocalContext
    cache: pa.Table
    latents: Path


@pytest.fixture(scope="module")
def disentangled(tmp_path_factory: pytest.TempPathFactory) -> Disentangled:
    root = tmp_path_factory.mktemp("disentangled")
    rows = LocalContext(root / "rows", disentangle, world(root))
    rows.run(DisentangleParams(frames=2))
    made = {name: rows.outputs[name] for name in ("subset", "media", "pairs", "subjects")}
    context = LocalContext(root / "encode", encode, made)
    context.run(EncodeParams(backbone=BACKBONE, buckets=("1x32x32", "9x32x32"), views=2))
    return Disentangled(rows, context.outputs["cache"], context.outputs["latents"])


def run(root: Path, made: Disentangled, params: SwitchingParams) -> LocalContext:
    context = LocalContext(root, switching, {"cache": made.cache, "latents": made.latents})
    context.run(params)
    return context


def kinds_of(context: LocalContext) -> list[str]:
    """The kind of each step, by which loss it logged."""
    steps = sorted(step for key, step in context.metrics_seen if key == "loss")
    return ["video" if ("video_loss", step) in context.metrics_seen else "image" for step in steps]


def test_image_pairs_are_stills_and_videos_show_frames_of_their_own(disentangled: Disentangled) -> None:
    pairs = disentangled.rows.outputs["pairs"].to_pylist()
    by_kind = {kind: [p for p in pairs if p["kind"] == kind] for kind in {p["kind"] for p in pairs}}
    # Six clips, each with one cross-pair row and two frames of its own; one clip is held out, and its rows pass through.
    found = {kind: len(rows) for kind, rows in by_kind.items()}
    assert found == {"image_pair": 6, "video_only": 12, "cross_pair": 1, "in_pair": 1}
    assert {p["split"] for p in (*by_kind["cross_pair"], *by_kind["in_pair"])} == {"held_out"}
    clips = {row["clip_id"]: row for row in disentangled.rows.outputs["subset"].to_pylist()}
    assert {clips[p["clip_id"]]["frames"] for p in by_kind["image_pair"]} == {1}
    assert {clips[p["clip_id"]]["frames"] for p in by_kind["video_only"]} == {12}
    # An image pair keeps its cross-pair reference; a video's reference comes from itself.
    assert not any(p["same_source"] for p in by_kind["image_pair"])
    assert all(p["references"][0]["video_id"] == p["video_id"] for p in by_kind["video_only"])
    cached = disentangled.cache.to_pylist()
    shapes = {"image_pair": "1x32x32", "video_only": "9x32x32", "cross_pair": "9x32x32", "in_pair": "9x32x32"}
    assert {r["kind"]: r["bucket"] for r in cached} == shapes
    assert all(row["status"] == "accepted" for row in disentangled.rows.ledger_rows)


def test_first_frames_alone_and_fewer_videos_are_ablations_of_the_rows(tmp_path: Path) -> None:
    inputs = world(tmp_path)

    def videos_of(name: str, params: DisentangleParams) -> LocalContext:
        context = LocalContext(tmp_path / name, disentangle, inputs)
        context.run(params)
        return context

    def rows(context: LocalContext) -> list[dict[str, Any]]:
        return [row for row in context.outputs["pairs"].to_pylist() if row["kind"] == "video_only"]

    clips = {row["clip_id"]: row for row in inputs["subset"].to_pylist()}
    whole = rows(videos_of("whole", DisentangleParams(frames=2)))
    first = rows(videos_of("first", DisentangleParams(frames=2, reference_frame="first")))
    assert sorted(row["clip_id"] for row in first) == sorted(clips)
    assert {r["references"][0]["subject_id"] for r in first} == {short_hash("frame", i, 0) for i in clips}
    some = videos_of("some", DisentangleParams(frames=2, videos=3))
    trained = {row["clip_id"] for row in rows(some) if row["split"] == "train"}
    assert len(trained) == 3
    # What is held out stays, to be measured with; no drawn video is another one than before.
    held_out = [row for row in whole if row["split"] == "held_out"]
    assert [row for row in rows(some) if row["split"] == "held_out"] == held_out
    assert all(row in whole for row in rows(some))
    assert trained == {row["clip_id"] for row in rows(videos_of("again", DisentangleParams(frames=2, videos=3)))} - {
        row["clip_id"] for row in held_out
    }


def test_a_run_trains_both_kinds_each_by_its_own_steps(tmp_path: Path, disentangled: Disentangled) -> None:
    context = run(tmp_path, disentangled, PARAMS.model_copy(update={"gradients_every": 4, "gradient_layers": True}))
    expected = [SwitchingSpec(0.4).kind(0, step) for step in range(8)]
    assert set(expected) == {"image", "video"}
    assert kinds_of(context) == expected
    samples = [context.metrics_seen["samples", step] for step in range(1, 9)]
    assert samples == [3.0 if kind == "image" else 2.0 for kind in expected]
    plans = [fields["plan"] for name, fields in context.events if name == "data_plan"]
    assert plans[0].startswith("image steps: 5 rows")
    assert plans[1].startswith("video steps: 10 rows")
    for step in (1, 4, 8):
        assert -1.0 <= context.metrics_seen["gradient/cosine", step] <= 1.0
        assert context.metrics_seen["gradient/video_norm", step] > 0
    assert any(key.startswith("gradient/cosine/transformer_blocks.0") for key, _ in context.metrics_seen)
    page = (context.outputs["adapter"] / CURVES).read_text()
    for title in (
        "Loss by kind of step",
        "Agreement of image and video gradients",
        "Held-out error",
        "Timesteps drawn",
    ):
        assert title in page
    assert read_card(context.outputs["adapter"])["kind"] == "switching"


def test_a_model_that_patches_two_frames_to_a_token_trains_on_stills_too(tmp_path: Path) -> None:
    patched = BackboneParams(weights="tiny-random:1.5")
    rows = LocalContext(tmp_path / "rows", disentangle, world(tmp_path, clips=4))
    rows.run(DisentangleParams(frames=1))
    made = {name: rows.outputs[name] for name in ("subset", "media", "pairs", "subjects")}
    context = LocalContext(tmp_path / "encode", encode, made)
    context.run(EncodeParams(backbone=patched, buckets=("1x32x32", "9x32x32"), views=1))
    cached = Disentangled(rows, context.outputs["cache"], context.outputs["latents"])
    reader = CacheReader(cached.latents, entries_of(cached.cache.to_pylist()))
    frames = {row["bucket"]: reader.latents(row["sample_id"]).shape[1] for row in cached.cache.to_pylist()}
    assert frames == {"1x32x32": 2, "9x32x32": 4}
    quick = {"backbone": patched, "steps": 2, "stage_two_at": 1, "held_out_every": 0}
    trained = run(tmp_path / "train", cached, PARAMS.model_copy(update=quick))
    assert kinds_of(trained) == ["image", "video"]
    assert all(trained.metrics_seen["loss", step] > 0 for step in (1, 2))


def test_measuring_does_not_change_what_is_trained(tmp_path: Path, disentangled: Disentangled) -> None:
    watched = run(tmp_path / "a", disentangled, PARAMS.model_copy(update={"gradients_every": 1, "held_out_every": 1}))
    blind = run(tmp_path / "b", disentangled, PARAMS.model_copy(update={"held_out_every": 0, "histogram_every": 0}))
    losses = [[c.metrics_seen["loss", step] for step in range(1, 9)] for c in (watched, blind)]
    assert losses[0] == losses[1]
    weights = [
        (c.outputs["adapter"] / "pytorch_lora_weights.safetensors").read_bytes()[-4096:] for c in (watched, blind)
    ]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("ablation", "expected"),
    [
        ({"video_probability": 0.0}, ["image"] * 4),
        ({"stage_two_at": 2}, ["image", "image", "video", "video"]),
        ({"reference_dropout": 1.0, "video_probability": 1.0}, ["video"] * 4),
    ],
    ids=["image only", "two-stage", "joint"],
)
def test_the_ablations_are_configurations(
    tmp_path: Path, disentangled: Disentangled, ablation: dict[str, Any], expected: list[str]
) -> None:
    quick = {"steps": 4, "held_out_every": 0, **ablation}
    assert kinds_of(run(tmp_path, disentangled, PARAMS.model_copy(update=quick))) == expected


def test_a_kind_without_rows_is_told_by_name_unless_no_step_needs_it(
    tmp_path: Path, disentangled: Disentangled
) -> None:
    images = [row for row in disentangled.cache.to_pylist() if row["kind"] == "image_pair"]
    only = Disentangled(
        disentangled.rows, pa.Table.from_pylist(images, schema=disentangled.cache.schema), disentangled.latents
    )
    with pytest.raises(NotEnoughRows, match="needs 2 videos, has 0"):
        run(tmp_path / "a", only, PARAMS)
    run(tmp_path / "b", only, PARAMS.model_copy(update={"video_probability": 0.0, "steps": 1}))


def feed(made: Disentangled, **options: Any) -> SwitchingFeed:
    spec = FeedSpec(seed=0, timesteps=TimestepSpec(), **options)
    entries = entries_of(made.cache.to_pylist())
    rows = {n: [r for r in rows_of(entries) if r.bucket.startswith(f"{n}x")] for n in (1, 9)}
    images, videos = (Sampler(rows[n], seed=0, global_batch=2) for n in (1, 9))
    sampler = SwitchingSampler(images, videos, SwitchingSpec(0.5), seed=0)
    return SwitchingFeed(CacheReader(made.latents, entries), sampler, spec, (2, 2))


def test_tokens_are_emptied_whole_and_only_in_video_steps(disentangled: Disentangled) -> None:
    whole, dropping = (
        feed(disentangled, view_drop=0.0, token_drop=0.0),
        feed(disentangled, view_drop=0.0, token_drop=0.5),
    )
    emptied, tokens = 0, 0
    for step in range(20):
        left, right = whole(step), dropping(step)
        assert left.references_BRCHW is not None
        assert right.references_BRCHW is not None
        same = left.references_BRCHW == right.references_BRCHW
        if left.kind == "image":
            assert bool(same.all())
            continue
        # A token is 2 x 2 latents of all channels: it is there as it was, or it is zero.
        kept = same.all(dim=2).unfold(2, 2, 2).unfold(3, 2, 2).flatten(-2).all(-1)
        gone = (right.references_BRCHW == 0).all(dim=2).unfold(2, 2, 2).unfold(3, 2, 2).flatten(-2).all(-1)
        assert bool((kept | gone).all())
        emptied, tokens = emptied + int(gone.sum()), tokens + gone.numel()
    assert tokens > 60
    # Half of them, within four standard errors.
    assert abs(emptied / tokens - 0.5) < 4 * 0.5 / tokens**0.5


def test_an_image_step_that_loses_its_only_reference_has_none(disentangled: Disentangled) -> None:
    always = feed(disentangled, view_drop=1.0)
    for step in range(10):
        batch = always(step)
        assert (batch.references_BRCHW is None) == (batch.kind == "image")


@FAST
@given(seed=st.integers(0, 50), p=st.floats(0, 1), accumulate=st.integers(1, 3), step=st.integers(0, 300))
def test_a_step_is_of_one_kind_on_all_ranks_and_in_all_its_micro_batches(
    seed: int, p: float, accumulate: int, step: int
) -> None:
    rows = {kind: [Row(f"{kind}{i}", kind) for i in range(8)] for kind in ("image", "video")}

    def make() -> SwitchingSampler:
        images, videos = (Sampler(rows[kind], seed=seed, global_batch=4) for kind in ("image", "video"))
        return SwitchingSampler(images, videos, SwitchingSpec(p), seed=seed, accumulate=accumulate)

    whole = make()
    for micro in range(step * accumulate, (step + 1) * accumulate):
        batch = whole.rank_batch(micro, world_size=1, rank=0)
        # Every rank asks a sampler of its own, which has seen nothing before.
        for world_size in (2, 4):
            parts = [
                d for rank in range(world_size) for d in make().rank_batch(micro, world_size=world_size, rank=rank)
            ]
            assert parts == batch
        assert {d.sample_id[:5] for d in batch} == {SwitchingSpec(p).kind(seed, step)}


@settings(FAST, max_examples=8)
@given(seed=st.integers(0, 50), p=st.sampled_from([0.2, 0.5]))
def test_each_kind_goes_through_its_own_epochs(seed: int, p: float) -> None:
    images, videos = (
        Sampler([Row(f"{kind}{i}", kind) for i in range(6)], seed=seed, global_batch=2) for kind in ("image", "video")
    )
    sampler = SwitchingSampler(images, videos, SwitchingSpec(p), seed=seed)
    seen: dict[str, list[str]] = {"image": [], "video": []}
    for index in range(1500):  # beyond the first counted block
        kind, _, _ = sampler.at(index)
        seen[kind] += [d.sample_id for d in sampler.rank_batch(index, world_size=1, rank=0)]
    for kind, ids in seen.items():
        for start in range(0, len(ids) // 6 * 6, 6):
            assert sorted(ids[start : start + 6]) == [f"{kind}{i}" for i in range(6)]
    share = len(seen["video"]) / 3000
    assert abs(share - p) < 4 * (p * (1 - p) / 1500) ** 0.5
    assert len(json.dumps(sampler.state(10**6))) < 1000
    with pytest.raises(ValueError, match="video_probability was"):
        SwitchingSampler(images, videos, SwitchingSpec(p + 0.1), seed=seed).check(sampler.state(0))
