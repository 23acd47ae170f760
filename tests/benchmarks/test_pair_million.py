"""The short form of pairing a million clips: the stage runs whole on made-up identities, and the index is asked."""

from __future__ import annotations

from pathlib import Path

from benchmarks import pair_million


def test_a_thousand_clips_pair_and_every_clip_is_told(tmp_path: Path) -> None:
    pair_million.write_tables(tmp_path, 1000)
    found = pair_million.stage(tmp_path)
    # A fifth as many identities as clips, so most clips have another of theirs within the bounds.
    assert found["pairs"] > 1000
    assert found["candidates_told"] >= 8 * 1000
    assert sum(found["ledger"].values()) >= 2 * 1000 + 8 * 1000  # crops, clips and their candidates
    assert found["split"]["identity_links_cut"] == 0


def test_recall_is_judged_against_all_cosines() -> None:
    assert pair_million.recall(500, 20)["recall_at_10"] == 1.0  # so few are compared exactly
