"""The training layout of prompts: ``Ref 1: <appearance>. Video: Ref 1[<short phrase>] <what happens>``, built and parsed.

The layout is the one visible in LibraGen's official figure (arXiv 2603.13506): each reference is described once, then
bound by its number to the phrase that stands for it in the sentence about the video. Phrases come from a rule-based
reading of the caption; where there is no caption, the colours of the subject itself make the phrase.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from models.subjects.protocols import U8

MAX_REFERENCES = 4
_CLOSING, _OPENING = frozenset(",.;:!?)’”/"), frozenset("(‘“/")
_MARK = re.compile(r"\bRef (\d+)\[([^\[\]]*)\]")
_HEAD = re.compile(r"Ref (\d+): ")
_RESERVED = re.compile(r"(?i)\b(ref)\s+(?=\d)|\b(video)\s*(?=:)")


@dataclass(frozen=True)
class Binding:
    """Reference ``index`` (from 1) stands for ``phrase`` here."""

    index: int
    phrase: str


@dataclass(frozen=True)
class Layout:
    """A prompt in parts: what each reference looks like, and the video's sentence as text and bindings in order."""

    appearances: tuple[str, ...]
    video: tuple[str | Binding, ...]

    def __post_init__(self) -> None:
        if len(self.appearances) > MAX_REFERENCES:
            raise ValueError(f"{len(self.appearances)} references, at most {MAX_REFERENCES}")
        between = [p for p in self.video[:-1] if isinstance(p, str)]  # may end a sentence; the last part may not
        last = [p for p in self.video[-1:] if isinstance(p, str)]
        whole = [*self.appearances, *(p.phrase for p in self.video if isinstance(p, Binding)), *last]
        marked = [t for t in whole if t != clean(t)] + [t for t in between if t != unmarked(t)]
        if marked:
            raise ValueError(f"{marked[0]!r} holds marks of the prompt layout; pass it through clean() first")
        bound = {p.index for p in self.video if isinstance(p, Binding)}
        unbound = sorted(set(range(1, len(self.appearances) + 1)) - bound)
        unknown = sorted(bound - set(range(1, len(self.appearances) + 1)))
        if unbound or unknown:
            raise ValueError(
                f"references without a phrase in the video: {unbound}; phrases without a reference: {unknown}"
            )


def clean(text: str) -> str:
    """The text with single spaces, no final full stop and nothing that could be read as a mark of the layout."""
    return unmarked(text).rstrip(". ").strip()


def unmarked(text: str) -> str:
    """The same, but a final full stop stays: text between two bindings may end a sentence."""
    text = text.replace("[", "(").replace("]", ")")
    text = _RESERVED.sub(lambda m: f"{m.group(1)}-" if m.group(1) else f"{m.group(2)} ", text)
    text = re.sub(r"(?i)\b(video) :", r"\1 -", text)
    return re.sub(r"\s+", " ", text).strip()


def build(layout: Layout) -> str:
    """The prompt as the model reads it. ``parse(build(x)) == x`` for every layout whose text parts do not touch."""
    heads = [f"Ref {i}: {appearance}." for i, appearance in enumerate(layout.appearances, 1)]
    parts = [f"Ref {p.index}[{p.phrase}]" if isinstance(p, Binding) else p for p in layout.video]
    return " ".join([*heads, "Video:", _joined(p for p in parts if p)])


def _joined(parts: Iterable[str]) -> str:
    """Parts with a space between them, but none before closing and after opening punctuation."""
    text = ""
    for part in parts:
        tight = not text or part[0] in _CLOSING or text[-1] in _OPENING
        text += part if tight else f" {part}"
    return text


def parse(prompt: str) -> Layout:
    """The parts of a prompt in the layout. Raises ``ValueError`` that says where it departs from it."""
    head, mark, tail = (" " + prompt).partition(" Video:")
    if not mark:
        raise ValueError(f"no 'Video:' in prompt {prompt!r}; the layout is 'Ref 1: ... Video: Ref 1[...] ...'")
    pieces = _HEAD.split(head.strip())
    if pieces[0].strip():
        raise ValueError(f"text before the first 'Ref 1:' in prompt {prompt!r}")
    numbers = [int(n) for n in pieces[1::2]]
    if numbers != list(range(1, len(numbers) + 1)):
        raise ValueError(f"references are numbered {numbers} in prompt {prompt!r}; they must count from 1")
    video: list[str | Binding] = []
    at = 0
    for match in _MARK.finditer(tail):
        text = unmarked(tail[at : match.start()])
        if text:
            video.append(text)
        video.append(Binding(int(match.group(1)), clean(match.group(2))))
        at = match.end()
    rest = clean(tail[at:])
    if rest:
        video.append(rest)
    return Layout(tuple(clean(a) for a in pieces[2::2]), tuple(video))


def compose(caption: str | None, phrases: Sequence[str], appearances: Sequence[str], *, token: str = "") -> str:
    """The template form of the two-stage rephraser: bind each phrase where the caption says it.

    ``phrases[i]`` is what reference i + 1 is called in the caption and ``appearances[i]`` what it looks like. A phrase
    that the caption lacks is bound in front of it, so that no reference is left unbound; without a caption the video's
    sentence is the bindings alone. ``token``, the reference token of arXiv 2504.17816 ("<cls>"), is put before each phrase.
    """
    if len(phrases) != len(appearances):
        raise ValueError(f"{len(phrases)} phrases for {len(appearances)} appearances")
    text = clean(caption or "")
    found: list[tuple[int, int, int]] = []
    for i, phrase in enumerate(phrases, 1):
        pattern = re.compile(rf"(?i)(?<![\w-]){re.escape(clean(phrase))}(?![\w-])")
        for match in pattern.finditer(text):
            if all(match.end() <= a or match.start() >= b for a, b, _ in found):
                found.append((match.start(), match.end(), i))
                break
    video: list[str | Binding] = []
    missing = [i for i in range(1, len(phrases) + 1) if i not in {f[2] for f in found}]
    for n, i in enumerate(missing):
        if n:
            video.append("and")
        video.append(Binding(i, clean(phrases[i - 1])))
    if missing and text:
        video.append(",")
    at = 0
    for start, end, i in sorted(found):
        video += [text[at:start].strip(), Binding(i, text[start:end])]
        at = end
    video.append(text[at:].strip())
    if token:
        video = [Binding(p.index, clean(f"{token} {p.phrase}")) if isinstance(p, Binding) else p for p in video]
    return build(Layout(tuple(clean(a) for a in appearances), tuple(p for p in video if p != "")))


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_DETERMINERS = _words(
    "a an the this that these those some several many few two three four five six seven eight nine ten one another his her "
    "its their my our your each every both"
)
_SINGULAR = _words("a an one this that another each every")
_PLURAL = _words("these those some several many few two three four five six seven eight nine ten both")
_PREPOSITIONS = _words(
    "in on at by with over under above below through across into onto from to of near beside behind before after along "
    "around against between among toward towards inside outside past up down off out during while as and or but that "
    "which who whose where when then there here beneath upon within without"
)
_VERBS = _words(
    "is are was were be been being has have had do does did can could will would may might must shall should run runs walk "
    "walks sit sits stand stands jump jumps fly flies move moves swim swims play plays eat eats look looks turn turns spin "
    "spins grow grows shrink shrinks stay stays lie lies hold holds wear wears ride rides drive drives fall falls rise rises "
    "go goes come comes drift drifts slide slides roll rolls rotate rotates bounce bounces float floats dance dances talk "
    "talks smile smiles open opens close closes rests rest hangs hang makes make takes take pours pour gets get"
)
_PLURAL_LOOKING = _words(
    "glasses sunglasses jeans shorts trousers pants scissors binoculars goggles clothes bus glass grass dress cactus "
    "octopus lens canvas iris boss cross"
)
_PICTURE_HEADS = _words("close-up closeup view shot photo photograph picture image video clip footage")
_COLLECTIVES = _words("pair group bunch couple flock herd set row pile")
_WORD = re.compile(r"[^\W\d_]+(?:['’\-][^\W\d_]+)*|\d+|[^\w\s]")


def _plural_looking(word: str) -> bool:
    return len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is"))


def noun_phrase(caption: str | None, longest: int = 8) -> str | None:
    """The first noun phrase of a caption, as it stands there, up to its verb: "a toy star" of "A toy star moves left".

    Rules, no model: skip a leading prepositional phrase up to its comma; take an optional determiner and the words up to
    the first preposition, known verb, participle, punctuation or, after a singular determiner, third-person "-s". Returns
    None where that leaves no content word or more than ``longest`` words. The case of the first letter is lowered.
    """
    if not caption:
        return None
    text = re.sub(r"\s+", " ", caption).strip()
    tokens = [(m.group(), m.start(), m.end()) for m in _WORD.finditer(text)]
    if tokens and tokens[0][0].lower() in _PREPOSITIONS - {"there"}:
        comma = next((i for i, t in enumerate(tokens) if t[0] == ","), None)
        tokens = tokens[comma + 1 :] if comma is not None else []
    if tokens and tokens[0][0].lower() == "there":
        tokens = tokens[2:]
    of = next((i for i, t in enumerate(tokens[:5]) if t[0].lower() == "of"), None)
    if of and tokens[of - 1][0].lower() in _PICTURE_HEADS:
        tokens = tokens[of + 1 :]
    taken: list[tuple[str, int, int]] = []
    singular = plural = False
    content = 0
    for word, start, end in tokens:
        low = word.lower()
        if not taken and low in _DETERMINERS:
            singular, plural = low in _SINGULAR, low in _PLURAL
            taken.append((word, start, end))
            continue
        if low == "of" and taken and taken[-1][0].lower() in _COLLECTIVES:
            taken.append((word, start, end))
            singular, content = False, 0
            continue
        if not word[0].isalnum() or low in _PREPOSITIONS or (content and low in _DETERMINERS):
            break
        if content:
            third_person = (
                singular
                and len(low) > 3
                and low.endswith("s")
                and not low.endswith(("ss", "us", "'s", "’s"))
                and low not in _PLURAL_LOOKING
            )
            if plural and _plural_looking(taken[-1][0].lower()) and not _plural_looking(low):
                break  # after "two cats" comes what they do
            if low in _VERBS or third_person or (low.endswith("ing") and len(low) > 5):
                break
            if low.endswith("ly") and len(low) > 4:
                break  # an adverb opens the predicate: "a ball slowly rolls"
        elif low in _VERBS and not taken:
            break
        taken.append((word, start, end))
        content += 1
    if not content or len(taken) > longest or (len(taken) == 1 and taken[0][0].lower().endswith("ing")):
        return None
    phrase = clean(text[taken[0][1] : taken[-1][2]])
    if not phrase:
        return None
    return phrase[0].lower() + phrase[1:] if phrase[1:2].islower() or phrase[1:2] in ("", " ") else phrase


_HUE_NAMES = (  # hue's upper end in degrees
    (15, "red"),
    (40, "orange"),
    (70, "yellow"),
    (160, "green"),
    (200, "cyan"),
    (260, "blue"),
    (300, "purple"),
    (340, "pink"),
    (361, "red"),
)


_COLOURS = frozenset({"black", "grey", "gray", "white", "brown", *(name for _, name in _HUE_NAMES)})


def colours(picture_HWC: U8, mask_HW: U8) -> str:
    """The one or two colours that cover most of a masked RGB picture, in words: "yellow", "yellow and black".

    The second is told when it covers at least a quarter. Raises ``ValueError`` for an empty mask.
    """
    import cv2

    inside = mask_HW > 127
    if not inside.any():
        raise ValueError("the mask is empty: there is no subject to name")
    hsv = cv2.cvtColor(picture_HWC.astype(np.float32) / 255.0, cv2.COLOR_RGB2HSV)[inside]
    names = ["black", "grey", "white", "brown", *dict.fromkeys(name for _, name in _HUE_NAMES)]
    hue, saturation, value = hsv[:, 0], hsv[:, 1], hsv[:, 2]
    ends = np.array([end for end, _ in _HUE_NAMES])
    hue_index = np.array([names.index(name) for _, name in _HUE_NAMES])[np.searchsorted(ends, hue, side="right")]
    index = np.where(saturation < 0.2, np.where(value > 0.75, 2, 1), hue_index)
    index = np.where((index == names.index("orange")) & (value < 0.6), 3, index)
    index = np.where(value < 0.2, 0, index)
    shares = np.bincount(index, minlength=len(names)) / len(index)
    first, second = np.argsort(-shares, kind="stable")[:2]
    return names[first] if shares[second] < 0.25 else f"{names[first]} and {names[second]}"


def appearance(phrase: str | None, picture_HWC: U8, mask_HW: U8) -> str:
    """The template form of describing a reference: its phrase and colours, "a toy star, mostly red and white".

    Without a phrase it is "a red and white subject". A phrase that tells a colour is left as it is: whoever wrote it saw more.
    """
    told = colours(picture_HWC, mask_HW)
    if not phrase:
        return f"{'an' if told[0] in 'aeiou' else 'a'} {told} subject"
    if not _COLOURS.isdisjoint(re.findall(r"\w+", phrase.lower())):
        return clean(phrase)
    return clean(f"{phrase}, mostly {told}")


def plain(prompt: str) -> str:
    """What a prompt says without the layout's marks: the video's sentence with each binding's phrase in its place.

    A prompt that is not in the layout is returned as it is, spaces made single.
    """
    _, mark, tail = (" " + prompt).partition(" Video:")
    if not mark:
        return re.sub(r"\s+", " ", prompt).strip()
    return re.sub(r"\s+", " ", _MARK.sub(lambda m: m.group(2), tail)).strip()
