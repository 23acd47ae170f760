"""``fulcrum world``: the rendered world with known truth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.dag.progress import progress
from pipelines.overlay import ConfigError

app = typer.Typer(help="Render a small world whose truth is known.", no_args_is_help=True)


@app.command()
def render(
    out: Annotated[Path, typer.Option("--out", help="folder for videos, captions and truth", metavar="DIR")],
    seed: Annotated[int, typer.Option("--seed", help="same seed, same world", min=0)] = 0,
    count: Annotated[int, typer.Option("--count", help="videos to render", min=1)] = 40,
    square: Annotated[bool, typer.Option("--square", help="square films, as the embedded base sees them")] = False,
) -> None:
    """Render raw videos with captions, every defect, and the truth about them."""
    from tinyworld.render import render_world

    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / "truth.json").exists())):
        raise ConfigError([f"--out {out}: holds other files; give an empty or a new folder"])
    bar = progress("render", count, "videos", quiet=False)
    seen = 0

    def tell(done: int, total: int) -> None:
        nonlocal seen
        bar.advance(done - seen)
        seen = done

    with bar:
        render_world(seed, count, out, tell, square)
    print(f"{count} videos with their truth are in {out}")


@app.command()
def show(
    out: Annotated[Path, typer.Option("--out", help="PNG to write", metavar="FILE")] = Path("tinyworld.png"),
    seed: Annotated[int, typer.Option("--seed", help="which world", min=0)] = 0,
) -> None:
    """Write a contact sheet of subjects, backgrounds, motions and defects."""
    from tinyworld.sheet import contact_sheet

    contact_sheet(seed, out)
    print(f"the contact sheet is {out}")
