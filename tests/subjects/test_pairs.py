"""Pair rows on made-up identities: several subjects, references and their order, candidates, prompts and flags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_schemas.tables import DEDUPE, SUBJECTS, SUBSET
from models.subjects.prompts import Binding, parse
from stages.subjects.pairs import PairParams, pairs
from tests.context import LocalContext

CAPTION = "A woman and a brown dog walk past a red car"
RNG = np.random.default_rng(3)
# Of one identity two views have a cosine of about 0.9, of two identities about 0.
IDENTITY = {name: RNG.normal(size=64) for name in ("woman", "dog", "car", "other")}


def view(name: str, seed: int) -> list[float]:
    vector = IDENTITY[name] + 0.33 * np.random.default_rng(seed).normal(size=64)
    return (vector / np.linalg.norm(vector)).tolist()


def clip(
    clip_id: str, caption: str | None = CAPTION, video: str | None = None, start: float = 0.0
) -> dict[str, object]:
    return {
        "clip_id": clip_id,
        "video_id": video or f"v-{clip_id}",
        "media_uri": f"{clip_id}.mp4",
        "media_sha256": clip_id,
        "media_bytes": 1,
        "caption": caption,
        "start_s": start,
        "end_s": start + 2.0,
        "frames": 16,
        "fps": 8.0,
        "width": 64,
        "height": 64,
    }


def crop(
    clip_id: str, phrase: str | None, number: int, time_s: float, name: str, video: str | None = None
) -> dict[str, object]:
    key = f"{clip_id}/{number}/{time_s}"
    return {
        "subject_id": key,
        "origin": "clip",
        "clip_id": clip_id,
        "video_id": video or f"v-{clip_id}",
        "phrase": phrase,
        "time_s": time_s,
        "box": [0.1, 0.1, 0.5, 0.5],
        "area": 0.16,
        "mask_area": 0.1,
        "crop": b"",
        "mask": b"",
        "encoder": "made-up",
        "embedding": view(name, sum(key.encode())),
        "subject": number,
        "appearance": f"{phrase} seen in {clip_id}",
    }


def photo(name: str, seed: int) -> dict[str, object]:
    return {
        **crop("x", f"a {name}", 0, 0.0, name),
        "subject_id": f"photo/{name}/{seed}",
        "origin": "photo",
        "clip_id": None,
        "video_id": f"p-{name}-{seed}",
        "time_s": None,
        "embedding": view(name, seed),
        "appearance": f"a {name} on white",
    }


NAMES = (("woman", "a woman"), ("dog", "a brown dog"), ("car", "a red car"))


def three_subjects(clip_id: str) -> list[dict[str, object]]:
    return [crop(clip_id, phrase, n, t, name) for n, (name, phrase) in enumerate(NAMES) for t in (0.0, 1.0, 1.9)]


def run(
    tmp_path: Path, clips: list[dict[str, object]], crops: list[dict[str, object]], dedupe: Any = None, **params: object
) -> LocalContext:
    inputs: dict[str, Any] = {"subset": SUBSET.table(clips), "subjects": SUBJECTS.table(crops)}
    if dedupe is not None:
        inputs["dedupe"] = DEDUPE.table(dedupe)
    ctx = LocalContext(tmp_path, pairs, inputs)
    ctx.run(
        PairParams.model_validate({"min_in_pair": 0, "min_cross_pair": 0, "held_out": 0.0, "upper": 0.999, **params})
    )
    return ctx


def kind(ctx: LocalContext, name: str, clip_id: str = "a") -> list[dict[str, Any]]:
    return [r for r in ctx.outputs["pairs"].to_pylist() if r["kind"] == name and r["clip_id"] == clip_id]


def test_a_row_of_several_subjects_binds_each_reference_to_its_phrase_in_the_captions_order(tmp_path: Path) -> None:
    ctx = run(tmp_path, [clip("a"), clip("b")], [*three_subjects("a"), *three_subjects("b")])
    for row in (*kind(ctx, "in_pair"), *kind(ctx, "cross_pair")):
        assert [r["phrase"] for r in row["references"]] == ["a woman", "a brown dog", "a red car"]
        layout = parse(row["prompt"])
        bound = [p for p in layout.video if isinstance(p, Binding)]
        assert [(p.index, p.phrase.lower()) for p in bound] == [(1, "a woman"), (2, "a brown dog"), (3, "a red car")]
        assert list(layout.appearances) == [r["appearance"] for r in row["references"]]
        assert len(row["similarities"]) == 3
        assert row["similarity"] == min(row["similarities"])
    assert kind(ctx, "in_pair")
    assert kind(ctx, "cross_pair")


def test_references_number_from_one_by_the_caption_even_where_the_second_subject_alone_is_found(tmp_path: Path) -> None:
    ctx = run(tmp_path, [clip("a"), clip("b")], [*three_subjects("a"), crop("b", "a brown dog", 1, 1.0, "dog")])
    row = kind(ctx, "cross_pair")[0]
    assert [r["phrase"] for r in row["references"]] == ["a brown dog"]
    assert row["prompt"].endswith("Video: A woman and Ref 1[a brown dog] walk past a red car")


def test_four_references_are_the_most(tmp_path: Path) -> None:
    crops = [crop("a", f"a thing{n}", n, 1.0, "dog") for n in range(6)]
    ctx = run(tmp_path, [clip("a")], crops)
    assert [len(r["references"]) for r in kind(ctx, "in_pair")] == [4]


def test_in_pair_takes_other_crops_for_other_samples_and_never_the_first_frame(tmp_path: Path) -> None:
    ctx = run(tmp_path, [clip("a")], three_subjects("a"), in_pair_per_clip=3)
    rows = kind(ctx, "in_pair")
    assert len(rows) == 2  # two later instants
    times = [tuple(r["time_s"] for r in row["references"]) for row in rows]
    assert all(t > 0 for row in times for t in row)
    assert all(a != b for a, b in zip(*times, strict=True))
    assert all(row["same_shot"] and row["same_source"] for row in rows)


def test_a_crop_that_shows_something_else_is_no_in_pair_reference(tmp_path: Path) -> None:
    crops = [crop("a", "a dog", 0, 0.0, "dog"), crop("a", "a dog", 0, 1.0, "dog"), crop("a", "a dog", 0, 1.9, "other")]
    ctx = run(tmp_path, [clip("a")], crops, in_pair_per_clip=3)
    assert [r["references"][0]["time_s"] for r in kind(ctx, "in_pair")] == [1.0]


def test_flags_tell_the_source_and_the_shot(tmp_path: Path) -> None:
    crops = [crop("a", "a dog", 0, 1.0, "dog", "v"), crop("b", "a dog", 0, 1.0, "dog", "v"), photo("dog", 5)]
    ctx = run(tmp_path, [clip("a", "a dog runs", "v"), clip("b", "a dog runs", "v", start=5.0)], crops)
    by_origin = {r["references"][0]["origin"]: r for r in kind(ctx, "cross_pair")}
    assert by_origin["clip"]["same_source"]
    assert not by_origin["photo"]["same_source"]
    assert not any(r["same_shot"] for r in by_origin.values())


def test_every_candidate_is_told_with_its_reason_in_table_and_ledger(tmp_path: Path) -> None:
    crops = [crop(c, "a dog", 0, 1.0, "dog") for c in "abc"]
    group = [{"clip_id": c, "kept": True, "kind": "near", "group_id": "g", "kept_id": c} for c in "ab"]
    ctx = run(tmp_path, [clip(c, "a dog runs") for c in "abc"], [*crops, photo("other", 1)], group)
    rows = {(r["target_id"][0], r["candidate_id"][0]): r for r in ctx.outputs["candidates"].to_pylist()}
    assert rows["a", "b"]["reason"] == rows["b", "a"]["reason"] == "near_duplicate"
    assert rows["a", "c"]["reason"] is None
    assert rows["a", "p"]["reason"] == "below_lower_bound"
    assert {k[0] for k in rows} == set("abc")
    ledger = {r["record_id"]: r for r in ctx.ledger_rows}
    for row in rows.values():
        line = ledger[f"{row['target_id']}>{row['candidate_id']}"]
        assert (line["status"], line["reason"]) == ("rejected" if row["reason"] else "accepted", row["reason"])
    used = {x["subject_id"] for r in ctx.outputs["pairs"].to_pylist() for x in r["references"]}
    assert {i for i, r in ledger.items() if r["status"] == "accepted" and ">" not in i and "/" in i} == used


def test_only_the_top_is_told_but_every_reference_is(tmp_path: Path) -> None:
    crops = [crop(c, "a dog", 0, 1.0, "dog") for c in "abcdef"]
    ctx = run(tmp_path, [clip(c, "a dog runs") for c in "abcdef"], crops, candidates_told=1, cross_pair_per_clip=2)
    told = ctx.outputs["candidates"].to_pylist()
    assert sum(r["reason"] is None for r in told) == 2 * 6
    assert all(r["rank"] < 1 for r in told if r["reason"])


def test_the_reference_token_stands_before_each_bound_phrase(tmp_path: Path) -> None:
    ctx = run(tmp_path, [clip("a")], three_subjects("a"), reference_token="<cls>")
    assert "Ref 2[<cls> a brown dog]" in kind(ctx, "in_pair")[0]["prompt"]


def test_what_nothing_names_beside_a_named_one_is_secondary(tmp_path: Path) -> None:
    crops = [crop("a", "a dog", 0, 1.0, "dog"), crop("a", None, 1, 1.0, "car")]
    ctx = run(tmp_path, [clip("a", "a dog runs")], crops)
    assert {r["record_id"]: r["reason"] for r in ctx.ledger_rows}["a/1/1.0"] == "secondary_subject"


@pytest.mark.parametrize("subjects", [[], [photo("dog", 1)]])
def test_clips_without_a_subject_say_so(tmp_path: Path, subjects: list[dict[str, object]]) -> None:
    ctx = run(tmp_path, [clip("a")], subjects)
    assert ctx.outputs["pairs"].num_rows == ctx.outputs["candidates"].num_rows == 0
    assert {r["record_id"]: r["reason"] for r in ctx.ledger_rows}["a"] == "no_subject"
