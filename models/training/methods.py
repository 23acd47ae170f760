"""What a step optimises: supervised fine-tuning, or direct preference optimisation against the merged-SFT model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from models.backbones.base import Backbone
from models.training.adapter import AdapterState
from models.training.batch import Batch, PreferenceBatch
from models.training.lora import (
    LoraSpec,
    adapter_parameters,
    adapter_state,
    add_lora,
    attach_adapter,
    only_adapters,
    set_adapters,
)
from models.training.objective import denoising_error_B


@dataclass(frozen=True)
class StepOutput:
    """``loss`` is a mean over the batch's samples, and so is every metric (detached scalars).

    ``error_B`` is the denoising error of each sample (detached), for the picture of error against timestep.
    """

    loss: Tensor
    error_B: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)


class Method(Protocol):
    """Owns its roles (policy, reference) and its loss; knows nothing of optimisers, steps or checkpoints."""

    @property
    def adapter(self) -> str:
        """Name of the one adapter that trains."""

    def attach(self, backbone: Backbone, seed: int) -> None:
        """Puts the adapters of all roles on the backbone and leaves the policy active."""

    def loss(self, backbone: Backbone, batch: Any) -> StepOutput: ...

    def after_step(self, backbone: Backbone, step: int) -> None:
        """Called when optimiser step ``step`` (from 1) is done."""

    def tensors(self, backbone: Backbone) -> Mapping[str, Tensor]:
        """Live tensors beside the adapter's own that change as it trains; a checkpoint keeps them."""

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
        loss = error_B.mean()
        metrics = {f"{batch.kind}_loss": loss.detach()} if batch.kind else {}
        return StepOutput(loss, error_B.detach(), metrics)

    def after_step(self, backbone: Backbone, step: int) -> None:
        """Nothing follows a supervised step."""

    def tensors(self, backbone: Backbone) -> Mapping[str, Tensor]:
        return {}

    def identity(self) -> dict[str, Any]:
        return {"method": "sft", **_identity(self.lora, self.under)}


@dataclass(frozen=True)
class Dpo:
    """Diffusion-DPO on a LoRA whose reference is the same module with only that LoRA off.

    With e = mean squared error of the prediction (float32, over all latent dimensions) and the same noise and timestep
    for winner w and loser l:

        inside  = -(beta / 2) w(t) [(e_w - e_w_ref) - (e_l - e_l_ref)]
        sigmoid = -log sigmoid(inside)        hinge = max(0, 1 - inside)        ipo = (inside - 1/2)^2
        loss    = mean over the losers of one of these + lambda_sft e_w

    after arXiv 2311.12908 eq. 14, with the 1/2 (diffusers' example leaves it out, so a beta from there counts double)
    and a constant w by default (arXiv 2501.13918 finds the time-weighted form worse). ``weighting="epsilon"`` multiplies
    by alpha_t^2, which makes v-errors and flow errors epsilon-errors: (1 - t)^2 for flow matching. ``ipo`` is IPO's
    (h - 1 / (2 b))^2 times b^2, with b = beta / 2, so that its size does not hang on beta; its margin stays finite where
    the sigmoid's would grow for ever. A winner's forward is computed once for all of its losers.

    ``base`` holds the merged SFT and stays on for both roles; turning every adapter off would silently make the raw
    model the reference, which must be asked for (``raw_reference``). At B = 0 both roles agree, so the first sigmoid
    loss is ln 2 whatever the dropout. beta 500 on mean errors is where the sibling papers agree; the useful range is
    100 to 5000.

    ``refresh_every`` steps the reference moves to ``refresh_decay`` reference + (1 - ``refresh_decay``) policy (online
    DPO copies every 40, decay 0; RealDPO every 100 with 0.999). It is then a second LoRA on ``base``.

    Metrics: ``winner_drift`` = e_w - e_w_ref should not rise. Loss and accuracy look perfect while it does (likelihood
    displacement, arXiv 2511.19049): a StopRule on it ends the run.
    """

    lora: LoraSpec
    base: Sequence[FrozenAdapter]
    beta: float = 500.0
    objective: Literal["sigmoid", "ipo", "hinge"] = "sigmoid"
    weighting: Literal["one", "epsilon"] = "one"
    lambda_sft: float = 0.0
    refresh_every: int | None = None
    refresh_decay: float = 0.0
    raw_reference: bool = False
    adapter: str = "dpo"
    moving: str = "reference"

    def __post_init__(self) -> None:
        if not self.base and not self.raw_reference:
            raise ValueError(
                "DPO needs the merged SFT adapter as its base: without it the reference is the raw model; say "
                "raw_reference if that is meant"
            )
        if self.beta <= 0 or self.lambda_sft < 0:
            raise ValueError(f"DPO needs beta > 0 and lambda_sft >= 0, not {self.beta} and {self.lambda_sft}")
        for name, value, known in (
            ("objective", self.objective, ("sigmoid", "ipo", "hinge")),
            ("weighting", self.weighting, ("one", "epsilon")),
        ):
            if value not in known:
                raise ValueError(f"DPO {name} {value!r} is none of {', '.join(known)}")
        if self.refresh_every is not None and self.refresh_every < 1:
            raise ValueError(f"DPO refresh_every should be at least 1, not {self.refresh_every}")
        if not 0.0 <= self.refresh_decay < 1.0:
            raise ValueError(f"DPO refresh_decay {self.refresh_decay} is not in [0, 1)")

    def attach(self, backbone: Backbone, seed: int) -> None:
        _attach(backbone, self.base, self.lora, self.adapter, seed)
        if self.refresh_every is not None:
            attach_adapter(backbone, adapter_state(backbone, self.adapter), self.moving)
            set_adapters(backbone, [*(part.name for part in self.base), self.adapter])

    def loss(self, backbone: Backbone, batch: PreferenceBatch) -> StepOutput:
        reference_BK = batch.reference_errors_BK
        if reference_BK is None:
            reference_BK = self.reference_errors(backbone, batch)
        # The policy's forward comes last and its adapters stay on: its backward may have to compute it again.
        error_BK = self._errors(backbone, batch)
        drift_BK = error_BK - reference_BK
        weight_B1 = self._weight_B(backbone, batch.t_B)[:, None]
        inside_BN = -0.5 * self.beta * weight_B1 * (drift_BK[:, :1] - drift_BK[:, 1:])
        error_w = error_BK[:, 0]
        loss = (self._preference(inside_BN).mean(1) + self.lambda_sft * error_w).mean()
        with torch.no_grad():
            # A tie is half right; counting it wrong would show 0 at the start, where every pair ties.
            right_BN = (inside_BN > 0).float() + 0.5 * (inside_BN == 0).float()
            metrics = {
                "accuracy": right_BN.mean(),
                "margin": inside_BN.mean(),
                "winner_error": error_w.mean(),
                "loser_error": error_BK[:, 1:].mean(),
                "winner_drift": drift_BK[:, 0].mean(),
                "loser_drift": drift_BK[:, 1:].mean(),
            }
        return StepOutput(loss, error_w.detach(), {name: value.detach() for name, value in metrics.items()})

    @torch.no_grad()
    def reference_errors(self, backbone: Backbone, batch: PreferenceBatch) -> Tensor:
        """(B, 1 + N) errors of the reference, winner first: the adapters that both roles share and no others."""
        names = [part.name for part in self.base]
        with only_adapters(backbone, [*names, self.moving] if self.refresh_every is not None else names):
            return self._errors(backbone, batch)

    @torch.no_grad()
    def after_step(self, backbone: Backbone, step: int) -> None:
        """Moves the reference, where it moves at all."""
        if self.refresh_every is None or step % self.refresh_every:
            return
        policy = adapter_parameters(backbone, self.adapter)
        for name, parameter in adapter_parameters(backbone, self.moving).items():
            parameter.lerp_(policy[name], 1.0 - self.refresh_decay)

    def tensors(self, backbone: Backbone) -> Mapping[str, Tensor]:
        return {} if self.refresh_every is None else adapter_parameters(backbone, self.moving)

    def _preference(self, inside: Tensor) -> Tensor:
        if self.objective == "ipo":
            return (inside - 0.5).square()
        return F.relu(1.0 - inside) if self.objective == "hinge" else -F.logsigmoid(inside)

    def _errors(self, backbone: Backbone, batch: PreferenceBatch) -> Tensor:
        """(B, 1 + N), winner first, in one forward of B (1 + N) samples."""
        videos = torch.cat([batch.winner_BCFHW[:, None], batch.losers_BNCFHW], dim=1)
        many, references = videos.shape[1], batch.references_BRCHW
        errors = denoising_error_B(
            backbone,
            videos.flatten(0, 1),
            batch.noise_BCFHW.repeat_interleave(many, 0),
            batch.t_B.repeat_interleave(many, 0),
            batch.text_BLD.repeat_interleave(many, 0),
            None if references is None else references.repeat_interleave(many, 0),
        )
        return errors.view(-1, many)

    def _weight_B(self, backbone: Backbone, t_B: Tensor) -> Tensor:
        alpha_B = backbone.signal_and_noise(t_B)[0]
        return torch.ones_like(alpha_B) if self.weighting == "one" else alpha_B.square()

    def identity(self) -> dict[str, Any]:
        names = ("beta", "objective", "weighting", "lambda_sft", "refresh_every", "refresh_decay")
        return {"method": "dpo", **{name: getattr(self, name) for name in names}, **_identity(self.lora, self.base)}


def _attach(backbone: Backbone, frozen: Sequence[FrozenAdapter], lora: LoraSpec, adapter: str, seed: int) -> None:
    for part in frozen:
        attach_adapter(backbone, part.state, part.name, trainable=False, weight=part.weight)
    add_lora(backbone, lora, adapter, seed)


def _identity(lora: LoraSpec, frozen: Sequence[FrozenAdapter]) -> dict[str, Any]:
    parts = [{"name": part.name, "weight": part.weight, "sha256": part.state.digest()} for part in frozen]
    return {"lora": asdict(lora), "frozen": parts}
