"""Opens what a URI names: local paths, ``file://`` and object stores; and says what to do where one cannot be opened.

Credentials come from where the storage's own chain looks (environment, profile, role), never from a URI: a URI is written
to tables, logs and pages.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, unquote, urlsplit

from stages.contract import StageError

if TYPE_CHECKING:
    import pyarrow.fs as pafs

A = TypeVar("A")
B = TypeVar("B")

SCHEMES = "file://, s3://, gs://, abfs:// or hdfs://"
THREADS = 32  # requests to an object store at once: each waits for the network nearly all of its time
_SLICE = 16

_NO_BUCKET = re.compile(r"NO_SUCH_BUCKET|bucket does not exist", re.IGNORECASE)
_DENIED = re.compile(
    r"ACCESS_DENIED|HTTP status 403|Forbidden|SIGNATURE_DOES_NOT_MATCH|INVALID_ACCESS_KEY|EXPIRED_TOKEN"
)
_AWAY = re.compile(r"NETWORK_CONNECTION|curlCode|Could not connect|UNKNOWN|SERVICE_UNAVAILABLE|SLOW_DOWN")


def is_remote(uri: str) -> bool:
    """Whether the bytes are elsewhere (or inside another file), so that a decoder needs a copy of them."""
    return "://" in uri and not uri.startswith("file://")


def open_location(uri: str) -> tuple[pafs.FileSystem, str]:
    """The filesystem of a local path, ``file://`` or other URI, and the path within it.

    Connections are kept, one for each bucket. Raises ``StageError`` for what is no URI of a known kind, and for one that
    holds credentials.
    """
    import pyarrow as pa
    import pyarrow.fs as pafs

    if "://" not in uri:
        return pafs.LocalFileSystem(), os.path.abspath(os.path.expanduser(uri))
    parts = urlsplit(uri)
    if "@" in parts.netloc and parts.scheme in ("s3", "gs"):
        raise StageError(
            f"the URI of {parts.scheme}://{parts.netloc.rpartition('@')[2]} holds credentials, and URIs are written to tables "
            "and logs. Take them out; give them in the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY), "
            "a profile (AWS_PROFILE) or the machine's role."
        )
    try:
        if parts.scheme in ("s3", "gs"):  # an object's path is its bucket and key; the connection is the bucket's
            place = f"{parts.scheme}://{parts.netloc}" + (f"?{parts.query}" if parts.query else "")
            return _connect(place), f"{parts.netloc}{unquote(parts.path)}".rstrip("/")
        return pafs.FileSystem.from_uri(uri)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError, OSError) as error:
        raise StageError(
            f"cannot open {uri}: {error}. Give a local path, or a URI that begins with {SCHEMES}."
        ) from error


@functools.lru_cache(maxsize=256)
def _connect(place: str) -> pafs.FileSystem:
    import pyarrow.fs as pafs

    return pafs.FileSystem.from_uri(place)[0]


def child_uri(uri: str, relative: str) -> str:
    """The URI of a file below the folder ``uri``; options of the connection (``?endpoint_override=``) stay with it."""
    base, mark, options = uri.partition("?")
    return f"{base.rstrip('/')}/{quote(relative)}{mark}{options}"


def why_not(uri: str, error: BaseException) -> str:
    """A failure at ``uri`` in words that name the bucket and say what to do."""
    parts = urlsplit(uri)
    said = str(error)
    if not is_remote(uri) or parts.scheme not in ("s3", "gs"):
        return getattr(error, "strerror", None) or said
    bucket = f"{parts.scheme}://{parts.netloc}"
    if _NO_BUCKET.search(said):
        return f"the bucket {bucket} does not exist at this endpoint. Check its name, AWS_ENDPOINT_URL and AWS_DEFAULT_REGION"
    if _DENIED.search(said):
        return (
            f"the bucket {bucket} refuses access. Its policy must allow s3:ListBucket and s3:GetObject to the credentials "
            "that are used: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or the machine's role"
        )
    if _AWAY.search(said):
        return (
            f"the bucket {bucket} cannot be reached ({said.split(';')[0]}). Check the network, AWS_ENDPOINT_URL and "
            "AWS_DEFAULT_REGION"
        )
    return f"{bucket}: {said}"


def in_threads(work: Callable[[A], B], items: Iterable[A], threads: int = THREADS) -> Iterator[B]:
    """``work`` of each item, in order, many at once; for what waits for a disk or a network.

    Only a bounded number of items is taken ahead of what has been given out.
    """

    def some(part: Sequence[A]) -> list[B]:
        return [work(item) for item in part]

    source = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        waiting = [pool.submit(some, part) for part in _slices(source, 2 * threads)]
        while waiting:
            yield from waiting.pop(0).result()
            waiting += [pool.submit(some, part) for part in _slices(source, 1)]


def _slices(source: Iterator[A], count: int) -> Iterator[list[A]]:
    for _ in range(count):
        part = list(islice(source, _SLICE))
        if not part:
            return
        yield part
