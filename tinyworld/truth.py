"""What is true of a rendered world, as JSON-able data: the reader of ``truth.json`` needs nothing else.

Layout (``schema_version`` 1.0): ``videos`` (one entry a file), ``photos``, ``identities``, ``duplicates``, ``broken``.
Frames count from 0 in presentation order and spans are [start, end); boxes are x0, y0, x1, y1 as shares of the frame.
A shot's ``keep`` speaks of its own quality alone: which one of a group of duplicates stays is another question.
"""

from __future__ import annotations

from typing import Any

from tinyworld import difficulty as d
from tinyworld.films import Broken, Copy, Film, Plan, Shot, Span, bar_px
from tinyworld.world import Box

SCHEMA_VERSION = "1.0"
WHY_NOT = {
    "static": "nothing moves: a still picture",
    "text": "text is burnt over the picture",
    "blur": "out of focus",
    "dark": "too dark to see the subject",
    "letterbox": "black bars above and below",
}
WHAT_IS_WRONG = {
    "truncated": "the file ends before its index: cut off after 60% of its bytes",
    "empty": "zero bytes",
    "garbage": "random bytes under a video's name",
}
SUFFIX = {"h264": ".mp4", "vp9": ".webm"}


def file_name(number: int, codec: str) -> str:
    return f"film_{number:04d}{SUFFIX[codec]}"


def copy_codec(copy: Copy) -> str:
    """A re-encoded copy changes the codec; the others keep to h264."""
    return "vp9" if copy.how == "reencoded" and copy.film.codec == "h264" else "h264"


def copy_size(copy: Copy) -> tuple[int, int]:
    """Width and height of a copy, even."""
    if copy.how != "rescaled":
        return copy.film.width, copy.film.height
    return 2 * round(copy.film.width * 0.375), 2 * round(copy.film.height * 0.375)


def _seen(box: Box, bar: float, crop: float) -> list[float]:
    """A box of the scene as it lies in the file: pushed in by letterbox bars, out by a crop (shares of the height)."""
    x0, y0, x1, y1 = box
    framed = (x0, bar + y0 * (1 - 2 * bar), x1, bar + y1 * (1 - 2 * bar))
    return [round(min(1.0, max(0.0, (v - crop) / (1 - 2 * crop))), 4) for v in framed]


def _slid(box: Box) -> Box:
    """A slide shows its picture at 0.76 of the size about the centre (compose.py)."""
    x0, y0, x1, y1 = (0.5 + (v - 0.5) * 0.76 for v in box)
    return x0, y0, x1, y1


def _shot(film: Film, index: int, span: Span, clean: Span, crop: float) -> dict[str, Any]:
    shot: Shot = film.shots[index]
    start = film.starts()[index]
    kind = shot.defect.kind if shot.defect is not None else None
    bar = bar_px(film.height, shot.defect) / film.height
    subjects = []
    for actor in shot.scene.actors:
        boxes = []
        for frame in (clean.start, (clean.start + clean.end) // 2, clean.end - 1):
            if kind == "static":
                box = _slid(actor.box(0.5, shot.scene.aspect))
            else:
                box = actor.box((frame - start) / max(1, shot.frames - 1), shot.scene.aspect)
            boxes.append({"frame": frame, "box": _seen(box, bar, crop)})
        motion = "still" if kind == "static" else actor.motion
        subjects.append({"id": actor.identity.id, "phrase": actor.identity.phrase, "motion": motion, "boxes": boxes})
    return {
        "index": index,
        "start": span.start,
        "end": span.end,
        "clean_start": clean.start,
        "clean_end": clean.end,
        "subjects": subjects,
        "background": film.background,
        "camera": "fixed" if kind == "static" else shot.scene.camera.kind,
        "light": shot.scene.light,
        "defects": [kind] if kind else [],
        "defect_detail": {"strength": round(shot.defect.strength, 5), "text": shot.defect.text}
        if shot.defect
        else None,
        "keep": kind is None,
        "why_not": WHY_NOT[kind] if kind else None,
    }


def _video(film: Film, name: str, codec: str, size: tuple[int, int], crop: float) -> dict[str, Any]:
    spans, cleans = film.shot_spans(), film.clean_spans()
    return {
        "file": name,
        "codec": codec,
        "width": size[0],
        "height": size[1],
        "fps": film.fps,
        "frames": film.frames,
        "caption": film.caption,
        "identities": [film.identity.id],
        "motion": film.motion,
        "background": film.background,
        "shots": [_shot(film, i, spans[i], cleans[i], crop) for i in range(len(film.shots))],
        "boundaries": [
            {"kind": join.kind, "frame": (t.start + t.end) // 2, "start": t.start, "end": t.end}
            for join, t in zip(film.joins, film.transitions(), strict=True)
        ],
    }


def film_truth(film: Film) -> dict[str, Any]:
    name = file_name(film.number, film.codec)
    video = _video(film, name, film.codec, (film.width, film.height), 0.0)
    return {**video, "kind": "film", "copy_of": None, "how": None, "what_is_wrong": None}


def copy_truth(copy: Copy) -> dict[str, Any]:
    codec = copy_codec(copy)
    crop = copy.amount if copy.how == "cropped" else 0.0
    video = _video(copy.film, file_name(copy.number, codec), codec, copy_size(copy), crop)
    original = file_name(copy.film.number, copy.film.codec)
    return {**video, "kind": "copy", "copy_of": original, "how": copy.how, "what_is_wrong": None}


def broken_truth(broken: Broken) -> dict[str, Any]:
    return {
        "file": file_name(broken.number, "h264"),
        "kind": "broken",
        "copy_of": None,
        "how": broken.how,
        "what_is_wrong": WHAT_IS_WRONG[broken.how],
        "shots": [],
        "boundaries": [],
    }


def photo_name(index: int) -> str:
    return f"photos/photo_{index:03d}.png"


def world_truth(plan: Plan) -> dict[str, Any]:
    """The content of ``truth.json``."""
    videos = [film_truth(f) for f in plan.films] + [copy_truth(c) for c in plan.copies]
    videos += [broken_truth(b) for b in plan.broken]
    groups: dict[str, list[str]] = {}
    for video in videos:
        if video["kind"] == "copy":
            groups.setdefault(video["copy_of"], [video["copy_of"]]).append(video["file"])
    identities: dict[str, Any] = {}
    for film in plan.films:
        entry = identities.setdefault(film.identity.id, {**film.identity.truth(), "films": []})
        entry["films"].append(file_name(film.number, film.codec))
    return {
        "schema_version": SCHEMA_VERSION,
        "world_version": d.WORLD_VERSION,
        "seed": plan.seed,
        "count": plan.count,
        "videos": sorted(videos, key=lambda video: str(video["file"])),
        "photos": [
            {"file": photo_name(i), "id": identity.id, "phrase": identity.phrase, "background": "plain"}
            for i, identity in enumerate(plan.photos)
        ],
        "identities": dict(sorted(identities.items())),
        "duplicates": [sorted(group) for _, group in sorted(groups.items())],
        "broken": sorted(video["file"] for video in videos if video["kind"] == "broken"),
    }
