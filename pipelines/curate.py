"""From raw footage to the subset worth training on: decode once, score, select, dedupe, balance, ask people, export."""

from __future__ import annotations

from pipelines.dag.graph import Node, Pipeline, node
from stages.curation.analyze import analyze
from stages.curation.balance import balance
from stages.curation.caption import caption
from stages.curation.clips import clips
from stages.curation.dedupe import dedupe
from stages.curation.embed import embed
from stages.curation.export import export
from stages.curation.ingest import ingest
from stages.curation.score_keyframes import score_keyframes
from stages.curation.select import preselect, select
from stages.review.clip_media import review_media
from stages.review.gate import review_clips

CURATION: tuple[Node, ...] = (
    node("ingest", ingest),
    node("analyze", analyze, sources="ingest.sources", removed="ingest.removed"),
    # The cheap rules first, so that only their survivors cost an encoder's time. One list of rules serves both stages.
    node("preselect", preselect, shots="analyze.shots", follow={"rules": "select"}),
    node(
        "caption",
        caption,
        shots="analyze.shots",
        videos="analyze.videos",
        candidates="preselect.candidates",
        keyframes="analyze.keyframes",
    ),
    node("embed", embed, candidates="preselect.candidates", keyframes="analyze.keyframes", captions="caption.captions"),
    node("score_keyframes", score_keyframes, candidates="preselect.candidates", keyframes="analyze.keyframes"),
    node("clips", clips, shots="analyze.shots", embeddings="embed.embeddings", scores="score_keyframes.scores"),
    node("select", select, clips="clips.clips"),
    node(
        "dedupe",
        dedupe,
        clips="clips.clips",
        selection="select.selection",
        videos="analyze.videos",
        keyframes="analyze.keyframes",
        embeddings="embed.embeddings",
    ),
    node("balance", balance, clips="clips.clips", dedupe="dedupe.dedupe", embeddings="embed.embeddings"),
    node(
        "review_media",
        review_media,
        clips="clips.clips",
        selection="select.selection",
        dedupe="dedupe.dedupe",
        balance="balance.balance",
        keyframes="analyze.keyframes",
        videos="analyze.videos",
        follow={"reviewer": "review_clips"},  # for a script nothing is encoded
    ),
    node(
        "review_clips",
        review_clips,
        shown="review_media.shown",
        proxies="review_media.proxies",
        captions="caption.captions",
    ),
    node(
        "export",
        export,
        clips="clips.clips",
        selection="select.selection",
        dedupe="dedupe.dedupe",
        balance="balance.balance",
        verdicts="review_clips.verdicts",
        captions="caption.captions",
        videos="analyze.videos",
        follow={"rules": "select"},  # the card states them
    ),
)

PIPELINE = Pipeline("curate", CURATION, "from raw footage to the subset worth training on")
