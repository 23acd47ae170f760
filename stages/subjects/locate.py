"""Where the bytes of a row lie: a file of an input folder, or a source file by its absolute URI."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlparse

from stages.contract import StageError
from stages.spool import local_copy


def in_folder(folder: Path, uri: str) -> Path:
    """The file of an input folder that a row's URI names.

    The URI was written under the folder's own address, of which this may be a copy, so the longest tail of the URI's
    path that exists below the folder is taken. Raises ``StageError`` when there is none.
    """
    parts = [p for p in unquote(urlparse(uri).path).split("/") if p]
    for start in range(len(parts)):
        candidate = folder.joinpath(*parts[start:])
        if candidate.is_file():
            return candidate
    raise StageError(
        f"{uri} is not in {folder}; the table and the folder come from different runs. Run again from export."
    )


def read_uri(uri: str) -> bytes:
    """All bytes of a file by absolute path or URI, members of tars included."""
    with local_copy(uri) as file:
        return file.path.read_bytes()
