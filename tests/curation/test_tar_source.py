"""WebDataset tars are listed by their headers, read by offset, and cannot name anything outside themselves."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_schemas.ids import video_id
from stages.contract import StageError
from stages.curation.ingest import ingest
from stages.curation.tar_source import Member, Refused, member_uri, members, split_member_uri
from stages.spool import local_copy
from tests.context import LocalContext

MP4 = b"\x00\x00\x00\x18ftypisom" + bytes(16)


def entry(
    name: str, content: bytes = MP4, kind: bytes = tarfile.REGTYPE, link: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(content) if kind == tarfile.REGTYPE else 0, kind, link
    return info, content


def pack(path: Path, entries: Sequence[tuple[tarfile.TarInfo, bytes]], form: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for info, content in entries:
            tar.addfile(info, io.BytesIO(content) if info.isreg() else None)
    return path


def listed(tmp_path: Path, source: Path) -> LocalContext:
    context = LocalContext(tmp_path / f"run-{len(list(tmp_path.glob('run-*')))}", ingest, source=source)
    context.run()
    return context


def rows_of(context: LocalContext) -> dict[str, dict[str, Any]]:
    return {row["path"]: row for row in context.outputs["sources"].to_pylist()}


def failures(context: LocalContext) -> dict[str, str]:
    return {r["error_message"].split(": ")[0]: r["error_type"] for r in context.ledger_rows if r["status"] == "failed"}


NAMES = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="\0/\\", exclude_categories=("Cs", "Cc")), min_size=1, max_size=130)
    .filter(lambda name: name.strip() and not name.startswith(".")),
    min_size=1, max_size=5, unique=True,
)  # fmt: skip


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=NAMES, sizes=st.lists(st.integers(0, 2000), min_size=5, max_size=5), gnu=st.booleans())
def test_every_member_is_found_by_name_and_read_by_offset(
    tmp_path: Path, names: list[str], sizes: list[int], gnu: bool
) -> None:
    contents = {name: bytes([n]) * size for n, (name, size) in enumerate(zip(names, sizes, strict=False))}
    entries = [entry(f"./a/{name}", content) for name, content in contents.items()]
    tar = pack(tmp_path / "x #1;%.tar", entries, tarfile.GNU_FORMAT if gnu else tarfile.PAX_FORMAT)
    found = list(members(str(tar)))
    assert [m.name for m in found] == [f"a/{name}" for name in contents]
    for member, content in zip(found, contents.values(), strict=True):
        assert isinstance(member, Member)
        uri = member_uri(str(tar), member)
        assert split_member_uri(uri) == (str(tar), member)
        with local_copy(uri) as copy:
            assert copy.path.read_bytes() == content
        assert not copy.path.exists()


def test_samples_become_rows_with_what_lies_beside_them(tmp_path: Path) -> None:
    entries = [
        entry("clip-001.mp4"),
        entry("clip-001.json", json.dumps({"caption": "from json", "license": "CC0", "author": "Ann"}).encode()),
        entry("clip-001.txt", b"from text\n"),
        entry("b/clip-002.high.webm", b"\x1a\x45\xdf\xa3" + bytes(64)),
        entry("b/clip-002.txt", b"named as WebDataset names it"),
        entry("._clip-001.mp4", b"left by a Mac"),
        entry("notes.pdf", b"%PDF"),
    ]
    pack(tmp_path / "s" / "shard-000.tar", entries)
    context = listed(tmp_path, tmp_path / "s")
    rows = rows_of(context)
    assert sorted(rows) == ["shard-000.tar/b/clip-002.high.webm", "shard-000.tar/clip-001.mp4"]
    first = rows["shard-000.tar/clip-001.mp4"]
    assert first["video_id"] == video_id("s", "shard-000.tar/clip-001.mp4")
    assert first["uri"].startswith(f"tar://{tmp_path}/s/shard-000.tar#clip-001.mp4;offset=")
    assert (first["caption"], first["caption_source"], first["licence"]) == ("from text", "sidecar", "CC0")
    assert json.loads(first["extra"]) == {"author": "Ann"}
    assert first["bytes"] == len(MP4)
    assert rows["shard-000.tar/b/clip-002.high.webm"]["caption"] == "named as WebDataset names it"
    [(_, told)] = context.events
    assert told["ignored"] == {".json": 1, ".pdf": 1, ".txt": 2}
    assert told["hidden"] == 1


def test_what_leads_out_of_a_tar_is_refused_with_a_row_each(tmp_path: Path) -> None:
    odd = [
        (entry("/etc/a.mp4"), "TarPathEscape"),
        (entry("../b.mp4"), "TarPathEscape"),
        (entry("x/../../c.mp4"), "TarPathEscape"),
        (entry("a\\..\\d.mp4"), "TarPathEscape"),
        (entry("e.mp4", kind=tarfile.SYMTYPE, link="/etc/passwd"), "TarLink"),
        (entry("f.mp4", kind=tarfile.LNKTYPE, link="good.mp4"), "TarLink"),
        (entry("g.mp4", kind=tarfile.CHRTYPE), "TarEntry"),
        (entry("h.mp4", kind=tarfile.FIFOTYPE), "TarEntry"),
    ]
    pack(tmp_path / "s" / "t.tar", [entry("good.mp4"), *(e for e, _ in odd), entry("dir", kind=tarfile.DIRTYPE)])
    context = listed(tmp_path, tmp_path / "s")
    assert list(rows_of(context)) == ["t.tar/good.mp4"]
    assert failures(context) == {f"t.tar/{info.name}": kind for (info, _), kind in odd}


def test_a_name_given_twice_is_a_failure_of_that_name(tmp_path: Path) -> None:
    pack(tmp_path / "s" / "t.tar", [entry("a.mp4"), entry("b.mp4"), entry("./a.mp4", MP4 * 2)])
    context = listed(tmp_path, tmp_path / "s")
    assert list(rows_of(context)) == ["t.tar/b.mp4"]
    assert failures(context) == {"t.tar/a.mp4": "RepeatedName"}


def test_a_torn_tar_gives_what_is_whole_and_says_what_is_not(tmp_path: Path) -> None:
    tar = pack(tmp_path / "s" / "t.tar", [entry("a.mp4"), entry("b.mp4", bytes(5000)), entry("c.mp4")])
    data = tar.read_bytes()
    tar.write_bytes(data[:3000])
    context = listed(tmp_path, tmp_path / "s")
    assert list(rows_of(context)) == ["t.tar/a.mp4"]
    assert failures(context) == {"t.tar/b.mp4": "TarTruncated", "t.tar": "TarError"}
    damaged = bytearray(data)
    damaged[1024:1030] = b"\xff" * 6  # the header of b.mp4
    tar.write_bytes(damaged)
    context = listed(tmp_path, tmp_path / "s")
    assert list(rows_of(context)) == ["t.tar/a.mp4"]
    assert failures(context) == {"t.tar": "TarError"}


@pytest.mark.parametrize("damage", ["cut off", "overwritten"])
def test_what_lies_in_a_tar_that_is_damaged_later_has_failed_and_is_not_removed(tmp_path: Path, damage: str) -> None:
    tar = pack(tmp_path / "s" / "t.tar", [entry("a.mp4"), entry("b.mp4", bytes(5000)), entry("c.mp4")])
    put = tmp_path / "s" / "other.mp4"
    put.write_bytes(MP4)
    LocalContext(tmp_path, ingest, source=tmp_path / "s").run()
    data = tar.read_bytes()
    tar.write_bytes(data[:3000] if damage == "cut off" else b"\xff" * len(data))
    context = LocalContext(tmp_path, ingest, source=tmp_path / "s")
    context.run()
    left = ["b.mp4", "c.mp4"] if damage == "cut off" else ["a.mp4", "b.mp4", "c.mp4"]
    found = failures(context)
    assert found.keys() >= {f"t.tar/{name}" for name in left}
    assert found["t.tar/c.mp4"] == "DamagedTar"
    assert context.outputs["removed"].num_rows == 0
    assert not [row for row in context.ledger_rows if row["status"] == "rejected"]


def test_a_list_may_name_a_member_by_its_place(tmp_path: Path) -> None:
    pack(tmp_path / "t.tar", [entry("a.mp4"), entry("b.mp4", MP4 * 3)])
    uris = [member_uri(str(tmp_path / "t.tar"), member) for member in members(str(tmp_path / "t.tar"))]
    (tmp_path / "list.csv").write_text("\n".join(["uri", *uris]))
    rows = rows_of(listed(tmp_path, tmp_path / "list.csv"))
    assert {uri: row["bytes"] for uri, row in rows.items()} == {uris[0]: len(MP4), uris[1]: 3 * len(MP4)}


def test_a_header_that_claims_gigabytes_is_not_read(tmp_path: Path) -> None:
    tar = pack(tmp_path / "t.tar", [entry("a.mp4")])
    bomb = tarfile.TarInfo("long")
    bomb.type, bomb.size = tarfile.XHDTYPE, 4 << 30
    tar.write_bytes(tar.read_bytes()[:1024] + bomb.tobuf(tarfile.USTAR_FORMAT) + bytes(10240))
    first, damage = members(str(tar))
    assert isinstance(first, Member)
    assert isinstance(damage, Refused)
    assert "claims" in damage.message


def test_compressed_tars_are_refused_by_name_and_by_content(tmp_path: Path) -> None:
    source = tmp_path / "s"
    pack(source / "good.tar", [entry("a.mp4")])
    for name in ("x.tar.gz", "x.tar"):
        with tarfile.open(source / name, "w:gz") as tar:
            info, content = entry("b.mp4")
            tar.addfile(info, io.BytesIO(content))
    context = listed(tmp_path, source)
    assert list(rows_of(context)) == ["good.tar/a.mp4"]
    assert failures(context) == {"x.tar.gz": "CompressedTar", "x.tar": "TarError"}


def test_a_tar_written_anew_is_noticed_when_a_member_is_read(tmp_path: Path) -> None:
    tar = pack(tmp_path / "t.tar", [entry("a.mp4"), entry("b.mp4")])
    [_, second] = members(str(tar))
    assert isinstance(second, Member)
    pack(tar, [entry("a.mp4", MP4 * 100), entry("b.mp4")])
    with pytest.raises(OSError, match=r"no longer holds b\.mp4"), local_copy(member_uri(str(tar), second)):
        pass


def test_one_tar_and_a_list_of_tars_are_sources(tmp_path: Path) -> None:
    pack(tmp_path / "s" / "t.tar", [entry("a.mp4"), entry("a.txt", b"its own"), entry("b.mp4")])
    assert sorted(rows_of(listed(tmp_path, tmp_path / "s" / "t.tar"))) == ["t.tar/a.mp4", "t.tar/b.mp4"]
    (tmp_path / "list.csv").write_text("path,caption,licence,batch\ns/t.tar,of all,CC0,7\n")
    rows = rows_of(listed(tmp_path, tmp_path / "list.csv"))
    assert (rows["s/t.tar/a.mp4"]["caption"], rows["s/t.tar/b.mp4"]["caption"]) == ("its own", "of all")
    assert {row["licence"] for row in rows.values()} == {"CC0"}
    assert {row["extra"] for row in rows.values()} == {'{"batch": 7}'}


def test_a_member_without_its_place_says_what_to_do() -> None:
    with pytest.raises(StageError, match="Give the tar itself"):
        split_member_uri("tar:///data/shard.tar#clip.mp4")
