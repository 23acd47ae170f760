"""What the machine under a training step is doing, as metrics whose names start with ``system/``."""

from __future__ import annotations

import time

import torch

PREFIX = "system/"
MIB = 2**20


class SystemMetrics:
    """``read()`` gives this process's memory and the machine's load; costs well under a millisecond.

    ``every_s`` seconds must have passed since the last reading that gave something, so that fast steps pay for none.
    """

    def __init__(self, device: str | torch.device, every_s: float = 10.0) -> None:
        import psutil

        self.device, self.every_s = torch.device(device), every_s
        self._process, self._machine = psutil.Process(), psutil
        self._machine.cpu_percent()  # percentages are over the time since the call before
        self._last = float("-inf")

    def read(self) -> dict[str, float]:
        """Metrics in MiB and percent, or nothing when the last ones are younger than ``every_s``."""
        now = time.monotonic()
        if now - self._last < self.every_s:
            return {}
        self._last = now
        found = {
            "process_memory_mib": self._process.memory_info().rss / MIB,
            "machine_memory_percent": float(self._machine.virtual_memory().percent),
            "machine_cpu_percent": float(self._machine.cpu_percent()),
        }
        if self.device.type == "cuda":
            free, total = torch.cuda.mem_get_info(self.device)
            found["gpu_memory_used_mib"] = (total - free) / MIB
            found["gpu_memory_peak_mib"] = torch.cuda.max_memory_allocated(self.device) / MIB
        return {PREFIX + name: value for name, value in found.items()}
