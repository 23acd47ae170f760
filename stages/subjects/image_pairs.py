"""Stage ``image_pairs``: pairs of pictures of one subject, as Subjects-200K has them, as training rows of one frame.

A sheet holds the reference on the left and the target on the right, two squares with the same padding around each. Sheets come
as a Parquet file or folder (columns ``image``, ``description``, ``quality_assessment``), or as a folder of pictures with a
``metadata.jsonl`` of the same columns and ``file_name``.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from data_schemas.ids import short_hash
from data_schemas.tables import PAIRS, SUBJECTS, SUBSET
from stages.contract import Artifact, Context, Files, NotEnoughRows, Params, StageError, Table, World, stage

if TYPE_CHECKING:
    from PIL import Image

ROWS = ("subset", "media", "pairs", "subjects")
KINDS: dict[str, Artifact] = {
    "subset": Table(SUBSET),
    "media": Files("media"),
    "pairs": Table(PAIRS),
    "subjects": Table(SUBJECTS),
}
SCORES = ("compositeStructure", "objectConsistency", "imageQuality")
CHUNK = 256


class ImagePairParams(Params):
    """``min_quality`` is the rule of the recipe that the data set comes from: all three of its scores at their best."""

    table: str = Field(description="Parquet file or folder, or folder of sheets with metadata.jsonl")
    min_quality: float = Field(5, ge=0, le=5, description="least of the three scores; a sheet without scores is kept")
    limit: int | None = Field(None, ge=1, description="sheets read at most")
    held_out: float = Field(0.0, ge=0, le=0.5, description="share of subjects kept from training")
    reference_token: str = Field("", description="put before each bound phrase, e.g. <cls>; empty for none")


@dataclass(frozen=True)
class Sheet:
    """One record as it was read: an encoded picture, and what is said of it."""

    name: str
    image: bytes
    item: str | None
    reference: str | None
    target: str | None
    valid: bool
    scores: Mapping[str, float]


def _world(params: ImagePairParams, world: World) -> dict[str, str]:
    return {"sheets": hashlib.sha256("\n".join(_stamp(f) for f in _files(params.table)).encode()).hexdigest()}


@stage(
    name="image_pairs",
    version="1",
    params=ImagePairParams,
    inputs=KINDS,
    outputs=KINDS,
    optional=ROWS,
    world=_world,
)
def image_pairs(ctx: Context, params: ImagePairParams) -> None:
    """One row of kind image_pair for each sheet that is good enough, after the rows that were given, if any were."""
    folder, uri = ctx.folder("media"), ctx.final_uri("media")
    if ctx.has("subset"):
        _pass_on(ctx, folder, uri)
    made = 0
    first_reason: str | None = None
    rows: dict[str, list[dict[str, object]]] = {"subset": [], "subjects": [], "pairs": []}
    ledger: list[dict[str, object]] = []
    files = _files(params.table)
    with ctx.progress(_count(files), "sheets") as bar:
        for number, sheet in enumerate(_sheets(files)):
            if params.limit is not None and number >= params.limit:
                break
            line: dict[str, object] = {"record_id": short_hash("sheet", sheet.name), "status": "accepted"}
            reason = _refused(sheet, params.min_quality)
            if reason is None:
                try:
                    one = _rows(sheet, folder, uri, params, ctx.seed)
                except (ValueError, OSError) as error:
                    line |= {"status": "failed", "error_type": type(error).__name__, "error_message": str(error)}
                    reason = str(error)
                else:
                    made += 1
                    for name, row in one.items():
                        rows[name].append(row)
            else:
                line |= {"status": "rejected", "reason": reason}
            first_reason = first_reason or reason
            ledger.append(line)
            bar.advance(failed=int(line["status"] == "failed"))
            if len(ledger) >= CHUNK:
                _flush(ctx, rows, ledger)
    _flush(ctx, rows, ledger)
    if not made:
        raise NotEnoughRows(
            f"usable image pairs in {params.table}", 1, 0, f"First reason: {first_reason or 'no sheets'}."
        )


def _flush(ctx: Context, rows: dict[str, list[dict[str, object]]], ledger: list[dict[str, object]]) -> None:
    for name, schema in (("subset", SUBSET), ("subjects", SUBJECTS), ("pairs", PAIRS)):
        ctx.write(name, schema.table(rows[name]))
        rows[name].clear()
    ctx.ledger(ledger)
    ledger.clear()


def _pass_on(ctx: Context, folder: Path, uri: str) -> None:
    """The rows that were given, their media linked."""
    from stages.subjects.locate import in_folder

    source = ctx.path("media")
    for batch in ctx.dataset("subset").scanner(batch_size=4096).to_batches():
        table = pa.Table.from_batches([batch])
        uris = []
        for address in table["media_uri"].to_pylist():
            path = in_folder(source, address)
            target = folder / path.relative_to(source).name
            if not target.exists():
                target.symlink_to(path.resolve())
            uris.append(f"{uri}/{target.name}")
        at = table.schema.get_field_index("media_uri")
        ctx.write("subset", SUBSET.validate(table.set_column(at, table.schema.field(at), pa.array(uris))))
    for name, schema in (("pairs", PAIRS), ("subjects", SUBJECTS)):
        for batch in ctx.dataset(name).scanner(batch_size=CHUNK).to_batches():
            ctx.write(name, schema.complete(pa.Table.from_batches([batch])))


def _refused(sheet: Sheet, least: float) -> str | None:
    if not sheet.valid or not sheet.item or not sheet.target:
        return "no_description"
    low = [name for name in SCORES if name in sheet.scores and sheet.scores[name] < least]
    return f"low_{low[0]}" if low else None


def halves(sheet: Image.Image) -> tuple[Image.Image, Image.Image]:
    """Reference and target of a sheet of (2 s + 3 p) x (s + 2 p) px: squares of side s with padding p around each.

    Raises ``ValueError`` for a picture of another shape.
    """
    width, height = sheet.size
    padding = 2 * height - width
    side = height - 2 * padding
    if padding < 0 or side < 16 or padding > side:
        raise ValueError(f"a picture of {width} x {height} px is no sheet of two squares side by side")
    left = sheet.crop((padding, padding, padding + side, padding + side))
    right = sheet.crop((2 * padding + side, padding, 2 * padding + 2 * side, padding + side))
    return left, right


def _rows(sheet: Sheet, folder: Path, uri: str, params: ImagePairParams, seed: int) -> dict[str, dict[str, object]]:
    from PIL import Image

    from models.subjects.prompts import clean, compose

    reference, target = halves(Image.open(io.BytesIO(sheet.image)).convert("RGB"))
    shown, crop = _png(target), _png(reference)
    digest = hashlib.sha256(shown).hexdigest()
    (folder / f"{digest[:24]}.png").write_bytes(shown)
    video, clip = short_hash("sheet", sheet.name), short_hash("sheet target", sheet.name)
    subject = short_hash("sheet reference", sheet.name)
    phrase, caption = clean(sheet.item or ""), clean(sheet.target or "")
    look = clean(sheet.reference or "") or phrase
    # The item, not the sheet, is drawn: sheets of one item are of one subject or of its like.
    draw = int(short_hash("split", seed, phrase.lower()), 16) / 16**20
    told = {"subject_id": subject, "phrase": phrase, "appearance": look, "origin": "photo", "video_id": video}
    return {
        "subset": {
            "clip_id": clip,
            "video_id": video,
            "media_uri": f"{uri}/{digest[:24]}.png",
            "media_sha256": digest,
            "media_bytes": len(shown),
            "caption": caption,
            "start_s": 0.0,
            "end_s": 0.0,
            "frames": 1,
            "fps": 1.0,
            "width": target.width,
            "height": target.height,
        },
        "subjects": {
            "subject_id": subject,
            "origin": "photo",
            "video_id": video,
            "phrase": phrase,
            "appearance": look,
            "box": [0.0, 0.0, 1.0, 1.0],
            "area": 1.0,
            "mask_area": 1.0,
            "crop": crop,
            "mask": _png(Image.new("L", reference.size, 255)),
            "encoder": "none",
            "embedding": [],
        },
        "pairs": {
            "sample_id": short_hash("sample", "image_pair", clip, subject),
            "kind": "image_pair",
            "clip_id": clip,
            "video_id": video,
            "prompt": compose(caption, [phrase], [look], token=params.reference_token),
            "references": [told],
            "similarities": [None],
            "same_source": False,
            "same_shot": False,
            "split": "held_out" if draw < params.held_out else "train",
        },
    }


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def _files(table: str) -> list[Path]:
    """Parquet files, or the one metadata.jsonl; raises ``StageError`` where there is neither."""
    path = Path(table).expanduser()
    if path.is_file():
        return [path]
    found = sorted(path.rglob("*.parquet")) if path.is_dir() else []
    if not found and (path / "metadata.jsonl").is_file():
        found = [path / "metadata.jsonl"]
    if not found:
        raise StageError(
            f"image_pairs.table: {path} is no Parquet file and no folder with Parquet files or metadata.jsonl"
        )
    return found


def _stamp(file: Path) -> str:
    status = file.stat()
    return f"{file} {status.st_size} {status.st_mtime_ns}"


def _count(files: list[Path]) -> int:
    if files[0].suffix == ".jsonl":
        with files[0].open("rb") as opened:
            return sum(1 for _ in opened)
    return sum(pq.read_metadata(f).num_rows for f in files)


def _sheets(files: list[Path]) -> Iterator[Sheet]:
    for file in files:
        if file.suffix == ".jsonl":
            yield from _of_folder(file)
            continue
        reader = pq.ParquetFile(file)
        missing = {"image", "description"} - set(reader.schema_arrow.names)
        if missing:
            raise StageError(
                f"{file} has no column {', '.join(sorted(missing))}; Subjects-200K has image, description and quality_assessment"
            )
        wanted = [n for n in ("image", "description", "quality_assessment") if n in reader.schema_arrow.names]
        number = 0
        for batch in reader.iter_batches(batch_size=32, columns=wanted):
            for row in batch.to_pylist():
                image = row["image"]["bytes"] if isinstance(row["image"], dict) else row["image"]
                yield _sheet(f"{file.name}:{number}", image or b"", row)
                number += 1


def _of_folder(metadata: Path) -> Iterator[Sheet]:
    for number, line in enumerate(metadata.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name = row["file_name"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise StageError(f"{metadata}, line {number}: no JSON object with file_name ({error})") from error
        file = metadata.parent / name
        inside = file.resolve().is_relative_to(metadata.parent.resolve()) and file.is_file()
        yield _sheet(name, file.read_bytes() if inside else b"", row)


def _sheet(name: str, image: bytes, row: Mapping[str, Any]) -> Sheet:
    about, scores = row.get("description") or {}, row.get("quality_assessment") or {}
    return Sheet(
        name=name,
        image=image,
        item=about.get("item"),
        reference=about.get("description_0"),
        target=about.get("description_1"),
        valid=about.get("description_valid") is not False,
        scores={k: float(scores[k]) for k in SCORES if scores.get(k) is not None},
    )
