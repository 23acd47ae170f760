"""Every system of the comparison as a function from films and a work folder to what it cost and what it made."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.curation import data_juicer_way, script_way
from benchmarks.curation.account import Cost, account
from benchmarks.curation.footage import Film

ROOT = Path(__file__).resolve().parents[2]
# One thread for each process of every system: throughput comes from processes, and CPU seconds stay comparable.
THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
ANSWERS = "review_clips.reviewer=script:rules"
PICTURES = 3  # of a clip, for CLIP
CRF = script_way.CRF  # ours encodes better than the usual script by default, which would be another job


@dataclass(frozen=True)
class Tools:
    """What the systems need: weights of the one CLIP in two layouts, and the peers' environments (None: left out)."""

    clip: Path
    clip_transformers: Path
    data_juicer: Path | None
    nemo: Path | None


@dataclass(frozen=True)
class Result:
    """``parts``: CPU seconds of the steps that ran apart. ``made``: counts that show the work was done."""

    cost: Cost
    parts: dict[str, float]
    made: dict[str, float]


System = Callable[[Sequence[Film], Path, Tools], Result]


def _python(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def _numbers(text: str) -> dict[str, float]:
    return {name: float(value) for name, value in re.findall(r"(\w+) (\d+)\b", text.strip().splitlines()[-1])}


def decode(films: Sequence[Film], work: Path, tools: Tools) -> Result:
    cost, text = account(_python("benchmarks.curation.decode_way", *(f.path for f in films)), env=THREADS, cwd=ROOT)
    return Result(cost, {}, _numbers(text))


def decode_in_company(films: Sequence[Film], work: Path, tools: Tools) -> Result:
    """Bare decoding twice at once, as two workers would; the cost of one of them. Virtual cores may slow each other down."""
    command = _python("benchmarks.curation.decode_way", *(f.path for f in films))
    both = ["sh", "-c", '"$@" & "$@" && wait $!', "sh", *command]
    cost, text = account(both, env=THREADS, cwd=ROOT)
    return Result(Cost(cost.cpu_s / 2, cost.wall_s, cost.peak_gib / 2), {}, _numbers(text))


def analyze(films: Sequence[Film], work: Path, tools: Tools) -> Result:
    cost, text = account(_python("benchmarks.curation.analyze_way", *(f.path for f in films)), env=THREADS, cwd=ROOT)
    return Result(cost, {}, _numbers(text))


def encode(films: Sequence[Film], work: Path, tools: Tools) -> Result:
    """Every frame decoded and encoded once, as the export does it, in one process that does nothing else."""
    out = str(work / "clip.mp4")
    command = _python("benchmarks.curation.parts_way", "encode", out, str(CRF), *(f.path for f in films))
    cost, text = account(command, env=THREADS, cwd=ROOT)
    return Result(cost, {}, _numbers(text))


def _tower(films: Sequence[Film], tools: Tools, precision: str) -> Result:
    count = PICTURES * sum(f.shots for f in films)
    command = _python("benchmarks.curation.parts_way", "tower", str(tools.clip), precision, str(count))
    cost, text = account(command, env=THREADS, cwd=ROOT)
    return Result(cost, {}, _numbers(text))


def tower_fp32(films: Sequence[Film], work: Path, tools: Tools) -> Result:
    """As many pictures as the films' shots have key frames through CLIP's image tower, in one process."""
    return _tower(films, tools, "fp32")


def tower_bf16(films: Sequence[Film], work: Path, tools: Tools) -> Result:
    return _tower(films, tools, "bf16")


def _curate(films: Sequence[Film], work: Path, tools: Tools, precision: str, *settings: str) -> Result:
    with open(work / "films.csv", "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("path", "caption"))
        rows.writerows((f.path, f.caption) for f in films)
    chosen = [ANSWERS, "embed.encoder.model=ViT-B-32", f"embed.encoder.weights={tools.clip}",
              f"embed.encoder.precision={precision}", f"export.crf={CRF}", *settings]  # fmt: skip
    command = _python("fulcrum", "run", "curate", "--source", str(work / "films.csv"), "--store", str(work / "store"))
    cost, _ = account([*command, *(word for s in chosen for word in ("--set", s))], env=THREADS, cwd=ROOT)
    return Result(cost, {}, _made(work / "store"))


def _made(store: Path) -> dict[str, float]:
    import subprocess

    import pyarrow.dataset as pads

    told = json.loads(
        subprocess.run(
            _python("fulcrum", "status", "--store", str(store), "--json"), cwd=ROOT, check=True, capture_output=True
        ).stdout
    )
    outputs = {s["name"]: s["outputs"] for s in told["stages"]}
    rows = {
        name: pads.dataset(outputs[stage][name].removeprefix("file://"), format="parquet").count_rows()
        for stage, name in (("clips", "clips"), ("embed", "embeddings"), ("export", "subset"))
    }
    seconds = {f"seconds_{s['name']}": float(s["seconds"]) for s in told["stages"] if s["seconds"]}
    return {**rows, **seconds}


def fulcrum_fp32(films: Sequence[Film], work: Path, tools: Tools) -> Result:
    return _curate(films, work, tools, "fp32")


def fulcrum_bf16(films: Sequence[Film], work: Path, tools: Tools) -> Result:
    return _curate(films, work, tools, "bf16")


def fulcrum_every_clip(films: Sequence[Film], work: Path, tools: Tools) -> Result:
    """No rule and no dedupe: every clip is embedded, kept, cut and encoded, as the peers do."""
    from stages.curation.default_rules import DEFAULT_RULES

    off = [f"select.rules.{rule.name}=null" for rule in DEFAULT_RULES]
    return _curate(films, work, tools, "fp32", *off, "dedupe.exact=false", "dedupe.near.enabled=false",
                   "dedupe.semantic=null")  # fmt: skip


def fulcrum_tenth(films: Sequence[Film], work: Path, tools: Tools) -> Result:
    """One rule more, which keeps a tenth by motion: what curation pays where little survives."""
    return _curate(films, work, tools, "fp32", "select.rules.brisk={column: motion_top, quantile: {lower: 0.9}}")


def script(films: Sequence[Film], work: Path, tools: Tools) -> Result:
    (work / "films.json").write_text(json.dumps([asdict(f) for f in films]), encoding="utf-8")
    costs: dict[str, Cost] = {}
    for step in script_way.STEPS:
        extra = [str(tools.clip)] if step == "similarity" else []
        command = _python("benchmarks.curation.script_way", step, str(work / "films.json"), str(work), *extra)
        costs[step], _ = account(command, env=THREADS, cwd=ROOT)
    clips = json.loads((work / "clips.json").read_text(encoding="utf-8"))
    return Result(_sum(costs.values()), {k: c.cpu_s for k, c in costs.items()}, {"clips": len(clips)})


def data_juicer(films: Sequence[Film], work: Path, tools: Tools) -> Result:
    assert tools.data_juicer is not None
    recipe = data_juicer_way.recipe(films, work, tools.clip_transformers)
    cost, _ = account([str(tools.data_juicer / "dj-process"), "--config", str(recipe)], env=THREADS, cwd=work)
    return Result(cost, {}, {k: float(v) for k, v in data_juicer_way.scored(work).items()})


def nemo(films: Sequence[Film], work: Path, tools: Tools) -> Result:
    assert tools.nemo is not None
    (work / "films.json").write_text(json.dumps([asdict(f) for f in films]), encoding="utf-8")
    shim = work / "shim"
    shim.mkdir()
    shutil.copy(Path(__file__).with_name("ffmpeg_shim.sh"), shim / "ffmpeg")
    real = shutil.which("ffmpeg")
    env = {**THREADS, "PATH": f"{shim}:{os.environ['PATH']}", "REAL_FFMPEG": str(real)}
    script_file = Path(__file__).with_name("nemo_way.py")
    cost, text = account([str(tools.nemo / "python"), str(script_file), str(work / "films.json")], env=env, cwd=ROOT)
    return Result(cost, {}, _numbers(text))


def _sum(costs: object) -> Cost:
    found = list(costs)  # type: ignore[call-overload]
    return Cost(sum(c.cpu_s for c in found), sum(c.wall_s for c in found), max(c.peak_gib for c in found))


SYSTEMS: dict[str, System] = {
    "decode": decode,
    "decode_in_company": decode_in_company,
    "analyze": analyze,
    "encode": encode,
    "tower_fp32": tower_fp32,
    "tower_bf16": tower_bf16,
    "fulcrum_fp32": fulcrum_fp32,
    "fulcrum_bf16": fulcrum_bf16,
    "fulcrum_every_clip_fp32": fulcrum_every_clip,
    "fulcrum_tenth_fp32": fulcrum_tenth,
    "script": script,
    "nemo": nemo,
    "data_juicer": data_juicer,
}

# What runs our packages: its results are those of their code.
OURS = tuple(name for name in SYSTEMS if name.startswith(("fulcrum", "analyze", "encode", "tower")))
