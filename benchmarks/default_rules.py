"""Counts what the default rules reject: in rendered worlds, where every defect is known, and in real footage.

    python benchmarks/default_rules.py --data FOOTAGE --worlds 3 41

Rendered films are scored over their true shots, so that no error of shot detection is counted here.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from models.scorers.catalog import scorer_class
from models.video.analyze import Shot, analyze_video
from models.video.reader import UndecodableError
from stages.curation.analyze import DEFAULT_SCORERS
from stages.curation.default_rules import DEFAULT_RULES
from stages.curation.rules import evaluate

RULE_OF = {
    "static": "frozen",
    "text": "text_overlay",
    "blur": "blurred",
    "dark": "too_dark",
    "letterbox": "letterboxed",
}


def rows_of(path: Path, shots: list[Shot] | None) -> Iterator[dict[str, Any]]:
    """One row of scores a shot."""
    found = analyze_video(path, "video", [scorer_class(n)() for n in DEFAULT_SCORERS], shots=shots, keyframes=False)
    for n, shot in enumerate(found.shots):
        scores = {k: v for rows in found.scores.values() for k, v in rows[n].items()}
        size = {"width": found.facts.width, "height": found.facts.height}
        yield {"clip_id": f"{path.name} {n}", "duration_s": shot.end_s - shot.start_s, **size, **scores}


def verdicts(rows: list[dict[str, Any]]) -> dict[str, str | None]:
    """The first failing rule of each clip, None where it is kept."""
    table = pa.Table.from_pylist(rows)
    judged = pa.concat_tables(evaluate(DEFAULT_RULES, table))
    return dict(zip(*(judged.column(n).to_pylist() for n in ("clip_id", "first_failing_rule")), strict=True))


def world(folder: Path) -> dict[str, Any]:
    """Rejections by defect, and which shots without a defect were rejected, of one rendered world."""
    truth: dict[str, dict[str, Any]] = {}
    rows: list[dict[str, Any]] = []
    for video in json.loads((folder / "truth.json").read_text(encoding="utf-8"))["videos"]:
        true_shots = video["shots"]
        if not true_shots:
            continue
        spans = [(s["start"], s["end"]) for s in true_shots]
        shots = [Shot(a, b, a / video["fps"], b / video["fps"], "cut", "cut") for a, b in spans]
        try:
            rows += (found := list(rows_of(folder / video["file"], shots)))
        except UndecodableError:
            continue
        truth |= {row["clip_id"]: shot for row, shot in zip(found, true_shots, strict=True)}
    decided = verdicts(rows)
    defects: dict[str, Counter[str]] = {}
    wrong = []
    for clip, shot in truth.items():
        rule = decided[clip]
        if not shot["defects"]:
            wrong += [f"{clip}: {rule}"] if rule else []
        for defect in shot["defects"]:
            outcome = "missed" if rule is None else "found" if rule == RULE_OF.get(defect) else f"by {rule}"
            defects.setdefault(defect, Counter())[outcome] += 1
    clean = sum(not shot["defects"] for shot in truth.values())
    return {"defects": {d: dict(c) for d, c in sorted(defects.items())}, "clean": clean, "clean_rejected": wrong}


def real(data: Path) -> dict[str, Any]:
    """Rejections by rule over every decodable video of the real footage, with their names."""
    rows: list[dict[str, Any]] = []
    for entry in json.loads((data / "manifest.json").read_text(encoding="utf-8")):
        if entry["kind"] != "video" or entry["file"].startswith("made/"):
            continue
        try:
            rows += [
                {**row, "clip_id": f"{entry['file']} {n}"} for n, row in enumerate(rows_of(data / entry["file"], None))
            ]
        except UndecodableError:
            continue
    by_rule: dict[str, list[str]] = {}
    for clip, rule in verdicts(rows).items():
        if rule:
            by_rule.setdefault(rule, []).append(clip)
    return {"shots": len(rows), "kept": len(rows) - sum(map(len, by_rule.values())), "rejected": by_rule}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of real footage, with its manifest.json")
    parser.add_argument("--worlds", type=int, nargs="+", default=[3, 41], help="seeds of rendered worlds")
    parser.add_argument("--count", type=int, default=60, help="files of a world")
    parser.add_argument("--no-write", action="store_true", help="only print")
    given = parser.parse_args()

    from tinyworld.render import render_world

    found: dict[str, Any] = {"worlds": {}, "files_of_a_world": given.count}
    for seed in given.worlds:
        folder = Path(tempfile.mkdtemp(prefix="fulcrum-rules-"))
        try:
            render_world(seed, given.count, folder / "world", None)
            found["worlds"][str(seed)] = world(folder / "world")
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        print(json.dumps(found["worlds"][str(seed)], indent=1), flush=True)
    found["real"] = real(given.data)
    print(json.dumps(found["real"], indent=1))
    if not given.no_write:
        from benchmarks.measured import write

        print(
            write(
                "default_rules",
                found,
            )
        )


if __name__ == "__main__":
    main()
