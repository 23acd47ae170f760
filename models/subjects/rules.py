"""Which regions are subjects: the box rules, and what happens where one phrase names several things."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from models.subjects.protocols import Proposal, Region, area, iou
from models.subjects.quality import completeness


@dataclass(frozen=True)
class Rules:
    """What a subject's region must satisfy.

    ``min_area`` and ``max_area`` are shares of the frame, ``min_side`` px of the frame, ``max_iou`` the overlap above which two
    boxes are one, ``most`` the subjects of one instant, ``min_confidence`` the least of a proposal, ``min_complete`` the least
    share of the outline that the frame does not cut off.
    """

    min_area: float
    max_area: float
    min_side: int
    max_iou: float
    most: int
    min_confidence: float
    min_complete: float


def unambiguous(proposals: Sequence[Proposal], rules: Rules) -> tuple[list[Proposal], list[str]]:
    """Confident proposals, one for each phrase, best first; the second list names why others were dropped.

    Where a phrase has several boxes that are not one and the same, all of them go: which one it names cannot be told
    (Phantom-Data, arXiv 2506.18851). Proposals without a phrase are not asked this.
    """
    confident = sorted((p for p in proposals if p.confidence >= rules.min_confidence), key=lambda p: -p.confidence)
    kept: list[Proposal] = []
    for proposal in confident:
        twin = (p for p in kept if p.phrase == proposal.phrase and iou(p.box, proposal.box) > rules.max_iou)
        if proposal.phrase is None or next(twin, None) is None:
            kept.append(proposal)
    counts = Counter(p.phrase for p in kept if p.phrase is not None)
    several = [p for p in kept if p.phrase is not None and counts[p.phrase] > 1]
    return [p for p in kept if p not in several], ["ambiguous_phrase"] * len(several)


def judge(regions: Sequence[Region], size: tuple[int, int], rules: Rules) -> tuple[list[Region], list[str]]:
    """The regions (of a frame of height and width ``size``) that satisfy the rules, best first, and the rules that stopped the others."""
    kept: list[Region] = []
    stopped: list[str] = []
    for region in sorted(regions, key=lambda r: -r.confidence):
        x0, y0, x1, y1 = region.box
        share = area(region.box)
        if share < rules.min_area:
            stopped.append("box_too_small")
        elif share > rules.max_area:
            stopped.append("box_too_large")
        elif min((x1 - x0) * size[1], (y1 - y0) * size[0]) < rules.min_side:
            stopped.append("side_too_short")
        elif completeness(region.mask) < rules.min_complete:
            stopped.append("cut_off")
        elif any(iou(region.box, other.box) > rules.max_iou for other in kept):
            stopped.append("same_box")
        elif len(kept) >= rules.most:
            stopped.append("not_the_main_subject")
        else:
            kept.append(region)
    return kept, stopped
