"""The pipelines by name, imported when asked for; a user's own is ``package.module:NAME``."""

from __future__ import annotations

import importlib
from difflib import get_close_matches

from pipelines.dag.graph import Pipeline
from pipelines.overlay import ConfigError

BUILT_IN = {
    "curate": "from raw footage to the subset worth training on",
    "libragen": "from raw footage to a merged, preference-tuned adapter",
    "libragen_swept": "libragen, its merge weights found by measuring",
    "libragen_judged": "libragen, its systems compared by people",
    "disentangled": "from raw footage to an adapter by switching between image pairs and videos",
    "demo": "libragen on a rendered world, judged by the renderer's truth",
}


def find(name: str) -> Pipeline:
    """The pipeline of this name; raises ``ConfigError`` with the nearest spelling."""
    if name in BUILT_IN:
        found = getattr(importlib.import_module(f"pipelines.{name}"), "PIPELINE")  # noqa: B009 - the name is the contract
    elif ":" in name:
        module, _, attribute = name.partition(":")
        try:
            found = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ConfigError(
                [f"pipeline {name}: {error}. Write package.module:NAME of a Pipeline that can be imported."]
            ) from error
    else:
        close = get_close_matches(name, BUILT_IN, n=1, cutoff=0.4)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ConfigError([f"there is no pipeline {name}{hint} Known: {', '.join(BUILT_IN)}, or package.module:NAME."])
    if not isinstance(found, Pipeline):
        raise ConfigError([f"pipeline {name} is a {type(found).__name__}, not a pipelines.dag.graph.Pipeline"])
    return found
