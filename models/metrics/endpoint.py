"""Scores by a model behind an address of the user's: VideoReward, a vision-language judge, anything that answers JSON.

One POST per video: ``{"prompt", "fps", "frames": [PNG as base64, ...], "references": [PNG as base64, ...]}``; the answer is
``{"scores": {name: number}}``. Frames are taken at 2 a second, as VideoReward (VideoAlign, arXiv 2501.13918) reads them. A
score is the server's own: state whether it is normalised (VideoReward's ``use_norm`` moves TA from about 3 to about 0).
Range: the server's; higher is taken for better. Known failure: a judge likes what it was trained on, and its numbers are those
of one version of it alone.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from models.metrics.tools import Reference, Tools, check_video
from models.subjects.frames import png
from models.subjects.protocols import U8

FRAMES_PER_SECOND = 2.0
TRIES = 3


@dataclass(frozen=True)
class EndpointSpec:
    """``name`` and each of ``scores`` make a metric ``name.score``; ``token`` is sent as a bearer token and kept nowhere."""

    name: str
    url: str
    scores: tuple[str, ...]
    timeout_s: float = 300.0
    token: str | None = None


class Endpoint:
    """Asks once per video, however many of its scores are wanted."""

    def __init__(self, spec: EndpointSpec) -> None:
        self.spec = spec
        self._last: tuple[bytes, Mapping[str, float]] | None = None

    def score(self, name: str, video: U8, prompt: str, references: Sequence[Reference], tools: Tools) -> float:
        """One score of a video. ``ValueError`` when the server does not answer it after three tries."""
        check_video(video)
        step = max(1, round(tools.fps / FRAMES_PER_SECOND))
        asked = {
            "prompt": prompt,
            "fps": tools.fps / step,
            "frames": [base64.b64encode(png(frame)).decode() for frame in video[::step]],
            "references": [base64.b64encode(png(r.picture)).decode() for r in references],
        }
        body = json.dumps(asked).encode()
        key = hashlib.sha256(body).digest()
        if self._last is None or self._last[0] != key:
            self._last = (key, self._ask(body))
        return self._last[1][name]

    def _ask(self, body: bytes) -> Mapping[str, float]:
        import httpx

        headers = {"Content-Type": "application/json"}
        if self.spec.token:
            headers["Authorization"] = f"Bearer {self.spec.token}"
        for attempt in range(1, TRIES + 1):
            status = 0
            try:
                # A redirect is not followed: the token is for the address that was configured.
                answer = httpx.post(self.spec.url, content=body, headers=headers, timeout=self.spec.timeout_s)
                status = answer.status_code
                if status != 200:
                    raise ValueError(f"status {status}: {answer.text[:200]!r}")
                found = answer.json()
            except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
                refused = 300 <= status < 500
                if attempt == TRIES or refused:
                    raise ValueError(f"endpoint {self.spec.name} gave no scores: {error}") from error
                time.sleep(0.5 * attempt)
            else:
                return self._checked(found)
        raise AssertionError("unreachable")

    def _checked(self, answer: object) -> Mapping[str, float]:
        scores = answer.get("scores") if isinstance(answer, dict) else None
        found = scores if isinstance(scores, dict) else {}
        bad = [n for n in self.spec.scores if not isinstance(found.get(n), int | float) or not math.isfinite(found[n])]
        if bad:
            raise ValueError(
                f"endpoint {self.spec.name} answered without a finite {', '.join(bad)}: {str(answer)[:200]}"
            )
        return {name: float(found[name]) for name in self.spec.scores}
