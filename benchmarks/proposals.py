"""The embedded subject finder against tinyworld's truth: boxes, masks, and one subject recognised among fifty in another scene.

    python benchmarks/proposals.py --clips 120 --identities 50

Every clip is rendered, encoded as export encodes, and goes through the stage's own ``Finder`` at 0.05, 0.5 and 0.95 of its length. A
frame counts where the renderer shows the subject on at least ``SEEN`` of the frame; what was not found counts as an overlap of 0.
Recall is the share of boxes with an IoU of at least 0.5. For retrieval each identity is rendered in two clips with other background,
motion and light; the query is the crop from the one (its best sharpness), the gallery all identities' crops from the other. Seeds
are those from ``--seed`` on, so that what was tuned on some can be measured on others.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from models.subjects.load import Choice, Models
from models.subjects.rules import Rules
from models.subjects.weights import Weights

# The box rules of the demo: a rendered subject is a quarter to a half as high as its frame.
RULES = Rules(0.015, 0.9, 24, 0.8, 1, 0.05, 0.0)
POSITIONS = (0.05, 0.5, 0.95)
SIDE, FRAMES = 192, 33
SEEN = 0.005  # share of the frame: less of a subject that enters or leaves is nothing to find
IOU = 0.5
OTHER = 1_000_003  # what the second scene's seed is away from the first's


def clip(seed: int, identity_seed: int) -> tuple[np.ndarray, dict[str, Any], float]:
    """Frames (F, H, W, 3), their truth with ``mask`` (F, H, W), and the rate."""
    from tinyworld import difficulty
    from tinyworld.draw import draw, scene_truth
    from tinyworld.world import draw_scene

    scene = draw_scene(seed)
    if identity_seed != seed:
        actor = replace(scene.actors[0], identity=draw_scene(identity_seed).actors[0].identity)
        scene = replace(scene, actors=(actor,))
    frames, mask = draw(scene, SIDE, SIDE, FRAMES)
    return frames, {**scene_truth(scene, FRAMES), "mask": mask}, (FRAMES - 1) / difficulty.CLIP_SECONDS


def find(finder: Any, frames: np.ndarray, fps: float, folder: Path) -> list[dict[str, Any]]:
    from models.video.encode import write_video
    from stages.subjects.find import Payload, unpacked

    file = folder / "clip.mp4"
    write_video(frames, fps, file)
    duration = (len(frames) - 1) / fps
    rows: list[dict[str, Any]] = unpacked(
        finder(Payload("clip", str(file), (), POSITIONS, duration))["found"]
    ).to_pylist()
    return rows


def score(rows: list[dict[str, Any]], truth: dict[str, Any], fps: float) -> list[dict[str, float]]:
    """Box and mask IoU of each instant at which the subject is to be seen."""
    from models.subjects.frames import picture
    from models.subjects.protocols import iou

    found = []
    for position in POSITIONS:
        index = min(FRAMES - 1, int(position * (FRAMES - 1) + 1e-3))
        inside = truth["mask"][index] > 127
        if inside.mean() < SEEN:
            continue
        down, along = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        box = (along[0] / SIDE, down[0] / SIDE, (along[-1] + 1) / SIDE, (down[-1] + 1) / SIDE)
        row = next((r for r in rows if abs(r["time_s"] - position * (FRAMES - 1) / fps) < 1e-6), None)
        mine = np.zeros_like(inside)
        if row is not None:
            x0, y0, x1, y1 = (round(v * SIDE) for v in row["box"])
            part = picture(row["mask"], "mask")[..., 0] > 127
            mine[y0:y1, x0:x1] = part[: y1 - y0, : x1 - x0]
        overlap = (mine & inside).sum() / max(1, (mine | inside).sum())
        found.append({"position": position, "box": iou(row["box"], box) if row else 0.0, "mask": float(overlap)})
    return found


def proposals(finder: Any, clips: int, seed: int, folder: Path) -> dict[str, Any]:
    frames_scored: list[dict[str, Any]] = []
    for number in range(seed, seed + clips):
        frames, truth, fps = clip(number, number)
        about = {"seed": number, "background": truth["background"], "camera": truth["camera"]}
        frames_scored += [{**one, **about} for one in score(find(finder, frames, fps, folder), truth, fps)]
    boxes, masks = (np.array([one[what] for one in frames_scored]) for what in ("box", "mask"))
    worst = sorted(frames_scored, key=lambda one: float(one["mask"]))[:20]
    return {
        "clips": clips,
        "frames": len(frames_scored),
        "box_recall_at_0.5": round(float((boxes >= IOU).mean()), 4),
        "mask_mean_iou": round(float(masks.mean()), 4),
        "mask_iou_where_found": round(float(masks[boxes >= IOU].mean()), 4),
        "not_found_at_all": int((boxes == 0).sum()),
        "worst": worst,
    }


def retrieval(finder: Any, identities: int, seed: int, folder: Path) -> dict[str, Any]:
    """Top-1 among all identities of the crop from the other scene; an identity without a crop in either counts as missed."""
    first: dict[int, np.ndarray] = {}
    second: dict[int, np.ndarray] = {}
    true_first: dict[int, np.ndarray] = {}
    true_second: dict[int, np.ndarray] = {}
    for identity in range(seed, seed + identities):
        for other, into, true in ((0, first, true_first), (OTHER, second, true_second)):
            frames, truth, fps = clip(identity + other, identity)
            rows = find(finder, frames, fps, folder)
            if rows:
                mean = np.sum([r["embedding"] for r in rows], axis=0)
                into[identity] = mean / np.linalg.norm(mean)
            shown = [i for i in (1, 16, 31) if (truth["mask"][i] > 127).mean() >= SEEN]
            if shown:
                masks = [np.where(truth["mask"][i] > 127, 255, 0).astype(np.uint8) for i in shown]
                mean = finder.encoder.encode([frames[i] for i in shown], masks).sum(0)
                true[identity] = mean / np.linalg.norm(mean)

    def top1(queries: dict[int, np.ndarray], gallery: dict[int, np.ndarray]) -> float:
        names = sorted(gallery)
        matrix = np.stack([gallery[n] for n in names])
        hits = [
            n in queries and n in gallery and names[int((matrix @ queries[n]).argmax())] == n
            for n in range(seed, seed + identities)
        ]
        return round(float(np.mean(hits)), 4)

    return {
        "identities": identities,
        "top_1": top1(first, second),
        "top_1_with_true_masks": top1(true_first, true_second),
    }


def measure(clips: int, identities: int, seed: int, models: Models) -> dict[str, Any]:
    from stages.subjects.find import Finder

    finder = Finder(RULES, models)
    with tempfile.TemporaryDirectory() as folder:
        found = {"models": models.names(), "seed": seed}
        if clips:
            found["proposals"] = proposals(finder, clips, seed, Path(folder))
        if identities:
            found["retrieval"] = retrieval(finder, identities, seed, Path(folder))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--clips", type=int, default=120)
    parser.add_argument("--identities", type=int, default=50)
    parser.add_argument("--encoder", default="embedded", choices=("embedded", "dinov2", "clip", "open_clip"))
    parser.add_argument("--weights", help="the encoder's folder, or embedded:tinyworld for open_clip")
    parser.add_argument("--seed", type=int, default=70_000)
    parser.add_argument("--no-write", action="store_true")
    args = parser.parse_args()
    chosen = Choice(args.encoder, Weights(args.weights) if args.weights else None)
    found = measure(args.clips, args.identities, args.seed, Models(encoder=chosen))
    print(json.dumps(found, indent=1))
    if not args.no_write:
        from benchmarks.measured import write

        name = "proposals" if args.encoder == "embedded" else f"proposals_{args.encoder}"
        write(name, found)


if __name__ == "__main__":
    main()
