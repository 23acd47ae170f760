"""Perceptual hashes of pictures, and the search for pairs of clips that share a picture among millions of hashes."""

from __future__ import annotations

import numpy as np

HASH_BITS = 63
FLAT = 4.0  # standard deviation in grey levels below which a picture has nothing to recognise
_LONGEST_RUN = 256  # neighbours compared within one bucket; a logo frame in every video must not make N^2 pairs


def picture_hash(grey_HW: np.ndarray) -> int | None:
    """The 63-bit DCT hash of a grey picture (uint8, any size), or None for a flat one, which would match every other.

    The picture is averaged to 32 x 32, its 8 x 8 lowest DCT coefficients without the mean are compared with their median
    (Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010). Scale, aspect, codec and exposure
    hardly move it; a crop of a tenth moves about 10 bits.
    """
    import cv2

    small = cv2.resize(np.ascontiguousarray(grey_HW), (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    if float(small.std()) < FLAT:
        return None
    low = cv2.dct(small)[:8, :8].ravel()[1:]
    return int(np.packbits(np.append(low > np.median(low), False)).view(">u8")[0])


def decode_grey(encoded: bytes) -> np.ndarray | None:
    """A JPEG or PNG as grey uint8, or None when it cannot be decoded."""
    import cv2

    if not encoded:
        return None
    picture = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_GRAYSCALE)
    return None if picture is None else np.asarray(picture)


def hamming(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Differing bits of two arrays of hashes (uint64), element by element."""
    return np.bitwise_count(one ^ two).astype(np.int64)


def band_bits(frames: int) -> int:
    """Width of the bands that must agree exactly: narrow finds more, wide keeps buckets small among many pictures."""
    return 8 if frames <= 50_000 else 12 if frames <= 1_000_000 else 16


def candidate_pairs(hashes: np.ndarray, owners: np.ndarray, max_bits: int) -> np.ndarray:
    """Pairs of owners (clips, as indices) with a picture of each within ``max_bits`` of the other.

    ``hashes`` uint64 (N,), ``owners`` int64 (N,). Returns int64 (P, 2), each pair once, smaller index first, sorted. Two
    hashes are compared when they agree in one whole band of bits, so a pair may be missed; with several pictures a clip and
    8-bit bands, clips whose pictures differ by 8 of 63 bits are found with a probability above 0.99.
    """
    found: list[np.ndarray] = []
    width = band_bits(len(hashes))
    for shift in range(0, 64, width):
        band = (hashes >> np.uint64(shift)) & np.uint64((1 << width) - 1)
        order = np.lexsort((owners, band))
        sorted_band, sorted_hash, sorted_owner = band[order], hashes[order], owners[order]
        for step in range(1, min(_LONGEST_RUN, len(hashes) - 1) + 1):
            same = np.flatnonzero(sorted_band[step:] == sorted_band[:-step])
            if not len(same):
                break
            close = hamming(sorted_hash[same], sorted_hash[same + step]) <= max_bits
            one, two = sorted_owner[same[close]], sorted_owner[same[close] + step]
            apart = one != two
            if apart.any():
                pairs = np.stack([np.minimum(one, two)[apart], np.maximum(one, two)[apart]], axis=1)
                found.append(np.unique(pairs, axis=0))
    if not found:
        return np.zeros((0, 2), np.int64)
    return np.unique(np.concatenate(found), axis=0).astype(np.int64)


class Forest:
    """Union-find over 0..count-1; a root is the smallest node of its tree."""

    def __init__(self, count: int) -> None:
        self.parent = list(range(count))

    def root(self, node: int) -> int:
        while self.parent[node] != node:
            self.parent[node] = self.parent[self.parent[node]]
            node = self.parent[node]
        return node

    def join(self, one: int, two: int) -> None:
        one, two = self.root(one), self.root(two)
        self.parent[max(one, two)] = min(one, two)
