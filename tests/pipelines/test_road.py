"""The whole road on one CPU: a rendered world goes in, a final adapter and a report come out."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.dataset as pads
import pytest

from tests.pipelines.command import fulcrum, outputs

GATES = ("review_clips", "review_consis", "review_real_fake")


@pytest.mark.ray
@pytest.mark.timeout(1200)
def test_libragen_reaches_its_final_adapter_on_one_cpu(tmp_path: Path) -> None:
    world, store = tmp_path / "world", tmp_path / "store"
    assert fulcrum("world", "render", "--seed", "5", "--count", "8", "--out", world).code == 0
    done = fulcrum(
        "run", "demo", "--source", world, "--store", store, "--json", "--set", "engine.num_cpus=1",
        *(f"--set={gate}.reviewer=script:rules" for gate in GATES),
        "--set", "shared.steps=4", "--set", "shared.checkpoint_every=2", "--set", "shared.pairs=4", "--set", "shared.batch=2",
        "--set", "shared.sampling.steps=3", "--set", "sample.prompts=2", "--set", "exam.questions=2", timeout=1150,
    )  # fmt: skip
    assert done.code == 0, done.out[-3000:] + done.err[-2000:]
    found = outputs(store)
    adapter = found["adapter_final"]
    assert (adapter / "pytorch_lora_weights.safetensors").stat().st_size > 1000
    page = (found["report"] / "index.html").read_text(encoding="utf-8")
    assert "weights are random" not in page
    assert "Oracle: motion as told" in page
    marks = json.loads((found["exam"] / "marks.json").read_text())
    assert {len(answers) for answers in marks.values()} == {2}
    assert {"base", "sft", "final"} <= set(marks)
    assert "script:rules" in page
    reviewers = pads.dataset(found["decisions"]).to_table(columns=["reviewer"]).column(0).unique().to_pylist()
    assert reviewers == ["script:rules"]
    judged = json.loads((found["judgement"] / "curation.json").read_text())
    assert judged["boundaries"]["all"]["truth"] > 5
    again = fulcrum(
        "run", "demo", "--source", world, "--store", store, "--json", "--set", "engine.num_cpus=1",
        *(f"--set={gate}.reviewer=script:rules" for gate in GATES),
        "--set", "shared.steps=4", "--set", "shared.checkpoint_every=2", "--set", "shared.pairs=4", "--set", "shared.batch=2",
        "--set", "shared.sampling.steps=3", "--set", "sample.prompts=2", "--set", "exam.questions=2",
    )  # fmt: skip
    assert set(again.states.values()) == {"CACHED"}
