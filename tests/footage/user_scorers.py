"""Scorers as a user brings them, by ``package.module:Class``."""

from __future__ import annotations

import os
import signal
from typing import ClassVar

import pyarrow as pa

from data_schemas.schema import Field
from models.scorers.base import Picture, Series, VideoInfo


class Redness:
    """Mean of the red channel: a whole scorer in a screen."""

    name: ClassVar[str] = "redness"
    version: ClassVar[str] = "1"
    columns: ClassVar[tuple[Field, ...]] = (Field("redness", pa.float64(), "mean red", "0..1"),)

    def start(self, info: VideoInfo) -> None:
        self._series = Series(1)

    def frame(self, picture: Picture, index: int, time_s: float) -> None:
        self._series.add(index, index, float(picture.bgr[..., 2].mean()) / 255)

    def clip(self, start_frame: int, end_frame: int) -> dict[str, float | None]:
        return {"redness": self._series.take(start_frame, end_frame)[0]}


class Broken(Redness):
    """Raises on every video."""

    name: ClassVar[str] = "broken"
    columns: ClassVar[tuple[Field, ...]] = (Field("broken", pa.float64(), "never filled", "0..1"),)

    def frame(self, picture: Picture, index: int, time_s: float) -> None:
        raise RuntimeError("it never worked")


class Hanging(Redness):
    """Never comes back from its first frame."""

    name: ClassVar[str] = "hanging"
    columns: ClassVar[tuple[Field, ...]] = (Field("hanging", pa.float64(), "never filled", "0..1"),)

    def frame(self, picture: Picture, index: int, time_s: float) -> None:
        while True:
            pass


class _Poisoned(Redness):
    """Does well on every video but those 320 pixels wide, as a decoder does on every file but one."""

    def start(self, info: VideoInfo) -> None:
        super().start(info)
        if info.width == 320:
            self.harm()

    def harm(self) -> None:
        raise NotImplementedError


class HangsOnOne(_Poisoned):
    def harm(self) -> None:
        while True:
            pass


class CrashesOnOne(_Poisoned):
    def harm(self) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)


class BalloonsOnOne(_Poisoned):
    def harm(self) -> None:
        kept = []
        while True:
            kept.append(b"x" * (32 << 20))
