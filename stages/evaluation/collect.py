"""Stage ``collect``: folders of videos, made by whatever system, held against what a manifest asked for."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from data_schemas.tables import SAMPLES
from stages.contract import Context, Files, Params, StageError, Table, World, stage
from stages.evaluation.folders import stamp, videos_in
from stages.evaluation.manifest import Asked, Manifest, read_manifest
from stages.location import child_uri

# How the videos of other systems are usually named; {index0} counts a prompt's seeds from 0, {index} from 1.
PATTERNS = ("{prompt_id}-{seed}", "{prompt_id}_{seed}", "{prompt_id}/{seed}", "{prompt}-{index0}")
ALONE = ("{prompt_id}", "{prompt}")  # where one video is asked of each prompt
FIELDS = frozenset({"prompt_id", "prompt", "seed", "index", "index0"})
_SYSTEM = re.compile(r"^[A-Za-z0-9][\w. +-]{0,63}$")


class CollectParams(Params):
    manifest: str = Field(description="JSON lines of prompt_id, prompt, references and seeds")
    videos: dict[str, str] = Field(min_length=1, description="folder by the system that made its videos")
    pattern: str | None = Field(None, description="of file names without ending; null tries the usual ones")

    @field_validator("videos")
    @classmethod
    def _named(cls, videos: dict[str, str]) -> dict[str, str]:
        bad = [name for name in videos if not _SYSTEM.match(name)]
        if bad:
            raise ValueError(f"{', '.join(map(repr, bad))} cannot name a system: letters, digits, space and . + - _")
        return videos

    @field_validator("pattern")
    @classmethod
    def _known(cls, pattern: str | None) -> str | None:
        strange = set(re.findall(r"\{(.*?)\}", pattern or "")) - FIELDS
        if strange or (pattern is not None and not re.search(r"\{prompt(_id)?\}", pattern)):
            raise ValueError(f"write a pattern of {{{'}, {'.join(sorted(FIELDS))}}}, with prompt_id or prompt in it")
        return pattern


def _world(params: CollectParams, world: World) -> Mapping[str, str]:
    """The manifest's content, and name, size and time of every file it could mean."""
    manifest = read_manifest(Path(params.manifest))
    found = {"manifest": hashlib.sha256(Path(params.manifest).read_bytes()).hexdigest()}
    pictures = sorted({str(manifest.reference(name)) for asked in manifest.asked for name in asked.references})
    found["references"] = stamp(Path(name) for name in pictures)
    for system, folder in params.videos.items():
        found[f"videos of {system}"] = stamp(sorted(videos_in(Path(folder), system).values()))
    return found


@stage(
    name="collect",
    version="1",
    params=CollectParams,
    outputs={"samples": Table(SAMPLES), "videos": Files("videos")},
    world=_world,
)
def collect(ctx: Context, params: CollectParams) -> None:
    """A row for every video that was asked for; one that is not there is a failed row, a file nobody asked for is told."""
    manifest = read_manifest(Path(params.manifest))
    folder, uri = ctx.folder("videos"), ctx.final_uri("videos")
    references = _references(manifest, folder, uri)
    rows: list[dict[str, object]] = []
    ledger: list[dict[str, object]] = []
    for system, source in params.videos.items():
        files = videos_in(Path(source), system)
        used = set()
        for wanted in _wanted(manifest, params.pattern):
            name = next((n for n in wanted.names if n in files), None)
            row: dict[str, object] = {
                "system": system,
                "prompt_id": wanted.asked.prompt_id,
                "seed": wanted.seed,
                "prompt": wanted.asked.prompt,
                "reference_uris": references[wanted.asked.prompt_id],
                "reference_uri": next(iter(references[wanted.asked.prompt_id]), None),
            }
            if name is None:
                missing = f"no video in {Path(source).name}; looked for {', '.join(wanted.names[:3])}"
                row |= {"status": "failed", "error_type": "Missing", "error_message": missing}
            else:
                used.add(name)
                row |= {"status": "ok", "uri": child_uri(uri, _put(files[name], folder))}
            rows.append(row)
        strange = sorted(set(files) - used)
        ledger += [
            {"record_id": f"{system}/{name}", "status": "rejected", "reason": "the manifest does not ask for it"}
            for name in strange
        ]
        ctx.event(
            "collected",
            system=system,
            asked=len(list(_wanted(manifest, None))),
            found=len(used),
            not_asked_for=strange[:20],
        )
    if not any(row["status"] == "ok" for row in rows):
        raise StageError(
            f"none of the {len(rows)} videos that the manifest asks for is there; the first: {rows[0]['error_message']}. "
            "Name the files so, or say how they are named with --pattern."
        )
    ctx.write("samples", SAMPLES.table(rows))
    ctx.ledger([*ledger, *(_ended(row) for row in rows)])


@dataclass(frozen=True)
class _Wanted:
    asked: Asked
    seed: int
    names: tuple[str, ...]


def _wanted(manifest: Manifest, pattern: str | None) -> Iterator[_Wanted]:
    """Every video asked for, and the names, without ending, under which it may lie."""
    for asked in manifest.asked:
        patterns = (pattern,) if pattern else (*PATTERNS, *(ALONE if len(asked.seeds) == 1 else ()))
        for index, seed in enumerate(asked.seeds):
            fields = {
                "prompt_id": asked.prompt_id,
                "prompt": asked.prompt,
                "seed": seed,
                "index": index + 1,
                "index0": index,
            }
            yield _Wanted(asked, seed, tuple(dict.fromkeys(p.format(**fields) for p in patterns)))


def _references(manifest: Manifest, folder: Path, uri: str) -> dict[str, list[str]]:
    return {
        asked.prompt_id: [
            child_uri(uri, f"references/{_put(manifest.reference(name), folder / 'references')}")
            for name in asked.references
        ]
        for asked in manifest.asked
    }


def _put(source: Path, folder: Path) -> str:
    """Copy a file to its digest's name, once; returns the name."""
    import shutil

    with source.open("rb") as file:
        name = f"{hashlib.file_digest(file, 'sha256').hexdigest()[:24]}{source.suffix.lower()}"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / name).exists():
        shutil.copyfile(source, folder / name)
    return name


def _ended(row: Mapping[str, Any]) -> dict[str, object]:
    record = {"record_id": f"{row['system']}/{row['prompt_id']}/{row['seed']}"}
    if row["status"] == "ok":
        return {**record, "status": "accepted"}
    return {**record, "status": "failed", "error_type": row["error_type"], "error_message": row["error_message"]}
