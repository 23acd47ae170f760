"""Trains the dual encoder: open_clip's own CLIP class at toy size, with a linear aesthetic head upon its embedding.

One contrast for whole frames, over the 80 captions that a frame can tell apart (10 shapes x 8 backgrounds; motion and
camera words vary and say nothing of one frame), and one for crops of subjects, over their appearances, with neighbours that
differ in one attribute. Linear probes of the attributes on the image embedding help both along and are not kept.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinyworld import difficulty as d
from tinyworld.train import text as texts
from tinyworld.train.pictures import SIDE, Pool
from tinyworld.world import CAMERA_WORDS, MOTION_WORDS, generator, phrase

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
CLEAN_SCORE, SPOILT_SCORE = 6.5, 3.5
"""What the aesthetic head is fitted to, on LAION's scale of 1 to 10."""


def model_config() -> dict[str, Any]:
    """open_clip's ``model_cfg``."""
    return {
        "embed_dim": 128,
        "vision_cfg": {"image_size": SIDE, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
        "text_cfg": {
            "context_length": texts.LENGTH,
            "vocab_size": len(texts.vocabulary()),
            "hf_tokenizer_name": "tokenizer",
            "width": 96,
            "heads": 4,
            "layers": 2,
            "pool_type": "eos",
            "eos_id": 1,
            "pad_id": 0,
        },
    }


def preprocess_config() -> dict[str, Any]:
    return {
        "size": [SIDE, SIDE],
        "mode": "RGB",
        "mean": list(MEAN),
        "std": list(STD),
        "interpolation": "bicubic",
        "resize_mode": "squash",
        "fill_color": 0,
    }


@dataclass(frozen=True)
class EncoderRecipe:
    """``closer``: share of clean frames that are shown closer up, at the first step; it falls to ``closer_at_last``."""

    steps: int = 4000
    frames: int = 48
    subjects: int = 16
    rate: float = 2e-3
    closer: float = 0.9
    closer_at_last: float = 0.2
    pool_frames: int = 6000
    pool_subjects: int = 3500
    seed: int = 0


def build() -> Any:
    import open_clip

    config = model_config()
    model = open_clip.CLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"])
    # Half again as fast on a CPU; the weights' values and shapes are the same.
    model.visual.to(memory_format=torch.channels_last)
    return model


def normalised(pictures_NHWC: np.ndarray) -> Tensor:
    """uint8 NHWC to the encoder's input (N, 3, 64, 64)."""
    unit = torch.from_numpy(pictures_NHWC.astype(np.float32) / 255).permute(0, 3, 1, 2)
    return ((unit - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)).contiguous(
        memory_format=torch.channels_last
    )


FRAME_CAPTIONS = len(d.SHAPES) * len(d.BACKGROUNDS)


def frame_captions(rng: np.random.Generator) -> list[str]:
    """The 80 captions, each with a motion and a camera of its own, in the order background x shape."""
    motions, cameras = list(MOTION_WORDS.values()), list(CAMERA_WORDS.values())
    said = []
    for background in d.BACKGROUNDS:
        for shape in d.SHAPES:
            motion = motions[int(rng.integers(len(motions)))]
            camera = cameras[int(rng.integers(len(cameras)))] if rng.random() < 0.3 else ""
            said.append(f"{phrase(shape)} {motion} over {background}{camera}")
    return said


def appearance_of(labels: tuple[int, ...]) -> str:
    shape, pattern, base, accent = labels
    colours = tuple(d.COLOURS)
    return f"a {d.PATTERNS[pattern]} {colours[base]} and {colours[accent]} {d.SHAPES[shape]}"


CELL_CHANNELS = 256
"""Channels of the tower's third stage, whose cells are 16 pixels wide."""


class Probes(nn.Module):
    """Linear readings of the unit embedding, the last one the aesthetic head; and of the third stage's cells: shape or none."""

    def __init__(self, width: int) -> None:
        super().__init__()
        colours = len(d.COLOURS)
        self.frame = nn.ModuleList([nn.Linear(width, len(d.BACKGROUNDS)), nn.Linear(width, len(d.SHAPES))])
        self.crop = nn.ModuleList([nn.Linear(width, n) for n in (len(d.SHAPES), len(d.PATTERNS), colours, colours)])
        self.cells = nn.Conv2d(CELL_CHANNELS, len(d.SHAPES) + 1, 1)
        self.aesthetic = nn.Linear(width, 1)
        nn.init.constant_(self.aesthetic.bias, (CLEAN_SCORE + SPOILT_SCORE) / 2)


def pick_subjects(pool: Pool, count: int, rng: np.random.Generator) -> list[int]:
    """Rows of subjects: anchors, each with up to three that differ from it in one attribute."""
    sizes = (len(d.SHAPES), len(d.PATTERNS), len(d.COLOURS), len(d.COLOURS))
    rows: list[int] = []
    while len(rows) < count:
        anchor = int(rng.integers(len(pool.crops)))
        group = [anchor]
        for _ in range(8):
            changed = list(pool.crop_labels[anchor])
            which = int(rng.integers(4))
            changed[which] = int(rng.integers(sizes[which]))
            row = pool.index.get(tuple(int(v) for v in changed))
            if row is not None and row not in group and len(group) < 4:
                group.append(row)
        rows += [row for row in group if row not in rows]
    return rows[:count]


def augment(pictures: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Small shifts and gains, so that a stock of thousands does for many epochs."""
    moved = np.empty_like(pictures)
    for i, picture in enumerate(pictures):
        dy, dx = (int(v) for v in rng.integers(-3, 4, 2))
        shifted = np.roll(picture, (dy, dx), (0, 1))
        moved[i] = np.clip(shifted * (0.92 + 0.16 * rng.random()) + rng.normal() * 3, 0, 255)
    return moved


def close_up(
    picture: np.ndarray, box: np.ndarray, nearness: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A square window of a frame around its subject, as the encoder sees it, and the subject's box in it.

    At ``nearness`` 0 the window is the whole frame, at 1 it holds little beside the subject.

    A shape that is known from crops is found in frames only when all the sizes between have been shown too.
    """
    side = len(picture)
    left, top, right, bottom = box * side
    window = side ** (1 - nearness) * min(side, 1.2 * max(right - left, bottom - top)) ** nearness
    corner = [
        np.clip(rng.uniform(max(0.0, high - window), min(low, side - window)), 0, side - window)
        if max(0.0, high - window) < min(low, side - window)
        else np.clip((low + high - window) / 2, 0, side - window)
        for low, high in ((top, bottom), (left, right))
    ]
    y, x, n = round(float(corner[0])), round(float(corner[1])), max(8, round(float(window)))
    shown = np.ascontiguousarray(picture[y : y + n, x : x + n])
    how = cv2.INTER_AREA if len(shown) > SIDE else cv2.INTER_CUBIC
    seen = np.clip((box * side - [x, y, x, y]) / n, 0, 1)
    return np.asarray(cv2.resize(shown, (SIDE, SIDE), interpolation=how), np.uint8), seen


def frames_of(pool: Pool, rows: np.ndarray, share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The pool's frames as the encoder sees them, uint8 (N, 64, 64, 3), a ``share`` of the clean ones closer up, and their boxes."""
    nearness = [rng.random() if rng.random() < share else 0.0 for _ in rows]
    both = [close_up(pool.frames[r], pool.boxes[r], n, rng) for r, n in zip(rows, nearness, strict=True)]
    return np.stack([picture for picture, _ in both]), np.stack([box for _, box in both])


def cell_labels(boxes: np.ndarray, shapes: Tensor, side: int) -> Tensor:
    """What each cell of ``side`` x ``side`` shows: the shape where the subject's box covers most of it, the number of shapes
    where it covers nothing, -100 (to be ignored) between. int64 (N, side, side)."""
    edges = np.linspace(0, 1, side + 1)
    across, down = (
        np.clip(np.minimum(edges[1:], boxes[:, [k + 2]]) - np.maximum(edges[:-1], boxes[:, [k]]), 0, None) * side
        for k in (0, 1)
    )
    share = torch.from_numpy(down[:, :, None] * across[:, None, :]).to(shapes.device)
    told = torch.where(share > 0.6, shapes[:, None, None], -100)
    return torch.where(share < 0.02, len(d.SHAPES), told)


def step_loss(
    model: Any, probes: Probes, tokenizer: Any, pool: Pool, recipe: EncoderRecipe, step: int
) -> tuple[Tensor, dict[str, float]]:
    device = probes.aesthetic.weight.device
    rng = generator(recipe.seed, "encoder", step)
    rows = rng.integers(len(pool.frames), size=recipe.frames)
    subjects = pick_subjects(pool, recipe.subjects, rng)
    crops = pool.crops[subjects]
    closer = recipe.closer + (recipe.closer_at_last - recipe.closer) * step / recipe.steps
    frames_NHWC, boxes = frames_of(pool, rows, closer, rng)
    pictures = np.concatenate([augment(frames_NHWC, rng), augment(crops[:, 0], rng), augment(crops[:, 1], rng)])
    captions = [*frame_captions(rng), *(appearance_of(tuple(pool.crop_labels[row])) for row in subjects)]
    tokens = tokenizer(
        captions, padding="max_length", max_length=texts.LENGTH, truncation=True, return_tensors="pt"
    ).input_ids
    told = F.normalize(model.encode_text(tokens.to(device)), dim=-1)
    third: list[Tensor] = []
    hook = model.visual.layer3.register_forward_hook(lambda module, given, out: third.append(out))
    seen = F.normalize(model.encode_image(normalised(pictures).to(device)), dim=-1)
    hook.remove()
    scale = model.logit_scale.exp().clamp(max=100)
    frames, first, second = seen.split([recipe.frames, len(subjects), len(subjects)])
    labels = torch.from_numpy(pool.frame_labels[rows]).to(device)
    # Darkness and blur may hide the shape: spoilt frames teach the background and the score.
    clean = (labels[:, 2] == 0).float()
    wanted = labels[:, 0] * len(d.SHAPES) + labels[:, 1]
    by_caption = F.cross_entropy(scale * frames @ told[:FRAME_CAPTIONS].T, wanted, reduction="none")
    caption = (by_caption * (0.2 + 0.8 * clean)).mean()
    same = torch.arange(len(subjects), device=device)
    names = told[FRAME_CAPTIONS:]
    appearance = torch.stack(
        [F.cross_entropy(scale * a @ b.T, same) for a, b in ((first, names), (second, names), (names, first))]
    ).mean()
    views = (F.cross_entropy(scale * first @ second.T, same) + F.cross_entropy(scale * second @ first.T, same)) / 2
    score = probes.aesthetic(frames)[:, 0]
    aim = torch.where(labels[:, 2] == 0, CLEAN_SCORE, SPOILT_SCORE)
    taste = F.mse_loss(score, aim)
    crop_labels = torch.from_numpy(pool.crop_labels[subjects]).to(device).repeat(2, 1)
    both = torch.cat([first, second])
    probe = sum(
        (F.cross_entropy(10 * head(both), crop_labels[:, i]) for i, head in enumerate(probes.crop)),
        torch.zeros((), device=device),
    )
    for i, head in enumerate(probes.frame):
        probe = probe + (F.cross_entropy(10 * head(frames), labels[:, i], reduction="none") * clean).mean()
    cells = probes.cells(third[0][: recipe.frames])
    shown = cell_labels(boxes, labels[:, 1], cells.shape[-1])
    shown[labels[:, 2] != 0] = -100  # of spoilt frames the box is not known
    local = F.cross_entropy(cells, shown)
    loss = caption + appearance + views + 0.2 * taste + 0.3 * probe + local
    return loss, {
        k: float(v.detach())
        for k, v in {
            "caption": caption,
            "appearance": appearance,
            "views": views,
            "taste": taste,
            "cells": local,
        }.items()
    }


def train(
    work: Path, recipe: EncoderRecipe, out: Path, until: int | None = None, device: str = "cpu"
) -> Iterator[tuple[int, dict[str, float], float]]:
    """Trains or goes on; yields (step, mean losses, CPU seconds) each hundred steps and writes ``out`` at the end."""
    work.mkdir(parents=True, exist_ok=True)
    clock = time.process_time()
    pool = Pool(work / "pictures.npz", recipe.pool_frames, recipe.pool_subjects)
    torch.manual_seed(recipe.seed)
    model, tokenizer = build().to(device), texts.make_tokenizer()
    probes = Probes(model_config()["embed_dim"]).to(device)
    parameters = [*model.parameters(), *probes.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=recipe.rate, betas=(0.9, 0.98), weight_decay=0.02)
    step, seconds, state_file = 0, 0.0, work / "state.pt"
    if state_file.exists():
        state = torch.load(state_file, weights_only=True, map_location=device)
        model.load_state_dict(state["model"])
        probes.load_state_dict(state["probes"])
        optimiser.load_state_dict(state["optimiser"])
        step, seconds = state["step"], state["seconds"]
    saved, recent = time.monotonic(), list[dict[str, float]]()

    def save() -> None:
        aside = state_file.with_suffix(".new")
        torch.save(
            {
                "model": model.state_dict(),
                "probes": probes.state_dict(),
                "optimiser": optimiser.state_dict(),
                "step": step,
                "seconds": seconds,
            },
            aside,
        )
        aside.replace(state_file)

    model.train()
    end = min(recipe.steps, until or recipe.steps)
    started = step
    while step < end:
        rate = recipe.rate * min(1, (step + 1) / 100)
        rate *= 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
        for group in optimiser.param_groups:
            group["lr"] = rate
        loss, parts = step_loss(model, probes, tokenizer, pool, recipe, step)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 5.0)
        optimiser.step()
        recent.append(parts)
        step += 1
        if step % 100 == 0:
            seconds, clock = seconds + time.process_time() - clock, time.process_time()
            yield step, {k: float(np.mean([r[k] for r in recent[-100:]])) for k in recent[-1]}, seconds
        if time.monotonic() - saved > 60:
            save()
            saved = time.monotonic()
    seconds += time.process_time() - clock
    if step > started:
        save()
    yield step, {}, seconds
    if step == recipe.steps:
        write(model, probes, out)


def write(model: Any, probes: Probes, out: Path) -> None:
    """open_clip's layout for ``local-dir:``, and the head as LAION's linear predictor has it."""
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    config = {"model_cfg": model_config(), "preprocess_cfg": preprocess_config()}
    (out / "open_clip_config.json").write_text(json.dumps(config, indent=1) + "\n")
    # Half precision halves the file; open_clip copies it into a float32 model.
    state = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    save_file({k: v.cpu().contiguous() for k, v in state.items()}, out / "open_clip_model.safetensors")
    head = {"weight": probes.aesthetic.weight.detach().cpu(), "bias": probes.aesthetic.bias.detach().cpu()}
    save_file(head, out / "aesthetic_head.safetensors")
    texts.make_tokenizer().save_pretrained(out)
