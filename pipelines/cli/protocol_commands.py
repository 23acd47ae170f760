"""``fulcrum protocol``: known benchmarks as manifests that say what is asked of every system."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from stages.evaluation.manifest import Asked

Out = Annotated[Path, typer.Option("--out", help="manifest to write, JSON lines", metavar="FILE")]
AsTable = Annotated[
    Path | None,
    typer.Option("--table", help="also write it as the table that fulcrum sample --data takes", metavar="FILE"),
]
Seeds = Annotated[int, typer.Option("--seeds", help="videos asked of each prompt", min=1, max=100)]
app = typer.Typer(help="Write down what a benchmark asks of every system.", no_args_is_help=True)


@app.command()
def dreambooth(
    folder: Annotated[Path, typer.Argument(help="copy of DreamBooth's data set: a folder per subject", metavar="DIR")],
    out: Out,
    references: Annotated[int, typer.Option("--references", help="photographs shown of each subject", min=1, max=8)] = 1,
    prompts: Annotated[int | None, typer.Option("--prompts", help="prompts of each subject; by default all 25", min=1, max=25)] = None,
    seeds: Seeds = 1,
    table: AsTable = None,
) -> None:  # fmt: skip
    """DreamBooth's subjects with the prompts of their class."""
    from stages.evaluation.protocols import dreambooth as ask

    _write(ask(folder, out.parent, references=references, prompts=prompts, seeds=range(seeds)), out, table)


@app.command()
def opens2v(
    listing: Annotated[Path, typer.Argument(help="a listing of OpenS2V-Eval, e.g. Open-Domain_Eval.json", metavar="JSON")],
    out: Out,
    table: AsTable = None,
) -> None:  # fmt: skip
    """OpenS2V-Eval's samples, one video each with seed 42, named by the sample's id."""
    from stages.evaluation.protocols import opens2v as ask

    _write(ask(listing, out.parent), out, table)


def _write(asked: list[Asked], out: Path, table: Path | None) -> None:
    from stages.evaluation.manifest import read_manifest, write_manifest, write_table

    write_manifest(out, asked)
    manifest = read_manifest(out)
    if table is not None:
        write_table(table, manifest)
    print(f"{out}: {len(asked)} prompts, {sum(len(a.seeds) for a in asked)} videos asked of each system")
