"""Does memory grow with the length of a video? Analyses a film of ten minutes and one of two hours and compares the peaks.

    python benchmarks/long_video.py --data FOOTAGE

The films are real footage: some shots are encoded once into a loop of about a minute and a half, whose packets are then
repeated with new timestamps, so that a film of any length costs no encoding. Each goes through ``fulcrum run`` up to its
analysis, and the resident memory of the guarded process and of the one that commits is sampled all the while.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

SHOTS = (
    "mdn-learning-area/frog.mp4", "sam2/01_dog.mp4", "mdn-shared-assets/flower.mp4", "cogvideo/kitten.mp4",
    "sam2/04_coffee.mp4", "cogvideo/horse.mp4", "moviepy/chaplin.mp4", "mdn-learning-area/rabbit320.mp4",
)  # fmt: skip
FPS = 25


def pictures(paths: Sequence[Path], size: tuple[int, int], seconds_each: float) -> Iterator[np.ndarray]:
    """Pictures of real shots one after the other, RGB uint8 HWC, at ``FPS`` a second."""
    from models.video.reader import VideoReader

    for path in paths:
        with VideoReader(path) as reader:
            for frame in itertools.islice(reader, int(seconds_each * FPS)):
                yield frame.picture(size, order="rgb24", fast=True)


def encode(frames: Iterable[np.ndarray], size: tuple[int, int], path: Path) -> Path:
    """Encode once, without B frames, so that packets can be repeated by shifting their timestamps alone."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=FPS, options={"crf": "26", "preset": "veryfast", "bf": "0"})
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        for picture in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode(None))
    return path


def repeat(loop: Path, seconds: float, path: Path) -> Path:
    """A film of at least ``seconds`` made of the loop's packets over and over."""
    with av.open(str(loop)) as source, av.open(str(path), "w") as out:
        first = source.streams.video[0]
        stream = out.add_stream_from_template(first)
        packets = [p for p in source.demux(first) if p.size]
        base = Fraction(first.time_base)
        ticks = round(len(packets) / FPS / base)  # the length of the loop
        contents = [(bytes(p), p.pts, p.dts, p.is_keyframe) for p in packets]
        for n in range(max(1, round(seconds / (len(packets) / FPS)))):
            for data, pts, dts, key in contents:
                packet = av.Packet(data)
                packet.stream, packet.time_base, packet.is_keyframe = stream, base, key
                packet.pts, packet.dts = pts + n * ticks, dts + n * ticks
                out.mux(packet)
    return path


def resident(pid: int) -> int:
    """Resident bytes of a process; 0 when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


def children(pid: int) -> list[int]:
    try:
        return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def analyse(film: Path, folder: Path, sample_s: float = 0.25) -> dict[str, Any]:
    """Run the pipeline up to ``analyze`` on one film and sample the memory of the process and of its guarded child."""
    from benchmarks.fuzz import tables

    source = folder / "source"
    source.mkdir(parents=True)
    (source / film.name).symlink_to(film)
    command = [sys.executable, "-m", "fulcrum", "run", "benchmarks.fuzz:PIPELINE", "--source", str(source), "--json"]
    command += ["--store", str(folder / "store"), "--set", "engine.kind=inline", "--set", "tracking.enabled=false"]
    started = time.monotonic()
    log = (folder / "log").open("w+")
    process = subprocess.Popen(command, cwd=Path(__file__).resolve().parent.parent, stdout=log, stderr=log)
    samples: list[tuple[float, int, int]] = []
    while process.poll() is None:
        guarded = max((resident(child) for child in children(process.pid)), default=0)
        samples.append((time.monotonic() - started, resident(process.pid), guarded))
        time.sleep(sample_s)
    if process.returncode:
        raise SystemExit((folder / "log").read_text()[-3000:])
    found = tables(folder / "store")
    video = found["videos"].to_pylist()[0]
    # a sample in twenty places: enough to see a slope
    curve = samples[:: max(1, len(samples) // 20)]
    return {
        "film_minutes": round(video["duration_s"] / 60, 1),
        "frames": video["frames"],
        "shots": found["shots"].num_rows,
        "keyframes_mib": round(found["keyframes"].nbytes / 2**20, 1),
        "seconds": round(time.monotonic() - started, 1),
        "guarded_peak_mib": max(s[2] for s in samples) >> 20,
        "committing_peak_mib": max(s[1] for s in samples) >> 20,
        "curve_s_committing_guarded_mib": [[round(t, 1), a >> 20, b >> 20] for t, a, b in curve],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of real footage")
    parser.add_argument("--minutes", type=float, nargs="+", default=[10.0, 120.0])
    parser.add_argument("--size", type=int, nargs=2, default=[640, 360])
    parser.add_argument("--no-write", action="store_true", help="only print")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fulcrum-long-"))
    films = []
    try:
        size = (given.size[0], given.size[1])
        loop = encode(pictures([given.data / s for s in SHOTS], size, 12.0), size, folder / "loop.mp4")
        for minutes in given.minutes:
            film = repeat(loop, minutes * 60, folder / f"film-{minutes:g}.mp4")
            films.append(analyse(film, folder / f"run-{minutes:g}"))
            print(json.dumps(films[-1]), flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found = {
        "size": given.size,
        "films": films,
        "guarded_growth_mib": films[-1]["guarded_peak_mib"] - films[0]["guarded_peak_mib"],
        "committing_growth_mib": films[-1]["committing_peak_mib"] - films[0]["committing_peak_mib"],
    }
    if not given.no_write:
        from benchmarks.measured import write

        print(write("long_video", found))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main()
