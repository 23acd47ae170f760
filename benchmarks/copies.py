"""Scores dedupe by video: which files were joined, against which files are copies of each other."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Pairs = set[tuple[str, str]]


def pairs_of(groups: Iterable[Sequence[str]]) -> Pairs:
    """Unordered pairs within groups of names."""
    return {(min(p), max(p)) for group in groups for p in itertools.combinations(group, 2)}


def joined_videos(clips: Iterable[Mapping[str, Any]], dedupe: Iterable[Mapping[str, Any]], root: Path) -> Pairs:
    """Pairs of files, relative to ``root``, of which clips that cover half of the shorter one's duration share a group."""
    group_of = {row["clip_id"]: row["group_id"] for row in dedupe}
    seconds: Counter[str] = Counter()
    covered: dict[str, Counter[str]] = defaultdict(Counter)
    for clip in clips:
        name = Path(str(clip["video_uri"]).removeprefix("file://")).relative_to(root).as_posix()
        seconds[name] += clip["duration_s"]
        group = group_of.get(clip["clip_id"])
        if group is not None:
            covered[group][name] += clip["duration_s"]
    shared: Counter[tuple[str, str]] = Counter()
    for found in covered.values():
        for one, two in itertools.combinations(sorted(found), 2):
            shorter = one if seconds[one] <= seconds[two] else two
            shared[one, two] += found[shorter] / seconds[shorter]
    return {pair for pair, share in shared.items() if share >= 0.5}


def duplicates_score(truth: Mapping[str, Any], joined: Pairs) -> dict[str, object]:
    """The figures on a ``duplicates.json``; partial overlaps and reversed pairs are not scored."""
    near = pairs_of([*truth["exact"], *truth["near"]])
    hard = pairs_of(truth["hard_negatives_same_scene_other_content"])
    return {
        "near_pairs": len(near),
        "found": len(near & joined),
        "missed": sorted(near - joined),
        "hard_negatives": len(hard),
        "hard_negatives_joined": sorted(hard & joined),
    }


def variants_score(rows: Sequence[Mapping[str, str]], joined: Pairs) -> dict[str, object]:
    """Pairwise precision and recall over all files: a pair is true where both come from one source.

    ``by_kind``: the share of variants of each kind that were joined with their own original.
    """
    source = {row["file"]: row["source"] for row in rows}
    files: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        files[row["source"]].append(row["file"])
    truth = pairs_of(files.values())
    known = {pair for pair in joined if pair[0] in source and pair[1] in source}
    original = {row["source"]: row["file"] for row in rows if row["kind"] == "original"}
    by_kind: dict[str, list[bool]] = defaultdict(list)
    for row in rows:
        if row["kind"] != "original":
            pair = sorted((row["file"], original[row["source"]]))
            by_kind[row["kind"]].append((pair[0], pair[1]) in joined)
    false = known - truth
    return {
        "files": len(rows),
        "variants": sum(row["kind"] != "original" for row in rows),
        "sources": len(files),
        "sources_varied": sum(len(found) > 1 for found in files.values()),
        "pairs_true": len(truth),
        "pairs_joined": len(known),
        "recall": round(len(truth & known) / max(1, len(truth)), 5),
        "precision": round(len(truth & known) / max(1, len(known)), 5),
        "by_kind": {kind: [sum(found), len(found)] for kind, found in sorted(by_kind.items())},
        "false_between": sorted({tuple(sorted((source[a], source[b]))) for a, b in false}),
    }
