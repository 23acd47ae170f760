"""Oracles: what a clip of 24 pixels shows, told by a small network that was trained on the renderer's truth.

They answer for generated clips what the truth answers for rendered ones: which subject, which background, which motion,
how far and how much larger, and how clean. Their own accuracy on real renders and on codec round trips is in their card.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinyworld import difficulty as d
from tinyworld.world import Identity, draw_identity, generator

FRAMES, SIDE = 9, 24
WINDOW = 16
"""Side of the subject's window in pixels."""
HEADS: dict[str, tuple[str, ...]] = {
    "background": d.BACKGROUNDS,
    "motion": d.MOTIONS,
    "shape": d.SHAPES,
    "pattern": d.PATTERNS,
    "base": tuple(d.COLOURS),
    "accent": tuple(d.COLOURS),
}
IDENTITY = ("shape", "pattern", "base", "accent")
DEFAULT = Path(__file__).resolve().parent.parent / "models" / "embedded" / "oracles"


class OracleNet(nn.Module):
    """Clips (B, 3, 9, 24, 24) in [-1, 1] to logits of ``HEADS``, the subject's mask and the corruption.

    Each frame alone tells where the subject is and on what; what it is, a third branch tells from the subject's window,
    brought to one size; how it moves, a fourth from all frames stacked as channels.
    """

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        w = width
        self.stem = nn.Sequential(_conv(5, w), _conv(w, 2 * w, 2))
        self.deep = nn.Sequential(_conv(2 * w, 2 * w), _conv(2 * w, 3 * w))
        self.where = nn.Conv2d(3 * w, 1, 1)
        self.subject = nn.Sequential(
            _conv(3, 2 * w), _conv(2 * w, 4 * w, 2), _conv(4 * w, 4 * w), _conv(4 * w, 6 * w, 2), nn.Flatten()
        )
        self.told = nn.Sequential(nn.Linear(6 * w * (WINDOW // 4) ** 2, 6 * w), nn.SiLU())
        self.behind = nn.Sequential(_conv(3 * w, 3 * w, 2))
        self.moving = nn.Sequential(
            _conv(3 * FRAMES, 2 * w), _conv(2 * w, 3 * w, 2), _conv(3 * w, 3 * w), _conv(3 * w, 4 * w, 2)
        )
        self.motion = nn.Sequential(nn.Linear(4 * w * 36, 128), nn.SiLU(), nn.Linear(128, len(d.MOTIONS)))
        self.background = nn.Linear(3 * w, len(d.BACKGROUNDS))
        self.identity = nn.ModuleDict({name: nn.Linear(6 * w, len(HEADS[name])) for name in IDENTITY})
        self.corruption = nn.Sequential(nn.Linear(3 * w, 32), nn.SiLU(), nn.Linear(32, 1))

    def forward(self, clip_BCFHW: Tensor, frames: Sequence[int] = tuple(range(FRAMES))) -> dict[str, Tensor]:
        """``frames``: those that the first branch looks at. ``mask`` is (B, frames, 12, 12) logits, ``corruption`` (B,)."""
        batch = len(clip_BCFHW)
        seen = clip_BCFHW[:, :, list(frames)].transpose(1, 2).flatten(0, 1)
        axis = torch.linspace(-1, 1, SIDE, device=seen.device)
        place = torch.stack(torch.meshgrid(axis, axis, indexing="ij")).expand(len(seen), -1, -1, -1)
        features = self.deep(self.stem(torch.cat([seen, place], dim=1)))
        mask = self.where(features)
        about = self.told(self.subject(window_of(seen, mask[:, 0].sigmoid())))
        around = self.behind(features).mean((2, 3))

        def over_frames(values: Tensor) -> Tensor:
            return values.reshape(batch, len(frames), -1).mean(1)

        found = {name: over_frames(head(about)) for name, head in self.identity.items()}
        stacked = clip_BCFHW.transpose(1, 2).flatten(1, 2)
        return found | {
            "background": over_frames(self.background(around)),
            "motion": self.motion(self.moving(stacked).flatten(1)),
            "corruption": over_frames(self.corruption(around))[:, 0].sigmoid(),
            "mask": mask.reshape(batch, len(frames), *mask.shape[2:]),
        }


def window_of(frames_NCHW: Tensor, masks_NHW: Tensor) -> Tensor:
    """The square around each subject, (N, C, ``WINDOW``, ``WINDOW``), by centre and spread of its coverage in 0..1.

    A disc's spread along an axis is half its radius; the window reaches 1.3 radii, so that corners of stars are in it.
    """
    mass = masks_NHW.detach() ** 2 + 1e-6
    axis = (torch.arange(mass.shape[-1], device=mass.device) + 0.5) / mass.shape[-1] * 2 - 1
    total = mass.sum((1, 2))
    x, y = (mass.sum(1) * axis).sum(1) / total, (mass.sum(2) * axis).sum(1) / total
    spread = (mass.sum(1) * (axis - x[:, None]) ** 2).sum(1) + (mass.sum(2) * (axis - y[:, None]) ** 2).sum(1)
    reach = 1.3 * 2 * (spread / total / 2).sqrt()
    zero = torch.zeros_like(x)
    frame = torch.stack([torch.stack([reach, zero, x], 1), torch.stack([zero, reach, y], 1)], 1)
    grid = F.affine_grid(frame, [len(frames_NCHW), 1, WINDOW, WINDOW], align_corners=False)
    return F.grid_sample(frames_NCHW, grid, padding_mode="border", align_corners=False)


def _conv(inner: int, outer: int, stride: int = 1) -> nn.Sequential:
    groups = 8 if outer % 8 == 0 else 1
    return nn.Sequential(nn.Conv2d(inner, outer, 3, stride, 1, bias=False), nn.GroupNorm(groups, outer), nn.SiLU())


@dataclass(frozen=True)
class Seen:
    """What the oracles say of one clip.

    ``travel`` is the way of the subject's centre from the first to the last frame in frame heights, ``growth`` the
    logarithm (base 2) of its last side over its first; ``cleanness`` is 1 for an undisturbed render and 0 for pure noise.
    ``log_probabilities`` holds one array per head, in the order of ``HEADS[name]``.
    """

    background: str
    motion: str
    shape: str
    pattern: str
    base: str
    accent: str
    travel: float
    growth: float
    cleanness: float
    log_probabilities: dict[str, npt.NDArray[np.float32]]

    def score(self, identity: Identity) -> float:
        """Log-probability of this identity, its four attributes taken as independent."""
        told = {"shape": identity.shape, "pattern": identity.pattern, "base": identity.base, "accent": identity.accent}
        return float(sum(self.log_probabilities[name][HEADS[name].index(value)] for name, value in told.items()))


def retrieved(seen: Seen, identity: Identity, others: Sequence[Identity]) -> bool:
    """Whether ``identity`` scores above all ``others``."""
    own = seen.score(identity)
    return all(seen.score(other) < own for other in others if other != identity)


CANDIDATES = 50
"""Identities among which one is looked for."""


def distractors(identity: Identity, purpose: str, index: int) -> list[Identity]:
    """The other ``CANDIDATES`` - 1: unseen toys of the same shape, for the caption tells the shape."""
    rng = generator(purpose, "distractors", index)
    found: list[Identity] = []
    while len(found) < CANDIDATES - 1:
        drawn = replace(draw_identity(rng), shape=identity.shape)
        if drawn.held_out and drawn != identity and drawn not in found:
            found.append(drawn)
    return found


UNTOLD = ("pattern", "base", "accent")
"""What of an identity no caption tells."""
UNTOLD_CHANCE = round((1 / len(d.PATTERNS) + 2 / len(d.COLOURS)) / 3, 4)


def untold_right(seen: Seen, identity: Identity) -> float:
    """The share of pattern, base and accent colour that is as it should be: 0..1, ``UNTOLD_CHANCE`` by chance."""
    return float(np.mean([getattr(seen, name) == getattr(identity, name) for name in UNTOLD]))


def attributes_right(seen: Seen, identity: Identity) -> float:
    """The share of shape, pattern, base and accent colour that is as it should be: 0..1, by chance about 0.1."""
    return float(np.mean([getattr(seen, name) == getattr(identity, name) for name in IDENTITY]))


class Oracles:
    """The trained network; a folder holds ``config.json`` and ``model.safetensors``."""

    def __init__(self, folder: Path = DEFAULT) -> None:
        from safetensors.torch import load_file

        config = json.loads((folder / "config.json").read_text())
        if config["world_version"] != d.WORLD_VERSION:
            raise ValueError(
                f"the oracles in {folder} know world {config['world_version']}, this is {d.WORLD_VERSION}; "
                "train them anew: make embedded"
            )
        self.net = OracleNet(config["width"])
        self.net.load_state_dict(load_file(folder / "model.safetensors"))
        self.net.eval()

    @torch.no_grad()
    def look(self, videos: Sequence[npt.NDArray[np.uint8]], batch: int = 64) -> list[Seen]:
        """Clips (frames, height, width, 3) uint8 RGB of any length and size: brought to 9 frames of 24 x 24 pixels."""
        seen: list[Seen] = []
        for start in range(0, len(videos), batch):
            found = self.net(torch.stack([_brought(video) for video in videos[start : start + batch]]))
            masks = found["mask"].sigmoid()
            logs = {name: F.log_softmax(found[name], -1).numpy() for name in HEADS}
            for row in range(len(masks)):
                answers: dict[str, Any] = {name: HEADS[name][int(logs[name][row].argmax())] for name in HEADS}
                travel, growth = path_of(masks[row])
                seen.append(
                    Seen(
                        **answers,
                        travel=travel,
                        growth=growth,
                        cleanness=1 - float(found["corruption"][row]),
                        log_probabilities={name: logs[name][row] for name in HEADS},
                    )
                )
        return seen


def path_of(mask_FHW: Tensor) -> tuple[float, float]:
    """Travel and growth (see ``Seen``) of a subject's coverage in 0..1, frames x rows x columns."""
    side = mask_FHW.shape[-1]
    axis = (torch.arange(side, dtype=torch.float32) + 0.5) / side
    ends = mask_FHW[[0, -1]].float().clamp_min(0) ** 2  # squared: a faint haze far away must not pull the centre
    mass = ends.sum((1, 2)).clamp_min(1e-4)
    rows = (ends.sum(2) * axis).sum(1) / mass
    columns = (ends.sum(1) * axis).sum(1) / mass
    travel = float(((rows[1] - rows[0]) ** 2 + (columns[1] - columns[0]) ** 2).sqrt())
    return travel, float(0.5 * torch.log2(mass[1] / mass[0]))


def _brought(video: npt.NDArray[np.uint8]) -> Tensor:
    import cv2

    if video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] != 3:
        raise ValueError(f"a video is uint8 (frames, height, width, 3), this is {video.dtype} {video.shape}")
    at = np.round(np.linspace(0, len(video) - 1, FRAMES)).astype(int)
    frames = [
        f if f.shape[:2] == (SIDE, SIDE) else cv2.resize(f, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        for f in video[at]
    ]
    return torch.from_numpy(np.stack(frames).astype(np.float32) / 127.5 - 1).permute(3, 0, 1, 2)
