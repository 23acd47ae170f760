"""The two-stage rephraser: templates, a writer that keeps to the layout and one that does not, and the round trip."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.captioners.protocols import Answer, WriterUnavailable
from models.subjects.frames import png
from models.subjects.phrases import noun_phrases
from models.subjects.prompts import Binding, clean, compose, parse, plain
from models.subjects.rephrase import Picture, rephrase
from tests.curation.fake_endpoint import serving
from tests.pipelines.command import fulcrum

RED, BLUE = (210, 20, 20), (20, 30, 220)


def picture(colour: tuple[int, int, int], name: str = "a.jpg") -> Picture:
    pixels = np.full((64, 64, 3), 235, np.uint8)
    pixels[16:48, 16:48] = colour
    mask = np.zeros((64, 64), np.uint8)
    mask[16:48, 16:48] = 255
    return Picture(name, pixels, mask)


class Scripted:
    """A writer that says what it is told, in order; an exception among the lines is raised."""

    name = "scripted"

    def __init__(self, *lines: str | Exception) -> None:
        self.lines, self.asked = list(lines), list[tuple[str, int]]()

    def ask(self, instruction: str, pictures: Sequence[bytes] = ()) -> Answer:
        self.asked.append((instruction, len(pictures)))
        line = self.lines.pop(0)
        if isinstance(line, Exception):
            raise line
        return Answer(line, 10, 10)


REQUEST = "A red car passes a blue boat"


def test_templates_bind_each_reference_to_its_phrase() -> None:
    found = rephrase(REQUEST, [picture(RED), picture(BLUE)])
    assert found.prompt == "Ref 1: a red car. Ref 2: a blue boat. Video: Ref 1[A red car] passes Ref 2[a blue boat]"
    assert [d.by for d in found.references] == ["template", "template"]


def test_colours_decide_which_reference_is_which_and_order_where_they_do_not() -> None:
    swapped = rephrase(REQUEST, [picture(BLUE), picture(RED)])
    assert [d.phrase for d in swapped.references] == ["a blue boat", "a red car"]
    plainly = rephrase("A car passes a boat", [picture(BLUE), picture(RED)])
    assert [d.phrase for d in plainly.references] == ["a car", "a boat"]
    assert plainly.references[0].appearance == "a car, mostly blue"


def test_the_users_own_phrases_count_and_a_reference_that_nothing_names_is_still_bound() -> None:
    told = rephrase(REQUEST, [picture(BLUE), picture(RED)], phrases=["a red car", "a blue boat"])
    assert [d.phrase for d in told.references] == ["a red car", "a blue boat"]
    nameless = rephrase("it rains", [picture(RED)])
    assert [p.index for p in parse(nameless.prompt).video if isinstance(p, Binding)] == [1]


def test_a_writer_describes_each_reference_and_then_writes_the_sentences() -> None:
    sentence = "Ref 1 [a red car] drives slowly past Ref 2[a blue boat] in a harbour."
    writer = Scripted("A shiny red sports car.", "a small blue wooden boat", sentence)
    found = rephrase(REQUEST, [picture(RED), picture(BLUE)], writer=writer, token="<cls>")
    assert found.prompt == (
        "Ref 1: A shiny red sports car. Ref 2: a small blue wooden boat. Video: Ref 1[<cls> a red car] drives slowly past "
        "Ref 2[<cls> a blue boat] in a harbour"
    )
    assert (found.by, found.references[0].by) == ("writer", "writer")
    assert [shown for _, shown in writer.asked] == [1, 1, 0]
    assert "Ref 2: a small blue wooden boat" in writer.asked[2][0]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("The car drives past the boat in the harbour.", "references without a phrase"),
        ("Ref 1[a car] drives past the boat in the harbour.", "references without a phrase in the video: \\[2\\]"),
        ("Ref 1[a car] and Ref 2[a boat] and Ref 3[a man] are in the harbour.", "phrases without a reference: \\[3\\]"),
        ("Ref 1[a car] passes Ref 2[a boat] at the [old] pier.", "brackets without a mark"),
        ("Ref 1[a car] passes Ref 2[a boat], and then Ref 1 stops at the pier.", "a mark without its brackets"),
        ("Ref 1[das Auto] fährt an Ref 2[dem Boot] vorbei, und das ist der Hafen.", "other language"),
    ],
)
def test_an_answer_outside_the_layout_is_asked_for_again_and_then_the_template_writes(answer: str, why: str) -> None:
    looks = ("a red car here", "a blue boat here")
    good = "Ref 1[a car] passes Ref 2[a boat] in the harbour"
    mended = rephrase(REQUEST, [picture(RED), picture(BLUE)], writer=Scripted(*looks, answer, good))
    assert mended.by == "writer"
    assert mended.prompt.endswith(good)
    stubborn = rephrase(REQUEST, [picture(RED), picture(BLUE)], writer=Scripted(*looks, answer, answer))
    assert stubborn.by == "template"
    assert stubborn.prompt.endswith("Video: Ref 1[A red car] passes Ref 2[a blue boat]")
    assert re.search(why, stubborn.why or "")


def test_a_writer_that_is_down_or_refuses_leaves_the_template_and_says_so() -> None:
    down = WriterUnavailable("no answer in 3 attempts")
    found = rephrase(REQUEST, [picture(RED)], writer=Scripted(down, down))
    assert (found.by, found.why) == ("template", "no answer in 3 attempts")
    refused = rephrase(
        REQUEST, [picture(RED)], writer=Scripted("I'm sorry, I can't help.", "Ref 1[a red car] passes a boat")
    )
    assert refused.references[0].by == "template"
    assert "refusal" in (refused.references[0].why or "")


@pytest.mark.parametrize(("request_", "count", "why"), [("", 1, "empty"), ("x", 5, "at most 4")])
def test_what_cannot_be_a_prompt_is_refused(request_: str, count: int, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        rephrase(request_, [picture(RED)] * count)
    with pytest.raises(ValueError, match="one for each"):
        rephrase(REQUEST, [picture(RED)], phrases=["a", "b"])


WORDS = st.sampled_from(["walks", "runs", "past", "under", "slowly", ",", ".", "and", "(", ")", "near", ";", "the sky"])
SUBJECTS = st.sampled_from(["a woman", "a brown dog", "two cats", "an old man", "a toy-car"])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(WORDS, SUBJECTS), min_size=1, max_size=14))
def test_a_caption_comes_back_from_its_layout(parts: list[str]) -> None:
    """caption -> layout -> caption, whatever stands around the phrases; and every reference is bound, in the caption's order."""
    from models.subjects.prompts import _joined

    caption = clean(_joined(parts))
    phrases = [p for p in dict.fromkeys(noun_phrases(caption)) if p.lower() in caption.lower()]
    if not phrases:
        return
    prompt = compose(caption, phrases, [f"the look of number {i}" for i in range(len(phrases))])
    layout = parse(prompt)
    assert sorted({p.index for p in layout.video if isinstance(p, Binding)}) == list(range(1, len(phrases) + 1))
    assert plain(prompt) == caption


def test_the_command_shows_both_stages(tmp_path: Path) -> None:
    for name, colour in (("a.png", RED), ("b.png", BLUE)):
        (tmp_path / name).write_bytes(png(picture(colour).pixels))
    files = ("--ref", tmp_path / "a.png", "--ref", tmp_path / "b.png")
    done = fulcrum("prompt", REQUEST, *files)
    assert done.code == 0, done.err
    assert "a red car" in done.out
    assert "Video: Ref 1[A red car] passes Ref 2[a blue boat]" in done.out
    lines = ["a bright red car", "a dark blue boat", "Ref 1[a red car] passes Ref 2[a blue boat] at dawn"]
    with serving(lambda n, body: lines[n]) as server:
        done = fulcrum("prompt", REQUEST, *files, "--endpoint", server.url, "--model", "tiny", "--json")
    told = json.loads(done.out)
    assert told["by"] == "writer"
    assert told["prompt"].startswith("Ref 1: a bright red car. Ref 2: a dark blue boat. Video: Ref 1[a red car]")
    wrong = fulcrum("prompt", REQUEST, "--ref", tmp_path / "none.png")
    assert wrong.code == 2
    assert "none.png" in wrong.err
    assert "Traceback" not in wrong.err
