"""Fixtures for every room."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def footage() -> Path:
    """The real footage, which lies beside a checkout of this project's own; elsewhere its tests are skipped."""
    folder = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
    if not (folder / "manifest.json").exists():
        pytest.skip("the real footage (../shared/data) is not there")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests that start Ray first: they are the longest, and with several workers nothing waits for them at the end."""
    items.sort(key=lambda item: item.get_closest_marker("ray") is None)
