"""FILM (Reda et al., ECCV 2022), the frame interpolator of Google Research, with weights of the user's.

Code and weights of FILM are under Apache 2.0, so its numbers may be published and sold; AMT's, which are VBench's, may not. The
file is a TorchScript of FILM that takes two pictures (1, 3, H, W), RGB in 0..1, and a time (1, 1), and gives the picture at
that time, as the known port to PyTorch exports it. Opening TorchScript runs what is in it: the file is pinned by its sha256.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.scorers.clip_tower import file_sha256
from models.subjects.protocols import F32, U8

ALIGNED = 64  # px: FILM halves a picture six times


@dataclass(frozen=True)
class FilmSpec:
    """A TorchScript file and the sha256 that it must have."""

    weights: str
    sha256: str

    def digest(self) -> str:
        """The file's sha256. ``ValueError`` when it is not there or another one; runs nothing of it."""
        if not Path(self.weights).is_file():
            raise ValueError(f"film {self.weights}: there is no such file. Name a TorchScript of FILM.")
        found = file_sha256(self.weights)
        if found != self.sha256.lower():
            raise ValueError(f"film {self.weights} has sha256 {found}, but {self.sha256} was asked for")
        return found


class Film:
    """Satisfies ``Interpolator``."""

    def __init__(self, spec: FilmSpec) -> None:
        import torch

        self.name = f"film (sha256 {spec.digest()[:16]})"
        try:
            self.model = torch.jit.load(spec.weights, map_location="cpu").eval().float()
        except RuntimeError as error:
            raise ValueError(
                f"film {spec.weights}: not a TorchScript ({str(error).strip().splitlines()[0]})"
            ) from error

    def middle(self, before_HWC: U8, after_HWC: U8) -> F32:
        """RGB (H, W, 3) in 0..255, half way between the two. Borders are repeated to the size that FILM needs."""
        import torch

        height, width = before_HWC.shape[:2]
        top, left = (-height % ALIGNED) // 2, (-width % ALIGNED) // 2
        pad = ((top, -height % ALIGNED - top), (left, -width % ALIGNED - left), (0, 0))
        pair = [np.pad(p, pad, mode="edge").transpose(2, 0, 1)[None] for p in (before_HWC, after_HWC)]
        with torch.inference_mode():
            first, second = (torch.from_numpy(p.astype(np.float32) / 255.0) for p in pair)
            found = self.model(first, second, torch.full((1, 1), 0.5))[0].clamp(0, 1)
        guess = 255.0 * found.numpy().transpose(1, 2, 0)
        return np.ascontiguousarray(guess[top : top + height, left : left + width], dtype=np.float32)
