"""Judging a curation by the renderer's truth: shot boundaries, filters, duplicates and broken files, all with counts.

The counts are what matters; a ratio whose denominator is zero is None. Clips are matched to truth shots by largest
overlap in frames, boundaries one to one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

import pyarrow as pa

TOLERANCE = 2
"""Frames by which a boundary may be off."""


@dataclass(frozen=True)
class Boundary:
    """A boundary between shots: frames [start, end] in which it may be placed, and its kind."""

    start: float
    end: float
    kind: str

    @property
    def hard(self) -> bool:
        return self.kind == "cut"


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _f1(precision: float | None, recall: float | None) -> float | None:
    if precision is None or recall is None:
        return None
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def match_boundaries(
    truth: Sequence[Boundary], found: Sequence[Boundary], tolerance: int = TOLERANCE
) -> list[tuple[int, int]]:
    """Largest one-to-one matching of boundaries (Kuhn's augmenting paths), nearest first: pairs of indices.

    A found boundary is judged by its middle, which may lie ``tolerance`` frames outside the truth's span at most.
    """
    near: list[list[int]] = []
    for boundary in truth:
        away = []
        for index, guess in enumerate(found):
            middle = (guess.start + guess.end) / 2
            distance = max(boundary.start - middle, middle - boundary.end, 0.0)
            if distance <= tolerance:
                away.append((distance, abs(middle - (boundary.start + boundary.end) / 2), index))
        near.append([index for _, _, index in sorted(away)])
    taken: dict[int, int] = {}

    def place(which: int, tried: set[int]) -> bool:
        for index in near[which]:
            if index in tried:
                continue
            tried.add(index)
            if index not in taken or place(taken[index], tried):
                taken[index] = which
                return True
        return False

    for which in range(len(truth)):
        place(which, set())
    return sorted((which, index) for index, which in taken.items())


def found_boundaries(clips: Iterable[dict[str, Any]]) -> list[Boundary]:
    """Boundaries between the clips of one video; where clips leave a gap, the boundary is somewhere in it."""
    ordered = sorted(clips, key=lambda clip: (clip["start_frame"], clip["end_frame"]))
    boundaries = []
    for before, after in pairwise(ordered):
        first, last = sorted((before["end_frame"], after["start_frame"]))
        boundaries.append(Boundary(first, last, after["boundary_in"]))
    return boundaries


def _score(truth: int, found: int, truth_matched: int, found_matched: int) -> dict[str, Any]:
    precision, recall = _ratio(found_matched, found), _ratio(truth_matched, truth)
    return {
        "truth": truth,
        "found": found,
        "truth_matched": truth_matched,
        "found_matched": found_matched,
        "precision": precision,
        "recall": recall,
        "f1": _f1(precision, recall),
    }


def _judge_boundaries(per_video: list[tuple[list[Boundary], list[Boundary]]]) -> dict[str, Any]:
    """All together, and hard (cut) and gradual (dissolve, fade) apart.

    Apart, recall counts truth boundaries of the class that any boundary hit, precision counts boundaries labelled with
    the class that hit any truth; ``kind_right`` counts hits whose kind (cut, dissolve, fade) is the truth's.
    """
    counts: Counter[tuple[str, str]] = Counter()
    right = 0
    for truth, found in per_video:
        pairs = match_boundaries(truth, found)
        hit_truth, hit_found = {i for i, _ in pairs}, {j for _, j in pairs}
        right += sum(truth[i].kind == found[j].kind for i, j in pairs)
        for side, boundaries, hits in (("truth", truth, hit_truth), ("found", found, hit_found)):
            for index, boundary in enumerate(boundaries):
                for group in ("all", "hard" if boundary.hard else "gradual"):
                    counts[side, group] += 1
                    counts[f"{side}_matched", group] += index in hits
    groups = {
        group: _score(*(counts[side, group] for side in ("truth", "found", "truth_matched", "found_matched")))
        for group in ("all", "hard", "gradual")
    }
    return {"tolerance_frames": TOLERANCE, **groups, "kind_right": right}


def match_shot(shots: Sequence[dict[str, Any]], start: int, end: int) -> int | None:
    """Index of the truth shot that overlaps frames [start, end) most; the first of equals; None without overlap."""
    overlaps = [min(end, shot["end"]) - max(start, shot["start"]) for shot in shots]
    best = max(range(len(shots)), key=lambda index: overlaps[index], default=None)
    return best if best is not None and overlaps[best] > 0 else None


def _judge_filter(
    shots: dict[tuple[str, int], dict[str, Any]],
    shot_of: dict[str, tuple[str, int]],
    selection: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    """Clip by clip against ``keep``; a good shot that no clip matches counts as missed."""
    tp = fp = fn = tn = 0
    wrongly: Counter[str] = Counter()
    slipped: Counter[str] = Counter()
    kept_shots = {shot_of[clip] for clip, row in selection.items() if row["kept"] and clip in shot_of}
    clipped = set(shot_of.values())
    for clip, key in shot_of.items():
        row = selection.get(clip)
        kept, good = bool(row and row["kept"]), shots[key]["keep"]
        tp, fp = tp + (kept and good), fp + (kept and not good)
        fn, tn = fn + (not kept and good), tn + (not kept and not good)
        if good and not kept:
            wrongly[str(row["first_failing_rule"]) if row else "not in the selection"] += 1
        if kept and not good:
            slipped.update(shots[key]["defects"])
    unclipped = sum(shot["keep"] and key not in clipped for key, shot in shots.items())
    fn += unclipped
    defects: dict[str, dict[str, Any]] = {}
    for name in sorted({name for shot in shots.values() for name in shot["defects"]}):
        having = [key for key, shot in shots.items() if name in shot["defects"]]
        rejected = sum(key not in kept_shots for key in having)
        defects[name] = {"shots": len(having), "rejected": rejected, "recall": _ratio(rejected, len(having))}
    precision, recall = _ratio(tp, tp + fp), _ratio(tp, tp + fn)
    return {
        "kept_good": tp,
        "kept_bad": fp,
        "lost_good": fn,
        "rejected_bad": tn,
        "good_shots_without_a_clip": unclipped,
        "precision": precision,
        "recall": recall,
        "f1": _f1(precision, recall),
        "defects": defects,
        "good_rejected_by_rule": dict(sorted(wrongly.items())),
        "bad_kept_by_defect": dict(sorted(slipped.items())),
    }


def _judge_dedupe(
    truth: dict[str, Any], shot_of: dict[str, tuple[str, int]], dedupe: list[dict[str, Any]]
) -> dict[str, Any]:
    """Pairs of clips of the dedupe table that show the same shot of a film and its copies, against its groups."""
    original = {video["file"]: video["copy_of"] or video["file"] for video in truth["videos"]}
    same: dict[tuple[str, int], list[str]] = defaultdict(list)
    groups: dict[str, list[str]] = defaultdict(list)
    kind: dict[str, str] = {}
    for row in dedupe:
        clip = row["clip_id"]
        if clip in shot_of:
            file, index = shot_of[clip]
            same[original[file], index].append(clip)
        if row["group_id"] is not None:
            groups[row["group_id"]].append(clip)
            kind[clip] = row["kind"] or "unnamed"

    def pairs(members: Iterable[list[str]]) -> set[tuple[str, str]]:
        return {(a, b) for clips in members for a, b in combinations(sorted(clips), 2)}

    def of_one_file(pair: tuple[str, str]) -> bool:
        a, b = (shot_of.get(clip) for clip in pair)
        return a is not None and a == b

    # Two parts of one shot of one file are an over-cut shot, not a duplicate: neither asked for nor held against.
    true = {pair for pair in pairs(same.values()) if not of_one_file(pair)}
    said = {pair for pair in pairs(groups.values()) if not of_one_file(pair)}
    false = said - true
    precision, recall = _ratio(len(said & true), len(said)), _ratio(len(said & true), len(true))
    return {
        "true_pairs": len(true),
        "found": len(said & true),
        "missed": len(true - said),
        "false": len(false),
        "false_by_kind": dict(sorted(Counter(kind.get(a, "unnamed") for a, _ in false).items())),
        "precision": precision,
        "recall": recall,
        "f1": _f1(precision, recall),
    }


def _judge_files(truth: dict[str, Any], status: dict[str, str]) -> dict[str, Any]:
    broken = [video["file"] for video in truth["videos"] if video["kind"] == "broken"]
    sound = [video["file"] for video in truth["videos"] if video["kind"] != "broken"]
    return {
        "broken": len(broken),
        "failed_as_expected": sorted(file for file in broken if status.get(file) == "failed"),
        "broken_but_not_failed": sorted(file for file in broken if file in status and status[file] != "failed"),
        "sound": len(sound),
        "sound_but_not_ok": sorted(file for file in sound if file in status and status[file] != "ok"),
        "missing": sorted(file for file in (*broken, *sound) if file not in status),
    }


def _rows(table: pa.Table, name: str, columns: Sequence[str]) -> list[dict[str, Any]]:
    absent = [column for column in columns if column not in table.column_names]
    if absent:
        raise ValueError(f"the {name} table has no column {', '.join(absent)}; it cannot be judged")
    return list(table.select(list(columns)).to_pylist())


def judge_curation(
    truth: dict[str, Any], videos: pa.Table, clips: pa.Table, selection: pa.Table, dedupe: pa.Table | None = None
) -> dict[str, Any]:
    """Compare a curation's tables with ``truth.json`` (read as a dict) of the folder that was its source.

    ``videos.path`` is relative to that folder. Returns ``boundaries``, ``filter``, ``dedupe`` (None without the table)
    and ``files``, JSON-able, every ratio beside its counts and None where its denominator is zero. Clips that overlap
    no truth shot, or whose video the truth does not know, are counted as ``unknown_clips`` and judged no further.

    Raises ValueError when a table lacks a column or the truth is of another major version.
    """
    version = str(truth.get("schema_version", "none"))
    if version.split(".")[0] != "1":
        raise ValueError(f"truth of schema version {version} cannot be judged; this judge reads version 1")
    video_rows = _rows(videos, "videos", ("video_id", "path", "status"))
    clip_rows = _rows(clips, "clips", ("clip_id", "video_id", "start_frame", "end_frame", "boundary_in"))
    selected = {r["clip_id"]: r for r in _rows(selection, "selection", ("clip_id", "kept", "first_failing_rule"))}
    path = {row["video_id"]: row["path"] for row in video_rows}
    known = {video["file"]: video for video in truth["videos"]}
    clips_of: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in clip_rows:
        clips_of[path.get(row["video_id"], "")].append(row)

    per_video = []
    shots: dict[tuple[str, int], dict[str, Any]] = {}
    shot_of: dict[str, tuple[str, int]] = {}
    for file, video in known.items():
        marks = [Boundary(b["start"], b["end"], b["kind"]) for b in video["boundaries"]]
        per_video.append((marks, found_boundaries(clips_of[file])))
        shots.update({(file, index): shot for index, shot in enumerate(video["shots"])})
        for row in clips_of[file]:
            index = match_shot(video["shots"], row["start_frame"], row["end_frame"])
            if index is not None:
                shot_of[row["clip_id"]] = (file, index)
    repeated = None
    if dedupe is not None:
        repeated = _judge_dedupe(truth, shot_of, _rows(dedupe, "dedupe", ("clip_id", "kept", "kind", "group_id")))
    return {
        "boundaries": _judge_boundaries(per_video),
        "filter": _judge_filter(shots, shot_of, selected),
        "dedupe": repeated,
        "files": _judge_files(truth, {row["path"]: row["status"] for row in video_rows}),
        "unknown_clips": len(clip_rows) - len(shot_of),
    }
