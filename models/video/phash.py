"""Perceptual hashes of pictures, also as a crop or a mirrored copy of them would show them."""

from __future__ import annotations

import numpy as np

from models.video.register import FLAT
from models.video.signature import content_box

HASH_BITS = 63
# Shares cut off the two ends of an axis. A copy cropped by anything up to 15 % a side is near one of these on each axis; its
# own hash then is near that of the original's view.
_CUTS = ((0.0, 0.0), (0.1, 0.02), (0.02, 0.1), (0.11, 0.11))
VIEWS = len(_CUTS) ** 2


def picture_hash(grey_HW: np.ndarray) -> int | None:
    """The 63-bit DCT hash of a grey picture (uint8, any size), or None for a flat one, which would match every other.

    The picture is averaged to 32 x 32, its 8 x 8 lowest DCT coefficients without the mean are compared with their median
    (Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010). Scale, aspect, codec and exposure
    hardly move it; a crop of a tenth moves about 10 bits, which is what ``view_hashes`` is for.
    """
    low = _low(grey_HW)
    return None if low is None else _bits(low)


def view_hashes(grey_HW: np.ndarray, mirrored: bool = False) -> np.ndarray:
    """Hashes of a picture without its black bars and of crops of it: uint64 (VIEWS,), the whole first; 0 for a flat one.

    With ``mirrored`` (2 * VIEWS,): the same again for the picture turned left to right.
    """
    rows, columns = content_box(grey_HW)
    picture = grey_HW[rows, columns]
    height, width = picture.shape
    found = np.zeros((2 if mirrored else 1, VIEWS), np.uint64)
    turn = np.where(np.arange(8) % 2, -1.0, 1.0)  # of the DCT of a mirrored picture: odd columns change their sign
    number = 0
    for top, bottom in _CUTS:
        for left, right in _CUTS:
            view = picture[
                round(height * top) : height - round(height * bottom),
                round(width * left) : width - round(width * right),
            ]
            low = _low(view) if min(view.shape) >= 8 else None
            if low is not None:
                found[0, number] = _bits(low)
                if mirrored:
                    found[1, number] = _bits(low * turn)
            number += 1
    return found.ravel()


def _low(grey_HW: np.ndarray) -> np.ndarray | None:
    import cv2

    small = cv2.resize(np.ascontiguousarray(grey_HW), (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    return None if float(small.std()) < FLAT else cv2.dct(small)[:8, :8]


def _bits(low_88: np.ndarray) -> int:
    values = low_88.ravel()[1:]
    return int(np.packbits(np.append(values > np.median(values), False)).view(">u8")[0])


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
