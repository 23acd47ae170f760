"""Copies are among the candidates, strangers are not, and what a bound leaves out is counted."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from models.neighbours import hamming as search
from models.neighbours.hamming import Reach, candidate_pairs, chance_radius
from models.video.phash import VIEWS, hamming, picture_hash, view_hashes


def picture(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return cv2.resize(rng.integers(0, 256, (9, 12), dtype=np.uint8), (320, 240), interpolation=cv2.INTER_CUBIC)


def flipped(codes: np.ndarray, bits: int, rng: np.random.Generator) -> np.ndarray:
    """The same hashes with ``bits`` of each turned over."""
    result = codes.copy()
    for at in np.ndindex(codes.shape):
        for bit in rng.choice(63, bits, replace=False):
            result[at] ^= np.uint64(1) << np.uint64(bit + 1)
    return result


def random_codes(count: int, frames: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(1, 1 << 63, (count, 1, frames), dtype=np.uint64) << np.uint64(1)


def test_a_hash_survives_scaling_and_compression_and_a_flat_picture_has_none() -> None:
    large = picture(0)
    small = cv2.resize(large, (200, 150), interpolation=cv2.INTER_AREA)
    coded = cv2.imdecode(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], cv2.IMREAD_GRAYSCALE)
    one, two = picture_hash(large), picture_hash(coded)
    assert one is not None
    assert two is not None
    assert int(hamming(np.asarray([one], np.uint64), np.asarray([two], np.uint64))[0]) <= 4
    assert picture_hash(np.full((48, 64), 7, np.uint8)) is None
    assert not view_hashes(np.full((48, 64), 7, np.uint8)).any()


def test_the_hash_of_a_crop_is_near_a_view_of_the_original() -> None:
    rng = np.random.default_rng(6)
    by_views, by_whole = [], []
    for seed in range(60):
        whole = picture(seed)
        left, right, top, bottom = rng.uniform(0, 0.15, 4)
        part = whole[round(240 * top) : 240 - round(240 * bottom), round(320 * left) : 320 - round(320 * right)]
        apart = hamming(view_hashes(whole), np.repeat(view_hashes(part)[0], VIEWS))
        by_views.append(int(apart.min()))
        by_whole.append(int(apart[0]))
    # unrelated hashes differ in about 31 bits; a crop's own differs from the whole's nearly as much
    assert np.mean(np.asarray(by_views) <= 14) >= 0.9
    assert np.mean(np.asarray(by_whole) <= 14) <= 0.5


def test_mirrored_views_are_those_of_the_mirrored_picture_and_bars_do_not_count() -> None:
    whole = picture(3)
    both = view_hashes(whole, mirrored=True)
    turned = view_hashes(np.ascontiguousarray(whole[:, ::-1]))
    # left and right cuts change places, the whole and the even crop stay
    assert int(hamming(both[VIEWS : VIEWS + 1], turned[:1])[0]) <= 2
    boxed = np.pad(np.maximum(whole, 40), ((40, 40), (0, 0)))
    assert int(hamming(view_hashes(boxed)[:1], view_hashes(np.maximum(whole, 40))[:1])[0]) <= 6


def test_copies_are_found_and_strangers_are_not() -> None:
    rng = np.random.default_rng(1)
    base = random_codes(3000, 3, 0)
    copies = flipped(base[:200], 9, rng)
    found = candidate_pairs(np.concatenate([base, copies]), Reach(), VIEWS)
    expected = {(row, 3000 + row) for row in range(200)}
    pairs = {tuple(pair) for pair in found.pairs.tolist()}
    assert expected <= pairs
    assert len(pairs) <= 200 + 0.05 * len(base)  # what chance may add
    assert found.cut == 0


def test_inverted_lists_find_what_the_exhaustive_search_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    base = random_codes(6000, 3, 5)
    rows = np.concatenate([base, flipped(base[:300], 8, rng)])
    copies = {(row, 6000 + row) for row in range(300)}
    assert copies <= {tuple(pair) for pair in candidate_pairs(rows, Reach(), VIEWS).pairs.tolist()}
    monkeypatch.setattr(search, "EXHAUSTIVE", 1000)
    lists = candidate_pairs(rows, Reach(), VIEWS)
    assert len(copies & {tuple(pair) for pair in lists.pairs.tolist()}) >= 0.95 * len(copies)
    np.testing.assert_array_equal(lists.pairs, candidate_pairs(rows, Reach(), VIEWS).pairs)


def test_a_crowd_of_equal_pictures_stays_connected_and_what_is_cut_is_counted() -> None:
    crowd = np.repeat(random_codes(1, 1, 7), 500, axis=0)
    found = candidate_pairs(crowd, Reach(degree=4), VIEWS)
    assert len(found.pairs) <= 500 * 4
    joined = {0}
    for one, two in sorted(tuple(pair) for pair in found.pairs.tolist()):
        if one in joined:
            joined.add(two)
    assert joined == set(range(500))
    assert found.cut == 500 * 499 // 2 - len(found.pairs)


def test_the_reach_shrinks_as_chance_grows() -> None:
    codes = random_codes(2000, 1, 3)[:, 0]
    few, many = chance_radius(codes, 63, 20, 2000), chance_radius(codes, 63, 20, 50_000_000)
    # independent bits: 2000 x P(at most r of 63) reaches 0.05 at 15, and for fifty million at 8 (binomial sums)
    assert 14 <= few <= 16
    assert 7 <= many <= 9


def test_clips_without_hashes_have_no_candidates() -> None:
    rows = np.zeros((5, 1, 3), np.uint64)
    assert not len(candidate_pairs(rows, Reach(), VIEWS).pairs)
    assert not len(candidate_pairs(rows[:0], Reach(), VIEWS).pairs)
