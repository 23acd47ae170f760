"""Builds the models of ``models/embedded``: ``python -m tinyworld.train [codec] [oracles] [encoder] [base]``.

Every step takes up what an interrupted one left in the work folder; the base needs the codec, the oracles need it too,
and the base's card needs the oracles. Each builder says whether its model is finished: before that nothing is written.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import torch

from models import embedded
from models.backbones.linear_codec import LinearVideoCodec
from models.scorers.clip_tower import ClipTower, EncoderSpec, load_head
from tinyworld.oracles import Oracles
from tinyworld.sheet import samples_sheet
from tinyworld.train import base, cards, codec, encoder, measure, oracles
from tinyworld.train.stock import Stock

FIXED = "measure"
"""The purpose of the scenes that were fixed before training."""


def quality(files: dict[str, str], ask: Callable[[str], dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The same measurement under the fixed purpose and under one that the finished weights decide."""
    later = max(digest for name, digest in files.items() if name.endswith(".safetensors"))
    return {"fixed": ask(FIXED), "later": ask(f"later-{later[:16]}")}


def build_codec(work: Path, out: Path, until: int | None, device: str) -> bool:
    import time

    clock = time.process_time()
    codec.fit().save_pretrained(work / "codec")
    spent = time.process_time() - clock
    shutil.copytree(work / "codec", out / "base" / "vae", dirs_exist_ok=True)
    fitted = LinearVideoCodec.from_pretrained(out / "base" / "vae")
    files = cards.files_of(out, ["base/vae"])
    cards.write_card(
        out,
        "codec",
        about="Principal components of patches of 4 frames x 4 x 4 pixels in 48 channels, behind the interface of diffusers' "
        "CogVideoX VAE (`models/backbones/linear_codec.py`). It stands in for a convolutional VAE: in a trial at 24 pixels "
        "it reconstructed better than one that had trained for minutes. It knows pictures of the rendered world only.",
        files=files,
        recipe={"clips": codec.CLIPS, "channels": codec.CHANNELS, "subject weight": codec.SUBJECT_WEIGHT},
        cpu_seconds=spent,
        quality=quality(files, lambda purpose: measure.codec_quality(fitted, purpose)),
        tolerance="0.1 dB",
    )
    return True


def build_base(work: Path, out: Path, until: int | None, device: str) -> bool:
    fitted = LinearVideoCodec.from_pretrained(out / "base" / "vae")
    recipe = base.BaseRecipe()
    trainer = base.Trainer(work / "base", recipe, fitted, Stock(work / "clips.npz"), device)
    for step, loss in trainer.run(until=until):
        print(f"base: step {step} of {recipe.steps}, loss {loss:.4f}, {trainer.seconds:.0f} CPU s", flush=True)
    if trainer.step < recipe.steps:
        return False
    trainer.export(out / "base")
    card_of_base(out, recipe, trainer.step, trainer.seconds, device)
    write_samples(out, work / "samples.jpg")
    return True


def card_of_base(out: Path, recipe: base.BaseRecipe, done: int, seconds: float, device: str = "cpu") -> None:
    backbone, judge = base.open_base(out / "base"), Oracles(out / "oracles")
    files = cards.files_of(out, ["base/transformer", "base/text_encoder", "base/tokenizer", "base/scheduler"])
    cards.write_card(
        out,
        "base",
        about="diffusers' CogVideoXTransformer3DModel (5 layers, 4 heads of 32) with a one-layer T5 of transformers, trained "
        "together by v-prediction on rendered clips of 24 x 24 pixels and 9 frames of training identities, from captions "
        "and, in a fifth of the batches, from a caption and a still of the same shot. It has not seen a reference picture "
        "of a subject. Words that captions do not use start at zero and stay there. Made for `fulcrum run demo` and for "
        "experiments in miniature; it knows nothing of the real world.",
        files=files,
        recipe={**asdict(recipe), "steps done": done},
        cpu_seconds=seconds,
        quality=quality(files, lambda purpose: measure.base_quality(backbone, judge, purpose)),
        tolerance="0.1 on each share; another processor rounds otherwise, and sampling amplifies it",
        device=device,
    )


def write_samples(out: Path, picture: Path, count: int = 24) -> None:
    """Samples of captions in turn, none chosen, as a picture to look at."""
    asked = [text for _, _, _, text in measure.ask("samples", count)]
    videos = measure.sampled(base.open_base(out / "base"), asked)
    note = f"The first {count} of one list, none left out: {measure.STEPS} steps, text guidance {measure.SCALE:g}, no reference."
    samples_sheet(list(zip(videos, asked, strict=True)), note, picture)
    print(f"base: {picture} shows samples")


def build_oracles(work: Path, out: Path, until: int | None, device: str) -> bool:
    fitted = LinearVideoCodec.from_pretrained(out / "base" / "vae")
    recipe = oracles.OracleRecipe()
    step, seconds = 0, 0.0
    for step, loss, seconds in oracles.train(
        work / "oracles", recipe, Stock(work / "clips.npz"), fitted, out / "oracles", until, device
    ):
        print(f"oracles: step {step} of {recipe.steps}, loss {loss:.3f}, {seconds:.0f} CPU s", flush=True)
    if step < recipe.steps:
        return False
    judge, files = Oracles(out / "oracles"), cards.files_of(out, ["oracles"])
    cards.write_card(
        out,
        "oracles",
        about="One small convolutional network over clips of 24 x 24 pixels and 9 frames (`tinyworld/oracles.py`): background, "
        "motion, the four attributes of the subject, where the subject is (from which travel and growth follow in closed form) "
        "and how disturbed the picture is. A third of its training clips went through the codec, a third were disturbed.",
        files=files,
        recipe={**asdict(recipe), "steps done": step},
        cpu_seconds=seconds,
        quality=quality(files, lambda purpose: measure.oracle_quality(judge, fitted, purpose)),
        tolerance="0.05 on each share",
        device=device,
    )
    return True


def build_encoder(work: Path, out: Path, until: int | None, device: str) -> bool:
    recipe = encoder.EncoderRecipe()
    step, seconds = 0, 0.0
    for step, parts, seconds in encoder.train(work / "encoder", recipe, out / "encoder", until, device):
        told = ", ".join(f"{name} {value:.3f}" for name, value in parts.items())
        print(f"encoder: step {step} of {recipe.steps}, {told}, {seconds:.0f} CPU s", flush=True)
    if step < recipe.steps:
        return False
    tower = ClipTower(EncoderSpec(model=f"local-dir:{out / 'encoder'}"))
    head, files = load_head(out / "encoder" / "aesthetic_head.safetensors"), cards.files_of(out, ["encoder"])
    cards.write_card(
        out,
        "encoder",
        about="open_clip's CLIP class with a small ModifiedResNet and text transformer, loaded by open_clip's `local-dir:`, and a "
        "linear aesthetic head in LAION's form. One image tower serves whole frames (captions) and masked crops (identity). "
        "A frame cannot show motion, so captions that differ in motion alone are not told apart.",
        files=files,
        recipe={**asdict(recipe), "steps done": step},
        cpu_seconds=seconds,
        quality=quality(files, lambda purpose: measure.encoder_quality(tower, head, purpose)),
        tolerance="0.05 on each share",
        device=device,
    )
    return True


BUILDERS = {"codec": build_codec, "oracles": build_oracles, "base": build_base, "encoder": build_encoder}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tinyworld.train", description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(BUILDERS)}; default: all")
    parser.add_argument("--work", type=Path, default=Path("build/embedded"), help="checkpoints and stocks of pictures")
    parser.add_argument("--out", type=Path, default=embedded.FOLDER, help="where finished models go")
    parser.add_argument("--until", type=int, help="stop one model's training at this step; a later call goes on")
    parser.add_argument("--device", help="cpu or cuda; by default a GPU where there is one")
    chosen = parser.parse_args()
    unknown = [name for name in chosen.models if name not in BUILDERS]
    if unknown:
        parser.error(f"there is no model {', '.join(unknown)}; choose of {', '.join(BUILDERS)}")
    if chosen.until is not None and len(chosen.models) != 1:
        parser.error("--until needs exactly one MODEL")
    device = chosen.device or ("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    for name in chosen.models or BUILDERS:
        done = BUILDERS[name](chosen.work, chosen.out, chosen.until, device)
        print(
            f"{name}: {chosen.out / name}.md says what it can do"
            if done
            else f"{name}: trained in part; go on without --until"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
