"""A real server and a real browser, for the tests of the review pages and what is measured on them."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from stages.review.app import create_app

WIDE = {"width": 1280, "height": 720}
PHONE = {"width": 390, "height": 844}
ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@contextmanager
def serving(database: Path, extend: Callable[[FastAPI], None] = lambda app: None) -> Iterator[str]:
    """The real server on a free port of this machine; its address."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        sock.listen(128)
        app = create_app(database)
        extend(app)
        running = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [sock]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{port}"
        running.should_exit = True
        thread.join(20)
    app.state.db.close()


@contextmanager
def browsing() -> Iterator[Any]:
    """Debian's Chromium, driven by Playwright. Raises ``LookupError`` where there is none."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        raise LookupError("there is no chromium on this machine (Debian: apt install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()
