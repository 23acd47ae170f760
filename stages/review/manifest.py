"""Items from a list that a user wrote: one JSON object a line, media named by path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stages.review.answers import Form, kind_of, sides
from stages.review.errors import ReviewError
from stages.review.media import MediaStore
from stages.review.proxies import SUFFIXES, place_file
from stages.review.spec import NewItem

_SHOWN = 5  # problems told at once


class Line(BaseModel):
    """One item. Paths are relative to the list's own folder; videos are WebM, pictures PNG or JPEG."""

    model_config = ConfigDict(extra="forbid")

    external_id: str = Field(min_length=1, max_length=256)
    media: str | None = Field(None, description="the video of a filter or likert item")
    winner: str | None = None
    loser: str | None = None
    a: str | None = None
    b: str | None = None
    reference: str | None = None
    references: list[str] = []
    text: str | None = Field(None, description="caption or prompt")
    duration_s: float | None = Field(None, gt=0)
    fps: float | None = Field(None, gt=0)
    system: str | None = Field(None, description="what made it; never shown")
    systems: tuple[str, str] | None = Field(None, description="what made a and b; never shown")
    prompt_id: str | None = Field(None, description="answers of one prompt are drawn together for intervals")
    stratum: str = "kept"
    inclusion_probability: float = Field(1.0, gt=0, le=1)
    priority: int = Field(0, ge=-(2**31), lt=2**31)
    uncertainty: float = Field(0.0, ge=0, le=1)
    gold: dict[str, Any] | None = None


def read_items(listing: Path, form: Form, media: MediaStore) -> list[NewItem]:
    """The items, their media copied to where the page finds them.

    Raises ``ReviewError`` that names the first bad lines, before anything is copied.
    """
    try:
        lines = listing.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ReviewError(f"The list {listing} cannot be read: {error}.") from error
    found: list[Line] = []
    problems = []
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            line = Line.model_validate(json.loads(text))
            problems += [f"line {number}: {problem}" for problem in _problems(line, form, listing.parent)]
            found.append(line)
        except json.JSONDecodeError as error:
            problems.append(f"line {number}: not JSON ({error.msg})")
        except ValidationError as error:
            first = error.errors()[0]
            problems.append(f"line {number}: {'.'.join(map(str, first['loc'])) or 'the line'}: {first['msg']}")
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise ReviewError(f"{listing}: {'; '.join(problems[:_SHOWN])}{more}.")
    if not found:
        raise ReviewError(f"{listing} has no items.")
    return [_item(line, form, listing.parent, media) for line in found]


def _videos(form: Form) -> tuple[str, ...]:
    return sides(form) if kind_of(form) == "pairwise" else ("media",)


def _problems(line: Line, form: Form, folder: Path) -> list[str]:
    needed = _videos(form)
    found = [f"a {form} item needs {name}" for name in needed if getattr(line, name) is None]
    found += [
        f"a {form} item has no {name}"
        for name in ("media", "winner", "loser", "a", "b")
        if name not in needed and getattr(line, name) is not None
    ]
    pictures = [*line.references, *([line.reference] if line.reference else [])]
    for name in (*(getattr(line, one) for one in needed), *pictures):
        if name is None:
            continue
        if not (folder / name).is_file():
            found.append(f"there is no file {name}")
        elif Path(name).suffix.lower() not in SUFFIXES:
            found.append(f"{name} is neither WebM, PNG nor JPEG; a browser without patented codecs would not show it")
    return found


def _item(line: Line, form: Form, folder: Path, media: MediaStore) -> NewItem:
    def place(name: str | None) -> str | None:
        return None if name is None else place_file(media, folder / name, True)

    payload: dict[str, Any] = {name: place(getattr(line, name)) for name in _videos(form)}
    pictures = [*line.references, *([line.reference] if line.reference else [])]
    placed = [name for name in map(place, pictures) if name]
    if form == "filter":
        payload |= {"keyframes": placed, "caption": line.text}
    elif form == "likert":
        payload |= {"references": placed, "prompt": line.text}
    else:
        payload |= {"reference": placed[0] if placed else None, "prompt": line.text}
    payload |= {name: value for name in ("duration_s", "fps") if (value := getattr(line, name)) is not None}
    hidden = {name: value for name in ("system", "systems", "prompt_id") if (value := getattr(line, name)) is not None}
    return NewItem(
        line.external_id,
        payload,
        line.stratum,
        line.inclusion_probability,
        line.priority,
        line.uncertainty,
        hidden,
        line.gold,
    )
