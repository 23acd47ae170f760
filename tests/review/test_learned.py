"""From people's answers back to the rules: which rule is wrong, and where its threshold had better lie."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pytest

from stages.curation.rules import Rule
from stages.review.campaigns import Campaign
from stages.review.labels import Label, Labels, Thing
from stages.review.learned import RuleFinding, learn
from stages.review.people import Person
from stages.review.sampling import KEPT
from tests.review.conftest import spec

RULES = [Rule(name="sharp", column="sharpness", min=0.5), Rule(name="still", column="motion", max=0.9)]


def campaign(drawn: int, seed: int = 0) -> tuple[Labels, pads.Dataset, float]:
    """2,000 clips. ``sharp`` demands 0.5 where people are content with 0.3; ``still`` is right. Of each rule's rejects
    ``drawn`` are seen. Returns the answers, the clips, and the true recall of ``sharp`` among what passes ``still``."""
    rng = np.random.default_rng(seed)
    sharpness, motion = rng.random(2000), rng.random(2000)
    good = (sharpness >= 0.3) & (motion <= 0.9)
    rule = np.where(sharpness < 0.5, "sharp", np.where(motion > 0.9, "still", KEPT))
    things = []
    for name in (KEPT, "sharp", "still"):
        mine = np.flatnonzero(rule == name)
        seen = mine if name == KEPT else mine[: min(drawn, len(mine))]
        things += [Thing(str(n), f"c{n}", name, len(seen) / len(mine), 2.0, {}, None) for n in seen]
    ada = Person("ada", "Ada", "annotator")
    answers = []
    for number, thing in enumerate(things):
        said = "accept" if good[int(thing.id)] else "reject"
        answers.append(Label(thing, ada, said, said, said, {"choice": said}, (), "counted", False, number, None, 1.0))
    labels = Labels(Campaign("clips", spec(), "open", 0.0), {one.id: one for one in things}, tuple(answers))
    clips = pa.table({"clip_id": [f"c{n}" for n in range(2000)], "sharpness": sharpness, "motion": motion})
    population = good & (rule != "still")
    return labels, pads.dataset(clips), float((population & (sharpness >= 0.5)).sum() / population.sum())


def findings(labels: Labels, clips: pads.Dataset) -> dict[str, RuleFinding]:
    return {one.rule: one for one in learn(labels, clips, RULES)}


def test_the_rule_that_people_contradict_comes_first_with_the_threshold_they_would_set() -> None:
    labels, clips, recall = campaign(120)
    found = findings(labels, clips)
    assert list(found) == ["sharp", "still"]
    sharp, still = found["sharp"], found["still"]
    assert sharp.accepted is not None
    assert still.accepted is not None
    # of sharpness below 0.5 two fifths lie above 0.3, nine tenths of those move little enough
    assert sharp.accepted.low < 0.36 < sharp.accepted.high
    assert still.accepted.share == 0
    assert sharp.stands_for == pytest.approx(1000, abs=60)  # all that the rule rejected, not only the 120 seen
    (line,) = sharp.lines
    assert line.recall is not None
    assert line.recall.low is not None
    assert line.recall.high is not None
    assert line.recall.low < recall < line.recall.high
    assert line.suggested == pytest.approx(0.3, abs=0.06)
    assert line.suggested_precision is not None
    assert line.suggested_precision.value is not None
    assert line.suggested_precision.value >= 0.9


def test_without_rejected_clips_the_recall_is_unknown() -> None:
    labels, clips, _ = campaign(0)
    for one in findings(labels, clips).values():
        assert one.accepted is None
        (line,) = one.lines
        assert line.recall is None
        assert line.precision is not None
        assert "recall is unknown" in line.note


def test_clips_without_the_score_are_counted_as_such() -> None:
    labels, clips, _ = campaign(20)
    table = clips.to_table()
    blank = pa.array([None if n % 2 else v for n, v in enumerate(table.column("sharpness").to_pylist())], pa.float64())
    found = findings(labels, pads.dataset(table.set_column(1, "sharpness", blank)))
    assert "without this score left out" in found["sharp"].lines[0].note
