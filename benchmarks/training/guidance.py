"""How much longer guided sampling takes than bare sampling, by schedule: python -m benchmarks.training.guidance

The number of forwards a step is counted and the time of whole runs measured, ways in turn, on the tiny model of a family.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from models.compat import prepare


def ways() -> dict[str, Any]:
    from models.training.guidance import Guidance, Schedule

    dynamic = Guidance.dynamic(clock="share", at=0.1)
    early, late = Schedule("linear", start=5.0, end=2.0), Schedule("linear", start=1.5, end=4.0)
    return {
        "none": Guidance.none(),
        "plain": Guidance.plain(6.0),
        "dynamic": dynamic,
        "three branches, reference first": Guidance(early, late),
        "three branches, text first": Guidance(early, late, "text-first"),
        "three branches, zero latents": Guidance(early, late, null_reference="zeros"),
    }


def measure(family: str, steps: int, repeats: int) -> dict[str, dict[str, float]]:
    """The ways on the tiny model of a family, each beside unguided sampling."""
    from models.backbones.load import BackboneSpec, load_backbone

    prepare()
    torch.set_num_threads(1)
    backbone = load_backbone(BackboneSpec(family))
    side = backbone.spatial_multiple * 4
    return compare(backbone, ways(), backbone.latent_shape(9, side, side), 1, steps, repeats)


def compare(
    backbone: Any, guided: Mapping[str, Any], shape: tuple[int, int, int, int], samples: int, steps: int, repeats: int
) -> dict[str, dict[str, float]]:
    """Per way: forwards per step and sample, calls of the model per step, and its time over that of the first way.

    ``samples`` are drawn at once, each with one reference; the ways take turns ``repeats`` times.
    """
    from models.training.sampling import sample

    text = backbone.encode_text(["a red cup falls", ""])
    references = torch.randn(samples, 1, shape[0], *shape[2:], generator=torch.Generator().manual_seed(0))
    texts = text[:1].expand(samples, -1, -1)

    def run(guidance: Any) -> None:
        sample(backbone, texts, text[1:], references, shape, range(samples), steps, guidance)

    found = {
        name: _counted(backbone, lambda guidance=guidance: run(guidance), steps, samples)
        for name, guidance in guided.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(repeats):
        for name, guidance in guided.items():
            began = time.perf_counter()
            run(guidance)
            seconds[name].append(time.perf_counter() - began)
    first = next(iter(seconds.values()))
    for name, way in found.items():
        # Each against the run beside it, so that a slow moment of the machine counts for both.
        way["time_ratio"] = statistics.median(a / b for a, b in zip(seconds[name], first, strict=True))
        way["sample_s"] = statistics.median(seconds[name]) / samples
    return found


def _counted(backbone: Any, run: Callable[[], None], steps: int, samples: int) -> dict[str, float]:
    sizes: list[int] = []
    hook = backbone.transformer.register_forward_pre_hook(
        lambda _module, _args, kwargs: sizes.append(len(kwargs["hidden_states"])), with_kwargs=True
    )
    try:
        run()
    finally:
        hook.remove()
    return {"forwards_per_step": sum(sizes) / steps / samples, "calls_per_step": len(sizes) / steps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", default="cogvideox")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--no-write", action="store_true", help="print only")
    chosen = parser.parse_args()
    found = measure(chosen.family, chosen.steps, chosen.repeats)
    for name, way in found.items():
        print(
            f"{name}: {way['forwards_per_step']:.2f} forwards in {way['calls_per_step']:.2f} calls a step, "
            f"{way['time_ratio']:.2f} times the bare run"
        )
    if not chosen.no_write:
        from benchmarks.measured import write

        print(write("guidance_latency", {"family": chosen.family, "ways": found}))


if __name__ == "__main__":
    main()
