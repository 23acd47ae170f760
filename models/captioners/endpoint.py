"""Any endpoint that speaks OpenAI's chat completions: time-outs, retries with backoff, and what it cost."""

from __future__ import annotations

import base64
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from models.captioners.protocols import Answer, WriterRefused, WriterUnavailable

# What passes: a time-out, a conflict, too early, too many requests, and every fault of the server.
_PASSING = frozenset({408, 409, 425, 429})


@dataclass(frozen=True)
class EndpointSpec:
    """``url`` ends before ``/chat/completions``. ``key_env`` names the environment variable with the key, which is kept nowhere else.

    ``timeout_s`` is for one attempt. Between attempts it waits ``backoff_s`` x 2^n times a draw in 0.5..1.5, at most ``backoff_most_s``,
    or as long as the server's Retry-After says, but never longer than that either.
    """

    url: str
    model: str
    key_env: str = ""
    timeout_s: float = 60.0
    attempts: int = 5
    backoff_s: float = 1.0
    backoff_most_s: float = 60.0
    max_tokens: int = 300
    temperature: float = 0.0


class Endpoint:
    """A ``Writer`` over HTTP. One object serves many threads."""

    def __init__(self, spec: EndpointSpec, sleep: Callable[[float], None] = time.sleep) -> None:
        import httpx

        self.spec, self.name, self._sleep = spec, spec.model, sleep
        key = os.environ.get(spec.key_env, "") if spec.key_env else ""
        if spec.key_env and not key:
            raise WriterRefused(f"{spec.url}: the environment variable {spec.key_env} holds no key; set it")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(timeout=spec.timeout_s, headers=headers)

    def close(self) -> None:
        self._client.close()

    def ask(self, instruction: str, pictures: Sequence[bytes] = ()) -> Answer:
        """See ``Writer.ask``. Tokens are the server's count; 0 where it does not say."""
        import httpx

        content: list[dict[str, Any]] = [{"type": "text", "text": instruction}]
        content += [{"type": "image_url", "image_url": {"url": _data_url(p)}} for p in pictures]
        body = {
            "model": self.spec.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self.spec.max_tokens,
            "temperature": self.spec.temperature,
        }
        last = ""
        for attempt in range(1, self.spec.attempts + 1):
            wait: float | None = None
            try:
                response = self._client.post(f"{self.spec.url.rstrip('/')}/chat/completions", json=body)
            except httpx.TransportError as error:
                last = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            else:
                status = response.status_code
                if status == 200:
                    try:
                        return _read(response.json(), attempt)
                    except (ValueError, KeyError, TypeError, IndexError) as error:
                        last = f"malformed answer ({error}): {response.text[:120]!r}"
                elif status in _PASSING or status >= 500:
                    last = f"status {status}: {response.text[:120]!r}"
                    wait = _retry_after(response.headers.get("retry-after"))
                else:
                    raise WriterRefused(
                        f"{self.spec.url} refused {self.spec.model}: status {status}: {response.text[:200]!r}"
                    )
            if attempt < self.spec.attempts:
                pause = self.spec.backoff_s * 2 ** (attempt - 1) * random.uniform(0.5, 1.5) if wait is None else wait
                self._sleep(min(pause, self.spec.backoff_most_s))
        raise WriterUnavailable(f"{self.spec.url} gave no answer in {self.spec.attempts} attempts; last: {last}")


def _data_url(picture: bytes) -> str:
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def _read(value: Any, attempts: int) -> Answer:
    text = value["choices"][0]["message"]["content"]
    if not isinstance(text, str):
        raise TypeError(f"content is {type(text).__name__}")
    usage = value.get("usage") or {}
    return Answer(text, int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0), attempts)


def _retry_after(value: str | None) -> float | None:
    """Seconds; the form with a date is taken as none."""
    try:
        return max(0.0, float(value)) if value else None
    except ValueError:
        return None
