"""Writing a world to disk: raw videos, sidecar captions, subject photographs and ``truth.json``."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from itertools import count as integers
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt

from tinyworld import difficulty as d
from tinyworld.compose import compose
from tinyworld.draw import render_photo
from tinyworld.films import Copy, Film, plan_world
from tinyworld.truth import broken_truth, copy_codec, copy_size, copy_truth, film_truth, photo_name, world_truth
from tinyworld.world import generator

Picture = npt.NDArray[np.uint8]
Progress = Callable[[int, int], None]

# One encoder thread: with more, x264 and libvpx may cut the picture differently from run to run. And no macroblock
# tree: at widths that are no multiple of 64 its lookahead reads memory that nothing wrote, so bytes differ each time.
_ENCODERS: dict[str, tuple[str, dict[str, str]]] = {
    "h264": (
        "libx264",
        {"preset": "veryfast", "crf": "19", "threads": "1", "x264-params": "mbtree=0:cpu-independent=1"},
    ),
    "vp9": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "crf": "26", "b": "0", "threads": "1"}),
}
_TRUNCATED_SHARE = 0.6
_GARBAGE_BYTES = 48_000


def write_video(path: Path, frames: Iterable[Picture], size: tuple[int, int], fps: int, codec: str) -> int:
    """Encode RGB frames (uint8 HWC) as ``h264`` (mp4) or ``vp9`` (webm), yuv420p; returns how many there were."""
    name, options = _ENCODERS[codec]
    count = 0
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream(name, rate=fps, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.gop_size = 3 * fps
        stream.time_base = Fraction(1, fps)
        for picture in frames:
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = count, Fraction(1, fps)
            container.mux(stream.encode(frame))
            count += 1
        container.mux(stream.encode(None))
    return count


def _copied(copy: Copy) -> Iterator[Picture]:
    """The film's pictures as the copy shows them."""
    film, size = copy.film, copy_size(copy)
    for picture in compose(film):
        if copy.how == "cropped":
            x, y = round(film.width * copy.amount), round(film.height * copy.amount)
            inner = picture[y : film.height - y, x : film.width - x]
            yield np.asarray(cv2.resize(inner, size, interpolation=cv2.INTER_CUBIC), np.uint8)
        elif copy.how == "rescaled":
            yield np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
        else:
            yield picture


def _write_film(film: Film, folder: Path) -> None:
    truth = film_truth(film)
    written = write_video(folder / truth["file"], compose(film), (film.width, film.height), film.fps, film.codec)
    assert written == film.frames, f"{truth['file']}: planned {film.frames} frames, wrote {written}"
    _write_caption(folder / truth["file"], film.caption)


def _write_caption(media: Path, text: str) -> None:
    media.with_suffix(".txt").write_text(text + "\n", encoding="utf-8")


def _garbage(seed: int, number: int) -> bytes:
    """Random bytes that no decoder takes for a video; about one draw in 150 happens to look like one."""
    for attempt in integers():
        noise = generator(seed, "garbage", number, attempt).bytes(_GARBAGE_BYTES)
        try:
            with av.open(io.BytesIO(noise), "r") as container:
                next(container.decode(video=0))
        except (av.error.FFmpegError, ValueError, IndexError, StopIteration):
            return noise
    raise AssertionError("unreachable: the count does not end")


def _already_rendered(out: Path, truth: dict[str, Any]) -> bool:
    """Whether ``out`` holds this very world. Raises FileExistsError when it holds anything else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    try:
        found = json.loads((out / "truth.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if found == truth:
        return True
    raise FileExistsError(f"{out} is not empty and holds something else; name a new folder or remove this one")


def render_world(seed: int, count: int, out: Path, progress: Progress | None = None, square: bool = False) -> Path:
    """Render ``count`` raw videos with captions, subject photographs and their truth into the folder ``out``.

    ``progress`` is called with (files done, files in all) after each video. The folder appears whole or not at all; a
    folder that holds this very world already is left as it is. ``square`` makes all films 160 x 160 pixels. Returns
    ``out``.

    Raises ValueError when ``count`` is not positive, FileExistsError when ``out`` holds something else.
    """
    plan = plan_world(seed, count, square)
    truth = world_truth(plan)
    out = Path(out)
    if _already_rendered(out, truth):
        if progress is not None:
            progress(count, count)
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = out.parent / f".{out.name}.partial-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "photos").mkdir(parents=True)
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, count)

    try:
        for film in plan.films:
            _write_film(film, folder)
            step()
        for copy in plan.copies:
            told = copy_truth(copy)
            write_video(folder / told["file"], _copied(copy), copy_size(copy), copy.film.fps, copy_codec(copy))
            _write_caption(folder / told["file"], told["caption"])
            step()
        for broken in plan.broken:
            path = folder / broken_truth(broken)["file"]
            match broken.how:
                case "truncated":
                    whole = (folder / film_truth(broken.film)["file"]).read_bytes()
                    path.write_bytes(whole[: int(len(whole) * _TRUNCATED_SHARE)])
                case "garbage":
                    path.write_bytes(_garbage(seed, broken.number))
                case _:
                    path.write_bytes(b"")
            _write_caption(path, broken.film.caption)
            step()
        for index, identity in enumerate(plan.photos):
            path = folder / photo_name(index)
            cv2.imwrite(str(path), render_photo(identity, seed, d.PHOTO_SIDE_PX)[..., ::-1])
            _write_caption(path, identity.phrase)
        (folder / "truth.json").write_text(json.dumps(truth, indent=1) + "\n", encoding="utf-8")
        if out.exists():
            out.rmdir()
        folder.rename(out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return out
