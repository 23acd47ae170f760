"""Data-Juicer's operators for the same job, run by its own command from its own environment."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.curation.footage import Film

# What it takes beside py-data-juicer itself for these three operators on a machine without a GPU
REQUIREMENTS = ("py-data-juicer==1.6.1", "opencv-python-headless", "scenedetect-headless==0.7.2", "transformers", "av==13.1.0",
                "ffmpeg-python", "aiohttp")  # fmt: skip


def recipe(films: Sequence[Film], work: Path, clip: Path) -> Path:
    """Write its dataset and recipe: split by scene, motion by Farneback, picture and text by CLIP, all at their defaults but for
    the lower bounds of the two filters, which are opened so that every clip is scored to the end."""
    rows = [{"videos": [f.path], "text": f"<__dj__video> {f.caption} <|__dj__eoc|>"} for f in films]
    (work / "films.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    operators = [
        {"video_split_by_scene_mapper": {"save_dir": str(work / "clips")}},
        {"video_motion_score_filter": {"min_score": -1.0}},
        {"video_frames_text_similarity_filter": {"hf_clip": str(clip), "min_score": -1.0}},
    ]
    settings = {
        "project_name": "curation",
        "dataset_path": str(work / "films.jsonl"),
        "export_path": str(work / "out.jsonl"),
        "np": 1,
        "open_tracer": False,
        "use_cache": False,
        "work_dir": str(work / "dj"),
        "temp_dir": str(work / "tmp"),
        "process": operators,
    }
    (work / "tmp").mkdir(exist_ok=True)
    path = work / "recipe.yaml"
    path.write_text(json.dumps(settings), encoding="utf-8")  # JSON is YAML
    return path


def scored(work: Path) -> dict[str, int]:
    """Films and clips that came out with a motion and a similarity score, to see that the work was really done."""
    films = clips = motion = similarity = 0
    stats = work / "out_stats.jsonl"
    text = (stats if stats.exists() else work / "out.jsonl").read_text(encoding="utf-8")
    for line in text.splitlines():
        row = json.loads(line)
        found = row.get("__dj__stats__", row)
        films += 1
        clips += len(row.get("videos", found.get("video_motion_score", [])))
        motion += sum(v is not None and v >= 0 for v in found.get("video_motion_score", []))
        similarity += len(found.get("video_frames_text_similarity", []))
    return {"films": films, "clips": clips, "motion": motion, "similarity": similarity}
