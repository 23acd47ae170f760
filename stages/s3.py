"""What Arrow's client of S3 does not do, or not safely: list a bucket page by page, upload, and end uploads that nobody finished.

Arrow publishes what a stream holds when it lets go of it. After an upload that failed at its end, that is an empty object
under the name of the whole one; after an exception on the way, half of it. botocore sends a whole body or none.

The same place, credentials and patience as Arrow's (location.py): the chain of botocore is the usual one too.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from stages.location import S3Place

PAGE = 1000  # objects of one answer; the service gives no more
_PART = 8 << 20  # bytes of a part (more where parts would be too many); less goes up whole
_AT_ONCE = 4  # parts under way


@dataclass(frozen=True)
class Found:
    """An object: its key, bytes, and the time of its last change in nanoseconds since 1970."""

    key: str
    bytes: int
    mtime_ns: int


@dataclass(frozen=True)
class Upload:
    """An upload in parts that has begun and not ended. ``started`` is seconds since 1970, ``bytes`` what its parts hold."""

    key: str
    id: str
    started: float
    bytes: int


def objects(uri: str) -> Iterator[Found]:
    """Every object whose key begins with the URI's and a slash, in the order of keys, a page in memory at a time.

    Markers that stand for folders are left out. Raises ``OSError`` in the words that Arrow has for the same failure.
    """
    client, place, prefix = _open(uri)
    pages = client.get_paginator("list_objects_v2").paginate(
        Bucket=place.bucket, Prefix=prefix, PaginationConfig={"PageSize": PAGE}
    )
    with _as_arrow_says(f"listing objects under key '{prefix}' in bucket '{place.bucket}'"):
        for page in pages:
            for one in page.get("Contents", ()):
                if not one["Key"].endswith("/"):
                    changed = one["LastModified"]
                    yield Found(one["Key"], one["Size"], int(changed.timestamp()) * 10**9 + changed.microsecond * 1000)


def send(local: str, uri: str, key: str) -> None:
    """Upload a file as one object: there whole or not at all, and what failed in parts is let go. Raises ``OSError``."""
    client, place, _ = _open(uri)
    with _as_arrow_says(f"uploading to key '{key}' in bucket '{place.bucket}'"):
        if os.path.getsize(local) < _PART:
            with open(local, "rb") as file:
                data = file.read()  # as it is now: a log may grow meanwhile
            client.put_object(Bucket=place.bucket, Key=key, Body=data)
            return
        from s3transfer.manager import TransferConfig, TransferManager

        config = TransferConfig(multipart_threshold=_PART, multipart_chunksize=_PART, max_request_concurrency=_AT_ONCE)
        with TransferManager(client, config) as manager:  # an interruption ends the upload too
            manager.upload(local, place.bucket, key).result()


def unfinished(uri: str) -> list[Upload]:
    """Uploads in parts below the URI that have not ended: no object yet, and paid for all the same."""
    client, place, prefix = _open(uri)
    found = []
    with _as_arrow_says(f"listing unfinished uploads under key '{prefix}' in bucket '{place.bucket}'"):
        for page in client.get_paginator("list_multipart_uploads").paginate(Bucket=place.bucket, Prefix=prefix):
            for one in page.get("Uploads", ()):
                parts = client.get_paginator("list_parts").paginate(
                    Bucket=place.bucket, Key=one["Key"], UploadId=one["UploadId"]
                )
                size = sum(part["Size"] for listed in parts for part in listed.get("Parts", ()))
                found.append(Upload(one["Key"], one["UploadId"], one["Initiated"].timestamp(), size))
    return found


def abort(uri: str, upload: Upload) -> None:
    """End an unfinished upload and let its parts go."""
    client, place, _ = _open(uri)
    with _as_arrow_says(f"ending an upload to key '{upload.key}' in bucket '{place.bucket}'"):
        client.abort_multipart_upload(Bucket=place.bucket, Key=upload.key, UploadId=upload.id)


def _open(uri: str) -> tuple[Any, S3Place, str]:
    place = S3Place.of(uri)
    path = unquote(urlsplit(uri).path).strip("/")
    return _client(place), place, f"{path}/" if path else ""


@functools.lru_cache(maxsize=64)
def _client(place: S3Place) -> Any:
    import boto3
    from botocore.config import Config

    options = dict(place.options)
    addressing = "virtual" if options.get("force_virtual_addressing") else "path" if place.endpoint else "auto"
    return boto3.session.Session().client(
        "s3",
        endpoint_url=place.endpoint,
        region_name=options.get("region"),
        verify=options.get("tls_ca_file_path"),
        config=Config(
            retries={"mode": "standard", "total_max_attempts": place.tries},
            connect_timeout=5,
            read_timeout=place.timeout_s,
            s3={"addressing_style": addressing},
        ),
    )


@contextmanager
def _as_arrow_says(doing: str) -> Iterator[None]:
    """botocore's exceptions as the ``OSError`` that Arrow raises, so that one list of words tells what may pass."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        told = error.response
        code = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", str(told["Error"].get("Code", "UNKNOWN"))).upper()
        status = told.get("ResponseMetadata", {}).get("HTTPStatusCode", "none")
        raise OSError(
            f"When {doing}: AWS Error {code} (HTTP status {status}): {told['Error'].get('Message', '')}"
        ) from None
    except BotoCoreError as error:
        raise OSError(f"When {doing}: AWS Error NETWORK_CONNECTION: {type(error).__name__}: {error}") from None
