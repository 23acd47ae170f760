"""diffusers' own LoRA training script for CogVideoX, run as published from a checkout that the user names.

It keeps the clips' latents in memory and encodes each caption at the step that uses it.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch

from benchmarks.training.model_folder import write_clips, write_model
from benchmarks.training.models import Measured
from benchmarks.training.peers.job import Job, PeerError

SCRIPT = Path("examples", "cogvideo", "train_cogvideox_lora.py")
CLIPS = 2


def trainer(checkout: Path, model: Measured, job: Job) -> Callable[[], object]:
    """Its ``main`` on a random model and clips of noise."""
    script = checkout / SCRIPT
    if not script.is_file():
        raise PeerError(f"{script} is missing: --diffusers-checkout is the root of a clone of huggingface/diffusers")
    frames, height, width = model.size
    folder, clips = job.folder / model.name, job.folder / "clips"
    if not folder.exists():
        write_model(model, folder, job.device, torch.bfloat16 if job.half else torch.float32)
        write_clips(clips, CLIPS, *model.size)
    arguments = {
        "pretrained_model_name_or_path": folder,
        "instance_data_root": clips,
        "caption_column": "prompts.txt",
        "video_column": "videos.txt",
        "height": height,
        "width": width,
        "max_num_frames": frames,
        "rank": job.rank,
        "lora_alpha": job.rank,
        "train_batch_size": job.samples,
        "max_train_steps": job.steps,
        "checkpointing_steps": job.steps + 1,
        "mixed_precision": "bf16" if job.half else "no",
        "optimizer": "adamw",
        "lr_scheduler": "constant",
        "lr_warmup_steps": 0,
        "learning_rate": 1e-4,
        "seed": 0,
        "output_dir": job.work,
    }
    words = [word for key, value in arguments.items() for word in (f"--{key}", str(value))]
    argv = [str(script), *words, *(["--gradient_checkpointing"] if job.checkpointing else [])]

    def run() -> None:
        with mock.patch.object(sys, "argv", argv):
            runpy.run_path(str(script), run_name="__main__")

    return run
