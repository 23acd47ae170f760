"""What must not change a metric: hypothesis looks for a small video on which it does; and what each docstring must tell."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.metrics import endpoint, frechet
from models.metrics.catalogue import METRICS
from models.metrics.tools import Reference
from models.subjects.prompts import plain
from models.subjects.protocols import U8
from tests.evaluation.corruptions import tools

cv2.setNumThreads(1)
PROMPT = "Ref 1: a toy. Video: Ref 1[a toy] moves"
# Consistency counts from the first frame and interpolation leaves an even last one out; where the subject is found by its motion,
# its outline may differ by some pixels when time turns round (the matrix of corruptions says within what).
BACKWARDS = sorted(
    set(METRICS)
    - {"subject_consistency", "background_consistency", "motion_smoothness", "motion_smoothness_dis"}
    - {"subject_similarity", "dino_i_masked", "copy_paste"}
)
RANGES = {
    "clip_t": (-1.0, 1.0),
    "clip_i": (-1.0, 1.0),
    "dino_i": (-1.0, 1.0),
    "dino_i_masked": (-1.0, 1.0),
    "subject_similarity": (-1.0, 1.0),
}
"""All others lie in 0..1, but for the head's own scale of the aesthetic."""


@st.composite
def videos(draw: st.DrawFn) -> U8:
    """A small scene: a blurred ground and a disc on a way through it, 1 to 6 frames."""
    frames, side = draw(st.integers(1, 6)), draw(st.integers(32, 48))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    ground = cv2.GaussianBlur(rng.integers(0, 256, (side, side + 8, 3)).astype(np.uint8), (0, 0), 2)
    colour, radius = [int(c) for c in rng.integers(0, 256, 3)], int(rng.integers(6, 12))
    start, way = rng.integers(10, side - 10, 2), rng.integers(-3, 4, 2)
    shown = []
    for n in range(frames):
        frame = ground.copy()
        cv2.circle(frame, [int(c) for c in start + n * way], radius, colour, -1)
        shown.append(frame)
    return np.stack(shown)


def value(key: str, video: U8, references: list[Reference], prompt: str = PROMPT) -> float | None:
    return METRICS[key].run(video, prompt, references, tools())


def same(one: float | None, other: float | None, within: float = 1e-5) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= within


def refs(video: U8) -> list[Reference]:
    return [Reference(video[0]), Reference(np.ascontiguousarray(video[-1, :, ::-1]))]


INVARIANCES: dict[str, tuple[list[str], Callable[[str, U8], tuple[float | None, float | None]]]] = {
    "time turned round": (
        BACKWARDS,
        lambda key, v: (value(key, v, refs(v)), value(key, np.ascontiguousarray(v[::-1]), refs(v))),
    ),
    "references in another order": (
        list(METRICS),
        lambda key, v: (value(key, v, refs(v)), value(key, v, refs(v)[::-1])),
    ),
    "every reference twice": (
        list(METRICS),
        lambda key, v: (value(key, v, refs(v)), value(key, v, [*refs(v), *refs(v)])),
    ),
    "the prompt without the layout's marks": (
        list(METRICS),
        lambda key, v: (value(key, v, refs(v)), value(key, v, refs(v), plain(PROMPT))),
    ),
}


@pytest.mark.parametrize("change", list(INVARIANCES))
@settings(deadline=None, max_examples=8)
@given(video=videos())
def test_nothing_changes_that_must_not(change: str, video: U8) -> None:
    keys, both = INVARIANCES[change]
    wrong = {key: found for key in keys if not same(*(found := both(key, video)))}
    assert not wrong, wrong


@settings(deadline=None, max_examples=15)
@given(video=videos())
def test_every_value_lies_in_its_range(video: U8) -> None:
    for key in METRICS:
        found = value(key, video, refs(video))
        if found is not None and key != "aesthetic":
            low, high = RANGES.get(key, (0.0, 1.0))
            assert low - 1e-6 <= found <= high + 1e-6, (key, found)


def test_the_words_count_and_the_layouts_marks_do_not() -> None:
    class Words:
        """Says red for a text with red in it, else blue."""

        def images(self, pictures: list[bytes]) -> np.ndarray:
            return np.array([[1.0, 0.0]] * len(pictures), np.float32)

        def texts(self, captions: list[str]) -> np.ndarray:
            assert not any("Ref" in caption or "[" in caption for caption in captions)
            return np.array([[1.0, 0.0] if "red" in caption else [0.0, 1.0] for caption in captions], np.float32)

    from models.metrics.tools import Tools

    video = np.zeros((2, 8, 8, 3), np.uint8)
    run, told = METRICS["clip_t"].run, Tools(clip=Words())
    assert run(video, "Ref 1: a red toy. Video: Ref 1[a red toy] moves", [], told) == 1.0
    assert run(video, "a red toy moves", [], told) == 1.0
    assert run(video, "Ref 1: a blue toy. Video: Ref 1[a blue toy] moves", [], told) == 0.0


@pytest.mark.parametrize("key", [*METRICS, "fvd", "endpoint"])
def test_a_metrics_file_tells_source_range_and_known_failure(key: str) -> None:
    module = {"fvd": frechet, "endpoint": endpoint}.get(key) or sys.modules[METRICS[key].run.__module__]
    said = inspect.cleandoc(module.__doc__ or "")
    for what in (r"Source:|Ours|arXiv", r"Range|Value 0 or 1", r"Known\s+failure"):
        assert re.search(what, said), f"{module.__name__} does not tell {what}"
