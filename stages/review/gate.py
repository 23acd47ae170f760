"""The review gates: each makes its campaign once, waits as data while people answer, and commits the frozen answers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import pyarrow as pa
from pydantic import Field, model_validator

from data_schemas.tables import CAPTIONS, DECISIONS, ITEMS, PREFERENCES, SHOWN, VERDICTS
from stages.contract import Context, Files, Params, StageError, Table, Waiting, stage
from stages.review.sampling import KEPT
from stages.review.spec import PEOPLE, Reviewer

if TYPE_CHECKING:
    from stages.review.answers import Form
    from stages.review.campaigns import CampaignSpec, NewItem
    from stages.review.database import Database
    from stages.review.labels import Labels
    from stages.review.media import MediaStore
    from stages.review.scripted import Judge

OUTPUTS = {"items": Table(ITEMS), "decisions": Table(DECISIONS), "verdicts": Table(VERDICTS)}

CLIP_GUIDELINES = """Accept a clip that shows one clear subject doing something: a model should learn from it how a subject looks and moves.

Reject a clip with a cut or transition in it, with text or a logo over the picture, that is blurred, shaky, too dark or too bright, \
that stands still, or whose caption says something else than the picture. Judge what you see, not how rare it is.

Skip what you cannot judge."""
CLIP_REASONS = (
    "no clear subject", "cut or transition", "text or logo", "blurred or shaky", "dark or bright", "still", "wrong caption",
    "unsafe", "other",
)  # fmt: skip
CONSIS_GUIDELINES = """Which video shows the subject of the reference picture better: its shape, colours, pattern and face?

Then: is everything else the same in both, the scene, the motion and the camera? Say no when something beside the subject changed, \
even if the change is an improvement.

Both bad: neither shows the subject. Broken: a video is noise, black, or stops."""
REAL_FAKE_GUIDELINES = """Which video is better as a video: does it move and look like something filmed, does it fit the text?

Both bad: neither is usable. Broken: a video is noise, black, or stops."""


class CampaignParams(Params):
    """Settings that all campaigns share. See ``CampaignSpec`` for the policies."""

    reviewer: str
    overlap: int = Field(1, ge=1, le=20, description="people who judge each item")
    aggregation: Literal["unanimous", "majority", "lead"] = Field(
        "majority", description="how answers become a verdict"
    )
    skip_policy: Literal["count", "others", "me"] = Field("count", description="what a skip does to the item")
    lease_seconds: int = Field(
        300, ge=10, description="how long a claimed item stays with one person", json_schema_extra={"unit": "s"}
    )
    order: Literal["finish_first", "uncertainty", "disagreement"] = Field(
        "finish_first",
        description="what people see first: started items, clips whose rules asked for a person, or items in dispute",
    )
    gold_rate: float = Field(
        0.05, ge=0, le=0.5, description="share of items with a known answer mixed in, once a lead has marked some"
    )
    guidelines: str | None = Field(
        None, description="what to look for, shown by the key g; the default speaks of S2V training"
    )

    @model_validator(mode="after")
    def _one_script(self) -> CampaignParams:
        if self.reviewer.startswith("script:") and self.overlap > 1:
            raise ValueError("a scripted reviewer answers each item once: set overlap to 1, or reviewer to people")
        return self


class GateParams(CampaignParams):
    """Settings of the gates that always ask."""

    reviewer: Reviewer = Field(
        PEOPLE, description="who answers: people on the review page, or a scripted reviewer, named in every decision"
    )


class ReviewClipsParams(GateParams):
    """Settings of the filter gate."""

    reasons: tuple[str, ...] = Field(
        CLIP_REASONS, max_length=9, description="reason tags of a reject, one digit key each"
    )

    @model_validator(mode="after")
    def _a_filter_script(self) -> ReviewClipsParams:
        if self.reviewer == "script:histogram":
            raise ValueError("script:histogram compares pairs; a filter campaign takes people or script:rules")
        return self


class ReviewPairsParams(GateParams):
    """Settings of a pairwise gate; ``kind`` names the question."""

    kind: Literal["consis", "real_fake"]


@stage(
    name="review_clips",
    version="2",
    params=ReviewClipsParams,
    inputs={"shown": Table(SHOWN), "proxies": Files("review_media"), "captions": Table(CAPTIONS)},
    outputs=OUTPUTS,
    gate=True,
)
def review_clips(ctx: Context, params: ReviewClipsParams) -> Waiting | None:
    """People accept or reject every surviving clip, and a share of the rejected ones, so that thresholds can be judged."""
    from stages.review.clip_items import clip_items, place_media
    from stages.review.scripted import rules_filter_judge

    shown = [row for row in ctx.table("shown").to_pylist() if row["media"] is not None]
    strata = {row["clip_id"]: row["stratum"] for row in shown}
    gate = Gate(ctx, params, "filter", f"Clips ({ctx.name})", params.guidelines or CLIP_GUIDELINES, params.reasons)

    def build(media: MediaStore) -> list[NewItem]:
        if gate.by_people:
            place_media(ctx, shown, media)
        return clip_items(ctx, shown)

    waiting = gate.run(len(shown), build, lambda: rules_filter_judge(strata))
    if waiting is None:
        # Drawn rejected clips have ended in the selection's ledger already; only survivors end here.
        gate.account({row["clip_id"]: row["video_id"] for row in shown if row["stratum"] == KEPT}, "accept")
    return waiting


@stage(
    name="review_pairs",
    version="1",
    params=ReviewPairsParams,
    inputs={"preferences": Table(PREFERENCES), "shards": Files("preferences")},
    outputs=OUTPUTS,
    gate=True,
)
def review_pairs(ctx: Context, params: ReviewPairsParams) -> Waiting | None:
    """People compare the two videos of every pair, blind and with sides counterbalanced."""
    from stages.review.pair_items import pair_files, pair_items
    from stages.review.scripted import histogram_judge, rules_pair_judge

    columns = ["pair_id", "kind", "winner_uri", "loser_uri", "reference_uri", "prompt"]
    pairs = ctx.dataset("preferences").to_table(columns=columns)
    strange = sorted(set(pairs.column("kind").to_pylist()) - {params.kind})
    if strange:
        raise StageError(
            f"{ctx.name} asks about {params.kind} pairs and was given {', '.join(strange)}: check its wiring."
        )
    consis = params.kind == "consis"
    guidelines = params.guidelines or (CONSIS_GUIDELINES if consis else REAL_FAKE_GUIDELINES)
    title = f"{'Same subject' if consis else 'Better video'} ({ctx.name})"
    gate = Gate(ctx, params, params.kind, title, guidelines, ())

    def judge() -> Judge:
        if params.reviewer == "script:rules":
            return rules_pair_judge
        return histogram_judge(pair_files(pairs, ctx.path("shards"), with_reference=consis))

    return gate.run(
        pairs.num_rows,
        lambda media: pair_items(pairs, ctx.path("shards"), media, with_reference=consis, make=gate.by_people),
        judge,
    )


class Gate:
    """One gate's campaign: made on the first run, asked after on every other, frozen when it is done.

    The campaign belongs to the stage's fingerprint: other inputs or settings are another campaign, which carries over
    people's answers where the very same thing is asked again. Answers themselves never enter a fingerprint; the frozen
    export does, as the digest of the gate's outputs.
    """

    def __init__(
        self,
        ctx: Context,
        params: CampaignParams,
        form: Form,
        title: str,
        guidelines: str,
        reasons: Sequence[str],
        asks: str = "",
    ) -> None:
        self.ctx, self.params = ctx, params
        self.by_people = params.reviewer == PEOPLE
        self.form, self.title, self.guidelines, self.reasons = form, title, guidelines, tuple(reasons)
        self.asks = asks
        self.verdicts: pa.Table = VERDICTS.empty()

    @property
    def spec(self) -> CampaignSpec:
        from stages.review.campaigns import CampaignSpec

        name = re.sub(r"[^A-Za-z0-9_.-]", "_", self.ctx.name)[:80]
        return CampaignSpec(
            campaign_id=f"{name}-{self.ctx.fingerprint[-24:]}",
            form=self.form,
            title=self.title,
            asks=self.asks,
            guidelines=self.guidelines,
            reasons=self.reasons,
            overlap=self.params.overlap,
            lease_seconds=self.params.lease_seconds,
            skip_policy=self.params.skip_policy,
            aggregation=self.params.aggregation,
            order=self.params.order,
            gold_rate=self.params.gold_rate,
            seed=self.ctx.seed,
            carry=self.by_people,
            next_command=self.ctx.world.command,
        )

    def run(
        self, expected: int, build: Callable[[MediaStore], list[NewItem]], judge: Callable[[], Judge]
    ) -> Waiting | None:
        """Make the campaign if need be and see whether it is done. Nothing to judge is done at once."""
        if not expected:
            for name, artifact in OUTPUTS.items():
                self.ctx.write(name, artifact.schema.empty())
            return None
        from stages.review.campaigns import close_if_done, find_campaign
        from stages.review.database import open_database

        db = open_database(self.ctx.world.review_database)
        try:
            spec = self.spec
            found = find_campaign(db, spec.campaign_id)
            if found is None or found.state != "closed":
                self._make(db, spec, build)
                if not self.by_people:
                    self._answer(db, spec, judge())
                state = close_if_done(db, spec.campaign_id)
                if state.remaining:
                    return self._waiting(spec, state.items, state.remaining, state.disputed)
            self._export(db, spec)
            return None
        finally:
            db.close()

    def _make(self, db: Database, spec: CampaignSpec, build: Callable[[MediaStore], list[NewItem]]) -> None:
        from stages.review.campaigns import create_campaign
        from stages.review.media import MediaStore, media_root_for

        # Also while the campaign is open: media that were deleted are placed again, those that are there cost a look.
        create_campaign(db, spec, build(MediaStore(media_root_for(self.ctx.world.review_database))))

    def _answer(self, db: Database, spec: CampaignSpec, judge: Judge) -> None:
        from stages.review.campaigns import progress
        from stages.review.scripted import answer_all

        with self.ctx.progress(progress(db, spec.campaign_id).remaining, "items") as bar:
            answer_all(db, spec.campaign_id, self.params.reviewer, judge, lambda: bar.advance())

    def _waiting(self, spec: CampaignSpec, items: int, remaining: int, disputed: int) -> Waiting:
        page = f"{self.ctx.world.review_page.rstrip('/')}/c/{spec.campaign_id}"
        who = "people"
        if disputed == remaining and spec.aggregation == "lead":
            who = "a lead, because the answers disagree"
        message = f"{remaining} of {items} items wait for {who}. Start `fulcrum review serve` and open {page}, then run again."
        return Waiting(page, remaining, message)

    def _export(self, db: Database, spec: CampaignSpec) -> None:
        from stages.review.verdicts import export

        frozen = export(db, spec.campaign_id)
        self.verdicts = frozen.verdicts
        self.ctx.write("items", frozen.items)
        self.ctx.write("decisions", frozen.decisions)
        self.ctx.write("verdicts", frozen.verdicts)

    def labels(self) -> Labels:
        """All answers of the campaign; once it is closed they never change."""
        from stages.review.campaigns import read_campaign
        from stages.review.database import open_database
        from stages.review.labels import load_labels

        db = open_database(self.ctx.world.review_database)
        try:
            with db.read() as connection:
                return load_labels(connection, read_campaign(connection, self.spec.campaign_id))
        finally:
            db.close()

    def account(self, video_of: Mapping[str, str], accepts: str) -> None:
        """Write where each record (with its video) ended: accepted, rejected with the reviewers' reasons, or in_review."""
        said = {row["external_id"]: row for row in self.verdicts.to_pylist()}
        rows: list[dict[str, object]] = []
        for record, video in video_of.items():
            verdict = said[record]["verdict"]
            row: dict[str, object] = {"record_id": record, "video_id": video, "status": "rejected"}
            if verdict in ("in_review", accepts):
                row["status"] = "in_review" if verdict == "in_review" else "accepted"
            else:
                row["reason"] = ", ".join(said[record]["reasons"]) or verdict
            rows.append(row)
        self.ctx.ledger(rows)
