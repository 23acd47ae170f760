"""Checks of the machine: memory, shared memory, open files, disks, GPUs."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from pipelines.config import Config
from pipelines.doctor.finding import GB, Finding

ADVISED_FILES = 65_536  # Ray's own advice
ADVISED_DISK, LEAST_DISK = 20 * GB, 2 * GB
_ASK_TORCH = """
import json, torch
there = torch.cuda.device_count()
print(json.dumps([there, torch.version.cuda, torch.cuda.get_device_name(0) if there else None]))
"""


def memory() -> Iterator[Finding]:
    import psutil

    total = float(psutil.virtual_memory().total)
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            total = min(total, float(Path(path).read_text()))
        except (OSError, ValueError):
            continue
    free = min(float(psutil.virtual_memory().available), total)
    what = f"{total / GB:.1f} GB, {free / GB:.1f} GB free, {os.cpu_count()} CPUs"
    if free < 2 * GB:
        remedy = "End other programs, or give the container more (docker run --memory): a decoder may take 4 GB of address space."
        yield Finding("memory", "warning", what, remedy)
    else:
        yield Finding("memory", "good", what)


def shared_memory(path: str = "/dev/shm") -> Iterator[Finding]:
    """Ray's object store lies in shared memory; where that is small it falls back on the disk and everything slows down."""
    if not os.path.isdir(path):
        yield Finding("shared memory", "good", f"no {path} on this system: Ray uses memory of its own")
        return
    usage = shutil.disk_usage(path)
    what = f"{usage.total / GB:.1f} GB at {path}, {usage.free / GB:.1f} GB free"
    if usage.free < 1 * GB:
        remedy = "Start the container with --shm-size=8g (Kubernetes: an emptyDir of medium Memory at /dev/shm)."
        yield Finding("shared memory", "bad" if usage.free < 0.1 * GB else "warning", what, remedy)
    else:
        yield Finding("shared memory", "good", what)


def open_files() -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < ADVISED_FILES:
        remedy = (
            f"ulimit -n {ADVISED_FILES if hard < 0 or hard >= ADVISED_FILES else hard}, or LimitNOFILE of its service."
        )
        yield Finding(
            "open files", "warning", f"{soft:,} per process; a large Ray cluster wants {ADVISED_FILES:,}", remedy
        )
    else:
        yield Finding("open files", "good", f"{soft:,} per process")


def disk(config: Config) -> Iterator[Finding]:
    """Room at the store, beside it, in the spool and for temporary files; each disk once."""
    from pipelines.dag.store import resolve

    spool = os.environ.get("FULCRUM_SPOOL", "")
    places = {"work folders": config.local_beside_store, "temporary files": Path(os.environ.get("TMPDIR", "/tmp"))}
    if "://" not in config.settings.store or config.settings.store.startswith("file://"):
        places = {"store": Path(resolve(config.settings.store)[1]), **places}
    if spool:
        places["spool"] = Path(spool)
    seen: set[int] = set()
    for name, path in places.items():
        there = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
        device = there.stat().st_dev
        if device in seen:
            continue
        seen.add(device)
        usage, nodes = shutil.disk_usage(there), os.statvfs(there)
        what = f"{usage.free / GB:,.1f} GB free of {usage.total / GB:,.1f} for {name} ({there})"
        remedy = (
            f"Free some, or move the {name} (--store; FULCRUM_SPOOL; TMPDIR). `fulcrum gc --dry-run` says what may go."
        )
        if nodes.f_files and nodes.f_favail < 100_000:
            yield Finding("disk", "warning", f"{what}; only {nodes.f_favail:,} more files", remedy)
        elif usage.free < ADVISED_DISK:
            yield Finding("disk", "bad" if usage.free < LEAST_DISK else "warning", what, remedy)
        else:
            yield Finding("disk", "good", what)


def gpu() -> Iterator[Finding]:
    """Devices, and whether torch can use them; asked in a process of its own, since torch takes seconds."""
    devices = [n for n in os.listdir("/dev") if re.fullmatch(r"nvidia\d+", n)] if os.path.isdir("/dev") else []
    torch = metadata.version("torch")
    if not devices:
        yield Finding("GPU", "good", f"none; torch {torch}. Curation, review and the demo need none")
        return
    try:
        done = subprocess.run(
            [sys.executable, "-c", _ASK_TORCH], capture_output=True, text=True, timeout=120, check=True
        )
        count, cuda, name = json.loads(done.stdout)
    except (subprocess.SubprocessError, ValueError) as error:
        yield Finding(
            "GPU", "bad", f"{len(devices)} devices, and torch {torch} does not start: {error}", "Reinstall torch."
        )
        return
    if int(count) < len(devices):
        build = (
            "is built without CUDA" if cuda == "None" else f"(CUDA {cuda}) cannot use them: the driver may be too old"
        )
        remedy = "Install the CUDA build of the same torch version, and check the driver with nvidia-smi."
        yield Finding("GPU", "bad", f"{len(devices)} devices, torch {torch} {build}", remedy)
    else:
        yield Finding("GPU", "good", f"{count} x {name}; torch {torch}, CUDA {cuda}")
