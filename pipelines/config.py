"""Configuration: one YAML file and ``--set`` over a pipeline's defaults, checked whole before anything runs."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveInt, ValidationError, create_model

from pipelines.dag.graph import Pipeline
from pipelines.dag.store import resolve
from pipelines.overlay import ConfigError, merge, near
from stages.contract import Params, World

VERSION = 1
M = TypeVar("M", bound=BaseModel)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ReviewConfig(_Section):
    """Where people answer."""

    database: str | None = Field(
        None,
        description="SQLAlchemy URL of the review database; by default SQLite beside a local store. ${NAME} reads the environment.",
    )
    host: str = Field("127.0.0.1", description="address that `fulcrum review serve` binds")
    port: int = Field(8765, ge=1, le=65535, description="port that `fulcrum review serve` binds")


class TrackingConfig(_Section):
    """Where metrics and lineage are published."""

    enabled: bool = Field(True, description="publish to MLflow")
    uri: str | None = Field(
        None, description="MLflow tracking URI; by default SQLite beside a local store. ${NAME} reads the environment."
    )
    experiment: str = Field("fulcrum", description="MLflow experiment")


class EngineConfig(_Section):
    """Where work on records and training runs."""

    kind: Literal["ray", "inline"] = Field("ray", description="ray, or inline: everything in this one process")
    address: str | None = Field(
        None, description="a running Ray cluster; by default a local one is started when a stage needs it"
    )
    num_cpus: PositiveInt | None = Field(None, description="CPUs of a local Ray; by default all")
    labels: dict[str, dict[str, str]] = Field(
        default_factory=dict,
        description="by stage, the labels of the nodes on which its workers may run, as Ray's label selectors, "
        "e.g. {sft_in: {ray.io/node-group: gpu-train}}",
    )
    grows_to: PositiveInt | None = Field(
        None,
        description="workers of a pool on a cluster that adds nodes when they are asked for; by default what its nodes of now hold",
    )
    wait_for_nodes_s: NonNegativeFloat = Field(
        300.0, description="how long a stage waits for a node on which its workers can run, before it fails"
    )


class PromotionConfig(_Section):
    """What `fulcrum promote candidate` asks of an adapter."""

    gates: dict[str, NonNegativeFloat] = Field(
        default_factory=dict,
        description="by metric, the most by which an adapter may be worse than the base, e.g. {clip_t: 0.01}",
    )


class Settings(_Section):
    """Everything but the stages' parameters."""

    version: Literal[1] = Field(1, description="version of this file's format")
    source: str | None = Field(None, description="folder, bucket URI, or CSV/Parquet list of videos")
    store: str = Field(
        "fulcrum-store", description="where artifacts are kept: a folder or a URI such as s3://bucket/prefix"
    )
    limit: PositiveInt | None = Field(None, description="take only the first N source files, by path")
    seed: int = Field(0, ge=0, description="seed of everything that is drawn")
    review: ReviewConfig = ReviewConfig()
    tracking: TrackingConfig = TrackingConfig()
    engine: EngineConfig = EngineConfig()
    promotion: PromotionConfig = PromotionConfig()
    shared: dict[str, Any] = Field(
        default_factory=dict, description="parameters for every stage that has one of this name, e.g. backbone"
    )


@dataclass(frozen=True)
class Config:
    """A configuration that has been checked against its pipeline."""

    settings: Settings
    params: Mapping[str, Params]
    follows: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Parameters that a stage takes from another one, by stage."""

    @property
    def local_beside_store(self) -> Path:
        """A local folder for what is not in the store: working files, and by default the two databases."""
        text = self.settings.store
        if "://" not in text or text.startswith("file://"):
            root = Path(resolve(text)[1])
            return root.with_name(root.name + ".local")
        return Path.cwd() / ("fulcrum-" + re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-") + ".local")

    @property
    def review_database(self) -> str:
        """The review database's URL with the environment's values in it. Contains secrets: never print it."""
        if self.settings.review.database:
            return expand(self.settings.review.database, "review.database")
        return f"sqlite:///{self.local_beside_store / 'review.db'}"

    @property
    def tracking_uri(self) -> str:
        """The MLflow tracking URI with the environment's values in it. May contain secrets: never print it."""
        if self.settings.tracking.uri:
            return expand(self.settings.tracking.uri, "tracking.uri")
        return f"sqlite:///{self.local_beside_store / 'mlflow.db'}"

    def world(self, command: str = "fulcrum run") -> World:
        review = self.settings.review
        return World(
            self.settings.source,
            self.settings.limit,
            self.review_database,
            f"http://{review.host}:{review.port}",
            hide(command),
            **self._past(),
        )

    def _past(self) -> dict[str, Any]:
        """What the store, where it is there already, says of earlier runs."""
        from pipelines.dag.records import RecordStore
        from pipelines.dag.store import existing_store
        from pipelines.dag.takedowns import taken_down

        store = existing_store(self.settings.store)
        if store is None:
            return {}
        return {"taken_down": frozenset(taken_down(store)), "records": partial(RecordStore, store, tidy=False)}

    def shown(self) -> dict[str, Any]:
        """The resolved configuration for printing: passwords in URLs hidden, ``${NAME}`` left as written."""
        value: dict[str, Any] = self.settings.model_dump(mode="json")
        value["stages"] = {
            n: p.model_dump(mode="json", exclude=set(self.follows.get(n, ()))) for n, p in self.params.items()
        }
        return hide(value)


def load(
    pipeline: Pipeline,
    file: Path | None,
    assignments: Sequence[str],
    options: Mapping[str, Any],
    *,
    elsewhere: bool = False,
) -> Config:
    """Defaults, then the file, then ``--set``, then options given on the command line.

    Raises ``ConfigError`` with every problem found: the key, the file or option it stands in, and the nearest right
    spelling. A configuration that is used ``elsewhere`` may name files and variables that are not on this machine.
    """
    problems: list[str] = []
    tree = _gather(pipeline, file, assignments, options, problems)
    origin = str(file) if file else "the configuration"
    stages = tree.pop("stages", {}) or {}
    settings = _build(Settings, tree, "", origin, problems)
    shared = tree.get("shared") or {}
    params = _stage_params(pipeline, stages, shared if isinstance(shared, dict) else {}, origin, problems)
    if settings is not None:
        problems += _label_problems(settings, pipeline, origin)
        problems += [] if elsewhere else _path_problems(settings)
    if problems or settings is None:
        raise ConfigError(problems)
    return Config(settings, params, {n.name: frozenset(n.follow) for n in pipeline.nodes if n.follow})


def gather(
    pipeline: Pipeline, file: Path | None, assignments: Sequence[str], options: Mapping[str, Any]
) -> dict[str, Any]:
    """What the file, ``--set`` and options say, as one tree that can stand in a file. Raises ``ConfigError``."""
    problems: list[str] = []
    tree = _gather(pipeline, file, assignments, options, problems)
    if problems:
        raise ConfigError(problems)
    return tree


def _gather(
    pipeline: Pipeline,
    file: Path | None,
    assignments: Sequence[str],
    options: Mapping[str, Any],
    problems: list[str],
) -> dict[str, Any]:
    tree = _read(file, problems)
    for text in assignments:
        _assign(tree, text, pipeline, problems)
    tree.update({key: value for key, value in options.items() if value is not None})
    return tree


def load_settings(file: Path | None, options: Mapping[str, Any]) -> Settings:
    """The settings of a configuration file alone, whatever pipeline its stages are of. Raises ``ConfigError``."""
    problems: list[str] = []
    tree = {key: value for key, value in _read(file, problems).items() if key != "stages"}
    tree.update({key: value for key, value in options.items() if value is not None})
    settings = _build(Settings, tree, "", str(file) if file else "the configuration", problems)
    if problems or settings is None:
        raise ConfigError(problems)
    return settings


def _read(file: Path | None, problems: list[str]) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError([f"--config {file}: there is no such file"]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"--config {file}: cannot be read: {error}"]) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError([f"--config {file}{line}: is not valid YAML: {getattr(error, 'problem', error)}"]) from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError([f"--config {file}: must hold a mapping of keys to values, holds a {type(tree).__name__}"])
    version = tree.get("version", VERSION)
    if version != VERSION:
        age = "an older" if isinstance(version, int) and version < VERSION else "another"
        problems.append(
            f"{file}: version: {version!r} is {age} format; this release reads version {VERSION}. "
            "Compare with `fulcrum config show PIPELINE`, adapt the file and set version: 1."
        )
        tree["version"] = VERSION
    return tree


def _assign(tree: dict[str, Any], text: str, pipeline: Pipeline, problems: list[str]) -> None:
    key, equals, raw = text.partition("=")
    if not equals or not key.strip():
        problems.append(f"--set {text}: write key=value, e.g. --set seed=1")
        return
    path = key.strip().split(".")
    if path[0] not in Settings.model_fields and path[0] != "stages":
        path.insert(0, "stages")
    if path[0] == "stages" and (len(path) < 3 or path[1] not in {n.name for n in pipeline.nodes}):
        names = (
            [n.name for n in pipeline.nodes]
            if len(path) > 2
            else [*Settings.model_fields, *(n.name for n in pipeline.nodes)]
        )
        problems.append(f"--set {text}: unknown key {key.strip()}{near(path[1] if len(path) > 1 else key, names)}")
        return
    try:
        value = yaml.safe_load(raw)
    except yaml.YAMLError:
        problems.append(f"--set {text}: the value is not valid YAML")
        return
    branch = tree
    for part in path[:-1]:
        below = branch.setdefault(part, {})
        if not isinstance(below, dict):
            below = branch[part] = {}
        branch = below
    branch[path[-1]] = value


def _stage_params(
    pipeline: Pipeline, stages: Any, shared: Mapping[str, Any], origin: str, problems: list[str]
) -> dict[str, Params]:
    if not isinstance(stages, dict):
        problems.append(f"{origin}: stages: must map stage names to parameters")
        return {}
    names = [n.name for n in pipeline.nodes]
    for unknown in sorted(set(map(str, stages)) - set(names)):
        problems.append(f"{origin}: stages.{unknown}: pipeline {pipeline.name} has no such stage{near(unknown, names)}")
    fields = sorted({name for n in pipeline.nodes for name in n.stage.params.model_fields})
    for unknown in sorted(set(shared) - set(fields)):
        problems.append(
            f"{origin}: shared.{unknown}: no stage of {pipeline.name} has this parameter{near(unknown, fields)}"
        )
    params = {}
    for item in pipeline.nodes:
        given = stages.get(item.name) or {}
        if not isinstance(given, dict):
            problems.append(f"{origin}: stages.{item.name}: must be a mapping of parameters")
            continue
        for key in sorted(set(given) & set(item.follow)):
            problems.append(f"{origin}: stages.{item.name}.{key}: follows {item.follow[key]}.{key}; set it there")
        mine = {k: v for k, v in shared.items() if k in item.stage.params.model_fields}
        defaults = merge(merge(_defaults(item.stage.params), item.params), mine)
        built = _build(item.stage.params, merge(defaults, given), f"stages.{item.name}", origin, problems)
        if built is not None:
            params[item.name] = built
    for item in pipeline.nodes:
        led = {key: getattr(params[leader], key) for key, leader in item.follow.items() if leader in params}
        if led and item.name in params:
            params[item.name] = params[item.name].model_copy(update=led)
    return params


def _defaults(model: type[BaseModel]) -> dict[str, Any]:
    """The defaults of fields that have one, as plain values, so that a user may change one rule of a list by name."""
    values: dict[str, Any] = {}
    for name, declared in model.model_fields.items():
        if not declared.is_required():
            value = declared.get_default(call_default_factory=True)
            values[name] = _plain_default(value)
    return values


def _plain_default(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_unset=False)
    if isinstance(value, list | tuple):
        return [_plain_default(v) for v in value]
    return value


def _build(model: type[M], value: Mapping[str, Any], where: str, origin: str, problems: list[str]) -> M | None:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        for item in error.errors():
            problems.append(f"{origin}: {_explain(model, item, where)}")
        return None


def _explain(model: type[BaseModel], item: Any, where: str) -> str:
    path = ".".join(str(p) for p in ([where] if where else []) + list(item["loc"]))
    if item["type"] == "extra_forbidden":
        fields = _fields_at(model, item["loc"][:-1])
        return f"{path}: unknown key{near(str(item['loc'][-1]), fields)}"
    message = item["msg"].removeprefix("Value error, ")
    given = item.get("input")
    if isinstance(given, str | int | float | bool):
        return f"{path}: {message[0].lower()}{message[1:]}, but is {hide(given)!r}"
    return f"{path}: {message[0].lower()}{message[1:]}"


def _fields_at(model: type[BaseModel], loc: Sequence[Any]) -> list[str]:
    """Names of the fields of the model that sits at this place, as far as annotations tell."""
    current: Any = model
    for part in loc:
        if not (isinstance(current, type) and issubclass(current, BaseModel)):
            return []
        if isinstance(part, int) or part not in current.model_fields:
            continue
        current = _inner_model(current.model_fields[part].annotation)
    return list(current.model_fields) if isinstance(current, type) and issubclass(current, BaseModel) else []


def _inner_model(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _inner_model(argument)
        if found is not None:
            return found
    return None


def _label_problems(settings: Settings, pipeline: Pipeline, origin: str) -> list[str]:
    names = [n.name for n in pipeline.nodes]
    return [
        f"{origin}: engine.labels.{name}: pipeline {pipeline.name} has no such stage{near(name, names)}"
        for name in settings.engine.labels
        if name not in names
    ]


def _path_problems(settings: Settings) -> list[str]:
    found = []
    source = settings.source
    if source and "://" not in source and not Path(source).expanduser().exists():
        beside = [p.name for p in Path(source).expanduser().parent.glob("*")]
        found.append(f"source: there is no {source}{near(Path(source).name, beside)}")
    for key, text in (("review.database", settings.review.database), ("tracking.uri", settings.tracking.uri)):
        for name in re.findall(r"\$\{(\w+)\}", text or ""):
            if name not in os.environ:
                found.append(f"{key}: the environment has no variable {name}")
    return found


def expand(text: str, key: str) -> str:
    """``${NAME}`` replaced by the environment's value."""

    def value(match: re.Match[str]) -> str:
        try:
            return os.environ[match.group(1)]
        except KeyError:
            raise ConfigError([f"{key}: the environment has no variable {match.group(1)}"]) from None

    return re.sub(r"\$\{(\w+)\}", value, text)


def hide(value: Any) -> Any:
    """A value for printing: the password of every URL in it becomes ``***``."""
    if isinstance(value, str):
        return re.sub(r"(\w[\w+.-]*://[^/\s:@]*):(?!\$\{)[^/\s@]+@", r"\1:***@", value)
    if isinstance(value, Mapping):
        return {k: hide(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [hide(v) for v in value]
    return value


def schema(pipeline: Pipeline) -> dict[str, Any]:
    """JSON Schema of this pipeline's configuration file."""
    fields: dict[str, Any] = {
        n.name: (n.stage.params, Field(default=None, description=n.stage.doc)) for n in pipeline.nodes
    }
    stages = create_model("Stages", __config__=ConfigDict(extra="forbid"), **fields)
    whole = create_model(
        f"{pipeline.name.capitalize()}Config",
        __base__=Settings,
        stages=(stages, Field(default=None, description="parameters by stage")),
    )
    made: dict[str, Any] = whole.model_json_schema()
    return made
