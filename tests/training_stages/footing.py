"""A tiny world for the training stages' tests: real encoded clips, crops of what moves in them, and pair rows."""

from __future__ import annotations

import hashlib
import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
from PIL import Image

from data_schemas.tables import PAIRS, SUBJECTS, SUBSET
from stages.training.params import BackboneParams, GuidanceParams, LoraParams, SamplingParams, ScheduleParams

BUCKET = "9x32x32"
COLOURS = [(220, 40, 40), (40, 200, 60), (50, 80, 230), (230, 200, 30), (200, 60, 210), (40, 200, 210)]
BACKBONE = BackboneParams()
LORA = LoraParams(rank=2, alpha=4.0)
SAMPLING = SamplingParams(
    steps=2, guidance=GuidanceParams(text=ScheduleParams(start=2.0), reference=ScheduleParams(start=2.0))
)


def frame(colour: tuple[int, int, int], at: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    """A bright square that moves one pixel a frame over a grey ramp, (height, width, 3) uint8."""
    height, width = size
    picture = np.repeat(np.linspace(60, 160, width, dtype=np.uint8)[None, :, None], height, 0).repeat(3, 2).copy()
    picture[16:32, 4 + at : 20 + at] = colour
    return picture


def write_clip(path: Path, colour: tuple[int, int, int], frames: int = 12) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(24), options={"crf": "12"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame(colour, i), format="rgb24")))
        container.mux(stream.encode())


def png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return buffer.getvalue()


def world(root: Path, clips: int = 6, *, frames: int = 12) -> dict[str, pa.Table | Path]:
    """Inputs of encode: per clip an in-pair and a cross-pair sample, the last clip of each held out."""
    media = root / "media"
    media.mkdir(parents=True)
    subset, subjects, pairs = [], [], []
    mask = np.zeros((20, 20), np.uint8)
    mask[2:18, 2:18] = 255
    for n in range(clips):
        colour = COLOURS[n % len(COLOURS)]
        path = media / f"clip{n}.mp4"
        write_clip(path, colour, frames)
        raw = path.read_bytes()
        subset.append(
            {
                "clip_id": f"c{n}",
                "video_id": f"v{n}",
                "media_uri": f"file:///elsewhere/store/media/clip{n}.mp4",
                "media_sha256": hashlib.sha256(raw).hexdigest(),
                "media_bytes": len(raw),
                "caption": f"square {n} moves",
                "start_s": 0.0,
                "end_s": frames / 24,
                "frames": frames,
                "fps": 24.0,
                "width": 64,
                "height": 48,
            }
        )
        subjects.append(
            {
                "subject_id": f"s{n}",
                "origin": "clip",
                "clip_id": f"c{n}",
                "video_id": f"v{n}",
                "phrase": "square",
                "time_s": 0.0,
                "box": [0.0, 0.2, 0.4, 0.7],
                "area": 0.2,
                "mask_area": 0.1,
                "crop": png(frame(colour, 0)[14:34, 2:22]),
                "mask": png(mask),
                "encoder": "test",
                "embedding": [1.0, 0.0],
            }
        )
    for n in range(clips):
        for kind, subject in (("in_pair", n), ("cross_pair", (n + 1) % clips)):
            reference = {"subject_id": f"s{subject}", "phrase": "square", "origin": "clip", "video_id": f"v{subject}"}
            pairs.append(
                {
                    "sample_id": f"{kind}-{n}",
                    "kind": kind,
                    "clip_id": f"c{n}",
                    "video_id": f"v{n}",
                    "prompt": f"Ref 1: a square. Video: Ref 1[a square] moves {n % 2}",
                    "references": [reference],
                    "same_source": kind == "in_pair",
                    "split": "held_out" if n == clips - 1 else "train",
                }
            )
    return {
        "subset": SUBSET.table(subset),
        "media": media,
        "pairs": PAIRS.table(pairs),
        "subjects": SUBJECTS.table(subjects),
    }
