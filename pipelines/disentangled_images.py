"""``disentangled`` with a set of image pairs beside the stills: name it with ``--set images.table=PATH``.

The set is Subjects-200K or one that looks like it (``stages/subjects/image_pairs.py``). Its rows come after those of the clips, in one
cache, so that the switching recipe (arXiv 2504.17816) draws its image steps from both.
"""

from __future__ import annotations

from dataclasses import replace

from pipelines.dag.graph import Output, Pipeline, node
from pipelines.disentangled import PIPELINE as DISENTANGLED
from stages.subjects.image_pairs import ROWS, image_pairs

_encode = next(n for n in DISENTANGLED.nodes if n.name == "encode")
_at = next(i for i, n in enumerate(DISENTANGLED.nodes) if n.name == "encode")

PIPELINE = Pipeline(
    "disentangled_images",
    (
        *DISENTANGLED.nodes[:_at],
        node("images", image_pairs, {name: f"disentangle.{name}" for name in ROWS}),
        replace(_encode, inputs={name: Output("images", name) for name in ROWS}),
        *DISENTANGLED.nodes[_at + 1 :],
    ),
    "disentangled, with a set of image pairs beside the stills of the clips",
)
