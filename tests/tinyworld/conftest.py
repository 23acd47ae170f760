"""A whole small world, rendered once for the session, and a reader of its videos."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt
import pytest

from tinyworld import difficulty as d
from tinyworld.render import render_world

World = tuple[Path, dict[str, Any]]
Decode = Callable[[Path], npt.NDArray[np.uint8]]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The smallest world in which every defect occurs: (its folder, its truth)."""
    cv2.setNumThreads(1)
    folder = render_world(11, d.SMALLEST_WHOLE_WORLD, tmp_path_factory.mktemp("tinyworld") / "world")
    return folder, json.loads((folder / "truth.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def decode() -> Decode:
    """Read a video: uint8 FHWC, RGB; read once and remembered."""
    seen: dict[Path, npt.NDArray[np.uint8]] = {}

    def read(path: Path) -> npt.NDArray[np.uint8]:
        if path not in seen:
            with av.open(str(path)) as container:
                seen[path] = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        return seen[path]

    return read
