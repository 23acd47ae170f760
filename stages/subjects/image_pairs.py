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
from stages.contract import Artifact, Context, Files, Group, NotEnoughRows, Params, StageError, Table, World, stage
from stages.location import child_uri
from stages.subjects.find import packed, unpacked
from stages.work import Item, content_key, run_items

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
PORTION = 64  # sheets in one record: tens of megabytes, and what is done again after a kill
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
    version="2",
    params=ImagePairParams,
    inputs=KINDS,
    outputs=KINDS,
    optional=ROWS,
    world=_world,
)
def image_pairs(ctx: Context, params: ImagePairParams) -> None:
    """One row of kind image_pair for each sheet that is good enough, after the rows that were given, if any were.

    ``PORTION`` sheets are a record of the store: a stage that was killed goes on behind the last, and a file that is added costs
    its own sheets.
    """
    folder, uri = ctx.folder("media"), ctx.final_uri("media")
    if ctx.has("subset"):
        _pass_on(ctx, folder, uri)
    how = {**params.model_dump(mode="json", include={"min_quality", "held_out", "reference_token"}), "seed": ctx.seed}
    portions = list(_portions(_files(params.table), params.limit))
    work = run_items(
        ctx,
        group=Group("sheets", ctx.recipe("sheets", "1", how)),
        items=[Item(portion.key, str(number), portion) for number, portion in enumerate(portions)],
        make=SheetReader,
        init={"params": params, "seed": ctx.seed},
        unit="portions",
        batch=1,
    )
    for outcome in work.failed.values():
        raise StageError(f"{portions[int(outcome.record_id)].file}: {outcome.error_message}")
    made = 0
    first_reason: str | None = None
    for row in work.rows(ctx, [str(number) for number in range(len(portions))], chunk=1):
        found = {name: unpacked(row[name]) for name in ("media", "ledger", "subset", "subjects", "pairs")}
        for picture in found["media"].to_pylist():
            (folder / picture["name"]).write_bytes(picture["content"])
        names = found["subset"]["media_uri"].to_pylist()
        at = found["subset"].schema.get_field_index("media_uri")
        placed = pa.array([child_uri(uri, name) for name in names], pa.string())
        found["subset"] = found["subset"].set_column(at, found["subset"].schema.field(at), placed)
        for name in ("subset", "subjects", "pairs"):
            ctx.write(name, found[name])
        ctx.ledger(found["ledger"].to_pylist())
        made += len(found["pairs"])
        why = (
            found["ledger"]["reason"].drop_null().to_pylist() + found["ledger"]["error_message"].drop_null().to_pylist()
        )
        first_reason = first_reason or (why[0] if why else None)
    if not made:
        raise NotEnoughRows(
            f"usable image pairs in {params.table}", 1, 0, f"First reason: {first_reason or 'no sheets'}."
        )


@dataclass(frozen=True)
class Portion:
    """Sheets ``[start, start + count)`` of a file, and what tells this content from any other."""

    file: str
    start: int
    count: int
    key: str


class SheetReader:
    """``reader(portion)`` gives the rows of all tables, the pictures and the ledger of its sheets, each as Arrow IPC bytes."""

    def __init__(self, params: ImagePairParams, seed: int) -> None:
        self.params, self.seed = params, seed

    def __call__(self, portion: Portion) -> Mapping[str, bytes]:
        rows: dict[str, list[dict[str, object]]] = {"subset": [], "subjects": [], "pairs": []}
        media: list[dict[str, object]] = []
        ledger: list[dict[str, object]] = []
        for sheet in _sheets(portion):
            line: dict[str, object] = {"record_id": short_hash("sheet", sheet.name), "status": "accepted"}
            reason = _refused(sheet, self.params.min_quality)
            if reason is not None:
                line |= {"status": "rejected", "reason": reason}
            else:
                try:
                    shown, one = _rows(sheet, self.params, self.seed)
                except (ValueError, OSError) as error:
                    line |= {"status": "failed", "error_type": type(error).__name__, "error_message": str(error)}
                else:
                    media.append({"name": one["subset"]["media_uri"], "content": shown})
                    for name, row in one.items():
                        rows[name].append(row)
            ledger.append(line)
        tables = {"subset": SUBSET, "subjects": SUBJECTS, "pairs": PAIRS}
        return {
            "media": packed(pa.Table.from_pylist(media, schema=_MEDIA)),
            "ledger": packed(pa.Table.from_pylist(ledger, schema=_LEDGER)),
            **{name: packed(schema.table(rows[name])) for name, schema in tables.items()},
        }


_MEDIA = pa.schema([("name", pa.string()), ("content", pa.large_binary())])
_LEDGER = pa.schema([(n, pa.string()) for n in ("record_id", "status", "reason", "error_type", "error_message")])


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
            uris.append(child_uri(uri, target.name))
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


def _rows(sheet: Sheet, params: ImagePairParams, seed: int) -> tuple[bytes, dict[str, dict[str, object]]]:
    """The target as PNG and a row of each table; the address in ``subset`` is only the file's name."""
    from PIL import Image

    from models.subjects.prompts import clean, compose

    reference, target = halves(Image.open(io.BytesIO(sheet.image)).convert("RGB"))
    shown, crop = _png(target), _png(reference)
    digest = hashlib.sha256(shown).hexdigest()
    video, clip = short_hash("sheet", sheet.name), short_hash("sheet target", sheet.name)
    subject = short_hash("sheet reference", sheet.name)
    phrase, caption = clean(sheet.item or ""), clean(sheet.target or "")
    look = clean(sheet.reference or "") or phrase
    # The item, not the sheet, is drawn: sheets of one item are of one subject or of its like.
    draw = int(short_hash("split", seed, phrase.lower()), 16) / 16**20
    told = {"subject_id": subject, "phrase": phrase, "appearance": look, "origin": "photo", "video_id": video}
    rows: dict[str, dict[str, object]] = {
        "subset": {
            "clip_id": clip,
            "video_id": video,
            "media_uri": f"{digest[:24]}.png",
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
            "prompt_by": "template",
        },
    }
    return shown, rows


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


def _portions(files: list[Path], limit: int | None) -> Iterator[Portion]:
    """All sheets, at most ``limit``, in order. Raises ``StageError`` for a file without the columns, or a line that is none."""
    left = limit
    for file in files:
        if file.suffix == ".jsonl":
            lines = file.read_text(encoding="utf-8").splitlines()
            count = len(lines)
        else:
            lines = []
            metadata = pq.read_metadata(file)
            count = metadata.num_rows
            missing = {"image", "description"} - set(metadata.schema.to_arrow_schema().names)
            if missing:
                raise StageError(
                    f"{file} has no column {', '.join(sorted(missing))}; Subjects-200K has image, description and quality_assessment"
                )
        count = count if left is None else min(left, count)
        left = None if left is None else left - count
        for start in range(0, count, PORTION):
            end = min(start + PORTION, count)
            # Of a folder the lines and the pictures count, so that an added sheet costs its own portion.
            told = [_line_stamp(file, n, lines[n]) for n in range(start, end)] if lines else [_stamp(file)]
            yield Portion(str(file), start, end - start, content_key(start, end, *told))


def _line_stamp(metadata: Path, number: int, line: str) -> str:
    row = _line(metadata, number, line)
    picture = None if row is None else _beside(metadata, row["file_name"])
    return f"{line} {_stamp(picture) if picture else ''}"


def _line(metadata: Path, number: int, line: str) -> dict[str, Any] | None:
    """A line of metadata.jsonl (``number`` from 0), None for an empty one. Raises ``StageError`` for one that is none."""
    if not line.strip():
        return None
    try:
        row: dict[str, Any] = json.loads(line)
        str(row["file_name"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise StageError(f"{metadata}, line {number + 1}: no JSON object with file_name ({error})") from error
    return row


def _beside(metadata: Path, name: str) -> Path | None:
    """The file of this name below the folder; none that a name could lead to elsewhere."""
    file = metadata.parent / name
    return file if file.resolve().is_relative_to(metadata.parent.resolve()) and file.is_file() else None


def _sheets(portion: Portion) -> Iterator[Sheet]:
    file, end = Path(portion.file), portion.start + portion.count
    if file.suffix == ".jsonl":
        lines = file.read_text(encoding="utf-8").splitlines()
        for number in range(portion.start, end):
            row = _line(file, number, lines[number])
            if row is not None:
                picture = _beside(file, row["file_name"])
                yield _sheet(row["file_name"], picture.read_bytes() if picture else b"", row)
        return
    reader = pq.ParquetFile(file)
    wanted = [n for n in ("image", "description", "quality_assessment") if n in reader.schema_arrow.names]
    sizes = [reader.metadata.row_group(n).num_rows for n in range(reader.num_row_groups)]
    starts = [sum(sizes[:n]) for n in range(len(sizes))]
    # Only the row groups that hold the portion are read, and of these only its rows are made Python's.
    groups = [n for n in range(len(sizes)) if starts[n] < end and starts[n] + sizes[n] > portion.start]
    at = starts[groups[0]]
    for batch in reader.iter_batches(batch_size=PORTION, row_groups=groups, columns=wanted):
        low, high = max(portion.start - at, 0), min(end - at, batch.num_rows)
        for number, row in enumerate(batch.slice(low, max(0, high - low)).to_pylist(), at + low):
            image = row["image"]["bytes"] if isinstance(row["image"], dict) else row["image"]
            yield _sheet(f"{file.name}:{number}", image or b"", row)
        at += batch.num_rows


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
