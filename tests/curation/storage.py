"""A real S3 protocol on this machine: moto's server behind pyarrow's own client."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow.fs as pafs
import pytest


@pytest.fixture(scope="session")
def s3_options() -> Iterator[str]:
    """The part of an ``s3://`` URI behind ``?`` that leads to the server; credentials are in the environment, as usual."""
    moto = pytest.importorskip("moto.server", reason="moto's server is not installed")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (
            ("ACCESS_KEY_ID", "key"),
            ("SECRET_ACCESS_KEY", "secret"),
            ("EC2_METADATA_DISABLED", "true"),
        ):
            patch.setenv(f"AWS_{name}", value)
        server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        yield f"endpoint_override={host}:{port}&scheme=http&region=us-east-1"
        server.stop()


def upload(folder: Path, bucket: str, prefix: str, options: str) -> str:
    """Copy a folder into a bucket; returns the URI of the copy."""
    filesystem, _ = pafs.FileSystem.from_uri(f"s3://{bucket}?{options}&allow_bucket_creation=true")
    filesystem.create_dir(bucket)
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = os.path.join(bucket, prefix, path.relative_to(folder).as_posix())
        with filesystem.open_output_stream(name) as out:
            out.write(path.read_bytes())
    return f"s3://{bucket}/{prefix}?{options}"
