"""What a reviewer's browser gets to see of an item: media, words and nothing that could lean an answer."""

from __future__ import annotations

from typing import Any

from stages.review.answers import Form, sides
from stages.review.campaigns import CampaignSpec, Progress
from stages.review.keymap import keymap
from stages.review.people import Person
from stages.review.queue import Claimed


def item_view(form: Form, claimed: Claimed) -> dict[str, Any]:
    """The item as its page shows it.

    Built from named fields, never by copying the payload: which side is the intended winner, the external id (it may
    name a model or a clip), stratum, gold and scores stay on the server.
    """
    payload = claimed.payload
    if form == "filter":
        return {
            "id": claimed.item_id,
            "videos": [_url(payload["media"])] if payload.get("media") else [],
            "pictures": [_url(name) for name in payload.get("pictures") or payload.get("keyframes") or ()],
            "labels": payload.get("labels") or [],
            "text": payload.get("caption"),
            "fps": payload.get("fps") or 24.0,
            "draft": None,
        }
    if form == "likert":
        return {
            "id": claimed.item_id,
            "videos": [_url(payload["media"])],
            "pictures": [_url(name) for name in payload.get("references") or ()],
            "text": payload.get("prompt"),
            "fps": payload.get("fps") or 24.0,
            "draft": claimed.draft,
        }
    first, second = sides(form)
    order = (first, second) if claimed.side == "AB" else (second, first)
    reference = payload.get("reference")
    return {
        "id": claimed.item_id,
        "videos": [_url(payload[side]) for side in order],
        "pictures": [_url(reference)] if reference else [],
        "text": payload.get("prompt"),
        "fps": payload.get("fps") or 24.0,
        "draft": None,
    }


def page_data(spec: CampaignSpec, person: Person, csrf: str) -> dict[str, Any]:
    """What the page's script needs to know of the campaign."""
    return {
        "campaign": spec.campaign_id,
        "person": person.id,
        "form": spec.form,
        "kind": spec.kind,
        "dimensions": [one.name for one in spec.rubric],
        "reasons": list(spec.reasons),
        "skipReasons": list(spec.skip_reasons),
        "leaseSeconds": spec.lease_seconds,
        "keymap": keymap(spec.form),
        "csrf": csrf,
    }


def progress_view(progress: Progress) -> dict[str, int]:
    return {"items": progress.items, "done": progress.done, "remaining": progress.remaining, "mine": progress.mine}


def _url(name: str) -> str:
    return f"/media/{name}"
