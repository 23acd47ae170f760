"""Environments of the peers, each in its own folder: made once, under the peers' own pins, with torch's CPU build first."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.curation.data_juicer_way import REQUIREMENTS as DATA_JUICER

NEMO = ("nemo-curator[cv2]==1.4.0", "av==17.1.0", "einops", "easydict")
PEERS: dict[str, Sequence[str]] = {"data_juicer": DATA_JUICER, "nemo": NEMO}
_TORCH = "torch==2.13.0"


def make(folder: Path, name: str) -> Path:
    """The ``bin`` folder of a peer's environment. Raises ``CalledProcessError`` where it does not install."""
    place = folder / name
    ready = place / ".ready"
    if not ready.exists():
        print(f"installing {name} into {place}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        pip = [str(place / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "-q"]
        subprocess.run([*pip, f"{_TORCH}+cpu"], check=False) if not _has_torch(place) else None
        if not _has_torch(place):
            subprocess.run([*pip, _TORCH], check=True)
        (place / "constraints.txt").write_text(_TORCH + "\n", encoding="utf-8")
        subprocess.run([*pip, "-c", str(place / "constraints.txt"), *PEERS[name]], check=True)
        ready.touch()
    return place / "bin"


def _has_torch(place: Path) -> bool:
    return not subprocess.run([str(place / "bin" / "python"), "-c", "import torch"], capture_output=True).returncode
