"""The training benchmarks at a size of seconds: what they count is right, and what they time is there."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from benchmarks.training import guidance, overhead
from benchmarks.training.gpu import arguments, measure, table, turns
from benchmarks.training.models import MODELS
from benchmarks.training.peers import diffusers_script
from benchmarks.training.peers.job import PeerError
from benchmarks.training.stopwatch import Stopwatch
from benchmarks.training.turn import Turn, run
from models.compat import prepare
from models.training import loop

prepare()


def test_guidance_forwards_are_the_fewest_and_batched() -> None:
    found = guidance.measure("cogvideox", steps=10, repeats=1)
    counts = {name: (way["forwards_per_step"], way["calls_per_step"]) for name, way in found.items()}
    assert counts == {
        "none": (1.0, 1.0),
        "plain": (2.0, 1.0),
        "dynamic": (2.0, 1.9),  # one step of ten guides the text alone, with the references in both branches
        "three branches, reference first": (3.0, 2.0),
        "three branches, text first": (3.0, 2.0),
        "three branches, zero latents": (3.0, 1.0),
    }
    assert found["none"]["time_ratio"] == 1.0
    assert all(way["time_ratio"] > 0 for way in found.values())


def test_overhead_is_measured_in_every_way_that_needs_no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    write = loop.write_checkpoint

    def slow(*given: Any) -> Path:
        time.sleep(0.3)  # far more than a step and the machine's noise
        return write(*given)

    monkeypatch.setattr(loop, "write_checkpoint", slow)
    found = overhead.run(15, window=5, with_ray=False)
    assert set(found["ways"]) == {"bare", "loop", "job"}
    assert all(way["median_ms"] > 0 and way["windows"] == 2 for way in found["ways"].values())
    assert found["mlflow_publish_ms_per_step"] > 0
    assert found["checkpoint_ms"] > 150


@pytest.mark.parametrize(("name", "parameters"), [("cogvideox-5b", 5.57e9), ("wan-1.3b", 1.42e9), ("wan-14b", 14.29e9)])
def test_the_large_models_have_the_size_that_their_names_say(name: str, parameters: float) -> None:
    built = MODELS[name].build("meta", torch.bfloat16)
    assert sum(p.numel() for p in built.transformer.parameters()) == pytest.approx(parameters, rel=0.01)
    if MODELS[name].family == "cogvideox":  # the small codec and text encoder beside it give what it takes
        assert built.vae.config.latent_channels == built.transformer.config.in_channels
        assert built.text_encoder.config.d_model == built.text_width


def test_the_stopwatch_times_and_counts_any_trainer() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(8, 4, bias=False)
    optimizer = torch.optim.AdamW(layer.parameters())

    def train(steps: int) -> None:
        for _ in range(steps):
            layer(torch.ones(2, 8)).sum().backward()
            optimizer.step()

    clock = Stopwatch(3, 1).run(lambda: train(100))
    assert len(clock.seconds) == 3
    assert clock.flops == 2 * (
        2 * 2 * 8 * 4
    )  # the forward's product and the weight's gradient, a multiply and an add each
    with pytest.raises(RuntimeError, match="ended after 4 steps; 5 are needed"):
        Stopwatch(3, 1).run(lambda: train(4))
    assert not is_in_torch_dispatch_mode()  # nobody counts on


PEER = """
import argparse, pathlib
import decord, torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDPMScheduler, CogVideoXTransformer3DModel
from transformers import AutoTokenizer, T5EncoderModel
p = argparse.ArgumentParser()
for name in ("pretrained_model_name_or_path", "instance_data_root", "video_column", "caption_column", "output_dir"):
    p.add_argument("--" + name, type=pathlib.Path, required=True)
for name in ("height", "width", "max_num_frames", "train_batch_size", "max_train_steps", "rank"):
    p.add_argument("--" + name, type=int, required=True)
p.add_argument("--gradient_checkpointing", action="store_true")
args = p.parse_known_args()[0]
assert (args.rank, args.train_batch_size, args.gradient_checkpointing, args.max_train_steps) == (4, 1, True, 4)
root = args.pretrained_model_name_or_path
vae = AutoencoderKLCogVideoX.from_pretrained(root, subfolder="vae")
model = CogVideoXTransformer3DModel.from_pretrained(root, subfolder="transformer")
text = T5EncoderModel.from_pretrained(root, subfolder="text_encoder")
tokenizer = AutoTokenizer.from_pretrained(root, subfolder="tokenizer")
assert CogVideoXDPMScheduler.from_pretrained(root, subfolder="scheduler").config.prediction_type == "v_prediction"
names = (args.instance_data_root / args.video_column).read_text().split()
prompt = (args.instance_data_root / args.caption_column).read_text().splitlines()[0]
assert text(tokenizer(prompt, return_tensors="pt").input_ids)[0].shape[-1] == model.config.text_embed_dim
frames = decord.VideoReader(str(args.instance_data_root / names[0]))
assert (len(frames), *frames[0].shape) == (args.max_num_frames, args.height, args.width, 3)
optimizer = torch.optim.AdamW(model.parameters())
for _ in range(args.max_train_steps):
    model.proj_out.weight.square().sum().backward()
    optimizer.step()
raise AssertionError("it should have been left before")
"""


def test_a_peer_gets_a_model_and_clips_that_it_can_read_and_is_left_when_all_is_measured(tmp_path: Path) -> None:
    script = tmp_path / diffusers_script.SCRIPT
    script.parent.mkdir(parents=True)
    script.write_text(PEER)
    chosen = arguments(
        ["--models", "tiny-cogvideox", "--diffusers-checkout", str(tmp_path), "--steps", "2", "--warm-up", "1"]
    )
    planned = [turn for turn in turns(chosen, str(tmp_path)) if turn.system == "diffusers"]
    found = measure(planned, 1, run, say=lambda _: None)
    assert not found["not_run"]
    assert found["rows"][0]["steps"] == 2


def test_a_peer_that_is_not_where_it_should_be_is_told_of_by_the_option_that_names_it(tmp_path: Path) -> None:
    chosen = arguments(["--models", "tiny-wan", "tiny-cogvideox", "--diffsynth-checkout", str(tmp_path), "--compile"])
    planned = turns(chosen, str(tmp_path))
    assert [turn.system for turn in planned] == [
        *("fulcrum", "fulcrum compiled", "diffsynth", "fulcrum", "fulcrum"),
        *("fulcrum", "fulcrum compiled", "fulcrum", "fulcrum"),
    ]
    with pytest.raises(PeerError, match=r"train\.py is missing: --diffsynth-checkout is the root of a clone"):
        run(planned[2])


def test_turns_are_taken_in_another_order_each_round_and_compared_by_their_medians(tmp_path: Path) -> None:
    chosen = arguments(["--models", "tiny-wan", "--diffsynth-checkout", str(tmp_path)])
    planned = turns(chosen, str(tmp_path))
    asked: list[str] = []

    def runner(turn: Turn) -> dict[str, Any]:
        asked.append(f"{turn.system} {turn.method} {turn.references}")
        second = {"fulcrum": 1.0, "diffsynth": 1.5}[turn.system] * (2.5 if turn.method == "dpo" else 1.0)
        seconds = [second, second * len(asked), second]
        return {"seconds": seconds, "peak_bytes": 2**30, "flops": 10**15, "device": "H200", "device_bytes": 141 << 30}

    found = measure(planned, 2, runner, say=lambda _: None)
    assert asked[:2] == ["fulcrum sft 0", "diffsynth sft 0"]
    assert asked[4:] == ["diffsynth sft 0", "fulcrum sft 1", "fulcrum dpo 1", "fulcrum sft 0"]
    assert found["over_fulcrum"] == {"tiny-wan diffsynth": 1.5}
    assert found["dpo_over_sft"] == {"tiny-wan": 2.5}
    assert found["rows"][0]["hfu"] == pytest.approx(1e15 / 1.0 / 989e12)
    assert "| tiny-wan 9x64x64 | sft, 0 | diffsynth | 1.500 s | 1.0 GiB | 67% |" in table(found)
