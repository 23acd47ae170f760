"""Copies are found through re-encoding, rescaling, cropping, trimming and dropped frames; another take is not a copy."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest

from data_schemas.tables import EMBEDDINGS
from models.video.encode import cut_clip, write_video
from models.video.near import RATE, SIDE, NearRule, compare, signature
from models.video.phash import FLAT, candidate_pairs, hamming, picture_hash
from models.video.reader import VideoReader
from stages.contract import StageError
from stages.curation.dedupe import DedupeParams, NearParams, components, dedupe, ranking
from tests.context import LocalContext

Analysed = Callable[..., dict[str, pa.Table]]


def run(
    tmp_path: Path, tables: Mapping[str, pa.Table], params: DedupeParams | None = None, **more: pa.Table
) -> LocalContext:
    context = LocalContext(
        tmp_path, dedupe, {**{k: tables[k] for k in ("clips", "selection", "videos", "keyframes")}, **more}
    )
    context.run(params or DedupeParams())
    return context


def by_path(tables: Mapping[str, pa.Table], context: LocalContext) -> dict[str, dict[str, Any]]:
    """Rows of the dedupe table by file name, clip ids in them replaced by file names."""
    name = {
        c: Path(u).name
        for c, u in zip(*(tables["clips"].column(k).to_pylist() for k in ("clip_id", "video_uri")), strict=True)
    }
    return {
        name[row["clip_id"]]: {**row, "kept_id": name[row["kept_id"]]} for row in context.outputs["dedupe"].to_pylist()
    }


@pytest.fixture(scope="module")
def variants(footage: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One real clip, its transformations, and another take of its scene."""
    folder = tmp_path_factory.mktemp("variants")
    bird, milk = footage / "intel-sample-videos" / "bird.mkv", footage / "intel-sample-videos" / "milk.mkv"
    made = {"original": folder / "original.mp4"}
    cut_clip(bird, 0, 60, made["original"], max_side=480)
    with VideoReader(made["original"]) as reader:
        frames = np.stack([frame.picture(order="rgb24") for frame in reader])
        rate = reader.facts.fps or 30.0

    def write(name: str, pictures: np.ndarray, fps: float = rate, codec: str = "libx264", crf: int = 28) -> None:
        made[name] = folder / f"{name}.{'mp4' if codec == 'libx264' else 'webm'}"
        write_video(np.ascontiguousarray(pictures), fps, made[name], codec=codec, crf=crf)

    height, width = frames.shape[1:3]
    write("encoded", frames, codec="libvpx-vp9", crf=40)
    write("small", np.stack([cv2.resize(f, (width // 2, height // 2), interpolation=cv2.INTER_AREA) for f in frames]))
    write("cropped", frames[:, height // 20 : -height // 20, width // 20 : -width // 20])
    write("darker", (frames * 0.8).astype(np.uint8))
    write("half_rate", frames[::2], fps=rate / 2)
    write("trimmed", frames[3:56])
    made["other_take"] = folder / "other_take.mp4"
    cut_clip(milk, 0, 50, made["other_take"], max_side=480)
    return made


def test_a_copy_is_found_through_what_happens_to_copies_and_another_take_is_not(
    variants: dict[str, Path], analysed: Analysed, tmp_path: Path
) -> None:
    tables = analysed(list(variants.values()))
    context = run(tmp_path, tables)
    rows = by_path(tables, context)
    copies = [variants[name].name for name in variants if name != "other_take"]
    assert {rows[name]["kind"] for name in copies} == {"near"}
    assert len({rows[name]["group_id"] for name in copies}) == 1
    [kept] = [name for name in copies if rows[name]["kept"]]
    assert {rows[name]["kept_id"] for name in copies} == {kept}
    # the most pixels win; of the full-size versions (equal sharpness here) the longest
    assert kept in {"original.mp4", "encoded.webm", "darker.mp4", "half_rate.mp4"}
    assert (rows["other_take.mp4"]["kept"], rows["other_take.mp4"]["kind"], rows["other_take.mp4"]["group_id"]) == (
        True,
        None,
        None,
    )
    ledger = [(row["status"], row["reason"]) for row in context.ledger_rows]
    assert sorted(ledger, key=str) == [("accepted", None)] * 2 + [("rejected", "near")] * 6


def test_running_again_decodes_and_hashes_nothing(
    variants: dict[str, Path], analysed: Analysed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = analysed([variants["original"], variants["small"]])
    first = run(tmp_path, tables).outputs["dedupe"]

    def refuse(*_: object) -> None:
        raise AssertionError("a video was opened again")

    monkeypatch.setattr(VideoReader, "__init__", refuse)
    assert run(tmp_path, tables).outputs["dedupe"].equals(first)


def test_a_source_that_vanished_keeps_its_clip_and_says_so(
    variants: dict[str, Path], analysed: Analysed, tmp_path: Path
) -> None:
    paths = []
    for name in ("original", "small"):
        paths.append(tmp_path / variants[name].name)
        paths[-1].write_bytes(variants[name].read_bytes())
    tables = analysed(paths)
    paths[1].unlink()
    context = run(tmp_path, tables)
    assert all(row["kept"] for row in by_path(tables, context).values())
    [odd] = [row for row in context.ledger_rows if row["error_type"]]
    assert odd["status"] == "accepted"
    assert "cannot be read" in odd["error_message"]


def test_the_same_bytes_and_span_are_exact_whatever_the_path(
    variants: dict[str, Path], analysed: Analysed, tmp_path: Path
) -> None:
    twin = tmp_path / "twin.mp4"
    twin.write_bytes(variants["original"].read_bytes())
    spans = {twin: [(0, 30), (30, 60)], variants["original"]: [(0, 30), (31, 60)]}
    tables = analysed([variants["original"], twin], spans)
    context = run(tmp_path, tables, DedupeParams(near=NearParams(enabled=False)))
    kinds = sorted(str(row["kind"]) for row in context.outputs["dedupe"].to_pylist())
    assert kinds == ["None", "None", "exact", "exact"]


def test_a_clip_that_loses_twice_names_the_final_winner(
    variants: dict[str, Path], analysed: Analysed, tmp_path: Path
) -> None:
    twin = tmp_path / "a_twin.mp4"  # two equal small files, and a larger near copy that beats both
    twin.write_bytes(variants["small"].read_bytes())
    tables = analysed([variants["small"], twin, variants["original"]])
    rows = by_path(tables, run(tmp_path, tables))
    assert {row["kept_id"] for row in rows.values()} == {"original.mp4"}
    assert sorted(str(row["kind"]) for row in rows.values()) == ["exact", "near", "near"]


def test_semantic_copies_are_grouped_by_cosine_only_when_asked(
    variants: dict[str, Path], analysed: Analysed, tmp_path: Path
) -> None:
    tables = analysed([variants["original"], variants["other_take"]])
    ids = tables["clips"].column("clip_id").to_pylist()
    vectors = [[1.0, 0.0], [0.8, 0.6]]  # cosine 0.8
    embeddings = EMBEDDINGS.table(
        [{"clip_id": c, "encoder": "e", "vector": v} for c, v in zip(ids, vectors, strict=True)]
    )
    for number, (threshold, kinds) in enumerate([(None, {None}), (0.9, {None}), (0.75, {"semantic"})]):
        context = run(tmp_path / str(number), tables, DedupeParams(semantic=threshold), embeddings=embeddings)
        assert {row["kind"] for row in context.outputs["dedupe"].to_pylist()} == kinds
    with pytest.raises(StageError, match="no embeddings"):
        run(tmp_path / "none", tables, DedupeParams(semantic=0.9))


def test_only_selected_clips_are_compared(variants: dict[str, Path], analysed: Analysed, tmp_path: Path) -> None:
    tables = analysed([variants["original"], variants["small"]])
    kept = pa.array([True, False])
    selection = tables["selection"].set_column(1, tables["selection"].schema.field("kept"), kept)
    context = run(tmp_path, {**tables, "selection": selection})
    assert context.outputs["dedupe"].column("clip_id").to_pylist() == tables["clips"].column("clip_id").to_pylist()[:1]


def test_an_unknown_preference_is_refused_with_the_nearest_spelling(
    variants: dict[str, Path], analysed: Analysed, tmp_path: Path
) -> None:
    with pytest.raises(StageError, match="Did you mean sharpness"):
        run(tmp_path, analysed([variants["original"]]), DedupeParams(prefer=("sharpnes",)))


# -- the parts --------------------------------------------------------------------------------------------------------


def test_the_best_is_the_first_by_preference_with_missing_last() -> None:
    table = pa.table(
        {
            "clip_id": ["a", "b", "c", "d", "e"],
            "width": pa.array([10, 20, 20, 20, 20], pa.int32()),
            "height": pa.array([10, 10, 10, 10, 10], pa.int32()),
            "sharpness": [9.0, 1.0, None, 2.0, float("nan")],
        }
    )
    assert ranking(table, ("pixels", "sharpness")).tolist() == [4, 1, 2, 0, 3]


def test_a_sharper_part_does_not_stand_for_the_whole(
    variants: dict[str, Path], analysed: Analysed, tmp_path: Path
) -> None:
    spans = {variants["original"]: [(10, 45)], variants["small"]: [(0, 60)]}
    tables = analysed([variants["original"], variants["small"]], spans)
    rows = by_path(tables, run(tmp_path, tables))
    assert {row["kept_id"] for row in rows.values()} == {"small.mp4"}


def test_groups_are_the_connected_parts() -> None:
    pairs = np.asarray([[4, 7], [1, 2], [7, 9], [2, 1]])
    assert [group.tolist() for group in components(pairs)] == [[1, 2], [4, 7, 9]]


def test_a_hash_survives_scaling_and_compression_and_a_flat_picture_has_none() -> None:
    rng = np.random.default_rng(0)
    picture = cv2.resize(rng.integers(0, 256, (12, 16), dtype=np.uint8), (640, 480), interpolation=cv2.INTER_CUBIC)
    small = cv2.resize(picture, (200, 150), interpolation=cv2.INTER_AREA)
    coded = cv2.imdecode(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], cv2.IMREAD_GRAYSCALE)
    one, two = picture_hash(picture), picture_hash(coded)
    assert one is not None
    assert two is not None
    assert int(hamming(np.asarray([one], np.uint64), np.asarray([two], np.uint64))[0]) <= 4
    assert picture_hash(np.full((48, 64), 7, np.uint8)) is None
    assert FLAT > 0


def test_candidate_pairs_are_those_of_a_full_comparison_within_the_bands_promise() -> None:
    rng = np.random.default_rng(1)
    base = rng.integers(0, 1 << 63, 60, dtype=np.uint64)
    hashes, owners = [], []
    for owner, value in enumerate(base):
        hashes.append(value)
        owners.append(owner)
        if owner % 3 == 0:  # a copy by another clip with 7 of 63 bits flipped: one of eight 8-bit bands must be whole
            flips = rng.choice(63, 7, replace=False).astype(np.uint64)
            hashes.append(value ^ np.bitwise_or.reduce(np.uint64(1) << flips))
            owners.append(1000 + owner)
    found = candidate_pairs(np.asarray(hashes, np.uint64), np.asarray(owners, np.int64), 10)
    expected = sorted(
        {(min(a, b), max(a, b)) for (x, a), (y, b) in itertools.combinations(zip(hashes, owners, strict=True), 2)
         if a != b and int(np.bitwise_count(x ^ y)) <= 10}
    )  # fmt: skip
    assert [tuple(pair) for pair in found.tolist()] == expected
    assert len(expected) >= 20


def test_a_signature_fills_the_same_slots_at_any_frame_rate() -> None:
    def film(fps: float, seconds: float = 2.0) -> list[tuple[float, np.ndarray]]:
        return [(n / fps, np.full((9, 16), int(n / fps * RATE), np.uint8)) for n in range(int(seconds * fps))]

    fast, slow = signature(film(60)), signature(film(24))
    assert fast.shape == slow.shape == (16, SIDE, SIDE)
    np.testing.assert_array_equal(fast, slow)
    gap = signature([frame for frame in film(24) if not 0.5 < frame[0] < 1.2])
    assert len(gap) == 16  # the picture before a gap stands for it


def test_black_clips_are_not_copies_of_each_other() -> None:
    black = np.full((16, SIDE, SIDE), 16, np.uint8)
    assert not compare(black, black).same


def test_the_time_reversed_clip_is_another_clip() -> None:
    rng = np.random.default_rng(2)
    noise = cv2.GaussianBlur(rng.normal(size=(SIDE, SIDE * 3)), (0, 0), 3)
    pan = np.stack([noise[:, x : x + SIDE] for x in range(0, 64, 4)])
    pan = ((pan - pan.min()) / np.ptp(pan) * 255).astype(np.uint8)
    assert compare(pan, pan, NearRule()).same
    assert not compare(pan, pan[::-1], NearRule()).same
