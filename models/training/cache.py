"""The training cache: latents, reference views and text embeddings in content-addressed safetensors shards.

A sample shard holds ``<id>/latents`` (channel, frame, row, column), where id is the sample's or, for a clip that several
samples of the shard share, the clip's, which the shard's header names; and, for each sample id, ``<id>/references``
(reference, view, channel, row, column). A text shard holds one (token, width) embedding per text key, without the zero
rows at its end, so a prompt that many samples share is stored once and costs what it says. A shard's name is the digest
of its bytes: equal content is the same file.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load
from torch import Tensor

from models.backbones.base import pad_text, trim_text
from models.training.adapter import write_tensors

NULL_PROMPT = ""
_CLIPS, _LENGTH = "clips", "text_length"  # in the headers of shards
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class CacheError(ValueError):
    """The cache folder does not hold what its manifest promises."""


@dataclass(frozen=True)
class Entry:
    """A row of the manifest: where one sample lies and which shape class it has."""

    sample_id: str
    shard: str
    bucket: str
    references: int
    views: int
    text_key: str

    @property
    def shape_class(self) -> str:
        """Samples of one class can be stacked: same frames and size, same number of references."""
        return f"{self.bucket}/r{self.references}"


def text_key(prompt: str, encoder: str) -> str:
    """Digest of a prompt and of the text encoder that embeds it."""
    return hashlib.sha256(f"{len(encoder)}:{encoder}{prompt}".encode()).hexdigest()[:32]


def write_shard(folder: Path, tensors: Mapping[str, Tensor], prefix: str, metadata: Mapping[str, str]) -> str:
    """Write tensors under the digest of the file's bytes; returns the file name. Appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=folder, prefix=".writing-")
    os.close(handle)
    partial = Path(name)
    try:
        write_tensors(partial, tensors, metadata)
        with partial.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        final = folder / f"{prefix}-{digest[:24]}.safetensors"
        partial.chmod(0o644)
        partial.replace(final)
    finally:
        partial.unlink(missing_ok=True)
    return final.name


def write_samples(
    folder: Path,
    latents: Mapping[str, Tensor],
    references: Mapping[str, Tensor],
    clips: Mapping[str, str],
    metadata: Mapping[str, str],
) -> str:
    """A sample shard: latents by clip, reference views by sample, and ``clips`` saying which sample shows which clip."""
    tensors = {f"{clip}/latents": tensor for clip, tensor in latents.items()}
    tensors |= {f"{sample_id}/references": tensor for sample_id, tensor in references.items()}
    return write_shard(folder, tensors, "samples", {**metadata, _CLIPS: json.dumps(dict(clips), sort_keys=True)})


def write_texts(folder: Path, texts: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """A text shard of embeddings (token, width) of one length, each without the zero rows at its end."""
    length = max(len(text) for text in texts.values())
    trimmed = {key: trim_text(text).contiguous() for key, text in texts.items()}
    return write_shard(folder, trimmed, "text", {**metadata, _LENGTH: str(length)})


def pack_text(text_LD: Tensor) -> dict[str, Tensor]:
    """A text (token, width) as a record keeps it: without the zero rows at its end, and how many rows it had."""
    return {"text": trim_text(text_LD).contiguous(), "length": torch.tensor(len(text_LD))}


def unpack_text(record: Mapping[str, Tensor]) -> Tensor:
    """The whole text (token, width) of ``pack_text``; older records hold the whole text itself."""
    text = record["text"]
    return pad_text(text, int(record["length"]) if "length" in record else len(text))


def stored_bytes(record: bytes) -> int:
    """How much of an encoded text's record (safetensors of ``pack_text``) a text shard will hold."""
    text = load(record)["text"]
    return trim_text(text).numel() * text.element_size()


class TensorShards:
    """Tensors by shard and name; shards are memory-mapped and opened once.

    Not safe to share between processes: give each worker its own.
    """

    def __init__(self, folder: Path, *, dtype: torch.dtype = torch.float32) -> None:
        self.folder, self.dtype = folder, dtype
        self._open: dict[str, Any] = {}

    def tensor(self, shard: str, name: str) -> Tensor:
        try:
            tensor: Tensor = self.open(shard).get_tensor(name)
        except SafetensorError as error:
            raise CacheError(f"{self.folder / shard}: {error}; the folder is incomplete, make it again") from error
        return tensor.to(self.dtype)

    def open(self, shard: str) -> Any:
        if shard not in self._open:
            path = self.folder / shard
            if not path.exists():
                raise CacheError(f"shard {path} is missing; the folder is incomplete, make it again")
            self._open[shard] = safe_open(path, framework="pt")
        return self._open[shard]


class CacheReader:
    """Random access to a cache folder by sample id.

    ``null_text`` is the embedding of the empty prompt, for caption dropout and guidance.
    """

    def __init__(self, folder: Path, entries: Iterable[Entry], *, dtype: torch.dtype = torch.float32) -> None:
        self.folder = folder
        self.entries = {entry.sample_id: entry for entry in entries}
        self._shards = TensorShards(folder, dtype=dtype)
        self._clips: dict[str, dict[str, str]] = {}
        self._texts: dict[str, tuple[str, int]] = {}
        self.null_key: str | None = None
        for path in sorted(folder.glob("text-*.safetensors")):
            shard = self._shards.open(path.name)
            header = shard.metadata() or {}
            self._texts.update(dict.fromkeys(shard.keys(), (path.name, int(header.get(_LENGTH, 0)))))
            self.null_key = header.get("null_text", self.null_key)

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def latents(self, sample_id: str) -> Tensor:
        """(channel, frame, row, column), normalised as the backbone wants them."""
        shard = self._entry(sample_id).shard
        if shard not in self._clips:
            self._clips[shard] = json.loads((self._shards.open(shard).metadata() or {}).get(_CLIPS, "{}"))
        return self._shards.tensor(shard, f"{self._clips[shard].get(sample_id, sample_id)}/latents")

    def references(self, sample_id: str, views: Sequence[int] | None = None) -> Tensor | None:
        """(reference, channel, row, column): one view of each reference (the first by default); None without any."""
        entry = self._entry(sample_id)
        if not entry.references:
            return None
        chosen = list(views) if views is not None else [0] * entry.references
        if len(chosen) != entry.references or not all(0 <= v < entry.views for v in chosen):
            raise ValueError(
                f"sample {sample_id} has {entry.references} references of {entry.views} views, not {chosen}"
            )
        part = self._shards.open(entry.shard).get_slice(f"{sample_id}/references")
        return torch.cat([part[r : r + 1, v : v + 1][:, 0] for r, v in enumerate(chosen)]).to(self._shards.dtype)

    def text(self, sample_id: str) -> Tensor:
        """(token, width) embedding of the sample's prompt, padding included."""
        return self._text(self._entry(sample_id).text_key)

    @property
    def null_text(self) -> Tensor:
        if self.null_key is None:
            raise CacheError(f"{self.folder} holds no embedding of the empty prompt; encode it again")
        return self._text(self.null_key)

    def _text(self, key: str) -> Tensor:
        if key not in self._texts:
            raise CacheError(f"{self.folder} holds no text embedding {key}; the cache is incomplete, encode it again")
        shard, length = self._texts[key]
        text = self._shards.tensor(shard, key)
        return pad_text(text, length) if length else text

    def _entry(self, sample_id: str) -> Entry:
        try:
            return self.entries[sample_id]
        except KeyError:
            raise CacheError(f"sample {sample_id} is not in the cache {self.folder}") from None
