"""The machine fails, not a file: the run stops with a clear message and later goes on to the same tables."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import pyarrow.fs as pafs
import pytest

from pipelines.dag.artifacts import read_manifest
from pipelines.dag.runs import load_run
from pipelines.dag.store import Store
from stages.contract import RetryableError, StageError
from stages.machine import MachineFailure, machine_failure
from tests.footage.media import pan, write
from tests.pipelines.command import INLINE, Done, fulcrum

ROOT = Path(__file__).resolve().parent.parent.parent


# -- what is a failure of the machine ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "kind", "says"),
    [
        (errno.ENOSPC, MachineFailure, "the disk is full (/data/x). What was finished is kept; free some space"),
        (errno.EDQUOT, MachineFailure, "the disk is full"),
        (errno.EFBIG, MachineFailure, "larger than the system allows"),
        (errno.EIO, MachineFailure, "the storage failed: "),
        (errno.EROFS, MachineFailure, "the storage failed"),
        (errno.ESTALE, MachineFailure, "the storage failed"),
        (errno.ENOTCONN, MachineFailure, "the storage failed"),
        (errno.EMFILE, MachineFailure, "run out of a resource"),
        (errno.ENOMEM, MachineFailure, "run out of a resource"),
        (errno.ECONNREFUSED, RetryableError, "the storage cannot be reached"),
        (errno.EHOSTUNREACH, RetryableError, "the storage cannot be reached"),
        (errno.ETIMEDOUT, RetryableError, "the storage cannot be reached"),
    ],
)
def test_errors_that_would_meet_every_record_are_the_machines(number: int, kind: type[Exception], says: str) -> None:
    found = machine_failure(OSError(number, os.strerror(number), "/data/x"), "while working on a.mp4")
    assert isinstance(found, kind)
    assert str(found).startswith("while working on a.mp4: ")
    assert says in str(found)
    assert machine_failure(found) is found


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file or directory"),
        PermissionError(errno.EACCES, "Permission denied"),
        IsADirectoryError(errno.EISDIR, "Is a directory"),
        OSError("When reading information for key 'k' in bucket 'b': AWS Error NO_SUCH_KEY during GetObject operation"),
        OSError("AWS Error ACCESS_DENIED during HeadObject operation"),
        ValueError("a bad file"),
        StageError("No space left on device, says a caption"),
    ],
)
def test_what_may_be_true_of_one_record_alone_is_not(error: Exception) -> None:
    assert machine_failure(error) is None


@pytest.mark.parametrize(
    "said",
    [
        "AWS Error UNKNOWN (HTTP status 500) during HeadObject operation: No response body.",
        "AWS Error INTERNAL_FAILURE during GetObject operation: Failed to flush response stream (eof: 0, bad: 1)",
        "AWS Error INTERNAL_ERROR (HTTP status 500): We encountered an internal error.",
        "AWS Error SLOW_DOWN (HTTP status 503): Reduce your request rate.",
        "AWS Error NO_SUCH_UPLOAD (HTTP status 404): The specified upload does not exist.",
        "AWS Error UNKNOWN (HTTP status 429) during GetObject operation",
    ],
)
def test_a_service_in_trouble_fails_no_record(said: str) -> None:
    assert isinstance(machine_failure(OSError(f"When reading key 'k' in bucket 'b': {said}")), RetryableError)
    assert machine_failure(OSError("When reading: AWS Error NO_SUCH_KEY (HTTP status 404)")) is None


def test_ffmpegs_numbers_speak_of_the_file() -> None:
    # FFmpeg answers EIO, EAGAIN and ENOMEM for damage, but a muxer that has no room says what the system said
    assert machine_failure(av.error.OSError(errno.EIO, "Input/output error", "a.mp4")) is None
    assert machine_failure(av.error.BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable", "a.mp4")) is None
    assert machine_failure(av.error.MemoryError(errno.ENOMEM, "Cannot allocate memory", "a.mp4")) is None
    assert isinstance(
        machine_failure(av.error.OSError(errno.ENOSPC, "No space left on device", "a.mp4")), MachineFailure
    )


def test_an_object_store_that_nobody_answers_for_is_unreachable() -> None:
    once = pafs.AwsStandardS3RetryStrategy(max_attempts=1)
    store = pafs.S3FileSystem(
        anonymous=True, region="us-east-1", endpoint_override="127.0.0.1:9", scheme="http", retry_strategy=once
    )
    with pytest.raises(OSError) as caught:
        store.open_input_stream("bucket/key")
    assert isinstance(machine_failure(caught.value, "while analysing s3://bucket/key"), RetryableError)


# -- a disk that is really full ----------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """``small_disk(kilobytes)`` is a file system of that size; called again it changes the size."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def make(kilobytes: int) -> Path:
        again = ["remount,"] if os.path.ismount(folder) else [""]
        command = ["mount", "-t", "tmpfs", "-o", f"{again[0]}size={kilobytes}k", "tmpfs", str(folder)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("a small file system cannot be mounted here (needs the superuser and CAP_SYS_ADMIN)")
        return folder

    yield make
    if os.path.ismount(folder):
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """More files than one commit takes, so that something is finished before the disk is full."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for n in range(20):
        write(folder / f"{n:02d}.mp4", pan(1, 0, 8, 144, 256, seed=n), crf=8)
    return folder


def run(source: Path | str, store: Path, **env: str) -> Done:
    scorers = ("--set", "analyze.scorers=[exposure]")
    command = ("run", "benchmarks.fuzz:PIPELINE", "--source", source, "--store", store, "--json", *INLINE, *scorers)
    return fulcrum(*command, cwd=ROOT, PYTHONPATH=str(ROOT), **env)


def digests(store: Path) -> dict[str, str]:
    opened = Store(str(store), create=False)
    found = {}
    for node in load_run(opened).nodes:
        manifest = read_manifest(opened, node.name, node.fingerprint or "")
        assert manifest is not None, node.message
        found |= {f"{node.name}.{name}": output.digest for name, output in manifest.outputs.items()}
    return found


def analyzed(done: Done) -> int:
    """How many files the run worked on."""
    return sum(event["files"] for event in done.events if event["event"] == "analyzed")


def used_kb(folder: Path) -> int:
    return sum(-(-p.stat().st_size // 4096) * 4 for p in folder.rglob("*") if p.is_file())


def test_a_full_store_stops_the_run_which_goes_on_when_there_is_room(
    tmp_path: Path, source: Path, small_disk: Callable[[int], Path]
) -> None:
    whole = run(source, tmp_path / "whole")
    assert (whole.code, analyzed(whole)) == (0, 20), whole.out + whole.err
    records = used_kb(tmp_path / "whole" / "records")
    # room for the inputs and two thirds of the records: at least one commit of eight files, not all three
    disk = small_disk(used_kb(tmp_path / "whole") - used_kb(tmp_path / "whole" / "data" / "analyze") - records // 3)
    full = run(source, disk / "store")
    assert full.code == 1
    assert "the disk is full" in full.out + full.err
    assert "What was finished is kept" in full.out + full.err
    small_disk(20_000)
    again = run(source, disk / "store")
    assert again.code == 0, again.out
    assert 0 < analyzed(again) < 20
    assert digests(disk / "store") == digests(tmp_path / "whole")


def test_a_full_scratch_disk_stops_the_run_which_goes_on_when_there_is_room(
    tmp_path: Path, source: Path, small_disk: Callable[[int], Path]
) -> None:
    # members of a tar are copied to the scratch disk before they are decoded
    subprocess.run(["tar", "-cf", str(tmp_path / "videos.tar"), "-C", str(source), "."], check=True)
    shutil.rmtree(source)
    source.mkdir()
    (tmp_path / "videos.tar").rename(source / "videos.tar")
    whole = run(source, tmp_path / "whole")
    assert (whole.code, analyzed(whole)) == (0, 20), whole.out + whole.err
    disk = small_disk(8)
    (disk / "spool").mkdir()
    env = {"FULCRUM_SPOOL": str(disk / "spool"), "TMPDIR": str(disk)}
    full = run(source, tmp_path / "store", **env)
    assert full.code == 1
    assert "the disk is full" in full.out + full.err
    small_disk(20_000)
    again = run(source, tmp_path / "store", **env)
    assert again.code == 0, again.out
    assert digests(tmp_path / "store") == digests(tmp_path / "whole")
