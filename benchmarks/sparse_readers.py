"""Do PyAV and decord show the same pictures? Asks both for the first, middle and last instant of every video of the footage.

    python benchmarks/sparse_readers.py --data FOOTAGE

The truth is the sequential reader's picture at that instant. Both libraries run in a guarded process with a limit of time,
since decord does not return from some files. A file counts as agreeing when no picture differs by more than half a grey level on
average. ``wrong_choice`` must stay empty: files for which the reader that ``models.video.sparse`` takes does not agree.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

TOLERANCE = 0.5  # grey levels: what two versions of one decoder's colour conversion may differ by


def differences(path: str, library: str, on_progress: Callable[[], None]) -> list[float] | str:
    """Mean absolute difference to the truth at the first, middle and last instant, or what went wrong in words.

    Runs in a guarded process.
    """
    import numpy as np

    from models.video import sparse
    from models.video.reader import VideoReader

    with VideoReader(path) as reader:
        instants = []
        for frame in reader:
            instants.append(frame.time_s)
            on_progress()
    places = (0, len(instants) // 2, len(instants) - 1)
    truth = {}
    with VideoReader(path) as reader:
        for frame in reader:
            if frame.index in places:
                truth[frame.index] = frame.picture(order="rgb24")
            on_progress()
    read = sparse._with_decord if library == "decord" else sparse._with_pyav
    # in the middle of a frame's time on screen, so that no rounding of timestamps decides
    asked = [(instants[n] + (instants[n + 1] if n + 1 < len(instants) else instants[n])) / 2 for n in places]
    found = read(path, asked)
    if found is None:
        return "gives no picture, or counts other frames than its timestamps say"
    if any(truth[n].shape != p.shape for n, p in zip(places, found, strict=True)):
        return "shows pictures of another shape (rotation or cropping not applied)"
    return [round(float(np.abs(truth[n].astype(int) - p).mean()), 2) for n, p in zip(places, found, strict=True)]


def compare(paths: Sequence[Path], root: Path, limit_s: float) -> dict[str, Any]:
    """Verdicts by file for both libraries, their counts, and the files for which the reader taken is the wrong one."""
    from models.video.guard import Guard, GuardedFailure, Limits
    from models.video.reader import UndecodableError
    from models.video.sparse import reader_for

    files: dict[str, dict[str, Any]] = {}
    counts: dict[str, Counter[str]] = {"pyav": Counter(), "decord": Counter()}
    wrong = []
    with Guard(Limits(limit_s, limit_s, 6 << 30)) as guard:
        for path in paths:
            verdicts: dict[str, Any] = {}
            for library in ("pyav", "decord"):
                try:
                    said = guard.call("benchmarks.sparse_readers:differences", {"path": str(path), "library": library})
                except UndecodableError:
                    break
                except GuardedFailure as failure:
                    said = f"{type(failure).__name__}: {failure}"
                agrees = not isinstance(said, str) and max(said) <= TOLERANCE
                verdict = "agrees" if agrees else "differs" if not isinstance(said, str) else "fails"
                counts[library][verdict] += 1
                verdicts[library] = verdict if agrees else said
            if len(verdicts) < 2:
                continue  # no picture to compare: quarantined anyway
            name = path.relative_to(root).as_posix()
            verdicts["taken"] = reader_for(path).reader
            if verdicts[verdicts["taken"]] != "agrees":
                wrong.append(name)
            if verdicts["decord"] != "agrees" or verdicts["pyav"] != "agrees":
                files[name] = verdicts
    return {
        "videos": sum(counts["pyav"].values()),
        "tolerance": TOLERANCE,
        "counts": {library: dict(c) for library, c in counts.items()},
        "wrong_choice": wrong,
        "not_agreeing": files,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of real footage, with its manifest.json")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds for one file and library")
    parser.add_argument("--no-write", action="store_true", help="only print")
    given = parser.parse_args()
    entries = json.loads((given.data / "manifest.json").read_text(encoding="utf-8"))
    paths = [given.data / e["file"] for e in sorted(entries, key=lambda e: e["size"]) if e["kind"] in ("video", "made")]
    found = compare(paths, given.data, given.limit)
    print(json.dumps(found, indent=1))
    if not given.no_write:
        from benchmarks.measured import write

        print(write("sparse_readers", found))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main()
