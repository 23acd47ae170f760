"""Files that were made to do harm: to make the reader open something else, or to ask for more than the machine has."""

from __future__ import annotations

import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import av
import pytest

from models.video.guard import Guard, GuardedFailure, Limits
from models.video.image import read_image
from models.video.reader import PixelLimitError, UndecodableError, VideoReader
from tests.footage.media import write_grey

READ = "tests.footage.hooks:read_to_the_end"


class Listener:
    """A host on this machine that counts who connects."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.visits = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                visitor, _ = self.socket.accept()
            except OSError:
                return
            self.visits += 1
            visitor.close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    yield made
    made.socket.close()


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", len(content) + 8, kind) + content


def test_no_file_makes_the_reader_open_another_or_call_a_host(tmp_path: Path, listener: Listener) -> None:
    inner = write_grey(tmp_path / "inner.mp4", [10, 20, 30])
    host = f"127.0.0.1:{listener.port}"
    texts = {
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nhttp://{host}/a.ts\n#EXT-X-ENDLIST\n",
        "hls of a local file": f"#EXTM3U\n#EXTINF:5,\nfile:{inner}\n#EXT-X-ENDLIST\n",
        "concat": f"ffconcat version 1.0\nfile 'file:{inner}'\n",
        "concat without its header": f"file 'file:{inner}'\n",
        "dash": f"<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011' type='static'><Period><BaseURL>http://{host}/"
        "</BaseURL></Period></MPD>",
        "sdp": f"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=video {listener.port} RTP/AVP 96\r\n",
        "asx": f"[Reference]\r\nRef1=http://{host}/a.asf\r\n",
        "vobsub": f"# VobSub index file, v7\nid: en, index: 0\n# {inner}\n",
        "ansi art": "\x1b[31mfilms of text\x1b[0m\n" * 50,
    }
    for what, text in texts.items():
        for suffix in (".mp4", ".m3u8", ".ffconcat", ".mpd", ".sdp", ".idx", ".ans"):
            path = tmp_path / f"x{suffix}"
            path.write_text(text)
            with pytest.raises(UndecodableError), VideoReader(path) as reader:
                pytest.fail(f"{what} as {suffix} gave {len(list(reader))} frames")
    assert listener.visits == 0


def test_a_movie_that_keeps_its_pictures_in_another_file_gives_none(tmp_path: Path) -> None:
    inner = write_grey(tmp_path / "inner.mp4", [10, 20, 30])
    data = inner.read_bytes()
    begin = data.index(b"moov") - 4
    moov = bytearray(data[begin : begin + struct.unpack(">I", data[begin : begin + 4])[0]])
    own = box(b"url ", b"\0\0\0\1")  # flag 1: the pictures are in this file
    # QuickTime's alias record: volume, name, levels to go up and down, then fields, of which number 2 is the whole path
    name = str(inner).encode()
    whole = struct.pack(">HH", 2, len(name)) + name + bytes(len(name) % 2) + struct.pack(">hH", -1, 0)
    alias = box(b"alis", bytes(4 + 10 + 28 + 12 + 64 + 16 + 4 + 16) + whole)
    grown = moov.replace(own, alias)
    for enclosing in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        at = grown.index(enclosing) - 4
        grown[at : at + 4] = struct.pack(">I", struct.unpack(">I", grown[at : at + 4])[0] + len(alias) - len(own))
    path = tmp_path / "outside.mov"
    path.write_bytes(box(b"ftyp", b"qt  \0\0\2\0qt  ") + grown)
    with av.open(str(path), options={"enable_drefs": "1", "use_absolute_path": "1"}) as follows:
        assert len(list(follows.decode(video=0))) == 3  # whoever follows such names gets the other file's pictures
    with pytest.raises(UndecodableError), VideoReader(path) as reader:
        pytest.fail(f"gave {len(list(reader))} frames")


def gif(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6) + b"\x2c" + struct.pack(
        "<HHHHB", 0, 0, width, height, 0
    ) + b"\x02\x02\x4c\x01\x00\x3b"  # fmt: skip


def png(width: int, height: int) -> bytes:
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = b"IDAT" + zlib.compress(b"\0" * 100)
    chunks = b"".join(
        struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (head, body, b"IEND")
    )
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.y4m", b"YUV4MPEG2 W60000 H60000 F25:1 Ip A1:1 C420jpeg\nFRAME\n" + bytes(1000)),
        ("a.gif", gif(60000, 60000)),
        ("a.ivf", b"DKIF\0\0\x20\0VP90" + struct.pack("<HHIIII", 60000, 60000, 25, 1, 1, 0) + bytes(40)),
    ],
    ids=("y4m", "gif", "vp9"),
)
def test_a_header_that_claims_giant_pictures_costs_no_memory(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with Guard(Limits(limit_s=30, stall_s=30, memory_bytes=512 << 20)) as guard, pytest.raises(UndecodableError):
        guard.call(READ, {"path": str(tmp_path / name)})


def test_a_photograph_that_claims_to_be_giant_is_refused_by_its_header(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(9000, 9000))
    with pytest.raises(PixelLimitError, match="9000 x 9000"):
        read_image(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(png(60000, 60000))
    with pytest.raises(UndecodableError, match="no size that a picture can have"):
        read_image(tmp_path / "b.png")


def nested(levels: int) -> bytes:
    """Boxes of type moov within each other, without building each level anew: sizes first, then what is inside."""
    return b"".join(struct.pack(">I4s", 8 * (levels - n), b"moov") for n in range(levels))


def table_of(kind: bytes, entries: int) -> bytes:
    """A sample table that announces this many entries and holds none."""
    return box(kind, b"\0\0\0\0" + (struct.pack(">II", 0, entries) if kind == b"stsz" else struct.pack(">I", entries)))


def test_absurd_counts_and_deep_nesting_end_soon_and_within_the_limits(tmp_path: Path) -> None:
    whole = write_grey(tmp_path / "whole.mp4", [10, 20, 30]).read_bytes()
    cases = {"nested.mp4": box(b"ftyp", b"isom\0\0\2\0isom") + nested(200_000)}
    for kind in (b"stts", b"stsz", b"stsc", b"stco", b"elst", b"ctts"):
        at = whole.find(kind)
        if at < 0:
            continue
        count = at + 4 + (8 if kind == b"stsz" else 4)
        for value in (0x7FFFFFFF, 0xFFFFFFFF):
            cases[f"{kind.decode()}-{value:x}.mp4"] = whole[:count] + struct.pack(">I", value) + whole[count + 4 :]
    at = whole.find(b"stts") + 8  # a single entry that claims four billion frames of one tick each
    cases["long.mp4"] = whole[: at + 4] + struct.pack(">II", 0xFFFFFFFF, 1) + whole[at + 12 :]
    started = time.monotonic()
    with Guard(Limits(limit_s=20, stall_s=10, memory_bytes=512 << 20)) as guard:
        for name, content in cases.items():
            (tmp_path / name).write_bytes(content)
            try:
                assert guard.call(READ, {"path": str(tmp_path / name)}) <= 3, name
            except (UndecodableError, GuardedFailure):
                continue
    assert len(cases) >= 10
    assert time.monotonic() - started < 60
