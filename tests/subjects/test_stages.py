"""The subjects and pairs stages on real footage: where every clip and photograph ended, resume, prompts and split."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.compute
import pytest

from data_schemas.tables import DEDUPE, SUBJECTS, SUBSET, VIDEOS
from models.subjects import load
from models.subjects.frames import clip_frames, frames_per_second, picture
from models.subjects.prompts import parse
from models.video.encode import write_video
from stages.contract import NotEnoughRows
from stages.subjects.pairs import PairParams, pairs
from stages.subjects.subjects import SubjectParams, subjects
from tests.context import LocalContext

CAPTIONS = {"horse": "A brown horse runs across a meadow", "kitten": "A kitten plays on the grass"}


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def clip_row(path: Path, clip_id: str, caption: str | None) -> dict[str, object]:
    frames, times = clip_frames(path)
    return {
        "clip_id": clip_id,
        "video_id": f"video-{clip_id}",
        "media_uri": f"s3://elsewhere/media/{path.name}",
        "media_sha256": sha(path),
        "media_bytes": path.stat().st_size,
        "caption": caption,
        "start_s": 0.0,
        "end_s": times[-1],
        "frames": len(frames),
        "fps": frames_per_second(times),
        "width": frames.shape[2],
        "height": frames.shape[1],
    }


def photo_row(path: Path, caption: str | None = None) -> dict[str, object]:
    return {
        "video_id": f"photo-{path.parent.name}-{path.stem}",
        "uri": f"file://{path}",
        "path": path.name,
        "media_type": "image",
        "bytes": path.stat().st_size,
        "caption": caption,
        "sha256": sha(path),
        "status": "ok",
    }


@pytest.fixture(scope="module")
def world(footage: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Two clips, one of them twice under other names, a broken one, and photographs; with what the stage makes of them."""
    tmp = tmp_path_factory.mktemp("subjects")
    media = tmp / "media"
    media.mkdir()
    subset = []
    shutil.copy(footage / "cogvideo" / "horse.mp4", media / "horse.mp4")
    frames, times = clip_frames(footage / "cogvideo" / "kitten.mp4")
    write_video(frames, frames_per_second(times), media / "kitten.mp4")
    for name in ("horse", "kitten"):
        subset.append(clip_row(media / f"{name}.mp4", name, CAPTIONS[name]))
    shutil.copy(media / "kitten.mp4", media / "again.mp4")
    subset.append({**clip_row(media / "again.mp4", "again", CAPTIONS["kitten"])})
    (media / "broken.mp4").write_bytes(b"not a video")
    subset.append({**subset[0], "clip_id": "broken", "media_uri": "x/broken.mp4", "media_sha256": "0" * 64})
    photos = [photo_row(f, f"a {f.parent.name}") for f in sorted((footage / "dreambooth").glob("cat/0[0-2].jpg"))]
    gone = {**photos[0], "video_id": "photo-gone", "uri": f"file://{tmp}/gone.jpg", "sha256": "1" * 64}
    inputs = {"subset": SUBSET.table(subset), "media": media, "videos": VIDEOS.table([*photos, gone])}
    ctx = LocalContext(tmp, subjects, inputs)
    ctx.run()
    return {"tmp": tmp, "inputs": inputs, "subjects": ctx.outputs["subjects"], "ledger": ctx.ledger_rows}


def table_of(world: dict[str, object], name: str) -> pa.Table:
    found = world[name]
    assert isinstance(found, pa.Table)
    return found


def test_the_names_in_the_recipe_are_those_of_the_models() -> None:
    from models.subjects.descriptor import ClosedFormEncoder
    from models.subjects.propose import EmbeddedGrounder, GrabCutSegmenter

    assert (EmbeddedGrounder.name, GrabCutSegmenter.name) == (load.GROUNDER, load.SEGMENTER)
    assert ClosedFormEncoder.name == load.ENCODER


def test_every_clip_and_photograph_ends_in_the_ledger(world: dict[str, object]) -> None:
    ledger = {r["record_id"]: r for r in world["ledger"]}  # type: ignore[attr-defined]
    status = {k: r["status"] for k, r in ledger.items()}
    assert set(status) == {"horse", "kitten", "again", "broken", "photo-gone", *(f"photo-cat-0{i}" for i in range(3))}
    assert status["broken"] == status["photo-gone"] == "failed"
    assert "broken.mp4" in ledger["broken"]["error_message"]
    assert status["horse"] == status["kitten"] == status["again"] == "accepted"


def test_rows_obey_the_box_rules_and_their_mask_fits_their_crop(world: dict[str, object]) -> None:
    rows = table_of(world, "subjects").to_pylist()
    assert len({r["subject_id"] for r in rows}) == len(rows)
    for r in rows:
        assert 0.04 <= r["area"] <= 0.9
        assert 0 < r["mask_area"] <= r["area"] + 1e-6
        crop, mask = picture(r["crop"], "crop"), picture(r["mask"], "mask")
        assert crop.shape == mask.shape
        assert min(crop.shape[:2]) >= 64
        assert abs(sum(v * v for v in r["embedding"]) - 1) < 1e-5
        assert (r["time_s"] is None) == (r["origin"] == "photo")
    assert {r["phrase"] for r in rows if r["clip_id"] == "horse"} == {"a brown horse"}


def test_running_again_does_no_work_and_gives_the_same_table(
    world: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.subjects.find.Finder.__call__", _must_not_run)
    tmp, inputs = world["tmp"], dict(world["inputs"])  # type: ignore[call-overload]
    assert isinstance(tmp, Path)
    good = inputs["subset"].filter(pa.compute.not_equal(inputs["subset"]["clip_id"], "broken"))
    known = inputs["videos"].filter(pa.compute.not_equal(inputs["videos"]["video_id"], "photo-gone"))
    again = LocalContext(tmp, subjects, {**inputs, "subset": good, "videos": known})
    again.run()
    assert again.outputs["subjects"].sort_by("subject_id") == table_of(world, "subjects").sort_by("subject_id")


def _must_not_run(self: object, payload: object) -> dict[str, object]:
    raise AssertionError("work was done again")


def paired(world: dict[str, object], tmp_path: Path, **params: object) -> LocalContext:
    inputs: dict[str, pa.Table | Path] = {
        "subset": world["inputs"]["subset"],  # type: ignore[index]
        "subjects": table_of(world, "subjects"),
    }
    inputs["dedupe"] = DEDUPE.table(
        [
            {"clip_id": c, "kept": True, "kind": None, "group_id": None, "kept_id": c}
            for c in ("horse", "kitten", "again")
        ]
    )
    ctx = LocalContext(tmp_path, pairs, inputs)
    ctx.run(PairParams.model_validate({"min_cross_pair": 0, "lower": 0.1, "upper": 0.999, **params}))
    return ctx


def test_in_pairs_come_from_the_clip_itself_and_not_from_its_first_frame(
    world: dict[str, object], tmp_path: Path
) -> None:
    rows = [r for r in paired(world, tmp_path).outputs["pairs"].to_pylist() if r["kind"] == "in_pair"]
    subject = {r["subject_id"]: r for r in table_of(world, "subjects").to_pylist()}
    assert {r["clip_id"] for r in rows} == {"horse", "kitten", "again"}
    for row in rows:
        assert row["same_source"]
        for reference in row["references"]:
            assert subject[reference["subject_id"]]["clip_id"] == row["clip_id"]
            assert reference["time_s"] > 0.0625  # half a frame at 8 a second


def test_cross_pairs_never_take_the_same_bytes_and_prompts_parse(world: dict[str, object], tmp_path: Path) -> None:
    rows = paired(world, tmp_path, names_must_agree=False, held_out=0.0).outputs["pairs"].to_pylist()
    cross = [r for r in rows if r["kind"] == "cross_pair"]
    assert cross
    by_id = {r["subject_id"]: r for r in table_of(world, "subjects").to_pylist()}
    for row in cross:
        origin = {by_id[x["subject_id"]]["clip_id"] for x in row["references"]}
        assert row["clip_id"] not in origin
        assert {row["clip_id"], *origin} != {"kitten", "again"}  # equal bytes, though dedupe did not say so
    for row in rows:
        assert len(parse(row["prompt"]).appearances) == len(row["references"])


def test_no_source_is_on_both_sides_of_the_split(world: dict[str, object], tmp_path: Path) -> None:
    rows = paired(world, tmp_path, names_must_agree=False, held_out=0.4).outputs["pairs"].to_pylist()
    sides: dict[str, set[str]] = {}
    for row in rows:
        for video in [row["video_id"], *(x["video_id"] for x in row["references"])]:
            sides.setdefault(video, set()).add(row["split"])
    assert all(len(s) == 1 for s in sides.values())
    assert {s for v in sides.values() for s in v} == {"train", "held_out"}


def test_pairing_is_a_function_of_seed_and_input(world: dict[str, object], tmp_path: Path) -> None:
    first = paired(world, tmp_path / "a").outputs["pairs"]
    assert first == paired(world, tmp_path / "b").outputs["pairs"]


def test_every_clip_and_subject_has_one_line_in_the_pairs_ledger(world: dict[str, object], tmp_path: Path) -> None:
    ledger = paired(world, tmp_path).ledger_rows
    ids = [r["record_id"] for r in ledger]
    assert len(ids) == len(set(ids))
    subject_ids = {r["subject_id"] for r in table_of(world, "subjects").to_pylist()}
    candidates = {i for i in ids if ">" in i}
    assert set(ids) - candidates == subject_ids | {"horse", "kitten", "again", "broken"}
    assert {s for pair in candidates for s in pair.split(">")} <= subject_ids
    assert next(r for r in ledger if r["record_id"] == "broken")["reason"] == "no_subject"


def test_too_few_cross_pairs_stop_the_pipeline_by_name(world: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(NotEnoughRows, match=r"needs 50 cross-pair samples, has \d"):
        paired(world, tmp_path, min_cross_pair=50)


def test_no_subjects_at_all_is_an_answer_not_a_crash(world: dict[str, object], tmp_path: Path) -> None:
    ctx = LocalContext(tmp_path, pairs, {"subset": world["inputs"]["subset"], "subjects": SUBJECTS.empty()})  # type: ignore[index]
    ctx.run(PairParams(min_in_pair=0, min_cross_pair=0))
    assert ctx.outputs["pairs"].num_rows == 0
    assert {r["reason"] for r in ctx.ledger_rows} == {"no_subject"}


def test_impossible_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="min_area"):
        SubjectParams(min_area=0.5, max_area=0.4)
    with pytest.raises(ValueError, match="lower"):
        PairParams(lower=0.9, upper=0.8)


def test_the_ledger_says_what_read_the_frames_of_each_clip(world: dict[str, object]) -> None:
    notes = {r["record_id"]: r["note"] for r in world["ledger"]}  # type: ignore[attr-defined]
    readers = {name: (note or "").split("; not taken: ")[0] for name, note in notes.items()}
    assert readers["horse"] == "read by pyav: decord is trusted with this project's own clips only"
    assert readers["kitten"] == "read by decord"
    assert readers["photo-cat-00"] == ""
