"""models/compat.py: torchvision is importable wherever it is installed, and untouched where its operators load."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def run_python(code: str, *path: Path) -> str:
    """Runs ``code`` in a fresh process: operators, once defined, cannot be taken back in this one."""
    prefix = f"import sys; sys.path[:0] = {[str(p) for p in (*path, REPOSITORY)]!r}\n"
    done = subprocess.run([sys.executable, "-c", prefix + code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def test_every_package_that_pulls_torchvision_imports_after_prepare_and_missing_kernels_say_so() -> None:
    code = """
from models.compat import prepare
first = prepare()
import torch, torchvision, peft, open_clip, transformers
from torchvision.transforms import v2
from diffusers import CogVideoXPipeline, CogVideoXTransformer3DModel, AutoencoderKLCogVideoX
from transformers import T5EncoderModel, CLIPModel
assert prepare() is first, "a second call must change nothing"
try:
    kept = torchvision.ops.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([0.5]), 0.5)
    print(first.value, kept.tolist())
except RuntimeError as error:
    print(first.value, "custom C++ ops" in str(error))
"""
    assert run_python(code) in {"native [0]", "schemas True"}


def test_nothing_is_defined_where_the_compiled_library_loads(tmp_path: Path) -> None:
    # A stand-in torchvision whose _C is a shared library that opens here: the native case as prepare() sees it.
    import importlib.machinery

    torch_lib = Path(__import__("torch").__file__).parent / "lib"
    opens = next((p for p in sorted(torch_lib.glob("libtorch_global_deps*")) if p.suffix in {".so", ".dylib"}), None)
    if opens is None:
        pytest.skip("this torch ships no small shared library to stand in for torchvision's")
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("")
    shutil.copy(opens, package / f"_C{importlib.machinery.EXTENSION_SUFFIXES[-1]}")
    code = """
from models.compat import prepare
import torch
print(prepare().value, hasattr(torch.ops.torchvision, "nms"))
"""
    assert run_python(code, tmp_path) == "native False"


def test_operators_that_are_already_defined_are_left_alone() -> None:
    code = """
import torch
library = torch.library.Library("torchvision", "DEF")
library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
from models.compat import prepare
print(prepare().value, hasattr(torch.ops.torchvision, "qnms"))
"""
    assert run_python(code) == "native False"


def test_a_machine_without_torchvision_is_told_so() -> None:
    code = """
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "torchvision" else find(name, *rest)
from models.compat import prepare
print(prepare().value)
"""
    assert run_python(code) == "absent"


def test_training_needs_torch_diffusers_peft_numpy_and_safetensors_alone() -> None:
    # What a bare GPU machine lacks cannot be imported here; then real steps run, with their budget and their report.
    code = """
import importlib, pkgutil
LACKS = {"ray", "mlflow", "pyarrow", "pydantic", "duckdb", "av", "cv2", "fastapi", "sqlalchemy", "open_clip", "typer"}
from importlib.machinery import PathFinder
class Bare(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in LACKS else PathFinder.find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(PathFinder)] = Bare
from models.compat import prepare
prepare()
import models.backbones, models.metrics, models.training
for package in (models.backbones, models.training, models.metrics):
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
from benchmarks.training.gpu import main
from benchmarks.training.turn import run
found = main(["--models", "tiny-wan", "--steps", "2", "--rounds", "1"], runner=run)
import torch
if not torch.cuda.is_available():
    assert [r["hfu"] for r in found["rows"]] == [None, None, None]
assert all(r["step_s"] > 0 and r["foretold"]["flops"] > r["foretold"]["model_flops"] > 0 for r in found["rows"])
print(sorted(found["dpo_over_sft"]))
"""
    assert run_python(code).splitlines()[-1] == "['tiny-wan']"
