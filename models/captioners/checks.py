"""Whether a written caption is one: its length, its language, and that it is no refusal."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

_REFUSALS = re.compile(
    r"(?i)\b(?:i(?:'m| am) (?:sorry|unable|not able)|i can(?:'t|not| not)|i (?:do not|don't) (?:see|have|feel)|as an ai|"
    r"(?:my|content) (?:policy|guidelines)|unable to (?:process|view|see|describe|assist|identify)|cannot (?:assist|help|describe|provide)|"
    r"no (?:image|video|frames?) (?:was|were|is|are|has been) (?:provided|attached|given|shared))\b"
)
_LEAD = re.compile(
    r"(?i)^\s*(?:(?:here(?:'s| is) )?(?:the |a )?(?:video )?caption(?: for the (?:video|image))?\s*[:\-]\s*|sure[,!.:]\s*)"
)
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Function words that a sentence of the language can hardly do without and its neighbours do not have.
_FUNCTION = {
    "en": _words("the a an of and in on is are with at by from to as while its it into this that over his her their"),
    "de": _words("der die das ein eine einen einem und ist sind mit auf im am von zu den dem nicht sich über während"),
    "fr": _words("le la les un une des du de et est sont dans sur avec pour par qui au aux ses son elle il en"),
    "es": _words("el la los las un una unos de y es son en con por para que del al su sus se sobre mientras"),
    "it": _words("il lo la gli le un una di e è sono in con per che del della nel nella su si mentre"),
    "pt": _words("o a os as um uma de e é são em com por para que do da no na seu sua se enquanto"),
}
_SCRIPTS = {
    "en": "LATIN",
    "de": "LATIN",
    "fr": "LATIN",
    "es": "LATIN",
    "it": "LATIN",
    "pt": "LATIN",
    "zh": "CJK",
    "ja": "CJK",
    "ru": "CYRILLIC",
}
LANGUAGES = tuple(_SCRIPTS)


@dataclass(frozen=True)
class CaptionRules:
    """``language`` out of ``LANGUAGES``; lengths in words (for zh and ja: characters)."""

    min_words: int = 4
    max_words: int = 200
    language: str = "en"


def tidy(text: str) -> str:
    """One line without the lead-in, quotes and marks of emphasis that models put around a caption."""
    text = re.sub(r"[*_`#]+", "", re.sub(r"\s+", " ", text)).strip()
    text = _LEAD.sub("", _LEAD.sub("", text)).strip()  # "Sure! Here is the caption:" has two
    if len(text) > 1 and text[0] in "\"'“‘«" and text[-1] in "\"'”’»":
        text = text[1:-1].strip()
    return text


def fault(text: str, rules: CaptionRules) -> str | None:
    """Why a tidied caption is none: empty, refusal, other_language, too_short, too_long; None for a good one.

    The language is told by script and, between those of the Latin script, by function words; a caption with none of them is given
    the benefit of the doubt. Japanese and Chinese are not told apart.
    """
    if not text:
        return "empty"
    if _REFUSALS.search(text):
        return "refusal"
    letters = [c for c in text if c.isalpha()]
    script = _SCRIPTS[rules.language]
    fitting = sum(_script(c) == script for c in letters)
    if not letters or fitting < 0.8 * len(letters):
        return "other_language"
    words = [w.lower() for w in _WORD.findall(text)]
    if rules.language in _FUNCTION:
        hits = {name: sum(w in known for w in words) for name, known in _FUNCTION.items()}
        if hits[rules.language] < max(hits.values()):
            return "other_language"
    length = len(letters) if script == "CJK" else len(words)
    if length < rules.min_words:
        return "too_short"
    return "too_long" if length > rules.max_words else None


def _script(letter: str) -> str:
    name = unicodedata.name(letter, "")
    return "CJK" if name.startswith(("CJK", "HIRAGANA", "KATAKANA")) else name.split(" ", 1)[0]
