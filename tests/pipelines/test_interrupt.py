"""Ctrl-C ends a run at once, says that nothing is lost, and the same command goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from tests.pipelines.command import FULCRUM, INLINE, SCRIPTED, fulcrum
from tinyworld.render import render_world


def test_ctrl_c_in_the_middle(tmp_path: Path) -> None:
    render_world(2, 8, tmp_path / "world", None)
    arguments = [
        "run",
        "curate",
        "--source",
        str(tmp_path / "world"),
        "--store",
        str(tmp_path / "s"),
        *INLINE,
        *SCRIPTED,
    ]
    process = subprocess.Popen(
        [str(FULCRUM), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell that starts this suite in the background has it ignore Ctrl-C, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not list((tmp_path / "s" / "live").glob("*.json") if (tmp_path / "s" / "live").exists() else []):
        assert time.monotonic() < deadline, "no stage ever started"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped. What was committed is kept" in said
    assert "Traceback" not in said
    assert "interrupted" in fulcrum("status", "--store", tmp_path / "s").out
    done = fulcrum(*arguments)
    assert done.code == 0, done.out + done.err
