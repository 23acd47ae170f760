"""What x264's presets cost and keep when an export encodes real footage: the same frames, one preset after another.

    python benchmarks/encoder_presets.py --data FOOTAGE

Fidelity is what ffmpeg's own ``ssim`` and ``psnr`` filters say against the same frames kept without loss. Figures are medians over the
files of each file's ratio to ``veryfast`` (time, bytes) or difference from it (SSIM, PSNR).
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import av

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import measured
from benchmarks.curation.footage import sources
from models.video.encode import ClipWriter, Encoding

PRESETS = ("ultrafast", "superfast", "veryfast", "medium")
AGAINST = "veryfast"
_RATE = 30
_EQUAL_DB = 100.0  # what pictures without any difference count as


def frames(path: Path, most: int) -> list[av.VideoFrame]:
    """The first frames of a file, as they are decoded."""
    with av.open(str(path)) as container:
        return [frame for frame, _ in zip(container.decode(video=0), range(most), strict=False)]


def encode(pictures: Sequence[av.VideoFrame], out: Path, encoding: Encoding) -> float:
    """Write a clip as an export does; CPU seconds."""
    size = (pictures[0].width // 2 * 2, pictures[0].height // 2 * 2)
    started = time.process_time()
    writer = ClipWriter(out, size, _RATE, encoding)
    for number, picture in enumerate(pictures):
        writer.add(number / _RATE, picture)
    writer.finish()
    return time.process_time() - started


def fidelity(made: Path, kept: Path) -> dict[str, float]:
    """SSIM over all planes and PSNR of luma in dB, as ffmpeg's filters tell them."""
    told = ""
    for name in ("ssim", "psnr"):
        command = ["ffmpeg", "-nostdin", "-i", str(made), "-i", str(kept), "-lavfi", name, "-f", "null", "-"]
        told += subprocess.run(command, check=True, capture_output=True, text=True).stderr
    ssim, psnr = re.search(r"SSIM .*All:([\d.]+)", told), re.search(r"PSNR y:([\d.]+|inf)", told)
    if ssim is None or psnr is None:
        raise SystemExit(f"{made}: ffmpeg's filters said neither SSIM nor PSNR:\n{told}")
    return {"ssim": float(ssim[1]), "psnr_db": min(float(psnr[1]), _EQUAL_DB)}


def measure(path: Path, most: int, crf: int, rounds: int, work: Path) -> dict[str, dict[str, float]]:
    """Milliseconds a frame (least of the rounds, presets taking turns), bytes, SSIM and PSNR of one file by preset."""
    pictures = frames(path, most)
    kept = work / "kept.mp4"
    encode(pictures, kept, Encoding(crf=0, preset="ultrafast"))
    cost: dict[str, list[float]] = {name: [] for name in PRESETS}
    for _ in range(rounds):
        for name in PRESETS:
            cost[name].append(encode(pictures, work / f"{name}.mp4", Encoding(crf=crf, preset=name)))
    return {
        name: {
            "ms_per_frame": 1000 * min(cost[name]) / len(pictures),
            "bytes": (work / f"{name}.mp4").stat().st_size,
            **fidelity(work / f"{name}.mp4", kept),
        }
        for name in PRESETS
    }


def compared(files: Sequence[dict[str, dict[str, float]]], name: str) -> dict[str, float]:
    """Medians over files: time and bytes over ``AGAINST``'s, SSIM and PSNR less ``AGAINST``'s."""
    pairs = [(found[name], found[AGAINST]) for found in files]
    ratios = {key: statistics.median(a[key] / b[key] for a, b in pairs) for key in ("ms_per_frame", "bytes")}
    apart = {key: statistics.median(a[key] - b[key] for a, b in pairs) for key in ("ssim", "psnr_db")}
    worst = {f"worst_{key}": min(a[key] - b[key] for a, b in pairs) for key in ("ssim", "psnr_db")}
    return {**ratios, **apart, **worst}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of real footage with a manifest.json")
    parser.add_argument("--frames", type=int, default=60, help="of each file")
    parser.add_argument("--crf", type=int, default=17)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--files", type=int, help="the first so many; all by default")
    parser.add_argument("--name", default="encoder_presets", help="of the file in docs/measured")
    given = parser.parse_args(argv)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for path in sources(given.data)[: given.files]:
            found[path.name] = measure(path, given.frames, given.crf, given.rounds, Path(folder))
            print(path.name, {k: round(v["ms_per_frame"], 2) for k, v in found[path.name].items()}, flush=True)
    table = {name: compared(list(found.values()), name) for name in PRESETS}
    told = {
        "crf": given.crf,
        "frames": given.frames,
        "rounds": given.rounds,
        "against": AGAINST,
        "presets": table,
        "files": found,
    }
    print(f"written: {measured.write(given.name, told)}")
    for name, row in table.items():
        print(name, {key: round(value, 4) for key, value in row.items()})


if __name__ == "__main__":
    main()
