"""Reading the exported clips that training encodes, and naming media for the pages that show them."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    U8 = NDArray[np.uint8]


PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def local_media(folder: Path, uri: str) -> Path:
    """The file in ``folder`` that ``uri`` names, whatever store the uri's own prefix speaks of.

    The longest tail of the uri that exists in the folder; if none does, the name itself, so that opening it fails with
    a message that says what is missing.
    """
    parts = PurePosixPath(unquote(urlsplit(uri).path)).parts
    for start in range(1, len(parts)):
        candidate = folder.joinpath(*parts[start:])
        if candidate.is_file():
            return candidate
    return folder / parts[-1]


def decode_frames(path: Path, count: int, *, of: int, fps: float | None = None) -> U8:
    """``count`` frames of a clip of ``of`` frames, (count, height, width, 3) uint8 RGB as shown.

    Without ``fps`` they spread evenly from the first frame to the last; with it they are what is on screen at i / fps
    seconds. A picture (PNG, JPEG, WebP) is a clip of one frame. Raises ``ValueError`` when the file holds too little.
    """
    import numpy as np

    if path.suffix.lower() in PICTURES:
        if count != 1:
            raise ValueError(f"{path.name} is a picture, and {count} frames were wanted of it")
        from PIL import Image

        return np.asarray(Image.open(path).convert("RGB"), dtype=np.uint8)[None]

    from models.video.reader import VideoReader

    wanted = [round(i * (of - 1) / max(count - 1, 1)) for i in range(count)]
    taken: list[Any] = []
    last: Any = None
    with VideoReader(path) as reader:
        for frame in reader:
            if fps is None:
                while len(taken) < count and wanted[len(taken)] == frame.index:
                    taken.append(frame.picture(order="rgb24"))
            else:
                # A frame stays on screen until the next one's instant.
                while len(taken) < count and last is not None and len(taken) / fps < frame.time_s - 1e-6:
                    taken.append(last.picture(order="rgb24"))
                last = frame
            if len(taken) == count:
                break
        facts = reader.facts
        while fps is not None and len(taken) < count and len(taken) / fps < facts.duration_s - 1e-6:
            taken.append(last.picture(order="rgb24"))
    if len(taken) < count:
        asked = f"{of} frames" if fps is None else f"{count} frames at {fps:g} a second"
        raise ValueError(
            f"{path.name} holds {facts.frames} frames in {facts.duration_s:.2f} s, not {asked}; export it again"
        )
    return np.stack(taken)
