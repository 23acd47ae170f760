"""All the subjects that a caption names, by the same rules that read its first noun phrase."""

from __future__ import annotations

import re

from models.subjects.prompts import noun_phrase


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What is a place, a stuff or a part of the picture, and no subject of it (Phantom-Data's check of specificity, arXiv 2506.18851).
_NO_SUBJECT = _words(
    "air background beach ceiling city cloud clouds darkness day distance field floor foreground forest grass ground hill horizon "
    "house image kitchen lake lane left light meadow middle moment morning mountain mountains night ocean park place rain river road "
    "rock rocks room scene sea shadow shadows side sky snow sand street sun sunlight sunset surface table time top tree trees video "
    "view wall walls water way wind window woods world right bottom edge center centre front back end corner"
)
_DEFINITE = _words("the this that these those his her its their")
_START = re.compile(
    r"(?i)(?<![\w'’-])(?:a|an|the|this|that|these|those|some|several|two|three|four|five|six|another|his|her|its|their)\s"
)


def noun_phrases(caption: str | None, most: int = 4) -> list[str]:
    """Up to ``most`` different subjects, in the caption's order: ["a woman", "a dog"] of "A woman walks a dog in a park".

    The first is ``noun_phrase``'s; further ones begin with a determiner. "The dog" after "a dog" is the same one again. A phrase
    whose head is a place or a stuff is left out, but the first of all where no other is there.
    """
    if not caption:
        return []
    first = noun_phrase(caption)
    found = [first] if first else []
    for match in _START.finditer(caption):
        phrase = noun_phrase(caption[match.start() :])
        heads = {other.split()[-1].lower() for other in found}
        again = (
            phrase is not None
            and match.group().split()[0].lower() in _DEFINITE
            and not heads.isdisjoint(phrase.split())
        )
        if phrase and not again and not any(phrase in other for other in found):
            found.append(phrase)
    told = [p for p in found if p.split()[-1].lower() not in _NO_SUBJECT]
    return (told or found[:1])[:most]
