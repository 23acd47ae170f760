"""The error that every scorer ends in where it cannot be used; apart, so that naming it imports no decoder."""


class ScorerError(ValueError):
    """A scorer that was asked for cannot be used; the message says which, why, and what can."""
