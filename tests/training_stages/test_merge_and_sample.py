"""The merged adapter is the stacked forward, and every system makes the same held-out videos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from models.backbones.load import load_backbone
from models.training.adapter import load_adapter
from models.training.lora import attach_adapter, set_adapters
from models.video.encode import read_video
from stages.contract import NotEnoughRows, StageError
from stages.training.adapters import adapter_digest, read_card, write_adapter
from stages.training.generate import Studio
from stages.training.merge import MergeFinalParams, MergeSftParams, merge_final, merge_sft
from stages.training.sample import SampleParams, sample
from tests.context import LocalContext
from tests.training_stages.conftest import Encoded, Road
from tests.training_stages.footing import BACKBONE, SAMPLING

torch.set_num_threads(1)
PARAMS = SampleParams(backbone=BACKBONE, sampling=SAMPLING, prompts=1, seeds=2)


def forward(adapters: list[tuple[Path, float]]) -> torch.Tensor:
    backbone = load_backbone(BACKBONE.spec())
    draws = torch.Generator().manual_seed(3)
    for i, (folder, weight) in enumerate(adapters):
        attach_adapter(backbone, load_adapter(folder), f"a{i}", weight=weight)
    set_adapters(backbone, [f"a{i}" for i in range(len(adapters))])
    x = torch.randn(1, 4, 2, 4, 4, generator=draws)
    text = torch.randn(1, 226, 32, generator=draws)
    with torch.no_grad():
        return backbone.predict(x, torch.tensor([500]), text, torch.randn(1, 1, 4, 4, 4, generator=draws))


def test_the_merged_adapter_forwards_as_the_weighted_stack(tmp_path: Path, road: Road) -> None:
    parents = {"cross": road.adapters["cross_pair"], "in_pair": road.adapters["in_pair"]}
    context = LocalContext(tmp_path, merge_sft, parents)
    context.run(MergeSftParams(cross=0.7, in_pair=-0.2))
    merged = forward([(context.outputs["adapter"], 1.0)])
    stacked = forward([(parents["cross"], 0.7), (parents["in_pair"], -0.2)])
    assert float((merged - stacked).norm() / stacked.norm()) < 1e-6
    assert float((merged - forward([])).norm() / stacked.norm()) > 1e-4
    card = read_card(context.outputs["adapter"])
    assert card["parents"] == {name: adapter_digest(folder) for name, folder in parents.items()}
    assert card["weights"] == {"cross": 0.7, "in_pair": -0.2}
    assert card["truncation_error"] == 0


def test_the_final_adapter_is_sft_plus_weighted_deltas(tmp_path: Path, road: Road) -> None:
    sft = road.adapters["sft"]
    deltas = {"consis": tmp_path / "c", "real_fake": tmp_path / "r"}
    for name, parent in (("consis", "cross_pair"), ("real_fake", "in_pair")):
        state = load_adapter(road.adapters[parent])
        write_adapter(state, deltas[name], {"parents": {"sft": adapter_digest(sft)}})
    context = LocalContext(tmp_path, merge_final, {"sft": sft, **deltas})
    context.run(MergeFinalParams(mu=0.3, nu=0.9))
    merged = forward([(context.outputs["adapter"], 1.0)])
    stacked = forward([(sft, 1.0), (deltas["consis"], 0.3), (deltas["real_fake"], 0.9)])
    assert float((merged - stacked).norm() / stacked.norm()) < 1e-6


def test_a_delta_on_another_sft_adapter_is_refused(tmp_path: Path, road: Road) -> None:
    stray = tmp_path / "stray"
    write_adapter(load_adapter(road.adapters["in_pair"]), stray, {"parents": {"sft": "0" * 64}})
    context = LocalContext(tmp_path, merge_final, {"sft": road.adapters["sft"], "consis": stray, "real_fake": stray})
    with pytest.raises(StageError, match="adapter consis was trained on another SFT adapter"):
        context.run()


def test_peft_linear_needs_an_explicit_yes(tmp_path: Path, road: Road) -> None:
    parents = {"cross": road.adapters["cross_pair"], "in_pair": road.adapters["in_pair"]}
    context = LocalContext(tmp_path, merge_sft, parents)
    with pytest.raises(StageError, match="not the weighted sum"):
        context.run(MergeSftParams(method="linear"))
    context.run(MergeSftParams(method="linear", allow_inexact=True))
    assert read_card(context.outputs["adapter"])["weighted_sum_error"] > 0.1


def test_an_empty_folder_is_no_adapter(tmp_path: Path, road: Road) -> None:
    (tmp_path / "none").mkdir()
    context = LocalContext(tmp_path, merge_sft, {"cross": tmp_path / "none", "in_pair": road.adapters["in_pair"]})
    with pytest.raises(StageError, match="adapter cross: no adapter at"):
        context.run()


def sample_inputs(encoded: Encoded, road: Road) -> dict[str, Any]:
    return {
        "cache": encoded.cache,
        "latents": encoded.latents,
        "cross": road.adapters["cross_pair"],
        "in_pair": road.adapters["in_pair"],
        "sft": road.adapters["sft"],
    }


def test_every_wired_system_makes_the_same_held_out_videos(tmp_path: Path, encoded: Encoded, road: Road) -> None:
    context = LocalContext(tmp_path, sample, sample_inputs(encoded, road))
    context.run(PARAMS)
    rows = context.outputs["samples"].to_pylist()
    assert {row["system"] for row in rows} == {"base", "cross", "in", "sft"}
    assert len(rows) == 4 * 1 * 2
    assert {row["status"] for row in rows} == {"ok"}
    assert {row["prompt_id"] for row in rows} <= {"in_pair-5", "cross_pair-5"}
    by_system = {s: sorted(r["seed"] for r in rows if r["system"] == s) for s in ("base", "sft")}
    assert by_system["base"] == by_system["sft"]
    uri = context.final_uri("videos")
    videos = {row["system"]: context.outputs["videos"] / row["uri"][len(uri) + 1 :] for row in rows}
    frames, _ = read_video(videos["sft"])
    assert frames.shape == (9, 32, 32, 3)
    assert len({v.read_bytes() for v in videos.values()}) == 4
    assert (context.outputs["videos"] / rows[0]["reference_uri"][len(uri) + 1 :]).is_file()
    again = LocalContext(tmp_path, sample, sample_inputs(encoded, road))
    again.run(PARAMS)
    assert next(f for n, f in again.events if n == "samples")["reused"] == 8
    assert [r["uri"].rsplit("/")[-1] for r in again.outputs["samples"].to_pylist()] == [
        r["uri"].rsplit("/")[-1] for r in rows
    ]


def test_a_failed_sample_is_a_row(
    tmp_path: Path, encoded: Encoded, road: Road, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(self: Studio, system: str, *args: Any) -> Any:
        raise ValueError(f"sampling with {system} gave latents that are not finite")

    monkeypatch.setattr(Studio, "sample", never)
    context = LocalContext(tmp_path, sample, sample_inputs(encoded, road))
    context.run(PARAMS.model_copy(update={"systems": ("base",), "seeds": 1}))
    (row,) = context.outputs["samples"].to_pylist()
    assert (row["status"], row["uri"]) == ("failed", None)
    assert row["error_message"] == "sampling with base gave latents that are not finite"


def test_what_cannot_be_sampled_is_said(tmp_path: Path, encoded: Encoded, road: Road) -> None:
    context = LocalContext(tmp_path, sample, sample_inputs(encoded, road))
    with pytest.raises(StageError, match="system final needs the adapter input final"):
        context.run(PARAMS.model_copy(update={"systems": ("final",)}))
    with pytest.raises(NotEnoughRows, match="rows of split other in the cache"):
        context.run(PARAMS.model_copy(update={"split": "other"}))


def test_a_plain_diffusers_pipeline_loads_the_merged_adapter_and_forwards_the_same(road: Road) -> None:
    backbone = load_backbone(BACKBONE.spec())
    pipe = backbone.pipeline()
    pipe.load_lora_weights(str(road.adapters["sft"]))
    assert pipe.get_list_adapters() == {"transformer": ["default_0"]}  # diffusers can load nothing and say nothing
    draws = torch.Generator().manual_seed(3)
    x, text = torch.randn(1, 4, 2, 4, 4, generator=draws), torch.randn(1, 226, 32, generator=draws)
    references = torch.randn(1, 1, 4, 4, 4, generator=draws)
    with torch.no_grad():
        there = backbone.predict(x, torch.tensor([500]), text, references)
    stacked = forward([(road.adapters["cross_pair"], 0.5), (road.adapters["in_pair"], 0.5)])
    assert float((there - stacked).norm() / stacked.norm()) < 1e-6
