"""Trains the text-to-video base: diffusers' CogVideoX transformer at toy size, v-prediction, through our own backbone.

Two kinds of batches, as the large models train on text-to-video and image-to-video together: a clip from its caption,
and a clip from its caption and a still of the same shot, a clean latent frame before the video in RoPE time. References
of subject-to-video stand after the video and show the subject alone; those the base has never seen.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from models.backbones.base import ReferencePlacement
from models.backbones.cogvideox import CogVideoX
from models.backbones.load import BackboneSpec, load_backbone
from models.backbones.tiny import COGVIDEOX, seeded
from tinyworld.oracles import SIDE
from tinyworld.train import codec as codecs
from tinyworld.train import text as texts
from tinyworld.train.stock import Stock
from tinyworld.world import generator

TRANSFORMER: dict[str, Any] = {
    "num_attention_heads": 4,
    "attention_head_dim": 32,
    "in_channels": codecs.CHANNELS,
    "out_channels": codecs.CHANNELS,
    "time_embed_dim": 64,
    "text_embed_dim": texts.SHAPE["d_model"],
    "num_layers": 5,
    "sample_width": SIDE // 4,
    "sample_height": SIDE // 4,
    "sample_frames": 9,
    "patch_size": 1,
    "temporal_compression_ratio": 4,
    "max_text_seq_length": texts.LENGTH,
    "use_rotary_positional_embeddings": True,
    # As in CogVideoX's image-to-video models: rotary positions alone are relative.
    "use_learned_positional_embeddings": True,
}
HIDDEN = TRANSFORMER["num_attention_heads"] * TRANSFORMER["attention_head_dim"]


NOISY = (0.55, 0.95)
"""Where in the schedule a clip's layout and motion are decided: renders noised to less are denoised into what they were, from
more on the caption must say it."""
WHERE_BLOCK = 3
"""The transformer's block after which a linear reading of each token tells how much of it the subject covers."""


@dataclass(frozen=True)
class BaseRecipe:
    """``taught``: steps of ``text.teach`` before the first; ``still_share``: batches with a still of the shot;
    ``subject_weight``: extra loss where the subject covers all; ``noisy_share``: rows whose timestep is drawn from ``NOISY``
    alone; ``where_weight``: at the first step, of the loss of telling where the subject is; at 0.3 of the way it has fallen to a tenth."""

    steps: int = 5000
    batch: int = 16
    rate: float = 2e-3
    warmup: int = 100
    decay_from: float = 0.5
    caption_dropout: float = 0.1
    still_share: float = 0.2
    subject_weight: float = 6.0
    noisy_share: float = 0.5
    where_weight: float = 3.0
    average: float = 0.998
    taught: int = 400
    seed: int = 0


def scheduler_config() -> dict[str, Any]:
    """CogVideoX's schedule with less noise: 36 tokens a frame drown in what many thousands survive, and subjects drown first."""
    return {"_class_name": "CogVideoXDDIMScheduler", **COGVIDEOX["scheduler"], "snr_shift_scale": 0.3}


def initialise(folder: Path, codec: Any, recipe: BaseRecipe) -> None:
    """Writes a base around ``codec`` into ``folder`` in diffusers' layout: an untrained transformer, a reader that was taught."""
    from diffusers import CogVideoXTransformer3DModel

    with seeded(recipe.seed):
        CogVideoXTransformer3DModel(**TRANSFORMER).save_pretrained(folder / "transformer")
        encoder = texts.make_text_encoder()
    texts.teach(encoder, texts.make_tokenizer(), recipe.seed, recipe.taught)
    encoder.save_pretrained(folder / "text_encoder")
    codec.save_pretrained(folder / "vae")
    texts.save(folder)
    (folder / "scheduler").mkdir(exist_ok=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler_config(), indent=2) + "\n")


def open_base(folder: Path, device: str = "cpu") -> CogVideoX:
    """The backbone in ``folder`` by the loader that production uses, with stills placed before the video."""
    backbone = load_backbone(BackboneSpec(weights=str(folder)), device, placement=ReferencePlacement("before"))
    assert isinstance(backbone, CogVideoX)
    return backbone


def _forget_origin(config: Path) -> None:
    """diffusers writes down which folder a model was read from: a path of the machine that trained it."""
    told = json.loads(config.read_text(encoding="utf-8"))
    told.pop("_name_or_path", None)
    config.write_text(json.dumps(told, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Batch:
    """One step's data: latents (B, C, 3, 6, 6), the subject's share of each (B, 1, 3, 6, 6), prompts, and stills (B, 1, C, 6, 6)."""

    latents: Tensor
    share: Tensor
    prompts: list[str]
    stills: Tensor | None
    offset: float


def make_batch(step: int, recipe: BaseRecipe, backbone: CogVideoX, stock: Stock) -> Batch:
    """A pure function of its arguments: a resumed run sees what an unbroken one would have seen."""
    rng = generator(recipe.seed, "base", step)
    rows = rng.integers(len(stock.videos), size=recipe.batch)
    prompts = []
    for row in rows:
        said = texts.prompt(stock.captions[row], stock.phrases[row], rng)
        prompts.append("" if rng.random() < recipe.caption_dropout else said)
    latents = backbone.encode_video(codecs.to_unit(stock.videos[rows]).to(backbone.device))
    masks = torch.from_numpy(stock.masks[rows].astype(np.float32) / 255).to(backbone.device)
    share = codecs.mask_share(masks)[:, None]
    stills, offset = None, 0.0
    if rng.random() < recipe.still_share:
        pictures = codecs.to_unit(_still(stock.videos[row], stock.masks[row], rng)[None] for row in rows)
        stills = backbone.encode_video(pictures.to(backbone.device)).transpose(1, 2)
        offset = -float(rng.integers(4))
    return Batch(latents, share, prompts, stills, offset)


def _still(video: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A frame of the clip; every second one framed more tightly around the subject."""
    import cv2

    index = int(rng.integers(len(video)))
    frame = video[index]
    if rng.random() < 0.5:
        return frame
    side = len(frame)
    window = round(side * (0.5 + 0.45 * rng.random()))
    rows, columns = np.nonzero(mask[index] > 100)
    centre = (rows.mean(), columns.mean()) if len(rows) else (side / 2, side / 2)
    top, left = (int(np.clip(c - window / 2 + rng.normal() * 2, 0, side - window)) for c in centre)
    cut = np.ascontiguousarray(frame[top : top + window, left : left + window])
    return np.asarray(cv2.resize(cut, (side, side), interpolation=cv2.INTER_CUBIC), np.uint8)


def rate_at(step: int, recipe: BaseRecipe) -> float:
    """Warm-up, constant, then a cosine to a hundredth."""
    if step < recipe.warmup:
        return recipe.rate * (step + 1) / recipe.warmup
    start = recipe.decay_from * recipe.steps
    done = max(0.0, (step - start) / max(1.0, recipe.steps - start))
    return recipe.rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def encode_prompts(backbone: CogVideoX, prompts: list[str]) -> Tensor:
    """As ``Backbone.encode_text`` reads them, with gradients for the text encoder."""
    ids = backbone.tokenizer(
        prompts, padding="max_length", max_length=texts.LENGTH, truncation=True, return_tensors="pt"
    ).input_ids
    states: Tensor = backbone.text_encoder(ids.to(backbone.device))[0]
    return states


class Trainer:
    """One run in ``work``: builds or resumes its state, trains, and writes the averaged weights into ``out``."""

    def __init__(self, work: Path, recipe: BaseRecipe, codec: Any, stock: Stock, device: str = "cpu") -> None:
        self.stock, self.recipe, self.state_file = stock, recipe, work / "state.pt"
        work.mkdir(parents=True, exist_ok=True)
        folder = work / "start"
        if not (folder / "scheduler").is_dir():
            initialise(folder, codec, recipe)
        self.folder = folder
        self.backbone = open_base(folder, device)
        self.modules = [self.backbone.transformer, self.backbone.text_encoder]
        self.parameters = [p.requires_grad_(True) for module in self.modules for p in module.parameters()]
        for module in self.modules:
            module.train()
        # Subjects of all colours average to grey, so that of much noise the denoising loss says little of where one is. A
        # reading of the hidden tokens learns that from the truth, and with it the transformer; it is not kept.
        with seeded(recipe.seed):
            self.where = torch.nn.Linear(HIDDEN, 1).to(device)
        self._tokens: list[Tensor] = []
        self.backbone.transformer.transformer_blocks[WHERE_BLOCK - 1].register_forward_hook(
            lambda module, given, out: self._tokens.append(out[0])
        )
        decay = [p for p in self.parameters if p.ndim > 1]
        groups = [{"params": decay}, {"params": [p for p in self.parameters if p.ndim <= 1], "weight_decay": 0.0}]
        groups.append({"params": list(self.where.parameters())})
        self.optimiser = torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.98), weight_decay=0.01)
        self.average = [p.detach().clone() for p in self.parameters]
        self.step, self.seconds, self.losses = 0, 0.0, list[float]()
        if self.state_file.exists():
            self._resume()

    def _resume(self) -> None:
        state = torch.load(self.state_file, weights_only=True, map_location=self.backbone.device)
        known = {**asdict(self.recipe), "steps": None, "decay_from": None}
        if {**state["recipe"], "steps": None, "decay_from": None} != known:
            raise ValueError(f"{self.state_file} was made by another recipe; remove its folder to start anew")
        with torch.no_grad():
            for parameter, value in zip(self.parameters, state["parameters"], strict=True):
                parameter.copy_(value)
        self.average, self.step, self.seconds = state["average"], state["step"], state["seconds"]
        self.losses = state["losses"]
        self.where.load_state_dict(state["where"])
        self.optimiser.load_state_dict(state["optimiser"])

    def save(self) -> None:
        state = {
            "recipe": asdict(self.recipe),
            "parameters": [p.detach() for p in self.parameters],
            "average": self.average,
            "where": self.where.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "losses": self.losses,
        }
        aside = self.state_file.with_suffix(".new")
        torch.save(state, aside)
        aside.replace(self.state_file)

    def export(self, out: Path) -> None:
        """The averaged weights, whole, in diffusers' layout."""
        import shutil

        trained = [p.detach().clone() for p in self.parameters]
        # A codec that is there already has a card with its digests: it stays as it is.
        there = ("vae",) if (out / "vae").is_dir() else ()
        shutil.copytree(self.folder, out, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*there))
        self._put(self.average)
        self.backbone.transformer.save_pretrained(out / "transformer")
        self.backbone.text_encoder.save_pretrained(out / "text_encoder")
        self._put(trained)
        _forget_origin(out / "transformer" / "config.json")

    def _put(self, values: list[Tensor]) -> None:
        with torch.no_grad():
            for parameter, value in zip(self.parameters, values, strict=True):
                parameter.copy_(value)

    def run(self, save_every_s: float = 60.0, until: int | None = None) -> Iterator[tuple[int, float]]:
        """Trains to the end (or to step ``until``) and yields (step, mean loss of the last hundred) each hundred steps."""
        end = min(self.recipe.steps, until or self.recipe.steps)
        if self.step >= end:
            return
        saved, clock = time.monotonic(), time.process_time()
        while self.step < end:
            self._one_step()
            if self.step % 100 == 0:
                self.seconds += time.process_time() - clock
                clock = time.process_time()
                yield self.step, sum(self.losses[-100:]) / 100
            if time.monotonic() - saved > save_every_s:
                self.save()
                saved = time.monotonic()
        self.seconds += time.process_time() - clock
        self.save()

    def _one_step(self) -> None:
        recipe, backbone = self.recipe, self.backbone
        batch = make_batch(self.step, recipe, backbone, self.stock)
        noise_source = torch.Generator().manual_seed(recipe.seed * 10_000_019 + self.step)
        noise = torch.randn(batch.latents.shape, generator=noise_source).to(backbone.device)
        # One timestep a row, spread evenly over the schedule: the same expectation with less variance.
        offset = torch.rand(1, generator=noise_source)
        spread = (torch.arange(recipe.batch) + offset) / recipe.batch
        noisy = torch.rand(recipe.batch, generator=noise_source) < recipe.noisy_share
        spread = torch.where(noisy, NOISY[0] + (NOISY[1] - NOISY[0]) * spread, spread)
        last = backbone.num_train_timesteps - 1
        t_B = (spread * backbone.num_train_timesteps).long().clamp_max(last).to(backbone.device)
        self._tokens.clear()
        prediction = backbone.predict(
            backbone.add_noise(batch.latents, noise, t_B),
            t_B,
            encode_prompts(backbone, batch.prompts),
            batch.stills,
            (batch.offset, 0.0, 0.0),
        )
        weight = 1 + recipe.subject_weight * batch.share
        error = (prediction - backbone.target(batch.latents, noise, t_B)).square() * weight
        loss = error.mean() / weight.mean()
        # The video's tokens come first, then the still's.
        covered = self.where(self._tokens[0])[:, : batch.share[0].numel(), 0]
        where_weight = recipe.where_weight * max(0.1, 1 - self.step / (0.3 * recipe.steps))
        loss = loss + where_weight * binary_cross_entropy_with_logits(covered, batch.share.flatten(1))
        for group in self.optimiser.param_groups:
            group["lr"] = rate_at(self.step, recipe)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        keep = min(recipe.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - keep)
        self.losses.append(float(loss.detach()))
        self.step += 1
