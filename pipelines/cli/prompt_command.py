"""``fulcrum prompt``: a user's prompt in the layout that the model was trained on, both stages shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.overlay import ConfigError

if TYPE_CHECKING:
    from models.captioners.protocols import Writer
    from models.subjects.rephrase import Picture, Rephrased


def prompt(
    text: Annotated[str, typer.Argument(help="what happens in the video", metavar="TEXT")],
    ref: Annotated[
        list[Path] | None, typer.Option("--ref", help="a reference picture, up to four, in order", metavar="FILE")
    ] = None,
    phrase: Annotated[
        list[str] | None,
        typer.Option(
            "--phrase", help="the words of TEXT that a reference stands for, one for each --ref", metavar="WORDS"
        ),
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(
            "--endpoint",
            help="a chat endpoint, e.g. http://127.0.0.1:8000/v1; without one templates write",
            metavar="URL",
        ),
    ] = None,
    model: Annotated[str, typer.Option("--model", help="the model's name there", metavar="NAME")] = "",
    key_env: Annotated[
        str, typer.Option("--key-env", help="environment variable that holds the key", metavar="VARIABLE")
    ] = "",
    token: Annotated[str, typer.Option("--token", help="reference token before each phrase, e.g. '<cls>'")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="JSON for machines instead of text")] = False,
) -> None:
    """Rewrite a prompt for references: describe each, then bind each to its phrase; prints both stages."""
    from models.captioners.protocols import WriterRefused
    from models.subjects.rephrase import rephrase

    if endpoint and not model:
        raise ConfigError(["--endpoint needs --model, the model's name there"])
    try:
        pictures = [_picture(path) for path in ref or []]
        writer = _writer(endpoint, model, key_env) if endpoint else None
        found = rephrase(text, pictures, writer=writer, phrases=phrase or (), token=token)
    except (ValueError, WriterRefused) as error:
        raise ConfigError([str(error)]) from error
    if as_json:
        print(json.dumps(_plain(found, pictures), indent=1, ensure_ascii=False))
    else:
        _show(found, pictures)


def _writer(url: str, model: str, key_env: str) -> Writer:
    from models.captioners.endpoint import Endpoint, EndpointSpec

    return Endpoint(EndpointSpec(url, model, key_env, attempts=3))


def _picture(path: Path) -> Picture:
    """The picture with its subject's mask; where none stands out, all of it. Raises ``ValueError`` naming the file."""
    import numpy as np

    from models.subjects.frames import picture
    from models.subjects.propose import EmbeddedGrounder, GrabCutSegmenter
    from models.subjects.rephrase import Picture

    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"--ref {path}: {error.strerror or error}") from error
    pixels = picture(data, f"--ref {path}")
    proposals = EmbeddedGrounder().ground(pixels[None], [0])[0]
    regions = (GrabCutSegmenter().segment(pixels, p) for p in proposals)
    region = next((r for r in regions if r is not None), None)
    mask = region.mask if region is not None else np.full(pixels.shape[:2], 255, np.uint8)
    return Picture(str(path), pixels, mask)


def _plain(found: Rephrased, pictures: list[Picture]) -> dict[str, object]:
    references = [
        {"file": p.name, "phrase": d.phrase, "appearance": d.appearance, "by": d.by, "why": d.why}
        for p, d in zip(pictures, found.references, strict=True)
    ]
    return {"references": references, "prompt": found.prompt, "by": found.by, "why": found.why}


def _show(found: Rephrased, pictures: list[Picture]) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False, soft_wrap=True)
    colour = ("cyan", "magenta", "yellow", "green")
    if pictures:
        console.print("[bold]1  What the references show[/]")
    for i, (picture, told) in enumerate(zip(pictures, found.references, strict=True)):
        console.print(
            f"   [{colour[i]}]Ref {i + 1}[/] {escape(picture.name)}: {escape(told.appearance)}  [dim]({told.by})[/]"
        )
        console.print(f"         stands for [{colour[i]}]{escape(told.phrase)}[/]")
        if told.why:
            console.print(f"         [yellow]{escape(told.why)}[/]")
    console.print(f"[bold]{'2  ' if pictures else ''}The prompt[/]  [dim]({found.by})[/]")
    if found.why:
        console.print(f"   [yellow]the template wrote it, for: {escape(found.why)}[/]")
    console.print(f"   {escape(found.prompt)}", markup=True)
