"""A training says what memory it will take before it starts."""

from __future__ import annotations

from pathlib import Path

from stages.training.train import SftParams, sft
from tests.context import LocalContext
from tests.training_stages.conftest import Encoded
from tests.training_stages.footing import BACKBONE, LORA


def test_the_budget_of_the_largest_bucket_is_told_before_the_first_step(tmp_path: Path, encoded: Encoded) -> None:
    told = []
    for name, wanted in (("asked", True), ("cpu", None)):
        inputs: dict[str, object] = {"cache": encoded.cache, "latents": encoded.latents}
        context = LocalContext(tmp_path / name, sft, inputs, name="sft_in")
        context.run(
            SftParams(
                backbone=BACKBONE, lora=LORA, kind="in_pair", engine="inline", steps=1, batch=2, foretell_memory=wanted
            )
        )
        told.append([fields for kind, fields in context.events if kind == "memory_budget"])
        kinds = [kind for kind, _ in context.events]
    assert told[1] == []  # no GPU, nobody asked
    (budget,) = told[0]
    # Latents of 9x32x32 through a codec of 4x8x8: 3x4x4, two of them and one reference each.
    assert budget["plan"].startswith("memory of a step with 2 x 3x4x4 latents, 1 references: ")
    # Rank 2 on q, k, v and out of two blocks of width 64: 8 modules x 2 x 2 x 64 x 4 bytes.
    assert budget["adapters"] == budget["gradients"] == 8 * 2 * 2 * 64 * 4
    assert not budget["warn"]
    assert "trained" in kinds
