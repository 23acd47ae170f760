"""Asking a vision-language model whether two crops show one and the same subject."""

from __future__ import annotations

import re

from models.captioners.checks import tidy
from models.captioners.protocols import Writer, WriterUnavailable

SAME = (
    "Two pictures are given. Do both show the very same {phrase}: the same individual, or for a thing the same object with the same "
    "shape, colours and marks, and not merely another one of its kind? Pose, light and place may differ. Begin with the one word yes "
    "or no, then say why in at most ten words."
)
_ANSWER = re.compile(r"(?i)^\W*(yes|no)\b\W*(.*)$", re.DOTALL)
_ARTICLE = re.compile(r"(?i)^(a|an|the)\s+")


def same(writer: Writer, target: bytes, candidate: bytes, phrase: str | None) -> tuple[bool, str]:
    """Whether two encoded pictures show one subject, and the model's reason; an answer that is neither is asked for once more.

    Raises ``WriterUnavailable`` where no answer came, or none that begins with yes or no.
    """
    instruction = SAME.format(phrase=_ARTICLE.sub("", phrase) if phrase else "subject")
    text = ""
    for _ in range(2):
        text = writer.ask(instruction, [target, candidate]).text
        found = _ANSWER.match(tidy(text))
        if found:
            return found.group(1).lower() == "yes", found.group(2).strip().rstrip(".")
    raise WriterUnavailable(f"{writer.name} answered neither yes nor no: {text[:80]!r}")
