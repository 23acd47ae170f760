"""Reads a photograph as it is shown, within a limit of pixels."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from models.video.reader import IMAGE_FORMATS, MAX_PIXELS, PixelLimitError, UndecodableError, open_container


def read_image(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """A photograph as shown (EXIF orientation applied): uint8 BGR HWC. Raises ``UndecodableError``."""
    with open_container(path, IMAGE_FORMATS) as container:
        streams = [s for s in container.streams if s.type == "video"]
        if streams and streams[0].codec_context is not None:
            width, height = streams[0].codec_context.width, streams[0].codec_context.height
            if width * height > max_pixels:
                raise PixelLimitError(f"it is {width} x {height} pixels; the limit is {max_pixels:,} pixels")
    data = np.fromfile(path, np.uint8)
    picture = cv2.imdecode(data, cv2.IMREAD_COLOR)
    if picture is None:
        raise UndecodableError(f"its {data.size:,} bytes are not a picture that can be decoded, or the file is cut off")
    return picture


def image_codec(path: str | Path) -> str:
    """The codec of a photograph, e.g. ``mjpeg`` or ``png``."""
    with open_container(path, IMAGE_FORMATS) as container:
        for stream in container.streams:
            if stream.type == "video" and stream.codec_context is not None:
                return str(stream.codec_context.codec.canonical_name)
    return "unknown"
