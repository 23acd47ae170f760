"""What a scorer of key frames is, which files stand behind it, and how it is found."""

from __future__ import annotations

import hashlib
import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from data_schemas.schema import Field
from models.scorers.clip_tower import file_sha256
from models.scorers.errors import ScorerError

KINDS = {
    "classifier": "models.scorers.dear.classifier:Classifier",
    "text_boxes": "models.scorers.dear.text_boxes:TextBoxes",
    "network": "models.scorers.dear.network:Network",
}
PREFIX = "model_"
Pictures = Sequence[np.ndarray]  # key frames of one clip in order of time, each uint8 RGB HW3


@dataclass(frozen=True)
class DearSpec:
    """Which model scores what.

    ``name`` begins the columns, after ``model_``, by which rules know them for scores that come late. ``kind``: one of
    ``KINDS``, or a user's ``package.module:Class`` with the form of ``DearScorer``. ``model``: a file, a folder as
    transformers writes it, or a hub's name with a ``revision`` (a commit) that the local cache holds already. ``sha256`` pins
    the weights. ``labels``: what of the model's outputs counts. ``reduce``: how the key frames of a clip become one number.
    ``options``: the kind's own.
    """

    name: str
    kind: str
    model: str
    revision: str | None = None
    sha256: str | None = None
    labels: tuple[str, ...] = ()
    reduce: Literal["mean", "max", "min"] = "mean"
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def column(self) -> str:
        """What every column of this scorer begins with."""
        return f"{PREFIX}{self.name}"


class DearScorer(Protocol):
    """One model in one process. ``__init__`` loads it and raises ``ScorerError`` rather than begin with random weights.

    ``columns`` must know the columns without loading. A call takes the key frames of any clips, of any videos, and returns
    float64 [clips, columns], NaN where nothing could be measured; ``batch`` pictures go through the model at once.
    """

    version: ClassVar[str]

    def __init__(self, spec: DearSpec, device: str, batch: int) -> None: ...

    @staticmethod
    def columns(spec: DearSpec) -> tuple[Field, ...]: ...

    def __call__(self, clips: Sequence[Pictures]) -> np.ndarray: ...


def dear_class(spec: DearSpec) -> type[DearScorer]:
    """The class behind a spec's kind. Raises ``ScorerError``."""
    module, _, name = KINDS.get(spec.kind, spec.kind).partition(":")
    if not name:
        raise ScorerError(
            f"scorer {spec.name}: there is no kind {spec.kind}. Known: {', '.join(KINDS)}, or package.module:Class"
        )
    try:
        found: type[DearScorer] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ScorerError(f"scorer {spec.name}: {spec.kind} cannot be imported: {error}") from error
    lacking = [part for part in ("version", "columns", "__call__") if not hasattr(found, part)]
    if lacking:
        raise ScorerError(
            f"scorer {spec.name}: {spec.kind} lacks {', '.join(lacking)}; see models/scorers/dear/base.py"
        )
    strange = [column.name for column in found.columns(spec) if not column.name.startswith(spec.column)]
    if strange:
        raise ScorerError(
            f"scorer {spec.name}: column {', '.join(strange)} must begin with {spec.column} (DearSpec.column)"
        )
    return found


# -- weights ---------------------------------------------------------------------------------------------------------


def model_path(spec: DearSpec) -> Path:
    """The file or folder of a spec's model on this machine. Raises ``ScorerError``; nothing is fetched."""
    path = Path(spec.model)
    if path.exists():
        return path
    if spec.revision is None:
        raise ScorerError(
            f"scorer {spec.name}: the model {spec.model} does not exist. Check the path; for a hub's model, set revision too."
        )
    if not re.fullmatch(r"[0-9a-f]{40}", spec.revision):
        raise ScorerError(
            f"scorer {spec.name}: revision {spec.revision} can move. Give the commit, 40 hexadecimal digits."
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(spec.model, revision=spec.revision, local_files_only=True))
    except (LocalEntryNotFoundError, OSError, ValueError) as error:
        raise ScorerError(
            f"scorer {spec.name}: {spec.model} at {spec.revision} is not in the local cache. "
            f"Fetch it with: hf download {spec.model} --revision {spec.revision}"
        ) from error


def dear_digests(spec: DearSpec) -> dict[str, str]:
    """Digests of what decides a spec's scores beside its parameters; imports no torch for the kinds of this project.

    ``weights`` is the sha256 of the weights file, or over those of several in the order of their names; ``config`` likewise of
    the JSON files beside them. Raises ``ScorerError`` for missing files and a wrong pin.
    """
    path = model_path(spec)
    weights = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    if not weights:
        raise ScorerError(f"scorer {spec.name}: {path} holds no safetensors file, so there are no weights to load.")
    found = _digest(weights)
    if spec.sha256 is not None and found != spec.sha256.lower():
        raise ScorerError(
            f"scorer {spec.name}: the weights in {path} have sha256 {found}, but {spec.sha256} was asked for. "
            "Fetch the right ones or fix the pin."
        )
    configs = sorted(path.glob("*.json")) if path.is_dir() else []
    return {"weights": found} | ({"config": _digest(configs)} if configs else {})


def _digest(files: Sequence[Path]) -> str:
    if len(files) == 1:
        return file_sha256(files[0])
    return hashlib.sha256("".join(file_sha256(file) for file in files).encode()).hexdigest()


# -- what adapters share ---------------------------------------------------------------------------------------------


def per_picture(
    clips: Sequence[Pictures], batch: int, reduce: str, score: Callable[[Pictures], np.ndarray], columns: int
) -> np.ndarray:
    """Score all pictures of all clips ``batch`` at a time, and reduce each clip's: float64 [clips, columns], NaN without any."""
    pictures = [picture for clip in clips for picture in clip]
    parts = [score(pictures[start : start + batch]) for start in range(0, len(pictures), batch)]
    scores = np.concatenate(parts).reshape(-1, columns) if parts else np.zeros((0, columns))
    ends = np.cumsum([len(clip) for clip in clips])
    reducers: dict[str, Callable[..., np.ndarray]] = {"mean": np.mean, "max": np.max, "min": np.min}
    out = np.full((len(clips), columns), np.nan)
    for row, end in enumerate(ends):
        if len(clips[row]):
            out[row] = reducers[reduce](scores[end - len(clips[row]) : end].astype(np.float64), axis=0)
    return out


def checked(spec: DearSpec, loaded: tuple[Any, Mapping[str, Any]]) -> Any:
    """A transformers model loaded with ``output_loading_info``, or ``ScorerError`` where any weight would be random."""
    model, report = loaded
    absent = sorted({str(k) for key in ("missing_keys", "mismatched_keys") for k in report.get(key, ())})
    if absent:
        raise ScorerError(
            f"scorer {spec.name}: the weights in {spec.model} lack {', '.join(absent[:5])}"
            f"{' and more' if len(absent) > 5 else ''}; without them its scores would be random. Is it a fine-tuned checkpoint?"
        )
    return model
