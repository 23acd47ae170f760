"""One canonical encoding of plain values, so that equal values have equal digests on every machine."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from enum import Enum
from typing import Any

from pydantic import BaseModel, SecretStr

ABSENT = "(absent)"


class CannotEncode(TypeError):
    """A value has no canonical encoding; guessing one would let two different values share a key."""


def plain(value: Any, where: str = "value") -> Any:
    """The value as JSON types only: None, bool, int, float, str, list and dict with string keys.

    Sets become sorted lists. Secrets, non-finite floats, bytes and arbitrary objects raise ``CannotEncode`` with the
    place of the value.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, SecretStr):
        raise CannotEncode(f"{where} is a secret; secrets never enter a fingerprint. Mark the field exclude=True.")
    if isinstance(value, Enum):
        return plain(value.value, where)
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise CannotEncode(f"{where} is {value}; only finite numbers have a canonical encoding")
        return value
    if isinstance(value, BaseModel):
        return plain(value.model_dump(mode="json"), where)
    if isinstance(value, Mapping):
        encoded = {}
        for key, item in value.items():
            if not isinstance(key, str):
                raise CannotEncode(f"{where} has the key {key!r}; keys must be strings")
            encoded[key] = plain(item, f"{where}.{key}")
        return encoded
    if isinstance(value, list | tuple):
        return [plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, set | frozenset):
        items = [plain(item, f"{where}{{}}") for item in value]
        return sorted(items, key=encode)
    raise CannotEncode(f"{where} is a {type(value).__name__}, which has no canonical encoding")


def encode(value: Any) -> bytes:
    """Canonical JSON: sorted keys, no spaces, UTF-8; ``1`` and ``1.0`` differ."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(value: Any) -> str:
    """sha256 of the canonical encoding, 64 hex digits."""
    return hashlib.sha256(encode(value)).hexdigest()


def difference(old: Any, new: Any, where: str = "") -> list[tuple[str, Any, Any]]:
    """The leaves in which two plain values differ, as (dotted path, old, new); a missing one is ``ABSENT``."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found = []
        for key in sorted(set(old) | set(new)):
            found += difference(old.get(key, ABSENT), new.get(key, ABSENT), f"{where}.{key}" if where else str(key))
        return found
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        found = []
        for index, (a, b) in enumerate(zip(old, new, strict=True)):
            found += difference(a, b, f"{where}[{index}]")
        return found
    return [] if old == new and type(old) is type(new) else [(where, old, new)]
