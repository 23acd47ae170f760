"""``fulcrum evaluate`` on other systems' folders, as it is typed, and its page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from models.subjects.frames import png
from models.video.encode import write_video
from tests.pipelines.command import INLINE, typed

CHEAP = ("--set", "evaluate.metrics=[temporal_flicker,dynamic_degree_dis]")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two prompts, and two systems' videos: one stands still, the other moves and lacks its second video."""
    root = tmp_path_factory.mktemp("bench")
    wide = np.kron(np.random.default_rng(0).integers(40, 200, (8, 30, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    (root / "ref.png").write_bytes(png(wide[:64, :64]))
    asked = [
        {"prompt_id": f"p{n}", "prompt": f"a thing {n}", "references": ["ref.png"], "seeds": [0]} for n in range(2)
    ]
    (root / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in asked))
    for system, step, count in (("still", 0, 2), ("moving", 6, 1)):
        (root / system).mkdir()
        for n in range(count):
            video = np.stack([wide[:64, i * step : i * step + 64] for i in range(9)])
            write_video(video, 8.0, root / system / f"p{n}-0.webm", codec="libvpx-vp9")
    return root


def evaluate(bench: Path, store: Path) -> tuple[str | Path, ...]:
    folders = ("--videos", f"still={bench / 'still'}", "--videos", f"moving={bench / 'moving'}")
    return ("evaluate", *folders, "--manifest", bench / "manifest.jsonl", "--store", store, *INLINE, *CHEAP)


def test_folders_of_any_system_become_rows_of_one_table_and_a_page(
    bench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, page = tmp_path / "store", tmp_path / "pages" / "balance.html"
    code, out, err = typed(capsys, monkeypatch, *evaluate(bench, store), "--out", page)
    assert code == 0, out + err
    assert "moving" in out
    assert "50%" in out  # one of its two videos is missing
    text = page.read_text()
    assert "moving" in text
    assert "n 1<" in text
    assert "n 2<" in text
    assert 'href="pairs.html"' not in text

    code, out, err = typed(capsys, monkeypatch, "evaluate", "--store", store, "--json")
    assert code == 0, err
    rows = {(r["system"], r["metric"]): r for r in json.loads(out)["metrics"]}
    assert rows["still", "dynamic_degree_dis"]["value"] == 0.0
    assert rows["moving", "dynamic_degree_dis"]["value"] == 1.0
    assert (rows["moving", "temporal_flicker"]["n"], rows["moving", "temporal_flicker"]["coverage"]) == (1, 0.5)

    code, out, err = typed(capsys, monkeypatch, "report", "--store", store, "--out", tmp_path / "again.html")
    assert code == 0, out + err
    assert (tmp_path / "again.html").read_text() == text


def test_a_wrong_line_of_the_manifest_is_told_before_any_work(
    bench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = (bench / "manifest.jsonl").read_text().splitlines()
    broken = tmp_path / "broken.jsonl"
    broken.write_text(f"{lines[0]}\n{{not json\n")
    words = [broken if word == bench / "manifest.jsonl" else word for word in evaluate(bench, tmp_path / "store")]
    code, out, err = typed(capsys, monkeypatch, *words)
    assert code == 1
    assert "broken.jsonl" in out + err
    assert "line 2" in out + err
    assert not (tmp_path / "store").exists()
