"""A user's own table, weights and adapters, by the commands as they are typed."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from models.training.adapter import load_adapter
from models.training.formats import read_adapter_file
from tests.pipelines.command import INLINE, typed
from tests.training_stages.footing import COLOURS, frame, png, write_clip

torch.set_num_threads(1)
TINY = ("--weights", "tiny-random", "--bucket", "9x32x32")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clips, their losers, and a picture of each; the fourth row's clip is no video."""
    root = tmp_path_factory.mktemp("own")
    rows = []
    for n in range(4):
        (root / f"ref{n}.png").write_bytes(png(frame(COLOURS[n], 0)[14:34, 2:22]))
        rows.append(
            {
                "clip": f"clip{n}.mp4",
                "prompt": f"square {n} moves",
                "references": [f"ref{n}.png"],
                "loser": f"lost{n}.mp4",
            }
        )
        if n < 3:
            write_clip(root / f"clip{n}.mp4", COLOURS[n])
            write_clip(root / f"lost{n}.mp4", COLOURS[n + 1])
    (root / "clip3.mp4").write_bytes(b"no video")
    pq.write_table(pa.Table.from_pylist(rows), root / "rows.parquet")
    prompts = [{"prompt": "a square", "references": "ref0.png"}, {"prompt": "nothing but text", "references": None}]
    pq.write_table(pa.Table.from_pylist(prompts), root / "prompts.parquet")
    return root


def test_sft_dpo_merge_and_sample_on_ones_own_data(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*arguments: str | Path) -> str:
        code, out, err = typed(capsys, monkeypatch, *arguments, "--store", tmp_path / "store", *INLINE)
        assert code == 0, out + err
        return out

    table = ("--data", data / "rows.parquet", "--column", "video=clip", *TINY)
    train = (
        "--set",
        "sft.engine=inline",
        "--set",
        "sft.batch=2",
        "--set",
        "sft.lora.rank=2",
        "--set",
        "sft.learning_rate=0.01",
    )
    said = run("train", "sft", *table, *train, "--steps", "2", "--out", tmp_path / "sft")
    assert "3 accepted, 1 failed" in said
    assert json.loads((tmp_path / "sft" / "adapter.json").read_text())["kind"] == "sft_cross_pair"
    said = run("train", "sft", *table, *train, "--steps", "2", "--out", tmp_path / "sft")
    assert said.count("cached") == 3
    train = (
        "--set",
        "dpo.engine=inline",
        "--set",
        "dpo.batch=2",
        "--set",
        "dpo.lora.rank=2",
        "--set",
        "dpo.learning_rate=0.01",
    )
    run("train", "dpo", *table, *train, "--steps", "2", "--adapter", tmp_path / "sft", "--out", tmp_path / "dpo")
    log = [json.loads(line) for line in (tmp_path / "dpo" / "log.jsonl").read_text().splitlines()]
    assert log[0]["loss"] == pytest.approx(0.6931472, abs=1e-5)  # ln 2: policy and reference are the same model

    parts = (f"sft={tmp_path / 'sft'}:1", f"dpo={tmp_path / 'dpo'}:-0.5")
    said = run("merge", *parts, "--out", tmp_path / "both")
    assert "sft and dpo: cosine" in said
    assert "signs agree in" in said
    both, sft, dpo = (load_adapter(tmp_path / name) for name in ("both", "sft", "dpo"))
    for module in both.modules:
        torch.testing.assert_close(
            both.delta(module), sft.delta(module) - 0.5 * dpo.delta(module), rtol=1e-5, atol=1e-7
        )
    said = run("merge", *parts, "--method", "svd", "--rank", "1", "--out", tmp_path / "small")
    assert "off the method's own delta by" in said

    sampling = ("--set", "sample.sampling.steps=1", "--seeds", "1")
    run(
        "sample",
        "--data",
        data / "prompts.parquet",
        *TINY,
        "--adapter",
        tmp_path / "both",
        *sampling,
        "--out",
        tmp_path / "v",
    )
    rows = pq.read_table(tmp_path / "v" / "samples.parquet").to_pylist()
    assert sorted(row["system"] for row in rows) == ["base", "base", "final", "final"]
    assert {row["status"] for row in rows} == {"ok"}
    assert len({path.read_bytes() for path in (tmp_path / "v").glob("*.webm")}) == 4


def test_switching_on_ones_own_data(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ("engine=inline", "batch=2", "image_batch=2", "lora.rank=2", "warmup=0", "video_probability=0.5")
    changes = [part for setting in settings for part in ("--set", f"switching.{setting}")]
    table = ("--data", data / "rows.parquet", "--column", "video=clip", *TINY)
    code, out, err = typed(
        capsys, monkeypatch, "train", "switching", *table, *changes, "--steps", "3", "--store", tmp_path / "store",
        "--out", tmp_path / "adapter", *INLINE,
    )  # fmt: skip
    assert code == 0, out + err
    card = json.loads((tmp_path / "adapter" / "adapter.json").read_text())
    assert (card["kind"], card["steps"]) == ("switching", 3)


def test_adapters_go_out_and_come_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from stages.training.adapters import write_adapter
    from tests.training_stages.test_formats import adapter

    write_adapter(adapter(), tmp_path / "mine", {"kind": "sft"})
    base = ("--weights", "tiny-random")
    assert (
        typed(
            capsys, monkeypatch, "adapter", "export", tmp_path / "mine", "--format", "kohya", "--out", tmp_path / "k"
        )[0]
        == 0
    )
    code, _, err = typed(capsys, monkeypatch, "adapter", "import", tmp_path / "k", "--out", tmp_path / "back")
    assert code == 1
    assert "give the backbone it was trained on" in err
    code, out, _ = typed(capsys, monkeypatch, "adapter", "import", tmp_path / "k", "--out", tmp_path / "back", *base)
    assert (code, out.split(",")[0]) == (0, "kohya")
    back, mine = read_adapter_file(tmp_path / "back").adapter, adapter()
    assert all(torch.equal(back.delta(m), mine.delta(m)) for m in mine.modules)
    code, out, _ = typed(capsys, monkeypatch, "adapter", "fuse", tmp_path / "back", "--out", tmp_path / "fused", *base)
    assert code == 0
    assert "3 modules fused" in out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("train", "sft", "--data", "rows.parquet", *TINY), 1, "no column video. It has clip, prompt, references, loser. Rename columns"),
        (("train", "dpo", "--data", "prompts.parquet", *TINY), 1, "no column video; no column loser"),
        (("train", "sft", "--data", "row.parquet", *TINY), 1, "there is no table"),
        (("train", "sft", "--data", "ref0.png", *TINY), 1, "cannot be read as Parquet"),
        (("train", "sft", "--data", "rows.parquet", "--column", "film=clip", *TINY), 1, "columns names film; there are video, prompt"),
        (("train", "sft", "--data", "rows.parquet", "--column", "video=clip", "--weights", "/no/such"), 2, "no such folder"),
        (("train", "sft", "--data", "rows.parquet", "--column", "video=clip", "--weights", "."), 2, "transformer, vae, text_encoder"),
        (("train", "sft", "--data", "rows.parquet", "--column", "video=clip", *TINY, "--family", "cogvideo"), 2, "did you mean"),
        (("train", "sft", "--data", "rows.parquet", "--column", "video=clip", *TINY, "--out", "."), 2, "holds other files"),
        (("train", "sft", "--data", "rows.parquet", "--column", "video=clip", *TINY, "--kind", "pair"), 2, "'in_pair' or 'cross_pair'"),
        (("sample", "--data", "rows.parquet", "--column", "prompt", *TINY), 2, "write OURS=THEIRS"),
        (("merge", "a=x", "b=y:0.5"), 2, "a=x: write NAME=PATH:WEIGHT"),
        (("promote", "winner"), 2, "write candidate or champion"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_said_before_anything_runs(
    data: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    monkeypatch.chdir(data)
    found, out, err = typed(capsys, monkeypatch, *arguments)
    assert (found, out) == (code, "")
    assert said in err
    assert not (data / "fulcrum-store").exists()


def test_a_folder_that_holds_none_of_the_files_is_named(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (
        "--data",
        data / "rows.parquet",
        "--column",
        "video=clip",
        "--media",
        tmp_path,
        *TINY,
        "--set",
        "sft.engine=inline",
    )
    code, out, _ = typed(capsys, monkeypatch, "train", "sft", *arguments, "--store", tmp_path / "store", *INLINE)
    assert code == 1
    assert "none of the 4 files that" in out
    assert "--media DIR" in out
