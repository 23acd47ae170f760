"""The status page's parts as HTML, made of a snapshot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.dag.progress import clock, footage
from pipelines.status.draw import Box, svg
from pipelines.status.snapshot import KILLED, NodeStatus, Snapshot

WORDS = {
    "SUCCEEDED": "done",
    "CACHED": "cached",
    "RUNNING": "at work",
    KILLED: "killed",
    "PENDING": "to do",
    "WAITING_HUMAN": "waits for people",
    "FAILED": "failed",
    "BLOCKED": "blocked",
}
STATUSES = ("accepted", "in_review", "rejected", "failed")


def parts(snapshot: Snapshot) -> dict[str, Any]:
    """What the template shows."""
    drawing = svg([_box(node) for node in snapshot.nodes])
    done = sum(node.state in ("SUCCEEDED", "CACHED") for node in snapshot.nodes)
    funnel = [_funnel(node) for node in snapshot.nodes if sum(node.counts.values())]
    most = max((row["total"] for row in funnel), default=1)
    for row in funnel:
        row["bars"] = _bars(row["counts"], most)
    return {
        "run": snapshot.run,
        "state": snapshot.state,
        "drawing": drawing,
        "done": done,
        "nodes": [_row(node) for node in snapshot.nodes],
        "seconds": duration(snapshot.seconds),
        "gates": [node for node in snapshot.nodes if node.gate],
        "working": [_work(node) for node in snapshot.nodes if node.state == "RUNNING"],
        "failed": [node for node in snapshot.nodes if node.state in ("FAILED", KILLED)],
        "funnel": funnel,
        "runs": [(run, state) for run, state in snapshot.runs],
        "live": snapshot.live,
        "words": WORDS,
    }


def duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else clock(seconds)


def _box(node: NodeStatus) -> Box:
    progress, share = node.progress, None
    note = WORDS[node.state]
    if node.state == "RUNNING" and progress and progress["total"]:
        share = min(1.0, progress["done"] / progress["total"])
        note = f"{progress['done']:,} of {progress['total']:,} {progress['unit']}"
    elif node.state == "RUNNING":
        note = f"{duration(node.seconds)} so far"
    elif node.state == "SUCCEEDED":
        note = duration(node.seconds)
    elif node.campaign:
        share = node.campaign.done / node.campaign.items if node.campaign.items else None
        note = f"{node.campaign.done:,} of {node.campaign.items:,} judged"
    return Box(node.name, node.after, style(node), note, f"{node.name}: {node.message or WORDS[node.state]}", share)


def style(node: NodeStatus) -> str:
    return node.state.lower() + (" gate" if node.gate else "")


def _row(node: NodeStatus) -> dict[str, Any]:
    counts = ", ".join(f"{node.counts[s]:,} {s.replace('_', ' ')}" for s in STATUSES if node.counts.get(s))
    rows = ", ".join(f"{count:,} {name}" for name, count in node.rows.items())
    seconds = duration(node.seconds) if node.seconds else ""
    return {
        "node": node,
        "word": WORDS[node.state],
        "style": style(node),
        "seconds": seconds,
        "counts": counts,
        "rows": rows,
    }


def _work(node: NodeStatus) -> dict[str, Any]:
    """Rates of a stage that is at work."""
    found: dict[str, Any] = {"node": node, "seconds": duration(node.seconds)}
    progress = node.progress
    if progress:
        figures = [(f"{progress['per_second']:,.1f}", f"{progress['unit']} a second")]
        if progress["footage_s"]:
            figures += [(footage(progress["footage_s"]), "of footage"), (f"{progress['realtime']:,.1f}×", "real time")]
        if progress["left_s"] is not None:
            figures.append((clock(progress["left_s"]), "left"))
        if progress["failed"]:
            figures.append((f"{progress['failed']:,}", "failed"))
        found |= {"progress": progress, "figures": figures}
    return found


def _funnel(node: NodeStatus) -> dict[str, Any]:
    return {"name": node.name, "counts": node.counts, "total": sum(node.counts.values())}


def _bars(counts: Mapping[str, int], most: int) -> list[tuple[str, float, float]]:
    """Status, start and width of each piece of a stacked bar, in per cent of the longest."""
    found, x = [], 0.0
    for status in STATUSES:
        width = 100 * counts.get(status, 0) / most
        if width:
            found.append((status, round(x, 3), round(width, 3)))
        x += width
    return found
