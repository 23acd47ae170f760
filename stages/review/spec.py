"""What a campaign is and what it asks about, before anything is stored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from stages.review.answers import OVERALL, Form, Kind, Question, kind_of

Reviewer = Literal["people", "script:rules", "script:histogram"]
PEOPLE: Reviewer = "people"
Aggregation = Literal["unanimous", "majority", "lead"]
SkipPolicy = Literal["count", "others", "me"]
Order = Literal["finish_first", "uncertainty", "disagreement"]


class Dimension(BaseModel):
    """One thing that a Likert campaign rates from 1 to 5, and what each of the five points means."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z][a-z_]{0,31}$")
    question: str
    anchors: tuple[str, str, str, str, str]


LIKERT_RUBRIC = (
    Dimension(
        name="identity",
        question="Is it the subject of the references?",
        anchors=("another subject", "a few traits", "the kind, not the one", "small differences", "the very same"),
    ),
    Dimension(
        name="prompt",
        question="Does it show what the text says?",
        anchors=("something else", "a small part", "about half", "nearly all", "all of it"),
    ),
    Dimension(
        name="motion",
        question="Does it move like something real?",
        anchors=("still or broken", "mostly wrong", "stiff or jumpy", "nearly natural", "natural"),
    ),
    Dimension(
        name=OVERALL,
        question="How good is it as a whole?",
        anchors=("unusable", "poor", "fair", "good", "excellent"),
    ),
)


class CampaignSpec(BaseModel):
    """Everything that a campaign is, beside its items.

    ``asks`` is the question on the page, empty for the form's own: of a filter, whether a clip that the rules chose belongs in the
    training set.
    ``overlap`` is how many people judge each item. ``skip_policy`` says what a skip does: ``count`` takes it for an
    answer (the item ends in_review), ``others`` leaves the item to other people, ``me`` asks the same person again at
    the end. ``aggregation``: ``unanimous`` and ``majority`` leave a disagreement in_review; ``lead`` waits for a lead,
    whose answer decides. ``order`` is what comes first after priority: started items (``finish_first``), undecided ones
    by ``NewItem.uncertainty``, or those whose answers disagree so far. ``gold_rate`` is the share of items with a known
    answer mixed among a person's own. ``carry`` takes over people's answers from earlier campaigns where payload,
    question and rubric are the same to the letter.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    campaign_id: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,128}$")
    form: Form
    title: str
    asks: str = ""
    guidelines: str
    reasons: tuple[str, ...] = Field(default=(), max_length=9)  # one digit key each
    skip_reasons: tuple[str, ...] = Field(default=("does not play", "cannot tell", "other"), max_length=9)
    rubric: tuple[Dimension, ...] = Field(default=(), max_length=8)
    overlap: int = Field(default=1, ge=1, le=20)
    lease_seconds: int = Field(default=300, ge=1)
    skip_policy: SkipPolicy = "count"
    aggregation: Aggregation = "majority"
    order: Order = "finish_first"
    gold_rate: float = Field(default=0.0, ge=0, le=0.5)
    seed: int = 0
    carry: bool = True
    next_command: str = "fulcrum run"

    @model_validator(mode="before")
    @classmethod
    def _default_rubric(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("form") == "likert" and not given.get("rubric"):
            return given | {"rubric": LIKERT_RUBRIC}
        return given

    @model_validator(mode="after")
    def _rubric_fits(self) -> CampaignSpec:
        names = [one.name for one in self.rubric]
        if self.form != "likert" and names:
            raise ValueError("only a likert campaign has a rubric of dimensions")
        if self.form == "likert" and (OVERALL not in names or len(set(names)) != len(names)):
            raise ValueError(f"a likert rubric names each dimension once, and one of them is {OVERALL!r}")
        return self

    @property
    def kind(self) -> Kind:
        return kind_of(self.form)

    @property
    def question(self) -> Question:
        return Question(self.form, self.reasons, self.skip_reasons, tuple(one.name for one in self.rubric))

    @property
    def rubric_digest(self) -> str:
        """Digest of all that tells people how to judge: an answer given under another one is not the same answer."""
        asked = [self.asks] if self.asks else []
        scale = [one.model_dump() for one in self.rubric]
        return digest("rubric", self.form, self.guidelines, self.reasons, scale, *asked)


@dataclass(frozen=True)
class NewItem:
    """One thing to judge.

    ``payload`` is all that its page may show; everything else never leaves the server: ``hidden`` (for instance
    ``{"systems": [name of a, name of b]}`` or ``{"system": name}``), the stratum and its probability, the
    ``uncertainty`` (0 sure to 1 undecided) and ``gold``, the known answer as ``gold.check_gold`` takes it.
    """

    external_id: str
    payload: Mapping[str, Any]
    stratum: str = "kept"
    inclusion_probability: float = 1.0
    priority: int = 0
    uncertainty: float = 0.0
    hidden: Mapping[str, Any] = field(default_factory=dict)
    gold: Mapping[str, Any] | None = None


def digest(*parts: object) -> str:
    """sha256 over a canonical JSON encoding, 64 hexadecimal digits."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def item_id(campaign_id: str, external_id: str) -> str:
    return digest("item", campaign_id, external_id)[:32]


def payload_digest(spec: CampaignSpec, payload: Mapping[str, Any]) -> str:
    """Equal digests: the same thing was shown with the same question and rubric, so an answer may be carried over."""
    return digest("payload", spec.rubric_digest, payload)
