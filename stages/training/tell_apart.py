"""The report of how well trivial statistics tell winners from losers, and the gate on it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from typing import Any

from stages.contract import Context, StageError

STYLE = """
:root{color-scheme:light dark;--ink:#1d2126;--dim:#6b737d;--line:#d8dce1;--bar:#2563eb;--paper:#fff}
@media (prefers-color-scheme:dark){:root{--ink:#e7eaee;--dim:#9aa3ad;--line:#3a4149;--paper:#15181c}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:48rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums} th,td{padding:.3rem .6rem;text-align:left;
border-bottom:1px solid var(--line)} p{color:var(--dim)} meter{width:12rem}
"""
Statistics = Mapping[str, Sequence[float]]


def tell_apart(ctx: Context, winners: Sequence[Statistics], losers: Sequence[Statistics], most: float | None) -> None:
    """Writes ``separability.json`` and a page to the output ``separability``; StageError when the gate ``most`` closes.

    The gate closes only on what is sure: when the lower end of the 95% interval is above ``most``.
    """
    from models.training.separability import separability

    folder = ctx.folder("separability")
    found = [asdict(s) for s in separability(winners, losers)] if len(winners) > 1 else []
    (folder / "separability.json").write_text(json.dumps({"pairs": len(winners), "statistics": found}, indent=1) + "\n")
    (folder / "index.html").write_text(_page(found, len(winners)), encoding="utf-8")
    if not found:
        return
    best = found[0]
    ctx.event(
        "separability", statistic=best["statistic"], accuracy=best["accuracy"], low=best["low"], pairs=best["pairs"]
    )
    if most is not None and best["low"] > most:
        raise StageError(
            f"{best['statistic']} alone tells real from fake in {best['accuracy']:.0%} of {best['pairs']} pairs (95% interval "
            f"from {best['low']:.0%}), more than max_separability {most:.0%}: training would learn that. Make the samples "
            "more like the clips (more steps, other guidance, the same codec), or raise max_separability"
        )


def _page(found: Sequence[Mapping[str, Any]], pairs: int) -> str:
    rows = "".join(
        f"<tr><td>{escape(s['statistic'])}</td><td><meter min=0 max=1 value={s['accuracy']:.3f}></meter> "
        f"{s['accuracy']:.0%}</td><td>{s['low']:.0%} to {s['high']:.0%}</td></tr>"
        for s in found
    )
    said = (
        f"Share of {pairs} pairs in which one statistic alone names the real clip, each pair judged by the others; 50% is "
        "chance. What is far above it is what preference training would learn first."
        if found
        else f"{pairs} pair: nothing can be said."
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Told apart by trivia</title><style>{STYLE}</style>'
        f"<h1>Can real and fake be told apart by trivia?</h1><p>{said}</p>"
        f"<table><tr><th>statistic</th><th>accuracy</th><th>95% interval</th></tr>{rows}</table></html>\n"
    )
