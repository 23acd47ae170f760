"""Parameters that several training stages share.

LibraGen leaves rank, learning rate, steps, beta, merge weights and offsets unpublished, so each is configuration; its
default is the closest published relative's, named beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from stages.contract import Params, Resources

if TYPE_CHECKING:
    from models.backbones.load import BackboneSpec
    from models.training.guidance import Guidance
    from models.training.randomness import TimestepSpec


class BackboneParams(Params):
    """Which video model is adapted."""

    family: str = Field("cogvideox", description="cogvideox, wan, hunyuan or ltx")
    weights: str = Field("tiny-random", description="a folder in diffusers' layout, or tiny-random (docs/backbones.md)")
    seed: int = Field(0, description="seed of random weights")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="of the frozen weights")
    references: Literal["after", "before"] = Field("after", description="where references stand in RoPE time")
    reference_gap: float = Field(0.0, ge=0, description="latent frames between the video and its references")

    def spec(self) -> BackboneSpec:
        from models.backbones.load import BackboneSpec

        return BackboneSpec(**self.model_dump())


def backbone_models(params: BackboneParams) -> Mapping[str, str]:
    """The digest that a stage which loads this backbone declares."""
    from models.backbones.load import backbone_digest

    return {"backbone": backbone_digest(params.spec())}


class OffsetBackbone(Params):
    """Of a stage that shifts the positions of references: weights without RoPE are refused with the configuration."""

    backbone: BackboneParams = BackboneParams()

    @model_validator(mode="after")
    def _has_rope(self) -> Self:
        from models.backbones.offsets import check_offsets

        check_offsets(self.backbone.spec())
        return self


class LoraParams(Params):
    """The adapter. Rank 64 and alpha 128 are VideoAlign's (attention projections, dropout 0); rank 128 is DenseDPO's."""

    rank: int = Field(64, ge=1)
    alpha: float = Field(128.0, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: tuple[str, ...] = Field(("to_q", "to_k", "to_v", "to_out.0"), description="module name endings")


class TimestepParams(Params):
    """How training timesteps are drawn; uniform is CogVideoX's own, logit-normal HuMo's and SD3's for flow models."""

    distribution: Literal["uniform", "logit_normal"] = "uniform"
    mean: float = 0.0
    std: float = Field(1.0, gt=0)
    shift: float = Field(1.0, gt=0, description="above 1 towards more noise; HuMo and Wan use 3 to 5 when sampling")
    low: float = Field(0.0, ge=0, lt=1, description="lower end as a share of the training steps")
    high: float = Field(1.0, gt=0, le=1, description="upper end; RealDPO trains on the lower half, 0.5")

    def spec(self) -> TimestepSpec:
        from models.training.randomness import TimestepSpec

        return TimestepSpec(**self.model_dump())


class ScheduleParams(Params):
    """A guidance scale over the denoising; see ``models.training.guidance.Schedule``."""

    kind: Literal["constant", "step", "linear", "cosine", "table"] = "constant"
    start: float = 1.0
    end: float = 1.0
    at: float = Field(0.98, ge=0, le=1, description="where a step happens")
    clock: Literal["t", "share"] = Field(
        "t", description="at and table count noise level t, or the share of steps done"
    )
    table: tuple[tuple[float, float], ...] = ()


class GuidanceParams(Params):
    """Time-dependent guidance. The default is HuMo's released one (papers, A9): text 5 while t > 0.98, then both 3."""

    text: ScheduleParams = ScheduleParams(kind="step", start=5.0, end=3.0)
    reference: ScheduleParams = ScheduleParams(kind="step", start=1.0, end=3.0)
    order: Literal["text-first", "reference-first"] = "reference-first"
    null_reference: Literal["absent", "zeros"] = Field("absent", description="as the SFT dropped its references")
    true_cfg: bool | None = Field(
        None, description="guide by several forwards; null does so except on guidance-distilled models (HunyuanVideo)"
    )

    def build(self) -> Guidance:
        from models.training.guidance import Guidance, Schedule

        return Guidance(
            text=Schedule(**self.text.model_dump()),
            reference=Schedule(**self.reference.model_dump()),
            order=self.order,
            null_reference=self.null_reference,
            true_cfg=self.true_cfg,
        )


class SamplingParams(Params):
    """How videos are sampled and written. 50 steps are CogVideoX's and Phantom's."""

    steps: int = Field(50, ge=1)
    guidance: GuidanceParams = GuidanceParams()
    fps: float = Field(8.0, gt=0, description="frames per second of the written videos; 8 is CogVideoX's")
    workers_cpus: float = Field(1.0, gt=0, description="CPUs of one sampling worker")
    workers_gpus: float = Field(0.0, ge=0, description="GPUs of one sampling worker")

    def needs(self) -> Resources:
        """Of one worker, without which sampling cannot begin."""
        return Resources(self.workers_cpus, self.workers_gpus)


class PreviewParams(Params):
    """Videos from checkpoints, made by an actor beside the training and put into MLflow. It needs room of its own."""

    every: int = Field(500, ge=1, description="steps between two checkpoints that are sampled")
    prompts: int = Field(2, ge=1, description="training samples whose prompts and references are used")
    sampling: SamplingParams = SamplingParams()


class EngineParams(Params):
    """Where the training loop runs, and what is shown of it meanwhile."""

    engine: Literal["ray", "inline"] = Field("ray", description="Ray Train, or this very process")
    num_workers: int = Field(1, ge=1, description="data-parallel workers; the global batch must divide evenly")
    cpus_per_worker: float = Field(1.0, gt=0)
    gpus_per_worker: float = Field(0.0, ge=0)
    foretell_memory: bool | None = Field(
        None, description="say before the start what memory the largest bucket takes; null does where workers have GPUs"
    )
    max_failures: int = Field(2, ge=-1, description="lost workers that Ray replaces before the stage fails; -1 is any")
    storage: str | None = Field(
        None, description="folder for checkpoints that every node sees; null is this machine's work folder"
    )
    previews: PreviewParams | None = Field(None, description="videos of the adapter while it trains; null makes none")

    def needs(self) -> Resources:
        """Of all workers: a training starts with every one of them or not at all."""
        if self.engine == "inline":
            return Resources()
        return Resources(self.num_workers * self.cpus_per_worker, self.num_workers * self.gpus_per_worker)
