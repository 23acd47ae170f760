"""The training error of one forward: mean squared error of the prediction, per sample, in float32."""

from __future__ import annotations

from torch import Tensor

from models.backbones.base import Backbone


def squared_error_B(prediction: Tensor, target: Tensor) -> Tensor:
    """(B,) float32: the mean over every other dimension of |prediction - target|^2.

    A mean, not a sum, so that DPO's beta keeps its meaning from one resolution to another; flatten first, so that it
    covers all of C, F, H and W whatever the number of dimensions.
    """
    return (prediction.float() - target.float()).square().flatten(1).mean(1)


def denoising_error_B(
    backbone: Backbone,
    x0_BCFHW: Tensor,
    noise_BCFHW: Tensor,
    t_B: Tensor,
    text_BLD: Tensor,
    references_BRCHW: Tensor | None,
) -> Tensor:
    """(B,) error at timestep t of the video's latents alone; references condition and are not scored.

    For v-prediction this is the plain v-MSE. It equals the x0 error weighted by 1 / (1 - alpha_bar_t), the form of
    CogVideoX's own training code, because x0_hat - x0 = -sigma_t (v_hat - v) and sigma_t^2 = 1 - alpha_bar_t.
    """
    x_t = backbone.add_noise(x0_BCFHW, noise_BCFHW, t_B)
    prediction = backbone.predict(x_t, t_B, text_BLD, references_BRCHW)
    return squared_error_B(prediction, backbone.target(x0_BCFHW, noise_BCFHW, t_B))


def x0_of_prediction(backbone: Backbone, x_t_BCFHW: Tensor, prediction_BCFHW: Tensor, t_B: Tensor) -> Tensor:
    """The clean latents that a prediction implies: alpha x_t - sigma v, or x_t - sigma v for flow matching."""
    alpha, sigma = (part.view(-1, 1, 1, 1, 1) for part in backbone.signal_and_noise(t_B))
    if backbone.prediction == "v":
        return alpha * x_t_BCFHW - sigma * prediction_BCFHW.float()
    return x_t_BCFHW - sigma * prediction_BCFHW.float()
