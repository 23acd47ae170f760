"""Our metrics beside reference implementations on the same frames: python -m benchmarks.metric_agreement --vbench DIR --work DIR

VBench's own functions are read from a checkout of github.com/Vchitect/VBench, CLIPScore from torchmetrics, which is installed
apart into the work folder. Both sides get the same frames and the same model behind the formula, so what is compared is the
formula: what is kept of frames, pairs and features, and how they are averaged.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch

from models.compat import prepare
from models.metrics.catalogue import METRICS
from models.metrics.flow import Flow, gray
from models.metrics.interpolation import DisInterpolator
from models.metrics.tools import Tools
from models.subjects.frames import clip_frames, picture
from models.subjects.protocols import F32, U8

TORCHMETRICS = ("torchmetrics==1.9.0", "lightning-utilities==0.15.3")
WITHIN = 1e-4
PROMPT = "a toy moves left over grass"
FPS = 8.0


# --- the model behind both sides -------------------------------------------------------------------------------------


class Grid:
    """A picture as its mean colours in an 8 x 8 grid over ``black``, a text as the waves of its letters; not of unit length."""

    name = "grid/1"

    def __init__(self, black: float = 100.0) -> None:
        self.black = black

    def features(self, pictures: Sequence[U8]) -> torch.Tensor:
        import cv2

        cells = [cv2.resize(p, (8, 8), interpolation=cv2.INTER_AREA).astype(np.float32).ravel() for p in pictures]
        return torch.from_numpy(np.stack(cells) - self.black)

    def text(self, words: str) -> torch.Tensor:
        return sum((1.1 + (torch.arange(192) * (0.01 * ord(c))).sin() for c in words), torch.zeros(192))

    def encode(self, pictures: Sequence[U8]) -> F32:
        return np.asarray(torch.nn.functional.normalize(self.features(pictures), dim=1).numpy(), np.float32)

    def images(self, pictures: Sequence[bytes]) -> F32:
        return self.encode([picture(p, "frame") for p in pictures])

    def texts(self, captions: Sequence[str]) -> F32:
        rows = torch.stack([self.text(c) for c in captions])
        return np.asarray(torch.nn.functional.normalize(rows, dim=1).numpy(), np.float32)


class DisFlow:
    """DIS in the place of RAFT, whose weights are not needed to compare what is made of a flow."""

    name = "dis"

    def flow(self, before_HWC: U8, after_HWC: U8) -> F32:
        first, second = gray(np.stack([before_HWC, after_HWC]))
        return np.asarray(Flow()(first, second), np.float32)


def tools(clip: Grid) -> Tools:
    head = np.linspace(-1.0, 1.0, 192, dtype=np.float32)
    return Tools(
        fps=FPS,
        clip=clip,
        aesthetic=lambda rows: rows @ head + 5.0,
        dino=Grid(),
        flow=DisFlow(),
        interpolator=DisInterpolator(),
    )


POSITIVE = Grid(black=0.0)

# --- reference implementations ---------------------------------------------------------------------------------------


def vbench(checkout: Path) -> Callable[[str], ModuleType]:
    """Opens files of a checkout by name; what they import and the formulas do not use is stood in for."""
    package = ModuleType("vbench")
    package.__path__ = [str(checkout / "vbench")]
    sys.modules["vbench"] = package
    for name in (
        "vbench.utils", "vbench.third_party", "vbench.third_party.RAFT", "vbench.third_party.RAFT.core",
        "vbench.third_party.RAFT.core.raft", "vbench.third_party.RAFT.core.utils_core",
        "vbench.third_party.RAFT.core.utils_core.utils", "vbench.third_party.amt", "vbench.third_party.amt.utils",
        "vbench.third_party.amt.utils.utils", "vbench.third_party.amt.utils.build_utils", "clip", "omegaconf", "easydict",
    ):  # fmt: skip
        stub = ModuleType(name)
        stub.__getattr__ = lambda attribute: None  # type: ignore[method-assign]
        stub.__path__ = []
        sys.modules[name] = stub
    return lambda name: importlib.import_module(f"vbench.{name}")


def vbench_values(open_file: Callable[[str], ModuleType], video: U8) -> dict[str, float]:
    grid = Grid()
    frames = torch.from_numpy(video.copy()).permute(0, 3, 1, 2)
    back = lambda pictures: grid.features([p.permute(1, 2, 0).numpy().astype(np.uint8) for p in pictures])  # noqa: E731
    alone = {
        "load_video": lambda path: frames,
        "dino_transform": lambda n: lambda x: x,
        "clip_transform": lambda n: lambda x: x,
    }

    flicker = open_file("temporal_flickering")
    found = {"temporal_flicker": (255.0 - float(np.mean(flicker.mae_seq(list(video))))) / 255.0}

    subject = open_file("subject_consistency")
    vars(subject).update(alone)
    found["subject_consistency"] = subject.subject_consistency(back, ["video"], "cpu", False)[0]

    tower = SimpleNamespace(encode_image=back, eval=lambda: None)
    background = open_file("background_consistency")
    vars(background).update(alone)
    found["background_consistency"] = background.background_consistency(tower, None, ["video"], "cpu", False)[0]

    aesthetic = open_file("aesthetic_quality")
    vars(aesthetic).update(alone)
    head = torch.nn.Linear(192, 1)
    with torch.no_grad():
        head.weight.copy_(torch.linspace(-1.0, 1.0, 192)[None])
        head.bias.fill_(5.0)
    found["aesthetic"] = aesthetic.laion_aesthetic(head, tower, ["video"], "cpu")[0]

    degree = open_file("dynamic_degree").DynamicDegree
    moving: Any = object.__new__(degree)
    moving.set_params(frame=frames[:1], count=len(video))
    flow = DisFlow()
    flows = (torch.from_numpy(flow.flow(a, b)).permute(2, 0, 1)[None] for a, b in pairwise(video))
    scores = [moving.get_score(frames[:1], found_flow) for found_flow in flows]
    found["dynamic_degree"] = float(moving.check_move(scores))

    smooth = open_file("motion_smoothness")
    score: Any = object.__new__(smooth.MotionSmoothness)
    score.fp = smooth.FrameProcess()
    middle = DisInterpolator()
    kept = video[::2]
    guessed: list[Any] = []
    for before, after in pairwise(kept):
        guessed += [before.astype(np.float32), np.asarray(middle.middle(before, after))]
    found["motion_smoothness"] = score.vfi_score([f.astype(np.float32) for f in video], [*guessed, kept[-1]])
    found["motion_smoothness"] = (255.0 - found["motion_smoothness"]) / 255.0
    return found


def clip_score_of(folder: Path) -> Any:
    """torchmetrics' CLIPScore, installed into ``folder`` where it is not yet."""
    if not (folder / "torchmetrics").is_dir():
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder), *TORCHMETRICS]
        subprocess.run(command, check=True)
    sys.path.insert(0, str(folder))
    return importlib.import_module("torchmetrics.functional.multimodal").clip_score


def torchmetrics_values(clip_score: Any, video: U8) -> dict[str, float]:
    """CLIPScore is 100 max(cosine, 0) a picture, and no cosine with ``POSITIVE`` is below 0: the mean over frames is CLIP-T x 100."""
    grid = POSITIVE

    class Model(torch.nn.Module):
        """HuggingFace's interface in front of the grid."""

        config = SimpleNamespace(text_config=SimpleNamespace(max_position_embeddings=77))

        def get_image_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
            return grid.features([p.permute(1, 2, 0).numpy().astype(np.uint8) for p in pixel_values])

        def get_text_features(self, input_ids: Sequence[str], attention_mask: object) -> torch.Tensor:
            return torch.stack([grid.text(PROMPT) for _ in input_ids])

    def processor(**given: Any) -> Mapping[str, torch.Tensor]:
        if given.get("images") is not None:
            return {"pixel_values": torch.stack(list(given["images"]))}
        return {"input_ids": torch.zeros(len(given["text"]), 4), "attention_mask": torch.ones(len(given["text"]), 4)}

    frames = list(torch.from_numpy(video.copy()).permute(0, 3, 1, 2))
    scores = [float(clip_score(f, PROMPT, model_name_or_path=lambda: (Model(), processor))) for f in frames]
    return {"clip_t": float(np.mean(scores)) / 100.0}


# --- the comparison --------------------------------------------------------------------------------------------------


def ours(video: U8, keys: Sequence[str]) -> dict[str, float]:
    """``keys`` on a video; ValueError where one has no value, for then there is nothing to compare."""
    found = {key: METRICS[key].run(video, PROMPT, [], tools(POSITIVE if key == "clip_t" else Grid())) for key in keys}
    told = {key: value for key, value in found.items() if value is not None}
    if len(told) < len(found):
        raise ValueError(f"no value for {', '.join(sorted(set(found) - set(told)))}")
    return told


def worst(videos: Mapping[str, U8], theirs: Callable[[U8], dict[str, float]]) -> dict[str, dict[str, Any]]:
    """By metric the largest difference over all videos, between which values, and from where to where ours went."""
    table: dict[str, dict[str, Any]] = {}
    for name, video in videos.items():
        expected = theirs(video)
        found = ours(video, list(expected))
        for key, value in expected.items():
            mine, value = float(found[key]), float(value)
            row = {"difference": abs(mine - value), "ours": mine, "theirs": value, "video": name}
            spread = [*table.get(key, {}).get("from_to", [mine, mine]), mine]
            if key not in table or row["difference"] > table[key]["difference"]:
                table[key] = row
            table[key]["from_to"] = [min(spread), max(spread)]
    return table


def read(footage: Sequence[Path]) -> dict[str, U8]:
    """Eight frames of each, from the start, scaled to 96 px high: formulas do not depend on size, minutes do."""
    import cv2

    videos = {}
    for file in footage:
        frames = clip_frames(str(file))[0][:8]  # as many as our aesthetic and CLIP-T look at
        size = (round(96 * frames.shape[2] / frames.shape[1] / 2) * 2, 96)
        videos[file.name] = np.stack([np.asarray(cv2.resize(f, size, interpolation=cv2.INTER_AREA)) for f in frames])
    return videos


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vbench", type=Path, required=True, help="a checkout of github.com/Vchitect/VBench")
    parser.add_argument("--footage", type=Path, nargs="+", required=True, help="videos")
    parser.add_argument("--work", type=Path, required=True, help="torchmetrics is installed here")
    given = parser.parse_args()
    prepare()
    torch.set_num_threads(1)
    videos = read(given.footage)
    open_file, clip_score = vbench(given.vbench), clip_score_of(given.work / "torchmetrics")
    found = {
        "VBench": worst(videos, lambda video: vbench_values(open_file, video)),
        "torchmetrics": worst(videos, lambda video: torchmetrics_values(clip_score, video)),
    }
    for source, rows in found.items():
        for key, row in rows.items():
            print(f"{key} against {source}: at most {row['difference']:.1e} ({row['ours']:.5f}, {row['theirs']:.5f})")
    from benchmarks.measured import write

    print(write("metric_agreement", {"videos": len(videos), "frames": 8, "within": WITHIN, "found": found}))


if __name__ == "__main__":
    main()
