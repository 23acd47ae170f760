"""The training loop: what was killed and resumed is bit for bit what was never disturbed."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.backbones.base import Backbone
from models.training.adapter import AdapterState
from models.training.batch import Batch, PreferenceBatch
from models.training.checkpoint import latest_checkpoint
from models.training.loop import NonFiniteLoss, StopRule, TrainResult, TrainSpec, train
from models.training.lora import LoraSpec, adapter_names, add_lora, set_adapters
from models.training.methods import Dpo, FrozenAdapter, Sft

REPOSITORY = Path(__file__).resolve().parents[2]
SFT = Sft(LoraSpec(rank=4, alpha=4.0, dropout=0.2))
SPEC = TrainSpec(
    steps=6, learning_rate=1e-3, schedule="cosine", warmup=2, ema_decay=0.9, checkpoint_every=2, accumulate=2, seed=7
)
Batches = Callable[[int], Batch]


def run(
    backbone: Backbone, batches: Batches, spec: TrainSpec, folder: Path | None, stop_after: int | None = None
) -> tuple[TrainResult, dict[int, tuple[float, float]]]:
    """(result, {step: (loss, gradient norm)})."""
    seen: dict[int, tuple[float, float]] = {}

    def note(step: int, metrics: dict[str, float]) -> None:
        seen[step] = (metrics["loss"], metrics["grad_norm"])

    return train(backbone, SFT, batches, spec, folder, note, stop_after=stop_after), seen


def same(left: AdapterState | None, right: AdapterState | None) -> bool:
    assert left is not None
    assert right is not None
    return all(torch.equal(left.state[key], right.state[key]) for key in left.state)


@pytest.fixture
def undisturbed(
    backbone: Backbone, batches: Batches, tmp_path: Path
) -> tuple[TrainResult, dict[int, tuple[float, float]]]:
    return run(backbone, batches, SPEC, tmp_path / "undisturbed")


@pytest.mark.parametrize("killed_after", [1, 2, 3, 5])
def test_a_run_that_stops_and_resumes_is_the_undisturbed_run_bit_for_bit(
    backbone: Backbone,
    batches: Batches,
    undisturbed: tuple[TrainResult, dict[int, tuple[float, float]]],
    tmp_path: Path,
    killed_after: int,
) -> None:
    whole, losses = undisturbed
    _, before = run(backbone, batches, SPEC, tmp_path / "killed", stop_after=killed_after)
    torch.manual_seed(killed_after)  # whatever state the new process happens to have
    resumed, after = run(backbone, batches, SPEC, tmp_path / "killed")
    # The kill comes before the checkpoint of its own step, and checkpoints are at 2 and 4.
    assert resumed.resumed_from == ((killed_after - 1) // 2 * 2 or None)
    assert {**before, **after} == losses
    assert all(after[step] == before[step] for step in before.keys() & after.keys())
    assert same(resumed.adapter, whole.adapter)
    assert same(resumed.ema, whole.ema)


# Trains the same six steps in its own process; kills itself with SIGKILL in the middle of step `argv[2]`'s callback.
SCRIPT = """
import json, os, signal, sys
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
from pathlib import Path
from models.backbones.load import BackboneSpec, load_backbone
from models.training.batch import Batch
from models.training.loop import TrainSpec, train
from models.training.lora import LoraSpec
from models.training.methods import Sft

folder, kill_at = Path(sys.argv[2]), int(sys.argv[3])
backbone = load_backbone(BackboneSpec())
text = backbone.encode_text(["a dog runs"])[:, :12]

def draw(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

def batches(index):
    timestep = torch.randint(0, 1000, (1,), generator=torch.Generator().manual_seed(index))
    return Batch(("a",), text, draw(index, 1, 4, 2, 8, 8), timestep, None, draw(9, 1, 4, 2, 8, 8))

def note(step, metrics):
    with open(folder / "losses.txt", "a") as out:
        out.write(f"{step} {metrics['loss'].hex()}\\n")
    if step == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)

spec = TrainSpec(steps=6, learning_rate=1e-3, checkpoint_every=2)
result = train(backbone, Sft(LoraSpec(4, 4.0, dropout=0.2)), batches, spec, folder / "checkpoints", note)
print(result.resumed_from, result.adapter.digest())
"""


def test_a_run_killed_by_sigkill_resumes_in_another_process_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def arguments(name: str, kill_at: int) -> list[str]:
        (tmp_path / name).mkdir(exist_ok=True)
        return [str(REPOSITORY), str(tmp_path / name), str(kill_at)]

    def process(name: str, kill_at: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", SCRIPT, *arguments(name, kill_at)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    def losses(name: str) -> dict[str, str]:
        return dict(line.split() for line in (tmp_path / name / "losses.txt").read_text().splitlines())

    assert process("killed", kill_at=5).returncode == -signal.SIGKILL
    resumed = process("killed", kill_at=0)
    assert resumed.returncode == 0, resumed.stderr
    monkeypatch.setattr(sys, "argv", ["-c", *arguments("whole", kill_at=0)])
    monkeypatch.setattr(sys, "path", list(sys.path))
    exec(SCRIPT, {"__name__": "__main__"})
    whole = capsys.readouterr().out.split()[-2:]
    assert resumed.stdout.split()[-2:] == ["4", whole[1]]
    assert losses("killed") == losses("whole")


def test_a_finished_run_trains_nothing_when_run_again(
    backbone: Backbone,
    batches: Batches,
    undisturbed: tuple[TrainResult, dict[int, tuple[float, float]]],
    tmp_path: Path,
) -> None:
    again, steps = run(backbone, batches, SPEC, tmp_path / "undisturbed")
    assert steps == {}
    assert same(again.adapter, undisturbed[0].adapter)


@pytest.mark.parametrize("damage", ["cut", "flipped", "no manifest"])
def test_a_torn_checkpoint_is_named_and_the_one_before_is_used(
    backbone: Backbone,
    batches: Batches,
    undisturbed: tuple[TrainResult, dict[int, tuple[float, float]]],
    tmp_path: Path,
    damage: str,
) -> None:
    newest = tmp_path / "undisturbed" / "step_00000006"
    weights = newest / "adapter.safetensors"
    content = bytearray(weights.read_bytes())
    if damage == "cut":
        weights.write_bytes(content[:-8])
    elif damage == "flipped":
        content[-3] ^= 1
        weights.write_bytes(content)
    else:
        (newest / "manifest.json").unlink()
    again, steps = run(backbone, batches, SPEC, tmp_path / "undisturbed")
    assert again.resumed_from == 4
    assert len(again.skipped_checkpoints) == 1
    assert again.skipped_checkpoints[0].startswith("step_00000006: ")
    assert sorted(steps) == [5, 6]
    assert same(again.adapter, undisturbed[0].adapter)
    found, skipped = latest_checkpoint(tmp_path / "undisturbed")
    assert found is not None
    assert (found.step, skipped) == (6, ())


def test_only_the_newest_checkpoints_stay_and_nothing_half_written(
    backbone: Backbone, batches: Batches, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    (folder / ".writing-2-1").mkdir(parents=True)
    run(backbone, batches, replace(SPEC, checkpoint_every=1), folder)
    assert sorted(path.name for path in folder.iterdir()) == ["step_00000005", "step_00000006"]


def test_checkpoints_of_another_configuration_are_refused_by_field(
    backbone: Backbone, batches: Batches, undisturbed: object, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"train.learning_rate was 0.001 and is now 0.002"):
        run(backbone, batches, replace(SPEC, learning_rate=2e-3), tmp_path / "undisturbed")
    assert adapter_names(backbone) == set()


def test_an_adapter_left_on_is_not_trained_on_top_of_in_silence(backbone: Backbone, batches: Batches) -> None:
    add_lora(backbone, SFT.lora, "left_on")
    with pytest.raises(ValueError, match="left_on are on"):
        train(backbone, SFT, batches, SPEC, None)
    set_adapters(backbone, [])
    train(backbone, SFT, batches, replace(SPEC, steps=1), None)
    assert adapter_names(backbone) == {"left_on"}


def test_a_constant_schedule_may_be_trained_further(backbone: Backbone, batches: Batches, tmp_path: Path) -> None:
    short = TrainSpec(steps=2, checkpoint_every=2)
    run(backbone, batches, short, tmp_path / "a")
    longer, steps = run(backbone, batches, replace(short, steps=4), tmp_path / "a")
    whole, _ = run(backbone, batches, replace(short, steps=4), None)
    assert sorted(steps) == [3, 4]
    assert same(longer.adapter, whole.adapter)


def test_what_a_callback_draws_does_not_reach_the_training(backbone: Backbone, batches: Batches) -> None:
    quiet, _ = run(backbone, batches, SPEC, None)
    before = torch.get_rng_state()
    noisy = train(backbone, SFT, batches, SPEC, None, lambda step, metrics: torch.manual_seed(step) and None)
    assert same(quiet.adapter, noisy.adapter)
    assert torch.equal(before, torch.get_rng_state())


def test_two_micro_batches_are_one_batch_of_both(backbone: Backbone, batches: Batches) -> None:
    # Without dropout; the second micro-batch has one sample, so its share must be a third.
    plain = Sft(LoraSpec(rank=4, alpha=4.0))
    spec = TrainSpec(steps=1, learning_rate=1e-3)
    two, one = batches(0), batches(1)
    parts = [
        Batch(("a", "b"), two.text_BLD, two.noise_BCFHW, two.t_B, None, two.latents_BCFHW),
        Batch(("c",), one.text_BLD[:1], one.noise_BCFHW[:1], one.t_B[:1], None, one.latents_BCFHW[:1]),
    ]
    joined = Batch(
        ("a", "b", "c"),
        *(torch.cat([getattr(part, name) for part in parts]) for name in ("text_BLD", "noise_BCFHW", "t_B")),
        None,
        torch.cat([part.latents_BCFHW for part in parts]),
    )
    seen: list[dict[str, float]] = []
    train(backbone, plain, lambda i: parts[i], replace(spec, accumulate=2), None, lambda _, m: seen.append(m))
    train(backbone, plain, lambda _: joined, spec, None, lambda _, m: seen.append(m))
    assert seen[0]["samples"] == seen[1]["samples"] == 3
    assert seen[0]["loss"] == pytest.approx(seen[1]["loss"], rel=1e-5)
    assert seen[0]["grad_norm"] == pytest.approx(seen[1]["grad_norm"], rel=1e-4)


def test_activation_checkpointing_trains_the_same_adapter(backbone: Backbone, batches: Batches) -> None:
    plain, losses = run(backbone, batches, SPEC, None)
    saving, same_losses = run(backbone, batches, replace(SPEC, gradient_checkpointing=True), None)
    assert losses == same_losses
    assert same(plain.adapter, saving.adapter)


def test_dpo_with_activation_checkpointing_recomputes_the_policy_and_not_the_reference(
    backbone: Backbone, batches: Batches, pairs: Callable[[int], PreferenceBatch]
) -> None:
    merged = run(backbone, batches, SPEC, None)[0].adapter
    dpo = Dpo(LoraSpec(rank=4, alpha=4.0, dropout=0.2), [FrozenAdapter(merged)])
    spec = TrainSpec(steps=3, learning_rate=1e-2)
    plain = train(backbone, dpo, pairs, spec, None)
    saving = train(backbone, dpo, pairs, replace(spec, gradient_checkpointing=True), None)
    assert same(plain.adapter, saving.adapter)
    assert any(value.abs().sum() > 0 for key, value in plain.adapter.state.items() if "lora_B" in key)


def test_one_batch_can_be_overfitted(backbone: Backbone, batches: Batches) -> None:
    fixed = batches(0)
    lora = LoraSpec(rank=16, alpha=16.0, targets=("to_q", "to_k", "to_v", "to_out.0", "proj", "ff.net.2", "proj_out"))
    losses: list[float] = []
    spec = TrainSpec(steps=100, learning_rate=1e-2)
    train(backbone, Sft(lora), lambda _: fixed, spec, None, lambda _, metrics: losses.append(metrics["loss"]))
    # The base is random and frozen, so the adapter can only go part of the way.
    assert losses[-1] < 0.85 * losses[0]


def test_dpo_learns_to_prefer_the_winner(
    backbone: Backbone, batches: Batches, pairs: Callable[[int], PreferenceBatch]
) -> None:
    merged = run(backbone, batches, SPEC, None)[0].adapter
    fixed = pairs(0)
    seen: list[dict[str, float]] = []
    dpo = Dpo(LoraSpec(rank=8, alpha=8.0), [FrozenAdapter(merged)])
    train(backbone, dpo, lambda _: fixed, TrainSpec(steps=20, learning_rate=3e-3), None, lambda _, m: seen.append(m))
    assert abs(seen[0]["loss"] - math.log(2)) < 1e-6
    assert seen[-1]["loss"] < 0.5 * seen[0]["loss"]
    assert seen[-1]["accuracy"] == 1.0


def test_a_rising_winner_error_ends_the_run_and_stays_ended(
    backbone: Backbone, batches: Batches, pairs: Callable[[int], PreferenceBatch], tmp_path: Path
) -> None:
    merged = run(backbone, batches, SPEC, None)[0].adapter
    dpo = Dpo(LoraSpec(rank=4, alpha=4.0), [FrozenAdapter(merged)])
    # Any drift at all above -1 counts here, so the rule must fire as soon as its window of 3 is full.
    spec = TrainSpec(steps=9, stop_rules=(StopRule("winner_drift", above=-1.0, window=3),))
    stopped = train(backbone, dpo, pairs, spec, tmp_path)
    assert stopped.step == 3
    assert stopped.stopped is not None
    assert "winner_drift averaged" in stopped.stopped
    again = train(backbone, dpo, pairs, spec, tmp_path)
    assert (again.step, again.stopped) == (3, stopped.stopped)


def test_a_stop_rule_on_a_metric_that_is_not_logged_is_refused(backbone: Backbone, batches: Batches) -> None:
    spec = TrainSpec(steps=2, stop_rules=(StopRule("winner_drift", above=0.0),))
    with pytest.raises(ValueError, match="unknown metric 'winner_drift'"):
        train(backbone, SFT, batches, spec, None)


def test_a_loss_that_is_not_finite_steps_nothing_and_then_stops_by_name(backbone: Backbone, batches: Batches) -> None:
    def poisoned(index: int) -> Batch:
        good = batches(index)
        return good if index == 0 else replace(good, latents_BCFHW=torch.full_like(good.latents_BCFHW, math.nan))

    seen: list[dict[str, float]] = []
    spec = TrainSpec(steps=5, max_nonfinite=2)
    with pytest.raises(NonFiniteLoss, match=r"step 4: loss nan.*3 in a row, 2 allowed.*samples a, b"):
        train(backbone, SFT, poisoned, spec, None, lambda _, metrics: seen.append(metrics))
    assert [metrics["skipped"] for metrics in seen] == [0.0, 1.0, 1.0]
    only_first = train(backbone, SFT, poisoned, replace(spec, steps=1), None).adapter
    skipped = train(backbone, SFT, poisoned, replace(spec, steps=3), None).adapter
    assert same(only_first, skipped)


def test_gradients_are_clipped_once_per_optimiser_step(
    backbone: Backbone, batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms: list[float] = []
    clip = torch.nn.utils.clip_grad_norm_

    def spy(parameters: object, max_norm: float) -> Tensor:
        norms.append(max_norm)
        return clip(parameters, max_norm)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", spy)
    train(backbone, SFT, batches, TrainSpec(steps=3, accumulate=4, max_grad_norm=0.5), None)
    assert norms == [0.5] * 3


def test_the_learning_rate_warms_up_and_falls_along_a_cosine() -> None:
    spec = TrainSpec(steps=10, learning_rate=1.0, schedule="cosine", warmup=2)
    assert [spec.rate(step) for step in (0, 1, 2)] == [0.5, 1.0, 1.0]
    assert spec.rate(6) == pytest.approx(0.5)  # half-way through the 8 steps after the warm-up
    assert spec.rate(10) == pytest.approx(0.0)
    assert TrainSpec(steps=10, learning_rate=1.0, warmup=4).rate(9) == 1.0


def test_a_checkpoint_says_what_it_belongs_to_without_pickle(
    undisturbed: tuple[TrainResult, dict[int, tuple[float, float]]], tmp_path: Path
) -> None:
    newest = tmp_path / "undisturbed" / "step_00000006"
    assert sorted(path.name for path in newest.iterdir()) == [
        "adapter.safetensors",
        "ema.safetensors",
        "manifest.json",
        "optimizer.safetensors",
        "state.json",
    ]
    state = json.loads((newest / "state.json").read_text())
    assert state["identity"]["method"]["method"] == "sft"
    assert state["identity"]["train"]["warmup"] == 2
