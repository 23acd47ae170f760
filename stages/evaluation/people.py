"""People beside the metrics: campaigns from systems' samples, what people said in them, and which metrics agree with them."""

from __future__ import annotations

import itertools
import json
import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq

from data_schemas.ids import short_hash
from data_schemas.tables import DECISIONS
from models.statistics.correlation import spearman
from models.statistics.paired import sign_flip_test
from models.statistics.preference import gsb
from models.statistics.resample import Estimate, estimate, ratio
from stages.contract import StageError
from stages.subjects.locate import in_folder

PeopleForm = Literal["compare", "likert"]
Row = Mapping[str, Any]
VOTES = {"a": 1.0, "same": 0.0, "b": -1.0}  # "both bad" is no tie and belongs to none of the three


def pair_id(prompt_id: str, seed: int, a: str, b: str) -> str:
    """What a pair of videos is called in a campaign: it names no system, and whoever has the samples finds it again."""
    return short_hash("compare", prompt_id, seed, a, b)


def video_id(prompt_id: str, seed: int, system: str) -> str:
    return short_hash("likert", prompt_id, seed, system)


def campaign_items(
    samples: Sequence[Row], videos: Path, form: PeopleForm, systems: Sequence[str], out: Path, seeds: int = 1
) -> tuple[int, list[str]]:
    """Write ``items.jsonl`` with its media into ``out``, as ``fulcrum review create`` reads it; returns how many items, and
    what was left out and why.

    ``compare`` makes an item for each two systems, prompt and seed, ``likert`` one for each video. Of each prompt the first
    ``seeds`` seeds are taken. Where one video is not WebM all are encoded anew alike, so that no codec tells a system.
    ``StageError`` for systems that are not there.
    """
    known = list(dict.fromkeys(s["system"] for s in samples))
    strange = [s for s in systems if s not in known]
    if strange or len(systems) < (2 if form == "compare" else 1):
        need = "two or more" if form == "compare" else "one or more"
        raise StageError(
            f"{form} needs {need} of the systems {', '.join(known)}; given: {', '.join(systems) or 'none'}"
        )
    by_key = {(s["prompt_id"], s["seed"], s["system"]): s for s in samples if s["system"] in systems}
    wanted = {}
    for prompt in sorted({p for p, _, _ in by_key}):
        for seed in sorted({s for p, s, _ in by_key if p == prompt})[:seeds]:
            wanted[prompt, seed] = [by_key.get((prompt, seed, system)) for system in systems]
    media = _Media(
        videos, out, [s for found in wanted.values() for s in found if s is not None and s["status"] == "ok"]
    )
    lines, left_out = [], []
    for (prompt, seed), found in wanted.items():
        groups = itertools.combinations(zip(systems, found, strict=True), 2 if form == "compare" else 1)
        for group in groups:
            lost = [name for name, s in group if s is None or s["status"] != "ok"]
            if lost:
                who = " and ".join(name for name, _ in group)
                left_out.append(f"{prompt}, seed {seed}, {who}: no video of {' and '.join(lost)}")
                continue
            rows = [s for _, s in group if s is not None]
            line: dict[str, Any] = {"text": rows[0]["prompt"], "prompt_id": prompt, **media.references(rows[0], form)}
            if form == "compare":
                (a, one), (b, other) = ((name, media.video(s)) for (name, _), s in zip(group, rows, strict=True))
                line |= {"external_id": pair_id(prompt, seed, a, b), "a": one, "b": other, "systems": [a, b]}
            else:
                name = group[0][0]
                line |= {"external_id": video_id(prompt, seed, name), "media": media.video(rows[0]), "system": name}
            lines.append(line)
    if not lines:
        raise StageError(f"no item can be made: {left_out[0] if left_out else 'there are no samples'}")
    (out / "items.jsonl").write_text(
        "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8"
    )
    return len(lines), left_out


class _Media:
    """Copies of the samples under names that tell nothing."""

    def __init__(self, videos: Path, out: Path, rows: Sequence[Row]) -> None:
        self.videos, self.out = videos, out
        self.encode = any(not str(row["uri"]).endswith(".webm") for row in rows)
        (out / "media").mkdir(parents=True, exist_ok=True)

    def video(self, row: Row) -> str:
        from models.subjects.frames import clip_frames, frames_per_second
        from models.video.encode import write_video

        name = f"media/{short_hash('media', row['system'], row['prompt_id'], row['seed'])}.webm"
        source, target = in_folder(self.videos, row["uri"]), self.out / name
        if not self.encode:
            shutil.copyfile(source, target)
        elif not target.exists():
            frames, times = clip_frames(source)
            even = frames[:, : frames.shape[1] // 2 * 2, : frames.shape[2] // 2 * 2]
            write_video(even, frames_per_second(times), target, codec="libvpx-vp9", crf=18)
        return name

    def references(self, row: Row, form: PeopleForm) -> dict[str, Any]:
        from models.subjects.frames import picture, png

        names = []
        for uri in row["reference_uris"] or ([row["reference_uri"]] if row["reference_uri"] else []):
            data = in_folder(self.videos, uri).read_bytes()
            name = f"media/{short_hash('reference', uri)}.png"
            (self.out / name).write_bytes(png(picture(data, uri)))
            names.append(name)
        return {"references": names} if form == "likert" else {"reference": names[0] if names else None}


# -- what people said ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Preference:
    """What people said of one pair of systems. ``p`` is the sign-flip test's over prompts, whose votes are not independent."""

    a: str
    b: str
    good: int
    same: int
    bad: int
    both_bad: int
    gsb: Estimate
    p: float


@dataclass(frozen=True)
class Rating:
    """Mean of one dimension for one system, 1 to 5."""

    system: str
    dimension: str
    mean: Estimate
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Agreement:
    """How a metric orders videos against how people do: Spearman's rho of ``things`` pairs or videos."""

    metric: str
    question: str
    rho: Estimate


@dataclass(frozen=True)
class Said:
    """Everything of one or more exports. ``unknown`` counts answers to items that are not of these samples."""

    preferences: tuple[Preference, ...]
    ratings: tuple[Rating, ...]
    agreement: tuple[Agreement, ...]
    people: int
    unknown: int


def read_decisions(folder: Path) -> list[dict[str, Any]]:
    """The answers of an export by ``fulcrum review export --format parquet``. ``StageError`` when it is none."""
    path = folder / "decisions.parquet"
    try:
        table = pq.read_table(path)
        DECISIONS.check_readable(table.schema, str(path))
    except (OSError, ValueError) as error:
        raise StageError(
            f"{folder} is no export of a campaign ({error}). Write one: fulcrum review export CAMPAIGN DIR --format parquet"
        ) from error
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def said(decisions: Iterable[Row], samples: Sequence[Row], measurements: Sequence[Row], *, seed: int = 0) -> Said:
    """GSB of each two systems, ratings of each, and each metric's rank correlation with both; intervals drawn by prompt.

    GSB = (Good - Bad) / (Good + Same + Bad), Good meaning that the first system's video is better.
    """
    videos = list(dict.fromkeys((s["prompt_id"], s["seed"], s["system"]) for s in samples))
    systems = list(dict.fromkeys(v[2] for v in videos))
    pairs = {
        pair_id(p, s, a, b): (p, s, a, b)
        for p, s in dict.fromkeys((p, s) for p, s, _ in videos)
        for a, b in itertools.permutations(systems, 2)
    }
    singles = {video_id(*v): v for v in videos}
    values: dict[str, dict[tuple[str, int, str], float]] = defaultdict(dict)
    for row in measurements:
        if row["value"] is not None:
            values[row["metric"]][row["prompt_id"], row["seed"], row["system"]] = row["value"]
    votes: dict[tuple[str, int, str, str], list[str]] = defaultdict(list)
    scores: dict[tuple[str, int, str], list[Mapping[str, int]]] = defaultdict(list)
    people, unknown = set(), 0
    for one in decisions:
        if one["verdict"] == "skip":
            continue
        people.add(one["reviewer"])
        if one["external_id"] in pairs:
            votes[pairs[one["external_id"]]].append(one["verdict"])
        elif one["external_id"] in singles:
            scores[singles[one["external_id"]]].append(json.loads(one["values"])["scores"])
        else:
            unknown += 1
    agreement = [*_agree_pairs(votes, values, seed), *_agree_ratings(scores, values, seed)]
    return Said(tuple(_preferences(votes, seed)), tuple(_ratings(scores, seed)), tuple(agreement), len(people), unknown)


def _preferences(votes: Mapping[tuple[str, int, str, str], list[str]], seed: int) -> list[Preference]:
    found = []
    for a, b in dict.fromkeys((a, b) for _, _, a, b in votes):
        by_prompt: dict[str, list[str]] = defaultdict(list)
        for (prompt, _, one, other), verdicts in votes.items():
            if (one, other) == (a, b):
                by_prompt[prompt] += verdicts
        count = {v: np.array([float(by_prompt[p].count(v)) for p in sorted(by_prompt)]) for v in (*VOTES, "both_bad")}
        good, same, bad, both = (int(count[v].sum()) for v in ("a", "same", "b", "both_bad"))
        ratio_ = gsb(count["a"], count["same"], count["b"], seed=seed)
        p = sign_flip_test(count["a"] - count["b"], seed=seed)
        found.append(Preference(a, b, good, same, bad, both, ratio_, p))
    return found


def _ratings(scores: Mapping[tuple[str, int, str], list[Mapping[str, int]]], seed: int) -> list[Rating]:
    given: dict[tuple[str, str], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for (prompt, _, system), answers in scores.items():
        for answer in answers:
            for dimension, score in answer.items():
                given[system, dimension][prompt].append(score)
    found = []
    for (system, dimension), by_prompt in given.items():
        total = np.array([float(sum(by_prompt[p])) for p in sorted(by_prompt)])
        count = np.array([float(len(by_prompt[p])) for p in sorted(by_prompt)])
        everything = [score for scores_ in by_prompt.values() for score in scores_]
        mean = estimate(lambda w, t=total, c=count: ratio(w @ t, w @ c), len(total), len(everything), seed=seed)  # type: ignore[misc]
        found.append(Rating(system, dimension, mean, tuple(everything.count(n) for n in range(1, 6))))
    return found


def _agree_pairs(
    votes: Mapping[tuple[str, int, str, str], list[str]],
    values: Mapping[str, Mapping[tuple[str, int, str], float]],
    seed: int,
) -> list[Agreement]:
    """Of each metric: its difference between two videos against the mean vote on them."""
    found = []
    for metric, by_video in values.items():
        x, y, prompts = [], [], []
        for (prompt, number, a, b), verdicts in votes.items():
            one, other = by_video.get((prompt, number, a)), by_video.get((prompt, number, b))
            told = [VOTES[v] for v in verdicts if v in VOTES]
            if one is not None and other is not None and told:
                x.append(one - other)
                y.append(float(np.mean(told)))
                prompts.append(prompt)
        if x:
            found.append(Agreement(metric, "preference", spearman(np.array(x), np.array(y), prompts, seed=seed)))
    return found


def _agree_ratings(
    scores: Mapping[tuple[str, int, str], list[Mapping[str, int]]],
    values: Mapping[str, Mapping[tuple[str, int, str], float]],
    seed: int,
) -> list[Agreement]:
    """Of each metric and dimension: its value against the mean rating of the video."""
    dimensions = list(dict.fromkeys(d for answers in scores.values() for answer in answers for d in answer))
    found = []
    for metric, by_video in values.items():
        shared = [video for video in scores if video in by_video]
        for dimension in dimensions if shared else []:
            rated = [v for v in shared if any(dimension in answer for answer in scores[v])]
            x = np.array([by_video[v] for v in rated])
            y = np.array([np.mean([answer[dimension] for answer in scores[v] if dimension in answer]) for v in rated])
            found.append(Agreement(metric, dimension, spearman(x, y, [v[0] for v in rated], seed=seed)))
    return found
