"""What is a failure of the machine or its storage, and not of the record that met it: such a run stops, and goes on later.

A file that fails is quarantined and costs one row; a disk that fails would quarantine every file that comes after it. So
the question is asked in one place, by whoever catches an error for a record and by the runner.
"""

from __future__ import annotations

import errno
import re
from pathlib import Path

from stages.contract import RetryableError, StageError

# No room: for anybody's bytes, not for this record's. EFBIG is the process's own limit on the size of a file.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

# The storage went away or turned against us. EIO and EUCLEAN may be one bad sector under one file, but a dying disk says
# the same of every file, so the run stops and names the file; ENOTCONN is a FUSE mount whose server is gone.
_STORAGE = {errno.EIO, errno.EROFS, errno.ESTALE, errno.ENOTCONN, errno.ENODEV, errno.ENXIO}
_STORAGE |= {getattr(errno, name) for name in ("EUCLEAN", "EREMOTEIO", "ENOMEDIUM") if hasattr(errno, name)}

# The machine has run out of something else: descriptors, memory, processes (a fork answers EAGAIN).
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN}

# The network: it may pass by itself, so the runner tries again a few times before it gives up.
_UNREACHABLE = {errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.ETIMEDOUT, errno.EHOSTUNREACH}
_UNREACHABLE |= {errno.EHOSTDOWN, errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET}

# pyarrow's object stores raise an OSError without a number; these are the words for a store that cannot be reached, is
# overloaded, or no longer accepts the credentials, unlike NO_SUCH_KEY or ACCESS_DENIED, which may be true of one object.
# NO_SUCH_UPLOAD is what an upload in parts gets whose end was heard and whose answer was lost.
_STORE_AWAY = re.compile(
    r"AWS Error (NETWORK_CONNECTION|SLOW_DOWN|SERVICE_UNAVAILABLE|REQUEST_TIMEOUT|THROTTLING|INTERNAL_FAILURE|INTERNAL_ERROR"
    r"|NO_SUCH_UPLOAD|\w+ \(HTTP status (429|5\d\d)\))"
)
_STORE_REFUSES = re.compile(
    r"AWS Error (EXPIRED_TOKEN|INVALID_ACCESS_KEY_ID|INVALID_CLIENT_TOKEN_ID|UNRECOGNIZED_CLIENT)"
)

# Libraries that wrap the system's answer in an exception of their own: DuckDB, SQLite, safetensors.
_FULL_IN_WORDS = re.compile(r"No space left on device|database or disk is full")


class MachineFailure(StageError):
    """The machine failed, not a record: the run stops at once and resumes later."""


def machine_failure(error: BaseException, doing: str = "") -> MachineFailure | RetryableError | None:
    """What to raise where this error says that the machine or its storage is in trouble; None where a record is.

    ``doing`` begins the message ("while analysing s3://b/k.mp4"). ``RetryableError`` stands for what may pass by itself.
    """
    if isinstance(error, MachineFailure | RetryableError):
        return error
    begin = f"{doing}: " if doing else ""
    if isinstance(error, MemoryError) and not is_ffmpeg(error):
        return MachineFailure(
            f"{begin}this process ran out of memory. Free some, or run fewer workers, then run again."
        )
    kept = "What was finished is kept"
    unnumbered = not isinstance(error, OSError) or error.errno is None
    if unnumbered and not isinstance(error, StageError) and _FULL_IN_WORDS.search(str(error)):
        return MachineFailure(f"{begin}the disk is full ({error}). {kept}; free some space and run again.")
    if not isinstance(error, OSError):
        return None
    number = error.errno
    what = f" ({error.filename})" if isinstance(error.filename, str) and error.filename not in doing else ""
    if number in _FULL:
        said = "the file would be larger than the system allows" if number == errno.EFBIG else "the disk is full"
        return MachineFailure(f"{begin}{said}{what}. {kept}; free some space and run again.")
    if is_ffmpeg(error) and number != errno.EROFS:
        return None  # FFmpeg uses EIO, EAGAIN, ENOMEM and others for what is wrong in a file
    if number in _STORAGE:
        return MachineFailure(
            f"{begin}the storage failed: {error.strerror}{what}. {kept}; run again when it is back. If only this file "
            "answers so, its place on the disk is damaged: take it out of the source."
        )
    if number in _EXHAUSTED:
        return MachineFailure(
            f"{begin}the machine has run out of a resource: {error.strerror}{what}. {kept}; raise the limit "
            "(ulimit -a) or run fewer workers, then run again."
        )
    if number in _UNREACHABLE or isinstance(error, ConnectionError | TimeoutError):
        return RetryableError(f"{begin}the storage cannot be reached: {error.strerror or error}{what}")
    if number is None and _STORE_AWAY.search(str(error)):
        return RetryableError(f"{begin}the storage cannot be reached: {error}")
    if number is None and _STORE_REFUSES.search(str(error)):
        return MachineFailure(f"{begin}the storage refuses the credentials: {error}. {kept}; renew them and run again.")
    return None


def folder_lost(error: BaseException, path: str) -> MachineFailure | None:
    """What to raise where not only a local file but its folder is gone: the storage is away, whatever the error says of the file."""
    if "://" in path or isinstance(error, StageError) or Path(path).parent.is_dir():
        return None
    return MachineFailure(
        f"the folder {Path(path).parent} is gone while its files are being read. Is the storage mounted? "
        "What was finished is kept; run again when it is back, or run with the source as it is now."
    )


def is_ffmpeg(error: BaseException) -> bool:
    """Whether PyAV raised it: its exceptions are OSErrors too, with numbers that speak of a file's content."""
    return type(error).__module__.partition(".")[0] == "av"
