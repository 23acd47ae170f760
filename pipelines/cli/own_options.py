"""What the commands on a user's own data share: their options, the checks before a run, and where results are put."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote

import typer

from pipelines.config import Config, ConfigError, load
from pipelines.dag.graph import Pipeline
from stages.contract import Params

Data = Annotated[
    str,
    typer.Option(
        "--data", help="Parquet with one row per sample; docs/train_your_own.md says its columns", metavar="FILE"
    ),
]
Media = Annotated[
    str | None,
    typer.Option(
        "--media", help="folder that relative paths in the table start from; by default the table's", metavar="DIR"
    ),
]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column", help="the table's name of a column, e.g. --column prompt=caption; repeatable", metavar="OURS=THEIRS"
    ),
]
Weights = Annotated[
    str,
    typer.Option("--weights", help="folder of a diffusers pipeline, or tiny-random to try things out", metavar="DIR"),
]
Family = Annotated[str | None, typer.Option("--family", help="model family, by default cogvideox", metavar="NAME")]
Dtype = Annotated[
    str | None, typer.Option("--dtype", help="of the frozen weights: float32, bfloat16 or float16", metavar="DTYPE")
]
Bucket = Annotated[
    list[str] | None,
    typer.Option(
        "--bucket", help="frames x height x width of the encoded videos, e.g. 49x480x720; repeatable", metavar="FxHxW"
    ),
]
Steps = Annotated[int | None, typer.Option("--steps", help="optimiser steps", min=1)]
Gpus = Annotated[int, typer.Option("--gpus", help="GPUs to train on, one worker each; 0 is the CPU", min=0)]
Adapter = Annotated[
    Path | None, typer.Option("--adapter", help="LoRA file or folder: diffusers, PEFT or kohya", metavar="PATH")
]
OutAdapter = Annotated[Path | None, typer.Option("--out", help="folder to put the adapter into as well", metavar="DIR")]


def table_params(data: str, media: str | None, columns: list[str] | None, needs: Sequence[str]) -> dict[str, Any]:
    """The parameters that say where a user's table lies; paths absolute, so that the same table is the same work.

    A table that cannot be used is told now, not after what comes before it has run.
    """
    from stages.training.own_table import OwnParams, read_rows

    named = {}
    for text in columns or []:
        ours, equals, theirs = text.partition("=")
        if not equals or not ours or not theirs:
            raise ConfigError([f"--column {text}: write OURS=THEIRS, e.g. --column prompt=caption"])
        named[ours] = theirs
    given: dict[str, Any] = {"table": _absolute(data), "columns": named}
    if media:
        given["media"] = _absolute(media)
    read_rows(OwnParams(**given), needs)
    return given


def backbone_options(weights: str | None, family: str | None, dtype: str | None) -> dict[str, Any]:
    given = {"backbone.weights": weights, "backbone.family": family, "backbone.dtype": dtype}
    return {key: value for key, value in given.items() if value is not None}


def gpu_options(gpus: int) -> dict[str, Any]:
    """Where ``gpus`` go: one to each training worker, one to each worker that encodes or samples."""
    if not gpus:
        return {}
    return {"num_workers": gpus, "gpus_per_worker": 1, "workers_gpus": 1, "sampling.workers_gpus": 1}


def resolve(
    pipeline: Pipeline,
    config: Path | None,
    assignments: list[str] | None,
    store: str | None,
    options: Mapping[str, Any],
) -> Config:
    """The checked configuration: the file, then ``--set``, then ``options`` on every stage that has such a parameter."""
    given = []
    for node in pipeline.nodes:
        for key, value in options.items():
            if value is not None and key.split(".")[0] in node.stage.params.model_fields:
                given.append(f"{node.name}.{key}={json.dumps(value)}")
    resolved = load(pipeline, config, [*(assignments or []), *given], {"store": store})
    _check_backbones(resolved.params)
    return resolved


def run_own(pipeline: Pipeline, config: Config, as_json: bool) -> int:
    """Run it as ``fulcrum run`` would; returns the exit code."""
    from pipelines.launch import launch

    again = "fulcrum " + shlex.join(sys.argv[1:])
    return launch(pipeline, config, again=again, as_json=as_json, retry_failed=False)


def output_folder(config: Config, pipeline: Pipeline, node: str, output: str) -> Path | str:
    """Where the latest run of the pipeline put an output: a path here, or the URI in a remote store."""
    from pipelines.dag.runs import load_run
    from pipelines.dag.store import Store

    store = Store(config.settings.store, create=False)
    runs = (load_run(store, name) for name in reversed(store.names("runs")))
    uri = next(run for run in runs if run.pipeline == pipeline.name).node(node).outputs[output]
    return Path(uri.removeprefix("file://")) if store.is_local else uri


def check_out(out: Path | None, marker: str) -> None:
    """Refuse to write over a folder that holds anything but an earlier result (which has a file ``marker``)."""
    if out is None or not out.exists():
        return
    if not out.is_dir() or (any(out.iterdir()) and not (out / marker).is_file()):
        raise ConfigError([f"--out {out}: holds other files; give an empty or a new folder"])


def put(source: Path | str, out: Path) -> None:
    """Copy a committed folder to where the user wants it."""
    if not isinstance(source, Path):
        from pipelines.dag.store import Store

        base, mark, options = source.partition("?")  # options of the connection stand at the end
        root, _, path = base.rpartition("/data/")
        out.mkdir(parents=True, exist_ok=True)
        Store(f"{root}{mark}{options}", create=False).download(f"data/{unquote(path)}", out)
        return
    shutil.copytree(source, out, dirs_exist_ok=True)


def say(text: str, as_json: bool) -> None:
    """A word to a person; a machine that reads along gets nothing but JSON lines."""
    if not as_json:
        print(text)


def _check_backbones(params: Mapping[str, Params]) -> None:
    """Wrong families and weights that are not there, said before anything is decoded."""
    from models.backbones.components import PARTS
    from models.backbones.load import TINY, BackboneSpec

    problems: list[str] = []
    for stage_params in params.values():
        backbone = getattr(stage_params, "backbone", None)
        if backbone is None:
            continue
        spec: BackboneSpec = backbone.spec()
        try:
            spec.check()
        except ValueError as error:
            problems.append(str(error))
            continue
        missing = [] if spec.weights == TINY else [part for part in PARTS if not (spec.folder / part).is_dir()]
        if missing:
            problems.append(
                f"backbone weights {spec.weights!r}: {', '.join(missing)} missing; give a diffusers pipeline folder, which holds "
                f"{', '.join(PARTS)}"
            )
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))


def _absolute(path: str) -> str:
    return path if "://" in path else str(Path(path).expanduser().absolute())
