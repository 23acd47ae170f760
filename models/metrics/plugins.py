"""What users bring: models behind the metrics' protocols, and whole metrics, named ``package.module:Name``."""

from __future__ import annotations

import importlib
from typing import Any

PARTS = {
    "interpolator": ("name", "middle"),
    "quality": ("name", "longest", "best", "score"),
    "faces": ("name", "largest"),
    "video_encoder": ("name", "encode"),
}


def named(spec: str, what: str) -> Any:
    """The object that ``package.module:Name`` names. ``ValueError`` says what is wrong with it."""
    module, colon, name = spec.partition(":")
    if not colon or not name:
        raise ValueError(f"{what} {spec}: write package.module:Name")
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise ValueError(f"{what} {spec}: cannot import {module}: {error}") from error
    except AttributeError:
        raise ValueError(f"{what} {spec}: module {module} has no {name}") from None


def plugin_class(spec: str, what: str) -> Any:
    """The class of a plug-in; its ``name`` must be of the class, for plans do not build it, and change with its weights."""
    found = named(spec, what)
    lacking = [part for part in PARTS[what] if not hasattr(found, part)]
    if lacking:
        raise ValueError(f"{what} {spec} lacks {', '.join(lacking)}; see models/metrics/tools.py for what it must have")
    return found
