"""Colourfulness against the published formula and pictures whose colours are known."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest

from models.scorers.catalog import built_in, scorer_class
from models.scorers.colourfulness import colourfulness
from tests.footage.media import still, texture
from tests.footage.test_scorers import score


def test_it_is_the_published_metric() -> None:
    bgr = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    b, g, r = (bgr[..., n].astype(float) for n in range(3))
    rg, yb = r - g, (r + g) / 2 - b
    expected = np.sqrt(rg.std() ** 2 + yb.std() ** 2) + 0.3 * np.sqrt(rg.mean() ** 2 + yb.mean() ** 2)
    assert colourfulness(bgr) == pytest.approx(expected)


def test_grey_has_none_and_more_colour_scores_higher() -> None:
    gray = cv2.cvtColor(texture(60, 80, 1), cv2.COLOR_RGB2GRAY)
    gray3 = np.repeat(gray[..., None], 3, axis=2)
    colour = texture(60, 80, 1)[..., ::-1]
    mixes = [colourfulness(cv2.addWeighted(colour, share, gray3, 1 - share, 0)) for share in (0, 0.25, 0.5, 1)]
    assert mixes[0] == 0.0
    assert all(a < b for a, b in itertools.pairwise(mixes))


def test_a_clip_has_the_mean_of_its_frames() -> None:
    frames = still(3, 20)
    assert score("colourfulness", frames)["colourfulness"] == pytest.approx(
        colourfulness(frames[0][..., ::-1]), rel=0.1
    )


def test_its_file_alone_made_it_a_built_in() -> None:
    assert "colourfulness" in built_in()
    assert scorer_class("colourfulness").__module__ == "models.scorers.colourfulness"
