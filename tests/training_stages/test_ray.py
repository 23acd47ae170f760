"""SFT through Ray Train gives what the same job gives in this process: on one worker and on two, one of which is lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from models.training.adapter import load_adapter
from models.video.encode import read_video
from pipelines.dag.engine import RayEngine
from stages.training import jobs
from stages.training.adapters import adapter_digest
from stages.training.params import PreviewParams
from stages.training.train import SftParams, sft
from tests.context import LocalContext
from tests.training_stages.conftest import Encoded, Road
from tests.training_stages.footing import BACKBONE, LORA, SAMPLING

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def engine() -> Iterator[RayEngine]:
    ray = pytest.importorskip("ray")
    ray.shutdown()
    made = RayEngine(num_cpus=2)
    made.start()
    yield made
    ray.shutdown()


def test_sft_on_one_cpu_survives_a_killed_worker_and_ends_bitwise_as_inline(
    tmp_path: Path, encoded: Encoded, road: Road, engine: RayEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "ray_worker", KilledOnce(str(tmp_path / "killed")))
    inputs: dict[str, Any] = {"cache": encoded.cache, "latents": encoded.latents}
    context = LocalContext(tmp_path, sft, inputs, name="sft_in", engine=engine)
    params = SftParams(
        backbone=BACKBONE, lora=LORA, kind="in_pair", steps=6, batch=2, checkpoint_every=2, learning_rate=1e-2
    )
    context.run(params)
    assert (tmp_path / "killed").exists()
    assert [step for key, step in context.metrics_seen if key == "loss"] == [1, 2, 3, 4, 5, 6]
    assert adapter_digest(context.outputs["adapter"]) == adapter_digest(road.adapters["in_pair"])


def test_two_workers_with_the_base_sharded_of_which_one_is_lost_end_as_one_does_up_to_the_order_of_sums(
    tmp_path: Path, encoded: Encoded, road: Road, engine: RayEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "ray_worker", KilledOnce(str(tmp_path / "killed"), rank=1))
    inputs: dict[str, Any] = {"cache": encoded.cache, "latents": encoded.latents}
    context = LocalContext(tmp_path, sft, inputs, name="sft_in", engine=engine)
    params = SftParams(
        backbone=BACKBONE, lora=LORA, kind="in_pair", steps=6, batch=2, checkpoint_every=3, learning_rate=1e-2,
        num_workers=2, shard=True, previews=PreviewParams(every=3, prompts=1, sampling=SAMPLING),
    )  # fmt: skip
    context.run(params)
    assert (tmp_path / "killed").exists()
    assert [step for key, step in context.metrics_seen if key == "loss"] == [1, 2, 3, 4, 5, 6]
    two, one = load_adapter(context.outputs["adapter"]), load_adapter(road.adapters["in_pair"])
    for module in one.modules:
        torch.testing.assert_close(two.delta(module), one.delta(module), rtol=1e-3, atol=1e-5)
    assert [f["step"] for name, f in context.events if name == "checkpoint"][-1] == 6
    shown = [fields for name, fields in context.events if name == "previews"]
    assert shown, [fields for name, fields in context.events if name == "preview_failed"]
    (video,) = Path(str(shown[0]["folder"])).glob("*.webm")
    assert read_video(video)[0].shape == (9, 32, 32, 3)


class KilledOnce:
    """The worker that ships, in processes of which that of one rank dies by SIGKILL after its first checkpoint, once."""

    def __init__(self, mark: str, rank: int = 0) -> None:
        self.mark, self.rank = mark, rank

    def __call__(self, config: dict[str, Any]) -> None:
        from stages.training import jobs as real

        job, mark, doomed = config["job"], Path(self.mark), self.rank
        if not mark.exists():
            whole = real.run_job

            def dies(job: jobs.Job, **options: Any) -> None:
                def on_step(step: int) -> None:
                    if step == 4 and options.get("rank", 0) == doomed:
                        mark.touch()
                        os.kill(os.getpid(), signal.SIGKILL)

                whole(replace(job), **{**options, "on_step": on_step})

            real.run_job = dies
        real.ray_worker({"job": job})
