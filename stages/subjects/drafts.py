"""Which references a sample takes: in-pair crops of the clip itself, cross-pair crops of the same identity from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_schemas.ids import short_hash
from stages.subjects.identities import Crops, Identities
from stages.subjects.retrieve import Candidates

MAX_REFERENCES = 4


@dataclass(frozen=True)
class Taken:
    """One reference of a sample: the crop, the identity in the target clip that it stands for, and cosines."""

    crop: int
    identity: int
    similarity: float | None
    background: float | None


@dataclass(frozen=True)
class Draft:
    """A sample before its prompt is written; references in the order in which the caption names them."""

    kind: str
    clip: int
    references: tuple[Taken, ...]


def by_clip(identities: Identities) -> Iterator[tuple[int, list[int]]]:
    """Each clip that has subjects, with its identities in the caption's order."""
    here = np.flatnonzero(identities.clip >= 0)
    order = here[np.lexsort((identities.subject[here], identities.clip[here]))]
    starts = np.flatnonzero(np.diff(identities.clip[order], prepend=-1))
    for start, end in zip(starts, np.append(starts[1:], len(order))[: len(starts)], strict=True):
        yield int(identities.clip[order[start]]), order[start:end].tolist()


def in_pair(
    clip: int,
    of: Sequence[int],
    crops: Crops,
    spans: NDArray[np.int64],
    *,
    fps: float,
    seed: int,
    lower: float,
    most: int,
) -> tuple[list[Draft], str | None]:
    """In-pair samples of a clip, or why there is none: crops of its subjects, never from its first frame.

    A crop must resemble the mean of its subject's other crops; one that does not shows something else. ``spans`` (N + 1) are
    the first crops of each identity. Which crops are taken is drawn by hash of the seed.
    """
    fitting: list[list[Taken]] = []
    later = False
    for identity in of[:MAX_REFERENCES]:
        mine = []
        for crop in range(int(spans[identity]), int(spans[identity + 1])):
            if not crops.time_s[crop] > 0.5 / max(fps, 1e-6):
                continue
            later = True
            cosine = None if np.isnan(crops.others[crop]) else float(crops.others[crop])
            if cosine is None or cosine >= lower:
                mine.append(Taken(crop, identity, cosine, None))
        mine.sort(key=lambda t: short_hash("in_pair", seed, crops.about["subject_id"][t.crop].as_py()))
        fitting.append(mine)
    drafts = []
    for i in range(most):
        references = tuple(mine[i] for mine in fitting if i < len(mine))
        if references:
            drafts.append(Draft("in_pair", clip, references))
    return drafts, None if any(fitting) else "subject_changes" if later else "only_the_first_frame"


def cross_pair(clip: int, of: Sequence[int], found: Candidates, identities: Identities, most: int) -> list[Draft]:
    """Cross-pair samples of a clip: the i-th takes the i-th reference of each of its subjects that has so many."""
    chosen: list[list[Taken]] = []
    for identity in of[:MAX_REFERENCES]:
        mine = []
        for column in np.flatnonzero(found.reason[identity] == 0):
            other, ground = int(found.row[identity, column]), float(found.background[identity, column])
            similarity = round(float(found.cosine[identity, column]), 6)
            known = None if np.isnan(ground) else round(ground, 6)
            mine.append(Taken(int(identities.best[other]), identity, similarity, known))
        chosen.append(mine)
    drafts = []
    for i in range(most):
        references: dict[int, Taken] = {}
        for mine in chosen:
            if i < len(mine):
                references.setdefault(mine[i].crop, mine[i])  # two subjects of a clip are never one picture
        if references:
            drafts.append(Draft("cross_pair", clip, tuple(references.values())))
    return drafts
