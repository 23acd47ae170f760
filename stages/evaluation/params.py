"""What is measured and by which models: the parameters of ``evaluate``, and what of them identifies the work."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from pydantic import Field, field_validator, model_validator

from models.metrics.catalogue import METRICS
from models.metrics.endpoint import EndpointSpec
from models.metrics.film import FilmSpec
from models.metrics.plugins import plugin_class
from models.metrics.toolbox import ToolSpec, endpoint_metrics, metric_info
from models.metrics.tools import MetricInfo
from stages.contract import Params
from stages.curation.embed import EncoderParams
from stages.evaluation.folders import stamp, videos_in


class ClipParams(EncoderParams):
    """The CLIP model of CLIP-T, CLIP-I, background consistency and aesthetic, named as ``embed`` names its encoder."""

    @property
    def random(self) -> bool:
        return self.model == "tiny-random"


class EndpointParams(Params):
    """A server that scores videos, as ``models/metrics/endpoint.py`` says. A secret comes from the environment."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")
    url: str
    scores: tuple[str, ...] = Field(min_length=1, description="each becomes the metric name.score; higher is better")
    version: str = Field("1", description="of the server's model: what is measured already is kept until it changes")
    timeout_s: float = Field(300.0, gt=0)
    token_env: str | None = Field(None, description="environment variable that holds the bearer token")

    @field_validator("url")
    @classmethod
    def _http(cls, url: str) -> str:
        if urlparse(url).scheme not in ("http", "https") or "@" in urlparse(url).netloc:
            raise ValueError(f"{url.split('@')[-1]}: write http:// or https://, and secrets into token_env")
        return url

    def spec(self) -> EndpointSpec:
        token = os.environ.get(self.token_env) if self.token_env else None
        return EndpointSpec(self.name, self.url, self.scores, self.timeout_s, token)


class FilmParams(Params):
    """FILM's weights as TorchScript, for motion smoothness; see ``models/metrics/film.py``."""

    weights: str
    sha256: str = Field(
        pattern=r"^[0-9a-fA-F]{64}$", description="opening TorchScript runs what is in it, so it is pinned"
    )


class FvdParams(Params):
    """FVD against a folder of real videos, by a network of your own, ``package.module:Class``; see ``models/metrics/frechet.py``."""

    encoder: str
    real: str


_MODEL_OF = {"aesthetic": "clip_", "clip": "clip_encoder", "flow": "raft"}
"""How the digests of a need's models begin, where not with its own name."""


def models_behind(key: str, info: MetricInfo, models: Mapping[str, str]) -> dict[str, str]:
    """Of all digests those that this metric's numbers hang on: of what it needs, of its endpoint, or, for a metric of the
    user's that names no needs, all.
    """
    endpoint = f"endpoint_{key.partition('.')[0]}"
    if ":" not in key and endpoint in models:
        return {endpoint: models[endpoint]}
    if ":" in key and not info.needs:
        return {k: v for k, v in models.items() if not k.startswith(("fvd_", "metric_")) or k == f"metric_{key}"}
    begins = tuple(_MODEL_OF.get(need, need) for need in info.needs)
    return {k: v for k, v in models.items() if (begins and k.startswith(begins)) or k == f"metric_{key}"}


class EvaluateParams(Params):
    """``dino``: folder of a DINO or DINOv2 model. ``raft``: weights of torchvision's raft_large. ``film``: weights of an
    interpolator. ``interpolator``, ``quality`` and ``faces`` are models of your own, ``package.module:Class``; so may a metric
    be. docs/evaluation.md says what each needs.
    """

    metrics: tuple[str, ...] = Field(tuple(METRICS), min_length=1, description="which metrics, in table order")
    clip: ClipParams | None = Field(ClipParams(), description="null leaves the CLIP metrics unmeasured")
    dino: str | None = None
    raft: str | None = None
    film: FilmParams | None = None
    interpolator: str | None = None
    quality: str | None = None
    faces: str | None = None
    endpoints: tuple[EndpointParams, ...] = ()
    fvd: FvdParams | None = None
    baseline: str | None = Field(
        None, description="whom the others are tested against; null: base, or the first system"
    )
    draws: int = Field(2000, ge=100, description="bootstrap draws")
    seed: int = Field(0, description="seed of the bootstrap and of the tests")

    @field_validator("metrics")
    @classmethod
    def _known(cls, metrics: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [m for m in metrics if m not in METRICS and not re.fullmatch(r"[\w.]+:\w+", m)]
        if unknown:
            raise ValueError(f"unknown metrics {', '.join(unknown)}; there are {', '.join(METRICS)}")
        return metrics

    @model_validator(mode="after")
    def _endpoints_apart(self) -> EvaluateParams:
        names = [one.name for one in self.endpoints]
        if len(set(names)) < len(names):
            raise ValueError("two endpoints share a name")
        if self.film is not None and self.interpolator is not None:
            raise ValueError("film and interpolator are both set; there is one interpolator")
        return self

    def tools(self) -> ToolSpec:
        return ToolSpec(
            clip=self.clip.spec() if self.clip else None,
            dino=self.dino,
            raft=self.raft,
            film=FilmSpec(self.film.weights, self.film.sha256) if self.film else None,
            interpolator=self.interpolator,
            quality=self.quality,
            faces=self.faces,
            endpoints=tuple(one.spec() for one in self.endpoints),
        )

    def infos(self) -> dict[str, MetricInfo]:
        """What is measured, in table order. ``ValueError`` for a metric of the user's that cannot be had."""
        return {key: metric_info(key) for key in self.metrics} | endpoint_metrics(self.tools())

    def models(self) -> Mapping[str, str]:
        """Digests of all models. ``ValueError`` says which file or plug-in is not there."""
        versions = {f"endpoint_{one.name}": f"{one.url} {one.version}" for one in self.endpoints}
        if self.fvd is not None:
            real = sorted(videos_in(Path(self.fvd.real), "evaluate.fvd.real").values())
            name = plugin_class(self.fvd.encoder, "video_encoder").name
            versions |= {"fvd_encoder": f"{self.fvd.encoder} {name}", "fvd_real": stamp(real)}
        own = {key: metric_info(key).version for key in self.metrics if ":" in key}
        return {**self.tools().digests(), **versions, **{f"metric_{key}": version for key, version in own.items()}}

    def measuring_each(self) -> dict[str, dict[str, Any]]:
        """By metric what decides its number for one sample, for the recipe of the work."""
        models = self.models()
        return {
            key: {"metric": key, "version": info.version, "models": models_behind(key, info, models)}
            for key, info in self.infos().items()
        }

    def needs(self, metrics: Iterable[str]) -> frozenset[str] | None:
        """Fields of ``Tools`` that these metrics use; None is all, for a metric of the user's that names none."""
        infos = self.infos()
        if any(":" in key and not infos[key].needs for key in metrics):
            return None
        return frozenset(need for key in metrics for need in infos[key].needs)

    def measuring(self) -> dict[str, Any]:
        """What decides the numbers of one sample, for the recipe of the work."""
        models = {key: value for key, value in self.models().items() if not key.startswith("fvd_")}
        return {"metrics": {key: info.version for key, info in self.infos().items()}, "models": models}
