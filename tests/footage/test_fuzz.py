"""The short form of ``benchmarks/fuzz.py``: damaged files end in the ledger, one by one, and harm no neighbour."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks.fuzz import KINDS, boxes, make, measure, mutated, nested_in, originals
from models.video.reader import UndecodableError, VideoReader
from tests.footage.media import write_grey


def test_the_same_seed_makes_the_same_files(tmp_path: Path) -> None:
    source = write_grey(tmp_path / "a.mp4", [10, 20, 30])
    folders = []
    for name, seed in (("one", 5), ("two", 5), ("three", 6)):
        (tmp_path / name).mkdir()
        make([source], 12, seed, tmp_path / name)
        folders.append({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()})
    assert folders[0] == folders[1] != folders[2]
    assert sum(content != source.read_bytes() for content in folders[0].values()) >= 11


def test_boxes_are_found_where_they_are(tmp_path: Path) -> None:
    data = write_grey(tmp_path / "a.mp4", [10, 20, 30]).read_bytes()
    found = boxes(data)
    assert {b"ftyp", b"moov", b"mdat", b"trak", b"stts", b"stsz"} <= {b.kind for b in found}
    assert sum(b.end - b.start for b in found if b.depth == 0) == len(data)
    assert all(data[b.start + 4 : b.start + 8] == b.kind for b in found)
    assert boxes(nested_in(b"", [b"moov"] * 12))[-1].depth == 11


def test_a_second_stream_is_tried_in_the_same_container(footage: Path, tmp_path: Path) -> None:
    # found by the counted run: FFmpeg lists one or two streams of this file, as it likes, each time it is opened
    name, content = mutated(originals(footage, 160_000, 130), 1350, 1)
    (tmp_path / name).write_bytes(content)
    for _ in range(8):
        with pytest.raises(UndecodableError), VideoReader(tmp_path / name) as reader:
            list(reader)


def test_every_kind_of_mutation_leaves_something_to_read(tmp_path: Path) -> None:
    data = write_grey(tmp_path / "a.mp4", [10, 20, 30]).read_bytes()
    for mutate in KINDS:
        for seed in range(20):
            assert len(mutate(bytearray(data), data, random.Random(seed))) >= 1


def test_damaged_files_end_in_the_ledger_and_harm_no_neighbour(tmp_path: Path, footage: Path) -> None:
    found = measure(originals(footage, 60_000, 30), 36, 3, tmp_path, neighbours=3, timeout_s=240)
    ends = [end for by_end in found["outcomes"].values() for end, count in by_end.items() for _ in range(count)]
    assert len(ends) == 36
    # both happen: damage that can be read over, and damage that cannot
    assert ends.count("accepted") >= 5
    assert ends.count("UndecodableError") >= 5
