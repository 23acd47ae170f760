"""TransNetV2 (Souček and Lokoč, arXiv:2008.04838) as a shot detector, for users who have its weights.

Frames are looked at as 27 x 48 RGB pictures, in windows of 100 of which the middle 50 count, as the authors do it. Parameters
carry the names of the authors' PyTorch state dict, so that the file they publish loads as it is; nothing is downloaded.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.video.shots import Boundary

HEIGHT, WIDTH = 27, 48
WINDOW, STRIDE = 100, 50  # frames
MARGIN = (WINDOW - STRIDE) // 2  # frames on either side that serve as context only

_FILTERS, _STACKS, _BLOCKS, _FEATURES = 16, 3, 2, 1024
_LOOKUP, _SIMILARITY = 101, 128  # frames whose likeness a frame is told; size of what it becomes
_LEVELS = 8  # of each channel in a colour histogram


class WeightsError(ValueError):
    """A weights file is absent or does not hold TransNetV2; the message says which file, what is wrong, and the remedy."""


class _Separable(nn.Module):
    """A 3D convolution in two: over space, then over time with gaps of ``dilation`` frames."""

    def __init__(self, channels: int, filters: int, dilation: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(channels, 2 * filters, (1, 3, 3), padding=(0, 1, 1), bias=False),
            nn.Conv3d(2 * filters, filters, (3, 1, 1), dilation=(dilation, 1, 1), padding=(dilation, 0, 0), bias=False),
        )

    def forward(self, x_bcthw: Tensor) -> Tensor:
        out: Tensor = self.layers(x_bcthw)
        return out


class _DilatedBlock(nn.Module):
    """Four separable convolutions that look 1, 2, 4 and 8 frames away, side by side."""

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        self.Conv3D_1 = _Separable(channels, filters, 1)
        self.Conv3D_2 = _Separable(channels, filters, 2)
        self.Conv3D_4 = _Separable(channels, filters, 4)
        self.Conv3D_8 = _Separable(channels, filters, 8)
        self.bn = nn.BatchNorm3d(4 * filters, eps=1e-3)

    def forward(self, x_bcthw: Tensor) -> Tensor:
        branches = (self.Conv3D_1, self.Conv3D_2, self.Conv3D_4, self.Conv3D_8)
        out: Tensor = self.bn(torch.cat([branch(x_bcthw) for branch in branches], dim=1))
        return out


class _Stack(nn.Module):
    """Blocks with ReLU after each, the first one's output added to the last one's, and space halved."""

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        self.DDCNN = nn.ModuleList(_DilatedBlock(channels if n == 0 else 4 * filters, filters) for n in range(_BLOCKS))

    def forward(self, x_bcthw: Tensor) -> Tensor:
        first = x = functional.relu(self.DDCNN[0](x_bcthw))
        for block in self.DDCNN[1:]:
            x = functional.relu(block(x))
        return functional.avg_pool3d(x + first, (1, 2, 2))


class _FrameSimilarity(nn.Module):
    """How much each frame is like its neighbours in what the stacks make of them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.projection = nn.Linear(channels, _SIMILARITY)
        self.fc = nn.Linear(_LOOKUP, _SIMILARITY)

    def forward(self, stacks: list[Tensor]) -> Tensor:
        pooled_btc = torch.cat([x.mean(dim=(3, 4)) for x in stacks], dim=1).transpose(1, 2)
        return functional.relu(self.fc(_likeness(functional.normalize(self.projection(pooled_btc), dim=2))))


class _ColorHistograms(nn.Module):
    """How much each frame is like its neighbours in its colours."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(_LOOKUP, _SIMILARITY)

    def forward(self, frames_bthwc: Tensor) -> Tensor:
        batch, time = frames_bthwc.shape[:2]
        level = frames_bthwc.long() * _LEVELS // 256
        bins = (level[..., 0] * _LEVELS + level[..., 1]) * _LEVELS + level[..., 2]
        counts = torch.zeros(batch, time, _LEVELS**3, device=frames_bthwc.device)
        counts.scatter_add_(2, bins.flatten(2), torch.ones_like(bins.flatten(2), dtype=counts.dtype))
        return functional.relu(self.fc(_likeness(functional.normalize(counts, dim=2))))


def _likeness(x_btc: Tensor) -> Tensor:
    """Dot products of every frame with the 50 before it, itself and the 50 after it (0 beyond the window): (B, T, 101)."""
    time = x_btc.shape[1]
    products = functional.pad(x_btc @ x_btc.transpose(1, 2), (_LOOKUP // 2, _LOOKUP // 2))
    places = torch.arange(time, device=x_btc.device)[:, None] + torch.arange(_LOOKUP, device=x_btc.device)
    return products.gather(2, places.expand(x_btc.shape[0], -1, -1))


class TransNetV2(nn.Module):
    """Log odds, for every frame, of being the last of a shot (a gradual change's middle), and of lying in a transition."""

    def __init__(self) -> None:
        super().__init__()
        widths = [_FILTERS * 2**n for n in range(_STACKS)]
        self.SDDCNN = nn.ModuleList(_Stack(3 if n == 0 else 4 * widths[n - 1], width) for n, width in enumerate(widths))
        self.frame_sim_layer = _FrameSimilarity(4 * sum(widths))
        self.color_hist_layer = _ColorHistograms()
        cells = (HEIGHT >> _STACKS) * (WIDTH >> _STACKS)
        self.fc1 = nn.Linear(4 * widths[-1] * cells + 2 * _SIMILARITY, _FEATURES)
        self.cls_layer1 = nn.Linear(_FEATURES, 1)
        self.cls_layer2 = nn.Linear(_FEATURES, 1)

    def forward(self, frames_bthwc: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 RGB (B, T, 27, 48, 3) to two (B, T)."""
        x = frames_bthwc.permute(0, 4, 1, 2, 3).float() / 255.0
        stacks: list[Tensor] = []
        for stack in self.SDDCNN:
            x = stack(x)
            stacks.append(x)
        flat_btc = x.permute(0, 2, 3, 4, 1).flatten(2)
        told = [self.color_hist_layer(frames_bthwc), self.frame_sim_layer(stacks), flat_btc]
        features = functional.relu(self.fc1(torch.cat(told, dim=2)))  # dropout is for training
        return self.cls_layer1(features).squeeze(2), self.cls_layer2(features).squeeze(2)


# -- weights -------------------------------------------------------------------------------------------------------------


def check_weights(path: str | Path | None) -> str:
    """sha256 of the weights file, once it is known to hold TransNetV2. Raises ``WeightsError``."""
    load_transnet(path)
    with open(str(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_transnet(path: str | Path | None) -> TransNetV2:
    """The network with these weights (a PyTorch state dict), for inference. Raises ``WeightsError``."""
    if path is None:
        raise WeightsError(f"the TransNetV2 detector has no weights. {_REMEDY}")
    if not Path(path).is_file():
        raise WeightsError(f"the TransNetV2 weights {path} are not there. {_REMEDY}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise WeightsError(f"{path} is not a PyTorch state dict ({type(error).__name__}). {_REMEDY}") from error
    network = TransNetV2()
    wanted = network.state_dict()
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path} holds no state dict of tensors. {_REMEDY}")
    wrong = [
        *(f"{name} is missing" for name in wanted if name not in state and not name.endswith("num_batches_tracked")),
        *(f"{name} is not known" for name in state if name not in wanted),
        *(
            f"{name} is {tuple(state[name].shape)} instead of {tuple(value.shape)}"
            for name, value in wanted.items()
            if name in state and state[name].shape != value.shape
        ),
    ]
    if wrong:
        raise WeightsError(f"{path} is not TransNetV2: {wrong[0]}, and {len(wrong) - 1} more differences. {_REMEDY}")
    network.load_state_dict({**wanted, **state})
    return network.eval().requires_grad_(False)


_REMEDY = (
    "Set analyze.shots.transnetv2_weights to transnetv2-pytorch-weights.pth, converted from the authors' release "
    "(github.com/soCzech/TransNetV2, inference-pytorch), or analyze.shots.detector to adaptive"
)


# -- detection -----------------------------------------------------------------------------------------------------------


class TransNetDetector:
    """``frame`` for every frame in order, then ``finish``, as ``ShotDetector``; keeps at most one window of small pictures."""

    def __init__(self, network: TransNetV2, threshold: float, min_shot_s: float) -> None:
        self.network, self.threshold, self.min_shot_s = network, threshold, min_shot_s
        self._window: list[np.ndarray] = []
        self._times: list[tuple[int, float]] = []  # of frames without a verdict
        self._open: bool | None = None  # whether the newest frame with a verdict ends a shot; None before the first
        self._mixed = 0  # frames of the transition that is under way
        self._last_s: float | None = None

    def frame(self, bgr: np.ndarray, index: int, time_s: float) -> list[Boundary]:
        """One frame, uint8 BGR HWC of any size."""
        small = cv2.cvtColor(cv2.resize(bgr, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB)
        self._times.append((index, time_s))
        if not self._window:
            self._window = [small] * MARGIN  # the first frame stands for what was before it
        return self._take(small)

    def finish(self) -> list[Boundary]:
        """The boundaries that were still waiting for later frames; the last frame stands for them."""
        found: list[Boundary] = []
        while self._times:
            found += self._take(self._window[-1])
        return found

    def _take(self, small: np.ndarray) -> list[Boundary]:
        self._window.append(small)
        if len(self._window) < WINDOW:
            return []
        frames = torch.from_numpy(np.stack(self._window))[None]
        with torch.inference_mode():
            last, mixed = (torch.sigmoid(x[0, MARGIN : MARGIN + STRIDE]).tolist() for x in self.network(frames))
        del self._window[:STRIDE]
        now, self._times = self._times[:STRIDE], self._times[STRIDE:]
        found = (self._verdict(*frame, a, b) for frame, a, b in zip(now, last, mixed, strict=False))
        return [boundary for boundary in found if boundary is not None]

    def _verdict(self, index: int, time_s: float, last: float, mixed: float) -> Boundary | None:
        """A shot begins at the first frame after those that end one."""
        ends, was_open = last > self.threshold, self._open
        self._open = ends
        transition = self._mixed
        self._mixed = self._mixed + 1 if mixed > self.threshold or ends else 0
        if ends or not was_open:
            return None
        if self._last_s is not None and time_s - self._last_s < self.min_shot_s:
            return None
        self._last_s = time_s
        return Boundary(index, time_s, "cut" if transition <= 2 else "dissolve")
