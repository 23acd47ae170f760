"""Checks of what is installed: versions, whose code runs, encoders and decoders."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from fulcrum.version import __version__
from pipelines.doctor.finding import Finding

ENCODERS = {
    "libx264": "export to MP4",
    "libvpx-vp9": "review proxies and export to WebM",
    "aac": "sound in MP4",
    "libopus": "sound in WebM",
}
DECODERS = ("h264", "hevc", "vp9", "av1", "mpeg4", "mpeg2video", "vp8", "prores", "mjpeg")


def versions() -> Iterator[Finding]:
    """This release and what it runs on; requirements that the installed packages do not meet."""
    from packaging.requirements import Requirement

    told = f"fulcrum {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    wrong = []
    try:
        required = metadata.requires("fulcrum") or []
    except metadata.PackageNotFoundError:
        yield Finding(
            "versions", "warning", f"{told}; not installed as a package", "Install it, so that workers get the same code: pip install ."
        )  # fmt: skip
        return
    for text in required:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            wrong.append(f"{requirement.name} is {found}, wanted {requirement.specifier}")
    if wrong:
        remedy = "Install what this release was tested with: pip install -c constraints.txt ."
        yield Finding("versions", "bad", f"{told}; {'; '.join(wrong)}", remedy)
    else:
        used = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "ray", "pyarrow", "mlflow", "av"))
        yield Finding("versions", "good", f"{told}; {used}")


def code(home: Path) -> Iterator[Finding]:
    """Whether another project's ``models`` or ``pipelines`` lies before ours on the path."""
    from importlib.util import find_spec

    for name in ("pipelines", "stages", "models", "data_schemas"):
        spec = find_spec(name)
        found = Path(spec.origin).parent.parent if spec and spec.origin else None
        if found != home:
            remedy = "Remove that folder from PYTHONPATH or rename it, or start from another directory."
            yield Finding("code", "bad", f"{name} comes from {found}, the command from {home}", remedy)
            return
    yield Finding("code", "good", f"all packages come from {home}")


def encoders() -> Iterator[Finding]:
    """Each encoder makes a few frames, which are decoded again."""
    broken = {}
    for name, use in ENCODERS.items():
        try:
            _round_trip(name)
        except Exception as error:
            broken[name] = f"{use} ({type(error).__name__}: {error})"
    good = [name for name in ENCODERS if name not in broken]
    if broken:
        what = "; ".join(f"{name} does not work: {why}" for name, why in broken.items())
        remedy = "Install PyAV from its wheel, which brings FFmpeg with these: pip install --force-reinstall --only-binary av av"
        yield Finding("encoders", "bad", what, remedy)
    else:
        yield Finding("encoders", "good", f"{', '.join(good)}: encoded and decoded")


def _round_trip(name: str) -> None:
    """Raises whatever goes wrong."""
    import io

    import av

    file: Any = io.BytesIO()
    sound = name in ("aac", "libopus")
    with av.open(file, "w", format="mp4" if name in ("libx264", "aac") else "webm") as out:
        (_sound if sound else _pictures)(out, name)
    file.seek(0)
    with av.open(file, "r") as made:
        frames = list(made.decode(audio=0) if sound else made.decode(video=0))
    if len(frames) < (1 if sound else 4):
        raise ValueError(f"{len(frames)} frames came back")


def _pictures(out: Any, name: str) -> None:
    import av
    import numpy as np

    stream = out.add_stream(name, rate=8)
    stream.width = stream.height = 64
    stream.pix_fmt = "yuv420p"
    for shade in (0, 40, 80, 120):
        out.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((64, 64, 3), shade, np.uint8), "rgb24")))
    out.mux(stream.encode(None))


def _sound(out: Any, name: str) -> None:
    import av
    import numpy as np

    stream = out.add_stream(name, rate=48_000)
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 9600), np.float32), "flt", "mono")
    frame.sample_rate = 48_000
    resampler = av.AudioResampler(stream.format.name, stream.layout.name, 48_000, stream.frame_size or 960)
    for part in [*resampler.resample(frame), *resampler.resample(None)]:
        out.mux(stream.encode(part))
    out.mux(stream.encode(None))


def decoders() -> Iterator[Finding]:
    """Which common codecs of source videos can be read."""
    import av

    missing = [name for name in DECODERS if not _has_decoder(av, name)]
    found = [name for name in DECODERS if name not in missing]
    linux = sys.platform == "linux" and platform.machine() == "x86_64"
    try:
        decord = f"decord {metadata.version('decord')}"
    except metadata.PackageNotFoundError:
        decord = "no decord" if linux else "decord is not made for this platform: PyAV does its part"
    if missing:
        what = (
            f"videos in {', '.join(missing)} will end in the ledger as failed; {', '.join(found)} can be read; {decord}"
        )
        remedy = "Install PyAV from its wheel: pip install --force-reinstall --only-binary av av"
        yield Finding("decoders", "warning", what, remedy)
    elif linux and decord == "no decord":
        yield Finding(
            "decoders", "warning", f"{', '.join(found)}; no decord: sparse reads are slower", "pip install decord"
        )
    else:
        yield Finding("decoders", "good", f"{', '.join(found)}; {decord}")


def _has_decoder(av: object, name: str) -> bool:
    try:
        av.codec.Codec(name, "r")  # type: ignore[attr-defined]
    except Exception:
        return False
    return True
