"""The key table of the review page, as data: the page binds it, shows it and explains it from this one place."""

from __future__ import annotations

from typing import Literal, TypedDict

from stages.review.answers import Form

Group = Literal["decide", "second", "video", "page"]


class Key(TypedDict):
    """One action. ``keys`` are ``KeyboardEvent.key`` values, compared without case; the first is the one shown."""

    action: str
    keys: list[str]
    label: str
    group: Group
    help: str


def _key(action: str, keys: str, label: str, group: Group, help: str) -> Key:
    return Key(
        action=action,
        keys=[" " if key == "space" else key for key in keys.split()],
        label=label,
        group=group,
        help=help,
    )


# No key needs a modifier and none shadows one of the browser's own.
_FILTER = [
    _key("accept", "a", "Accept", "decide", "keep this clip"),
    _key("reject", "r", "Reject", "decide", "then one or more reason digits and Enter; a digit alone rejects at once"),
]
_PAIR = [
    _key("left", "1 ArrowLeft", "Left is better", "decide", "prefer the left"),
    _key("same", "2 ArrowDown", "Same", "decide", "no difference that matters"),
    _key("right", "3 ArrowRight", "Right is better", "decide", "prefer the right"),
    _key("both_bad", "4 b", "Both bad", "decide", "neither is usable"),
    _key("broken", "5 x", "Broken", "decide", "a video is noise or stops"),
]
_SECOND = [
    _key("rest_yes", "y 1", "Yes, the same", "second", "all else is the same"),
    _key("rest_no", "n 2", "No, it differs", "second", "something else changed"),
]
_LIKERT = [
    _key("send", "Enter", "Send", "decide", "when all are rated; the last rating of a new item sends it by itself"),
    _key("row_up", "ArrowUp", "Row up", "decide", "the question above; 1 to 5 rate the marked one"),
    _key("row_down", "ArrowDown", "Row down", "decide", "the question below"),
]
_DECIDE = [
    _key("skip", "s", "Skip", "decide", "then a reason digit"),
    _key("undo", "u", "Undo", "decide", "take back your last answer"),
]
_VIDEO = [
    _key("pause", "space k", "Pause", "video", "pause or play"),
    _key("back", ",", "Frame back", "video", "one frame back; hold to go on"),
    _key("forward", ".", "Frame on", "video", "one frame on; hold to go on"),
    _key("rewind", "j", "Half a second back", "video", "hold to go on"),
    _key("ahead", "l", "Half a second on", "video", "hold to go on"),
    _key("restart", "0", "From the start", "video", "play from the first frame"),
    _key("slower", "[", "Slower", "video", "0.25 to 4 times; remembered"),
    _key("faster", "]", "Faster", "video", "0.25 to 4 times; remembered"),
    _key("sound", "m", "Sound", "video", "on or off, where the video has any; remembered"),
    _key("loop", "o", "Loop", "video", "again and again, or once; remembered"),
]
_PAGE = [
    _key(
        "earlier", "p", "Earlier answer", "page", "open your answers again, newest first; a new answer replaces the old"
    ),
    _key("later", "n", "Later answer", "page", "the way back, up to the item you came from"),
    _key("guidelines", "g", "Guidelines", "page", "what to look for"),
    _key("help", "?", "Keys", "page", "this list"),
]


def keymap(form: Form) -> list[Key]:
    """All keys of a campaign's page, in the order in which they are shown."""
    own = {"filter": _FILTER, "likert": _LIKERT}.get(form, _PAIR)
    return [*own, *(_SECOND if form == "consis" else []), *_DECIDE, *_VIDEO, *_PAGE]
