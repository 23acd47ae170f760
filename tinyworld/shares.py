"""A share with what stands behind it: k of n and Wilson's 95% interval."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Share:
    """``hits`` of ``n``; ``low`` and ``high`` are Wilson's score interval (JASA 1927) at 95%, [0, 1] when n is 0."""

    hits: int
    n: int

    @classmethod
    def of(cls, outcomes: Iterable[bool]) -> Share:
        known = [bool(outcome) for outcome in outcomes]
        return cls(sum(known), len(known))

    @property
    def value(self) -> float:
        return self.hits / self.n if self.n else math.nan

    @property
    def low(self) -> float:
        return self._end(-1.0)

    @property
    def high(self) -> float:
        return self._end(1.0)

    def _end(self, sign: float) -> float:
        if not self.n:
            return 0.0 if sign < 0 else 1.0
        z, p, n = 1.959964, self.hits / self.n, self.n
        half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return min(1.0, max(0.0, (p + z * z / (2 * n) + sign * half) / (1 + z * z / n)))

    def told(self) -> dict[str, Any]:
        """JSON-able: value and interval rounded to four places, with n."""
        if not self.n:
            return {"value": None, "low": None, "high": None, "n": 0}
        return {"value": round(self.value, 4), "low": round(self.low, 4), "high": round(self.high, 4), "n": self.n}
