"""Tables as the decoding pass leaves them, made from real files by the plainest means: one shot a video, five key frames."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest

from data_schemas.ids import clip_id, video_id
from data_schemas.tables import CAPTIONS, CLIPS, KEYFRAMES, SELECTION, VIDEOS
from models.video.reader import VideoReader
from tests.curation.storage import s3_options

__all__ = ["s3_options"]  # a fixture of its own file

Analysed = dict[str, pa.Table]
POSITIONS = (0.1, 0.3, 0.5, 0.7, 0.9)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def _jpeg(picture: np.ndarray) -> bytes:
    height, width = picture.shape[:2]
    scale = min(1.0, 256 / min(height, width))
    small = cv2.resize(picture, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", small)[1].tobytes()


@pytest.fixture(scope="session")
def analysed() -> Callable[..., Analysed]:
    """``analysed(paths, spans={path: [(start, end)]}, captions={path: text})``: videos, clips, keyframes, captions,
    selection (all kept) of these files; without spans each file is one clip."""

    def make(
        paths: Sequence[Path],
        spans: Mapping[Path, Sequence[tuple[int, int]]] | None = None,
        captions: Mapping[Path, str] | None = None,
    ) -> Analysed:
        rows: dict[str, list[dict[str, object]]] = {"videos": [], "clips": [], "keyframes": [], "captions": []}
        for path in paths:
            video = video_id("test", path.as_posix())
            with VideoReader(path) as reader:
                frames = [(frame.time_s, frame.picture()) for frame in reader]
                facts = reader.facts
            sha = hashlib.sha256(path.read_bytes()).hexdigest()
            caption = (captions or {}).get(path)
            rows["videos"].append(
                {
                    "video_id": video, "uri": str(path), "path": path.name, "media_type": "video",
                    "bytes": path.stat().st_size, "sha256": sha, "status": "ok", "duration_s": facts.duration_s,
                    "caption": caption, "caption_source": "sidecar" if caption else None, "licence": "CC-BY 4.0",
                }
            )  # fmt: skip
            for start, end in (spans or {}).get(path, [(0, len(frames))]):
                clip = clip_id(video, start, end)
                start_s = frames[start][0]
                end_s = frames[end][0] if end < len(frames) else facts.duration_s
                rows["clips"].append(
                    {
                        "clip_id": clip, "video_id": video, "video_uri": str(path), "start_s": start_s, "end_s": end_s,
                        "start_frame": start, "end_frame": end, "boundary_in": "start", "boundary_out": "end",
                        "duration_s": end_s - start_s, "width": facts.width, "height": facts.height,
                        "fps": facts.fps, "sharpness": 1.0, "motion": 0.1,
                    }
                )  # fmt: skip
                rows["captions"].append({"clip_id": clip, "caption": caption, "source": "sidecar" if caption else None})
                for position in POSITIONS:
                    index = start + int(position * (end - start - 1))
                    rows["keyframes"].append(
                        {
                            "clip_id": clip, "position": position, "time_s": frames[index][0],
                            "jpeg": _jpeg(frames[index][1]),
                        }
                    )  # fmt: skip
        selection = [
            {"clip_id": row["clip_id"], "kept": True, "first_failing_rule": None, "review": False}
            for row in rows["clips"]
        ]
        return {
            "videos": VIDEOS.table(rows["videos"]),
            "clips": CLIPS.table(rows["clips"]),
            "keyframes": KEYFRAMES.table(rows["keyframes"]),
            "captions": CAPTIONS.table(rows["captions"]),
            "selection": SELECTION.table(selection),
        }

    return make
