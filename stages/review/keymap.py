"""The key table of the review page, as data: the page binds it, shows it and explains it from this one place."""

from __future__ import annotations

from stages.review.answers import Form

Key = dict[str, str | list[str]]

# `keys` are KeyboardEvent.key values, compared without case. No key needs a modifier and none shadows the browser's own.
_FILTER: list[Key] = [
    {"action": "accept", "keys": ["a"], "label": "Accept", "group": "decide", "help": "keep this clip"},
    {
        "action": "reject",
        "keys": ["r"],
        "label": "Reject",
        "group": "decide",
        "help": "then one or more reason digits and Enter; a digit alone rejects with that reason at once",
    },
]
_PAIR: list[Key] = [
    {
        "action": "left",
        "keys": ["1", "ArrowLeft"],
        "label": "Left is better",
        "group": "decide",
        "help": "prefer the left",
    },
    {
        "action": "same",
        "keys": ["2", "ArrowDown"],
        "label": "Same",
        "group": "decide",
        "help": "no difference that matters",
    },
    {
        "action": "right",
        "keys": ["3", "ArrowRight"],
        "label": "Right is better",
        "group": "decide",
        "help": "prefer the right",
    },
    {"action": "both_bad", "keys": ["4", "b"], "label": "Both bad", "group": "decide", "help": "neither is usable"},
    {"action": "broken", "keys": ["5", "x"], "label": "Broken", "group": "decide", "help": "a video is noise or stops"},
]
_SECOND: list[Key] = [
    {
        "action": "rest_yes",
        "keys": ["y", "1"],
        "label": "Yes, the same",
        "group": "second",
        "help": "all else is the same",
    },
    {
        "action": "rest_no",
        "keys": ["n", "2"],
        "label": "No, it differs",
        "group": "second",
        "help": "something else changed",
    },
]
_COMMON: list[Key] = [
    {"action": "skip", "keys": ["s"], "label": "Skip", "group": "decide", "help": "then a reason digit"},
    {"action": "undo", "keys": ["u"], "label": "Undo", "group": "decide", "help": "take back your last answer"},
    {"action": "pause", "keys": [" "], "label": "Pause", "group": "video", "help": "pause or play"},
    {"action": "back", "keys": [","], "label": "Frame back", "group": "video", "help": "one frame back"},
    {"action": "forward", "keys": ["."], "label": "Frame on", "group": "video", "help": "one frame on"},
    {"action": "slower", "keys": ["["], "label": "Slower", "group": "video", "help": "0.25 to 4 times, remembered"},
    {"action": "faster", "keys": ["]"], "label": "Faster", "group": "video", "help": "0.25 to 4 times, remembered"},
    {"action": "restart", "keys": ["0"], "label": "From start", "group": "video", "help": "play from the first frame"},
    {"action": "guidelines", "keys": ["g"], "label": "Guidelines", "group": "page", "help": "what to look for"},
    {"action": "help", "keys": ["?"], "label": "Keys", "group": "page", "help": "this list"},
]


def keymap(form: Form) -> list[Key]:
    """All keys of a campaign's page, in the order in which they are shown."""
    if form == "filter":
        return [*_FILTER, *_COMMON]
    return [*_PAIR, *(_SECOND if form == "consis" else []), *_COMMON]
