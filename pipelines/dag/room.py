"""What a machine or cluster has, and which running stage holds how much of it: whether one more may start."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from stages.contract import Resources

_SLACK = 1e-9  # thirds of a GPU add up to one


class Room:
    """Admits stages while their declared resources are free; ``capacity`` None admits one at a time.

    A stage holds what it declared, or what its pools took, whichever is more. One that fits nowhere is admitted alone: then
    the engine says what is missing, or the cluster grows.
    """

    def __init__(self, capacity: Resources | None) -> None:
        self.capacity = capacity
        self._declared: dict[str, Resources] = {}
        self._pools: dict[str, Resources] = {}
        self._lock = threading.Lock()

    def admit(self, name: str, needs: Resources) -> bool:
        """Let the stage in, if there is room."""
        with self._lock:
            if self._declared and not self._fits(needs):
                return False
            self._declared[name] = needs
            return True

    def leave(self, name: str) -> None:
        with self._lock:
            self._declared.pop(name, None)
            self._pools.pop(name, None)

    def share(self, name: str) -> Resources | None:
        """The most that a pool of this stage may take: what no other stage holds. None: whatever there is."""
        with self._lock:
            return None if self.capacity is None else self._free(besides=name)

    @contextmanager
    def pool(self, name: str, takes: Resources) -> Iterator[None]:
        """While a stage's pool works, it holds this."""
        with self._lock:
            self._pools[name] = takes
        try:
            yield
        finally:
            with self._lock:
                self._pools.pop(name, None)

    def _fits(self, needs: Resources) -> bool:
        if self.capacity is None:
            return False
        free = self._free()
        return needs.cpus <= free.cpus + _SLACK and needs.gpus <= free.gpus + _SLACK

    def _free(self, besides: str | None = None) -> Resources:
        assert self.capacity is not None
        held = [
            (max(d.cpus, p.cpus), max(d.gpus, p.gpus))
            for name, d in self._declared.items()
            if name != besides
            for p in [self._pools.get(name, Resources(0.0))]
        ]
        return Resources(self.capacity.cpus - sum(c for c, _ in held), self.capacity.gpus - sum(g for _, g in held))
