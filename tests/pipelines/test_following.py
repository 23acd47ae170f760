"""Following a job: its log once and whole however often the connection breaks, and what Ctrl-C does. Ray's server is played."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import ray_jobs
from pipelines.cli.submit_commands import _follow
from pipelines.dag.store import Store
from pipelines.ray_jobs import Ended, HeadGone, Jobs
from stages.contract import StageError


class Server:
    """A job whose log can be read from its beginning; the first ``breaks`` connections end after so many characters."""

    def __init__(self, log: str, breaks: list[int], away: int = 0) -> None:
        self.log, self.breaks, self.away = log, list(breaks), away

    async def tail_job_logs(self, submission: str) -> AsyncIterator[str]:
        if self.away:
            raise ConnectionError("refused")
        end = self.breaks.pop(0) if self.breaks else len(self.log)
        for start in range(0, end, 3):
            yield self.log[start : min(start + 3, end)]
        if self.breaks:
            raise RuntimeError("WebSocket connection closed unexpectedly")

    def get_job_info(self, submission: str) -> Any:
        if self.away:
            self.away -= 1
            raise ConnectionError("refused")
        if submission != "known":
            raise RuntimeError("Request failed with status code 404: unknown")
        terminal = not self.breaks
        return SimpleNamespace(
            status=SimpleNamespace(is_terminal=lambda: terminal, value="SUCCEEDED"), driver_exit_code=0, message=None
        )

    def get_job_logs(self, submission: str) -> str:
        return self.log


def jobs_of(server: Server) -> Jobs:
    jobs = Jobs.__new__(Jobs)  # without connecting
    jobs.address, jobs.client = "http://head:8265", server
    return jobs


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_jobs, "AGAIN_S", 0.0)


@given(st.text(max_size=40), st.lists(st.integers(0, 40), max_size=4))
def test_the_log_is_shown_once_and_whole_wherever_connections_break(log: str, breaks: list[int]) -> None:
    shown: list[str] = []
    ended = jobs_of(Server(log, breaks)).follow("known", shown.append)
    assert "".join(shown) == log
    assert ended == Ended("SUCCEEDED", 0, "")


def test_a_head_that_comes_back_in_time_is_followed_on_and_one_that_does_not_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown: list[str] = []
    jobs_of(Server("all of it", [4], away=2)).follow("known", shown.append)
    assert "".join(shown) == "all of it"
    monkeypatch.setattr(ray_jobs, "LOST_S", -1.0)
    with pytest.raises(HeadGone, match="no job server of Ray answers at http://head:8265"):
        jobs_of(Server("", [], away=1000)).follow("known", shown.append)


def test_a_job_that_the_head_does_not_know_is_told_with_where_its_work_is() -> None:
    with pytest.raises(StageError, match="started anew has forgotten its jobs; what they had finished is in the store"):
        jobs_of(Server("", [])).follow("other", lambda text: None)


class Interrupted:
    address = "http://head:8265"

    def __init__(self) -> None:
        self.stopped: list[str] = []

    def follow(self, submission: str, show: object) -> Ended:
        raise KeyboardInterrupt

    def stop(self, submission: str) -> None:
        self.stopped.append(submission)


def test_ctrl_c_looks_away_and_says_how_to_look_again_and_how_to_stop(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs, store = Interrupted(), Store(str(tmp_path / "store"))
    assert _follow(jobs, store, "job-1", "s3://b/store", False) == 130  # type: ignore[arg-type]
    said = capsys.readouterr().err
    assert "goes on without you" in said
    assert "fulcrum attach job-1 --address http://head:8265 --store s3://b/store" in said
    assert "ray job stop job-1" in said
    assert not jobs.stopped
    assert _follow(jobs, store, "job-1", "s3://b/store", True) == 130  # type: ignore[arg-type]
    assert jobs.stopped == ["job-1"]


def test_a_stream_that_ends_early_is_not_taken_for_the_whole() -> None:
    shown: list[str] = []
    seen = asyncio.run(jobs_of(Server("abcdef", [4, 6]))._tail("known", 0, shown.append))
    assert (seen, "".join(shown)) == (4, "abcd")
