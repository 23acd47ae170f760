"""``fulcrum merge``, ``fulcrum sample`` and ``fulcrum adapter``: what one does with adapters of one's own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.cli.options import Assignments, ConfigFile, Json, StoreUri
from pipelines.cli.own_options import (
    Adapter,
    Columns,
    Data,
    Dtype,
    Family,
    Gpus,
    Media,
    OutAdapter,
    Weights,
    backbone_options,
    check_out,
    gpu_options,
    output_folder,
    put,
    resolve,
    run_own,
    say,
    table_params,
)
from pipelines.config import ConfigError
from stages.training.adapters import CARD

SAMPLES = "samples.parquet"
OptionalWeights = Annotated[
    str | None,
    typer.Option(
        "--weights", help="the base: needed for kohya's files and for DoRA, else a check that it fits", metavar="DIR"
    ),
]
app = typer.Typer(help="Bring adapters in from other tools, and out to them.", no_args_is_help=True)


def merge(
    adapters: Annotated[
        list[str], typer.Argument(help="NAME=PATH:WEIGHT, e.g. identity=lora.safetensors:0.7", metavar="ADAPTER...")
    ],
    method: Annotated[
        str | None,
        typer.Option(
            "--method", help="cat (exact, the default), svd, ties, dare, magnitude_prune or linear", metavar="METHOD"
        ),
    ] = None,
    rank: Annotated[
        int | None, typer.Option("--rank", help="rank of the result for every method but cat", min=1)
    ] = None,
    energy: Annotated[
        float | None, typer.Option("--energy", help="share of the squared norm to keep instead of a rank", min=0, max=1)
    ] = None,
    weights: OptionalWeights = None,
    family: Family = None,
    out: OutAdapter = None,
    config: ConfigFile = None,
    set_: Assignments = None,
    store: StoreUri = None,
    json_: Json = False,
) -> None:
    """Merge adapters into one and say what that loses and where they disagree.

    Weights may be negative and need not sum to 1. By layer: --set 'merge.per_module=[{match: ".*attn1.*", weights: {a: 0.2}}]'.
    """
    from pipelines.own import merge as merge_pipeline

    paths, shares = _weighed(adapters)
    check_out(out, CARD)
    pipeline = merge_pipeline(paths, shares)
    options = {"method": method, "rank": rank, "energy": energy, **backbone_options(weights, family, None)}
    resolved = resolve(pipeline, config, set_, store, options)
    code = run_own(pipeline, resolved, json_)
    if code == 0:
        from stages.training.adapters import read_card

        made = output_folder(resolved, pipeline, "merge", "adapter")
        if out is not None:
            put(made, out)
        if isinstance(made, Path):
            for line in _told(read_card(made)):
                say(line, json_)
        say(f"the adapter is in {out or made}", json_)
    raise typer.Exit(code)


def sample(
    data: Data,
    weights: Weights,
    adapter: Adapter = None,
    family: Family = None,
    dtype: Dtype = None,
    media: Media = None,
    column: Columns = None,
    bucket: Annotated[
        str | None,
        typer.Option("--bucket", help="frames x height x width of the videos, e.g. 49x480x720", metavar="FxHxW"),
    ] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", help="videos per prompt and system", min=1)] = None,
    gpus: Gpus = 0,
    out: Annotated[
        Path | None, typer.Option("--out", help="folder to put the videos into by name", metavar="DIR")
    ] = None,
    config: ConfigFile = None,
    set_: Assignments = None,
    store: StoreUri = None,
    json_: Json = False,
) -> None:
    """Make videos for rows of prompt and reference pictures, with the adapter and without, from the same noise.

    Only the adapter's: --set 'sample.systems=[final]'.
    """
    from pipelines.own import sample_own

    check_out(out, SAMPLES)
    table = table_params(data, media, column, ("prompt",))
    pipeline = sample_own(table, str(adapter.expanduser().absolute()) if adapter else None)
    options = {"bucket": bucket, "seeds": seeds, **backbone_options(weights, family, dtype), **gpu_options(gpus)}
    if not any(text.startswith("sample.prompts=") for text in set_ or []):
        options["prompts"] = 1_000_000  # all of a user's own rows; the stage's default is for held-out sets
    resolved = resolve(pipeline, config, set_, store, options)
    code = run_own(pipeline, resolved, json_)
    if code == 0:
        videos = output_folder(resolved, pipeline, "sample", "videos")
        if out is not None:
            _put_videos(output_folder(resolved, pipeline, "sample", "samples"), videos, out)
        say(f"the videos are in {out or videos}", json_)
    raise typer.Exit(code)


@app.command("import")
def import_(
    path: Annotated[Path, typer.Argument(help="LoRA file or folder: diffusers, PEFT or kohya", metavar="PATH")],
    out: Annotated[Path, typer.Option("--out", help="folder to write", metavar="DIR")],
    weights: OptionalWeights = None,
    family: Family = None,
) -> None:
    """Read another tool's adapter and write it as diffusers loads it."""
    from stages.training.adapters import write_adapter
    from stages.training.own_adapter import OwnAdapterParams, import_adapter

    check_out(out, CARD)
    backbone = backbone_options(weights, family, None)
    given = {"backbone": {key.removeprefix("backbone."): value for key, value in backbone.items()}} if backbone else {}
    params = OwnAdapterParams.model_validate({"path": str(path), **given})
    adapter, facts = import_adapter(path.expanduser(), params.backbone, params.dora_energy)
    write_adapter(adapter, out, {**adapter.metadata, "imported": facts})
    lost = f", its low-rank form off by {facts['dora_error']:.2%}" if "dora_error" in facts else ""
    print(
        f"{facts['format']}{' DoRA' if facts['dora'] else ''}, {facts['modules']} modules, rank up to {facts['rank']}{lost}; in {out}"
    )


@app.command()
def export(
    path: Annotated[Path, typer.Argument(help="an adapter's folder", metavar="PATH")],
    form: Annotated[str, typer.Option("--format", help="diffusers, peft or kohya", metavar="FORMAT")],
    out: Annotated[Path, typer.Option("--out", help="folder to write", metavar="DIR")],
) -> None:
    """Write an adapter as another tool reads it."""
    from models.training.formats import FORMATS
    from stages.training.own_adapter import export_adapter

    known = next((f for f in FORMATS if f == form), None)
    if known is None:
        raise ConfigError([f"--format {form}: write {', '.join(FORMATS)}"])
    if out.exists() and any(out.iterdir()):
        raise ConfigError([f"--out {out}: holds other files; give an empty or a new folder"])
    print(export_adapter(path.expanduser(), out, known))


@app.command()
def fuse(
    path: Annotated[Path, typer.Argument(help="an adapter's folder", metavar="PATH")],
    weights: Weights,
    out: Annotated[Path, typer.Option("--out", help="folder of the new transformer; must not exist", metavar="DIR")],
    family: Family = None,
    dtype: Dtype = None,
) -> None:
    """Write the base's transformer with the adapter in its weights, which needs no adapter any more."""
    from stages.training.own_adapter import fuse_adapter
    from stages.training.params import BackboneParams

    options = backbone_options(weights, family, dtype)
    backbone = BackboneParams.model_validate({key.removeprefix("backbone."): value for key, value in options.items()})
    report = fuse_adapter(path.expanduser(), backbone, out)
    print(
        f"{report.modules} modules fused; rounding to the base's format took {report.lost:.2%} of the adapter "
        f"(at most {report.max_ulp:.2f} units of the last place). The transformer is in {out}"
    )


def _weighed(texts: list[str]) -> tuple[dict[str, str], dict[str, float]]:
    paths: dict[str, str] = {}
    shares: dict[str, float] = {}
    problems = []
    for text in texts:
        name, equals, rest = text.partition("=")
        path, colon, weight = rest.rpartition(":")
        try:
            share = float(weight)
        except ValueError:
            colon = ""
            share = 0.0
        if not equals or not colon or not name.isidentifier() or name == "merge":
            problems.append(f"{text}: write NAME=PATH:WEIGHT, e.g. identity=lora.safetensors:0.7; merge is no name")
        elif name in paths:
            problems.append(f"{text}: there are two adapters called {name}")
        paths[name], shares[name] = str(Path(path).expanduser().absolute()), share
    if problems:
        raise ConfigError(problems)
    return paths, shares


def _told(card: dict[str, Any]) -> list[str]:
    """What a merge lost, and where its parents disagree most."""
    lines = []
    if card["method"] != "cat":
        lines.append(
            f"off the method's own delta by {card['truncation_error']:.2%}, off the weighted sum by {card['weighted_sum_error']:.2%}"
        )
    pairs = sorted(
        {k.removeprefix("cosine_") for row in card["conflicts"].values() for k in row if k.startswith("cosine_")}
    )
    for pair in pairs:
        rows = {m: row for m, row in card["conflicts"].items() if f"cosine_{pair}" in row}
        worst = min(rows, key=lambda m: rows[m][f"cosine_{pair}"])
        cosine = sum(row[f"cosine_{pair}"] for row in rows.values()) / len(rows)
        signs = sum(row[f"sign_agreement_{pair}"] for row in rows.values()) / len(rows)
        lines.append(
            f"{pair.replace('_', ' and ')}: cosine {cosine:+.2f}, signs agree in {signs:.0%}; "
            f"furthest apart in {worst} ({rows[worst][f'cosine_{pair}']:+.2f})"
        )
    return lines


def _put_videos(samples: Path | str, videos: Path | str, out: Path) -> None:
    """Videos under names that say what they are, beside their table."""
    import pyarrow.parquet as pq

    if not isinstance(samples, Path) or not isinstance(videos, Path):
        raise ConfigError(["--out needs a local store; in a remote one the videos are where samples.parquet says"])
    out.mkdir(parents=True, exist_ok=True)
    table = pq.read_table(samples)
    pq.write_table(table, out / SAMPLES)
    counts: dict[tuple[str, str], int] = {}
    for row in table.sort_by([("system", "ascending"), ("prompt_id", "ascending"), ("seed", "ascending")]).to_pylist():
        key = (row["prompt_id"], row["system"])
        counts[key] = counts.get(key, 0) + 1
        if row["uri"]:
            name = row["uri"].rsplit("/", 1)[-1]
            shutil.copy(videos / name, out / f"{row['prompt_id']}-{row['system']}-{counts[key]}{Path(name).suffix}")
