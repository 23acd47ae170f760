"""What is asked of every system, and what of it a folder holds."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.subjects.frames import png
from stages.contract import StageError
from stages.evaluation.collect import CollectParams, collect
from stages.evaluation.manifest import Asked, read_manifest, write_manifest, write_table
from stages.evaluation.protocols import dreambooth, opens2v
from tests.context import LocalContext

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "dreambooth"
LISTING = """Classes

subject_name,class
cup,mug
tom,cat
absent,toy

Object Prompts

prompt_list = [
'a {0} {1} in the jungle'.format(unique_token, class_token),
'a red {0} {1}'.format(unique_token, class_token)
]

Live Subject Prompts

prompt_list = [
'a {0} {1} wearing a red hat'.format(unique_token, class_token)
]
"""


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "dreambooth"
    for subject in ("cup", "tom"):
        (folder / subject).mkdir(parents=True)
        for number in range(2):
            (folder / subject / f"0{number}.jpg").write_bytes(png(np.full((8, 8, 3), number, np.uint8)))
    (folder / "prompts_and_classes.txt").write_text(LISTING)
    return folder


def test_dreambooth_asks_its_class_prompts_without_the_rare_token(photographs: Path, tmp_path: Path) -> None:
    asked = dreambooth(photographs, tmp_path, seeds=(0, 1))
    assert [(a.prompt_id, a.prompt) for a in asked] == [
        ("cup-00", "a mug in the jungle"),
        ("cup-01", "a red mug"),
        ("tom-00", "a cat wearing a red hat"),
    ]
    assert asked[0].references == ("dreambooth/cup/00.jpg",)
    assert asked[0].seeds == (0, 1)
    assert [a.prompt_id for a in dreambooth(photographs, tmp_path, prompts=1)] == ["cup-00", "tom-00"]
    with pytest.raises(StageError, match="holds 2 pictures, 3 were asked for"):
        dreambooth(photographs, tmp_path, references=3)
    with pytest.raises(StageError, match="no copy of DreamBooth"):
        dreambooth(tmp_path, tmp_path)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the DreamBooth photographs are not beside this checkout")
def test_the_real_data_set_asks_25_prompts_of_each_of_its_subjects(tmp_path: Path) -> None:
    asked = dreambooth(SHARED, tmp_path)
    subjects = [p.name for p in SHARED.iterdir() if p.is_dir()]
    assert len(asked) == 25 * len(subjects)
    by_id = {a.prompt_id: a.prompt for a in asked}
    assert by_id["backpack-00"] == "a backpack in the jungle"
    assert by_id["pink_sunglasses-20"] == "a red glasses"
    assert by_id["dog2-10"] == "a dog wearing a red hat"
    write_manifest(tmp_path / "manifest.jsonl", asked)
    assert len(read_manifest(tmp_path / "manifest.jsonl").asked) == len(asked)


def test_opens2v_asks_one_video_of_each_sample_by_its_id(photographs: Path, tmp_path: Path) -> None:
    listing = tmp_path / "Open-Domain_Eval.json"
    sample = {
        "img_paths": ["dreambooth/cup/00.jpg", "dreambooth/tom/00.jpg"],
        "prompt": "A cat.\n\n",
        "class_label": ["Cat"],
    }
    listing.write_text(json.dumps({"singleobj_1": sample}))
    (asked,) = opens2v(listing, tmp_path)
    assert asked == Asked(prompt_id="singleobj_1", prompt="A cat.", references=tuple(sample["img_paths"]), seeds=(42,))
    listing.write_text(json.dumps({"singleobj_1": {"prompt": "A cat."}}))
    with pytest.raises(StageError, match="not in OpenS2V-Eval's layout"):
        opens2v(listing, tmp_path)


@given(
    st.lists(
        st.builds(
            Asked,
            prompt_id=st.from_regex(r"[A-Za-z0-9_.-]{1,9}", fullmatch=True),
            prompt=st.text(min_size=1),
            seeds=st.lists(st.integers(0, 9), min_size=1, unique=True).map(tuple),
        ),
        min_size=1,
        unique_by=lambda a: a.prompt_id,
    )
)
@settings(max_examples=30, deadline=None)
def test_a_manifest_reads_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, asked: list[Asked]) -> None:
    path = tmp_path_factory.mktemp("m") / "m.jsonl"
    write_manifest(path, asked)
    assert read_manifest(path).asked == tuple(asked)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (['{"prompt_id": "a"}'], "line 1: prompt: Field required"),
        (["{"], "line 1: not JSON"),
        (['{"prompt_id": "a/b", "prompt": "x"}'], "line 1: prompt_id"),
        (['{"prompt_id": "a", "prompt": "x", "seeds": [1, 1]}'], "a seed stands twice"),
        (['{"prompt_id": "a", "prompt": "x", "references": ["no.png"]}'], r"line 1: there is no picture .*no\.png"),
        (['{"prompt_id": "a", "prompt": "x"}'] * 2, "prompt_id a stands 2 times"),
        ([], "asks for nothing"),
    ],
)
def test_a_bad_manifest_is_told_by_line(tmp_path: Path, lines: list[str], said: str) -> None:
    (tmp_path / "m.jsonl").write_text("\n".join(lines))
    with pytest.raises(StageError, match=said):
        read_manifest(tmp_path / "m.jsonl")


def test_a_manifest_is_also_a_table_for_our_own_sampling(photographs: Path, tmp_path: Path) -> None:
    from stages.training.own_table import OwnParams, read_rows

    write_manifest(tmp_path / "m.jsonl", dreambooth(photographs, tmp_path))
    write_table(tmp_path / "m.parquet", read_manifest(tmp_path / "m.jsonl"))
    rows = read_rows(OwnParams(table=str(tmp_path / "m.parquet")), ("prompt",))
    assert [(r.sample_id, r.prompt) for r in rows][:2] == [("cup-00", "a mug in the jungle"), ("cup-01", "a red mug")]
    assert pq.read_table(tmp_path / "m.parquet").column("references")[0].as_py() == [
        str(photographs / "cup" / "00.jpg")
    ]


def asked_of(tmp_path: Path, *lines: dict[str, Any]) -> Path:
    path = tmp_path / "manifest.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


def collected(tmp_path: Path, manifest: Path, folder: Path, **more: Any) -> LocalContext:
    ctx = LocalContext(tmp_path / "ctx", collect)
    ctx.run(CollectParams(manifest=str(manifest), videos={"theirs": str(folder)}, **more))
    return ctx


@pytest.mark.parametrize(
    ("names", "pattern"),
    [
        (("p-7.mp4", "p-9.webm"), None),
        (("p_7.mp4", "p_9.mp4"), None),
        (("p/7.mp4", "p/9.mp4"), None),
        (("a cat-0.mp4", "a cat-1.mp4"), None),
        (("p-final-1.webm", "p-final-2.webm"), "{prompt_id}-final-{index}"),
    ],
)
def test_videos_are_found_by_the_usual_names_or_by_a_pattern(
    tmp_path: Path, names: tuple[str, ...], pattern: str | None
) -> None:
    manifest = asked_of(tmp_path, {"prompt_id": "p", "prompt": "a cat", "seeds": [7, 9]})
    for number, name in enumerate(names):
        (tmp_path / "v" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "v" / name).write_bytes(b"%d" % number)
    ctx = collected(tmp_path, manifest, tmp_path / "v", pattern=pattern)
    rows = ctx.outputs["samples"].sort_by("seed").to_pylist()
    found = [(ctx.outputs["videos"] / os.path.basename(r["uri"])).read_bytes() for r in rows]
    assert [r["seed"] for r in rows] == [7, 9]
    assert found == [b"0", b"1"]


def test_what_is_missing_is_a_failed_row_and_what_nobody_asked_for_is_told(photographs: Path, tmp_path: Path) -> None:
    manifest = asked_of(
        tmp_path,
        {"prompt_id": "p", "prompt": "a cat", "references": ["dreambooth/tom/00.jpg", "dreambooth/tom/01.jpg"]},
        {"prompt_id": "q", "prompt": "a dog"},
    )
    (tmp_path / "v").mkdir()
    for name in ("p.mp4", "stray.mp4", "notes.txt"):
        (tmp_path / "v" / name).write_bytes(b"x")
    ctx = collected(tmp_path, manifest, tmp_path / "v")
    p, q = ctx.outputs["samples"].sort_by("prompt_id").to_pylist()
    assert p["status"] == "ok"
    assert p["reference_uri"] == p["reference_uris"][0]
    assert len(list((ctx.outputs["videos"] / "references").iterdir())) == 2
    assert (q["status"], q["error_type"]) == ("failed", "Missing")
    assert "looked for q-0, q_0, q/0" in q["error_message"]
    ended = {r["record_id"]: r["status"] for r in ctx.ledger_rows}
    assert ended == {"theirs/p/0": "accepted", "theirs/q/0": "failed", "theirs/stray": "rejected"}


def test_a_folder_that_answers_nothing_is_an_error_with_its_remedy(tmp_path: Path) -> None:
    manifest = asked_of(tmp_path, {"prompt_id": "p", "prompt": "a cat"})
    (tmp_path / "v").mkdir()
    with pytest.raises(StageError, match="holds no video"):
        collected(tmp_path, manifest, tmp_path / "v")
    (tmp_path / "v" / "other.mp4").write_bytes(b"x")
    with pytest.raises(StageError, match=r"none of the 1 videos .* --pattern"):
        collected(tmp_path, manifest, tmp_path / "v")
    (tmp_path / "v" / "other.webm").write_bytes(b"x")
    with pytest.raises(StageError, match="have one name"):
        collected(tmp_path, manifest, tmp_path / "v")
    with pytest.raises(ValueError, match="write a pattern of"):
        CollectParams(manifest="m", videos={"a": "b"}, pattern="{id}")
