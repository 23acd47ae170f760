"""Faces are rows of their own beside the subjects they belong to, and nothing that asks for a whole subject is given one."""

from __future__ import annotations

import pyarrow.compute as pc
import pyarrow.dataset as pads

FACE = "face"


def whole_subjects(subjects: pads.Dataset) -> pc.Expression | None:
    """The filter that leaves the faces out; None for a table that was written before there were any."""
    return pc.field("part").is_null() if "part" in subjects.schema.names else None
