"""SFT and DPO as stages: who trains on what, on which reference, and what a second run does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from data_schemas.tables import VERDICTS
from models.training.adapter import load_adapter
from stages.contract import NotEnoughRows, StageError
from stages.training import jobs
from stages.training.adapters import adapter_digest, read_card
from stages.training.params import BackboneParams, LoraParams
from stages.training.train import DpoParams, SftParams, dpo, sft
from tests.context import LocalContext
from tests.training_stages.conftest import Encoded, Road
from tests.training_stages.footing import BACKBONE, LORA

torch.set_num_threads(1)

SFT = SftParams(
    backbone=BACKBONE,
    lora=LORA,
    engine="inline",
    kind="in_pair",
    steps=6,
    batch=2,
    checkpoint_every=2,
    learning_rate=1e-2,
)
DPO = DpoParams(
    backbone=BACKBONE,
    lora=LORA,
    engine="inline",
    steps=4,
    batch=2,
    checkpoint_every=2,
    learning_rate=1e-3,
)


DPO_REAL = DPO.model_copy(update={"kind": "real_fake"})


def events(context: LocalContext, kind: str) -> list[dict[str, Any]]:
    return [fields for name, fields in context.events if name == kind]


def run_sft(root: Path, encoded: Encoded, params: SftParams = SFT, **options: Any) -> LocalContext:
    context = LocalContext(root, sft, {"cache": encoded.cache, "latents": encoded.latents}, name="sft_in", **options)
    context.run(params)
    return context


def test_sft_leaves_an_adapter_with_its_provenance(road: Road) -> None:
    card = read_card(road.adapters["in_pair"])
    assert (card["kind"], card["steps"], card["rows"]) == ("sft_in_pair", 6, 5)
    assert card["weights_note"] == "random weights, seed 0"
    assert len(card["backbone_digest"]) == len(card["data_digest"]) == 64
    adapter = load_adapter(road.adapters["in_pair"])
    assert all(rank == LORA.rank for rank in adapter.rank.values())
    assert any(bool(t.abs().sum() > 0) for name, t in adapter.state.items() if "lora_B" in name)


def test_only_training_rows_of_the_kind_are_seen(tmp_path: Path, encoded: Encoded) -> None:
    context = run_sft(tmp_path, encoded)
    plan = events(context, "data_plan")[0]["plan"]
    # Six clips, one of them held out; batches of 2 need one repeat.
    assert plan.startswith("5 rows, 5 kept, 0 dropped (0.0%) and 1 repeated in an epoch of 3 steps of 2")
    assert "9x32x32/r1: 5 rows" in plan
    (left,) = events(context, "first_epoch")
    assert left["dropped"] == []
    assert len(left["repeated"]) == 1
    assert left["repeated"][0].startswith("in_pair-")


def test_every_step_is_published_once_and_a_second_run_trains_nothing(tmp_path: Path, encoded: Encoded) -> None:
    first = run_sft(tmp_path, encoded)
    assert [step for key, step in first.metrics_seen if key == "loss"] == [1, 2, 3, 4, 5, 6]
    again = run_sft(tmp_path, encoded)
    assert events(again, "already_trained") == [{"step": 6}]
    assert again.metrics_seen == first.metrics_seen
    assert adapter_digest(again.outputs["adapter"]) == adapter_digest(first.outputs["adapter"])


def test_a_killed_run_goes_on_and_ends_as_if_undisturbed(
    tmp_path: Path, encoded: Encoded, road: Road, monkeypatch: pytest.MonkeyPatch
) -> None:
    import models.training.loop as loop

    whole, calls = loop.train, []

    def killed(*args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            whole(*args, **options, stop_after=3)
            raise KeyboardInterrupt  # after step 3; the newest checkpoint is of step 2
        return whole(*args, **options)

    monkeypatch.setattr(loop, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        run_sft(tmp_path, encoded)
    (events_file,) = (tmp_path / "local" / "work").rglob(jobs.EVENTS)
    with events_file.open("a") as file:
        file.write('{"step": 4, "lo')  # what a process killed while writing leaves
        file.write("\n")
    resumed = run_sft(tmp_path, encoded)
    lines = [line for line in events_file.read_text().splitlines() if line.startswith('{"step": 3,')]
    assert len(lines) == 2  # trained twice
    assert [step for key, step in resumed.metrics_seen if key == "loss"] == [1, 2, 3, 4, 5, 6]
    assert adapter_digest(resumed.outputs["adapter"]) == adapter_digest(road.adapters["in_pair"])


def test_too_few_rows_stop_the_stage_by_name(tmp_path: Path, encoded: Encoded) -> None:
    with pytest.raises(NotEnoughRows, match="needs 50 cross-pair rows, has 5"):
        run_sft(tmp_path, encoded, SFT.model_copy(update={"kind": "cross_pair", "min_rows": 50}))


def test_a_cache_of_another_backbone_is_refused(tmp_path: Path, encoded: Encoded) -> None:
    other = SFT.model_copy(update={"backbone": BackboneParams(seed=7)})
    with pytest.raises(StageError, match="the cache was encoded with another backbone"):
        run_sft(tmp_path, encoded, other)


def test_a_wrong_target_is_one_clear_error(tmp_path: Path, encoded: Encoded) -> None:
    other = SFT.model_copy(update={"lora": LoraParams(rank=2, alpha=2, targets=("to_quack",))})
    with pytest.raises(StageError, match="'to_quack' matches no layer"):
        run_sft(tmp_path, encoded, other)


def verdicts(road: Road, kind: str, said: list[str]) -> pa.Table:
    ids = sorted(road.preferences[kind][0]["pair_id"].to_pylist())
    return VERDICTS.table(
        {"external_id": i, "item_id": i, "verdict": v, "reasons": [], "answers": 1}
        for i, v in zip(ids, said, strict=False)
    )


def run_dpo(root: Path, encoded: Encoded, road: Road, kind: str, said: list[str], params: DpoParams) -> LocalContext:
    table, shards = road.preferences[kind]
    inputs = {
        "cache": encoded.cache,
        "latents": encoded.latents,
        "preferences": table,
        "shards": shards,
        "verdicts": verdicts(road, kind, said),
        "adapter": road.adapters["sft"],
    }
    context = LocalContext(root, dpo, inputs, name=f"dpo_{kind}")
    context.run(params)
    return context


def test_dpo_starts_at_ln_2_and_leaves_a_delta_alone(tmp_path: Path, encoded: Encoded, road: Road) -> None:
    params = DPO.model_copy(update={"lora": LORA.model_copy(update={"dropout": 0.3})})
    context = run_dpo(tmp_path, encoded, road, "consis", ["winner", "winner", "winner"], params)
    # B = 0: policy and reference agree, so -log sigmoid(0) = ln 2, though dropout is configured.
    assert context.metrics_seen[("loss", 1)] == pytest.approx(0.6931472, abs=1e-6)
    assert context.metrics_seen[("accuracy", 1)] == 0.5
    assert ("winner_drift", 4) in context.metrics_seen
    card = read_card(context.outputs["adapter"])
    assert card["parents"] == {"sft": adapter_digest(road.adapters["sft"])}
    delta, base = load_adapter(context.outputs["adapter"]), load_adapter(road.adapters["sft"])
    # The merged SFT has rank 2 x 2; the delta is a new adapter of its own rank, without the SFT in it.
    assert {set(delta.rank.values()).pop(), set(base.rank.values()).pop()} == {LORA.rank, 2 * LORA.rank}


def test_only_pairs_that_review_lets_train_are_kept_and_all_end_in_the_ledger(
    tmp_path: Path, encoded: Encoded, road: Road
) -> None:
    context = run_dpo(tmp_path, encoded, road, "consis", ["winner", "loser"], DPO.model_copy(update={"batch": 1}))
    ended = [(row["status"], row["reason"]) for row in sorted(context.ledger_rows, key=lambda r: r["record_id"])]
    assert ended == [("accepted", None), ("rejected", "verdict: loser"), ("in_review", None)]
    assert events(context, "data_plan")[0]["plan"].startswith("1 rows")
    params = DPO.model_copy(update={"kind": "real_fake"})
    tied = run_dpo(tmp_path / "ties", encoded, road, "real_fake", ["same", "winner", "both_bad"], params)
    assert [row["status"] for row in tied.ledger_rows] == ["accepted", "accepted", "rejected"]


def test_no_kept_pair_stops_the_stage_by_name(tmp_path: Path, encoded: Encoded, road: Road) -> None:
    with pytest.raises(NotEnoughRows, match="needs 2 reviewed consis pairs that may train, has 0"):
        run_dpo(tmp_path, encoded, road, "consis", ["same", "loser", "rest_differs"], DPO)
    with pytest.raises(StageError, match="trains on consis pairs but was given real_fake"):
        run_dpo(tmp_path, encoded, road, "real_fake", ["winner"], DPO)


def test_events_of_a_step_that_came_twice_count_once(tmp_path: Path) -> None:
    lines = [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 9.0}, {"step": 2, "loss": 2.0}, {"step": 3, "loss": 3.0}]
    (tmp_path / jobs.EVENTS).write_text("\n".join(json.dumps(line) for line in lines) + "\n{torn")
    assert jobs.read_events(tmp_path, upto=2) == {1: {"loss": 1.0}, 2: {"loss": 2.0}}


def test_known_reference_errors_train_the_same_adapter_and_serve_the_next_run(
    tmp_path: Path, encoded: Encoded, road: Road
) -> None:
    said = ["winner", "winner", "winner"]
    online = run_dpo(tmp_path / "online", encoded, road, "real_fake", said, DPO_REAL)
    cached_params = DPO_REAL.model_copy(update={"reference_errors": "cached"})
    cached = run_dpo(tmp_path / "cached", encoded, road, "real_fake", said, cached_params)
    assert [online.metrics_seen["loss", s] for s in range(1, 5)] == [
        cached.metrics_seen["loss", s] for s in range(1, 5)
    ]
    assert adapter_digest(online.outputs["adapter"]) == adapter_digest(cached.outputs["adapter"])
    assert events(cached, "reference_errors") == [{"batches": 4, "reused": 0}]
    # Another beta is another training on the same reference.
    table, shards = road.preferences["real_fake"]
    inputs = {
        "cache": encoded.cache, "latents": encoded.latents, "preferences": table, "shards": shards,
        "verdicts": verdicts(road, "real_fake", said), "adapter": road.adapters["sft"],
    }  # fmt: skip
    other = LocalContext(tmp_path / "cached", dpo, inputs, name="dpo_real_fake", fingerprint="e" * 64)
    other.run(cached_params.model_copy(update={"beta": 100.0}))
    assert events(other, "reference_errors") == [{"batches": 4, "reused": 4}]
    assert other.metrics_seen["loss", 4] != cached.metrics_seen["loss", 4]
    with pytest.raises(ValueError, match="needs a reference that stays"):
        DpoParams(reference_errors="cached", refresh_every=10)


def test_losers_of_one_winner_train_together(tmp_path: Path, encoded: Encoded, road: Road) -> None:
    from stages.training.preferences import RealFakeParams, prefer_real_fake
    from tests.training_stages.footing import SAMPLING

    made = LocalContext(
        tmp_path / "pairs",
        prefer_real_fake,
        {"cache": encoded.cache, "latents": encoded.latents, "adapter": road.adapters["in_pair"]},
    )
    made.run(RealFakeParams(backbone=BACKBONE, sampling=SAMPLING, pairs=10, per_sample=2))
    both = Road(road.adapters, {"real_fake": (made.outputs["preferences"], made.outputs["shards"])}, {})
    params = DPO_REAL.model_copy(update={"losers": 2, "batch": 1, "steps": 2})
    context = run_dpo(tmp_path / "dpo", encoded, both, "real_fake", ["winner"] * 10, params)
    # Five samples with two losers each: five rows of winners, not ten of pairs.
    assert "9x32x32/r1/n2: 5 rows" in events(context, "data_plan")[0]["plan"]
    assert context.metrics_seen["loss", 1] == pytest.approx(0.6931472, abs=1e-6)
    page = (context.outputs["adapter"] / "training.html").read_text()
    assert "Error against the reference" in page
    assert "winner_drift" in page
