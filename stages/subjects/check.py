"""Cross-pairs that a vision-language model has looked at: what it takes for another subject makes room for the next candidate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stages.asking import EndpointParams, Spent, ask_all
from stages.contract import Context
from stages.subjects.crop_files import CropFiles
from stages.subjects.identities import Crops, Identities
from stages.subjects.retrieve import CODE, Candidates, settle
from stages.work import content_key

if TYPE_CHECKING:
    from models.captioners.protocols import Writer

Pair = tuple[int, int]  # identity of the target, identity of the candidate


@dataclass
class Checked:
    """The settled candidates; by pair what the model said and cost, and why it did not answer."""

    found: Candidates
    notes: dict[Pair, str] = field(default_factory=dict)
    failed: dict[Pair, str] = field(default_factory=dict)


def check(
    ctx: Context,
    endpoint: EndpointParams,
    files: CropFiles,
    found: Candidates,
    crops: Crops,
    identities: Identities,
    held_out: NDArray[np.bool_],
    most: int,
) -> Checked:
    """``settle`` with a second opinion: each reference of a clip's subject is shown to the model beside the subject.

    A reference that it calls another subject, or about which it says nothing, is refused and the next candidate within the bounds
    takes its place, until every reference has been confirmed. The two crops are asked about once, whichever is the target.
    """
    reason = found.reason.copy()
    names, phrases = crops.about["subject_id"].combine_chunks(), crops.about["phrase"].combine_chunks()
    checked = Checked(found)
    confirmed: set[Pair] = set()
    spent = Spent()
    while True:
        checked.found = settle(
            Candidates(found.row, found.cosine, found.background, reason), identities, held_out, most
        )
        query, place = np.nonzero((checked.found.reason == 0) & (identities.clip >= 0)[:, None])
        open_ = [
            (int(q), int(p), pair)
            for q, p in zip(query, place, strict=True)
            if (pair := (int(q), int(found.row[q, p]))) not in confirmed
        ]
        if not open_:
            spent.tell(ctx, "check", endpoint)
            return checked
        crop_of = {i: str(names[int(identities.best[i])]) for _, _, pair in open_ for i in pair}
        files.fetch(crop_of.values())
        questions: dict[str, tuple[str, str, str | None]] = {}
        keys: dict[Pair, str] = {}
        for _, _, pair in open_:
            first, second = sorted((crop_of[i] for i in pair), key=lambda one: files.digests[one])
            phrase = _phrase(phrases, identities, pair)
            keys[pair] = content_key(files.digests[first], files.digests[second], phrase)
            questions[keys[pair]] = (first, second, phrase)
        answers = ask_all(ctx, "check", "1", endpoint, {}, questions, lambda w, q: _ask(w, files, q), spent)
        for q, p, pair in open_:
            key = keys[pair]
            if key in answers.failed:
                reason[q, p], checked.failed[pair] = CODE["not_checked"], answers.failed[key]
                continue
            said = answers.rows[key]
            checked.notes[pair] = f"{endpoint.model}: {said['said']}, {said['why']}; {answers.note(key)}"
            if said["said"] == "yes":
                confirmed.add(pair)
            else:
                reason[q, p] = CODE["another_by_the_model"]


def _phrase(phrases: pa.Array, identities: Identities, pair: Pair) -> str | None:
    """What either is called, the same whichever is the target."""
    told = [phrases[int(identities.best[i])].as_py() for i in sorted(pair)]
    return min((one for one in told if one), default=None)


def _ask(writer: Writer, files: CropFiles, question: tuple[str, str, str | None]) -> Mapping[str, Any]:
    from models.subjects.same import same

    first, second, phrase = question
    yes, why = same(writer, files.crop(first), files.crop(second), phrase)
    return {"said": "yes" if yes else "no", "why": why}
