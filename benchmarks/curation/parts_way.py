"""Work that `curate` cannot do without, each part by itself in one bare loop: what is left of its cost is the pipeline's.

python -m benchmarks.curation.parts_way encode OUT CRF FILM...
python -m benchmarks.curation.parts_way tower WEIGHTS PRECISION PICTURES
"""

from __future__ import annotations

import io
import sys

import av
import numpy as np

from benchmarks.curation.clip_weights import MODEL
from models.scorers.clip_tower import ClipTower, EncoderSpec
from models.video.encode import ClipWriter, Encoding

PICTURE = (455, 256)  # px; a key frame of 16:9 as analyze keeps it


def encode(out: str, crf: str, *films: str) -> None:
    """Every frame of every film decoded once and encoded once, with the settings of the export."""
    frames = 0
    for film in films:
        with av.open(film) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            stream.codec_context.thread_type = "NONE"
            rate = float(stream.average_rate or 25)
            writer = ClipWriter(out, (stream.width, stream.height), rate, Encoding(crf=int(crf)))
            for number, frame in enumerate(container.decode(stream)):
                writer.add(number / rate, frame)
            frames += writer.finish().frames
    print(f"frames {frames}")


def tower(weights: str, precision: str, pictures: str) -> None:
    """So many encoded pictures through the image tower."""
    from PIL import Image

    made = ClipTower(EncoderSpec(MODEL, weights, precision=precision))
    noise = np.random.default_rng(0).integers(0, 256, (PICTURE[1] // 8, PICTURE[0] // 8, 3), np.uint8)
    jpeg = io.BytesIO()
    Image.fromarray(noise).resize(PICTURE).save(jpeg, "JPEG", quality=90)
    print(f"pictures {len(made.images([jpeg.getvalue()] * int(pictures)))}")


if __name__ == "__main__":
    {"encode": encode, "tower": tower}[sys.argv[1]](*sys.argv[2:])
