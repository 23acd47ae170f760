"""The report page: whole without a network, safe with hostile captions, and as long as what is wired."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest

from data_schemas import tables
from models.subjects.frames import png
from models.video.encode import write_video
from stages.curation.rules import Rule
from stages.evaluation import charts, results, standing
from stages.evaluation.curated import prompt_parts, spread
from stages.evaluation.report import ReportParams, report
from tests.context import LocalContext

HOSTILE = '</script><script>alert("x")</script><img src=https://evil.example/a.png onerror=alert(1)>'
RULES = (Rule(name="too_dark", column="brightness", min=0.3), Rule(name="odd", where="brightness < 2"))


class Tags(HTMLParser):
    """Every tag with its attributes, and whether all are closed in order."""

    VOID = frozenset({"meta", "img", "br", "link", "input", "hr"})
    SVG = frozenset({"line", "rect", "circle", "path", "polyline"})

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.broken: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.broken.append(tag)


def picture(seed: int) -> np.ndarray:
    return cv2.resize(np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8), (64, 48))


def clip_rows(count: int = 12) -> list[dict[str, Any]]:
    return [
        {
            "clip_id": f"c{i:02d}",
            "video_id": f"v{i % 4}",
            "video_uri": f"file:///v{i % 4}.mp4",
            "start_s": float(i),
            "end_s": i + 2.0,
            "start_frame": 10 * i,
            "end_frame": 10 * i + 20,
            "boundary_in": "cut",
            "boundary_out": "cut",
            "duration_s": 2.0,
            "width": 64,
            "height": 48,
            "fps": 10.0,
            "brightness": i / count if i else None,
        }
        for i in range(count)
    ]


def curated() -> dict[str, pa.Table | Path]:
    rows = clip_rows()
    kept = [r["brightness"] is None or r["brightness"] >= 0.3 for r in rows]
    return {
        "clips": tables.CLIPS.table(rows),
        "selection": tables.SELECTION.table(
            [
                {"clip_id": r["clip_id"], "kept": k, "first_failing_rule": None if k else "too_dark", "review": False}
                for r, k in zip(rows, kept, strict=True)
            ]
        ),
        "keyframes": tables.KEYFRAMES.table(
            [
                {
                    "clip_id": r["clip_id"],
                    "position": 0.5,
                    "time_s": r["start_s"] + 1,
                    "jpeg": cv2.imencode(".jpg", picture(i))[1].tobytes(),
                }
                for i, r in enumerate(rows)
            ]
        ),
    }


def everything(tmp: Path) -> dict[str, pa.Table | Path]:
    inputs = curated()
    survivors = ["c00", "c05", "c06", "c07"]
    media, videos, adapter, judged = (tmp / n for n in ("media", "samples", "adapter", "judgement"))
    for folder in (media, videos / "references", adapter, judged):
        folder.mkdir(parents=True)
    write_video(np.stack([picture(i) for i in range(6)]), 6.0, media / "c05.mp4")
    write_video(np.stack([picture(i) for i in range(6)]), 6.0, videos / "a.webm", codec="libvpx-vp9")
    (videos / "references" / "r.png").write_bytes(png(picture(1)))
    (adapter / "log.jsonl").write_text('{"step": 1, "loss": 0.9}\n{"step": 2, "loss": 0.7}\n{"step": 3, "lo')
    (adapter / "adapter.json").write_text(json.dumps({"weights_note": "random weights, seed 0"}))
    (judged / "judgement.json").write_text(
        json.dumps({"filter": {"precision": 0.912, "recall": None}, "unknown_clips": 0})
    )
    prompt = f"Ref 1: a toy {HOSTILE}. Video: Ref 1[a toy] moves {HOSTILE}"
    subset = {
        "video_id": "v1",
        "media_sha256": "0",
        "media_bytes": 1,
        "caption": HOSTILE,
        "start_s": 0.0,
        "end_s": 1.0,
        "frames": 6,
        "fps": 6.0,
        "width": 64,
        "height": 48,
    }
    sample = {"prompt_id": "p", "seed": 0, "prompt": prompt, "reference_uri": "x/samples/references/r.png"}
    metric = {"n": 1, "coverage": 0.5, "better": "higher", "low": None, "high": None, "note": None}
    inputs |= {
        "videos": tables.VIDEOS.table(
            [
                {"video_id": v, "uri": v, "path": v, "media_type": "video", "bytes": 1, "duration_s": 6.0, "status": s}
                | ({"error_type": HOSTILE} if s == "failed" else {})
                for v, s in (("v0", "ok"), ("v1", "ok"), ("v9", "failed"))
            ]
        ),
        "dedupe": tables.DEDUPE.table(
            [{"clip_id": "c04", "kept": False, "kind": "near", "group_id": "g", "kept_id": "c05"}]
        ),
        "verdicts": tables.VERDICTS.table(
            [{"external_id": "c08", "item_id": "i", "verdict": "reject", "reasons": [HOSTILE], "answers": 1}]
        ),
        "subset": tables.SUBSET.table([{**subset, "clip_id": c, "media_uri": "x/media/c05.mp4"} for c in survivors]),
        "media": media,
        "subjects": tables.SUBJECTS.table(
            [
                {
                    "subject_id": "s",
                    "origin": "clip",
                    "clip_id": "c05",
                    "video_id": "v1",
                    "phrase": "a toy",
                    "time_s": 0.5,
                    "box": [0, 0, 1, 1],
                    "area": 1.0,
                    "mask_area": 1.0,
                    "crop": png(picture(2)),
                    "mask": png(np.full((48, 64), 255, np.uint8)),
                    "encoder": "e",
                    "embedding": [1.0],
                }
            ]
        ),
        "pairs": tables.PAIRS.table(
            [
                {
                    "sample_id": "x",
                    "kind": "in_pair",
                    "clip_id": "c05",
                    "video_id": "v1",
                    "prompt": prompt,
                    "references": [{"subject_id": "s", "phrase": "a toy"}],
                    "similarity": 0.9,
                    "same_source": True,
                    "split": "train",
                }
            ]
        ),
        "samples": tables.SAMPLES.table(
            [
                {**sample, "system": "base", "uri": "x/samples/a.webm", "status": "ok"},
                {**sample, "system": "final", "uri": None, "status": "failed", "error_message": HOSTILE},
            ]
        ),
        "sample_videos": videos,
        "metrics": tables.METRICS.table(
            [
                {**metric, "system": s, "metric": m, "value": v}
                for s, m, v in (
                    ("base", "dynamic_degree_dis", 0.9),
                    ("final", "dynamic_degree_dis", 0.4),
                    ("base", "subject_similarity", 0.2),
                    ("final", "subject_similarity", 0.7),
                )
            ]
        ),
        "measurements": tables.MEASUREMENTS.table(
            [
                {"system": s, "prompt_id": "p", "seed": 0, "metric": m, "value": v, "missing": None if v else HOSTILE}
                for s, m, v in (
                    ("base", "dynamic_degree_dis", 0.9),
                    ("final", "dynamic_degree_dis", None),
                    ("base", "subject_similarity", 0.2),
                    ("final", "subject_similarity", None),
                )
            ]
        ),
        "comparisons": tables.COMPARISONS.table(
            [
                {
                    "system": "final",
                    "baseline": "base",
                    "metric": "subject_similarity",
                    "difference": 0.5,
                    "low": 0.4,
                    "high": 0.6,
                    "n": 6,
                    "prompts": 6,
                    "p": 0.03,
                    "p_holm": 0.03,
                },
            ]
        ),
        "sweep_sft": swept(tmp / "sweep"),
        "judgement": judged,
        "adapter_cross": adapter,
    }
    return inputs


def swept(folder: Path) -> Path:
    """Three points of a sweep: one chosen, one on the front, one behind it."""
    folder.mkdir(parents=True)
    points = [
        {
            "weights": {"cross": w, "in_pair": 1 - w},
            "metrics": {
                m: {"value": v, "low": v - 0.1, "high": v + 0.1, "n": 4, "coverage": 1.0}
                for m, v in zip("ab", values, strict=True)
            },
            "score": score,
            "front": score is not None and score > 0.4,
            "winner": score == 0.6,
        }
        for w, values, score in ((0.25, (0.3, 0.9), 0.5), (0.5, (0.7, 0.8), 0.6), (0.75, (0.2, 0.1), None))
    ]
    found = {
        "objective": {"a": 0.5, "b": 0.5},
        "limits": {"b": 0.2},
        "better": {"a": "higher", "b": "higher"},
        "points": points,
    }
    (folder / "points.json").write_text(json.dumps(found))
    return folder


def page_of(tmp: Path, inputs: dict[str, pa.Table | Path], **params: Any) -> str:
    ctx = LocalContext(tmp, report, inputs)
    ctx.run(ReportParams.model_validate({"rules": [r.model_dump() for r in RULES], "pairs_browsed": 0, **params}))
    assert [p.name for p in ctx.outputs["report"].iterdir()] == ["index.html"]
    return str((ctx.outputs["report"] / "index.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    tmp = tmp_path_factory.mktemp("report")
    return page_of(tmp, everything(tmp))


def tags_of(html: str) -> Tags:
    tags = Tags()
    tags.feed(html)
    return tags


def test_nothing_on_the_page_asks_a_network(page: str) -> None:
    for tag, attributes in tags_of(page).found:
        assert tag not in {"link", "iframe", "object", "embed", "base", "form"}
        for name in ("src", "href", "poster", "data", "action", "srcset"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name, value[:80])
    style = "".join(re.findall(r"<style>(.*?)</style>", page, re.S))
    assert "url(" not in style
    assert "@import" not in style
    script = "".join(re.findall(r"<script>(.*?)</script>", page, re.S))
    assert not re.search(r"fetch|XMLHttpRequest|import\s*\(|https?:", script)
    assert "default-src 'none'" in page


def test_hostile_text_is_shown_and_not_run(page: str) -> None:
    tags = tags_of(page)
    assert sum(tag == "script" for tag, _ in tags.found) == 1
    assert not any(name.startswith("on") for _, attributes in tags.found for name in attributes)
    assert "&lt;script&gt;alert(" in page
    assert "<script>alert" not in page


def test_the_page_is_well_formed(page: str) -> None:
    tags = tags_of(page)
    assert tags.broken == []
    assert tags.open == []
    ids = {a["id"] for _, a in tags.found if "id" in a}
    links = {(a.get("href") or "")[1:] for t, a in tags.found if t == "a"}
    assert links <= ids
    parts = {
        "balance",
        "merges",
        "metrics",
        "samples",
        "prompts",
        "failures",
        "training",
        "funnel",
        "thresholds",
        "pairs",
        "truth",
    }
    assert parts <= ids


def test_the_front_shows_the_chosen_merge_and_its_intervals(page: str) -> None:
    chart = re.search(r'<svg class="chart scatter".*?</svg>', page, re.S)
    assert chart is not None
    for kind, count in (("chosen", 1), ("on-front", 1), ("behind", 1)):
        assert chart[0].count(f'class="dot {kind}"') == count
    assert chart[0].count('class="cross"') == 2
    assert "chosen: cross 0.5, in pair 0.5" in page
    assert "b at least 0.2" in page


def test_a_number_tells_its_test_its_definition_and_its_failures(page: str) -> None:
    assert '<span class="test good" title="+0.500 against base on the same 6 prompts' in page
    assert "Ours, in the form of masked DINO-I" in page  # the definition is the metric's own docstring
    assert "1 of 1 videos" in page


def test_the_drill_down_holds_every_prompt_and_null_where_nothing_was_measured(page: str) -> None:
    table = next(a for t, a in tags_of(page).found if a.get("id") == "drill")
    found = json.loads(table["data-drill"] or "")
    assert found["systems"] == ["base", "final"]
    assert found["values"]["subject_similarity"] == [[0.2, None]]
    figures = [a["data-values"] for t, a in tags_of(page).found if t == "figure" and "data-values" in a]
    assert [json.loads(v or "") for v in figures] == [{"dynamic_degree_dis": 0.9, "subject_similarity": 0.2}, {}]


def test_samples_of_a_folder_have_a_page_without_a_curation(tmp_path: Path) -> None:
    inputs = everything(tmp_path)
    html = page_of(tmp_path, {k: inputs[k] for k in ("samples", "sample_videos", "metrics")})
    assert 'id="samples"' in html
    assert 'id="funnel"' not in html
    assert 'id="prompts"' not in html
    assert tags_of(html).broken == []


def test_random_models_are_announced_first(page: str) -> None:
    assert page.index("base weights are random") < page.index('id="funnel"')


def test_the_funnel_counts_what_each_step_let_go(page: str) -> None:
    text = re.sub(r"<[^>]+>", " ", page)
    text = re.sub(r"\s+", " ", text)
    # 12 shots; 3 of known brightness below 0.3 (c01 to c03); c04 a near copy; c08 rejected; 4 exported.
    assert "12 clips" in text
    assert "9 clips" in text
    assert "−3 too dark" in text
    assert "−1 near duplicate" in text
    assert "4 clips" in text


def test_a_curation_alone_has_a_page(tmp_path: Path) -> None:
    inputs = curated()
    del inputs["keyframes"]
    html = page_of(tmp_path, inputs)
    assert 'id="thresholds"' in html
    assert 'id="pairs"' not in html
    assert 'id="metrics"' not in html
    assert tags_of(html).broken == []


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    inputs = everything(tmp_path / "in")
    assert page_of(tmp_path / "a", inputs) == page_of(tmp_path / "b", inputs)


def test_a_rule_on_a_column_that_is_not_there_is_told_and_not_drawn(tmp_path: Path) -> None:
    html = page_of(tmp_path, curated(), rules=[{"name": "ugly", "column": "aesthetic", "min": 4.0}])
    assert "ugly: this table has no column aesthetic" in html


def test_a_histogram_colours_what_the_bound_rejects() -> None:
    svg = str(charts.histogram([0, 1, 2, 3], [5, 0, 7], [(1.0, "lower")]))
    assert svg.count('class="bar-out"') == 1
    assert svg.count('class="bar-in"') == 2
    assert "at least 1" in svg


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (1234.4, "1,234"), (0.12345, "0.123"), (2.0, "2"), (12.34, "12.3"), (1e-5, "1e-05")]
)
def test_numbers_read_as_a_person_writes_them(value: float, text: str) -> None:
    assert charts.short(value) == text


def test_an_axis_has_round_ticks() -> None:
    assert charts.ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert charts.ticks(3, 3) == [3]


def metric(system: str, name: str, value: float, low: float, high: float, **more: Any) -> dict[str, Any]:
    row = {"system": system, "metric": name, "value": value, "low": low, "high": high, "n": 4, "coverage": 1.0}
    return {**row, "better": "higher", "note": None, **more}


def test_best_means_that_the_interval_lies_beyond_all_others() -> None:
    rows = [metric("base", "m", 0.2, 0.1, 0.3), metric("final", "m", 0.5, 0.4, 0.6)]
    _, table = standing.metric_table(rows)
    assert [c["best"] for c in table[0]["cells"]] == [False, True]
    _, table = standing.metric_table([rows[0], metric("final", "m", 0.5, 0.25, 0.6)])
    assert [c["best"] for c in table[0]["cells"]] == [False, False]
    _, table = standing.metric_table([{**r, "better": "lower"} for r in rows])
    assert [c["best"] for c in table[0]["cells"]] == [True, False]
    _, table = standing.metric_table([{**r, "note": "weights are random: the number means nothing"} for r in rows])
    assert [c["best"] for c in table[0]["cells"]] == [False, False]


def test_the_lever_leaves_out_what_means_nothing() -> None:
    rows = [
        metric("base", "dynamic_degree_dis", 0.9, 0, 1),
        metric("final", "dynamic_degree_dis", 0.3, 0, 1),
        metric("base", "subject_similarity", 0.1, 0, 1),
        metric("final", "subject_similarity", 0.8, 0, 1),
        metric("base", "clip_t", 0.1, 0, 1, note="the number means nothing"),
        metric("final", "clip_t", 0.8, 0, 1, note="the number means nothing"),
    ]
    drawings, left, right = standing.levers(rows, ("dynamic_degree_dis", "clip_t"), ("subject_similarity",))
    assert (left, right) == (["dynamic_degree_dis"], ["subject_similarity"])
    assert len(drawings) == 2
    assert "rotate(-16.00" in str(drawings[0]["chart"])  # all motion, no identity: tipped to the left
    assert drawings[0]["told"] == "tips to motion, prompt and looks"
    assert standing.levers(rows[:1], ("dynamic_degree_dis",), ("subject_similarity",))[0] == []


def test_the_lever_takes_the_first_of_two_metrics_that_serves() -> None:
    rows = [
        metric(system, name, value, 0, 1)
        for name, values in {
            "dynamic_degree_dis": (0.1, 0.9),
            "dino_i_masked": (0.2, 0.3),
            "subject_similarity": (0.5, 0.6),
        }.items()
        for system, value in zip(("base", "final"), values, strict=True)
    ]
    _, left, right = standing.levers(
        rows, ("dynamic_degree|dynamic_degree_dis", "clip_t"), ("dino_i_masked|subject_similarity",)
    )
    assert (left, right) == (["dynamic_degree_dis"], ["dino_i_masked"])


def test_curves_read_both_forms_and_pass_over_a_broken_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"step": 2, "loss": 1.5}\n{"step": 1, "key": "loss", "value": 2}\n{"st')
    assert results.curves(tmp_path) == {"loss": [(1.0, 2.0), (2.0, 1.5)]}


def test_a_judgement_of_any_shape_becomes_headings_and_tables() -> None:
    value = {"tolerance": 2, "all": {"f1": 0.975, "n": 120}, "hard": {"f1": 1.0, "n": 80}, "deep": {"a": {"b": None}}}
    made = results.blocks(value, "boundaries")
    assert made[0] == {"kind": "pairs", "name": "boundaries", "depth": 0, "rows": [("tolerance", "2")]}
    assert made[1]["rows"] == [("all", ["0.975", "120"]), ("hard", ["1.000", "80"])]
    assert made[-1]["rows"] == [("b", "–")]


def test_prompts_outside_the_layout_are_shown_whole() -> None:
    assert prompt_parts("just words") == [{"text": "just words", "ref": 0, "head": False}]
    parts = prompt_parts("Ref 1: a toy. Video: Ref 1[a toy] moves")
    assert [(p["text"], p["ref"]) for p in parts] == [("Ref 1: a toy.", 1), ("Video:", 0), ("a toy", 1), ("moves", 0)]


def test_a_spread_keeps_both_ends() -> None:
    assert spread(list(range(10)), 4) == [0, 3, 6, 9]
    assert spread([1, 2], 4) == [1, 2]
