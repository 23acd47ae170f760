"""People judge generated videos: what is asked, what is frozen, and what it says of each system."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_schemas.tables import SAMPLES
from pipelines.catalog import BUILT_IN, find
from stages.contract import NotEnoughRows, StageError, Waiting
from stages.review.answers import Answer
from stages.review.campaigns import close_campaign, list_campaigns
from stages.review.database import open_database
from stages.review.people import person_named
from stages.review.queue import claim, submit
from stages.review.sample_gate import ReviewSamplesParams, review_samples
from tests.context import LocalContext
from tests.review.conftest import write_webm

SYSTEMS, PROMPTS = ("base", "sft", "final"), 4


def samples(folder: Path, *, failed: tuple[str, str] = ("", "")) -> dict[str, Any]:
    """Three systems' videos of four prompts, two seeds each; ``failed`` is the system and prompt of a video that was not made."""
    videos = folder / "videos"
    (videos / "references").mkdir(parents=True)
    rows: list[dict[str, object]] = []
    for prompt in range(PROMPTS):
        Image.fromarray(np.full((16, 16, 3), 40 * prompt, np.uint8)).save(videos / "references" / f"{prompt}.png")
        for hue, system in enumerate(SYSTEMS):
            for seed in (7, 8):
                name = f"{system}-{prompt}-{seed}.webm"
                broken = failed == (system, f"prompt-{prompt}")
                if not broken:
                    write_webm(videos / name, hue=3 * prompt + hue + 20 * (seed == 8), frames=3)
                rows.append(
                    {
                        "system": system, "prompt_id": f"prompt-{prompt}", "seed": seed, "prompt": f"text {prompt}",
                        "uri": None if broken else f"s3://gone/videos/{name}",
                        "reference_uri": f"s3://gone/videos/references/{prompt}.png",
                        "status": "failed" if broken else "ok", "error_message": "out of memory" if broken else None,
                    }
                )  # fmt: skip
    return {"samples": SAMPLES.table(rows), "videos": videos}


def judge(ctx: LocalContext, say: Callable[[Any], dict[str, Any]], name: str = "Ada", most: int = 1000) -> int:
    db = open_database(ctx.world.review_database)
    who, done = person_named(db, name), 0
    (campaign,) = [one for one in list_campaigns(db) if one.state == "open"]
    while done < most and (held := claim(db, campaign.id, who, 1)):
        submit(db, who, Answer(held[0].item_id, f"{name}-{done}", **say(held[0])))
        done += 1
    if done == most:
        close_campaign(db, campaign.id, "Lea")
    db.close()
    return done


def later_is_better(one: Any) -> dict[str, Any]:
    a, b = (SYSTEMS.index(system) for system in one.external_id.split("/")[2:])
    return {"choice": "left" if (a > b) == (one.side == "AB") else "right"}


def numbers(ctx: LocalContext) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["system"], row["metric"]): row for row in ctx.outputs["judgements"].to_pylist()}


def test_every_system_is_compared_with_each_other_on_the_same_prompts_and_ranked(tmp_path: Path) -> None:
    inputs, params = samples(tmp_path), ReviewSamplesParams(prompts=3)
    ctx = LocalContext(tmp_path, review_samples, inputs)
    waiting = ctx.run(params)
    assert isinstance(waiting, Waiting)
    assert waiting.remaining == 3 * 3  # three prompts, three pairs of systems, one seed
    assert judge(ctx, later_is_better) == 9
    done = LocalContext(tmp_path, review_samples, inputs)
    assert done.run(params) is None
    said = numbers(done)
    strengths = [said[system, "people_strength"]["value"] for system in SYSTEMS]
    assert strengths == sorted(strengths)
    assert sum(strengths) == pytest.approx(0)
    assert {(row["n"], row["coverage"]) for row in said.values()} == {(6, 1.0)}
    assert {row["verdict"] for row in done.outputs["verdicts"].to_pylist()} == {
        "b"
    }  # the second named is the later one
    shown = [json.loads(row["payload"]) for row in done.outputs["items"].to_pylist()]
    assert {tuple(sorted(one)) for one in shown} == {("a", "b", "prompt", "reference")}
    assert not [name for name in SYSTEMS if name in json.dumps(shown)]
    assert {row["status"] for row in done.ledger_rows} == {"accepted"}


def test_ratings_are_counted_for_each_system_and_question(tmp_path: Path) -> None:
    inputs = samples(tmp_path)
    params = ReviewSamplesParams(form="likert", systems=("sft", "final"), seeds=2)
    ctx = LocalContext(tmp_path, review_samples, inputs)
    ctx.run(params)

    def rate(one: Any) -> dict[str, Any]:
        score = 2 + 2 * one.external_id.endswith("final")
        return {"choice": "rate", "scores": {"identity": score, "prompt": 3, "motion": 1, "overall": score}}

    assert judge(ctx, rate) == 2 * PROMPTS * 2
    done = LocalContext(tmp_path, review_samples, inputs)
    assert done.run(params) is None
    said = numbers(done)
    assert (said["sft", "people_identity"]["value"], said["final", "people_identity"]["value"]) == (2, 4)
    assert {said[system, "people_motion"]["value"] for system in ("sft", "final")} == {1}
    assert {row["n"] for row in said.values()} == {2 * PROMPTS}


def test_a_video_that_was_not_made_fails_its_questions_and_lowers_the_coverage(tmp_path: Path) -> None:
    inputs, params = samples(tmp_path, failed=("sft", "prompt-1")), ReviewSamplesParams()
    ctx = LocalContext(tmp_path, review_samples, inputs)
    ctx.run(params)
    assert judge(ctx, later_is_better) == PROMPTS * 3 - 2
    done = LocalContext(tmp_path, review_samples, inputs)
    assert done.run(params) is None
    failed = [row for row in done.ledger_rows if row["status"] == "failed"]
    assert len(failed) == 2
    assert {row["error_message"] for row in failed} == {"sft made no video: out of memory"}
    coverage = {system: numbers(done)[system, "people_strength"]["coverage"] for system in SYSTEMS}
    assert coverage == {"base": 7 / 8, "sft": 6 / 8, "final": 7 / 8}


def test_what_is_not_known_yet_is_null_and_not_a_number(tmp_path: Path) -> None:
    inputs, params = samples(tmp_path), ReviewSamplesParams()
    ctx = LocalContext(tmp_path, review_samples, inputs)
    ctx.run(params)
    judge(ctx, later_is_better, most=1)  # closed in part: one comparison joins two of three systems
    done = LocalContext(tmp_path, review_samples, inputs)
    assert done.run(params) is None
    values = [row for row in numbers(done).values() if row["n"] == 0]
    assert values
    assert {row["value"] for row in values} == {None}
    assert {row["status"] for row in done.ledger_rows} == {"accepted", "in_review"}


def test_what_cannot_be_asked_is_said(tmp_path: Path) -> None:
    inputs = samples(tmp_path)

    def run(**params: Any) -> None:
        LocalContext(tmp_path, review_samples, inputs).run(ReviewSamplesParams(**params))

    with pytest.raises(StageError, match="no samples of dpo; there are base, sft, final"):
        run(systems=("sft", "dpo"))
    with pytest.raises(NotEnoughRows, match="needs 2 systems to compare, has 1"):
        run(systems=("sft",))
    with pytest.raises(ValueError, match="each system once"):
        ReviewSamplesParams(systems=("sft", "sft"))
    for path in inputs["videos"].glob("base-*.webm"):
        path.write_bytes(b"no video")
    with pytest.raises(StageError, match=r"cannot be shown: .*shows no picture"):
        run()


def test_the_pipeline_that_ends_with_people_is_wired_and_known() -> None:
    assert "libragen_judged" in BUILT_IN
    assert find("libragen_judged").problems() == []
