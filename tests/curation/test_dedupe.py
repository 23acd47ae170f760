"""Copies are found through re-encoding, rescaling, cropping, trimming and dropped frames; another take is not a copy."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pyarrow as pa
import pytest

from data_schemas.tables import EMBEDDINGS, HASHES
from models.video.cut import cut_clip
from models.video.encode import GOP_FRAMES, write_video
from models.video.reader import VideoReader
from models.video.spans import Damage
from stages.contract import StageError
from stages.curation import near_jobs
from stages.curation.dedupe import DedupeParams, NearParams, dedupe
from stages.curation.groups import Groups, components, ranking, trees
from stages.machine import MachineFailure
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


def test_a_source_that_was_replaced_is_not_compared_by_what_it_is_now(
    variants: dict[str, Path], analysed: Analysed, tmp_path: Path
) -> None:
    paths = [tmp_path / variants[name].name for name in ("original", "small")]
    for path, name in zip(paths, ("original", "small"), strict=True):
        path.write_bytes(variants[name].read_bytes())
    tables = analysed(paths)
    paths[1].write_bytes(variants["other_take"].read_bytes())
    context = run(tmp_path, tables)
    assert all(row["kept"] for row in by_path(tables, context).values())
    [odd] = [row for row in context.ledger_rows if row["error_type"]]
    assert (odd["status"], odd["error_type"]) == ("accepted", "SourceChanged")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EMFILE])
def test_that_the_machine_fails_says_nothing_of_copies(
    variants: dict[str, Path], analysed: Analysed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    tables = analysed([variants["original"], variants["small"]])

    def fails(uri: str) -> None:
        raise OSError(number, os.strerror(number), uri)

    with monkeypatch.context() as broken:
        broken.setattr(near_jobs, "local_copy", fails)
        with pytest.raises(MachineFailure, match="while comparing"):
            run(tmp_path, tables)
    rows = by_path(tables, run(tmp_path, tables))
    assert sorted(row["kept"] for row in rows.values()) == [False, True]


def test_that_the_folder_of_the_sources_is_gone_stops_the_run(
    variants: dict[str, Path], analysed: Analysed, tmp_path: Path
) -> None:
    folder = tmp_path / "mounted"
    folder.mkdir()
    paths = [folder / variants[name].name for name in ("original", "small")]
    for path, name in zip(paths, ("original", "small"), strict=True):
        path.write_bytes(variants[name].read_bytes())
    tables = analysed(paths)
    folder.rename(tmp_path / "away")
    with pytest.raises(MachineFailure, match="Is the storage mounted"):
        run(tmp_path, tables)


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
    assert len({row["group_id"] for row in rows.values()}) == 1  # the same bytes are in the group of their twin


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


def test_a_sharper_part_does_not_stand_for_the_whole(
    variants: dict[str, Path], analysed: Analysed, tmp_path: Path
) -> None:
    spans = {variants["original"]: [(10, 45)], variants["small"]: [(0, 60)]}
    tables = analysed([variants["original"], variants["small"]], spans)
    rows = by_path(tables, run(tmp_path, tables))
    assert {row["kept_id"] for row in rows.values()} == {"small.mp4"}


def test_a_mirrored_copy_is_found_only_when_asked_for(
    variants: dict[str, Path], analysed: Analysed, tmp_path: Path
) -> None:
    with VideoReader(variants["original"]) as reader:
        frames = np.stack([frame.picture(order="rgb24") for frame in reader])
    mirror = tmp_path / "mirror.mp4"
    write_video(np.ascontiguousarray(frames[:, :, ::-1]), 30.0, mirror)
    tables = analysed([variants["original"], mirror])
    for mirrored, kinds in ((False, {None}), (True, {"near"})):
        context = run(tmp_path / str(mirrored), tables, DedupeParams(near=NearParams(mirrored=mirrored)))
        assert {row["kind"] for row in context.outputs["dedupe"].to_pylist()} == kinds


def test_a_copy_that_does_not_decode_at_first_joins_by_what_is_left_of_it(
    variants: dict[str, Path], analysed: Analysed, tmp_path: Path
) -> None:
    with VideoReader(variants["original"]) as reader:
        frames = np.stack([frame.picture(order="rgb24") for frame in reader])
    whole = tmp_path / "whole.mp4"
    write_video(frames, 15.0, whole)
    data = bytearray(whole.read_bytes())
    rng = np.random.default_rng(5)
    with av.open(str(whole)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size][:GOP_FRAMES]
    for number, (start, size) in enumerate(packets):  # the first group of pictures
        for place in range(start + 40, start + size, 25):
            data[place] ^= int(rng.integers(1, 256))
        if number in (1, 4, 8):
            data[start] ^= 0x7F  # the length that the packet begins with: this one the decoder refuses
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(data)
    with VideoReader(broken) as reader:
        damage = Damage(reader)
        damaged = [damage(frame) for frame in reader]
    cut = len(damaged) - damaged[::-1].index(True)  # where the pictures are good again a shot seems to begin
    assert cut == GOP_FRAMES - (len(frames) - len(damaged))
    tables = analysed([whole, broken], {broken: [(0, cut), (cut, len(damaged))]})
    context = run(tmp_path, tables)
    rows = context.outputs["dedupe"].to_pylist()
    assert {row["kind"] for row in rows} == {"near"}
    assert len({row["group_id"] for row in rows}) == 1
    [kept] = {row["kept_id"] for row in rows}
    [clip] = [row for row in tables["clips"].to_pylist() if row["clip_id"] == kept]
    assert clip["video_uri"] == str(whole)


def test_a_killed_run_goes_on_with_the_pairs_that_are_left(
    variants: dict[str, Path], analysed: Analysed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.curation.near_verdicts.PAIRS_PER_BATCH", 1)
    tables = analysed([variants[name] for name in ("original", "small", "darker", "half_rate", "other_take")])
    compare = near_jobs.CompareActor.__call__
    done: list[near_jobs.Pair] = []

    def die_at_third(actor: near_jobs.CompareActor, batch: tuple[near_jobs.Pair, ...]) -> int:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.extend(batch)
        return compare(actor, batch)

    monkeypatch.setattr(near_jobs.CompareActor, "__call__", die_at_third)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, tables)
    first = list(done)
    done.clear()
    done.extend([near_jobs.Pair("", "", False)] * 3)  # past the third
    resumed = run(tmp_path, tables).outputs["dedupe"]
    assert not {pair.key for pair in first} & {pair.key for pair in done[3:]}
    assert run(tmp_path / "undisturbed", tables).outputs["dedupe"].equals(resumed)


def test_hashes_without_pictures_decide_by_hash_and_say_that_nothing_was_verified(
    variants: dict[str, Path], analysed: Analysed, tmp_path: Path
) -> None:
    tables = analysed([variants[name] for name in ("original", "small", "other_take")])
    ids = dict(zip(("original", "small", "other_take"), tables["clips"].column("clip_id").to_pylist(), strict=True))
    base = 0x0F0F_1234_5678_9ABC
    hashes = {"original": base, "small": base ^ 0b11, "other_take": base ^ 0xFFFF_0000_FFFF_0000}
    given = HASHES.table([{"clip_id": ids[name], "position": 0.5, "hash": value} for name, value in hashes.items()])
    inputs = {name: tables[name] for name in ("clips", "selection", "videos")} | {"hashes": given}
    context = LocalContext(tmp_path, dedupe, inputs)
    context.run(DedupeParams(near=NearParams(verify="hashes"), prefer=("pixels",)))
    rows = {row["clip_id"]: row for row in context.outputs["dedupe"].to_pylist()}
    assert {name: (rows[i]["kept"], rows[i]["kind"]) for name, i in ids.items()} == {
        "original": (True, "near"),
        "small": (False, "near"),
        "other_take": (True, None),
    }
    assert [row["reason"] for row in context.ledger_rows if row["status"] == "rejected"] == ["near_unverified"]
    [event] = [fields for kind, fields in context.events if kind == "near_copies"]
    assert event["verified"] is False


def test_near_copies_without_pictures_or_hashes_are_refused_by_name(
    variants: dict[str, Path], analysed: Analysed, tmp_path: Path
) -> None:
    tables = analysed([variants["original"]])
    context = LocalContext(tmp_path, dedupe, {name: tables[name] for name in ("clips", "selection", "videos")})
    with pytest.raises(StageError, match=r"near\.enabled=false"):
        context.run(DedupeParams())


def test_a_clip_with_nothing_to_compare_by_is_kept_and_named(analysed: Analysed, tmp_path: Path) -> None:
    black = tmp_path / "black.mp4"
    write_video(np.full((30, 64, 96, 3), 8, np.uint8), 15.0, black)
    context = run(tmp_path, analysed([black]))
    [row] = context.ledger_rows
    assert (row["status"], row["error_type"]) == ("accepted", "NotCompared")


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


def test_groups_are_the_connected_parts() -> None:
    rows, label = components(np.asarray([[4, 7], [1, 2], [7, 9], [2, 1]]))
    assert (rows.tolist(), label.tolist()) == ([1, 2, 4, 7, 9], [0, 0, 1, 1, 1])


def test_the_kept_one_is_the_best_ranked_of_those_that_last_as_long() -> None:
    ids = pa.chunked_array([["a", "b", "c", "d"]])
    groups = Groups(ids, rank=np.asarray([0, 3, 1, 2]), seconds=np.asarray([2.0, 10.0, 9.0, 1.0]))
    groups.join("near", np.asarray([[0, 1], [1, 2]]))
    columns = {name: column.to_pylist() for name, column in groups.columns().items()}
    assert columns["kept_id"] == ["c", "c", "c", "d"]
    assert columns["kept"] == [False, False, True, True]
    assert columns["kind"] == ["near", "near", "near", None]


def test_a_common_part_joins_no_two_wholes() -> None:
    # 0 and 1 last ten seconds and are copies, 2 is another film; 3, a second long, is a part of all of them, 4 of 3
    pairs = np.asarray([[0, 1], [0, 3], [1, 3], [2, 3], [3, 4]])
    whole = np.asarray([True, False, False, False, False])
    kept = trees(pairs, whole, np.asarray([10.0, 10.0, 10.0, 1.0, 0.6]), np.asarray([0.1, 0.3, 0.3, 0.2, 0.1]))
    assert sorted(map(tuple, kept.tolist())) == [(0, 1), (2, 3), (3, 4)]


def test_what_loses_in_a_later_kind_hands_its_followers_on() -> None:
    ids = pa.chunked_array([["a", "b", "c"]])
    groups = Groups(ids, rank=np.asarray([2, 1, 0]), seconds=np.ones(3))
    groups.join("exact", np.asarray([[0, 1]]))
    groups.follow("semantic", np.asarray([1]), np.asarray([2]))
    assert groups.columns()["kept_id"].to_pylist() == ["c", "c", "c"]
