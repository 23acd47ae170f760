"""Opens what a URI names: local paths, ``file://`` and object stores; and says what to do where one cannot be opened.

Credentials come from where the storage's own chain looks (environment, profile, role), never from a URI: a URI is written
to tables, logs and pages. How long and how often S3 is asked is said here once, for every client of it.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from stages.contract import StageError

if TYPE_CHECKING:
    import pyarrow.fs as pafs

A = TypeVar("A")
B = TypeVar("B")

SCHEMES = "file://, s3://, gs://, abfs:// or hdfs://"
THREADS = 32  # requests to an object store at once: each waits for the network nearly all of its time
_SLICE = 16

TRIES_VARIABLE = "FULCRUM_STORAGE_TRIES"
TIMEOUT_VARIABLE = "FULCRUM_STORAGE_TIMEOUT_S"
DEFAULT_TRIES = 10  # with pauses of 25 ms, doubled each time: 13 s in all
DEFAULT_TIMEOUT_S = 20.0  # without a single byte; a slow answer is no failure
_CONNECT_S = 5.0
_OPTIONS = ("endpoint_override", "scheme", "region", "tls_ca_file_path", "force_virtual_addressing",
            "allow_bucket_creation")  # fmt: skip

_NO_BUCKET = re.compile(r"NO_SUCH_BUCKET|bucket does not exist", re.IGNORECASE)
_DENIED = re.compile(
    r"ACCESS_DENIED|HTTP status 403|Forbidden|SIGNATURE_DOES_NOT_MATCH|INVALID_ACCESS_KEY|EXPIRED_TOKEN"
)
_AWAY = re.compile(
    r"NETWORK_CONNECTION|curlCode|Could not connect|UNKNOWN|SERVICE_UNAVAILABLE|SLOW_DOWN|INTERNAL_FAILURE|INTERNAL_ERROR"
)


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
            inside = f"{parts.netloc}{unquote(parts.path)}".rstrip("/")
            if parts.scheme == "s3":
                return _connect_s3(S3Place.of(uri)), inside
            return _connect(f"gs://{parts.netloc}" + (f"?{parts.query}" if parts.query else "")), inside
        return pafs.FileSystem.from_uri(uri)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError, OSError) as error:
        raise StageError(
            f"cannot open {uri}: {error}. Give a local path, or a URI that begins with {SCHEMES}."
        ) from error


@dataclass(frozen=True)
class S3Place:
    """A bucket and how it is reached: what the URI says, else what the environment says. Holds no credentials."""

    bucket: str
    options: tuple[tuple[str, str], ...]
    tries: int
    timeout_s: float

    @staticmethod
    def of(uri: str) -> S3Place:
        """Raises ``StageError`` for an option that there is none of; its value is not shown, for it may be a secret."""
        parts = urlsplit(uri)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        unknown = sorted(set(options) - set(_OPTIONS))
        if unknown or not parts.netloc:
            what = f"there is no option {', '.join(unknown)}" if unknown else "it names no bucket"
            raise StageError(
                f"cannot open s3://{parts.netloc}{parts.path}: {what}. Options of an s3:// URI are {', '.join(_OPTIONS)}; "
                "credentials come from the environment, a profile or the machine's role."
            )
        given = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        if given and "endpoint_override" not in options:
            scheme, mark, host = given.partition("://")
            options |= {
                "endpoint_override": (host if mark else given).rstrip("/"),
                "scheme": scheme if mark else "https",
            }
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        if region:
            options.setdefault("region", region)
        return S3Place(parts.netloc, tuple(sorted(options.items())), *patience())

    @property
    def endpoint(self) -> str | None:
        """``https://host:port`` where it is not Amazon's own."""
        told = dict(self.options)
        host = told.get("endpoint_override")
        return f"{told.get('scheme', 'https')}://{host}" if host else None


def patience() -> tuple[int, float]:
    """How often a request is tried, and after how many silent seconds an answer is given up."""
    tries = os.environ.get(TRIES_VARIABLE) or str(DEFAULT_TRIES)
    timeout = os.environ.get(TIMEOUT_VARIABLE) or str(DEFAULT_TIMEOUT_S)
    try:
        found = int(tries), float(timeout)
    except ValueError:
        found = 0, 0.0
    if found[0] < 1 or found[1] < 1:
        raise StageError(
            f"{TRIES_VARIABLE} must be a whole number and {TIMEOUT_VARIABLE} a number of seconds, both at least 1; "
            f"they are {tries!r} and {timeout!r}."
        )
    return found


@functools.lru_cache(maxsize=256)
def _connect_s3(place: S3Place) -> pafs.FileSystem:
    import pyarrow.fs as pafs

    options = dict(place.options)
    if "region" not in options and "endpoint_override" not in options:
        options["region"] = pafs.resolve_s3_region(place.bucket)
    flags = {
        name: options.pop(name).lower() in ("true", "1")
        for name in [*options]
        if "_bucket_" in name or "virtual" in name
    }
    return pafs.S3FileSystem(
        **options,
        **flags,
        allow_delayed_open=True,  # a small object is then one request, and is there whole with it
        connect_timeout=_CONNECT_S,
        request_timeout=place.timeout_s,
        retry_strategy=pafs.AwsDefaultS3RetryStrategy(max_attempts=place.tries),
    )


@functools.lru_cache(maxsize=256)
def _connect(place: str) -> pafs.FileSystem:
    import pyarrow.fs as pafs

    return pafs.FileSystem.from_uri(place)[0]


def child_uri(uri: str, relative: str) -> str:
    """The URI of a file below the folder ``uri``; options of the connection (``?endpoint_override=``) stay with it.

    Below a local folder that is given as a plain path, a plain path.
    """
    if "://" not in uri:
        return f"{uri}/{relative}"
    base, mark, options = uri.partition("?")
    return f"{base.rstrip('/')}/{quote(relative)}{mark}{options}"


def why_not(uri: str, error: BaseException) -> str:
    """A failure at ``uri`` in words that name the bucket and say what to do."""
    parts = urlsplit(uri)
    said = str(error)
    if said.startswith("the bucket "):
        return said  # these words already
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
