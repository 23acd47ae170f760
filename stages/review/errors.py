"""The review room's own failure, without the weight of a database behind it."""

from __future__ import annotations

from stages.contract import StageError


class ReviewError(StageError):
    """A problem of the review room that a person can act on."""
