"""What systems are called and in which order they stand: those of the road first, others as they come."""

from __future__ import annotations

from collections.abc import Iterable

SYSTEMS = {
    "base_text": "base, text alone",
    "base": "base",
    "cross": "SFT cross-pair",
    "in": "SFT in-pair",
    "sft": "merged SFT",
    "consis": "+ Consis-DPO",
    "real_fake": "+ Real-Fake DPO",
    "final": "final",
}
DPO = frozenset({"consis", "real_fake"})
CLEAR = 0.05  # adjusted p below which a difference is marked
MEANINGLESS = "means nothing"  # what evaluate notes beside numbers of random encoders


def in_road_order(systems: Iterable[str]) -> list[str]:
    names = list(dict.fromkeys(systems))
    road = [s for s in SYSTEMS if s in names]
    return road + [s for s in names if s not in SYSTEMS]


def title_of(system: str) -> str:
    return SYSTEMS.get(system, system)
