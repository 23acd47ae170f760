"""What a run would take: the interval holds the truth about as often as it says, on made populations and on real footage."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from models.video.claims import claim
from pipelines.catalog import find
from pipelines.config import ConfigError, load
from pipelines.dag.graph import Pipeline, node
from pipelines.estimate import curation_nodes, estimate
from pipelines.extrapolate import LEVEL, constant, stratify, total
from stages.contract import StageError
from stages.curation.analyze import analyze
from stages.curation.ingest import ingest
from tests.dag.toy import make_pipeline

SMALL = (
    "torchcodec/testsrc2_mpeg4.mp4", "mp4parse/video_rotation_90.mp4", "mp4parse/minimal.mp4", "mp4parse/hevc_white_frame.mp4",
    "androidx-media/bbb_176x144_128kbps_15fps_h263.3gp", "torchcodec/h265_video.mp4", "torchcodec/h264_10bits.mp4",
    "torchcodec/testsrc2_odd_height_and_width_vp9.mp4", "androidx-media/sample_h265.ts", "androidx-media/sample_h264.ts",
    "intel-sample-videos/milk.mkv", "moviepy/doc_example.mp4", "androidx-media/sample_sef_slow_motion.mp4",
    "androidx-media/invalid-bitstream.webm", "moviepy/no_duration.webm", "made/zero_byte.mp4",
)  # fmt: skip


def test_a_sample_covers_the_sizes_and_depends_on_the_seed_alone() -> None:
    sizes = np.random.default_rng(0).lognormal(3, 2, 5000)
    strata = stratify(sizes, 20, seed=1)
    assert sum(len(s.sampled) for s in strata) == 20
    rows = np.concatenate([s.rows for s in strata])
    assert sorted(rows.tolist()) == list(range(5000))  # every file is in one stratum
    assert all(set(s.sampled) <= set(s.rows) for s in strata)
    sums = [sizes[s.rows].sum() for s in strata]
    assert max(sums) < 2 * min(sums)
    again = stratify(sizes, 20, seed=1)
    assert [s.sampled.tolist() for s in again] == [s.sampled.tolist() for s in strata]
    assert [s.sampled.tolist() for s in stratify(sizes, 20, seed=2)] != [s.sampled.tolist() for s in strata]
    everything = stratify(sizes[:7], 20, seed=1)
    assert total(everything, sizes, np.arange(5000.0), 0).draws.std() == 0  # what is measured whole is known


@pytest.mark.parametrize(
    ("spread", "broken", "at_least"), [(0.0, 0.0, LEVEL), (0.3, 0.0, LEVEL), (0.3, 0.05, LEVEL), (1.0, 0.02, 0.7)]
)
def test_the_interval_holds_the_truth_as_often_as_it_says(spread: float, broken: float, at_least: float) -> None:
    """Files whose claims are off by a factor, a share of which decodes to nothing."""
    rng = np.random.default_rng(7)
    claims = rng.lognormal(3, 1.2, 3000)
    hits = 0
    for seed in range(100):
        truth = claims * rng.lognormal(-(spread**2) / 2, spread, 3000) * (rng.random(3000) >= broken)
        found = total(stratify(claims, 20, seed), claims, truth, seed)
        hits += found.low <= truth.sum() <= found.high
        assert found.low <= found.value <= found.high
    assert hits / 100 >= at_least


def test_sums_and_products_keep_their_intervals() -> None:
    half = constant(2.0).plus(constant(1.0)).times(0.5)
    assert (half.value, half.low, half.high) == (1.5, 1.5, 1.5)


def test_headers_and_a_sample_find_the_hours_of_real_footage(footage: Path) -> None:
    """Many draws over the measured lengths of all real videos, the damaged ones included: nothing is decoded here."""
    listed = [x for x in json.loads((footage / "manifest.json").read_text()) if x["kind"] in ("video", "made")]
    undecodable = {
        "androidx-media/invalid-bitstream.webm",
        "androidx-media/sample_audio_only.mp4",
        "mp4parse/invalid_userdata.mp4",
    }
    truth = np.array([0.0 if x["file"] in undecodable else float(x.get("dur") or 0.0) for x in listed])
    told = [claim(str(footage / x["file"])) for x in listed]
    sizes = np.array([float(x["size"]) for x in listed])
    claims = np.array([c.seconds if c is not None and c.seconds else np.nan for c in told])
    known = ~np.isnan(claims)
    claims = np.maximum(np.where(known, claims, sizes * claims[known].sum() / sizes[known].sum()), 0.01)
    estimates = [total(stratify(claims, 20, seed), claims, truth, seed) for seed in range(100)]
    assert np.mean([e.low <= truth.sum() <= e.high for e in estimates]) >= LEVEL - 0.08
    assert abs(np.mean([e.value for e in estimates]) / truth.sum() - 1) < 0.03
    assert np.std([e.value for e in estimates]) / truth.sum() < 0.05


def test_a_real_sample_is_worked_through_and_leaves_nothing(footage: Path, tmp_path: Path) -> None:
    source = tmp_path / "videos"
    source.mkdir()
    for name in SMALL:
        (source / name.replace("/", "_")).symlink_to(footage / name)
    (source / "photo.jpg").symlink_to(footage / "vace" / "test.jpg")
    pipeline = Pipeline("short", (node("ingest", ingest), node("analyze", analyze, sources="ingest.sources")))
    config = load(pipeline, None, [], {"source": str(source), "store": str(tmp_path / "store")})
    said: list[str] = []
    plan = estimate(pipeline, config, 12, said.append)
    lengths = {
        x["file"]: x.get("dur") or 0.0
        for x in json.loads((footage / "manifest.json").read_text())
        if x["file"] in SMALL
    }
    lengths |= {"androidx-media/invalid-bitstream.webm": 0.0, "moviepy/no_duration.webm": 4.938}  # by decoding them
    hours = sum(lengths.values()) / 3600
    assert (plan.videos, plan.images, plan.sampled, plan.sampled_images, plan.probed) == (16, 1, 12, 1, 16)
    assert plan.hours.low <= hours <= plan.hours.high
    assert plan.cpu["analyze"].value > 0
    assert plan.gpu == {}
    told = plan.as_dict(0.04, None)
    assert told["cost"]["estimate"] == pytest.approx(0.04 * told["cpu_hours"]["estimate"])
    assert plan.cost(None, None) is None
    assert said[0] == "reading 16 headers"
    assert not (tmp_path / "store").exists()
    assert not (tmp_path / "store.local").exists()


def test_every_pipeline_that_curates_can_be_estimated_without_people() -> None:
    for name in ("curate", "libragen", "demo"):
        nodes = curation_nodes(find(name))
        assert {n.name for n in nodes} >= {"ingest", "analyze", "embed", "select", "dedupe", "export"}
        assert not any(n.stage.gate for n in nodes)
        Pipeline("estimate", nodes).order()  # wired


def test_a_pipeline_or_a_source_without_footage_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="analyses no footage"):
        curation_nodes(make_pipeline({"a": []}))
    (tmp_path / "notes.txt").write_text("no video")
    config = load(find("curate"), None, [], {"source": str(tmp_path), "store": str(tmp_path / "s")})
    with pytest.raises(StageError, match="holds no video"):
        estimate(find("curate"), config, 12, lambda text: None)
