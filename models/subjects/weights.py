"""Which weights an adapter loads, and what identifies them: a folder by its files' digests, a hub repository by its commit."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

_COMMIT = re.compile(r"[0-9a-f]{40}")


class WeightsError(ValueError):
    """The weights cannot be used as asked; the message names them and the remedy."""


@dataclass(frozen=True)
class Weights:
    """Weights in the layout of ``from_pretrained``.

    ``source`` is a folder, or a repository of the hub, which needs the commit as ``revision``: a branch would change under a
    committed run. ``sha256`` pins ``model.safetensors`` of a folder. Only safetensors are loaded, never a pickle.
    """

    source: str
    revision: str | None = None
    sha256: str | None = None

    @property
    def folder(self) -> Path | None:
        path = Path(self.source).expanduser()
        return path if path.is_dir() else None

    def digest(self) -> str:
        """What goes into the fingerprint. Raises ``WeightsError``; imports no torch, reads a changed file once."""
        folder = self.folder
        if folder is None:
            if self.source.startswith((".", "/", "~")) or not re.fullmatch(r"[\w.-]+/[\w.-]+", self.source):
                raise WeightsError(f"there is no folder {self.source}; give one with config.json and model.safetensors")
            if self.revision is None or not _COMMIT.fullmatch(self.revision):
                raise WeightsError(
                    f"{self.source} needs revision, the 40 digits of a commit: a branch may change under a committed run"
                )
            return f"{self.source}@{self.revision}"
        files = sorted([*folder.glob("*.safetensors"), *folder.glob("*.json"), *folder.glob("*.txt")])
        weights = [f for f in files if f.suffix == ".safetensors"]
        if not weights or not (folder / "config.json").is_file():
            raise WeightsError(f"{folder} holds no config.json with safetensors; save the model with save_pretrained")
        digests = {f.name: _sha256(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files}
        if self.sha256 is not None and self.sha256.lower() not in {digests[f.name] for f in weights}:
            found = ", ".join(f"{f.name} {digests[f.name]}" for f in weights)
            raise WeightsError(f"{folder}: no weights file has sha256 {self.sha256}; there is {found}")
        return hashlib.sha256(repr(sorted(digests.items())).encode()).hexdigest()

    def name(self, kind: str) -> str:
        """Kind and weights as the ``encoder`` column holds them."""
        return f"{kind} ({self.digest()[:60]})" if self.folder is None else f"{kind} (sha256 {self.digest()[:16]})"

    def load(self, cls: Any, device: str = "cpu") -> Any:
        """The model, in evaluation, without gradients. Raises ``WeightsError`` where a weight is missing or of another shape."""
        self.digest()
        model, report = cls.from_pretrained(self._where, **self._how, use_safetensors=True, output_loading_info=True)
        lost = sorted(report["missing_keys"]) + sorted(str(k) for k in report.get("mismatched_keys", ()))
        if lost:
            raise WeightsError(
                f"{self.source} lacks {len(lost)} weights of {cls.__name__}, e.g. {lost[0]}: it is another model, and those would be random"
            )
        return model.to(device).eval().requires_grad_(False)

    def processor(self, cls: Any) -> Any:
        return cls.from_pretrained(self._where, **self._how)

    @property
    def _where(self) -> str:
        return str(self.folder) if self.folder is not None else self.source

    @property
    def _how(self) -> dict[str, Any]:
        return {"local_files_only": True} if self.folder is not None else {"revision": self.revision}


@lru_cache(maxsize=256)
def _sha256(path: str, size: int, changed: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
