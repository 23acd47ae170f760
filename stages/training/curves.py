"""A training's curves as one page beside its adapter: losses, held-out error, timesteps, drift and gradients, where logged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from stages.evaluation.charts import lines, short

CURVES = "training.html"
Events = Mapping[int, Mapping[str, float]]
COLOURS = ("#0a7d55", "#c2410c", "#2563eb", "#a21caf", "#a16207", "#475569")
STYLE = """
:root{color-scheme:light dark;--ink:#1d2126;--dim:#6b737d;--line:#d8dce1;--paper:#fff}
@media (prefers-color-scheme:dark){:root{--ink:#e7eaee;--dim:#9aa3ad;--line:#3a4149;--paper:#15181c}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:72rem;margin:2rem auto;padding:0 1rem}
main{display:grid;grid-template-columns:repeat(auto-fit,minmax(26rem,1fr));gap:1.5rem}
figure{margin:0} figcaption b{display:block} figcaption span{margin-right:.9rem} i{display:inline-block;width:.8rem;height:.2rem;
vertical-align:middle;margin-right:.3rem} p{color:var(--dim);margin:.2rem 0} svg{width:100%;height:auto}
svg .grid{stroke:var(--line)} svg .tick{fill:var(--dim);font:11px system-ui,sans-serif} svg .line{fill:none;stroke-width:1.6}
"""
STYLE += "".join(f"svg .line.s{i}{{stroke:{c}}} svg .dot.s{i}{{fill:{c}}}" for i, c in enumerate(COLOURS))

# Title, what to look for, and the metrics of one picture; a metric that was not logged is left out.
PICTURES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("Loss", "Each step's own timesteps and noise; compare runs by the held-out error.", ("loss",)),
    ("Loss by kind of step", "Image and video steps of the switching recipe.", ("image_loss", "video_loss")),
    ("Held-out error", "Fixed samples, timesteps and noise; it should fall and then stay.", ("held_out/loss",)),
    (
        "Error against the reference",
        "e − e_ref. The winner's should not rise: loss and accuracy look perfect while it does.",
        ("winner_drift", "loser_drift"),
    ),
    ("Accuracy", "Share of losers with a larger drift than their winner; ties count a half.", ("accuracy",)),
    ("Agreement of image and video gradients", "Cosine on fixed held-out batches.", ("gradient/cosine",)),
    ("Norm of image and video gradients", "On the same batches.", ("gradient/image_norm", "gradient/video_norm")),
    ("Gradient norm", "Before clipping.", ("grad_norm",)),
    ("Learning rate", "", ("learning_rate",)),
)


def curves_page(name: str, events: Events) -> str:
    """A page that needs no network and no other file; the same events give the same bytes."""
    figures = [_figure(title, note, _series(events, keys)) for title, note, keys in PICTURES]
    parts = sorted({key for event in events.values() for key in event if key.startswith("held_out/loss_")})
    held_out = _series(events, parts)
    figures.append(
        _figure(
            "Held-out error by timestep",
            "Larger timesteps are noisier.",
            {key.removeprefix("held_out/loss_").lstrip("0") or "0": curve for key, curve in held_out.items()},
        )
    )
    figures.append(_timesteps(events))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Training of {escape(name)}</title>'
        f"<style>{STYLE}</style><h1>Training of {escape(name)}</h1><p>{len(events)} steps</p>"
        f"<main>{''.join(figures)}</main></html>\n"
    )


def _series(events: Events, keys: Sequence[str]) -> dict[str, list[tuple[float, float]]]:
    found = {key: [(float(step), event[key]) for step, event in events.items() if key in event] for key in keys}
    return {key: curve for key, curve in found.items() if curve}


def _figure(title: str, note: str, series: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    if not series:
        return ""
    legend = "".join(
        f'<span><i style="background:{COLOURS[i % 6]}"></i>{escape(key)} {short(curve[-1][1])}</span>'
        for i, (key, curve) in enumerate(series.items())
    )
    return (
        f"<figure><figcaption><b>{escape(title)}</b><p>{escape(note)}</p>{legend}</figcaption>{lines(series)}</figure>"
    )


def _timesteps(events: Events) -> str:
    """Bars of the timesteps drawn, by tenth, as told last; the error there as text."""
    told = [event for event in events.values() if "timesteps/0.0" in event]
    if not told:
        return ""
    counts = {key.split("/")[1]: value for key, value in sorted(told[-1].items()) if key.startswith("timesteps/")}
    most, bars = max(counts.values()) or 1.0, []
    for i, (start, count) in enumerate(counts.items()):
        height, error = 130 * count / most, told[-1].get(f"error_at/{start}")
        said = f"{count:.0f} draws" + (f", error {short(error)}" if error is not None else "")
        bars.append(
            f'<rect x="{46 + i * 50}" y="{150 - height:.1f}" width="44" height="{height:.1f}" fill="{COLOURS[0]}">'
            f"<title>{said}</title></rect>"
            f'<text class="tick" x="{68 + i * 50}" y="{144 - height:.1f}" text-anchor="middle">{count:.0f}</text>'
            f'<text class="tick" x="{68 + i * 50}" y="168" text-anchor="middle">{start}</text>'
        )
    return (
        "<figure><figcaption><b>Timesteps drawn</b><p>By tenth of the schedule, from clean to noise, since the start.</p>"
        f'</figcaption><svg viewBox="0 0 560 176" role="img" aria-label="timesteps drawn">{"".join(bars)}</svg></figure>'
    )
