"""Reads a photograph as it is shown, within a limit of pixels."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from models.video.reader import IMAGE_FORMATS, MAX_PIXELS, PixelLimitError, UndecodableError, open_container


def read_image(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> tuple[np.ndarray, str]:
    """A photograph as shown (EXIF orientation applied), uint8 BGR HWC, and its codec, e.g. ``mjpeg`` or ``png``.

    Raises ``UndecodableError``.
    """
    with open_container(path, IMAGE_FORMATS) as container:  # for its header: OpenCV knows no limit of ours
        context = next((s.codec_context for s in container.streams if s.type == "video"), None)
        if context is None or not context.width * context.height:
            raise UndecodableError("its header states no size that a picture can have")
        codec = str(context.codec.canonical_name)
        if context.width * context.height > max_pixels:
            raise PixelLimitError(
                f"it is {context.width} x {context.height} pixels; the limit is {max_pixels:,} pixels"
            )
    data = np.fromfile(path, np.uint8)
    try:
        picture = cv2.imdecode(data, cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise UndecodableError(f"its {data.size:,} bytes are no picture that can be decoded ({error.err})") from error
    if picture is None:
        raise UndecodableError(f"its {data.size:,} bytes are not a picture that can be decoded, or the file is cut off")
    return picture, codec
