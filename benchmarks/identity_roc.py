"""ROC of an identity encoder on photographs of known subjects: one folder a subject, several views of each.

    python benchmarks/identity_roc.py --photographs PHOTOGRAPHS
    python benchmarks/identity_roc.py --photographs FOLDER --encoder dinov2 --weights FOLDER_OF_WEIGHTS

The crops come from the configured grounder and segmenter, so the table is that of the whole chain and not of an encoder on clean
cut-outs. ``lower`` is what 5% of the pairs of different subjects exceed, ``upper`` what 1% of the pairs of one subject exceed. With random
weights an encoder's area under the curve is near 0.5 or whatever colour alone gives; the table says which weights it was.
``backgrounds`` compares frames of one clip, whose background is one, with photographs of one subject, whose backgrounds differ.
"""

from __future__ import annotations

import argparse
import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from models.subjects.load import Choice, Models
from models.subjects.rules import Rules
from models.subjects.weights import Weights

RULES = Rules(0.02, 1.0, 32, 0.8, 1, 0.0, 0.0)
PICTURES = (".jpg", ".jpeg", ".png", ".webp")
VIDEOS = (".mp4", ".webm", ".mkv", ".mov")


def roc(same: np.ndarray, other: np.ndarray) -> dict[str, Any]:
    """Area under the curve (the chance that a same pair scores above a different one, ties half) and operating points."""
    order = np.sort(other)
    below, upto = np.searchsorted(order, same, "left"), np.searchsorted(order, same, "right")
    auc = float(((below + upto) / 2).mean() / max(1, len(other)))
    points = []
    for rate in (0.2, 0.1, 0.05, 0.02, 0.01):
        threshold = float(np.quantile(other, 1 - rate))
        points.append(
            {
                "threshold": round(threshold, 4),
                "false_accepts": rate,
                "same_accepted": round(float((same > threshold).mean()), 4),
            }
        )
    return {
        "auc": round(auc, 4),
        "same_pairs": len(same),
        "different_pairs": len(other),
        "points": points,
        "lower": points[2]["threshold"],
        "upper": round(float(np.quantile(same, 0.99)), 4),
    }


def crops(
    folder: Path, models: Models, limit: int | None = None
) -> tuple[list[str], list[np.ndarray], list[np.ndarray], int]:
    """Subject, embedding and background of every photograph in which one was found; the number of those without."""
    from stages.subjects.find import Finder, Payload, unpacked

    finder = Finder(RULES, models)
    names, vectors, grounds, without = [], [], [], 0
    for subject in sorted(p for p in folder.iterdir() if p.is_dir())[:limit]:
        for file in sorted(f for f in subject.iterdir() if f.suffix.lower() in PICTURES):
            phrase = "a " + subject.name.rstrip("0123456789").replace("_", " ")
            rows = unpacked(finder(Payload("photo", file.absolute().as_uri(), (phrase,)))["found"]).to_pylist()
            if not rows:
                without += 1
                continue
            names.append(subject.name)
            vectors.append(np.asarray(rows[0]["embedding"], np.float64))
            grounds.append(np.asarray(rows[0]["background"], np.float64))
    return names, vectors, grounds, without


def within_clips(folder: Path, models: Models, limit: int | None) -> np.ndarray:
    """Cosines of the backgrounds of two instants of one clip."""
    from models.video.reader import VideoReader
    from stages.subjects.find import Finder, Payload, unpacked

    finder = Finder(RULES, models)
    found = []
    for file in sorted(f for f in folder.rglob("*") if f.suffix in VIDEOS)[:limit]:
        try:
            with VideoReader(file) as reader:
                last = max((frame.time_s for frame in reader), default=0.0)
            rows = unpacked(finder(Payload("clip", str(file), (), (0.05, 0.95), min(last, 4.0)))["found"]).to_pylist()
        except ValueError:
            continue
        seen = [np.asarray(r["background"]) for r in rows]
        found += [float(a @ b) for a, b in combinations(seen, 2) if a.any() and b.any()]
    return np.array(found)


def measure(photographs: Path, clips: Path | None, models: Models, limit: int | None = None) -> dict[str, Any]:
    names, vectors, grounds, without = crops(photographs, models, limit)
    pairs = list(combinations(range(len(names)), 2))
    cosine = np.array([vectors[a] @ vectors[b] for a, b in pairs])
    is_same = np.array([names[a] == names[b] for a, b in pairs])
    result: dict[str, Any] = {
        "models": models.names(),
        "photographs": len(names),
        "without_a_subject": without,
        "subjects": len(set(names)),
        **roc(cosine[is_same], cosine[~is_same]),
    }
    nearest = np.array(vectors) @ np.array(vectors).T
    np.fill_diagonal(nearest, -2)
    result["top_1"] = round(float(np.mean([names[i] == names[j] for i, j in enumerate(nearest.argmax(1))])), 4)
    if clips is not None:
        one = within_clips(clips, models, limit)
        apart = np.array([grounds[a] @ grounds[b] for a, b in pairs])
        result["backgrounds"] = {
            "one_clip": [round(float(q), 3) for q in np.quantile(one, (0.05, 0.25, 0.5))] if len(one) else None,
            "different_photographs": [round(float(q), 3) for q in np.quantile(apart, (0.5, 0.95, 0.99))],
            "quantiles": "one clip: 5%, 25%, 50%; different photographs: 50%, 95%, 99%",
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--photographs", type=Path, required=True)
    parser.add_argument("--clips", type=Path)
    parser.add_argument("--encoder", default="embedded", choices=("embedded", "dinov2", "clip", "open_clip"))
    parser.add_argument("--weights", help="folder in from_pretrained's layout, or repository with --revision")
    parser.add_argument("--revision")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--limit", type=int, help="subjects, and clips, at most")
    parser.add_argument("--no-write", action="store_true")
    args = parser.parse_args()
    weights = Weights(args.weights, args.revision) if args.weights else None
    models = Models(encoder=Choice(args.encoder, weights), device=args.device)
    found = measure(args.photographs, args.clips, models, args.limit)
    print(json.dumps(found, indent=1))
    if not args.no_write:
        from benchmarks.measured import write

        name = "identity_roc" if args.encoder == "embedded" else f"identity_roc_{args.encoder}"
        write(
            name,
            found,
        )


if __name__ == "__main__":
    main()
