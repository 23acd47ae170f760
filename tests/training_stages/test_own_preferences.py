"""A user's own pairs: what may stand in the table, and which losers train with one winner."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from models.training.cache import TensorShards
from models.training.feed import Pair, winner_groups
from stages.training.encode import EncodeParams, encode
from stages.training.own import OwnSamplesParams, own_samples
from stages.training.own_preferences import OwnPreferencesParams, own_preferences
from tests.context import LocalContext
from tests.training_stages.footing import BACKBONE, BUCKET, COLOURS, write_clip

torch.set_num_threads(1)


def test_losers_of_one_winner_train_together_and_held_out_rows_do_not(tmp_path: Path) -> None:
    for n in range(3):
        write_clip(tmp_path / f"{n}.mp4", COLOURS[n])
    rows = [
        {"sample_id": "a", "video": "0.mp4", "prompt": "a square moves", "loser": "1.mp4", "split": "train"},
        {"sample_id": "b", "video": "0.mp4", "prompt": "a square moves", "loser": "2.mp4", "split": "train"},
        {"sample_id": "c", "video": "0.mp4", "prompt": "another text", "loser": "2.mp4", "split": "train"},
        {"sample_id": "d", "video": "2.mp4", "prompt": "a square moves", "loser": "1.mp4", "split": "held_out"},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    table = str(tmp_path / "rows.parquet")
    samples = LocalContext(tmp_path / "samples", own_samples, {})
    samples.run(OwnSamplesParams(table=table))
    encoded = LocalContext(tmp_path / "encode", encode, dict(samples.outputs))
    encoded.run(EncodeParams(backbone=BACKBONE, buckets=(BUCKET,), views=1))
    context = LocalContext(tmp_path / "own", own_preferences, dict(encoded.outputs))
    context.run(OwnPreferencesParams(table=table, backbone=BACKBONE))

    made = context.outputs["preferences"].to_pylist()
    assert {row["pair_id"]: row["sample_id"] for row in made} == {"a": "a", "b": "a", "c": "c"}
    pairs = [Pair(row["pair_id"], row["sample_id"], row["shard"], "real") for row in made]
    assert [[p.pair_id for p in group] for group in winner_groups(pairs, 3)] == [["a", "b"], ["c"]]
    shards = TensorShards(context.outputs["shards"])
    winners, losers = ([shards.tensor(made[0]["shard"], f"{i}/{side}") for i in "ab"] for side in ("winner", "loser"))
    assert torch.equal(*winners)
    assert not torch.equal(*losers)
    held_out = [row for row in context.ledger_rows if row["record_id"] == "d"]
    assert [(row["status"], row["reason"]) for row in held_out] == [("rejected", "held out")]
