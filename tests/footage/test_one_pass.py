"""One open a file, memory that does not grow with a film's length, and short files that wait for no long one."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from benchmarks.long_video import encode, repeat, resident
from data_schemas.ids import video_id
from data_schemas.tables import SOURCES
from models.video.guard import Guard, Limits
from pipelines.dag.engine import InlineEngine
from pipelines.dag.nodes import Worker
from stages.curation.analyze import AnalyzeParams, analyze
from tests.context import LocalContext
from tests.footage.media import pan, write

REAL = (
    "androidx-media/sample_h265.ts",
    "androidx-media/iibbibb_editlist_videoonly.mp4",
    "androidx-media/bbb_176x144_128kbps_15fps_h263.3gp",
    "moviepy/no_duration.webm",
    "small/webm.webm",
    "torchcodec/testsrc2_odd_height_and_width_vp9.mp4",
    "torchcodec/h264_10bits.mp4",
    "made/truncated_flower_250k.webm",
    "androidx-media/invalid-bitstream.webm",
    "mp4parse/short-cenc.mp4",
    "vace/test.jpg",
    "raft-demo-frames/frame_0016.png",
)


def table(paths: Sequence[Path]) -> pa.Table:
    rows = [
        {
            "video_id": video_id("test", path.name),
            "uri": str(path),
            "path": path.name,
            "media_type": "image" if path.suffix in (".jpg", ".png") else "video",
            "bytes": path.stat().st_size,
            "mtime_ns": path.stat().st_mtime_ns,
        }
        for path in paths
    ]
    return SOURCES.table(rows)


def test_every_file_is_opened_once(tmp_path: Path, footage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opens = tmp_path / "opens.txt"
    real = Guard.call

    def call(guard: Guard, name: str, arguments: Mapping[str, Any], limits: Limits | None = None) -> Any:
        assert name == "models.video.analyze:analyze_request"
        counted = {**arguments, "opens": str(opens)}
        return real(guard, "tests.footage.hooks:analyze_counting_opens", counted, limits)

    def nobody(*_: Any, **__: Any) -> Any:
        raise AssertionError("the process that commits decoded something")

    monkeypatch.setattr(Guard, "call", call)
    monkeypatch.setattr("av.open", nobody)
    paths = [footage / name for name in REAL]
    context = LocalContext(tmp_path, analyze, {"sources": table(paths)})
    context.run(AnalyzeParams())
    assert Counter(opens.read_text().splitlines()) == {f"av {path}": 1 for path in paths}
    status = Counter(context.outputs["videos"].column("status").to_pylist())
    assert status == {"ok": len(REAL) - 2, "failed": 2}


def peak_of_guarded(film: Path) -> int:
    """Highest resident memory, in bytes, of a fresh guarded process that analyses a film with all built-in scorers."""
    arguments = {
        "path": str(film), "media_type": "video", "scorers": list(AnalyzeParams().scorers), "shots": None,
        "shot_params": AnalyzeParams().shots.model_dump(), "keyframes": True, "max_pixels": 10**8,
    }  # fmt: skip
    peak = 0
    done = threading.Event()
    with Guard() as guard:

        def watch() -> None:
            nonlocal peak
            while not done.wait(0.02):
                if guard._process is not None:
                    peak = max(peak, resident(guard._process.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            found = guard.call("models.video.analyze:analyze_request", arguments)
        finally:
            done.set()
            watcher.join()
    assert found.facts.duration_s >= 30
    return peak


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads resident memory from /proc")
def test_memory_does_not_grow_with_the_length_of_a_film(tmp_path: Path) -> None:
    # two shots of 5 s; the cut makes the analysis close and open shots all along
    frames = [*pan(1, 0, 125, 90, 160, seed=1), *pan(0, 1, 125, 90, 160, seed=2)]
    loop = encode(frames, (160, 90), tmp_path / "loop.mp4")
    short, long = (peak_of_guarded(repeat(loop, s, tmp_path / f"{s}.mp4")) for s in (30, 180))
    # the 3,750 frames more are 77 MiB as 160 x 90 YUV; the key frames of 30 more shots, which are kept, are 1 MiB
    assert long - short < 16 << 20


class PoolEngine(InlineEngine):
    """Two worker processes that take the next batch when they are free: what Ray does, started in a second."""

    def map(
        self, actor: Callable[..., Any], batches: Sequence[Any], init: Mapping[str, Any], worker: Worker, size: int
    ) -> Iterator[Any]:
        with ProcessPoolExecutor(2, get_context("spawn"), initializer=_start, initargs=(actor, dict(init))) as pool:
            for future in as_completed([pool.submit(_work, batch) for batch in batches]):
                yield future.result()


_worker: Any = None


def _start(actor: Callable[..., Any], init: dict[str, Any]) -> None:
    global _worker  # one actor a process, as in Ray's pool
    _worker = actor(**init)


def _work(batch: Any) -> Any:
    return _worker(batch)


def test_short_files_wait_for_no_long_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shorts = [write(tmp_path / f"{n:02d}.mp4", pan(1, 0, 6, 36, 64, seed=n), crf=30) for n in range(20)]
    loop = encode(pan(3, 1, 50, 180, 320, seed=3), (320, 180), tmp_path / "loop.mp4")
    long = repeat(loop, 120, tmp_path / "05-long.mp4")  # in the middle of the others by name
    monkeypatch.setattr("stages.curation.missing.LARGE", long.stat().st_size)
    monkeypatch.setattr("stages.curation.analyze.LARGE", long.stat().st_size)
    ended: list[tuple[float, int]] = []  # when progress moved, and by how many files
    context = LocalContext(tmp_path, analyze, {"sources": table([*shorts, long])}, engine=PoolEngine())
    progress = type(context).progress

    def watched(*given: Any) -> Any:
        bar = progress(context, *given)
        advance = bar.advance
        bar.advance = lambda n=1, **more: (ended.append((time.monotonic(), n)), advance(n, **more))
        return bar

    monkeypatch.setattr(context, "progress", watched)
    context.run(AnalyzeParams(scorers=("exposure",)))
    assert sum(n for _, n in ended) == 21
    assert ended[-1][1] == 1  # the long one, alone, comes last: every short one was told of before
    assert len(ended) >= 3
    assert context.outputs["videos"].column("status").to_pylist() == ["ok"] * 21
