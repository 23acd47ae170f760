"""The spool: fetched once, bounded among processes, nothing left behind, torn downloads tried again."""

from __future__ import annotations

import contextlib
import hashlib
import io
import multiprocessing
import os
import signal
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

import stages.retried
import stages.spool
from stages.curation.tar_source import Member, member_uri, members
from stages.retried import TornReadError
from stages.spool import Spool, local_copy

MIB = 1 << 20


@pytest.fixture
def uris(tmp_path: Path) -> list[str]:
    """Members of a tar of 1 MiB each: a source that needs copies, without a network."""
    tar = tmp_path / "t.tar"
    with tarfile.open(tar, "w") as out:
        for n in range(6):
            info = tarfile.TarInfo(f"{n}.mp4")
            info.size = MIB
            out.addfile(info, io.BytesIO(bytes([n]) * MIB))
    return [member_uri(str(tar), m) for m in members(str(tar)) if isinstance(m, Member)]


def copies(folder: Path) -> list[Path]:
    return [p for p in folder.iterdir() if p.name != "lock"]


def test_a_local_file_is_used_in_place(tmp_path: Path) -> None:
    (tmp_path / "a b.mp4").write_bytes(b"x")
    for uri in (str(tmp_path / "a b.mp4"), (tmp_path / "a b.mp4").as_uri()):
        with local_copy(uri) as file:
            assert (file.path, file.sha256) == (tmp_path / "a b.mp4", None)


def test_a_copy_has_its_digest_and_is_gone_after_its_last_use(tmp_path: Path, uris: list[str]) -> None:
    spool = Spool(tmp_path / "spool", 10 * MIB)
    with spool.hold(uris[3]) as one:
        with spool.hold(uris[3]) as two:
            assert one.path == two.path  # fetched once
        assert one.path.read_bytes() == bytes([3]) * MIB
        assert one.sha256 == hashlib.sha256(bytes([3]) * MIB).hexdigest()
        assert one.path.suffix == ".mp4"
    assert copies(tmp_path / "spool") == []


def _held(folder: Path) -> int:
    """Bytes in the folder, while other processes take files away."""
    held = 0
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            held += path.stat().st_size
    return held


def _work(folder: Path, bound: int, uris: list[str], seen: Any) -> None:
    spool = Spool(folder, bound)
    for uri in uris:
        with spool.hold(uri) as file:
            seen.put((_held(folder), file.path.stat().st_size))
            time.sleep(0.005)


def test_processes_share_one_bound_and_a_file_larger_than_it_is_taken_alone(tmp_path: Path, uris: list[str]) -> None:
    context = multiprocessing.get_context("spawn")
    for bound, most in ((2 * MIB, 2 * MIB), (MIB // 2, MIB)):
        seen = context.Queue()
        orders = (uris, uris[::-1], uris[2:] + uris[:2])
        workers = [context.Process(target=_work, args=(tmp_path / "spool", bound, order, seen)) for order in orders]
        for worker in workers:
            worker.start()
        told = [seen.get(timeout=60) for _ in range(3 * len(uris))]
        for worker in workers:
            worker.join()
        assert max(held for held, _ in told) <= most
        assert {size for _, size in told} == {MIB}
        assert copies(tmp_path / "spool") == []


def _hold_forever(folder: Path, uri: str, ready: Any) -> None:
    with Spool(folder, MIB).hold(uri):
        ready.set()
        time.sleep(600)


def test_what_a_killed_process_leaves_is_swept_by_the_next(tmp_path: Path, uris: list[str]) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    worker = context.Process(target=_hold_forever, args=(tmp_path / "spool", uris[0], ready))
    worker.start()
    assert ready.wait(60)
    (tmp_path / "spool" / "torn.part").write_bytes(b"a download that was cut off")
    os.kill(worker.pid or 0, signal.SIGKILL)
    worker.join()
    assert len(copies(tmp_path / "spool")) == 2
    with Spool(tmp_path / "spool", MIB).hold(uris[1]) as file:
        assert copies(tmp_path / "spool") == [file.path]


def test_a_torn_download_is_tried_again_and_given_up_after_a_few_times(
    tmp_path: Path, uris: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, tries = stages.spool._stream, []

    def stream(uri: str) -> Any:
        tries.append(uri)
        return io.BytesIO(b"\1" * 1000) if len(tries) <= ends_early else real(uri)

    monkeypatch.setattr(stages.spool, "_stream", stream)
    monkeypatch.setattr(stages.retried, "_PAUSES_S", (0.001,) * 4)
    spool = Spool(tmp_path / "spool", 10 * MIB)
    ends_early = 2
    with spool.hold(uris[1]) as file:
        assert file.path.read_bytes() == b"\1" * MIB
    assert len(tries) == 3
    ends_early = 99
    with pytest.raises(TornReadError, match=r"ended after 1,000 of 1,048,576 bytes"), spool.hold(uris[1]):
        pass
    assert copies(tmp_path / "spool") == []


def test_a_source_that_changes_while_it_is_fetched_is_torn(
    tmp_path: Path, uris: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = stages.spool._stream

    def stream(uri: str) -> Any:
        os.utime(tmp_path / "t.tar")
        return real(uri)

    monkeypatch.setattr(stages.spool, "_stream", stream)
    monkeypatch.setattr(stages.retried, "_PAUSES_S", (0.001,) * 4)
    with pytest.raises(TornReadError, match="still being written"), Spool(tmp_path / "spool", MIB).hold(uris[0]):
        pass
