"""``fulcrum train``: a LoRA on your own table and weights, by the stages that the pipelines run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.cli.options import Assignments, ConfigFile, Json, StoreUri
from pipelines.cli.own_options import (
    Adapter,
    Bucket,
    Columns,
    Data,
    Dtype,
    Family,
    Gpus,
    Media,
    OutAdapter,
    Steps,
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
from pipelines.dag.graph import Pipeline
from stages.training.adapters import CARD

app = typer.Typer(help="Train a LoRA on your own Parquet and weights.", no_args_is_help=True)
Kind = Annotated[
    str, typer.Option("--kind", help="in_pair or cross_pair, for a table without a column kind", metavar="KIND")
]


@app.command()
def sft(
    data: Data,
    weights: Weights,
    family: Family = None,
    dtype: Dtype = None,
    media: Media = None,
    column: Columns = None,
    bucket: Bucket = None,
    kind: Kind = "cross_pair",
    steps: Steps = None,
    gpus: Gpus = 0,
    out: OutAdapter = None,
    config: ConfigFile = None,
    set_: Assignments = None,
    store: StoreUri = None,
    json_: Json = False,
) -> None:
    """Supervised fine-tuning on rows of video, prompt and reference pictures.

    Stages: samples, encode, sft. Everything else by --set, e.g. --set sft.learning_rate=1e-4 --set sft.lora.rank=128.
    """
    from pipelines.own import train_sft

    options = {"kind": kind, "steps": steps, "buckets": bucket, **backbone_options(weights, family, dtype)}
    table = table_params(data, media, column, ("video", "prompt"))
    _train(train_sft(table), "sft", options, gpus, out, config, set_, store, json_)


@app.command()
def switching(
    data: Data,
    weights: Weights,
    family: Family = None,
    dtype: Dtype = None,
    media: Media = None,
    column: Columns = None,
    bucket: Bucket = None,
    steps: Steps = None,
    gpus: Gpus = 0,
    out: OutAdapter = None,
    config: ConfigFile = None,
    set_: Assignments = None,
    store: StoreUri = None,
    json_: Json = False,
) -> None:
    """Identity from stills with reference pictures and motion from whole clips, in turns (arXiv 2504.17816).

    Rows as for sft: a still of each clip with its references is an image pair, and the clip itself a video with a frame of its
    own as the reference. Stages: samples, disentangle, encode, switching.
    """
    from pipelines.own import train_switching

    # A picture is a clip of one frame, so each size has a bucket for its stills.
    buckets = sorted({*bucket, *(f"1x{text.partition('x')[2]}" for text in bucket)}) if bucket else None
    options = {"steps": steps, "buckets": buckets, **backbone_options(weights, family, dtype)}
    table = table_params(data, media, column, ("video", "prompt", "references"))
    _train(train_switching(table), "switching", options, gpus, out, config, set_, store, json_)


@app.command()
def dpo(
    data: Data,
    weights: Weights,
    adapter: Adapter = None,
    family: Family = None,
    dtype: Dtype = None,
    media: Media = None,
    column: Columns = None,
    bucket: Bucket = None,
    steps: Steps = None,
    gpus: Gpus = 0,
    out: OutAdapter = None,
    config: ConfigFile = None,
    set_: Assignments = None,
    store: StoreUri = None,
    json_: Json = False,
) -> None:
    """Direct preference optimisation on rows of video (the winner), loser, prompt and reference pictures.

    --adapter is the SFT adapter to start from, which is the reference as well; without one it is the base. The result is a
    delta on it: add the two with fulcrum merge. Stages: samples, encode, base, preferences, dpo.
    """
    from pipelines.own import train_dpo

    table = table_params(data, media, column, ("video", "prompt", "loser"))
    options = {"steps": steps, "buckets": bucket, **backbone_options(weights, family, dtype)}
    _train(train_dpo(table, _path(adapter)), "dpo", options, gpus, out, config, set_, store, json_)


def _train(
    pipeline: Pipeline,
    node: str,
    options: dict[str, Any],
    gpus: int,
    out: Path | None,
    config: Path | None,
    assignments: list[str] | None,
    store: str | None,
    as_json: bool,
) -> None:
    check_out(out, CARD)
    resolved = resolve(pipeline, config, assignments, store, {**options, **gpu_options(gpus)})
    code = run_own(pipeline, resolved, as_json)
    if code == 0:
        made = output_folder(resolved, pipeline, node, "adapter")
        if out is not None:
            put(made, out)
        say(f"the adapter is in {out or made}", as_json)
    raise typer.Exit(code)


def _path(adapter: Path | None) -> str | None:
    return str(adapter.expanduser().absolute()) if adapter else None
