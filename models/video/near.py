"""Decides whether two clips are the same footage: re-encoded, rescaled, cropped, trimmed, re-timed, with a logo or other tones.

Key frames alone cannot tell a copy from another take of the same scene: two people before one static background differ
less in a picture's hash than a clip and its own crop. Time can. Both clips are short sequences of small frames
(``signature.py``). They are registered in space (a crop of one is a part of the other), aligned in time (a start and a
speed) and in tone; then a copy differs from the original much less than the original differs from itself a moment later,
and another take differs about as much or more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.video.register import FLAT, PARTS, TAILS, Place, calm, pick, refine, register, spread, warp
from models.video.signature import HALF, RATE, SIDE, Signature

NEAR_VERSION = "4"  # raise it when verdicts would differ

_AT_LEAST = 0.55  # correlation of the best place from which two clips are worth aligning
_SPEEDS = np.concatenate([[1.0], np.linspace(0.84, 1.19, 36)])
_STRONGEST = 0.1  # share of pixels, those that differ most: a moving subject is small, coding noise is everywhere
_MOST = 75  # percentile of the frames that must agree: an insert that long is another edit
_BLUR = 1.0  # px of the signature's grid
_GRID = 24  # px; registered frames are compared on this grid, on which coding noise has averaged out
_EDGE = 5  # px of that grid; overlays (logos, captions) lie this near to the upper or lower edge
_OVERLAY = 0.4  # standard deviations by which an overlay differs from what it covers, in most frames
_MOST_OVERLAY = 0.1  # share of pixels
_PLACE = 5  # px of the grid; about what a subject covers at least
_QUIET = 0.1  # of a frame's contrast: what a middling place differs by without meaning anything
_WINDOW = 7  # px of the signature's grid, side of the window in which detail is compared
_NOISE = 3.0  # grey levels; what coding leaves in a window where nothing is
_TEXTURE = 6.0  # grey levels; deviation within a window from which there is detail to compare
_EVERY = 7  # of the pixels, one that tones are fitted to


@dataclass(frozen=True)
class NearRule:
    """When two registered clips count as the same footage.

    ``ratio``: the difference between them, over the difference of the clip from itself at other instants. ``floor``: a
    difference (in standard deviations of a frame) that is coding noise even where nothing moves. ``overlap``: share of the
    shorter clip that must be compared. ``ceiling``: a difference that no copy has, however much moves. ``spot``:
    how much one place may differ most of the time, other than an overlay near an edge. ``stands_out``: the most that the
    difference of the strongest place may be in most frames, wherever it then is, times how often it holds that of the middling
    place: a copy is off a little everywhere, another subject in the same scene is off where it moves. ``detail``: the least
    correlation of the fine structure where the two differ most: what is off in a copy is still the same thing.

    The thresholds were chosen on 240 rendered scenes of which ``benchmarks/dedupe.py`` measures none
    (docs/dedupe.md).
    """

    ratio: float = 0.6
    floor: float = 0.28
    ceiling: float = 0.7
    spot: float = 1.1
    stands_out: float = 1.6
    detail: float = 0.82
    overlap: float = 0.8


@dataclass(frozen=True)
class Match:
    """How two clips compare: ``difference`` between them and ``variation`` within, in standard deviations of a frame.

    Instant ``t`` of the second clip is instant ``start_s + speed * t`` of the first, in seconds from each clip's start.
    """

    same: bool
    difference: float
    variation: float
    start_s: float = 0.0
    speed: float = 1.0


_NOTHING = Match(False, float("inf"), 0.0)


def is_flat(luma_THW: np.ndarray) -> bool:
    """Whether a clip shows next to nothing (black, a blank slide): everything would match it."""
    return len(luma_THW) < 2 or float(np.median(luma_THW.std(axis=(1, 2)))) < FLAT


def compare(one: Signature, two: Signature, rule: NearRule | None = None, mirrored: bool = False) -> Match:
    """Register two signatures and judge whether they are the same footage; ``mirrored`` turns the second left to right.

    Damaged frames are not compared. Symmetric up to rounding.
    """
    rule = rule or NearRule()
    if is_flat(one.luma) or is_flat(two.luma) or min((~one.damaged).sum(), (~two.damaged).sum()) < 2:
        return _NOTHING
    if mirrored:
        two = two.mirrored
    calm_one, calm_two = calm(one.luma), calm(two.luma)
    good_one, good_two = np.flatnonzero(~one.damaged), np.flatnonzero(~two.damaged)
    second = register(calm_one, calm_two, good_one, good_two)
    first = second if second.whole else register(calm_two, calm_one, good_two, good_one)
    if max(first.correlation, second.correlation) < _AT_LEAST:
        return _NOTHING
    if first.correlation > second.correlation + 1e-3:
        match = _aligned(two, one, calm_two, calm_one, first, rule)
        return Match(match.same, match.difference, match.variation, -match.start_s / match.speed, 1 / match.speed)
    return _aligned(one, two, calm_one, calm_two, second, rule)


def _aligned(
    whole: Signature, part: Signature, calm_whole: np.ndarray, calm_part: np.ndarray, place: Place, rule: NearRule
) -> Match:
    b = _standard(part.luma)
    line: _Line | None = None
    into_whole = place.into_whole

    def fit(start: np.ndarray, pairs: list[tuple[int, int]]) -> None:
        nonlocal line, into_whole
        refined = refine(calm_whole, calm_part, start, pairs)
        found = _line(_standard(warp(whole.luma, refined)), b, whole.damaged, part.damaged, rule.overlap)
        if found is not None and (line is None or found.cost < line.cost):
            line, into_whole = found, refined

    # By the frames that look most alike; as if both were whole, since what pans looks alike at a wrong instant in a wrong
    # place; and by the frames that belong together on the better line.
    fit(place.into_whole, place.pairs)
    last_whole, last_part = len(whole) - 1, max(1, len(part) - 1)
    fit(place.into_whole, [(round(last_whole * at / last_part), at) for _, at in place.pairs])
    if line is not None:
        fit(into_whole, [(int(line.at[j]), int(j)) for j in pick(np.flatnonzero(line.at >= 0), PARTS)])
    if line is None:
        return _NOTHING
    warped = warp(whole.luma, into_whole)
    a = _standard(warped)
    inside = np.flatnonzero(line.at >= 0)
    # a frame taken a moment earlier or later is no other footage
    around = np.clip(line.at[inside][:, None] + np.array([0, -1, 1]), 0, len(a) - 1)
    nearest = np.argmin(((a[around] - b[inside][:, None]) ** 2).mean(axis=2), axis=1)
    at = around[np.arange(len(around)), nearest]
    a_CTN, b_CTN = _planes(whole, into_whole)[:, at], _planes(part)[:, inside]
    apart = np.sqrt(((_tones(a_CTN, b_CTN) - b_CTN) ** 2).sum(axis=0))
    shown = ~_overlaid(apart / _contrast(b_CTN))
    unit = _contrast(b_CTN[:, :, shown])
    difference = float(np.percentile(_strongest(apart[:, shown]), _MOST)) / unit
    variation = _variation(b_CTN[:, :, shown]) / unit
    same = difference <= min(rule.ceiling, max(rule.floor, rule.ratio * variation))
    same = same and _stands_out(np.where(shown, apart, 0) / unit) <= rule.stands_out
    same = same and _spot(np.where(shown, np.median(apart, axis=0), 0)) / unit <= rule.spot
    same = same and _detail(warped[at], part.luma[inside], np.where(shown, apart, 0)) >= rule.detail
    return Match(same, difference, variation, line.offset / RATE, line.speed)


# -- time --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Line:
    """How the part runs along the whole: for each of its frames the whole's (-1 for none or a damaged one)."""

    cost: float
    speed: float
    offset: int
    at: np.ndarray


def _line(a_TN: np.ndarray, b_TN: np.ndarray, bad_a: np.ndarray, bad_b: np.ndarray, overlap: float) -> _Line | None:
    """The start and speed at which ``b`` runs along ``a`` with the least mean squared difference.

    None where no placement covers ``overlap`` of the shorter clip with undamaged frames.
    """
    square = (a_TN**2).mean(axis=1)[:, None] + (b_TN**2).mean(axis=1)[None] - 2 * (a_TN @ b_TN.T) / a_TN.shape[1]
    usable = ~(bad_a[:, None] | bad_b[None])
    count_a, count_b = square.shape
    step = np.arange(count_b)
    best: _Line | None = None
    for speed in _SPEEDS:
        # of the shorter clip, in frames of b; what is damaged cannot be asked for
        need = max(2, int(np.ceil(overlap * min(count_a / speed, count_b, float((~bad_b).sum())) - 1e-6)))
        offsets = np.arange(need - count_b, count_a - int((need - 1) * speed))[:, None]
        at = np.rint(offsets + speed * step[None]).astype(np.int64)
        valid = (at >= 0) & (at < count_a)
        safe = np.clip(at, 0, count_a - 1)
        valid &= usable[safe, step[None]]
        enough = valid.sum(axis=1) >= need
        if not enough.any():
            continue
        total = np.where(valid, square[safe, step[None]], 0).sum(axis=1)
        # what is left out has to be paid for, or a line would leave out what fits worst
        covered = valid.sum(axis=1)
        cost = np.where(enough, total / np.maximum(covered, 1) * (covered.max() / np.maximum(covered, 1)), np.inf)
        row = int(np.argmin(cost))
        # equal speed unless another is better: where nothing moves, every speed fits
        if best is None or cost[row] < best.cost * 0.99 - 1e-6:
            best = _Line(float(cost[row]), float(speed), int(offsets[row, 0]), np.where(valid[row], at[row], -1))
    return best


# -- difference --------------------------------------------------------------------------------------------------------


def _standard(frames_THW: np.ndarray) -> np.ndarray:
    """Each frame blurred, on the smaller grid, with mean 0 and standard deviation 1 but for its extremes; float32 (T, _GRID * _GRID).

    The blur hides what resampling a crop cannot restore, the scaling what a change of exposure did.
    """
    flat = _soften(frames_THW, _BLUR)
    low, high = np.percentile(flat, TAILS, axis=1, keepdims=True)
    body = np.clip(flat, low, high)  # a white logo must not make the rest look pale
    scale = np.maximum(body.std(axis=1, keepdims=True), FLAT)
    return np.asarray((flat - body.mean(axis=1, keepdims=True)) / scale, np.float32)


def _planes(signature: Signature, into_whole: np.ndarray | None = None) -> np.ndarray:
    """Luma and chroma on the smaller grid, blurred alike; float32 (3, T, _GRID * _GRID), grey levels."""
    luma, chroma = signature.luma, signature.chroma
    if into_whole is not None:
        luma = warp(luma, into_whole)
        half = into_whole.copy()
        # the same map between pixels twice as large: their centres lie half a small pixel further
        half[:, 2] = (into_whole[:, :2] @ np.array([0.5, 0.5]) + into_whole[:, 2] - 0.5) / 2
        chroma = np.stack([warp(plane, half, HALF) for plane in chroma.transpose(1, 0, 2, 3)], axis=1)

    chroma_CTN = [_soften(plane, _BLUR / 2) for plane in chroma.transpose(1, 0, 2, 3)]
    return np.stack([_soften(luma, _BLUR), *chroma_CTN])


def _soften(frames_THW: np.ndarray, blur: float) -> np.ndarray:
    """Frames blurred (in their own pixels) and averaged to the smaller grid: float32 (T, _GRID * _GRID)."""
    import cv2

    soft = [cv2.GaussianBlur(frame.astype(np.float32), (0, 0), blur) for frame in frames_THW]
    return np.stack([cv2.resize(frame, (_GRID, _GRID), interpolation=cv2.INTER_AREA).ravel() for frame in soft])


def _tones(a_CTN: np.ndarray, b_CTN: np.ndarray) -> np.ndarray:
    """``a`` with the tones of ``b``: for all frames one curve of luma and one mixture of luma and chroma for each chroma plane,
    so that gamma, contrast, saturation and a cast are no difference.

    Fitted with Cauchy weights, so that neither a logo nor another subject bends them.
    """
    luma = (a_CTN[0] - 128) / 64
    result = np.empty_like(b_CTN)
    for plane in range(3):
        first = luma if plane == 0 else (a_CTN[plane] - 128) / 64
        second = luma**2 if plane == 0 else luma
        terms = np.stack([np.ones_like(first), first, second], axis=-1).reshape(-1, 3)[::_EVERY]
        target = b_CTN[plane].reshape(-1)[::_EVERY]
        weight = np.ones(len(target), np.float32)
        fit = np.zeros(3)
        for _ in range(5):
            weighted = terms * weight[:, None]
            # the ridge keeps the curve straight where the tones are too few to tell its bend
            fit = np.linalg.solve(weighted.T @ terms + np.diag([1e-3, 1e-3, 1e-3 * len(target)]), weighted.T @ target)
            rest = np.abs(target - terms @ fit)
            weight = 1 / (1 + (rest / (2 * float(np.median(rest)) + 1)) ** 2)
        result[plane] = fit[0] + fit[1] * first + fit[2] * second
    return result


def _contrast(frames_CTN: np.ndarray) -> float:
    """Standard deviation within a frame over all planes, median over frames; grey levels."""
    return float(np.median(np.sqrt(frames_CTN.var(axis=2).sum(axis=0)))) + 1e-3


def _overlaid(apart_TN: np.ndarray) -> np.ndarray:
    """Pixels (bool) near the upper and lower edge that differ in most frames, where they are few: a logo or caption laid over one clip.

    The middle is never left out: a subject that stands still there is what tells two takes apart.
    """
    import cv2

    margin = np.ones((_GRID, _GRID), bool)
    margin[_EDGE : _GRID - _EDGE] = False
    lasting = (np.percentile(apart_TN, 25, axis=0).reshape(_GRID, _GRID) > _OVERLAY) & margin
    wide = cv2.dilate(lasting.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool) & margin
    return wide.ravel() if lasting.mean() <= _MOST_OVERLAY else np.zeros(_GRID * _GRID, bool)


def _spot(lasting_N: np.ndarray) -> float:
    """The strongest place, three pixels wide, of what differs most of the time: another subject where this one stands."""
    import cv2

    return float(cv2.blur(lasting_N.reshape(_GRID, _GRID), (3, 3)).max())


def _stands_out(apart_TN: np.ndarray) -> float:
    """Of three frames in four at least: the difference of the strongest place, times how often it holds that of the middling one."""
    import cv2

    frames = apart_TN.astype(np.float32).reshape(-1, _GRID, _GRID)
    soft = np.stack([cv2.blur(frame, (_PLACE, _PLACE)).ravel() for frame in frames])
    return float(np.percentile(soft.max(axis=1) ** 2 / (np.median(soft, axis=1) + _QUIET), 25))


def _detail(a_THW: np.ndarray, b_THW: np.ndarray, apart_TN: np.ndarray) -> float:
    """How the fine structure of both correlates where a frame differs most, -1 to 1: what one frame in four exceeds.

    Means and deviations are taken window by window, so that tones do not matter; where neither shows any structure there is
    nothing to tell apart, which counts as 1. ``apart_TN`` is on the smaller grid, the frames are of the signature's.
    """
    import cv2

    size = _WINDOW, _WINDOW
    place = _WINDOW // 2
    step = SIDE // _GRID
    found = np.empty(len(a_THW))
    for number, (a, b, apart) in enumerate(
        zip(a_THW.astype(np.float32), b_THW.astype(np.float32), apart_TN.astype(np.float32), strict=True)
    ):
        mean_a, mean_b = cv2.blur(a, size), cv2.blur(b, size)
        square_a, square_b = cv2.blur(a * a, size) - mean_a**2, cv2.blur(b * b, size) - mean_b**2
        shared = cv2.blur(a * b, size) - mean_a * mean_b
        alike = shared / np.sqrt((square_a + _NOISE**2) * (square_b + _NOISE**2))
        alike[np.maximum(square_a, square_b) <= _TEXTURE**2] = 1
        where = int(cv2.blur(apart.reshape(_GRID, _GRID), (_PLACE, _PLACE)).argmax())
        y, x = (step * k + step // 2 for k in divmod(where, _GRID))
        found[number] = alike[max(0, y - place) : y + place + 1, max(0, x - place) : x + place + 1].mean()
    return float(np.percentile(found, 75))


def _strongest(apart_TN: np.ndarray) -> np.ndarray:
    """Per frame, the mean of the strongest tenth of absolute differences."""
    count = max(1, int(apart_TN.shape[1] * _STRONGEST))
    return np.asarray(np.partition(apart_TN, -count, axis=1)[:, -count:].mean(axis=1))


def _variation(frames_CTN: np.ndarray) -> float:
    """Median difference of a clip's frames from its other frames, over at most 12 of them; in grey levels."""
    chosen = frames_CTN[:, spread(frames_CTN.shape[1], 12)].transpose(1, 0, 2)
    apart = [_strongest(np.sqrt(((chosen - frame[None]) ** 2).sum(axis=1))) for frame in chosen]
    return float(np.median([np.median(one) for one in apart]))
