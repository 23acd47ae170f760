"""The gate of an evaluation: people compare systems' videos of the same prompts, blind, or rate each by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from data_schemas.tables import METRICS, SAMPLES
from stages.contract import Context, Files, StageError, Table, Waiting, stage
from stages.review.gate import OUTPUTS, Gate, GateParams

if TYPE_CHECKING:
    from stages.review.labels import Labels
    from stages.review.sample_items import Showing
    from stages.review.scripted import Judge

COMPARE_GUIDELINES = """Which video is better for somebody who gave this text and this reference picture: the same subject, doing \
what the text says, moving like something filmed?

Both bad: neither is usable. Broken: a video is noise, black, or stops."""
LIKERT_GUIDELINES = """Rate each question by itself: a video may show the subject exactly and move badly. The points of every scale \
stand beside it. Rate what you see, not how hard it was to make."""
STRENGTH = "Bradley-Terry log strength, mean 0 over the systems compared; null until all are joined by comparisons"
RATING = "mean of people's ratings, 1 to 5"


class ReviewSamplesParams(GateParams):
    """Settings of the gate for generated videos."""

    reviewer: Literal["people"] = Field("people", description="who answers; no script has an opinion on videos")
    form: Literal["compare", "likert"] = Field(
        "compare", description="compare: two systems' videos side by side; likert: each rated from 1 to 5"
    )
    systems: tuple[str, ...] | None = Field(
        None, description="which systems; each is compared with each other. null is all that were sampled"
    )
    prompts: int = Field(50, ge=1, description="prompts that are judged, the same for every system")
    seeds: int = Field(1, ge=1, description="videos of a prompt and system that are judged")

    @model_validator(mode="after")
    def _each_once(self) -> ReviewSamplesParams:
        if self.systems is not None and len(set(self.systems)) < len(self.systems):
            raise ValueError("systems names each system once")
        return self


@stage(
    name="review_samples",
    version="1",
    params=ReviewSamplesParams,
    inputs={"samples": Table(SAMPLES), "videos": Files("videos")},
    outputs={**OUTPUTS, "judgements": Table(METRICS)},
    gate=True,
)
def review_samples(ctx: Context, params: ReviewSamplesParams) -> Waiting | None:
    """People judge the systems' videos; what they said is frozen as answers, verdicts, and numbers per system.

    A question that cannot be asked, because a system failed to make its video, is failed in the ledger and counts against the
    coverage of the systems in it.
    """
    from stages.review.sample_items import impossible, questions, sample_items

    columns = ["system", "prompt_id", "seed", "prompt", "uri", "reference_uri", "status", "error_message"]
    samples = ctx.dataset("samples").to_table(columns=columns).to_pylist()
    wanted = questions(samples, params.form, params.systems, params.prompts, params.seeds, ctx.seed)
    broken = impossible(wanted, samples)
    asked = [one for one in wanted if one.external_id not in broken]
    if not asked:
        why = next(iter(broken.values()), "there are no samples")
        raise StageError(f"nothing can be judged, for instance because {why}. Make the samples again.")
    guidelines = params.guidelines or (COMPARE_GUIDELINES if params.form == "compare" else LIKERT_GUIDELINES)
    title = f"{'Better video' if params.form == 'compare' else 'Rate the videos'} ({ctx.name})"
    gate = Gate(ctx, params, params.form, title, guidelines, ())
    waiting = gate.run(len(asked), lambda media: sample_items(asked, samples, ctx.path("videos"), media), _nobody)
    if waiting is None:
        ctx.write("judgements", METRICS.table(_judgements(gate.labels(), wanted)))
        said = {row["external_id"]: row["verdict"] for row in gate.verdicts.to_pylist()}
        ctx.ledger([_ending(one.external_id, said, broken) for one in wanted])
    return waiting


def _nobody() -> Judge:
    raise AssertionError("no script judges samples")


def _ending(name: str, said: Mapping[str, str], broken: Mapping[str, str]) -> dict[str, object]:
    if name in broken:
        return {"record_id": name, "status": "failed", "error_type": "NoVideo", "error_message": broken[name]}
    return {"record_id": name, "status": "in_review" if said[name] == "in_review" else "accepted"}


def _judgements(labels: Labels, wanted: Sequence[Showing]) -> Iterator[dict[str, object]]:
    """What people said of each system, as metrics. ``n`` counts answers; coverage is the share of the questions asked about the
    system that somebody answered."""
    from stages.review.findings import likert_table, systems_table

    compared = {row["system"]: row for row in systems_table(labels) or ()}
    rated = {(row["system"], row["dimension"]): row for row in likert_table(labels) or ()}
    answered = {one.thing.external_id for one in labels.independent}
    names = [("people_strength", None)] if labels.campaign.spec.form == "compare" else [
        (f"people_{dimension}", dimension) for dimension in labels.campaign.spec.question.dimensions
    ]  # fmt: skip
    for system in dict.fromkeys(name for one in wanted for name in one.systems):
        about = [one.external_id for one in wanted if system in one.systems]
        for metric, dimension in names:
            found = compared.get(system, {}) if dimension is None else rated.get((system, dimension), {})
            yield {
                "system": system,
                "metric": metric,
                "value": found.get("strength" if dimension is None else "mean"),
                "low": found.get("low"),
                "high": found.get("high"),
                "n": sum(found.get(name, 0) for name in (("wins", "losses", "ties") if dimension is None else ("n",))),
                "coverage": sum(name in answered for name in about) / len(about),
                "better": "higher",
                "note": STRENGTH if dimension is None else RATING,
            }
