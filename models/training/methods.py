"""What a step optimises: supervised fine-tuning, or direct preference optimisation against the merged-SFT model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from models.backbones.base import Backbone
from models.training.adapter import AdapterState
from models.training.batch import Batch, PreferenceBatch
from models.training.lora import LoraSpec, add_lora, attach_adapter, only_adapters
from models.training.objective import denoising_error_B


@dataclass(frozen=True)
class StepOutput:
    """``loss`` is a mean over the batch's samples, and so is every metric (detached scalars)."""

    loss: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)


class Method(Protocol):
    """Owns its roles (policy, reference) and its loss; knows nothing of optimisers, steps or checkpoints."""

    @property
    def adapter(self) -> str:
        """Name of the one adapter that trains."""

    def attach(self, backbone: Backbone, seed: int) -> None:
        """Puts the adapters of all roles on the backbone and leaves the policy active."""

    def loss(self, backbone: Backbone, batch: Any) -> StepOutput: ...

    def identity(self) -> dict[str, Any]:
        """Plain data that a checkpoint of this method must agree with to be resumed."""


@dataclass(frozen=True)
class FrozenAdapter:
    """An adapter that takes part in every forward and never trains, such as the merged SFT under DPO."""

    state: AdapterState
    name: str = "sft"
    weight: float = 1.0


@dataclass(frozen=True)
class Sft:
    """Mean squared error of the prediction on the video's latents; references condition, and are not scored."""

    lora: LoraSpec
    adapter: str = "sft"
    under: Sequence[FrozenAdapter] = ()

    def attach(self, backbone: Backbone, seed: int) -> None:
        _attach(backbone, self.under, self.lora, self.adapter, seed)

    def loss(self, backbone: Backbone, batch: Batch) -> StepOutput:
        error_B = denoising_error_B(
            backbone, batch.latents_BCFHW, batch.noise_BCFHW, batch.t_B, batch.text_BLD, batch.references_BRCHW
        )
        return StepOutput(error_B.mean())

    def identity(self) -> dict[str, Any]:
        return {"method": "sft", **_identity(self.lora, self.under)}


@dataclass(frozen=True)
class Dpo:
    """Diffusion-DPO on a LoRA whose reference is the same module with only that LoRA off.

    With e = mean squared error of the prediction (float32, over all latent dimensions) and the same noise and timestep
    for winner w and loser l:

        inside = -(beta / 2) w(t) [(e_w - e_w_ref) - (e_l - e_l_ref)]
        loss   = -log sigmoid(inside) + lambda_sft e_w

    after arXiv 2311.12908 eq. 14, with the 1/2 (diffusers' example leaves it out, so a beta from there counts double)
    and a constant w by default (arXiv 2501.13918 finds the time-weighted form worse). ``weighting="epsilon"`` multiplies
    by alpha_t^2, which makes the v-errors epsilon-errors. ``base`` holds the merged SFT and stays on for both roles;
    turning every adapter off would silently make the raw model the reference. At B = 0 both roles agree, so the first
    loss is ln 2 whatever the dropout. beta 500 on mean errors is where the sibling papers agree; the useful range is
    100 to 5000.

    Metrics: ``winner_drift`` = e_w - e_w_ref should not rise. Loss and accuracy look perfect while it does (likelihood
    displacement, arXiv 2511.19049): a StopRule on it ends the run.
    """

    lora: LoraSpec
    base: Sequence[FrozenAdapter]
    beta: float = 500.0
    weighting: Literal["one", "epsilon"] = "one"
    lambda_sft: float = 0.0
    adapter: str = "dpo"

    def __post_init__(self) -> None:
        if not self.base:
            raise ValueError("DPO needs the merged SFT adapter as its base: without it the reference is the raw model")
        if self.beta <= 0 or self.lambda_sft < 0:
            raise ValueError(f"DPO needs beta > 0 and lambda_sft >= 0, not {self.beta} and {self.lambda_sft}")
        if self.weighting not in ("one", "epsilon"):
            raise ValueError(f"DPO weighting {self.weighting!r} is neither 'one' nor 'epsilon'")

    def attach(self, backbone: Backbone, seed: int) -> None:
        _attach(backbone, self.base, self.lora, self.adapter, seed)

    def loss(self, backbone: Backbone, batch: PreferenceBatch) -> StepOutput:
        with torch.no_grad(), only_adapters(backbone, [frozen.name for frozen in self.base]):
            reference_w, reference_l = self._errors(backbone, batch)
        # The policy's forward comes last and its adapters stay on: its backward may have to compute it again.
        error_w, error_l = self._errors(backbone, batch)
        drift_w, drift_l = error_w - reference_w, error_l - reference_l
        inside_B = -0.5 * self.beta * self._weight_B(backbone, batch.t_B) * (drift_w - drift_l)
        loss = (-F.logsigmoid(inside_B) + self.lambda_sft * error_w).mean()
        with torch.no_grad():
            # A tie is half right; counting it wrong would show 0 at the start, where every pair ties.
            right_B = (inside_B > 0).float() + 0.5 * (inside_B == 0).float()
            metrics = {
                "accuracy": right_B.mean(),
                "margin": inside_B.mean(),
                "winner_error": error_w.mean(),
                "loser_error": error_l.mean(),
                "winner_drift": drift_w.mean(),
                "loser_drift": drift_l.mean(),
            }
        return StepOutput(loss, {name: value.detach() for name, value in metrics.items()})

    def _errors(self, backbone: Backbone, batch: PreferenceBatch) -> tuple[Tensor, Tensor]:
        """(winner_B, loser_B) in one forward of 2 B samples."""
        references = batch.references_BRCHW
        errors = denoising_error_B(
            backbone,
            torch.cat([batch.winner_BCFHW, batch.loser_BCFHW]),
            torch.cat([batch.noise_BCFHW, batch.noise_BCFHW]),
            torch.cat([batch.t_B, batch.t_B]),
            torch.cat([batch.text_BLD, batch.text_BLD]),
            None if references is None else torch.cat([references, references]),
        )
        winner, loser = errors.chunk(2)
        return winner, loser

    def _weight_B(self, backbone: Backbone, t_B: Tensor) -> Tensor | float:
        return 1.0 if self.weighting == "one" else backbone.signal_and_noise(t_B)[0].square()

    def identity(self) -> dict[str, Any]:
        own = {"beta": self.beta, "weighting": self.weighting, "lambda_sft": self.lambda_sft}
        return {"method": "dpo", **own, **_identity(self.lora, self.base)}


def _attach(backbone: Backbone, frozen: Sequence[FrozenAdapter], lora: LoraSpec, adapter: str, seed: int) -> None:
    for part in frozen:
        attach_adapter(backbone, part.state, part.name, trainable=False, weight=part.weight)
    add_lora(backbone, lora, adapter, seed)


def _identity(lora: LoraSpec, frozen: Sequence[FrozenAdapter]) -> dict[str, Any]:
    parts = [{"name": part.name, "weight": part.weight, "sha256": part.state.digest()} for part in frozen]
    return {"lora": asdict(lora), "frozen": parts}
