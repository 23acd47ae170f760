"""Questions to an endpoint: how one is configured, and many questions asked at once, each answer kept as soon as it is there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pydantic import Field

from stages.contract import Context, Group, Params, RetryableError, StageError

if TYPE_CHECKING:
    from models.captioners.protocols import Answer, Writer

DOWN_AFTER = 20  # questions in a row without an answer, after which the endpoint counts as down and the stage is tried again later
KEPT_TOGETHER = 16  # answers in one commit: so many are asked again after a kill


class EndpointParams(Params):
    """An endpoint that speaks OpenAI's chat completions."""

    url: str = Field(description="its address up to /chat/completions, e.g. http://127.0.0.1:8000/v1")
    model: str = Field(description="the model's name there")
    key_env: str = Field("", description="environment variable that holds the key; empty for none")
    timeout_s: float = Field(60.0, gt=0)
    attempts: int = Field(5, ge=1)
    backoff_s: float = Field(1.0, ge=0)
    max_tokens: int = Field(300, ge=1)
    concurrency: int = Field(8, ge=1, description="requests at once")
    cost_in: float = Field(0.0, ge=0, description="price of a million tokens given")
    cost_out: float = Field(0.0, ge=0, description="price of a million tokens written")

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        """In the unit of the prices."""
        return (tokens_in * self.cost_in + tokens_out * self.cost_out) / 1e6

    def open(self) -> Writer:
        """Raises ``WriterRefused`` where the key is not in the environment."""
        from models.captioners.endpoint import Endpoint, EndpointSpec

        return Endpoint(EndpointSpec(**self.model_dump(exclude={"concurrency", "cost_in", "cost_out"})))


@dataclass
class Counted:
    """A ``Writer`` that counts what one question costs, and keeps why an answer did not come."""

    inner: Writer
    tokens_in: int = 0
    tokens_out: int = 0
    requests: int = 0
    unavailable: str | None = None
    name: str = field(init=False)

    def __post_init__(self) -> None:
        self.name = self.inner.name

    def ask(self, instruction: str, pictures: Sequence[bytes] = ()) -> Answer:
        from models.captioners.protocols import WriterUnavailable

        try:
            answer = self.inner.ask(instruction, pictures)
        except WriterUnavailable as error:
            self.unavailable = str(error)
            raise
        self.tokens_in += answer.tokens_in
        self.tokens_out += answer.tokens_out
        self.requests += answer.attempts
        return answer


@dataclass
class Spent:
    """What this run asked for; answers that were there already cost nothing again."""

    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0

    def tell(self, ctx: Context, what: str, endpoint: EndpointParams) -> None:
        """As metrics ``<stage>/<what>_requests``, ``_tokens_in``, ``_tokens_out`` and ``_cost``."""
        cost = endpoint.cost(self.tokens_in, self.tokens_out)
        for name, value in {**vars(self), "cost": cost}.items():
            ctx.metric(f"{ctx.name}/{what}_{name}", float(value))


@dataclass
class Answers:
    """By key: ``rows`` with what ``ask`` gave and what it cost, ``failed`` with why there is no answer."""

    rows: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def note(self, key: str) -> str:
        """What an answer cost, for the ledger."""
        row = self.rows[key]
        return f"{row['tokens_in']} tokens given, {row['tokens_out']} written, {row['requests']} requests"


def ask_all(
    ctx: Context,
    what: str,
    version: str,
    endpoint: EndpointParams,
    recipe: Mapping[str, Any],
    questions: Mapping[str, Any],
    ask: Callable[[Writer, Any], Mapping[str, str]],
    spent: Spent,
) -> Answers:
    """Ask what was not answered before: ``ask(writer, question)`` gives texts, by key of the question.

    ``recipe`` is all that decides an answer beside the question and the model's name; where the model is served and how often it is
    tried is no part of it. A question that gets no answer (``WriterUnavailable``, or one that ``ask`` swallowed) is told and not kept,
    so that the next run asks again. What this run spends is added to ``spent``. Raises ``StageError`` for an endpoint that refuses,
    ``RetryableError`` after ``DOWN_AFTER`` failures in a row.
    """
    from models.captioners.protocols import WriterRefused

    how = {"model": endpoint.model, "max_tokens": endpoint.max_tokens, **recipe}
    group = Group(what, ctx.recipe(what, version, how))
    done = ctx.records.done(group)
    todo = [key for key in questions if key not in done]
    answers = Answers()
    in_a_row = 0
    try:
        # Without anything to ask, not even a key is looked for.
        writer = endpoint.open() if todo else None
        shards = ctx.records.shards([group])
        with ctx.progress(len(todo), what) as bar, ThreadPoolExecutor(endpoint.concurrency) as pool:
            for keys in _parts(todo, max(KEPT_TOGETHER, endpoint.concurrency)):
                told = list(pool.map(lambda key: _one(writer, questions[key], ask), keys))
                rows = [{"record_key": k, **v} for k, v in zip(keys, told, strict=True) if not isinstance(v, str)]
                answers.failed |= {k: v for k, v in zip(keys, told, strict=True) if isinstance(v, str)}
                if rows:
                    shards.commit({what: pa.Table.from_pylist(rows)}, [row["record_key"] for row in rows])
                for name in vars(spent):
                    setattr(spent, name, getattr(spent, name) + sum(row[name] for row in rows))
                in_a_row = 0 if rows else in_a_row + len(keys)
                bar.advance(len(keys), failed=len(keys) - len(rows))
                if in_a_row >= DOWN_AFTER:
                    raise RetryableError(
                        f"{in_a_row} questions in a row got no answer; last: {answers.failed[keys[-1]]}"
                    )
    except WriterRefused as error:
        raise StageError(f"{error}. Mend {ctx.name}.{what}; what was answered is kept.") from error
    for keys in _parts(sorted(k for k in questions if k not in answers.failed), 1024):
        answers.rows |= {row["record_key"]: row for row in ctx.records.read(group, keys).to_pylist()}
    return answers


def _parts(keys: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (keys[start : start + size] for start in range(0, len(keys), size))


def _one(writer: Writer | None, question: Any, ask: Callable[[Writer, Any], Mapping[str, str]]) -> dict[str, Any] | str:
    from models.captioners.protocols import WriterUnavailable

    assert writer is not None
    counted, started = Counted(writer), time.monotonic()
    try:
        told = ask(counted, question)
    except WriterUnavailable as error:
        return str(error)
    if counted.unavailable is not None:
        return counted.unavailable
    spent = {"tokens_in": counted.tokens_in, "tokens_out": counted.tokens_out, "requests": counted.requests}
    return {**told, **spent, "seconds": time.monotonic() - started}
