"""A Ray cluster's jobs: submit one, follow its log, ask how it stands. Nothing else talks to Ray's job server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fulcrum.guard import SHIPPED
from fulcrum.shipping import build_wheel, wheel_version
from stages.contract import StageError

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
OVERRULING = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")  # variables that Ray's client prefers to the address it is given
AGAIN_S = 2.0
LOST_S = 60.0  # so long a head may be away before it counts as gone


class HeadGone(StageError):
    """The cluster's job server does not answer any more."""


@dataclass(frozen=True)
class Ended:
    """How Ray says that a job ended: SUCCEEDED, FAILED or STOPPED, and its process's exit code where it had one."""

    status: str
    code: int | None
    message: str


def prove_identity() -> None:
    """Send the token that this machine has, as Ray does for clusters of this machine; ``RAY_AUTH_MODE=disabled`` keeps it back."""
    if MODE in os.environ:
        return
    default = Path.home() / ".ray" / "auth_token"
    if os.environ.get(TOKEN) or os.environ.get(TOKEN_PATH) or default.is_file():
        os.environ[MODE] = "token"


class Jobs:
    """The job server of one cluster. Raises ``StageError`` with the remedy where it cannot be used."""

    def __init__(self, address: str) -> None:
        self.address = address if "://" in address else f"http://{address}"
        parts = urlsplit(self.address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise StageError(
                f"--address {address}: give the head's job server, e.g. http://head:8265 (8265 is the dashboard's port; "
                "6379 and 10001 are other services of Ray)"
            )
        prove_identity()
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        from ray.exceptions import AuthenticationError
        from ray.job_submission import JobSubmissionClient

        for name in ("ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk"):
            logging.getLogger(name).setLevel(logging.WARNING)  # loaded now, and set to INFO by its own module
        for name in OVERRULING:
            os.environ.pop(name, None)  # what was said on the command line counts
        try:
            self.client = JobSubmissionClient(self.address)
        except AuthenticationError as error:
            raise StageError(_refused(self.address, str(error))) from None
        except Exception as error:
            raise StageError(_unreachable(self.address, error)) from None

    def submit(
        self, submission: str, arguments: Sequence[str], packages: Sequence[Path], metadata: dict[str, str]
    ) -> str:
        """Start ``fulcrum`` with these arguments on the head, with this installation's code; returns that code's version."""
        import shlex

        with tempfile.TemporaryDirectory(prefix="fulcrum-wheel-") as folder:
            wheel = build_wheel(Path(folder))
            version = wheel_version(wheel)
            # -P: the folder in which the head was started must not come before the wheel.
            entry = f"python -P -m fulcrum {shlex.join(arguments)}"
            try:
                self.client.submit_job(
                    entrypoint=entry,
                    submission_id=submission,
                    runtime_env={
                        "py_modules": [str(wheel), *(str(path) for path in packages)],
                        "env_vars": {SHIPPED: version},
                    },
                    metadata=metadata,
                )
            except Exception as error:
                raise StageError(f"{self.address} did not take the job: {_brief(error)}") from None
        return version

    def follow(self, submission: str, show: Callable[[str], None]) -> Ended:
        """Show the log as it grows until the job has ended. A lost connection is taken up again where it was.

        Raises ``HeadGone`` when the head was away for a minute.
        """
        shown, away = 0, None
        while True:
            try:
                shown = asyncio.run(self._tail(submission, shown, show))
                ended = self.ended(submission)
                away = None
                if ended is not None:
                    self._rest(submission, shown, show)
                    return ended
            except StageError:
                raise
            except Exception as error:
                away = away or time.monotonic()
                if time.monotonic() - away > LOST_S:
                    raise HeadGone(_unreachable(self.address, error)) from None
            time.sleep(AGAIN_S)

    async def _tail(self, submission: str, skip: int, show: Callable[[str], None]) -> int:
        """Show what comes after the first ``skip`` characters; how many there are now. The stream starts from the beginning."""
        seen = 0
        with contextlib.suppress(RuntimeError, OSError):  # closed before the end: the caller looks how the job stands
            async for text in self.client.tail_job_logs(submission):
                if seen + len(text) > skip:
                    show(text[max(0, skip - seen) :])
                seen += len(text)
        return max(seen, skip)

    def _rest(self, submission: str, skip: int, show: Callable[[str], None]) -> None:
        """What the stream did not bring before the job ended."""
        with contextlib.suppress(Exception):
            text = self.client.get_job_logs(submission)
            if len(text) > skip:
                show(text[skip:])

    def ended(self, submission: str) -> Ended | None:
        """How the job ended; None while it has not. Raises ``StageError`` where there is no such job."""
        try:
            info: Any = self.client.get_job_info(submission)
        except RuntimeError as error:
            if "404" in str(error):
                raise StageError(
                    f"{self.address} knows no job {submission}. A head that was started anew has forgotten its jobs; what "
                    "they had finished is in the store. `ray job list` lists those it knows."
                ) from None
            raise
        if not info.status.is_terminal():
            return None
        return Ended(info.status.value, info.driver_exit_code, info.message or "")

    def stop(self, submission: str) -> None:
        self.client.stop_job(submission)


def _refused(address: str, said: str) -> str:
    which = "refuses the token" if "invalid" in said else "wants a token, and none was sent"
    return (
        f"{address} {which}. The cluster's token is what `ray get-auth-token` prints on its head. Set RAY_AUTH_TOKEN_PATH "
        "to a file that holds it (or RAY_AUTH_TOKEN to the token), and do not set RAY_AUTH_MODE=disabled."
    )


def _unreachable(address: str, error: BaseException) -> str:
    return (
        f"no job server of Ray answers at {address}: {_brief(error)}. Check the address (the dashboard's port, 8265), that "
        "the head runs (`ray status` there) with ray[default] installed, and that this machine may reach the port, e.g. "
        "through `ssh -L 8265:localhost:8265 HEAD`."
    )


def _brief(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
