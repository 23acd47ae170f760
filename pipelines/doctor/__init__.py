"""``fulcrum doctor``: what this machine, the store and the services around it are like, with the remedy for what is wrong.

Every check looks at the thing itself: a codec encodes and decodes a few frames, a store takes, lists and gives back an object. No
check changes anything that stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from pipelines.config import Config, hide
from pipelines.doctor.finding import Finding
from pipelines.doctor.machine import disk, gpu, memory, open_files, shared_memory
from pipelines.doctor.services import mlflow, ray, review_database, source, store
from pipelines.doctor.software import code, decoders, encoders, versions


def examine(config: Config) -> Iterator[Finding]:
    """All checks, one after another; one that breaks is a finding of its own."""
    checks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("versions", versions),
        ("code", lambda: code(Path(__file__).parent.parent.parent)),
        ("encoders", encoders),
        ("decoders", decoders),
        ("memory", memory),
        ("shared memory", shared_memory),
        ("open files", open_files),
        ("disk", lambda: disk(config)),
        ("GPU", gpu),
        ("store", lambda: store(config)),
        ("review database", lambda: review_database(config)),
        ("MLflow", lambda: mlflow(config)),
        ("source", lambda: source(config)),
        ("Ray", lambda: ray(config)),
    ]
    for name, check in checks:
        try:
            yield from check()
        except Exception as error:
            told = f"{type(error).__name__}: {hide(str(error)).splitlines()[0] if str(error) else ''}"
            yield Finding(
                name, "bad", f"the check itself failed: {told}", "Read the message; it names what is missing."
            )
