"""What people say of two systems, and which metrics order videos as they do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from data_schemas.tables import DECISIONS
from models.statistics.correlation import spearman
from models.subjects.frames import png
from models.video.encode import write_video
from stages.contract import StageError
from stages.evaluation.people import campaign_items, pair_id, read_decisions, said, video_id

PROMPTS = [f"p{i}" for i in range(6)]


def samples(folder: Path | None = None, suffix: str = ".webm") -> list[dict[str, Any]]:
    rows = []
    for number, prompt in enumerate(PROMPTS):
        for system in ("base", "final"):
            row = {
                "system": system,
                "prompt_id": prompt,
                "seed": 7,
                "prompt": f"prompt {number}",
                "uri": f"x/videos/{system}{number}{suffix}",
                "reference_uri": "x/videos/references/r.png",
                "reference_uris": None,
                "status": "ok",
            }
            rows.append(row)
            if folder is not None:
                (folder / "references").mkdir(parents=True, exist_ok=True)
                (folder / "references" / "r.png").write_bytes(png(np.zeros((8, 8, 3), np.uint8)))
                shade = np.full((3, 32, 33, 3), 20 * number + (10 if system == "final" else 0), np.uint8)
                codec = "libvpx-vp9" if suffix == ".webm" else "libx264"
                write_video(shade[:, :, :32], 8.0, folder / f"{system}{number}{suffix}", codec=codec)
    return rows


def decision(external_id: str, verdict: str, who: str = "ann", **values: Any) -> dict[str, Any]:
    return {"external_id": external_id, "verdict": verdict, "reviewer": who, "values": json.dumps(values)}


def numbers(metric: str, value: Any) -> list[dict[str, Any]]:
    return [
        {"system": system, "prompt_id": prompt, "seed": 7, "metric": metric, "value": value(i, system)}
        for i, prompt in enumerate(PROMPTS)
        for system in ("base", "final")
    ]


def test_gsb_counts_good_same_and_bad_and_draws_prompts_again() -> None:
    verdicts = ["a", "a", "a", "b", "same", "both_bad"]
    answers = [decision(pair_id(p, 7, "final", "base"), v) for p, v in zip(PROMPTS, verdicts, strict=True)]
    answers += [decision(pair_id("p0", 7, "final", "base"), "skip", "bob"), decision("elsewhere", "a")]
    found = said(answers, samples(), [])
    (one,) = found.preferences
    assert (one.a, one.b) == ("final", "base")
    assert (one.good, one.same, one.bad, one.both_bad) == (3, 1, 1, 1)
    assert one.gsb.value == pytest.approx((3 - 1) / 5)
    assert one.gsb.low is not None
    assert one.p == 2 * (0.5**4) * (1 + 4)  # 3 of 4 or more, both sides: 2 (C(4,3) + C(4,4)) / 16
    assert (found.people, found.unknown) == (1, 1)


def test_many_votes_on_one_prompt_are_no_proof() -> None:
    answers = [decision(pair_id("p0", 7, "final", "base"), "a", f"person {n}") for n in range(20)]
    (one,) = said(answers, samples(), []).preferences
    assert (one.good, one.p) == (20, 1.0)


def test_a_metric_agrees_with_people_when_it_orders_pairs_as_they_do() -> None:
    verdicts = ["a", "same", "b", "a", "b", "same"]
    answers = [decision(pair_id(p, 7, "final", "base"), v) for p, v in zip(PROMPTS, verdicts, strict=True)]
    wish = {"a": 1.0, "same": 0.0, "b": -1.0}
    right = numbers("right", lambda i, system: wish[verdicts[i]] if system == "final" else 0.0)
    wrong = numbers("wrong", lambda i, system: -wish[verdicts[i]] if system == "final" else 0.0)
    blind = numbers("blind", lambda i, system: 0.5)
    rho = {a.metric: a.rho.value for a in said(answers, samples(), [*right, *wrong, *blind]).agreement}
    assert rho["right"] == pytest.approx(1.0)
    assert rho["wrong"] == pytest.approx(-1.0)
    assert rho["blind"] is None


def test_ratings_are_means_by_system_and_dimension() -> None:
    answers = [
        decision(video_id(p, 7, system), "rate", scores={"identity": 5 - i % 2 if system == "final" else 2})
        for i, p in enumerate(PROMPTS)
        for system in ("base", "final")
    ]
    found = said(answers, samples(), numbers("right", lambda i, system: float(system == "final")))
    means = {r.system: (r.mean.value, r.counts) for r in found.ratings}
    assert means == {"base": (2.0, (0, 6, 0, 0, 0)), "final": (4.5, (0, 0, 0, 3, 3))}
    assert [(a.question, round(a.rho.value or 0, 2)) for a in found.agreement] == [("identity", 0.94)]


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=3, max_size=20))
@settings(max_examples=40, deadline=None)
def test_spearman_is_scipys(points: list[tuple[int, int]]) -> None:
    x, y = (np.array(side, np.float64) for side in zip(*points, strict=True))
    found = spearman(x, y, ["one"] * len(points)).value
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(spearmanr(x, y).statistic)


@pytest.mark.parametrize("suffix", [".webm", ".mp4"])
@pytest.mark.parametrize("form", ["compare", "likert"])
def test_the_items_make_a_campaign_that_shows_no_system(tmp_path: Path, suffix: str, form: Any) -> None:
    from stages.review.manifest import read_items
    from stages.review.media import MediaStore

    rows = samples(tmp_path / "videos", suffix)
    rows[-1] |= {"status": "failed", "uri": None}
    count, left_out = campaign_items(rows, tmp_path / "videos", form, ["final", "base"], tmp_path / "out")
    assert count == (5 if form == "compare" else 11)
    assert left_out == [f"p5, seed 7, {'final and base' if form == 'compare' else 'final'}: no video of final"]
    items = read_items(tmp_path / "out" / "items.jsonl", form, MediaStore(tmp_path / "media"))
    assert len(items) == count
    for item in items:
        shown = json.dumps(item.payload) + item.external_id
        assert "final" not in shown
        assert "base" not in shown
    known = pair_id("p0", 7, "final", "base") if form == "compare" else video_id("p0", 7, "final")
    assert known in {item.external_id for item in items}


def test_what_people_preferred_comes_back_whatever_side_they_saw_it_on(tmp_path: Path) -> None:
    from stages.review.answers import Answer
    from stages.review.campaigns import close_campaign, create_campaign
    from stages.review.database import open_database
    from stages.review.manifest import read_items
    from stages.review.media import MediaStore
    from stages.review.people import person_named
    from stages.review.queue import claim, submit
    from stages.review.spec import CampaignSpec
    from stages.review.verdicts import write_export

    rows = samples(tmp_path / "videos")
    campaign_items(rows, tmp_path / "videos", "compare", ["final", "base"], tmp_path / "out")
    items = read_items(tmp_path / "out" / "items.jsonl", "compare", MediaStore(tmp_path / "media"))
    media_of_final = {str(item.payload["a"]) for item in items}  # "a" is the first system named
    db = open_database(f"sqlite:///{tmp_path / 'review.db'}")
    create_campaign(db, CampaignSpec(campaign_id="c", form="compare", title="c", guidelines="", overlap=2), items)
    seen = set()
    for name in ("Ada", "Ben"):
        who = person_named(db, name)
        for one in claim(db, "c", who, len(items)):
            assert one.payload["a"] in media_of_final
            side = "left" if one.side == "AB" else "right"
            seen.add(side)
            submit(db, who, Answer(one.item_id, f"{name}-{one.item_id}", side))
    close_campaign(db, "c", "Lea")
    write_export(db, "c", tmp_path / "export")
    db.close()
    found = said(read_decisions(tmp_path / "export"), rows, [])
    (one_pair,) = found.preferences
    assert seen == {"left", "right"}
    assert (one_pair.a, one_pair.b, one_pair.good, one_pair.bad) == ("final", "base", 12, 0)
    assert (one_pair.gsb.value, found.people, found.unknown) == (1.0, 2, 0)


def test_systems_that_are_not_there_are_told(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="compare needs two or more of the systems base, final; given: final"):
        campaign_items(samples(), tmp_path, "compare", ["final"], tmp_path / "out")


def test_an_answer_has_the_columns_of_an_export() -> None:
    assert set(decision("x", "a")) <= {f.name for f in DECISIONS.fields}
