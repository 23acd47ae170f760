"""Cross-pairs checked, and prompts written, by a model behind a real HTTP server that answers, fails and talks nonsense."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_schemas.tables import SUBJECTS, SUBSET
from models.subjects.frames import picture, png
from models.subjects.prompts import parse
from stages.contract import RetryableError, StageError
from stages.subjects.pairs import PairParams, pairs
from tests.context import LocalContext
from tests.curation.fake_endpoint import Reply, serving
from tests.subjects.test_pairs import clip, crop

COLOURS = {"a": (200, 30, 30), "b": (30, 200, 30), "c": (30, 30, 200)}
CAPTION = "A dog runs over the grass"


def shown(clip_id: str) -> dict[str, bytes]:
    pixels = np.full((24, 24, 3), COLOURS[clip_id], np.uint8)
    return {"crop": png(pixels), "mask": png(np.full((24, 24), 255, np.uint8))}


def who(body: dict[str, Any]) -> str:
    """The clips whose crops a request shows, by their colours."""
    found = []
    for part in body["messages"][0]["content"]:
        if part["type"] == "image_url":
            pixel = picture(base64.b64decode(part["image_url"]["url"].split(",", 1)[1]), "crop")[12, 12]
            found.append(next(name for name, colour in COLOURS.items() if tuple(pixel) == colour))
    return "".join(sorted(found))


def run(tmp_path: Path, fingerprint: str = "f", **params: object) -> LocalContext:
    """Three clips whose dogs look alike to the encoder, one crop each."""
    inputs = {
        "subset": SUBSET.table([clip(c, CAPTION) for c in COLOURS]),
        "subjects": SUBJECTS.table([{**crop(c, "a dog", 0, 1.0, "dog"), **shown(c)} for c in COLOURS]),
    }
    ctx = LocalContext(tmp_path, pairs, inputs, fingerprint=fingerprint * 64)
    given = {
        "min_in_pair": 0,
        "min_cross_pair": 0,
        "held_out": 0.0,
        "upper": 0.999,
        "in_pair_per_clip": 0,
        "cross_pair_per_clip": 1,
    }
    ctx.run(PairParams.model_validate({**given, **params}))
    return ctx


def endpoint(url: str, **more: object) -> dict[str, object]:
    return {"url": url, "model": "looker", "backoff_s": 0.0, "attempts": 2, "cost_in": 2.0, "cost_out": 5.0, **more}


def taken(ctx: LocalContext) -> dict[str, str]:
    """By target clip the clip of its reference."""
    return {r["clip_id"]: r["references"][0]["subject_id"][0] for r in ctx.outputs["pairs"].to_pylist()}


def ledger(ctx: LocalContext) -> dict[str, dict[str, Any]]:
    """Candidates as target and candidate clip, other records by their id."""
    return {re.sub(r"(\w)/[^>]*>(\w)/.*", r"\1>\2", r["record_id"]): r for r in ctx.ledger_rows}


def test_what_the_model_takes_for_another_makes_room_for_the_next(tmp_path: Path) -> None:
    with serving(lambda n, body: "No, other marks." if "c" in who(body) else "Yes: the same dog") as server:
        ctx = run(tmp_path, check=endpoint(server.url))
        assert taken(ctx) == {"a": "b", "b": "a"}
        lines = ledger(ctx)
        assert (lines["c>a"]["status"], lines["c>a"]["reason"]) == ("rejected", "another_by_the_model")
        assert lines["c>a"]["note"] == "looker: no, other marks; 800 tokens given, 20 written, 1 requests"
        assert lines["a>b"]["status"] == "accepted"
        assert lines["a>b"]["note"].startswith("looker: yes, the same dog; ")
        assert lines["c"]["reason"] == "another_by_the_model"
        # ab, ac, bc: each two crops are shown once, whichever is the target
        assert sorted(who(body) for body in server.requests) == sorted({who(body) for body in server.requests})
        spent = {name: value for (name, _), value in ctx.metrics_seen.items()}
        asked = len(server.requests)
        assert spent["pairs/check_requests"] == asked
        assert spent["pairs/check_cost"] == pytest.approx(asked * (800 * 2 + 20 * 5) / 1e6)
        again = run(tmp_path, "e", check=endpoint(server.url, timeout_s=5.0))
        assert len(server.requests) == asked
        assert again.outputs["pairs"].equals(ctx.outputs["pairs"])
        assert dict(again.metrics_seen)["pairs/check_cost", 0] == 0


@pytest.mark.parametrize("bad", ["perhaps", b"{}", 503, 0.4])
def test_no_usable_answer_is_a_failure_that_the_next_run_mends(tmp_path: Path, bad: Reply) -> None:
    with serving(lambda n, body: bad if who(body) == "ab" else "yes") as server:
        first = run(tmp_path, check=endpoint(server.url, timeout_s=0.15))
        assert taken(first)["a"] == "c"
        line = ledger(first)["a>b"] if "a>b" in ledger(first) else ledger(first)["b>a"]
        assert (line["status"], line["reason"], line["error_type"]) == ("failed", None, "NoAnswer")
        assert line["error_message"]
    with serving(lambda n, body: "yes") as server:
        second = run(tmp_path, "e", check=endpoint(server.url))
        assert {who(body) for body in server.requests} == {"ab"}
        assert not [r for r in second.ledger_rows if r["status"] == "failed"]


def test_an_endpoint_that_refuses_or_is_down_stops_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(lambda n, body: 401) as server, pytest.raises(StageError, match=r"Mend pairs\.check"):
        run(tmp_path, check=endpoint(server.url))
    monkeypatch.setattr("stages.asking.DOWN_AFTER", 2)
    with (
        serving(lambda n, body: 500) as server,
        pytest.raises(RetryableError, match="questions in a row got no answer"),
    ):
        run(tmp_path, check=endpoint(server.url))


def write(n: int, body: dict[str, Any]) -> Reply:
    text = body["messages"][0]["content"][0]["text"]
    if "Describe the main subject" in text:
        return f"a {who(body)}-marked fluffy dog"
    return "the dog runs" if "b-marked" in text else "Ref 1[A dog] runs fast over the wet grass."


def test_the_writers_prompts_are_kept_and_templates_stand_in(tmp_path: Path) -> None:
    with serving(write) as server:
        ctx = run(tmp_path, rephraser=endpoint(server.url))
        rows = ctx.outputs["pairs"].to_pylist()
        assert {r["prompt_by"] for r in rows} == {"template", "writer"}
        for row in rows:
            name = row["references"][0]["subject_id"][0]
            layout = parse(row["prompt"])
            assert layout.appearances == (f"a {name}-marked fluffy dog",) == (row["references"][0]["appearance"],)
            by = "template" if name == "b" else "writer"
            assert row["prompt_by"] == by
            line = ledger(ctx)[row["sample_id"]]
            assert line["status"] == "accepted"
            assert line["note"].startswith(f"prompt by {by}: ")
            if by == "template":
                assert "references without a phrase" in line["note"]
                assert row["prompt"].endswith("Video: Ref 1[A dog] runs over the grass")
            else:
                assert row["prompt"].endswith("Video: Ref 1[A dog] runs fast over the wet grass")
        asked = len(server.requests)
        assert dict(ctx.metrics_seen)["pairs/rephraser_requests", 0] == asked
        run(tmp_path, "e", rephraser=endpoint(server.url))
        assert len(server.requests) == asked


def test_a_writer_that_fails_leaves_the_template_and_is_asked_again(tmp_path: Path) -> None:
    with serving(lambda n, body: 500) as server:
        ctx = run(tmp_path, rephraser=endpoint(server.url))
        assert {r["prompt_by"] for r in ctx.outputs["pairs"].to_pylist()} == {"template"}
        assert all("gave no answer" in r["note"] for r in ctx.ledger_rows if (r["note"] or "").startswith("prompt by"))
    with serving(write) as server:
        again = run(tmp_path, "e", rephraser=endpoint(server.url))
        assert "writer" in {r["prompt_by"] for r in again.outputs["pairs"].to_pylist()}


def test_without_a_rephraser_templates_write_and_say_so(tmp_path: Path) -> None:
    assert {r["prompt_by"] for r in run(tmp_path).outputs["pairs"].to_pylist()} == {"template"}
