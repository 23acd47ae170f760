"""The short form of the identity table: its arithmetic, and two subjects' photographs through the whole chain."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.identity_roc import measure, roc
from models.subjects.load import Models


def test_the_area_is_the_chance_that_a_same_pair_scores_above_a_different_one() -> None:
    found = roc(np.array([0.9, 0.5, 0.2]), np.array([0.1, 0.5]))
    # Of six comparisons: 0.9 wins 2, 0.5 wins 1 and ties 1 (half), 0.2 wins 1: 4.5 of 6.
    assert found["auc"] == pytest.approx(4.5 / 6)
    assert (found["same_pairs"], found["different_pairs"]) == (3, 2)


def test_two_subjects_are_told_apart_and_the_models_are_named(footage: Path) -> None:
    found = measure(footage / "dreambooth", None, Models(), limit=2)  # a backpack and a bowl of berries
    assert found["subjects"] == 2
    assert found["models"]["encoder"] == "closed-form/1"
    assert found["auc"] > 0.8
