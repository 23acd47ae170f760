"""Videos of an adapter while it trains, made by an actor of its own from committed checkpoints: no step waits for one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.contract import Context, StageError
from stages.training.generate import Studio
from stages.training.params import EngineParams

if TYPE_CHECKING:
    from torch import Tensor

    from stages.training.jobs import Job

PREVIEWS = "previews"
"""Event of finished previews: ``step``, ``folder`` and ``fingerprint``."""
POLICY = "policy"


class PreviewStudio:
    """The backbone with all roles of the method attached; each call puts one checkpoint's numbers into the policy."""

    def __init__(self, job: Job, studio: Mapping[str, Any]) -> None:
        from models.training.lora import active_adapters, adapter_parameters, set_adapters, train_mode

        self.studio = Studio(**studio)
        backbone = self.studio.backbone
        job.method.attach(backbone, job.spec.seed)
        self.studio.systems[POLICY] = list(active_adapters(backbone))
        set_adapters(backbone, [])
        train_mode(backbone, None)
        self.parameters = adapter_parameters(backbone, job.method.adapter)

    def make(self, tensors: Mapping[str, Tensor]) -> dict[str, bytes]:
        """A WebM by sample id, each from the sample's own noise, so that checkpoints compare."""
        import torch

        from models.training.randomness import seed_of

        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[name])
        made = {}
        for sample_id in self.studio.reader:
            latents = self.studio.sample(POLICY, sample_id, seed_of("preview", sample_id))
            made[sample_id] = self.studio.video(latents)
        return made


class Previews:
    """Hands checkpoints to the actor and takes its videos when they are there. ``poll`` never waits.

    While one checkpoint is being sampled later ones are passed over: an actor that is slower than training shows fewer.
    """

    def __init__(self, ctx: Context, params: EngineParams, job: Job) -> None:
        assert params.previews is not None
        if params.engine != "ray":
            raise StageError("previews need an actor beside the training; set engine: ray, or previews: null")
        import ray

        self.ctx, self.every, self.home = ctx, params.previews.every, Path(job.home)
        studio = {
            "backbone": job.backbone,
            "sampling": params.previews.sampling,
            "systems": [],
            "cache": job.cache,
            "entries": sorted(job.entries, key=lambda e: e.sample_id)[: params.previews.prompts],
        }
        gpus = params.previews.sampling.workers_gpus
        wanted = params.num_workers * params.gpus_per_worker + gpus
        there = ray.cluster_resources().get("GPU", 0.0)
        if gpus and there < wanted:
            raise StageError(
                f"training and its previews need {wanted:g} GPUs, the cluster has {there:g}; set previews: null, or "
                "previews.sampling.workers_gpus: 0"
            )
        self._ray = ray
        # No CPU of its own: the actor must never hold the one that a training worker waits for.
        self._actor: Any = ray.remote(num_cpus=0, num_gpus=gpus)(PreviewStudio).remote(job, studio)
        self._pending: tuple[int, Any] | None = None
        self._last = 0

    def checkpoint(self, step: int) -> None:
        """A checkpoint is committed; sampled when ``every`` steps have passed since the last one that was."""
        from models.training.adapter import read_tensors
        from models.training.checkpoint import checkpoint_path

        if self._pending is not None or step // self.every == self._last // self.every:
            return
        folder = checkpoint_path(self.home / "checkpoints", step)
        averaged = folder / "ema.safetensors"
        try:
            tensors, _ = read_tensors(averaged if averaged.exists() else folder / "adapter.safetensors")
        except ValueError:
            return  # newer checkpoints have taken its place; one of them comes next
        self._last, self._pending = step, (step, self._actor.make.remote(tensors))

    def poll(self, wait_s: float = 0.0) -> None:
        if self._pending is None:
            return
        step, reference = self._pending
        ready, _ = self._ray.wait([reference], timeout=wait_s)
        if not ready:
            return
        self._pending = None
        try:
            videos = self._ray.get(reference)
        except Exception as error:  # a preview that fails must not cost the training
            self.ctx.event("preview_failed", step=step, error=str(error).strip().splitlines()[-1])
            return
        folder = self.home / PREVIEWS / f"step_{step:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        for sample_id, video in videos.items():
            (folder / f"{sample_id}.webm").write_bytes(video)
        self.ctx.event(PREVIEWS, step=step, folder=str(folder), fingerprint=self.ctx.fingerprint)

    def close(self, wait_s: float) -> None:
        """Take what is under way, if it comes soon, and let the actor's resources go."""
        self.poll(wait_s)
        self._ray.kill(self._actor)
