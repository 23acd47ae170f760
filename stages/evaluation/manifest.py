"""What is asked of every system: prompts with references and seeds, one JSON object a line."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from stages.contract import StageError

_SHOWN = 5  # problems told at once


class Asked(BaseModel):
    """One prompt with its references, and the seeds of the videos wanted of it. Paths are relative to the manifest's folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt_id: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,128}$")
    prompt: str = Field(min_length=1)
    references: tuple[str, ...] = Field((), max_length=8)
    seeds: tuple[int, ...] = Field((0,), min_length=1, max_length=100)

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("a seed stands twice")
        return seeds


@dataclass(frozen=True)
class Manifest:
    """All that is asked, and the folder that paths start from."""

    asked: tuple[Asked, ...]
    folder: Path

    def reference(self, name: str) -> Path:
        return self.folder / name


def read_manifest(path: Path) -> Manifest:
    """The manifest. ``StageError`` names the first bad lines, prompt_ids that stand twice, and pictures that are not there."""
    try:
        # Not splitlines(), which also cuts at line separators that JSON may hold in a prompt.
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise StageError(f"the manifest {path} cannot be read: {error}") from error
    asked, problems = [], []
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            one = Asked.model_validate(json.loads(text))
        except json.JSONDecodeError as error:
            problems.append(f"line {number}: not JSON ({error.msg})")
            continue
        except ValidationError as error:
            first = error.errors()[0]
            problems.append(f"line {number}: {'.'.join(map(str, first['loc'])) or 'the line'}: {first['msg']}")
            continue
        lost = [name for name in one.references if not (path.parent / name).is_file()]
        problems += [f"line {number}: there is no picture {path.parent / name}" for name in lost]
        asked.append(one)
    problems += [
        f"prompt_id {name} stands {n} times" for name, n in Counter(a.prompt_id for a in asked).items() if n > 1
    ]
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise StageError(f"manifest {path}: {'; '.join(problems[:_SHOWN])}{more}")
    if not asked:
        raise StageError(f"manifest {path} asks for nothing; each line is a JSON object with prompt_id and prompt")
    return Manifest(tuple(asked), path.parent)


def write_manifest(path: Path, asked: Iterable[Asked]) -> None:
    lines = [one.model_dump_json(exclude_defaults=False) for one in asked]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_table(path: Path, manifest: Manifest) -> None:
    """The same prompts and references as a table that ``fulcrum sample`` reads; seeds are its own option."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = {
        "sample_id": [a.prompt_id for a in manifest.asked],
        "prompt": [a.prompt for a in manifest.asked],
        "references": [[str(manifest.reference(r).absolute()) for r in a.references] for a in manifest.asked],
    }
    schema = pa.schema([("sample_id", pa.string()), ("prompt", pa.string()), ("references", pa.list_(pa.string()))])
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(rows, schema=schema), path)
