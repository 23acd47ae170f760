"""Our one pass by itself, in one process: every default scorer, shots and key frames, nothing stored."""

from __future__ import annotations

import sys

from models.scorers.catalog import scorer_class
from models.video.analyze import analyze_video
from stages.curation.analyze import DEFAULT_SCORERS


def main(paths: list[str]) -> None:
    frames = shots = 0
    for path in paths:
        found = analyze_video(path, "video", [scorer_class(name)() for name in DEFAULT_SCORERS])
        if found.score_errors:
            raise SystemExit(f"{path}: {found.score_errors}")
        frames, shots = frames + found.facts.frames, shots + len(found.shots)
    print(f"frames {frames} shots {shots}")


if __name__ == "__main__":
    main(sys.argv[1:])
