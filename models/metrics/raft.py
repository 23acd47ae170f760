"""RAFT (Teed and Deng, ECCV 2020) by torchvision, with weights of the user's.

torchvision's ``raft_large`` weights C_T_V1 are the authors' ``raft-things``, which VBench uses; a state dict of that model as
safetensors, or a torch file read with ``weights_only``, is what is loaded. 20 updates, as VBench takes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from models.scorers.clip_tower import file_sha256
from models.subjects.protocols import F32, U8

UPDATES = 20
LEAST = 128  # px: RAFT's correlation pyramid needs this much of each side


def raft_digest(weights: str) -> str:
    """sha256 of a weights file. ``ValueError`` when it is not there; imports no torch."""
    if not Path(weights).is_file():
        raise ValueError(f"raft {weights}: there is no such file. Name the weights of torchvision's raft_large.")
    return file_sha256(weights)


class Raft:
    """Satisfies ``FlowEstimator``. Building it loads the weights strictly."""

    def __init__(self, weights: str) -> None:
        from models.compat import prepare

        prepare()
        import torch
        from torchvision.models.optical_flow import raft_large

        self.name = f"raft_large (sha256 {raft_digest(weights)[:16]})"
        model: Any = raft_large(weights=None)
        try:
            if weights.endswith(".safetensors"):
                from safetensors.torch import load_file

                state = load_file(weights)
            else:
                state = torch.load(weights, map_location="cpu", weights_only=True)
            model.load_state_dict(state)
        except Exception as error:  # each reader has its own family of errors; the user needs the file's name
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ValueError(f"raft {weights}: not the weights of torchvision's raft_large ({first})") from error
        self.model = model.eval().requires_grad_(False)

    def flow(self, before_HWC: U8, after_HWC: U8) -> F32:
        import torch

        height, width = before_HWC.shape[:2]
        # Borders are repeated until both sides divide by 8, as the authors pad; the flow's padding is cut off again.
        tall, wide = max(LEAST, -(-height // 8) * 8), max(LEAST, -(-width // 8) * 8)
        top, left = (tall - height) // 2, (wide - width) // 2
        pad = ((top, tall - height - top), (left, wide - width - left), (0, 0))
        pair = [np.pad(p, pad, mode="edge").transpose(2, 0, 1)[None] for p in (before_HWC, after_HWC)]
        with torch.inference_mode():
            first, second = (torch.from_numpy(p.astype(np.float32) / 127.5 - 1.0) for p in pair)
            found = self.model(first, second, num_flow_updates=UPDATES)[-1][0]
        flow = found.numpy().transpose(1, 2, 0)
        return np.ascontiguousarray(flow[top : top + height, left : left + width], dtype=np.float32)
