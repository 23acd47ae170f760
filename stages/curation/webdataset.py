"""Writes clips as WebDataset shards: plain tars whose members of one stem are one sample, the same bytes for the same clips."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

FOLDER = "shards"


def write_shards(folder: Path, rows: Iterable[Mapping[str, Any]], shard_bytes: int) -> list[str]:
    """Pack the clips of ``rows`` (in the order given) into ``folder/shards/clips-000000.tar`` and on; returns their relative paths.

    A row names its file below ``folder`` in ``file_name``; its sample is ``<clip_id>`` with the suffixes of the video, ``.json``
    (the whole row) and ``.txt`` (the caption, empty where there is none). A shard is closed when the next sample would make it
    larger than ``shard_bytes``; a sample is never split.
    """
    names: list[str] = []
    shard: tarfile.TarFile | None = None
    try:
        for row in rows:
            members = _members(folder, row)
            size = sum(512 + -len(content) // 512 * -512 for _, content in members)
            if shard is None or (shard.offset and shard.offset + size > shard_bytes):
                if shard is not None:
                    shard.close()
                names.append(f"{FOLDER}/clips-{len(names):06d}.tar")
                (folder / FOLDER).mkdir(exist_ok=True)
                shard = tarfile.open(folder / names[-1], "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115  closed below
            for name, content in members:
                member = tarfile.TarInfo(name)  # time, owner and group stay 0: nothing of this machine enters the bytes
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))
    finally:
        if shard is not None:
            shard.close()
    return names


def _members(folder: Path, row: Mapping[str, Any]) -> list[tuple[str, bytes]]:
    told = {**row, "extra": json.loads(row["extra"]) if row.get("extra") else None}
    suffix = Path(row["file_name"]).suffix
    contents = {
        suffix: (folder / row["file_name"]).read_bytes(),
        ".json": json.dumps(told, ensure_ascii=False, sort_keys=True, allow_nan=False).encode(),
        ".txt": (row["caption"] or "").encode(),
    }
    return [(f"{row['clip_id']}{suffix}", content) for suffix, content in sorted(contents.items())]
