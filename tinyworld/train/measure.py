"""What the embedded models can do, on scenes that no training saw: the numbers in their cards.

Each function takes a ``purpose``: the scenes drawn under it. Cards hold two sets of numbers: under a purpose fixed before
training, and under one made from the digest of the finished weights, which nobody could have known before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from models.backbones.cogvideox import CogVideoX
from models.backbones.linear_codec import LinearVideoCodec
from models.metrics.bootstrap import bootstrap
from models.subjects.frames import png
from models.training.guidance import Guidance
from models.training.sampling import sample
from tinyworld import difficulty as d
from tinyworld.oracles import (
    CANDIDATES,
    HEADS,
    SIDE,
    UNTOLD_CHANCE,
    Oracles,
    Seen,
    attributes_right,
    distractors,
    retrieved,
    untold_right,
)
from tinyworld.shares import Share
from tinyworld.train import codec as codecs
from tinyworld.train.pictures import DEFECTS, crop_of, frame_scene, picture_of
from tinyworld.train.scenes import Clip, any_scene, render
from tinyworld.world import (
    MOTION_WORDS,
    Identity,
    caption,
    draw_identity,
    generator,
    phrase,
)

STEPS, SCALE = 16, 3.0
"""Sampling steps and text guidance of the base's samples."""


def clips_of(purpose: str, count: int, held_out: bool | None = None) -> list[Clip]:
    return [render(any_scene(seed, held_out, purpose)) for seed in range(count)]


# --- codec -----------------------------------------------------------------------------------------------------------


def round_trip(codec: LinearVideoCodec, clips: Sequence[Clip]) -> np.ndarray:
    """The clips through the codec: uint8 (N, F, H, W, 3)."""
    return codecs.from_unit(
        codec.decode(codec.encode(codecs.to_unit(c.video for c in clips)).latent_dist.mode()).sample
    )


def codec_quality(codec: LinearVideoCodec, purpose: str, count: int = 300) -> dict[str, Any]:
    """PSNR in dB over all pixels of all clips, over the subjects alone, and per clip as a mean with its interval."""
    clips = clips_of(purpose, count)
    truth = np.stack([clip.video for clip in clips]).astype(np.float64)
    error = (truth - round_trip(codec, clips)) ** 2
    masks = np.stack([clip.mask for clip in clips]) > 127
    each = 10 * np.log10(255**2 / error.mean((1, 2, 3, 4)))
    mean = bootstrap(list(each), [str(i) for i in range(count)])
    return {
        "psnr_db": round(float(10 * np.log10(255**2 / error.mean())), 2),
        "psnr_of_subjects_db": round(float(10 * np.log10(255**2 / error[masks].mean())), 2),
        "psnr_per_clip_db": {"value": _r(mean.value), "low": _r(mean.low), "high": _r(mean.high), "n": count},
    }


def _r(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


# --- dual encoder ----------------------------------------------------------------------------------------------------


def wrong_captions(identity: Identity, motion: str, background: str, rng: np.random.Generator) -> list[str]:
    """19 captions that do not fit: 9 with another shape, 7 with another background, 3 with both others.

    The first 16 differ from the true one in a single attribute. Motion stays: one frame cannot show it.
    """

    def said(shape: str, kind: str) -> str:
        return f"{phrase(shape)} {MOTION_WORDS[motion]} over {kind}"

    shapes = [s for s in d.SHAPES if s != identity.shape]
    backgrounds = [b for b in d.BACKGROUNDS if b != background]
    wrong = [said(s, background) for s in shapes] + [said(identity.shape, b) for b in backgrounds]
    both = [(s, b) for s in shapes for b in backgrounds]
    order = rng.permutation(len(both))[: 19 - len(wrong)]
    return wrong + [said(*both[int(i)]) for i in order]


def encoder_quality(
    tower: Any, head: Any, purpose: str, clips: int = 200, rounds: int = 6, defects: int = 60
) -> dict[str, Any]:
    """``tower`` and ``head`` as ``models.scorers.clip_tower`` loads them: the road that every metric takes."""
    return {
        "caption_first_of_20": caption_rank(tower, purpose, clips).told(),
        "identity_top1_of_50": identity_retrieval(tower, purpose, rounds).told(),
        "aesthetic": aesthetic_falls(tower, head, purpose, defects),
    }


def caption_rank(tower: Any, purpose: str, count: int) -> Share:
    """How often the true caption of a clip (mean of three frames, held-out identities) ranks first among 20."""
    hits = []
    for seed in range(count):
        scene = frame_scene(seed, True, f"{purpose}-captions")
        rng = generator(purpose, "captions", seed)
        actor = scene.actors[0]
        frames = [png(picture_of(scene, None, rng)[0]) for _ in range(3)]
        seen = tower.images(frames).mean(0)
        true = caption(scene.actors, scene.backdrop.kind)
        told = tower.texts([true, *wrong_captions(actor.identity, actor.motion, scene.backdrop.kind, rng)])
        scores = told @ seen
        hits.append(bool(scores[0] > scores[1:].max()))
    return Share.of(hits)


def identity_retrieval(tower: Any, purpose: str, rounds: int) -> Share:
    """Top-1 among ``CANDIDATES`` unseen subjects: one crop asks, one other crop of each subject answers."""
    hits = []
    for number in range(rounds):
        rng = generator(purpose, "retrieval", number)
        subjects: list[Identity] = []
        while len(subjects) < CANDIDATES:
            drawn = draw_identity(rng, True)
            if drawn not in subjects:
                subjects.append(drawn)
        views = [tower.images([png(crop_of(s, (purpose, number, view))) for s in subjects]) for view in range(2)]
        found = (views[0] @ views[1].T).argmax(1)
        hits += [int(i) == row for row, i in enumerate(found)]
    return Share.of(hits)


def aesthetic_falls(tower: Any, head: Any, purpose: str, count: int) -> dict[str, Any]:
    """Per defect: the mean change of the score from a frame to the same frame spoilt, and in what share it falls."""
    scores: dict[str, list[float]] = {name: [] for name in ("clean", *DEFECTS)}
    for seed in range(count):
        scene = frame_scene(seed, True, f"{purpose}-defects")
        pictures = [
            png(picture_of(scene, None if name == "clean" else name, generator(purpose, "defect", seed))[0])
            for name in scores
        ]
        for name, score in zip(scores, head(tower.images(pictures)), strict=True):
            scores[name].append(float(score))
    clean = np.array(scores["clean"])
    mean = bootstrap(list(clean), [str(i) for i in range(count)])
    table: dict[str, Any] = {"clean": {"score": _r(mean.value), "low": _r(mean.low), "high": _r(mean.high), "n": count}}
    for name in DEFECTS:
        change = np.array(scores[name]) - clean
        interval = bootstrap(list(change), [str(i) for i in range(count)])
        falls = Share.of(change < 0)
        table[name] = {
            "change": _r(interval.value),
            "low": _r(interval.low),
            "high": _r(interval.high),
            "falls": round(falls.value, 4),
            "n": count,
        }
    return table


# --- oracles ---------------------------------------------------------------------------------------------------------


def oracle_quality(oracles: Oracles, codec: LinearVideoCodec, purpose: str, count: int = 400) -> dict[str, Any]:
    """Accuracies on held-out identities, on renders as they are and after a codec round trip."""
    clips = clips_of(purpose, count, held_out=True)
    passed = list(round_trip(codec, clips))
    return {
        "renders": _oracle_row(oracles.look([clip.video for clip in clips]), clips, purpose),
        "codec_round_trips": _oracle_row(oracles.look(passed), clips, purpose),
        "cleanness": cleanness_quality(oracles, codec, purpose, max(40, count // 4)),
    }


def _oracle_row(seen: Sequence[Seen], clips: Sequence[Clip], purpose: str) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name in HEADS:
        row[name] = Share.of(getattr(s, name) == _truth(clip, name) for s, clip in zip(seen, clips, strict=True)).told()
    subjects = [clip.scene.actors[0].identity for clip in clips]
    row["identity_first_of_50"] = Share.of(
        retrieved(s, own, distractors(own, purpose, i)) for i, (s, own) in enumerate(zip(seen, subjects, strict=True))
    ).told()
    moved = np.array([[s.travel, s.growth] for s in seen])
    real = np.array([_path(clip) for clip in clips])
    row["travel_mean_error"] = round(float(np.abs(moved[:, 0] - real[:, 0]).mean()), 4)
    row["travel_correlation"] = round(float(np.corrcoef(moved[:, 0], real[:, 0])[0, 1]), 4)
    row["growth_mean_error"] = round(float(np.abs(moved[:, 1] - real[:, 1]).mean()), 4)
    row["growth_correlation"] = round(float(np.corrcoef(moved[:, 1], real[:, 1])[0, 1]), 4)
    return row


def _truth(clip: Clip, name: str) -> str:
    actor = clip.scene.actors[0]
    if name == "background":
        return clip.scene.backdrop.kind
    return actor.motion if name == "motion" else str(getattr(actor.identity, name))


def _path(clip: Clip) -> tuple[float, float]:
    a, b = clip.scene.actors[0].start, clip.scene.actors[0].end
    return float(np.hypot(b.x - a.x, b.y - a.y)), float(np.log2(b.side / a.side))


def cleanness_quality(oracles: Oracles, codec: LinearVideoCodec, purpose: str, count: int) -> dict[str, Any]:
    """Clips disturbed to known degrees: mean cleanness at each, and the rank correlation with the degree."""
    from tinyworld.train.oracles import disturb

    clips = codecs.to_unit(clip.video for clip in clips_of(f"{purpose}-disturbed", count))
    source = torch.Generator().manual_seed(int(generator(purpose, "disturb").integers(2**31)))
    strengths = (0.0, 0.1, 0.2, 0.4, 0.7)
    told, means = [], {}
    for strength in strengths:
        spoilt = codecs.from_unit(disturb(clips, codec, torch.full((count,), strength), source))
        values = [seen.cleanness for seen in oracles.look(list(spoilt))]
        told.append(values)
        means[f"at {strength}"] = round(float(np.mean(values)), 4)
    ranks = np.argsort(np.argsort(np.concatenate(told)))
    degree = np.argsort(np.argsort(np.repeat(strengths, count) + np.arange(count * len(strengths)) * 1e-9))
    return {"mean": means, "rank_correlation": round(float(-np.corrcoef(ranks, degree)[0, 1]), 4), "n": count}


# --- base ------------------------------------------------------------------------------------------------------------


def ask(purpose: str, count: int) -> list[tuple[Identity, str, str, str]]:
    """(identity, motion, background, caption) of unseen identities; motions and backgrounds in turn, so all are asked for."""
    asked = []
    for index in range(count):
        rng = generator(purpose, "ask", index)
        identity, motion = draw_identity(rng, True), d.MOTIONS[index % len(d.MOTIONS)]
        background = d.BACKGROUNDS[(index // len(d.MOTIONS) + index) % len(d.BACKGROUNDS)]
        asked.append((identity, motion, background, f"{identity.phrase} {MOTION_WORDS[motion]} over {background}"))
    return asked


def sampled(backbone: CogVideoX, captions: Sequence[str], seed: int = 0, batch: int = 16) -> np.ndarray:
    """Videos of the captions, uint8 (N, 9, 24, 24, 3)."""
    null = backbone.encode_text([""])
    shape = backbone.latent_shape(9, SIDE, SIDE)
    videos = []
    for start in range(0, len(captions), batch):
        part = list(captions[start : start + batch])
        seeds = [seed * 100_003 + start + i for i in range(len(part))]
        latents = sample(backbone, backbone.encode_text(part), null, None, shape, seeds, STEPS, Guidance.plain(SCALE))
        videos.append(codecs.from_unit(backbone.decode_video(latents)))
    return np.concatenate(videos)


def base_quality(backbone: CogVideoX, oracles: Oracles, purpose: str, count: int = 128) -> dict[str, Any]:
    """How the base follows captions of unseen identities without references, told by the oracles, with what chance gives."""
    asked = ask(purpose, count)
    seed = int(generator(purpose, "noise").integers(2**20))
    seen = oracles.look(list(sampled(backbone, [a[3] for a in asked], seed)))
    both = list(zip(seen, asked, strict=True))
    attributes = bootstrap([attributes_right(s, a[0]) for s, a in both], [str(i) for i in range(count)])
    untold = [untold_right(s, a[0]) for s, a in both]
    unseen = bootstrap(untold, [str(i) for i in range(count)])
    return {
        "background_as_told": Share.of(s.background == a[2] for s, a in both).told() | {"chance": 0.125},
        "motion_as_told": Share.of(s.motion == a[1] for s, a in both).told() | {"chance": 0.125},
        "shape_as_told": Share.of(s.shape == a[0].shape for s, a in both).told() | {"chance": 0.1},
        "identity_first_of_50": Share.of(
            retrieved(s, a[0], distractors(a[0], purpose, i)) for i, (s, a) in enumerate(both)
        ).told()
        | {"chance": 0.02},
        "pattern_and_colours_right": {
            "value": _r(unseen.value),
            "low": _r(unseen.low),
            "high": _r(unseen.high),
            "n": count,
            "chance": UNTOLD_CHANCE,
        },
        "attributes_right": {
            "value": _r(attributes.value),
            "low": _r(attributes.low),
            "high": _r(attributes.high),
            "n": count,
        },
        "cleanness": round(float(np.mean([s.cleanness for s in seen])), 4),
        "travel_when_told_to_move": round(
            float(np.mean([s.travel for s, a in both if a[1] in ("left", "right", "up", "down")])), 4
        ),
        "travel_when_told_to_stay": round(float(np.mean([s.travel for s, a in both if a[1] in ("still", "spin")])), 4),
    }
