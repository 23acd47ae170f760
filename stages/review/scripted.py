"""Reviewers that are programs: they answer a campaign through the same queue as people, under a name that says so.

``script:rules`` repeats what the pipeline thinks already (a clip the rules kept is accepted, one they rejected is rejected;
of a pair the intended winner wins): it lets an unattended run go on and tells nothing new about the data.
``script:histogram`` judges pairs by a plain statistic of their colours, described at ``histogram_judge``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stages.review.answers import Answer
from stages.review.database import Database
from stages.review.people import person_named
from stages.review.queue import Claimed, claim, submit
from stages.review.spec import digest

CLAIM_AT_ONCE = 50

# A judge sees the claimed item and answers in terms of the stored payload: accept or reject with reasons; winner, same or
# loser, and for a Consis pair whether the rest is the same.
Judge = Callable[[Claimed], Mapping[str, Any]]


def answer_all(db: Database, campaign_id: str, name: str, judge: Judge, on_answer: Callable[[], None]) -> int:
    """Claim and answer until nothing is left for this reviewer; returns the number of answers.

    It says left or right like anybody else and the queue undoes the sides, so that an unattended run exercises the
    very road that people's answers take.
    """
    who = person_named(db, name, "script")
    answered = 0
    while held := claim(db, campaign_id, who, CLAIM_AT_ONCE):
        for one in held:
            said = judge(one)
            choice = said["choice"]
            if choice in ("winner", "loser"):
                choice = "left" if (choice == "winner") == (one.side == "AB") else "right"
            key = digest(name, one.item_id)[:32]
            submit(db, who, Answer(one.item_id, key, choice, tuple(said.get("reasons", ())), said.get("rest_same")))
            answered += 1
            on_answer()
    return answered


def rules_filter_judge(strata: Mapping[str, str]) -> Judge:
    """Accept what the rules kept, reject the rest. ``strata`` maps clip_id to its stratum."""

    def judge(one: Claimed) -> Mapping[str, Any]:
        return {"choice": "accept" if strata[one.external_id] == "kept" else "reject"}

    return judge


def rules_pair_judge(one: Claimed) -> Mapping[str, Any]:
    """The intended winner wins and the rest is the same."""
    return {"choice": "winner", "rest_same": True}


def histogram_judge(media: Mapping[str, Mapping[str, Path]], tie: float = 0.01, rest: float = 0.25) -> Judge:
    """Prefer the video whose colours are closer to the reference's; a statistic, not an opinion.

    A picture's signature is its 8 x 8 x 8 RGB histogram as shares; the closeness of two pictures is the histogram
    intersection (0..1; Swain and Ballard 1991), of a video the mean over its frames. Differences up to ``tie`` are the
    same. The rest counts as the same while the two videos' mean frames differ by at most ``rest`` of the full range.
    Without a reference the videos' frame-to-frame change decides: the one that moves more wins. ``media`` maps pair_id
    to the files winner, loser and, if there is one, reference.
    """

    def judge(one: Claimed) -> Mapping[str, Any]:
        import numpy as np

        from models.video.encode import read_video
        from models.video.image import read_image

        files = media[one.external_id]
        winner, loser = (read_video(files[side])[0] for side in ("winner", "loser"))
        if "reference" in files:
            reference = _histogram(read_image(files["reference"])[0][..., ::-1])
            scores = [np.mean([np.minimum(reference, _histogram(f)).sum() for f in v]) for v in (winner, loser)]
        else:
            scores = [
                np.abs(np.diff(v.astype(np.float32), axis=0)).mean() / 255 if len(v) > 1 else 0.0
                for v in (winner, loser)
            ]
        lean = float(scores[0] - scores[1])
        change = float(
            np.abs(winner.astype(np.float32).mean((0, 1, 2)) - loser.astype(np.float32).mean((0, 1, 2))).mean()
        )
        choice = "same" if abs(lean) <= tie else "winner" if lean > 0 else "loser"
        return {"choice": choice, "rest_same": change / 255 <= rest}

    return judge


def _histogram(picture: Any) -> Any:
    import numpy as np

    bins = (picture // 32).astype(np.int64)
    flat = (bins[..., 0] * 64 + bins[..., 1] * 8 + bins[..., 2]).ravel()
    return np.bincount(flat, minlength=512) / flat.size
