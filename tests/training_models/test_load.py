"""Naming, digesting and loading a backbone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.backbones.base import Backbone
from models.backbones.load import BackboneSpec, backbone_digest, load_backbone

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny"
    load_backbone(BackboneSpec(seed=5)).pipeline().save_pretrained(path)
    return path


def test_the_digest_is_known_without_importing_torch() -> None:
    code = f"""
import sys
sys.path.insert(0, {str(REPOSITORY)!r})
from models.backbones.load import BackboneSpec, backbone_digest
print(backbone_digest(BackboneSpec()))
assert "torch" not in sys.modules and "diffusers" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == backbone_digest(BackboneSpec()), done.stderr


def test_the_digest_tells_seeds_and_dtypes_apart() -> None:
    specs = [BackboneSpec(), BackboneSpec(seed=1), BackboneSpec(dtype="bfloat16")]
    assert len({backbone_digest(spec) for spec in specs}) == 3


def test_where_references_stand_makes_another_model_and_needs_no_other_cache() -> None:
    after, before = BackboneSpec(), BackboneSpec(references="before", reference_gap=2.0)
    assert load_backbone(before).placement.time(1, 5) == -4.0
    assert backbone_digest(after) != backbone_digest(before)
    assert backbone_digest(after, ("vae",)) == backbone_digest(before, ("vae",))


def test_the_digest_of_parts_follows_these_parts_alone(folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    spec, parts = BackboneSpec(weights=str(moved)), ("vae", "transformer/config.json")
    before, weights = backbone_digest(spec, parts), moved / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes() + b"other weights")
    assert backbone_digest(spec, parts) == before
    config = moved / "transformer" / "config.json"
    told = json.loads(config.read_text())
    config.write_text(json.dumps({**told, "_name_or_path": "/somewhere/else", "_diffusers_version": "0.0.1"}))
    assert backbone_digest(spec, parts) == before
    config.write_text(json.dumps({**told, "num_layers": told["num_layers"] + 1}))
    assert backbone_digest(spec, parts) != before
    config.write_text("{")
    with pytest.raises(ValueError, match=r"config.json cannot be read: "):
        backbone_digest(spec, parts)


def test_a_folder_of_another_known_family_says_which(tmp_path: Path) -> None:
    load_backbone(BackboneSpec("wan")).pipeline().save_pretrained(tmp_path / "wan")
    with pytest.raises(ValueError, match=r"holds a WanTransformer3DModel.*set family: wan"):
        load_backbone(BackboneSpec(weights=str(tmp_path / "wan")))
    assert load_backbone(BackboneSpec("wan", str(tmp_path / "wan"))).latent_channels == 4


def test_the_digest_of_a_folder_follows_its_content_and_not_its_place(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    moved = tmp_path / "elsewhere"
    shutil.copytree(folder, moved)
    before = backbone_digest(BackboneSpec(weights=str(folder)))
    assert backbone_digest(BackboneSpec(weights=str(moved))) == before
    (moved / "scheduler" / "scheduler_config.json").write_text("{}")
    assert backbone_digest(BackboneSpec(weights=str(moved))) != before


def test_the_hash_of_a_large_file_is_remembered_until_the_file_changes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    moved = tmp_path / "elsewhere"
    shutil.copytree(folder, moved)
    large = moved / "vae" / "large.bin"
    large.write_bytes(b"a" * (2 << 20))
    spec = BackboneSpec(weights=str(moved))
    first = backbone_digest(spec)
    assert "large.bin" in (tmp_path / "cache" / "fulcrum" / "weight_digests.json").read_text()
    assert backbone_digest(spec) == first
    large.write_bytes(b"b" * (2 << 20) + b"c")
    assert backbone_digest(spec) != first


def test_a_saved_pipeline_folder_is_the_same_model(folder: Path, randn: Callable[..., Tensor], text: Tensor) -> None:
    saved, original = load_backbone(BackboneSpec(weights=str(folder))), load_backbone(BackboneSpec(seed=5))
    x, t = randn(0, 2, 4, 2, 8, 8), torch.tensor([3, 700])
    assert torch.equal(saved.predict(x, t, text), original.predict(x, t, text))
    assert torch.equal(saved.encode_text(["a dog"]), original.encode_text(["a dog"]))
    assert "sha256:" in saved.weights_note


def test_random_weights_are_a_function_of_the_seed_and_leave_the_global_generator_alone(
    randn: Callable[..., Tensor], text: Tensor
) -> None:
    before = torch.get_rng_state()
    models = [load_backbone(BackboneSpec(seed=seed)) for seed in (3, 3, 4)]
    x, t = randn(0, 2, 4, 1, 8, 8), torch.tensor([3, 700])
    first, again, other = (model.predict(x, t, text) for model in models)
    _ = models[0].vae
    models[0].encode_text(["a dog"])
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_bfloat16_runs_and_stays_close(backbone: Backbone, randn: Callable[..., Tensor], text: Tensor) -> None:
    half = load_backbone(BackboneSpec(dtype="bfloat16"))
    x, t, references = randn(0, 2, 4, 2, 8, 8), torch.tensor([3, 700]), randn(1, 2, 1, 4, 8, 8)
    whole = backbone.predict(x, t, text, references)
    prediction = half.predict(x, t, text, references)
    assert prediction.dtype == torch.bfloat16
    # bfloat16 keeps 8 bits: a relative error of a few 2^-8 after two blocks
    assert (prediction.float() - whole).abs().max() < 0.03 * whole.abs().max()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (BackboneSpec(family="cogvideo"), "did you mean 'cogvideox'"),
        (BackboneSpec(dtype="bf16"), "did you mean 'bfloat16'"),
        (BackboneSpec(weights="/nowhere/cogvideox-5b"), "no such folder.*tiny-random"),
    ],
)
def test_what_is_unknown_is_named_with_the_remedy(spec: BackboneSpec, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_backbone(spec)


def test_a_folder_without_the_parts_says_which_are_missing(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    shutil.rmtree(broken / "vae")
    with pytest.raises(ValueError, match="vae missing"):
        load_backbone(BackboneSpec(weights=str(broken)))


def test_a_folder_of_another_family_is_refused(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    config = other / "transformer" / "config.json"
    config.write_text(config.read_text().replace("CogVideoXTransformer3DModel", "WanTransformer3DModel"))
    with pytest.raises(ValueError, match="WanTransformer3DModel"):
        load_backbone(BackboneSpec(weights=str(other)))


def test_a_scheduler_that_does_not_predict_v_is_refused(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    config = other / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace("v_prediction", "epsilon"))
    with pytest.raises(ValueError, match="v_prediction"):
        _ = load_backbone(BackboneSpec(weights=str(other))).num_train_timesteps


def test_offsets_are_refused_by_the_configuration_alone(tmp_path: Path) -> None:
    code = f"""
import sys
sys.path.insert(0, {str(REPOSITORY)!r})
from stages.training.offsets import SweepOffsetsParams
from stages.training.params import BackboneParams
from stages.training.preferences import ConsisParams
for weights in ("tiny-random", "tiny-random:1.5", {str(tmp_path / "five")!r}, {str(tmp_path / "absent")!r}):
    ConsisParams(backbone=BackboneParams(weights=weights))
for weights in ("tiny-random:2b", {str(tmp_path / "two")!r}):
    for params in (ConsisParams, SweepOffsetsParams):
        try:
            params(backbone=BackboneParams(weights=weights))
        except ValueError as error:
            assert "no RoPE to offset and Consis-DPO cannot make its losers" in str(error)
        else:
            raise AssertionError(weights)
ConsisParams(backbone=BackboneParams(family="wan"))
assert "torch" not in sys.modules and "diffusers" not in sys.modules
"""
    for name, rotary in (("five", True), ("two", False)):
        (tmp_path / name / "transformer").mkdir(parents=True)
        config = {"_class_name": "CogVideoXTransformer3DModel", "use_rotary_positional_embeddings": rotary}
        (tmp_path / name / "transformer" / "config.json").write_text(json.dumps(config))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
