"""Refuses to run when one of our package names resolves outside our own installation.

The names ``models``, ``stages`` and the like are generic. A folder of that name on the import path would be imported in
our place, without a word; so every command and every Ray worker checks first.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path

NAMES = ("pipelines", "stages", "models", "data_schemas", "tinyworld")
RAY_SETUP_HOOK = "fulcrum.guard.check_worker"
SHIPPED = "FULCRUM_SHIPPED"  # environment variable: version of the wheel that this process must have its code from


class ForeignPackage(ImportError):
    """One of our names would be imported from elsewhere."""


def check() -> None:
    """Raise ``ForeignPackage``, naming both paths, unless every package name resolves beside this one."""
    home = Path(__file__).resolve().parent.parent
    for name in NAMES:
        module = sys.modules.get(name)
        spec = getattr(module, "__spec__", None) if module else importlib.util.find_spec(name)
        origin = Path(spec.origin).resolve() if spec and spec.origin else None
        expected = home / name / "__init__.py"
        if origin != expected:
            raise ForeignPackage(
                f"the package {name!r} resolves to\n    {origin or 'nothing'}\ninstead of Fulcrum's own\n    {expected}\n"
                "Run from another folder, or take that folder off PYTHONPATH."
            )


def claim() -> None:
    """Check, then import the packages (they are empty shells), so that no later import path can take their names."""
    check()
    for name in NAMES:
        importlib.import_module(name)


def check_shipped() -> None:
    """Raise ``ForeignPackage`` unless this code is that of the wheel that was sent, where one was."""
    version = os.environ.get(SHIPPED)
    home = Path(__file__).resolve().parent.parent
    if version and not (home / f"fulcrum-{version}.dist-info").is_dir():
        here = sorted(path.name.removesuffix(".dist-info") for path in home.glob("fulcrum-*.dist-info"))
        raise ForeignPackage(
            f"this process must run the wheel fulcrum-{version}, which was sent to the cluster, but imports Fulcrum from\n"
            f"    {home} ({', '.join(here) or 'a checkout'})\n"
            "Take that folder off PYTHONPATH and out of the folder in which `ray start` was called, on every node."
        )


def check_worker() -> None:
    """Run by Ray in each worker process, before Ray adds the driver's folders to the import path."""
    check_shipped()
    claim()
