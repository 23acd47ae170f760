"""How much bf16 weights change the encoder's scores against fp32, and what they save.

    python benchmarks/encoder_precision.py --data FOOTAGE

The architecture is a real one (ViT-B-32 unless named); without ``--weights`` its weights are seeded random numbers, and then the
differences show what rounding does to numbers of this size and depth, not what a trained model's would be.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from models.scorers.clip_tower import ClipTower, EncoderSpec

CAPTIONS = ("a cat on a carpet", "a street with cars", "a portrait of a man", "a forest in fog", "a plate of food")


def random_weights(model: str, folder: Path, seed: int) -> Path:
    """A checkpoint of this architecture with open_clip's own initialisation."""
    from models.compat import prepare

    prepare()
    import open_clip
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    made = open_clip.create_model(model, pretrained=None, require_pretrained=False)
    path = folder / "random.safetensors"
    save_file({name: value.contiguous() for name, value in made.state_dict().items()}, path)
    return path


def pictures(data: Path, count: int) -> list[bytes]:
    """Photographs of the footage, spread over its folders."""
    files = sorted(path for path in data.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    return [path.read_bytes() for path in files[:: max(1, len(files) // count)][:count]]


def encode(spec: EncoderSpec, raw: list[bytes]) -> tuple[np.ndarray, np.ndarray, float]:
    """Image and text embeddings, and CPU seconds a picture."""
    tower = ClipTower(spec, batch=8)
    tower.images(raw[:8])  # the first forward sets things up
    started = time.process_time()
    images = tower.images(raw)
    seconds = (time.process_time() - started) / len(raw)
    return images, tower.texts(CAPTIONS), seconds


def measure(model: str, weights: Path, raw: list[bytes]) -> dict[str, Any]:
    fine, fine_text, fine_s = encode(EncoderSpec(model=model, weights=str(weights)), raw)
    rough, rough_text, rough_s = encode(EncoderSpec(model=model, weights=str(weights), precision="bf16"), raw)
    difference = np.abs(fine @ fine_text.T - rough @ rough_text.T)
    # a head that spreads scores over these pictures by 1, about as far as LAION's does over photographs
    head = np.random.default_rng(0).normal(size=fine.shape[1])
    head /= (fine @ head).std()
    aesthetic = np.abs(fine @ head - rough @ head)
    return {
        "pictures": len(raw),
        "cosine_of_embeddings_least": round(float((fine * rough).sum(axis=1).min()), 6),
        "clip_text_difference": {"mean": round(float(difference.mean()), 5), "most": round(float(difference.max()), 5)},
        "clip_text_spread_fp32": round(float((fine @ fine_text.T).std()), 5),
        "aesthetic_difference_of_a_spread_of_1": {
            "mean": round(float(aesthetic.mean()), 4),
            "most": round(float(aesthetic.max()), 4),
        },
        "cpu_ms_a_picture": {"fp32": round(1e3 * fine_s, 1), "bf16": round(1e3 * rough_s, 1)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of real footage, with its manifest.json")
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--weights", type=Path, help="a checkpoint of the model; by default random weights")
    parser.add_argument("--pictures", type=int, default=48)
    parser.add_argument("--no-write", action="store_true", help="only print")
    given = parser.parse_args()

    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="fulcrum-precision-") as folder:
        weights = given.weights or random_weights(given.model, Path(folder), 0)
        found = measure(given.model, weights, pictures(given.data, given.pictures))
    found = {"model": given.model, "weights": "given" if given.weights else "random, seed 0", **found}
    print(json.dumps(found, indent=1))
    if not given.no_write:
        from benchmarks.measured import write

        print(write("encoder_precision", found))


if __name__ == "__main__":
    main()
