"""Label Studio's JSON: a campaign with its answers as tasks with annotations, and such tasks as a campaign.

A task's ``data`` holds what is shown, its ``meta`` what is not. An annotation is one person's standing answer: choices for a
filter (``decision``, ``reasons``) or a pair (``preference``, ``rest_same``; always in terms of the stored pair, never of
left and right), ratings for a rubric's dimensions. A skip is a cancelled annotation.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import sqlalchemy as sa

from stages.review import queue
from stages.review.answers import Answer, Form, Side, kind_of, sides
from stages.review.campaigns import create_campaign, read_campaign
from stages.review.database import Database
from stages.review.errors import ReviewError
from stages.review.labels import Label, load_labels
from stages.review.media import NAME, MediaStore
from stages.review.people import person_named
from stages.review.proxies import place_file
from stages.review.schema import item
from stages.review.spec import LIKERT_RUBRIC, CampaignSpec, Dimension, NewItem, digest, item_id

_MEDIA = ("media", "winner", "loser", "a", "b", "reference")
_MEDIA_LISTS = ("keyframes", "references", "pictures")
_URL = "/media/"
_META = ("stratum", "inclusion_probability", "priority", "uncertainty")
_UNNAMED = 9  # reason tags that a campaign can have


# -- out


def export_tasks(db: Database, campaign_id: str) -> list[dict[str, Any]]:
    """All items with their standing answers, whatever state the campaign is in. For leads: it names people and systems."""
    with db.read() as connection:
        of = read_campaign(connection, campaign_id)
        labels = load_labels(connection, of)
        query = sa.select(item).where(item.c.campaign_id == campaign_id, item.c.state == "open").order_by(item.c.id)
        rows = connection.execute(query).mappings().all()
    people = {one.person.name: 0 for one in labels.answers}
    people = {name: number for number, name in enumerate(sorted(people), 1)}
    tasks = []
    for number, row in enumerate(rows, 1):
        annotations = [_annotation(one, of.spec, people) for one in labels.by_item[row["id"]]]
        tasks.append(
            {
                "id": number,
                "data": {"external_id": row["external_id"], **_shown(json.loads(row["payload"]))},
                "meta": {
                    "campaign": campaign_id,
                    "hidden": json.loads(row["hidden"]),
                    "gold": json.loads(row["gold"]) if row["gold"] and not row["gold_withdrawn"] else None,
                    **{name: row[name] for name in _META},
                },
                "annotations": annotations,
                "total_annotations": sum(not one["was_cancelled"] for one in annotations),
                "cancelled_annotations": sum(one["was_cancelled"] for one in annotations),
            }
        )
    return tasks


def _shown(payload: Mapping[str, Any]) -> dict[str, Any]:
    shown = dict(payload)
    for name in _MEDIA:
        if shown.get(name):
            shown[name] = _URL + shown[name]
    for name in _MEDIA_LISTS:
        if name in shown:
            shown[name] = [_URL + one for one in shown[name]]
    return shown


def _annotation(one: Label, spec: CampaignSpec, people: Mapping[str, int]) -> dict[str, Any]:
    side = None
    if spec.kind == "pairwise" and one.seen in ("left", "right"):
        side = "AB" if (one.seen == "left") == (one.verdict == sides(spec.form)[0]) else "BA"
    return {
        "id": int(digest("annotation", one.thing.id, one.person.id)[:12], 16),
        "completed_by": {"id": people[one.person.name], "first_name": one.person.name, "last_name": "", "email": ""},
        "was_cancelled": one.verdict == "skip",
        "ground_truth": False,
        "created_at": datetime.fromtimestamp(one.submitted_at, UTC).isoformat(),
        "lead_time": None if one.watched_ms is None else one.watched_ms / 1000,
        "result": list(_results(one, spec, side)),
    }


def _results(one: Label, spec: CampaignSpec, side: str | None) -> Iterable[dict[str, Any]]:
    to = "video" if spec.kind != "pairwise" else "pair"

    def choices(name: str, values: list[str]) -> dict[str, Any]:
        result = {"id": name, "from_name": name, "to_name": to, "type": "choices", "value": {"choices": values}}
        return result | ({"meta": {"side": side}} if side and name == "preference" else {})

    if one.verdict == "rate":
        for name, score in one.values["scores"].items():
            yield {"id": name, "from_name": name, "to_name": to, "type": "rating", "value": {"rating": score}}
    elif one.verdict != "skip":
        yield choices("decision" if spec.form == "filter" else "preference", [one.verdict])
    if "rest_same" in one.values:
        yield choices("rest_same", ["yes" if one.values["rest_same"] else "no"])
    if one.reasons:
        yield choices("reasons", list(one.reasons))


def label_config(spec: CampaignSpec) -> str:
    """The labelling interface that shows such tasks in Label Studio."""

    def choice(name: str, to: str, values: Iterable[str], many: bool = False, required: bool = True) -> str:
        inner = "".join(f"<Choice value={quoteattr(value)}/>" for value in values)
        kind = "multiple" if many else "single"
        need = "true" if required else "false"
        return f'  <Choices name="{name}" toName="{to}" choice="{kind}" required="{need}">{inner}</Choices>'

    if spec.kind == "pairwise":
        first, second = sides(spec.form)
        lines = [f'  <Video name="pair" value="${first}"/>', f'  <Video name="other" value="${second}"/>']
        lines.append(choice("preference", "pair", (first, "same", second, "both_bad")))
        if spec.form == "consis":
            lines.append(choice("rest_same", "pair", ("yes", "no"), required=False))
    else:
        # A campaign with a question of its own shows pictures, and the clip only where it asks about one.
        lines = (
            ['  <Video name="video" value="$media"/>']
            if not spec.asks
            else ['  <Image name="video" valueList="$pictures"/>']
        )
        if spec.form == "filter":
            lines.append(choice("decision", "video", ("accept", "reject")))
        for one in spec.rubric:
            lines.append(f"  <Header value={quoteattr(one.question)}/>")
            lines.append(f'  <Rating name="{one.name}" toName="video" maxRating="5" required="true"/>')
    if spec.reasons:
        lines.append(choice("reasons", "pair" if spec.kind == "pairwise" else "video", spec.reasons, True, False))
    return "\n".join(["<View>", *lines, "</View>"]) + "\n"


# -- in


@dataclass(frozen=True)
class Imported:
    """What came in: items, answers, and annotations that could not be read, each with its reason."""

    items: int
    answers: int
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class _Given:
    """One annotation, read: whose, and the answer as if the first video had stood on ``side``'s left."""

    name: str
    choice: str
    reasons: tuple[str, ...]
    rest_same: bool | None
    scores: dict[str, int]
    side: Side
    seconds: float | None
    at: float


def read_tasks(path: Path) -> list[dict[str, Any]]:
    """The tasks of a file. Raises ``ReviewError`` when it is not a list of tasks with ``data``."""
    try:
        tasks = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ReviewError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(tasks, list) or not all(
        isinstance(task, dict) and isinstance(task.get("data"), dict) for task in tasks
    ):
        raise ReviewError(f"{path} is no Label Studio export: that is a list of tasks, each with its data.")
    if not tasks:
        raise ReviewError(f"{path} has no tasks.")
    return tasks


def import_tasks(
    db: Database,
    tasks: list[dict[str, Any]],
    media: MediaStore,
    folder: Path,
    *,
    campaign_id: str,
    form: Form,
    title: str,
    guidelines: str = "",
    overlap: int = 1,
) -> Imported:
    """Make an open campaign of the tasks, with their annotations as its answers.

    Media are names under ``/media/`` that are here already, or paths relative to ``folder``. Repeating the call changes
    nothing. Annotations that say nothing this campaign understands are named in the result and left out.
    """
    items = [_item(task, number, form, media, folder) for number, task in enumerate(tasks, 1)]
    given: list[tuple[str, _Given]] = []
    left_out = []
    for number, (task, new) in enumerate(zip(tasks, items, strict=True), 1):
        for annotation in task.get("annotations") or ():
            try:
                given.append((new.external_id, _given(annotation, form)))
            except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
                left_out.append(f"task {task.get('id', number)}: {error}")
    spec = CampaignSpec(
        campaign_id=campaign_id,
        form=form,
        title=title,
        guidelines=guidelines,
        reasons=_tags(one.reasons for _, one in given if one.choice != "skip"),
        skip_reasons=_tags(one.reasons for _, one in given if one.choice == "skip") or ("cannot tell", "other"),
        rubric=_rubric(given) if form == "likert" else (),
        overlap=overlap,
        carry=False,
    )
    create_campaign(db, spec, items)
    stored = 0
    for external_id, one in sorted(given, key=lambda pair: pair[1].at):
        who = person_named(db, one.name)
        key = digest("imported", campaign_id, external_id, one.name)[:32]
        reasons = one.reasons or (spec.skip_reasons[-1:] if one.choice == "skip" else ())
        answer = Answer(
            item_id(campaign_id, external_id), key, one.choice, reasons, one.rest_same,
            None if one.seconds is None else round(one.seconds * 1000), one.scores,
        )  # fmt: skip
        try:
            stored += not queue.bring_in(db, who, answer, one.side, now=one.at).repeated
        except ReviewError as error:
            left_out.append(f"{external_id}, {one.name}: {error}")
    return Imported(len(items), stored, tuple(left_out))


def _tags(reasons: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """Reason tags in use, each once, in order of first use."""
    found = tuple(dict.fromkeys(tag for some in reasons for tag in some if tag != "broken"))
    if len(found) > _UNNAMED:
        raise ReviewError(f"The tasks use {len(found)} reason tags; a campaign has at most {_UNNAMED}, one digit each.")
    return found


def _rubric(given: list[tuple[str, _Given]]) -> tuple[Dimension, ...]:
    known = {one.name: one for one in LIKERT_RUBRIC}
    names = dict.fromkeys(name for _, one in given for name in one.scores)
    blank = ("1", "2", "3", "4", "5")
    return tuple(known.get(name) or Dimension(name=name, question=name, anchors=blank) for name in names)


def _item(task: Mapping[str, Any], number: int, form: Form, media: MediaStore, folder: Path) -> NewItem:
    data, meta = dict(task["data"]), task.get("meta") or {}
    external_id = str(data.pop("external_id", task.get("id", number)))
    if "video" in data and "media" not in data:
        data["media"] = data.pop("video")  # what Label Studio's own templates call it
    needed = sides(form) if kind_of(form) == "pairwise" else () if data.get("pictures") else ("media",)
    missing = [name for name in needed if not data.get(name)]
    if missing:
        raise ReviewError(f"Task {external_id}: a {form} task needs {' and '.join(missing)} in its data.")
    for name in _MEDIA:
        if data.get(name):
            data[name] = _media_name(str(data[name]), external_id, media, folder)
    for name in _MEDIA_LISTS:
        if name in data:
            data[name] = [_media_name(str(one), external_id, media, folder) for one in data[name]]
    return NewItem(
        external_id,
        data,
        hidden=meta.get("hidden") or {},
        gold=meta.get("gold"),
        **{name: meta[name] for name in _META if name in meta},
    )


def _media_name(value: str, external_id: str, media: MediaStore, folder: Path) -> str:
    name = value.removeprefix(_URL)
    if NAME.fullmatch(name):
        if media.find(name) is None:
            raise ReviewError(f"Task {external_id}: {value} is not among the media in {media.root}.")
        return name
    path = folder / value
    try:
        return place_file(media, path, True)
    except (OSError, ValueError) as error:
        raise ReviewError(
            f"Task {external_id}: {value} cannot be shown: {error}. Media are WebM, PNG or JPEG files, by paths "
            f"relative to {folder}; remote ones must be fetched first."
        ) from error


def _given(annotation: Mapping[str, Any], form: Form) -> _Given:
    results = {one["from_name"]: one for one in annotation.get("result") or ()}

    def chosen(name: str) -> list[str]:
        return list(results[name]["value"]["choices"]) if name in results else []

    skipped = bool(annotation.get("was_cancelled"))
    side: Side = "AB"
    choice, scores = "skip", {}
    if not skipped and form == "likert":
        scores = {name: int(one["value"]["rating"]) for name, one in results.items() if one["type"] == "rating"}
        choice = "rate"
    elif not skipped:
        name = "decision" if form == "filter" else "preference"
        said = chosen(name)
        if not said:
            raise ValueError(f"an annotation has no {name}")
        choice = said[0]
        if (results[name].get("meta") or {}).get("side") == "BA":
            side = "BA"
        if choice in sides(form):
            choice = "left" if (choice == sides(form)[0]) == (side == "AB") else "right"
    reasons = tuple(chosen("reasons"))
    if "broken" in reasons and choice == "both_bad":
        choice, reasons = "broken", tuple(one for one in reasons if one != "broken")
    rest = chosen("rest_same")
    at = annotation.get("created_at")
    seconds = annotation.get("lead_time")
    return _Given(
        _name(annotation.get("completed_by")),
        choice,
        reasons,
        None if not rest else rest[0] == "yes",
        scores,
        side,
        None if seconds is None else float(seconds),
        datetime.fromisoformat(str(at).replace("Z", "+00:00")).timestamp() if at else 0.0,
    )


def _name(who: Any) -> str:
    if isinstance(who, Mapping):
        full = f"{who.get('first_name') or ''} {who.get('last_name') or ''}".strip()
        return full or str(who.get("email") or f"Label Studio user {who.get('id')}")
    return f"Label Studio user {who}"
