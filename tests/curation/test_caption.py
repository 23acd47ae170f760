"""Captions: the source's, a captioner's over a real local endpoint, their checks, costs, failures and resuming."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from data_schemas.tables import CANDIDATES, CLIPS, KEYFRAMES, VIDEOS
from models.captioners.checks import CaptionRules, fault, tidy
from models.captioners.endpoint import Endpoint, EndpointSpec
from models.captioners.protocols import Writer, WriterRefused, WriterUnavailable
from stages.contract import RetryableError, StageError
from stages.curation.caption import CaptionParams, caption
from tests.context import LocalContext
from tests.curation.fake_endpoint import Server, serving

TEXT = "A brown dog runs across a green meadow."


def endpoint(server: Server, **how: Any) -> Endpoint:
    waits: list[float] = how.pop("waits", [])
    return Endpoint(EndpointSpec(server.url, "tiny-vlm", **how), sleep=waits.append)


# -- the endpoint ----------------------------------------------------------------------------------------------------


def test_a_good_answer_comes_with_its_tokens_and_the_pictures_were_sent() -> None:
    with serving(lambda n, body: TEXT) as server:
        writer = endpoint(server)
        assert isinstance(writer, Writer)
        answer = writer.ask("describe", [b"\x89PNG one", b"two"])
    assert (answer.text, answer.tokens_in, answer.tokens_out, answer.attempts) == (TEXT, 800, 20, 1)
    body = server.requests[0]
    assert (body["model"], body["temperature"]) == ("tiny-vlm", 0.0)
    text, first, second = body["messages"][0]["content"]
    assert text == {"type": "text", "text": "describe"}
    assert first["image_url"]["url"] == "data:image/png;base64," + base64.b64encode(b"\x89PNG one").decode()
    assert second["image_url"]["url"].startswith("data:image/jpeg;base64,")


@pytest.mark.parametrize(
    "bad",
    [500, 429, b"not json", b'{"choices": []}', b'{"choices": [{"message": {"content": null}}]}', b"[]", b""],
    ids=["500", "429", "no json", "no choices", "no content", "a list", "nothing"],
)
def test_what_may_pass_is_tried_again(bad: Any) -> None:
    waits: list[float] = []
    with serving(lambda n, body: bad if n < 2 else TEXT) as server:
        answer = endpoint(server, waits=waits, backoff_s=1.0).ask("x")
    assert (answer.text, answer.attempts) == (TEXT, 3)
    # 1 and 2 seconds, each times a draw in 0.5..1.5
    assert 0.5 <= waits[0] <= 1.5
    assert 1.0 <= waits[1] <= 3.0


def test_the_server_says_how_long_to_wait_but_not_for_ever() -> None:
    waits: list[float] = []
    replies: list[Any] = [(429, {"Retry-After": "7"}), (503, {"Retry-After": "9999"}), TEXT]
    with serving(lambda n, body: replies[n]) as server:
        endpoint(server, waits=waits, backoff_most_s=30.0).ask("x")
    assert waits == [7.0, 30.0]


def test_a_server_that_stays_silent_costs_the_time_out_and_not_more() -> None:
    with serving(lambda n, body: 0.6 if n == 0 else TEXT) as server:
        assert endpoint(server, timeout_s=0.15).ask("x").attempts == 2


def test_after_the_last_attempt_it_says_what_was_wrong() -> None:
    with (
        serving(lambda n, body: 503) as server,
        pytest.raises(WriterUnavailable, match="no answer in 3 attempts; last: status 503"),
    ):
        endpoint(server, attempts=3).ask("x")
    assert len(server.requests) == 3
    with pytest.raises(WriterUnavailable, match="Connect"):
        endpoint(server, attempts=1).ask("x")  # nobody listens there any more


@pytest.mark.parametrize("status", [400, 401, 404])
def test_what_cannot_pass_is_not_tried_again(status: int) -> None:
    with serving(lambda n, body: status) as server, pytest.raises(WriterRefused, match=f"status {status}"):
        endpoint(server).ask("x")
    assert len(server.requests) == 1


def test_the_key_comes_from_the_environment_and_a_missing_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "abc")
    with serving(lambda n, body: TEXT) as server:
        endpoint(server, key_env="MY_KEY").ask("x")
        assert {k.lower(): v for k, v in server.headers[0].items()}["authorization"] == "Bearer abc"
        monkeypatch.delenv("MY_KEY")
        with pytest.raises(WriterRefused, match="MY_KEY"):
            endpoint(server, key_env="MY_KEY")


# -- the checks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "language", "reason"),
    [
        (TEXT, "en", None),
        ("Close-up, slow motion: waves, rocks, foam.", "en", None),  # no function word: given the benefit of the doubt
        ("", "en", "empty"),
        ("I'm sorry, but I can't help with that request.", "en", "refusal"),
        ("I cannot see any frames in your message.", "en", "refusal"),
        ("As an AI language model I have no eyes for it.", "en", "refusal"),
        ("No image was provided with this message.", "en", "refusal"),
        ("A sorry looking dog lies in the rain.", "en", None),
        ("Ein brauner Hund läuft über die grüne Wiese.", "en", "other_language"),
        ("Ein brauner Hund läuft über die grüne Wiese.", "de", None),
        ("Un chien brun court dans une prairie verte.", "en", "other_language"),
        ("Un perro corre por el prado con una pelota.", "fr", "other_language"),
        ("一只棕色的狗在草地上奔跑", "en", "other_language"),
        ("一只棕色的狗在草地上奔跑", "zh", None),
        ("Коричневая собака бежит по лугу", "en", "other_language"),
        ("A dog.", "en", "too_short"),
        ("a dog and " * 101, "en", "too_long"),
    ],
)
def test_captions_are_checked_for_length_language_and_refusal(text: str, language: str, reason: str | None) -> None:
    assert fault(text, CaptionRules(language=language)) == reason


@pytest.mark.parametrize(
    "raw", [f'"{TEXT}"', f"Caption: {TEXT}", f"Sure! Here is the caption: {TEXT}", f"**{TEXT}**", f"  {TEXT}\n"]
)
def test_what_models_put_around_a_caption_is_taken_off(raw: str) -> None:
    assert tidy(raw) == TEXT


# -- the stage -------------------------------------------------------------------------------------------------------


def inputs(captions: dict[str, str | None], candidates: list[str] | None = None) -> dict[str, pa.Table]:
    """One clip of each video, with two key frames whose bytes are the clip's name."""
    clips, videos, frames = [], [], []
    for name, text in captions.items():
        clips.append(
            {
                "clip_id": name, "video_id": f"v{name}", "video_uri": f"file:///{name}", "start_s": 0.0, "end_s": 1.0,
                "start_frame": 0, "end_frame": 10, "boundary_in": "start", "boundary_out": "end", "duration_s": 1.0,
                "width": 64, "height": 64, "fps": 10.0,
            }
        )  # fmt: skip
        videos.append(
            {
                "video_id": f"v{name}", "uri": f"file:///{name}", "path": name, "media_type": "video", "bytes": 1,
                "caption": text, "caption_source": "sidecar" if text else None, "status": "ok",
            }
        )  # fmt: skip
        frames += [{"clip_id": name, "position": p, "time_s": p, "jpeg": f"{name}{p}".encode()} for p in (0.1, 0.9)]
    tables = {"shots": CLIPS.table(clips), "videos": VIDEOS.table(videos), "keyframes": KEYFRAMES.table(frames)}
    if candidates is not None:
        rows = [{"clip_id": c, "kept": c in candidates} for c in captions]
        tables["candidates"] = CANDIDATES.table(rows)
    return tables


def asked(server: Server) -> set[str]:
    """Which clips the server was asked about: the first letter of the first picture."""
    shown = [body["messages"][0]["content"][1]["image_url"]["url"] for body in server.requests]
    return {base64.b64decode(url.split(",", 1)[1]).decode()[0] for url in shown}


def run(tmp_path: Path, server: Server, tables: dict[str, pa.Table], **params: Any) -> LocalContext:
    how = {"url": server.url, "model": "tiny-vlm", "backoff_s": 0.0, "attempts": 2, "cost_in": 2.0, "cost_out": 10.0}
    how |= params.pop("endpoint", {})
    ctx = LocalContext(tmp_path, caption, tables)
    ctx.run(CaptionParams.model_validate({"endpoint": how, **params}))
    return ctx


def captions_of(ctx: LocalContext) -> dict[str, tuple[str | None, str | None, str | None]]:
    return {r["clip_id"]: (r["caption"], r["source"], r["model"]) for r in ctx.outputs["captions"].to_pylist()}


def test_without_a_captioner_the_sources_caption_is_carried_and_a_missing_one_is_null(tmp_path: Path) -> None:
    tables = inputs({"a": "a cat", "b": None})
    ctx = LocalContext(tmp_path, caption, {k: tables[k] for k in ("shots", "videos")})
    ctx.run()
    assert captions_of(ctx) == {"a": ("a cat", "sidecar", None), "b": (None, None, None)}


def test_only_clips_without_a_caption_that_passed_the_cheap_rules_are_asked_about(tmp_path: Path) -> None:
    with serving(lambda n, body: TEXT) as server:
        ctx = run(tmp_path, server, inputs({"a": "a cat", "b": None, "c": None}, ["a", "b"]))
    assert asked(server) == {"b"}
    assert captions_of(ctx) == {
        "a": ("a cat", "sidecar", None),
        "b": (TEXT, "model", "tiny-vlm"),
        "c": (None, None, None),
    }


def test_the_model_may_be_preferred_and_the_source_is_kept_where_it_fails(tmp_path: Path) -> None:
    with serving(lambda n, body: TEXT if b"a0" in base64.b64decode(_first(body)) else 500) as server:
        ctx = run(tmp_path, server, inputs({"a": "a cat", "b": "a fox"}), prefer="model")
    assert captions_of(ctx) == {"a": (TEXT, "model", "tiny-vlm"), "b": ("a fox", "sidecar", None)}


def _first(body: dict[str, Any]) -> str:
    return str(body["messages"][0]["content"][1]["image_url"]["url"].split(",", 1)[1])


def test_every_clip_that_was_asked_about_ends_in_the_ledger_and_the_cost_in_the_metrics(tmp_path: Path) -> None:
    replies = {"a": TEXT, "b": "I'm sorry, I cannot describe this.", "c": 500}
    with serving(lambda n, body: replies[base64.b64decode(_first(body)).decode()[0]]) as server:
        ctx = run(tmp_path, server, inputs({"a": None, "b": None, "c": None}))
    ledger = {r["record_id"]: r for r in ctx.ledger_rows}
    assert [(ledger[c]["status"], ledger[c]["reason"]) for c in "abc"] == [
        ("accepted", None),
        ("rejected", "refusal"),
        ("failed", None),
    ]
    assert "no answer in 2 attempts" in ledger["c"]["error_message"]
    assert ledger["a"]["note"] == "800 tokens given, 20 written, 1 attempts"
    assert captions_of(ctx)["b"] == (None, None, None)
    metrics = {name: value for (name, _), value in ctx.metrics_seen.items()}
    # Two answers of 800 and 20 tokens at 2 and 10 a million: 2 x (0.0016 + 0.0002)
    assert metrics["caption/cost"] == pytest.approx(0.0036)
    assert (metrics["caption/tokens_in"], metrics["caption/tokens_out"]) == (1600, 40)


def test_what_was_written_is_not_asked_for_again_and_what_failed_is(tmp_path: Path) -> None:
    tables = inputs({"a": None, "b": None})
    with serving(lambda n, body: TEXT if base64.b64decode(_first(body))[:1] == b"a" else 500) as server:
        run(tmp_path, server, tables)
    with serving(lambda n, body: TEXT) as server:  # the same model at another address
        again = run(tmp_path, server, tables)
        assert asked(server) == {"b"}
        # Other rules and prices ask for nothing.
        other = run(tmp_path, server, tables, endpoint={"timeout_s": 9.0, "cost_in": 5.0}, max_words=5)
        assert len(server.requests) == 1
    assert captions_of(again)["b"][0] == TEXT
    assert {r["reason"] for r in other.ledger_rows} == {"too_long"}
    assert {name: value for (name, _), value in other.metrics_seen.items()}["caption/cost"] == 0


def test_a_wrong_key_stops_the_stage_at_once(tmp_path: Path) -> None:
    with serving(lambda n, body: 401) as server, pytest.raises(StageError, match="status 401"):
        run(tmp_path, server, inputs(dict.fromkeys("abcdefgh")), endpoint={"concurrency": 1}, clips_per_batch=2)
    assert len(server.requests) <= 2


def test_an_endpoint_that_is_down_does_not_fail_every_clip_one_by_one(tmp_path: Path) -> None:
    with serving(lambda n, body: 503) as server, pytest.raises(RetryableError, match="clips in a row"):
        run(
            tmp_path,
            server,
            inputs({f"{i:03d}": None for i in range(60)}),
            endpoint={"attempts": 1},
            clips_per_batch=10,
        )
    assert len(server.requests) == 20


def test_requests_run_at_once_but_not_more_than_asked(tmp_path: Path) -> None:
    import time

    def slow(n: int, body: dict[str, Any]) -> str:
        time.sleep(0.05)
        return TEXT

    with serving(slow) as server:
        run(tmp_path, server, inputs(dict.fromkeys("abcdefghij")), endpoint={"concurrency": 3})
    assert 2 <= server.most_at_once <= 3


def test_bad_parameters_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not both"):
        CaptionParams.model_validate({"endpoint": {"url": "u", "model": "m"}, "local": {"weights": "w"}})
    tables = inputs({"a": None})
    ctx = LocalContext(tmp_path, caption, {k: tables[k] for k in ("shots", "videos")})
    with pytest.raises(StageError, match="wire keyframes"):
        ctx.run(CaptionParams.model_validate({"endpoint": {"url": "http://x", "model": "m"}}))
