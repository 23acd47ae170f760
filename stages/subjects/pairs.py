"""Stage ``pairs``: training samples of references and target, in-pair and cross-pair, with prompts and a leak-free split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from data_schemas.ids import short_hash
from data_schemas.tables import CAPTIONS, DEDUPE, PAIR_CANDIDATES, PAIRS, SUBJECTS, SUBSET, VERDICTS
from stages.asking import EndpointParams, Spent
from stages.contract import Context, NotEnoughRows, Params, Table, stage

if TYPE_CHECKING:
    from stages.subjects.check import Checked
    from stages.subjects.crop_files import CropFiles
    from stages.subjects.drafts import Draft
    from stages.subjects.identities import Clips, Crops, Identities
    from stages.subjects.retrieve import Candidates
    from stages.subjects.split import Split

SAMPLES_A_FILE = 16_384
CANDIDATES_A_FILE = 65_536


class PairParams(Params):
    """Bounds are cosines of the embedded encoder, from its separation of the DreamBooth photographs.

    Of pairs of different subjects there 5% score above 0.66 and 1% above 0.75; of pairs of one subject 64% score
    above 0.66 and 1% above 0.94. Another encoder needs its own bounds: ``benchmarks/identity_roc.py`` gives them.
    """

    in_pair_per_clip: int = Field(1, ge=0, description="in-pair samples per clip")
    in_pair_lower: float = Field(
        0.5, ge=-1, le=1, description="least cosine of a reference with its clip's other crops"
    )
    cross_pair_per_clip: int = Field(2, ge=0, description="cross-pair samples per clip")
    lower: float = Field(0.66, ge=-1, le=1, description="below this a candidate is another subject")
    upper: float = Field(0.98, ge=-1, le=1, description="above this a candidate is a copy")
    background: float = Field(0.93, ge=-1, le=1, description="above this a candidate's background is the target's")
    source: Literal["any", "same", "other"] = Field(
        "any", description="whether references come from the target's source"
    )
    names_must_agree: bool = Field(True, description="where both are named, their head nouns must be the same")
    candidates: int = Field(32, ge=1, le=256, description="most alike identities looked at for each subject")
    candidates_told: int = Field(8, ge=0, description="of these, how many are told in candidates and the ledger")
    held_out: float = Field(0.1, ge=0, le=0.5, description="share of source videos kept from training")
    largest_identity: float = Field(
        0.5, gt=0, le=1, description="largest share of the videos that likeness alone may tie to one side of the split"
    )
    check: EndpointParams | None = Field(
        None, description="a vision-language model that must call every cross-pair reference the same subject"
    )
    rephraser: EndpointParams | None = Field(
        None, description="a vision-language model that writes the prompts; without it, or where it fails, templates do"
    )
    reference_token: str = Field("", description="put before each bound phrase, e.g. <cls>; empty for none")
    min_in_pair: int = Field(1, ge=0, description="in-pair samples without which the pipeline stops here")
    min_cross_pair: int = Field(1, ge=0, description="cross-pair samples without which the pipeline stops here")

    @model_validator(mode="after")
    def _ordered(self) -> PairParams:
        if self.lower >= self.upper:
            raise ValueError(f"lower {self.lower} must be below upper {self.upper}")
        return self


@stage(
    name="pairs",
    version="4",
    params=PairParams,
    inputs={
        "subset": Table(SUBSET),
        "subjects": Table(SUBJECTS),
        "dedupe": Table(DEDUPE),
        "captions": Table(CAPTIONS),
        "verdicts": Table(VERDICTS),
    },
    outputs={"pairs": Table(PAIRS), "candidates": Table(PAIR_CANDIDATES)},
    optional=("dedupe", "captions", "verdicts"),
)
def pairs(ctx: Context, params: PairParams) -> None:
    """Pair every clip with crops of itself and with crops of the same identity from elsewhere."""
    import numpy as np

    from stages.review.verdict_rules import refused
    from stages.subjects.check import Checked, check
    from stages.subjects.crop_files import CropFiles
    from stages.subjects.identities import clip_columns, load
    from stages.subjects.retrieve import Bounds, candidates, settle
    from stages.subjects.split import components, links, split

    table = clip_columns(
        ctx.dataset("subset"),
        ctx.dataset("dedupe") if ctx.has("dedupe") else None,
        ctx.dataset("captions") if ctx.has("captions") else None,
    )
    verdicts = ctx.table("verdicts") if ctx.has("verdicts") else VERDICTS.empty()
    clips, crops, identities, ledger = load(
        ctx.dataset("subjects"), table, names_must_agree=params.names_must_agree, refused=refused(verdicts)
    )
    for rows in ledger:
        _ledger(ctx, rows)
    bounds = Bounds(params.lower, params.upper, params.background, params.source)
    with ctx.progress(len(identities), "subjects") as bar:
        # Also where no cross-pairs are asked for: the split must not leak identities.
        found = candidates(identities, bounds, params.candidates, tick=bar.advance)
    target = np.zeros(len(clips.videos), bool)
    target[identities.video[identities.clip >= 0]] = True
    component, cut = components(len(clips.videos), *links(found, identities), params.largest_identity)
    drawn = split(clips.videos, target, component, cut, seed=ctx.seed, share=params.held_out)
    ctx.event(
        "pair_split",
        videos=len(target),
        components=len(np.unique(component)),
        held_out=int(drawn.held_out.sum()),
        identity_links_cut=drawn.cut,
    )
    files = CropFiles(ctx)
    held_out, most = drawn.held_out[identities.video], params.cross_pair_per_clip
    if params.check is None:
        checked = Checked(settle(found, identities, held_out, most))
    else:
        checked = check(ctx, params.check, files, found, crops, identities, held_out, most)
    samples = SampleWriter(ctx, params, clips, crops, identities, checked.found, drawn, files)
    samples.write()
    _tell_candidates(ctx, params.candidates_told, crops, identities, checked)
    samples.enough()


class SampleWriter:
    """The samples on their way to the table, and what became of every clip and crop."""

    def __init__(
        self,
        ctx: Context,
        params: PairParams,
        clips: Clips,
        crops: Crops,
        identities: Identities,
        found: Candidates,
        drawn: Split,
        files: CropFiles,
    ) -> None:
        import numpy as np

        self.ctx, self.params, self.clips, self.crops = ctx, params, clips, crops
        self.identities, self.found, self.drawn, self.files = identities, found, drawn, files
        self.used = np.zeros(len(crops.identity), bool)
        self.counts: Counter[str] = Counter()
        self.spent = Spent()
        self.why: dict[str, Counter[str]] = {"in_pair": Counter(), "cross_pair": Counter()}
        # Why a clip has no cross-pair; with a ! before it, why it has no pair at all.
        self.ended: list[str | None] = [None] * len(clips.table)
        self.has_subject: set[int] = set()

    def write(self) -> None:
        for drafts in _chunks(self._drafts(), SAMPLES_A_FILE):
            self.ctx.write("pairs", PAIRS.table(self._rows(drafts)))
        if not self.counts:
            self.ctx.write("pairs", PAIRS.empty())
        if self.params.rephraser is not None:
            self.spent.tell(self.ctx, "rephraser", self.params.rephraser)
        self._tell()

    def _drafts(self) -> Iterator[Draft]:
        import numpy as np

        from stages.subjects.drafts import by_clip, cross_pair, in_pair
        from stages.subjects.retrieve import why_none

        params = self.params
        spans = np.searchsorted(self.crops.identity, np.arange(len(self.identities) + 1))
        fps = self.clips.table["fps"].to_numpy()
        for clip, of in by_clip(self.identities):
            self.has_subject.add(clip)
            own, no_own = in_pair(
                clip,
                of,
                self.crops,
                spans,
                fps=float(fps[clip]),
                seed=self.ctx.seed,
                lower=params.in_pair_lower,
                most=params.in_pair_per_clip,
            )
            crossed = cross_pair(clip, of, self.found, self.identities, params.cross_pair_per_clip)
            no_cross = None if crossed or not params.cross_pair_per_clip else why_none(self.found.reason[of].ravel())
            if no_own:
                self.why["in_pair"][no_own] += 1
            if no_cross:
                self.why["cross_pair"][no_cross] += 1
            if own and not crossed:
                self.ended[clip] = f"in_pair_only:{no_cross}" if no_cross else None
            elif not own and not crossed:
                self.ended[clip] = "!" + (no_own or no_cross or "no_pairs_asked_for")
            yield from (*own, *crossed)

    def _rows(self, drafts: Sequence[Draft]) -> list[dict[str, object]]:
        import numpy as np

        from models.subjects.prompts import compose, noun_phrase

        about = self.crops.about
        at = np.array([t.crop for d in drafts for t in d.references], np.int64)
        # What the target's caption calls a subject is asked of the target's own crop, not of the reference.
        own = np.array([self.identities.best[t.identity] for d in drafts for t in d.references], np.int64)
        references = iter(about.take(pa.array(at)).to_pylist())
        named = iter(about["phrase"].take(pa.array(own)).to_pylist())
        clips = self.clips.table.select(["clip_id", "video_id", "caption"]).take(pa.array([d.clip for d in drafts]))
        self.used[at] = True
        rows: list[dict[str, object]] = []
        for draft, clip in zip(drafts, clips.to_pylist(), strict=True):
            caption, phrases, looks, told = clip["caption"], [], [], []
            for n in range(len(draft.references)):
                crop, name = next(references), next(named)
                look = crop["appearance"] or crop["phrase"] or "the subject"
                phrase = name or (noun_phrase(caption) if n == 0 else None) or crop["phrase"] or look
                phrases.append(phrase)
                looks.append(look)
                told.append(
                    {
                        **{k: crop[k] for k in ("subject_id", "origin", "video_id", "time_s")},
                        "phrase": phrase,
                        "appearance": look,
                    }
                )
            cosines = [t.similarity for t in draft.references]
            grounds = [t.background for t in draft.references if t.background is not None]
            known = [c for c in cosines if c is not None]
            rows.append(
                {
                    "sample_id": short_hash("sample", draft.kind, clip["clip_id"], *(t["subject_id"] for t in told)),
                    "kind": draft.kind,
                    "clip_id": clip["clip_id"],
                    "video_id": clip["video_id"],
                    "prompt": compose(caption, phrases, looks, token=self.params.reference_token),
                    "references": told,
                    "similarity": min(known) if known else None,
                    "similarities": cosines,
                    "same_source": any(t["video_id"] == clip["video_id"] for t in told),
                    "same_shot": draft.kind == "in_pair",
                    "background": max(grounds) if grounds else None,
                    "split": "held_out" if self.drawn.held_out[self.clips.video[draft.clip]] else "train",
                    "prompt_by": "template",
                }
            )
            self.counts[draft.kind] += 1
        if self.params.rephraser is not None:
            from stages.subjects.rephrasing import rephrased

            captions, token = clips["caption"].to_pylist(), self.params.reference_token
            told = rephrased(self.ctx, self.params.rephraser, self.files, rows, captions, token, self.spent)
            self.ctx.ledger(told)
        return rows

    def _tell(self) -> None:
        """One line in the ledger for every crop of a main subject and for every clip."""
        about = self.crops.about
        accepted = [bool(u) for u in self.used]
        _ledger(
            self.ctx,
            pa.table(
                {
                    "record_id": about["subject_id"],
                    "video_id": about["video_id"],
                    "status": pa.array(["accepted" if a else "rejected" for a in accepted], pa.string()),
                    "reason": pa.array([None if a else "never_drawn" for a in accepted], pa.string()),
                }
            ),
        )
        reasons = [r if i in self.has_subject else "!no_subject" for i, r in enumerate(self.ended)]
        _ledger(
            self.ctx,
            pa.table(
                {
                    "record_id": self.clips.table["clip_id"],
                    "video_id": self.clips.table["video_id"],
                    "status": pa.array(["rejected" if r and r[0] == "!" else "accepted" for r in reasons], pa.string()),
                    "reason": pa.array([r.lstrip("!") if r else None for r in reasons], pa.string()),
                }
            ),
        )

    def enough(self) -> None:
        """Raises ``NotEnoughRows`` with what stood in the way."""
        for kind, least in (("in_pair", self.params.min_in_pair), ("cross_pair", self.params.min_cross_pair)):
            have = self.counts[kind]
            if have < least:
                counted = [f"{n} clips {reason}" for reason, n in sorted(self.why[kind].items())]
                without = len(self.clips.table) - len(self.has_subject)
                if without:
                    counted.append(f"{without} clips without a subject")
                raise NotEnoughRows(
                    f"{kind.replace('_', '-')} samples",
                    least,
                    have,
                    f"Why not: {', '.join(counted) or 'no clips'}. Add sources that show one subject twice, or change "
                    f"pairs.lower, pairs.upper or pairs.min_{kind}.",
                )


def _tell_candidates(ctx: Context, told: int, crops: Crops, identities: Identities, checked: Checked) -> None:
    """The most alike candidates of each subject of a clip, every reference, and all that a model was asked about, in the
    table and in the ledger."""
    import numpy as np

    from stages.subjects.retrieve import CODE, NONE, REASONS

    found = checked.found
    names = np.array([None, *REASONS], object)
    ids, videos = crops.about["subject_id"].combine_chunks(), crops.about["video_id"].combine_chunks()
    owners = crops.about["clip_id"].combine_chunks()
    targets = np.flatnonzero(identities.clip >= 0)
    wrote = False
    step = max(1, CANDIDATES_A_FILE // max(1, told + 1))
    for start in range(0, len(targets), step):
        mine = targets[start : start + step]
        reason, row = found.reason[mine], found.row[mine]
        asked = np.isin(reason, [0, int(CODE["not_checked"]), int(CODE["another_by_the_model"])])
        query, place = np.nonzero((reason != NONE) & ((np.arange(row.shape[1]) < told) | asked))
        target, other = mine[query], row[query, place].astype(np.int64)
        t, o = pa.array(identities.best[target]), pa.array(identities.best[other])
        ground = found.background[target, place].astype(np.float64)
        why = pa.array(names[reason[query, place].astype(np.int64)], pa.string())
        cosine = np.round(found.cosine[target, place].astype(np.float64), 6)
        rows = pa.table(
            {
                "target_id": ids.take(t),
                "candidate_id": ids.take(o),
                "target_video_id": videos.take(t),
                "candidate_video_id": videos.take(o),
                "clip_id": owners.take(t),
                "rank": pa.array(place, pa.int32()),
                "similarity": pa.array(cosine),
                "background": pa.array(np.round(ground, 6), mask=np.isnan(ground)),
                "reason": why,
            }
        )
        ctx.write("candidates", PAIR_CANDIDATES.validate(rows))
        wrote = True
        lost = reason[query, place] == CODE["not_checked"]
        status = np.where(lost, "failed", np.where(reason[query, place] == 0, "accepted", "rejected"))
        record = pc.binary_join_element_wise(rows["target_id"], rows["candidate_id"], ">")
        columns = {"record_id": record, "video_id": rows["target_video_id"], "status": pa.array(status), "reason": why}
        if checked.notes or checked.failed:
            pairs_ = list(zip(target.tolist(), other.tolist(), strict=True))
            columns |= {
                "reason": pc.if_else(pa.array(lost), pa.scalar(None, pa.string()), why),
                "note": pa.array([checked.notes.get(p) for p in pairs_], pa.string()),
                "error_type": pa.array(["NoAnswer" if p in checked.failed else None for p in pairs_], pa.string()),
                "error_message": pa.array([checked.failed.get(p) for p in pairs_], pa.string()),
            }
        _ledger(ctx, pa.table(columns))
    if not wrote:
        ctx.write("candidates", PAIR_CANDIDATES.empty())


def _ledger(ctx: Context, rows: pa.Table) -> None:
    """Arrow rows of this stage; without any, none."""
    if len(rows):
        count = len(rows)
        rows = rows.append_column("stage", pa.array([ctx.name] * count, pa.string()))
        ctx.ledger(rows.append_column("attempts", pa.array([1] * count, pa.int32())))


def _chunks(drafts: Iterator[Draft], size: int) -> Iterator[list[Draft]]:
    chunk: list[Draft] = []
    for draft in drafts:
        chunk.append(draft)
        if len(chunk) >= size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
