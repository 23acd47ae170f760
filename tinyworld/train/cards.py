"""Model cards: what a shipped model is, how it is rebuilt, what it weighs and what it can do, as JSON and as a page."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tinyworld import difficulty as d

TITLES = {
    "codec": "Linear video codec",
    "base": "Text-to-video base",
    "encoder": "Dual encoder with an aesthetic head",
    "oracles": "Oracles",
}


def file_sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def files_of(folder: Path, parts: Sequence[str]) -> dict[str, str]:
    """sha256 of every file of ``parts`` (files or folders), keyed by its path below ``folder``."""
    found: dict[str, str] = {}
    for part in parts:
        place = folder / part
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if path.is_file():
                found[path.relative_to(folder).as_posix()] = file_sha256(path)
    return found


def difficulty_sha256() -> str:
    """Digest of the frozen difficulty file: a card speaks of this world and of no other."""
    return file_sha256(Path(d.__file__))


def machine(device: str = "cpu") -> str:
    """The accelerator that trained, or processor and cores as the kernel names them."""
    if device != "cpu":
        import torch

        return torch.cuda.get_device_name(device)
    model = ""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        pass
    return f"{model or platform.machine()}, {os.cpu_count()} cores, one training thread"


def write_card(
    folder: Path,
    name: str,
    *,
    about: str,
    files: Mapping[str, str],
    recipe: Mapping[str, Any],
    cpu_seconds: float,
    quality: Mapping[str, Any],
    tolerance: str,
    device: str = "cpu",
) -> None:
    """``<name>.json`` and ``<name>.md`` in ``folder``, the page made from the JSON."""
    import torch

    card = {
        "name": name,
        "title": TITLES[name],
        "about": about,
        "world_version": d.WORLD_VERSION,
        "difficulty_sha256": difficulty_sha256(),
        "rebuild": f"python -m tinyworld.train {name}",
        "recipe": dict(recipe),
        "cpu_minutes": round(cpu_seconds / 60, 1),
        "machine": machine(device),
        "torch": torch.__version__,
        "tolerance": tolerance,
        "files": dict(files),
        "quality": dict(quality),
    }
    (folder / f"{name}.json").write_text(json.dumps(card, indent=1) + "\n")
    (folder / f"{name}.md").write_text(page(card))


def page(card: Mapping[str, Any]) -> str:
    """The card as Markdown."""
    lines = [
        f"# {card['title']}",
        "",
        card["about"],
        "",
        "| | |",
        "|---|---|",
        f"| rebuild | `{card['rebuild']}` (all: `make embedded`) |",
        f"| world | version {card['world_version']}, difficulty sha256 `{card['difficulty_sha256'][:16]}` |",
        f"| trained for | {card['cpu_minutes']} minutes of CPU time on {card['machine']}, torch {card['torch']} |",
        f"| recipe | {', '.join(f'{key} {value}' for key, value in card['recipe'].items())} |",
        f"| a rebuild agrees within | {card['tolerance']} |",
        "",
        "## Quality",
        "",
        "On scenes that no training saw. *Fixed* seeds were written down before training; *later* ones come from the digest "
        "of the finished weights, so nobody could have chosen the model by them. Intervals are at 95%.",
        "",
        *_table(card["quality"]),
        "",
        "## Files",
        "",
        "| file | sha256 |",
        "|---|---|",
        *(f"| `{name}` | `{digest}` |" for name, digest in card["files"].items()),
        "",
    ]
    return "\n".join(lines)


def _table(quality: Mapping[str, Mapping[str, Any]]) -> list[str]:
    columns = list(quality)
    flat = {column: dict(_flat(quality[column])) for column in columns}
    names = list(dict.fromkeys(name for column in columns for name in flat[column]))
    rows = [f"| measure | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    return rows + [f"| {name} | {' | '.join(flat[c].get(name, '–') for c in columns)} |" for name in names]


def _flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, inner in value.items():
        name = f"{prefix}{key.replace('_', ' ')}"
        if not isinstance(inner, Mapping):
            rows.append((name, str(inner)))
        elif "low" in inner:
            main = next(inner[k] for k in ("value", "change", "score") if k in inner)
            rest = ", ".join(
                f"{k} {v}" for k, v in inner.items() if k not in ("value", "change", "score", "low", "high")
            )
            rows.append((name, f"{main} [{inner['low']}, {inner['high']}], {rest}"))
        else:
            rows += _flat(inner, f"{name}: ")
    return rows
