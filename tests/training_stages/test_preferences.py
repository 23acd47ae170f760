"""Winner and loser differ in one thing alone: shifted references, or reality."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pytest
import torch

from models.training.cache import CacheReader, TensorShards
from models.training.views import from_unit
from models.video.encode import read_video
from stages.contract import NotEnoughRows, StageError
from stages.training.generate import Studio, System, entries_of
from stages.training.preferences import ConsisParams, RealFakeParams, prefer_consis, prefer_real_fake
from tests.context import LocalContext
from tests.training_stages.conftest import Encoded, Road
from tests.training_stages.footing import BACKBONE, SAMPLING

torch.set_num_threads(1)
CONSIS = ConsisParams(backbone=BACKBONE, sampling=SAMPLING, pairs=2, rope_offset=(0, 2, 2))


def inputs(encoded: Encoded, adapter: Path) -> dict[str, Any]:
    return {"cache": encoded.cache, "latents": encoded.latents, "adapter": adapter}


def studio(encoded: Encoded, adapter: Path) -> Studio:
    systems = [System("sft", (("sft", str(adapter)),))]
    return Studio(BACKBONE, SAMPLING, systems, str(encoded.latents), entries_of(encoded.cache.to_pylist()))


def test_a_consis_loser_is_the_winner_with_shifted_references_and_nothing_else(encoded: Encoded, road: Road) -> None:
    table, folder = road.preferences["consis"]
    row = table.to_pylist()[0]
    assert row["rope_offset"] == [0, 2, 2]
    shards, room = TensorShards(folder), studio(encoded, road.adapters["cross_pair"])
    winner, loser = (shards.tensor(row["shard"], f"{row['pair_id']}/{side}") for side in ("winner", "loser"))
    assert torch.equal(winner, room.sample("sft", row["sample_id"], row["seed"]))
    assert torch.equal(loser, room.sample("sft", row["sample_id"], row["seed"], (0.0, 2.0, 2.0)))
    assert not torch.equal(winner, loser)
    # Same noise: the two are far closer to each other than to a sample from other noise.
    other = room.sample("sft", row["sample_id"], row["seed"] + 1)
    assert float((winner - loser).norm()) < 0.5 * float((winner - other).norm())


def test_both_real_and_fake_have_gone_through_the_same_file(encoded: Encoded, road: Road) -> None:
    table, folder = road.preferences["real_fake"]
    row = table.to_pylist()[0]
    room, shards = studio(encoded, road.adapters["in_pair"]), TensorShards(folder)
    for side in ("winner", "loser"):
        raw = (folder / "videos" / Path(urlsplit(row[f"{side}_uri"]).path).name).read_bytes()
        assert torch.equal(shards.tensor(row["shard"], f"{row['pair_id']}/{side}"), room.through_file(raw, 9))
    reader = CacheReader(encoded.latents, entries_of(encoded.cache.to_pylist()))
    real = from_unit(room.backbone.decode_video(reader.latents(row["sample_id"])[None])[0])
    shown, fps = read_video(folder / "videos" / Path(urlsplit(row["winner_uri"]).path).name)
    assert shown.shape == real.shape == (9, 32, 32, 3)
    assert abs(fps - SAMPLING.fps) < 0.5
    assert float(abs(shown.astype(float) - real).mean()) < 25  # lossy, but the same clip


def test_names_tell_a_reviewer_nothing_and_every_uri_has_its_file(road: Road) -> None:
    for kind, (table, folder) in road.preferences.items():
        uri = road.contexts[kind].final_uri("shards")
        for row in table.to_pylist():
            for column in ("winner_uri", "loser_uri", "reference_uri"):
                assert row[column].startswith(uri)
                assert (folder / row[column][len(uri) + 1 :]).is_file()
                assert not any(word in row[column].rsplit("/", 1)[1] for word in ("winner", "loser", "real", "fake"))


def test_pairs_come_from_training_rows_of_their_kind_each_sample_first_once(encoded: Encoded, road: Road) -> None:
    for kind, rows in (("consis", "cross_pair"), ("real_fake", "in_pair")):
        ids = road.preferences[kind][0]["sample_id"].to_pylist()
        assert len(set(ids)) == 3
        assert all(i.startswith(rows) and not i.endswith("5") for i in ids)  # clip 5 is held out


def test_a_second_attempt_makes_only_what_is_missing(tmp_path: Path, encoded: Encoded, road: Road) -> None:
    first = LocalContext(tmp_path, prefer_consis, inputs(encoded, road.adapters["cross_pair"]))
    first.run(CONSIS)
    more = LocalContext(tmp_path, prefer_consis, inputs(encoded, road.adapters["cross_pair"]))
    more.run(CONSIS.model_copy(update={"pairs": 4}))
    (told,) = [fields for name, fields in more.events if name == "preferences"]
    assert told == {"asked": 4, "chosen": 4, "failed": 0, "reused": 2}
    assert more.outputs["preferences"].num_rows == 4


def test_a_failed_pair_is_a_ledger_row_and_the_others_stand(
    tmp_path: Path, encoded: Encoded, road: Road, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, calls = Studio.sample, []

    def sometimes(self: Studio, *args: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise ValueError("sampling gave latents that are not finite")
        return whole(self, *args)

    monkeypatch.setattr(Studio, "sample", sometimes)
    context = LocalContext(tmp_path, prefer_real_fake, inputs(encoded, road.adapters["in_pair"]))
    context.run(RealFakeParams(backbone=BACKBONE, sampling=SAMPLING, pairs=2))
    assert sorted(row["status"] for row in context.ledger_rows) == ["accepted", "failed"]
    assert context.outputs["preferences"].num_rows == 1


def test_real_and_fake_are_measured_for_what_tells_them_apart_and_the_gate_can_close(
    tmp_path: Path, encoded: Encoded, road: Road
) -> None:
    folder = road.contexts["real_fake"].outputs["separability"]
    found = json.loads((folder / "separability.json").read_text())
    assert found["pairs"] == 3
    assert {s["statistic"] for s in found["statistics"]} == {"sharpness", "noise", "colour", "contrast", "motion"}
    assert "Share of 3 pairs" in (folder / "index.html").read_text()
    # The fixture's model is random, so its samples are noise: everything tells them from the clips. With three pairs the
    # interval is wide, so a low bar is needed for it to be sure.
    assert found["statistics"][0]["accuracy"] == 1.0
    context = LocalContext(tmp_path, prefer_real_fake, inputs(encoded, road.adapters["in_pair"]))
    many = {"pairs": 8, "per_sample": 2, "max_separability": 0.6}
    with pytest.raises(StageError, match=r"alone tells real from fake in .* more than max_separability 60%"):
        context.run(RealFakeParams(backbone=BACKBONE, sampling=SAMPLING, **many))


def test_an_offset_of_nothing_and_a_cache_of_the_other_kind_are_refused(
    tmp_path: Path, encoded: Encoded, road: Road
) -> None:
    context = LocalContext(tmp_path, prefer_consis, inputs(encoded, road.adapters["cross_pair"]))
    with pytest.raises(StageError, match="would be the same video"):
        context.run(CONSIS.model_copy(update={"rope_offset": (0.0, 0.0, 0.0)}))
    in_pair = pa.Table.from_pylist(
        [r for r in encoded.cache.to_pylist() if r["kind"] == "in_pair"], schema=encoded.cache.schema
    )
    context = LocalContext(tmp_path, prefer_consis, {**inputs(encoded, road.adapters["cross_pair"]), "cache": in_pair})
    with pytest.raises(NotEnoughRows, match="cross_pair training rows"):
        context.run(CONSIS)
