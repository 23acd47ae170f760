"""Stage ``report``: one self-contained page that shows what the data became and what the models do with it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from data_schemas import tables
from stages.contract import Artifact, Context, Files, Params, StageError, Table, World, stage
from stages.curation.default_rules import DEFAULT_RULES
from stages.curation.rules import Rule
from stages.evaluation import merges
from stages.evaluation.charts import footage

PAGE = Path(__file__).parent / "page"
ADAPTERS = (
    "adapter_cross",
    "adapter_in",
    "adapter_sft",
    "adapter_consis",
    "adapter_real_fake",
    "adapter_final",
    "adapter_switching",
)
SWEEPS = {"sweep_sft": "SFT adapters", "sweep_final": "DPO adapters on the merged SFT"}
OPTIONAL: dict[str, Artifact] = {
    "clips": Table(tables.CLIPS),
    "selection": Table(tables.SELECTION),
    "videos": Table(tables.VIDEOS),
    "keyframes": Table(tables.KEYFRAMES),
    "dedupe": Table(tables.DEDUPE),
    "balance": Table(tables.BALANCE),
    "verdicts": Table(tables.VERDICTS),
    "decisions": Table(tables.DECISIONS),
    "subset": Table(tables.SUBSET),
    "media": Files("media"),
    "subjects": Table(tables.SUBJECTS),
    "pairs": Table(tables.PAIRS),
    "candidates": Table(tables.PAIR_CANDIDATES),
    "pair_verdicts": Table(tables.VERDICTS),
    "samples": Table(tables.SAMPLES),
    "sample_videos": Files("videos"),
    "metrics": Table(tables.METRICS),
    "measurements": Table(tables.MEASUREMENTS),
    "comparisons": Table(tables.COMPARISONS),
    "sweep_sft": Files("sweep"),
    "sweep_final": Files("sweep"),
    "judgement": Files("judgement"),
    **{name: Files("adapter") for name in ADAPTERS},
}


class ReportParams(Params):
    """``rules`` are those that made the selection: the page draws their thresholds."""

    title: str = "Balance report"
    notice: str | None = Field(None, description="a line for the banner, e.g. what the models are")
    rules: tuple[Rule, ...] = DEFAULT_RULES
    thumbnails: int = Field(6, ge=0, le=24, description="clips shown either side of each threshold")
    pairs_shown: int = Field(12, ge=0, le=200)
    pairs_browsed: int = Field(
        10_000, ge=0, description="pairs, and refused candidates, in the pair browser; 0 for no browser"
    )
    prompts_shown: int = Field(6, ge=0, le=100)
    curves: tuple[str, ...] = Field(
        ("loss", "accuracy", "margin", "winner_drift"), description="what is drawn of the training logs"
    )
    people: tuple[str, ...] = Field(
        (), description="exports of campaigns on these samples (fulcrum review export --format parquet)"
    )
    balance_motion: tuple[str, ...] = Field(
        (
            "dynamic_degree|dynamic_degree_dis",
            "clip_t",
            "aesthetic",
            "imaging_quality|technical_quality",
        ),
        description="the lever's left side; a|b takes the first that was measured",
    )
    balance_identity: tuple[str, ...] = Field(
        ("dino_i_masked|subject_similarity", "face_similarity"), description="the lever's right side"
    )


def _answers(params: ReportParams, world: World) -> dict[str, str]:
    from stages.evaluation.people_tables import exports_digest

    return {"people": exports_digest(params.people)} if params.people else {}


@stage(
    name="report",
    version="5",
    params=ReportParams,
    inputs=OPTIONAL,
    optional=tuple(OPTIONAL),
    outputs={"report": Files("report")},
    world=_answers,
)
def report(ctx: Context, params: ReportParams) -> None:
    """Write ``index.html``: no network, no other file, opens from disk; what is not wired is not on the page.

    Beside it, where pairs are wired, ``pairs.html`` with its files: all pairs and refused candidates to scroll through.
    """
    page = sections(ctx, params)
    if ctx.has("pairs") and params.pairs_browsed:
        from stages.evaluation.pair_pages import write_browser

        page["browser"] = write_browser(ctx, ctx.folder("report"), params.pairs_browsed)
    (ctx.folder("report") / "index.html").write_text(render(page), encoding="utf-8")


def sections(ctx: Context, params: ReportParams) -> dict[str, Any]:
    """Everything that the template shows."""
    from stages.evaluation import people_tables, results
    from stages.evaluation.systems import title_of

    page: dict[str, Any] = {"title": params.title, "title_of": title_of}
    page |= _data(ctx, params)
    metrics = ctx.table("metrics").to_pylist() if ctx.has("metrics") else []
    page |= _standing(ctx, params, metrics)
    page |= _prompts(ctx, params, [row["key"] for row in page.get("metrics", [])])
    page["sweeps"] = [merges.sweep(ctx.path(name), title) for name, title in SWEEPS.items() if ctx.has(name)]
    page["people"] = people_tables.people_section(ctx, params.people)
    page["training"] = [*results.training(ctx, ADAPTERS, params.curves), *results.gradients(ctx, ADAPTERS)]
    if ctx.has("judgement"):
        page["judgement"] = [
            {"name": results.words(name), "blocks": results.blocks(value)} for name, value in _judgement(ctx).items()
        ]
    page["facts"] = provenance(ctx)
    page["notices"] = notices(ctx, params, metrics)
    page["tiles"] = tiles(page, metrics)
    return page


def _data(ctx: Context, params: ReportParams) -> dict[str, Any]:
    """What became of the footage, where a curation is wired."""
    from stages.curation.road import road
    from stages.evaluation import curated
    from stages.evaluation.thresholds import thresholds

    page: dict[str, Any] = {}
    if ctx.has("clips") and ctx.has("selection"):
        page["levels"] = road(ctx, reviewers(ctx))
        page["thresholds"], page["undrawn"] = thresholds(ctx, params.rules, params.thumbnails)
    if ctx.has("pairs"):
        counted = ctx.dataset("pairs").to_table(columns=["kind", "split"]).to_pylist()
        page["pair_counts"] = {
            kind: {s: sum(r["kind"] == kind and r["split"] == s for r in counted) for s in ("train", "held_out")}
            for kind in sorted({r["kind"] for r in counted})
        }
        page["pairs"] = curated.pair_rows(ctx, params.pairs_shown) if params.pairs_shown else []
    return page


def _standing(ctx: Context, params: ReportParams, metrics: list[dict[str, Any]]) -> dict[str, Any]:
    """The table and the levers."""
    from stages.evaluation import standing

    if not metrics:
        return {}
    tests = ctx.table("comparisons").to_pylist() if ctx.has("comparisons") else []
    page: dict[str, Any] = {"tested": bool(tests)}
    page["metric_systems"], page["metrics"] = standing.metric_table(metrics, tests)
    page["levers"], page["left"], page["right"] = standing.levers(
        metrics, params.balance_motion, params.balance_identity
    )
    return page


def _prompts(ctx: Context, params: ReportParams, keys: list[str]) -> dict[str, Any]:
    """Videos side by side, every number of every prompt, and failures."""
    from stages.evaluation import prompts

    if not ctx.has("samples"):
        return {}
    rows = prompts.read_samples(ctx)
    page: dict[str, Any] = {}
    page["systems"], page["samples"] = prompts.side_by_side(ctx, rows, params.prompts_shown)
    page["drill"] = prompts.drill_down(ctx, rows, keys)
    page["failures"] = prompts.failures(ctx, rows)
    page["prompt_count"] = len({row["prompt_id"] for row in rows})
    return page


def _judgement(ctx: Context) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for file in sorted(ctx.path("judgement").glob("*.json")):
        try:
            value = json.loads(file.read_text())
        except json.JSONDecodeError as error:
            raise StageError(f"judgement {file.name} is not JSON: {error}. Write it again.") from error
        inner = value if isinstance(value, dict) else {file.stem: value}
        plain = {k: v for k, v in inner.items() if not isinstance(v, dict)}
        merged |= {k: v for k, v in inner.items() if isinstance(v, dict)}
        if plain:
            merged[file.stem] = plain
    return merged


def provenance(ctx: Context) -> list[tuple[str, str]]:
    """What a reader needs to find the same data again: run, fingerprint, and the digest of each input."""
    facts = [("run", ctx.run_id), ("report fingerprint", ctx.fingerprint[:16]), ("seed", str(ctx.seed))]
    for name in filter(ctx.has, report.inputs):
        digest, rows = ctx.digest(name)
        facts.append((name, f"digest {digest[:16]}" + ("" if rows is None else f", {rows:,} rows")))
    return facts


def reviewers(ctx: Context) -> list[str]:
    """Who judged the clips, by name."""
    if not ctx.has("decisions"):
        return []
    return sorted(set(ctx.dataset("decisions").to_table(columns=["reviewer"]).column("reviewer").to_pylist()))


def notices(ctx: Context, params: ReportParams, metrics: list[dict[str, Any]]) -> list[str]:
    """What must be read before any number: random models, scripted reviewers."""
    found = [params.notice] if params.notice else []
    scripted = [name for name in reviewers(ctx) if name.startswith("script:")]
    if scripted:
        found.append(
            f"The gates were answered by a scripted reviewer ({', '.join(scripted)}), not by people: its verdicts stand "
            "in for theirs."
        )
    for name in ADAPTERS:
        card = ctx.path(name) / "adapter.json" if ctx.has(name) else None
        if card is not None and card.exists() and "random weights" in card.read_text():
            found.append(
                "The video model's base weights are random: its samples show that the road is whole, not what it can do."
            )
            break
    if any(r["note"] and "random" in r["note"] for r in metrics):
        found.append("The CLIP encoder's weights are random: metrics marked so mean nothing.")
    return found


def tiles(page: dict[str, Any], metrics: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """The few numbers at the top."""
    found = []
    levels = page.get("levels", [])
    clips = [level for level in levels if level.unit == "clips"]
    if levels and levels[0].unit == "files":
        found.append((footage(levels[0].hours), "of footage read"))
    if clips:
        survived = clips[-1] if len(clips) < 2 else next((v for v in clips if v.name == "exported"), clips[-1])
        share = 100 * survived.records / max(1, clips[0].records)
        found += [
            (f"{clips[0].records:,}", "shots found"),
            (f"{survived.records:,}", f"kept, {share:.0f}% of the shots"),
        ]
    if "pair_counts" in page:
        found.append((f"{sum(sum(v.values()) for v in page['pair_counts'].values()):,}", "training samples"))
    if metrics:
        found.append((f"{len({r['system'] for r in metrics})}", "systems compared"))
        if "prompt_count" in page:
            found.append((f"{page['prompt_count']:,}", "prompts asked of each"))
        found.append((f"{sum(not m['empty'] for m in page['metrics'])}", "metrics, each with its interval"))
    return found


def by_group(rows: Iterable[Mapping[str, Any]]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """Metrics under the name of what they are about, groups in the order in which they first come."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["group"], []).append(row)
    return list(found.items())


def render(page: dict[str, Any]) -> str:
    """The page as HTML. Everything from the data is escaped by the template engine."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["style"] = (PAGE / "report.css").read_text(encoding="utf-8")
    environment.globals["script"] = (PAGE / "report.js").read_text(encoding="utf-8")
    environment.filters["footage"] = footage
    environment.filters["by_group"] = by_group
    environment.filters["as_json"] = lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    defaults: dict[str, Any] = {
        "levels": [], "thresholds": [], "undrawn": [], "pairs": [], "pair_counts": {}, "browser": None,
        "systems": [], "samples": [], "drill": None,
        "failures": [], "metric_systems": [], "metrics": [], "tested": False, "levers": [], "left": [], "right": [], "sweeps": [],
        "judgement": [], "prompt_count": 0, "people": None,
    }  # fmt: skip
    return environment.get_template("report.html").render({**defaults, **page})
