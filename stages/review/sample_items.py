"""Turns generated videos into items: two systems' videos of one prompt beside each other, or one video to rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from stages.contract import NotEnoughRows, StageError
from stages.review.media import MediaStore
from stages.review.proxies import place_file
from stages.review.spec import NewItem, digest
from stages.training.media import local_media

Sample = Mapping[str, Any]  # a row of the table samples
SampleForm = Literal["compare", "likert"]


@dataclass(frozen=True)
class Showing:
    """What one item asks: the systems whose videos of one prompt and seed it shows, two or one."""

    prompt_id: str
    seed: int
    systems: tuple[str, ...]

    @property
    def external_id(self) -> str:
        return f"{self.prompt_id}/{self.seed}/{'/'.join(self.systems)}"


def questions(
    samples: Sequence[Sample], form: SampleForm, systems: Sequence[str] | None, prompts: int, seeds: int, seed: int
) -> list[Showing]:
    """All items: the same prompts and noise for every system, each system against each other or by itself.

    ``prompts`` are drawn by a hash with ``seed``; without ``systems`` all are judged that the table has. Raises ``StageError``
    for a system without samples, ``NotEnoughRows`` for too few systems to compare.
    """
    there = list(dict.fromkeys(row["system"] for row in samples))
    chosen = list(systems or there)
    strange = [name for name in chosen if name not in there]
    if strange:
        raise StageError(f"no samples of {', '.join(strange)}; there are {', '.join(there) or 'none'}. Change systems.")
    if form == "compare" and len(chosen) < 2:
        raise NotEnoughRows("systems to compare", 2, len(chosen), "Sample another one, or rate by form: likert.")
    noise: dict[str, set[int]] = {}
    for row in samples:
        noise.setdefault(row["prompt_id"], set()).add(row["seed"])
    drawn = sorted(noise, key=lambda prompt: digest("judged", seed, prompt))[:prompts]
    shown = list(combinations(chosen, 2)) if form == "compare" else [(name,) for name in chosen]
    return [
        Showing(prompt, number, names)
        for prompt in drawn
        for number in sorted(noise[prompt])[:seeds]
        for names in shown
    ]


def impossible(asked: Sequence[Showing], samples: Sequence[Sample]) -> dict[str, str]:
    """By external_id, why a question cannot be asked: a system of it has no video."""
    rows = _by_place(samples)
    found = {}
    for one in asked:
        for system in one.systems:
            row = rows.get((system, one.prompt_id, one.seed))
            if row is None:
                found[one.external_id] = f"{system} was given no such prompt and seed"
            elif row["status"] != "ok" or row["uri"] is None:
                found[one.external_id] = f"{system} made no video: {row['error_message'] or 'no reason was recorded'}"
    return found


def sample_items(asked: Sequence[Showing], samples: Sequence[Sample], videos: Path, media: MediaStore) -> list[NewItem]:
    """The items of questions that can be asked. Files are named by their content, so that no name betrays a system.

    Raises ``StageError`` when a video is missing or of a kind that the page cannot play: the stage before wrote it.
    """
    rows = _by_place(samples)
    items = []
    for one in asked:
        shown = [rows[system, one.prompt_id, one.seed] for system in one.systems]
        reference = shown[0]["reference_uri"]
        try:
            names = [place_file(media, local_media(videos, row["uri"]), True) for row in shown]
            picture = place_file(media, local_media(videos, reference), True) if reference else None
        except (OSError, ValueError) as error:
            raise StageError(f"Sample {one.external_id} cannot be shown: {error}. Make the samples again.") from error
        payload: dict[str, Any] = {"prompt": shown[0]["prompt"]}
        hidden: dict[str, Any] = {"prompt_id": one.prompt_id}
        if len(names) == 2:
            payload |= {"a": names[0], "b": names[1], "reference": picture}
            hidden |= {"systems": list(one.systems)}
        else:
            payload |= {"media": names[0], "references": [picture] if picture else []}
            hidden |= {"system": one.systems[0]}
        items.append(NewItem(one.external_id, payload, hidden=hidden))
    return items


def _by_place(samples: Sequence[Sample]) -> dict[tuple[str, str, int], Sample]:
    return {(row["system"], row["prompt_id"], row["seed"]): row for row in samples}
