"""What diffusers' script asks for, made on the spot: a CogVideoX folder in diffusers' layout and clips with captions.

The transformer has the measured model's real shape and random weights. Codec and text encoder are small: a script that
encodes while it trains is thereby spared the cost of the real ones, and its memory figures theirs. The clips are
uncompressed YUV4MPEG2, which decord reads under any name and which needs no encoder to write.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.training.models import Measured

CAPTION = "a red ball rolls over a wooden table"
SCHEDULER = "CogVideoXDPMScheduler"


def write_model(model: Measured, folder: Path, device: str, dtype: torch.dtype) -> None:
    """Writes ``transformer``, ``vae``, ``text_encoder``, ``tokenizer`` and ``scheduler`` under ``folder``."""
    built: Any = model.build(device, dtype)
    index: dict[str, Any] = {"_class_name": "CogVideoXPipeline", "scheduler": ["diffusers", SCHEDULER]}
    for part in ("transformer", "vae", "text_encoder", "tokenizer"):
        module = getattr(built, part)
        module.save_pretrained(folder / part)
        library = "diffusers" if part in ("transformer", "vae") else "transformers"
        index[part] = [library, type(module).__name__]
    config = {**built.new_scheduler().config, "_class_name": SCHEDULER}
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    (folder / "model_index.json").write_text(json.dumps(index))


def write_clips(folder: Path, count: int, frames: int, height: int, width: int) -> None:
    """``count`` clips of noise, with ``videos.txt`` and ``prompts.txt`` that name one a line."""
    folder.mkdir(parents=True)
    names = [f"{index}.mp4" for index in range(count)]
    for index, name in enumerate(names):
        draws = np.random.default_rng(index)
        with (folder / name).open("wb") as out:
            out.write(f"YUV4MPEG2 W{width} H{height} F8:1 Ip A1:1 C420jpeg\n".encode())
            for _ in range(frames):
                out.write(b"FRAME\n" + draws.integers(0, 256, height * width * 3 // 2, dtype=np.uint8).tobytes())
    (folder / "videos.txt").write_text("\n".join(names) + "\n")
    (folder / "prompts.txt").write_text((CAPTION + "\n") * count)
