"""The short form of scoring the embedded finder: two clips of known truth, and four subjects to recognise."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from benchmarks import proposals
from models.subjects.frames import png
from models.subjects.load import Models


def test_two_clips_are_found_and_four_subjects_recognised() -> None:
    cv2.setNumThreads(1)
    found = proposals.measure(2, 4, 800, Models())
    assert found["proposals"]["frames"] == 6
    assert found["proposals"]["box_recall_at_0.5"] >= 0.8
    assert found["proposals"]["mask_mean_iou"] >= 0.7
    assert found["retrieval"]["identities"] == 4
    assert found["retrieval"]["top_1_with_true_masks"] >= 0.75


def test_what_was_not_found_counts_as_no_overlap_and_what_is_not_to_be_seen_does_not_count() -> None:
    mask = np.zeros((proposals.FRAMES, proposals.SIDE, proposals.SIDE), np.uint8)
    mask[:17, 48:96, 96:144] = 255  # gone in the second half
    cut = png(np.full((48, 24), 255, np.uint8))
    row = {"time_s": 0.05 * (proposals.FRAMES - 1) / 8.0, "box": [0.5, 0.25, 0.625, 0.5], "mask": cut}
    scored = proposals.score([row], {"mask": mask}, 8.0)
    assert [one["position"] for one in scored] == [0.05, 0.5]
    assert scored[0]["box"] == scored[0]["mask"] == pytest.approx(0.5)  # the left half of the subject
    assert scored[1] == {"position": 0.5, "box": 0.0, "mask": 0.0}
