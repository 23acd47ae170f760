"""The two-stage rephraser: describe each reference, then write the user's prompt in the layout that the model was trained on.

LibraGen names two stages (arXiv 2603.13506) and shows the layout in its figure; what is asked of the writer is ours. Both stages have a
template, which is what they fall back on where no writer is given or its answer does not keep to the layout.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.captioners.checks import CaptionRules, fault, tidy
from models.captioners.protocols import Writer, WriterUnavailable
from models.subjects.frames import png
from models.subjects.phrases import noun_phrases
from models.subjects.prompts import MAX_REFERENCES, Binding, Layout, appearance, build, clean, colours, compose, parse
from models.subjects.protocols import U8

TEMPLATE, WRITER = "template", "writer"
DESCRIBE = (
    "Describe the main subject of this picture in one noun phrase of at most fifteen words that begins with a or an: what it is, its "
    "colours, materials and marks. Nothing about the background, the pose or the picture itself. Give the phrase alone."
)
REWRITE = (
    "References:\n{references}\n\nRequest: {request}\n\nRewrite the request as one to three plain sentences about a video, keeping "
    "all that it asks for and adding only what makes the motion and the scene clear. Where a reference is first meant, write its "
    "mark with a short phrase for it in square brackets, for example Ref 1[a woman]. Every reference must be marked at least once, "
    "with its own number, and square brackets must stand nowhere else. Give the sentences alone.{mend}"
)


@dataclass(frozen=True)
class Picture:
    """A reference: RGB (H, W, 3) uint8 and its mask (H, W), 255 inside."""

    name: str
    pixels: U8
    mask: U8


@dataclass(frozen=True)
class Described:
    """Stage one for one reference: what it looks like, the user's phrase that it stands for, and who wrote it."""

    appearance: str
    phrase: str
    by: str
    why: str | None = None
    """Why the template was used though there is a writer."""


@dataclass(frozen=True)
class Rephrased:
    """Both stages. ``prompt`` is what the model reads."""

    references: tuple[Described, ...]
    prompt: str
    by: str
    why: str | None = None


def rephrase(
    request: str,
    pictures: Sequence[Picture],
    *,
    writer: Writer | None = None,
    phrases: Sequence[str] = (),
    token: str = "",
) -> Rephrased:
    """``phrases`` name, for each reference, the words of the request that it stands for; without them they are matched by colour and order.

    Raises ``ValueError`` for no request, more than four references, or phrases that are not one for each.
    """
    if not clean(request):
        raise ValueError("the prompt is empty; say what happens in the video")
    if len(pictures) > MAX_REFERENCES:
        raise ValueError(f"{len(pictures)} references, at most {MAX_REFERENCES}")
    if phrases and len(phrases) != len(pictures):
        raise ValueError(f"{len(phrases)} phrases for {len(pictures)} references; give one for each, or none")
    bound = [clean(p) for p in phrases] if phrases else match_phrases(request, pictures)
    described = tuple(_describe(p, phrase, writer) for p, phrase in zip(pictures, bound, strict=True))
    looks = [d.appearance for d in described]
    fallback = compose(request, [d.phrase for d in described], looks, token=token)
    if writer is None or not pictures:
        return Rephrased(described, fallback, TEMPLATE)
    why, mend = "", ""
    for _ in range(2):
        try:
            told = writer.ask(_instruction(request, looks, mend))
        except WriterUnavailable as error:
            return Rephrased(described, fallback, TEMPLATE, str(error))
        try:
            return Rephrased(described, _layout(told.text, looks, token), WRITER)
        except ValueError as error:
            why = str(error)
            mend = f"\n\nYour last answer was {told.text.strip()!r}, which does not keep to this: {why}."
    return Rephrased(described, fallback, TEMPLATE, why)


def match_phrases(request: str, pictures: Sequence[Picture]) -> list[str]:
    """For each reference the noun phrase of the request that shares most colour words with it, in order among equals.

    A reference for which no phrase is left is called by its colours, "a red and white subject".
    """
    from scipy.optimize import linear_sum_assignment

    found = noun_phrases(clean(request), MAX_REFERENCES)
    told = [appearance(None, p.pixels, p.mask) for p in pictures]
    if not found or not pictures:
        return told
    score = np.zeros((len(pictures), len(found)))
    for i, picture in enumerate(pictures):
        seen = set(colours(picture.pixels, picture.mask).split(" and "))
        for j, phrase in enumerate(found):
            # Order decides where colours do not: the i-th reference is the i-th phrase.
            score[i, j] = len(seen & set(phrase.lower().split())) - 0.01 * abs(i - j)
    result = list(told)
    for i, j in zip(*linear_sum_assignment(-score), strict=True):
        result[i] = found[j]
    return result


def _describe(picture: Picture, phrase: str, writer: Writer | None) -> Described:
    template = appearance(phrase, picture.pixels, picture.mask)
    if writer is None:
        return Described(template, phrase, TEMPLATE)
    shown = np.where((picture.mask > 127)[..., None], picture.pixels, np.uint8(255))
    try:
        text = clean(tidy(writer.ask(DESCRIBE, [png(np.ascontiguousarray(shown))]).text))
    except WriterUnavailable as error:
        return Described(template, phrase, TEMPLATE, str(error))
    reason = fault(text, CaptionRules(min_words=2, max_words=40))
    if reason is not None:
        return Described(template, phrase, TEMPLATE, f"the description was no phrase ({reason}): {text[:80]!r}")
    return Described(text, phrase, WRITER)


def _instruction(request: str, looks: Sequence[str], mend: str) -> str:
    references = "\n".join(f"Ref {i}: {look}" for i, look in enumerate(looks, 1))
    return REWRITE.format(references=references, request=clean(request), mend=mend)


def _layout(text: str, looks: Sequence[str], token: str) -> str:
    """The writer's sentences under the references' own heads. Raises ``ValueError`` for what is not in the layout."""
    sentence = re.sub(r"\s+", " ", text).strip().removeprefix("Video:").strip().strip('"')
    sentence = re.sub(r"\bRef (\d+) \[", r"Ref \1[", sentence)
    heads = " ".join(f"Ref {i}: {clean(look)}." for i, look in enumerate(looks, 1))
    layout = parse(f"{heads} Video: {sentence}")
    stray = re.sub(r"\bRef \d+\[[^\[\]]*\]", "", sentence)
    if re.search(r"[\[\]]|\bRef \d", stray):
        raise ValueError("a mark without its brackets, or brackets without a mark")
    reason = fault(re.sub(r"Ref \d+\[([^\[\]]*)\]", r"\1", sentence), CaptionRules(min_words=3, max_words=150))
    if reason is not None:
        raise ValueError(f"the sentences are {reason.replace('_', ' ')}")
    if token:
        marked = (Binding(p.index, clean(f"{token} {p.phrase}")) if isinstance(p, Binding) else p for p in layout.video)
        layout = Layout(layout.appearances, tuple(marked))
    return build(layout)
