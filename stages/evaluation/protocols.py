"""Known benchmarks read as what they ask: DreamBooth's subjects and prompts, OpenS2V-Eval's samples."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from stages.contract import StageError
from stages.evaluation.manifest import Asked

PICTURES = (".jpg", ".jpeg", ".png", ".webp")
LIVE = frozenset({"cat", "dog"})  # the classes that DreamBooth asks its live-subject prompts of
_LIST = re.compile(r"prompt_list\s*=\s*\[(.*?)\]", re.S)
_PROMPT = re.compile(r"'([^']*)'\.format\(unique_token,\s*class_token\)")


def dreambooth(
    folder: Path, start: Path, *, references: int = 1, prompts: int | None = None, seeds: Sequence[int] = (0,)
) -> list[Asked]:
    """Each subject of a copy of DreamBooth's data set with its class's prompts (CVPR 2023: 25 for things, 25 for cats and dogs).

    The rare token that stands for a fine-tuned subject is left out: a zero-shot model sees the reference instead, and CLIP has
    never seen the token. ``references`` photographs are shown, the first by name; ``prompts`` of the 25 are taken, evenly
    spread and shifted from subject to subject; null takes all. Paths are relative to ``start``. ``StageError`` says what of
    the data set is missing.
    """
    listing = folder / "prompts_and_classes.txt"
    try:
        text = listing.read_text(encoding="utf-8")
    except OSError as error:
        raise StageError(
            f"{folder} is no copy of DreamBooth's data set: {listing.name} cannot be read ({error.strerror})"
        ) from error
    classes = dict(re.findall(r"^(\w+),([^,\n]+?)\s*$", text, re.M))
    lists = [_PROMPT.findall(found) for found in _LIST.findall(text)]
    if len(lists) != 2 or not all(lists):
        raise StageError(f"{listing} does not hold DreamBooth's two prompt lists (objects, live subjects)")
    subjects = sorted(p for p in folder.iterdir() if p.is_dir() and p.name in classes)
    if not subjects:
        raise StageError(f"{folder} holds no folder of a subject that {listing.name} names")
    asked = []
    for number, subject in enumerate(subjects):
        photographs = sorted(p for p in subject.iterdir() if p.suffix.lower() in PICTURES)
        if len(photographs) < references:
            raise StageError(f"{subject} holds {len(photographs)} pictures, {references} were asked for")
        name = classes[subject.name]
        whole = lists[1 if name in LIVE else 0]
        count = min(prompts or len(whole), len(whole))
        taken = sorted({(number + round(i * len(whole) / count)) % len(whole) for i in range(count)})
        shown = tuple(os.path.relpath(p, start) for p in photographs[:references])
        for index in taken:
            prompt = re.sub(r"\s+", " ", whole[index].format("", name)).strip()
            asked.append(
                Asked(prompt_id=f"{subject.name}-{index:02d}", prompt=prompt, references=shown, seeds=tuple(seeds))
            )
    return asked


def opens2v(listing: Path, start: Path, *, seeds: Sequence[int] = (42,)) -> list[Asked]:
    """OpenS2V-Eval (arXiv 2505.20292): a JSON object by sample id, each with ``prompt`` and ``img_paths`` beside the listing.

    The published protocol makes one video per sample with seed 42, named by the sample's id. Paths are relative to ``start``.
    """
    try:
        found = json.loads(listing.read_text(encoding="utf-8"))
        return [
            Asked(
                prompt_id=name,
                prompt=str(sample["prompt"]).strip(),
                references=tuple(os.path.relpath(listing.parent / picture, start) for picture in sample["img_paths"]),
                seeds=tuple(seeds),
            )
            for name, sample in found.items()
        ]
    except OSError as error:
        raise StageError(f"{listing} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StageError(
            f"{listing} is not in OpenS2V-Eval's layout, an object of sample ids with prompt and img_paths ({error})"
        ) from error
