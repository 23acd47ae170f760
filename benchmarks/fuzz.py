"""Feeds thousands of damaged files to the real ``ingest`` and ``analyze`` and counts how they end.

    python benchmarks/fuzz.py --data FOOTAGE --files 2000

Small files of real footage are mutated with a seed: bits flipped, ends cut off, header fields overwritten, boxes or chunks
spliced in, out or into one another, ranges zeroed, extensions swapped. They run as one source, with untouched files among
them. The run must come to its end, every file must have its row in the ledger, and the untouched files must have the same
facts, shots and scores as in a run of their own.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.dag.graph import Pipeline, node
from stages.curation.analyze import analyze
from stages.curation.ingest import ingest

PIPELINE = Pipeline(
    "fuzz", (node("ingest", ingest), node("analyze", analyze, sources="ingest.sources")), "footage up to its analysis"
)

_CONTAINERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"udta", b"moof", b"traf", b"mvex", b"dinf"}
_VALUES = (0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFF)
# Suffixes that make a file a record whatever its first bytes say; by those bytes a damaged one may be no medium at all.
_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".mpg", ".mts", ".flv", ".gif", ".wmv", ".jpg", ".png")
_HEADER = 4096


# -- mutations -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Box:
    """A box of an ISO file: where it begins, where it ends, its type, and how many boxes enclose it."""

    start: int
    end: int
    kind: bytes
    depth: int


def boxes(data: bytes, start: int = 0, end: int | None = None, depth: int = 0) -> list[Box]:
    """All boxes of an ISO file (ISO/IEC 14496-12), outer before inner; empty for other files."""
    end = len(data) if end is None else end
    found: list[Box] = []
    while start + 8 <= end:
        size, kind = struct.unpack(">I4s", data[start : start + 8])
        stop = end if size == 0 else start + size
        if size == 1 or (0 < size < 8) or stop > end or not kind.isalnum():
            break
        found.append(Box(start, stop, kind, depth))
        if kind in _CONTAINERS:
            found.extend(boxes(data, start + 8, stop, depth + 1))
        start = stop
    return found


def bit_flips(data: bytearray, other: bytes, rng: random.Random) -> bytearray:
    for _ in range(rng.choice((1, 4, 32, 256))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def truncation(data: bytearray, other: bytes, rng: random.Random) -> bytearray:
    return data[: rng.randrange(1, len(data))]


def header_edit(data: bytearray, other: bytes, rng: random.Random) -> bytearray:
    """Overwrite aligned 16- or 32-bit fields where sizes, counts, rates and offsets live."""
    places = [b for b in boxes(data) if b.kind not in _CONTAINERS and b.kind != b"mdat" and b.end - b.start >= 12]
    for _ in range(rng.choice((1, 2, 8))):
        if places:
            box = rng.choice(places)
            at = box.start + 4 * rng.randrange((box.end - box.start) // 4)
        else:
            at = rng.randrange(min(_HEADER, len(data)))
        value = rng.choice((*_VALUES, rng.getrandbits(32)))
        field = struct.pack(">I", value) if rng.random() < 0.7 else struct.pack(">H", value & 0xFFFF)
        field = field[: len(data) - at]
        data[at : at + len(field)] = field
    return data


def splice(data: bytearray, other: bytes, rng: random.Random) -> bytearray:
    """Put a box (or a chunk, in other formats) in, out, or inside itself many times over."""
    own, foreign = boxes(data), boxes(other)
    if not own or not foreign:
        start = rng.randrange(len(other))
        chunk = other[start : start + rng.choice((64, 4096, 65536))]
        at = rng.randrange(len(data))
        return data[:at] + chunk + data[at + (len(chunk) if rng.random() < 0.5 else 0) :]
    target, source = rng.choice(own), rng.choice(foreign)
    match rng.randrange(4):
        case 0:
            return data[: target.start] + other[source.start : source.end] + data[target.end :]
        case 1:
            return data[: target.end] + other[source.start : source.end] + data[target.end :]
        case 2:
            return data[: target.start] + data[target.end :]
    levels = [rng.choice((b"moov", b"trak", b"udta")) for _ in range(rng.choice((12, 400)))]
    return data[: target.start] + nested_in(bytes(data[target.start : target.end]), levels) + data[target.end :]


def nested_in(inner: bytes, kinds: Sequence[bytes]) -> bytes:
    """A box within boxes of these types, the last one outermost."""
    for kind in kinds:
        inner = struct.pack(">I4s", len(inner) + 8, kind) + inner
    return inner


def zeroed(data: bytearray, other: bytes, rng: random.Random) -> bytearray:
    length = min(len(data), rng.choice((16, 512, 16384, len(data) // 2)))
    start = rng.randrange(len(data) - length + 1)
    data[start : start + length] = bytes(length)
    return data


def swapped_suffix(data: bytearray, other: bytes, rng: random.Random) -> bytearray:
    return data + bytes(
        [rng.randrange(256)]
    )  # a byte behind the end: else it would be a copy, which nobody decodes again


KINDS: tuple[Callable[[bytearray, bytes, random.Random], bytearray], ...] = (
    bit_flips, truncation, header_edit, splice, zeroed, swapped_suffix,
)  # fmt: skip


def originals(data: Path, max_bytes: int, max_frames: int) -> list[Path]:
    """Real videos small enough to be decoded by the thousand, by the footage's manifest."""
    entries = json.loads((data / "manifest.json").read_text(encoding="utf-8"))
    return [
        data / e["file"]
        for e in entries
        if e["kind"] in ("video", "made") and 0 < e["size"] <= max_bytes and (e.get("frames") or 0) <= max_frames
    ]


def mutated(sources: Sequence[Path], number: int, seed: int) -> tuple[str, bytes]:
    """The file of this number: its name (number, kind of mutation, suffix) and its content, whatever others are made."""
    rng = random.Random(f"{seed}:{number}")
    mutate = KINDS[number % len(KINDS)]
    chosen = rng.choice(sources)
    suffix = chosen.suffix.replace(".ts", ".mts")
    if mutate is swapped_suffix:
        suffix = rng.choice([s for s in _SUFFIXES if s != suffix])
    other = rng.choice(sources).read_bytes()
    content = bytes(mutate(bytearray(chosen.read_bytes()), other, rng))
    return f"{number:05d}-{mutate.__name__}{suffix}", content


def make(sources: Sequence[Path], count: int, seed: int, folder: Path) -> None:
    """Write ``count`` mutated files into ``folder``."""
    for number in range(count):
        name, content = mutated(sources, number, seed)
        (folder / name).write_bytes(content)


# -- the run ---------------------------------------------------------------------------------------------------------


def run(source: Path, store: Path, settings: Sequence[str], timeout_s: float) -> None:
    """``fulcrum run`` in a process of its own. A run that hangs or fails is an error here."""
    command = [sys.executable, "-m", "fulcrum", "run", "benchmarks.fuzz:PIPELINE", "--source", str(source)]
    command += ["--store", str(store), "--json", "--set", "tracking.enabled=false"]
    done = subprocess.run(
        [*command, *(part for setting in settings for part in ("--set", setting))],
        cwd=Path(__file__).resolve().parent.parent,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"the run ended with {done.returncode}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")


def tables(store: Path) -> dict[str, Any]:
    """Arrow tables ``sources``, ``videos``, ``shots`` and ``ledger`` of the store's last run, and ``seconds`` of its analysis."""
    import pyarrow.dataset as pads

    from pipelines.dag.artifacts import read_manifest
    from pipelines.dag.runs import load_run
    from pipelines.dag.store import Store

    opened = Store(str(store), create=False)
    record = load_run(opened)
    found: dict[str, Any] = {}
    for entry in record.nodes:
        manifest = read_manifest(opened, entry.name, entry.fingerprint or "")
        assert manifest is not None, entry.message
        for name, output in manifest.outputs.items():
            found[name] = pads.dataset(opened.full(output.path)).to_table()
    found["ledger"] = pads.dataset(str(record.ledger)).to_table()
    found["seconds"] = record.node("analyze").seconds
    return found


def of_neighbours(found: dict[str, Any], names: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Facts, shots and scores of these files, without what may differ between two runs."""
    videos = {v["video_id"]: v for v in found["videos"].to_pylist() if v["path"] in names}
    shots = [s for s in found["shots"].to_pylist() if s["video_id"] in videos]
    loose = ("uri", "video_uri", "mtime_ns", "added_at", "video_id", "clip_id")
    keyed = [{**s, "path": videos[s["video_id"]]["path"]} for s in shots]

    def tidy(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        kept = [{k: v for k, v in row.items() if k not in loose} for row in rows]
        return sorted(kept, key=lambda row: (row["path"], row.get("start_frame") or 0))

    return {"videos": tidy(list(videos.values())), "shots": tidy(keyed)}


def measure(
    sources: Sequence[Path],
    count: int,
    seed: int,
    folder: Path,
    *,
    neighbours: int = 8,
    settings: Sequence[str] = ("engine.kind=inline",),
    timeout_s: float = 4 * 3600,
) -> dict[str, Any]:
    """Make the files, run them, and count; raises ``SystemExit`` where a file has no row or a neighbour was harmed."""
    mixed, alone = folder / "mixed", folder / "alone"
    mixed.mkdir(parents=True)
    alone.mkdir()
    make(sources, count, seed, mixed)
    for number, path in enumerate(random.Random(seed).sample(list(sources), min(neighbours, len(sources)))):
        for target in (mixed, alone):  # they sort among the others
            shutil.copy2(path, target / f"{number * count // neighbours:05d}-untouched{path.suffix}")
    run(alone, folder / "store-alone", settings, timeout_s)
    run(mixed, folder / "store-mixed", settings, timeout_s)
    return {"originals": len(sources), "seed": seed, **judge(folder)}


def judge(folder: Path) -> dict[str, Any]:
    """What became of the files of a folder that ``measure`` filled and ran."""
    untouched = [path.name for path in (folder / "alone").iterdir()]
    kinds = {p.name: p.stem.partition("-")[2] for p in sorted((folder / "mixed").iterdir()) if p.name not in untouched}
    found = tables(folder / "store-mixed")
    if of_neighbours(found, untouched) != of_neighbours(tables(folder / "store-alone"), untouched):
        raise SystemExit("an untouched file came out differently beside damaged ones")
    return {
        "files": len(kinds),
        "untouched": len(untouched),
        "seconds": round(found["seconds"], 1),
        **count_up(found, kinds),
    }


def count_up(found: dict[str, Any], kinds: dict[str, str]) -> dict[str, Any]:
    """Outcomes by kind of mutation and by error; every mutated file is in exactly one."""
    ledger = {row["record_id"]: row for row in found["ledger"].to_pylist() if row["stage"] == "analyze"}
    videos = {v["path"]: v for v in found["videos"].to_pylist()}
    by_kind: dict[str, Counter[str]] = {}
    errors: Counter[str] = Counter()
    examples: dict[str, str] = {}
    slowest: list[tuple[float, str, str]] = []
    for name, kind in kinds.items():
        row = ledger.get(videos[name]["video_id"]) if name in videos else None
        if row is None:
            raise SystemExit(f"{name} has no row in the ledger")
        outcome = "accepted" if row["status"] == "accepted" else str(row["error_type"])
        by_kind.setdefault(kind, Counter())[outcome] += 1
        if outcome != "accepted":
            errors[outcome] += 1
            examples.setdefault(outcome, str(row["error_message"]))
        slowest.append((row["seconds"] or 0.0, name, outcome))
    return {
        "outcomes": {kind: dict(sorted(counts.items())) for kind, counts in sorted(by_kind.items())},
        "errors": dict(errors.most_common()),
        "examples": examples,
        "slowest": [{"seconds": round(s, 2), "file": n, "outcome": o} for s, n, o in sorted(slowest, reverse=True)[:5]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of real footage, with its manifest.json")
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--max-kb", type=int, default=160, help="largest original, in KB (default 160)")
    parser.add_argument("--max-frames", type=int, default=130)
    parser.add_argument("--engine", default="inline", choices=("inline", "ray"))
    parser.add_argument("--work", type=Path, help="keep files and stores in this new folder")
    parser.add_argument("--no-write", action="store_true", help="only print")
    given = parser.parse_args()
    folder = given.work or Path(tempfile.mkdtemp(prefix="fulcrum-fuzz-"))
    try:
        found = measure(
            originals(given.data, given.max_kb * 1000, given.max_frames),
            given.files,
            given.seed,
            folder,
            settings=(f"engine.kind={given.engine}",),
        )
    finally:
        if given.work is None:
            shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(found, indent=1))
    if not given.no_write:
        from benchmarks.measured import write

        print(write("fuzz", found))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main()
