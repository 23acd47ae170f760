"""Packs the code that runs here as a wheel, for machines that must run the same: Ray's nodes.

The wheel holds exactly the packages of this installation, checkout or not, byte for byte. It names no requirements: Ray
installs it with pip on every node, which would otherwise fetch another PyTorch; what it needs is there already, from the
node's image. Its version carries a digest of its content, since Ray knows a wheel by its file name.
"""

from __future__ import annotations

import base64
import hashlib
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

from fulcrum.guard import NAMES
from fulcrum.version import __version__

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date that a zip file can say: equal code gives equal bytes


def shipped_files(home: Path) -> Iterator[Path]:
    """Every file of our packages below ``home``, in order, without what Python compiled."""
    for name in ("fulcrum", *NAMES):
        for path in sorted((home / name).rglob("*")):
            hidden = any(part.startswith(".") or part == "__pycache__" for part in path.relative_to(home).parts)
            if path.is_file() and not hidden:
                yield path


def build_wheel(folder: Path, home: Path | None = None) -> Path:
    """Write the wheel into ``folder``; returns its path, ``fulcrum-<version>+<digest>-py3-none-any.whl``."""
    home = home or Path(__file__).resolve().parent.parent
    content = {path.relative_to(home).as_posix(): path.read_bytes() for path in shipped_files(home)}
    whole = hashlib.sha256()
    for name, data in content.items():
        whole.update(f"{name}\0{len(data)}\0".encode())
        whole.update(data)
    version = f"{__version__}+{whole.hexdigest()[:16]}"
    info = f"fulcrum-{version}.dist-info"
    content[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: fulcrum\nVersion: {version}\n".encode()
    content[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: fulcrum\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    content[f"{info}/RECORD"] = _record(content, f"{info}/RECORD")
    path = folder / f"fulcrum-{version}-py3-none-any.whl"
    partial = path.with_name(f".{os.getpid()}-{path.name}")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, data in content.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), data, zipfile.ZIP_DEFLATED)
    partial.replace(path)
    return path


def _record(content: dict[str, bytes], itself: str) -> bytes:
    """The wheel's list of its files with their digests (PEP 376, PEP 427)."""

    def digest(data: bytes) -> str:
        return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()

    lines = [f"{name},sha256={digest(data)},{len(data)}\n" for name, data in content.items()]
    return "".join([*lines, f"{itself},,\n"]).encode()


def wheel_version(wheel: Path) -> str:
    """The version in a wheel's file name."""
    return wheel.name.split("-")[1]
