"""Real footage whose copies are known, and variants of rendered scenes: copies are joined, other takes and subjects are not."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import pyarrow as pa
import pytest

from benchmarks.copies import Pairs, duplicates_score, joined_videos, pairs_of, variants_score
from benchmarks.variants import KINDS, make, rendered_sources
from data_schemas.ids import clip_id, video_id
from data_schemas.tables import CLIPS, KEYFRAMES, SELECTION, VIDEOS
from models.video.reader import VideoReader, fitted
from stages.curation.dedupe import DedupeParams, NearParams, dedupe
from tests.context import LocalContext

# bigger groups of the same kinds of copies are left to benchmarks/dedupe.py, which scores all of them
CHOSEN = ("frog.mp4", "frog.webm", "bitrot_frog.mp4", "rabbit320.mp4",
          "rabbit.webm", "03_blocks.mp4", "neardup_blocks_crop_15fps.webm", "sample_h264.ts", "sample_h265.ts", "bird.mkv", "milk.mkv",
          "crystal.webm", "elf.webm")  # fmt: skip
# where shot detection cuts: decoding fails up to there, and the first good picture begins a shot
SPANS = {"bitrot_frog.mp4": (139,)}


def tables(files: Sequence[Path]) -> dict[str, pa.Table]:
    """What analyze leaves of these files, one shot each but for ``SPANS``, holding one small picture in five."""
    rows: dict[str, list[dict[str, object]]] = {"videos": [], "clips": [], "keyframes": [], "selection": []}
    for file in files:
        video = video_id("test", file.as_posix())
        small = []
        with VideoReader(file) as reader:
            times = []
            for frame in reader:
                times.append(frame.time_s)
                if frame.index % 5 == 0:
                    small.append(frame.picture(fitted(frame.size, 256)))
            facts = reader.facts
        rows["videos"].append({"video_id": video, "uri": str(file), "path": file.name, "media_type": "video", "bytes": file.stat().st_size,
                               "sha256": video, "status": "ok"})  # fmt: skip
        edges = [0, *SPANS.get(file.name, ()), len(times)]
        for start, end in itertools.pairwise(edges):
            clip = clip_id(video, start, end)
            end_s = times[end] if end < len(times) else facts.duration_s
            rows["clips"].append(
                {
                    "clip_id": clip, "video_id": video, "video_uri": str(file), "start_s": times[start], "end_s": end_s,
                    "start_frame": start, "end_frame": end, "boundary_in": "cut", "boundary_out": "cut",
                    "duration_s": end_s - times[start], "width": facts.width, "height": facts.height, "fps": facts.fps,
                    "sharpness": 1.0,
                }
            )  # fmt: skip
            rows["selection"].append({"clip_id": clip, "kept": True, "first_failing_rule": None, "review": False})
            for position in (0.1, 0.5, 0.9):
                picture = small[min(round((start + position * (end - start)) / 5), len(small) - 1)]
                jpeg = cv2.imencode(".jpg", picture)[1].tobytes()
                rows["keyframes"].append({"clip_id": clip, "position": position, "time_s": 0.0, "jpeg": jpeg})
    schemas = {"videos": VIDEOS, "clips": CLIPS, "keyframes": KEYFRAMES, "selection": SELECTION}
    return {name: schema.table(rows[name]) for name, schema in schemas.items()}


def joined(tmp_path: Path, files: Sequence[Path], root: Path, near: NearParams) -> tuple[Pairs, LocalContext]:
    inputs = tables(files)
    context = LocalContext(tmp_path, dedupe, inputs)
    context.run(DedupeParams(near=near))
    return joined_videos(inputs["clips"].to_pylist(), context.outputs["dedupe"].to_pylist(), root), context


@pytest.mark.footage
def test_real_copies_are_joined_and_other_takes_of_a_scene_are_not(footage: Path, tmp_path: Path) -> None:
    truth = json.loads((footage / "duplicates.json").read_text(encoding="utf-8"))
    named = sorted({name for kind in truth.values() for group in kind for name in group})
    files = [footage / name for name in named if Path(name).name in CHOSEN]
    assert len(files) == len(CHOSEN)
    found, context = joined(tmp_path, files, footage, NearParams())
    inside = {file.relative_to(footage).as_posix() for file in files}
    scored = {kind: [[name for name in group if name in inside] for group in groups] for kind, groups in truth.items()}
    score = duplicates_score(scored, found)
    assert (score["near_pairs"], score["missed"]) == (6, [])
    assert (score["hard_negatives"], score["hard_negatives_joined"]) == (4, [])
    assert found <= pairs_of([*scored["near"], *scored["exact"]])
    rows = context.ledger_rows
    assert len({row["record_id"] for row in rows}) == len(rows) == context.outputs["dedupe"].num_rows


def test_variants_of_rendered_scenes_are_joined_and_their_look_alikes_are_not(tmp_path: Path) -> None:
    """The short form of benchmarks/dedupe.py, on scenes that it does not use."""
    sources = list(rendered_sources(303, 2))
    rows = make(sources, 3 * len(KINDS), tmp_path / "files", seed=4)
    files = [tmp_path / "files" / row["file"] for row in rows]
    found, _ = joined(tmp_path, files, tmp_path / "files", NearParams(mirrored=True))
    score = variants_score(rows, found)
    assert score["variants"] == 3 * len(KINDS)
    assert float(str(score["recall"])) >= 0.95
    assert float(str(score["precision"])) >= 0.99
