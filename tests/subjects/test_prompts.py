"""Prompts in the training layout: built, parsed, and phrases taken from captions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.subjects.prompts import (
    Binding,
    Layout,
    appearance,
    build,
    clean,
    colours,
    compose,
    noun_phrase,
    parse,
    plain,
)

text = st.text(max_size=40).map(clean).filter(bool)


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """Any layout whose text parts do not touch: bindings in any order, each reference bound at least once."""
    count = draw(st.integers(1, 4))
    order = draw(st.permutations(range(1, count + 1))) + draw(st.lists(st.integers(1, count), max_size=2))
    video: list[str | Binding] = []
    for index in order:
        if draw(st.booleans()):
            video.append(draw(text))
        video.append(Binding(index, draw(text)))
    if draw(st.booleans()):
        video.append(draw(text))
    return Layout(tuple(draw(text) for _ in range(count)), tuple(video))


@given(layouts())
def test_what_is_built_is_parsed_back(layout: Layout) -> None:
    assert parse(build(layout)) == layout


@given(st.text(max_size=80))
def test_cleaning_twice_changes_nothing_more(raw: str) -> None:
    assert clean(clean(raw)) == clean(raw)


@given(st.text(max_size=60), st.text(max_size=20), st.text(max_size=30))
def test_any_caption_phrase_and_appearance_compose_to_a_prompt_that_parses(
    caption: str, phrase: str, look: str
) -> None:
    if not clean(phrase) or not clean(look):
        return
    layout = parse(compose(caption, [phrase], [look]))
    assert layout.appearances == (clean(look),)
    assert [p.index for p in layout.video if isinstance(p, Binding)] == [1]


@given(st.text(max_size=60), st.integers(0, 20), st.integers(0, 20))
def test_any_two_words_of_any_caption_can_be_bound(caption: str, first: int, second: int) -> None:
    words = [w for w in (clean(part) for part in clean(caption).split()) if w]
    if not words:
        return
    phrases = [words[first % len(words)], words[second % len(words)]]
    layout = parse(compose(caption, phrases, ["one look", "another look"]))
    assert sorted(p.index for p in layout.video if isinstance(p, Binding)) == [1, 2]


def test_the_layout_is_the_one_of_the_papers_figure() -> None:
    prompt = compose("A woman and a man are cooking.", ["a woman", "a man"], ["a woman in yellow", "a man in blue"])
    assert prompt == (
        "Ref 1: a woman in yellow. Ref 2: a man in blue. Video: Ref 1[A woman] and Ref 2[a man] are cooking"
    )
    assert plain(prompt) == "A woman and a man are cooking"


def test_a_phrase_may_begin_another_sentence() -> None:
    prompt = compose("A woman runs. A man sits.", ["a woman", "a man"], ["a tall woman", "a small man"])
    assert prompt == "Ref 1: a tall woman. Ref 2: a small man. Video: Ref 1[A woman] runs. Ref 2[A man] sits"
    assert plain(prompt) == "A woman runs. A man sits"
    assert build(parse(prompt)) == prompt


def test_a_phrase_that_the_caption_lacks_is_still_bound() -> None:
    assert compose("it rains", ["a dog"], ["a wet dog"]) == "Ref 1: a wet dog. Video: Ref 1[a dog], it rains"


@pytest.mark.parametrize(
    "broken", ["a dog runs", "Ref 2: a dog. Video: Ref 2[a dog] runs", "Ref 1: a dog. Video: a dog"]
)
def test_a_prompt_outside_the_layout_is_refused(broken: str) -> None:
    with pytest.raises(ValueError):
        parse(broken)


@pytest.mark.parametrize(
    ("caption", "phrase"),
    [
        ("A toy star moves left over grass", "a toy star"),
        ("In a park, a big brown dog runs", "a big brown dog"),
        ("There is a cat sitting", "a cat"),
        ("A pair of pink sunglasses lies on a table", "a pair of pink sunglasses"),
        ("Close-up of a flower", "a flower"),
        ("Two dogs run on the beach", "two dogs"),
        ("A glass falls", "a glass"),
        ("A woman wearing a hat smiles", "a woman"),
        ("running", None),
        ("", None),
        (None, None),
    ],
)
def test_the_first_noun_phrase_of_a_caption(caption: str | None, phrase: str | None) -> None:
    assert noun_phrase(caption) == phrase


def test_colours_are_named_by_what_covers_most_of_the_mask() -> None:
    picture = np.zeros((10, 10, 3), np.uint8)
    picture[:, :6] = (220, 20, 20)
    picture[:, 6:] = (20, 40, 230)
    mask = np.full((10, 10), 255, np.uint8)
    assert colours(picture, mask) == "red and blue"
    assert appearance("a toy", picture, mask) == "a toy, mostly red and blue"
    assert appearance(None, picture, mask) == "a red and blue subject"
    mask[:, 6:] = 0
    assert colours(picture, mask) == "red"
    assert appearance("a red toy", picture, mask) == "a red toy"
