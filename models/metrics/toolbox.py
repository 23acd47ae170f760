"""Which models stand behind the metrics: their digests for a plan, and the models themselves in a worker."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from models.metrics.catalogue import METRICS
from models.metrics.dino import CachedEncoder, DinoEncoder, dino_digest
from models.metrics.endpoint import Endpoint, EndpointSpec
from models.metrics.film import Film, FilmSpec
from models.metrics.plugins import named, plugin_class
from models.metrics.raft import Raft, raft_digest
from models.metrics.tools import CachedTower, MetricInfo, Tools
from models.scorers.clip_tower import ClipTower, EncoderSpec, encoder_digests, load_head
from models.subjects.descriptor import ClosedFormEncoder
from models.subjects.propose import EmbeddedGrounder, GrabCutSegmenter


@dataclass(frozen=True)
class ToolSpec:
    """``clip``: the CLIP model and aesthetic head. ``dino``: a folder. ``raft``: a weights file. ``film``: an interpolator's. The
    others are plug-ins, ``package.module:Class``. Null leaves the metrics that need it unmeasured.
    """

    clip: EncoderSpec | None = None
    dino: str | None = None
    raft: str | None = None
    film: FilmSpec | None = None
    interpolator: str | None = None
    quality: str | None = None
    faces: str | None = None
    endpoints: tuple[EndpointSpec, ...] = ()

    def digests(self) -> dict[str, str]:
        """What identifies each model. ``ValueError`` names what is not there; imports no torch."""
        found = {
            "grounder": EmbeddedGrounder.name,
            "segmenter": GrabCutSegmenter.name,
            "identity": ClosedFormEncoder.name,
        }
        if self.clip is not None:
            found |= {f"clip_{key}": value for key, value in encoder_digests(self.clip).items()}
        if self.dino is not None:
            found["dino"] = dino_digest(self.dino)
        if self.raft is not None:
            found["raft"] = raft_digest(self.raft)
        if self.film is not None:
            found["interpolator"] = f"film {self.film.digest()}"
        for what in ("interpolator", "quality", "faces"):
            spec = getattr(self, what)
            if spec is not None:
                found[what] = f"{spec} {plugin_class(spec, what).name}"
        for endpoint in self.endpoints:
            found[f"endpoint_{endpoint.name}"] = endpoint.url
        return found

    def only(self, needs: frozenset[str] | None) -> ToolSpec:
        """Without the models that nobody needs, so that a worker does not load them. ``needs``: fields of ``Tools``, None all."""
        if needs is None:
            return self
        unused = {
            "dino": "dino",
            "raft": "flow",
            "film": "interpolator",
            "interpolator": "interpolator",
            "quality": "quality",
            "faces": "faces",
        }
        without: dict[str, None] = {name: None for name, need in unused.items() if need not in needs}
        return replace(self, **without, clip=self.clip if needs & {"clip", "aesthetic"} else None)  # type: ignore[arg-type]

    @property
    def lacks(self) -> dict[str, str]:
        """By field of ``Tools`` that these models leave empty: the setting that would fill it."""
        head = None if self.clip is None else self.clip.aesthetic_head
        settings = {
            "clip": (self.clip, "clip"), "aesthetic": (head, "clip.aesthetic_head"), "dino": (self.dino, "dino"),
            "flow": (self.raft, "raft"), "interpolator": (self.film or self.interpolator, "film"), "quality": (self.quality, "quality"),
            "faces": (self.faces, "faces"),
        }  # fmt: skip
        return {field: setting for field, (value, setting) in settings.items() if value is None}


class Toolbox:
    """The models of a worker, loaded once. ``for_video`` gives tools that remember one video and nothing of others, so that
    a number never depends on what the worker measured before. ``tools`` has neither CLIP nor DINO, and no memory.
    """

    def __init__(self, spec: ToolSpec) -> None:
        import cv2

        cv2.setNumThreads(1)
        clip = spec.clip
        self._tower = None if clip is None else ClipTower(clip)
        self._dino = None if spec.dino is None else DinoEncoder(spec.dino)
        self.metrics = {**METRICS, **endpoint_metrics(spec)}
        self.tools = Tools(
            aesthetic=load_head(clip.aesthetic_head) if clip is not None and clip.aesthetic_head else None,
            identity=ClosedFormEncoder(),
            grounder=EmbeddedGrounder(),
            segmenter=GrabCutSegmenter(),
            flow=None if spec.raft is None else Raft(spec.raft),
            **{
                what: plugin_class(getattr(spec, what), what)()
                for what in ("interpolator", "quality", "faces")
                if getattr(spec, what) is not None
            },
        )
        if spec.film is not None:
            self.tools = replace(self.tools, interpolator=Film(spec.film))

    def metric(self, key: str) -> MetricInfo:
        return metric_info(key, self.metrics)

    def for_video(self, fps: float) -> Tools:
        return replace(
            self.tools,
            fps=fps,
            clip=None if self._tower is None else CachedTower(self._tower),
            dino=None if self._dino is None else CachedEncoder(self._dino),
            seen={},
        )


@contextmanager
def one_thread() -> Iterator[None]:
    """torch on one thread for as long: sums in another order are other numbers, and they must not hang on a machine's cores.

    Afterwards as before, for a training may follow in the same process.
    """
    torch = sys.modules.get("torch")  # where no model needed it, nothing is set
    before = torch.get_num_threads() if torch else 0
    if torch:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if torch:
            torch.set_num_threads(before)


def metric_info(key: str, known: Mapping[str, MetricInfo] = METRICS) -> MetricInfo:
    """A metric by its key, or a user's own by ``package.module:NAME``, which must be a ``MetricInfo``."""
    if key in known:
        return known[key]
    if ":" not in key:
        raise ValueError(f"unknown metric {key}; there are {', '.join(known)}, and your own as package.module:NAME")
    found = named(key, "metric")
    if not isinstance(found, MetricInfo):
        raise ValueError(f"metric {key} is not a MetricInfo of models.metrics.tools")
    return found


def endpoint_metrics(spec: ToolSpec) -> dict[str, MetricInfo]:
    """A metric ``endpoint.score`` for each score that is wanted of each endpoint."""
    found = {}
    for one in spec.endpoints:
        endpoint = Endpoint(one)
        for score in one.scores:
            found[f"{one.name}.{score}"] = MetricInfo(
                f"{one.name}.{score}",
                f"{one.name} {score}",
                lambda v, p, r, t, endpoint=endpoint, score=score: endpoint.score(score, v, p, r, t),  # type: ignore[misc]
                "higher",
                "1",
            )
    return found
