"""Prompts of training pairs by the two-stage rephraser of a model, the template where it does not keep to the layout."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stages.asking import EndpointParams, Spent, ask_all
from stages.contract import Context
from stages.subjects.crop_files import CropFiles
from stages.work import content_key

if TYPE_CHECKING:
    from models.captioners.protocols import Writer

Row = dict[str, Any]  # of the table pairs


def rephrased(
    ctx: Context,
    endpoint: EndpointParams,
    files: CropFiles,
    rows: Sequence[Row],
    captions: Sequence[str | None],
    token: str,
    spent: Spent,
) -> list[dict[str, object]]:
    """Rewrite the prompts of ``rows`` in place, and their references' appearances with them; returns a line of the ledger for each.

    A row without a caption has nothing to rewrite and keeps its template. ``prompt_by`` says who wrote each.
    """
    asked = [(row, caption) for row, caption in zip(rows, captions, strict=True) if caption]
    files.fetch(x["subject_id"] for row, _ in asked for x in row["references"])
    keys: dict[str, str] = {}
    questions: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    for row, caption in asked:
        bound = [(x["subject_id"], x["phrase"]) for x in row["references"]]
        key = content_key(caption, *(part for one, phrase in bound for part in (files.digests[one], phrase)))
        keys[row["sample_id"]] = key
        questions[key] = (caption, bound)
    how = {"token": token}
    answers = ask_all(ctx, "rephraser", "1", endpoint, how, questions, lambda w, q: _ask(w, files, q, token), spent)
    lines: list[dict[str, object]] = []
    for row in rows:
        key = keys.get(row["sample_id"], "")
        said: Mapping[str, Any] | None = answers.rows.get(key)
        note = "no caption to rewrite" if not key else answers.failed.get(key, "")
        if said is not None:
            row["prompt"], row["prompt_by"] = said["prompt"], said["by"]
            for reference, look in zip(row["references"], json.loads(said["looks"]), strict=True):
                reference["appearance"] = look
            note = f"{said['why']}; {answers.note(key)}" if said["why"] else answers.note(key)
        lines.append(
            {
                "record_id": row["sample_id"],
                "video_id": row["video_id"],
                "status": "accepted",
                "note": f"prompt by {row['prompt_by']}: {note}",
            }
        )
    return lines


def _ask(writer: Writer, files: CropFiles, question: tuple[str, list[tuple[str, str]]], token: str) -> dict[str, str]:
    from models.subjects.frames import picture
    from models.subjects.rephrase import Picture, rephrase

    caption, bound = question
    pictures = [Picture(one, picture(files.crop(one), one), picture(files.mask(one), one)[..., 0]) for one, _ in bound]
    said = rephrase(caption, pictures, writer=writer, phrases=[phrase for _, phrase in bound], token=token)
    looks = [one.appearance for one in said.references]
    why = "; ".join(one for one in (said.why, *(r.why for r in said.references)) if one)
    return {"prompt": said.prompt, "by": said.by, "why": why, "looks": json.dumps(looks, ensure_ascii=False)}
