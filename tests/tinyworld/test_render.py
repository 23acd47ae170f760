"""Rendered files: what the truth says is what a decoder sees."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt
import pytest

from tinyworld.compose import compose
from tinyworld.films import plan_world
from tinyworld.render import render_world, write_video
from tinyworld.sheet import contact_sheet

World = tuple[Path, dict[str, Any]]
Video = npt.NDArray[np.uint8]
Decode = Callable[[Path], Video]


def _whole(world: World) -> Iterator[tuple[Path, dict[str, Any]]]:
    folder, truth = world
    for video in truth["videos"]:
        if video["kind"] != "broken":
            yield folder / video["file"], video


def _shots(world: World, decode: Decode, defect: str | None) -> Iterator[tuple[Video, dict[str, Any]]]:
    """Frames of every shot with ``defect`` (None: of those worth keeping), without transitions."""
    found = 0
    for path, video in _whole(world):
        for shot in video["shots"]:
            if shot["defects"] == ([defect] if defect else []):
                found += 1
                yield decode(path)[shot["clean_start"] : shot["clean_end"]], shot
    assert found


def _grey(frame: Video) -> npt.NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8)


def _sharpness(frame: Video) -> float:
    return float(cv2.Laplacian(_grey(frame), cv2.CV_64F).var())


def test_videos_decode_to_the_frames_and_sizes_that_truth_names(world: World, decode: Decode) -> None:
    for path, video in _whole(world):
        assert decode(path).shape == (video["frames"], video["height"], video["width"], 3)
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.codec.canonical_name == video["codec"]
            assert stream.codec_context.pix_fmt == "yuv420p"
            assert stream.average_rate == video["fps"]


def test_two_renders_of_one_seed_agree_in_every_byte(tmp_path: Path) -> None:
    one, two = render_world(3, 3, tmp_path / "one"), render_world(3, 3, tmp_path / "two")
    names = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(two) for path in two.rglob("*") if path.is_file())
    assert [name for name in names if (one / name).read_bytes() != (two / name).read_bytes()] == []
    # Widths that are no multiple of 64 are where the encoder once wrote other bytes each time.
    truth = json.loads((one / "truth.json").read_text(encoding="utf-8"))
    assert any(video["width"] % 64 for video in truth["videos"])


def test_a_film_keeps_to_its_bytes_in_both_codecs(tmp_path: Path) -> None:
    film = plan_world(3, 3).films[0]
    for codec, suffix in (("h264", ".mp4"), ("vp9", ".webm")):
        for width in (224, 288):
            pictures = [cv2.resize(picture, (width, 160)) for picture in islice(compose(film), 30)]
            files = [tmp_path / f"{codec}{width}{turn}{suffix}" for turn in range(3)]
            assert [write_video(path, pictures, (width, 160), film.fps, codec) for path in files] == [30, 30, 30]
            assert len({path.read_bytes() for path in files}) == 1


def test_dark_shots_are_dark_and_the_darkest_good_shot_is_far_brighter(world: World, decode: Decode) -> None:
    dark = [_grey(frames[len(frames) // 2]).mean() for frames, _ in _shots(world, decode, "dark")]
    good = [_grey(frames[len(frames) // 2]).mean() for frames, _ in _shots(world, decode, None)]
    assert max(dark) < 24
    assert min(good) > 1.8 * max(dark)


def test_letterboxes_have_black_rows_above_and_below(world: World, decode: Decode) -> None:
    for frames, shot in _shots(world, decode, "letterbox"):
        height = frames.shape[1]
        rows = 2 * round(shot["defect_detail"]["strength"] * height / 2)
        assert 0.1 * height < rows < 0.2 * height
        # A row beside the picture may ring a little from the encoder.
        assert frames[:, : rows - 2].max() < 24
        assert frames[:, height - rows + 2 :].max() < 24
        assert frames[:, rows + 2 : height - rows - 2].mean() > 40


def test_static_slides_do_not_move_and_good_shots_do(world: World, decode: Decode) -> None:
    def change(frames: Video) -> float:
        """Middle of the mean changes from frame to frame: a codec may refine a still picture now and then."""
        return float(np.median([np.abs(b.astype(int) - a).mean() for a, b in pairwise(frames)]))

    still = [change(frames) for frames, _ in _shots(world, decode, "static")]
    moving = [change(frames) for frames, _ in _shots(world, decode, None)]
    assert max(still) < 0.15
    assert min(moving) > 0.3


def test_blurred_shots_are_less_sharp_than_every_good_one(world: World, decode: Decode) -> None:
    soft = [_sharpness(frames[len(frames) // 2]) for frames, _ in _shots(world, decode, "blur")]
    good = [_sharpness(frames[len(frames) // 2]) for frames, _ in _shots(world, decode, None)]
    assert max(soft) < 0.5 * min(good)


def test_text_stands_on_a_red_bar_through_the_whole_shot(world: World, decode: Decode) -> None:
    for frames, shot in _shots(world, decode, "text"):
        assert shot["defect_detail"]["text"].isupper()
        height = frames.shape[1]
        bar = frames[:, round(height * 0.70) : round(height * 0.80), 4:16].astype(int)
        assert (bar[..., 0] - bar[..., 1:].max(axis=-1)).mean() > 80
        letters = frames[:, round(height * 0.70) : round(height * 0.80)].min(axis=-1) > 200
        assert letters.mean() > 0.1


def test_a_cut_is_the_largest_change_around_the_frame_that_truth_names(world: World, decode: Decode) -> None:
    cuts = 0
    for path, video in _whole(world):
        frames = decode(path)
        for boundary in video["boundaries"]:
            if boundary["kind"] != "cut":
                continue
            cuts += 1
            at = boundary["frame"]
            near = range(max(1, at - 3), min(len(frames), at + 4))
            change = {i: np.abs(frames[i].astype(int) - frames[i - 1]).mean() for i in near}
            assert max(change, key=lambda i: change[i]) == at
            assert change[at] > 9
    assert cuts >= 24


def test_a_fade_is_black_in_its_middle_and_a_dissolve_mixes_its_neighbours(world: World, decode: Decode) -> None:
    kinds = set()
    for path, video in _whole(world):
        if video["how"] == "cropped":
            continue
        frames = decode(path).astype(float)
        for boundary in video["boundaries"]:
            start, end, middle = boundary["start"], boundary["end"], boundary["frame"]
            kinds.add(boundary["kind"])
            if boundary["kind"] == "fade":
                assert frames[middle - 1 : middle + 1].mean() < 6
            elif boundary["kind"] == "dissolve":
                mixed = (frames[start - 1] + frames[end]) / 2
                apart = np.abs(frames[start - 1] - frames[end]).mean()
                assert np.abs(frames[middle] - mixed).mean() < 0.5 * apart
    assert {"fade", "dissolve"} <= kinds


def test_boxes_lie_on_the_subject(world: World, decode: Decode) -> None:
    """Inside a box the toy's outline and pattern make more contrast than the same backdrop shows elsewhere."""
    higher = total = 0
    for path, video in _whole(world):
        frames = decode(path)
        height, width = frames.shape[1:3]
        for shot in video["shots"]:
            if not shot["keep"] or video["background"] in ("bricks", "grass", "stars"):
                continue
            for mark in shot["subjects"][0]["boxes"]:
                x0, y0, x1, y1 = (round(v * s) for v, s in zip(mark["box"], (width, height) * 2, strict=True))
                grey = _grey(frames[mark["frame"]]).astype(float)
                outside = np.ones_like(grey, bool)
                outside[y0:y1, x0:x1] = False
                total += 1
                higher += grey[y0:y1, x0:x1].std() > grey[outside].std()
    assert total > 50
    assert higher / total > 0.85


def test_copies_show_what_their_original_shows(world: World, decode: Decode) -> None:
    folder, truth = world
    ways = set()
    for video in truth["videos"]:
        if video["kind"] != "copy":
            continue
        ways.add(video["how"])
        copy, original = decode(folder / video["file"]), decode(folder / video["copy_of"])
        assert len(copy) == len(original)
        small = [
            cv2.resize(frames[len(frames) // 2], (32, 20), interpolation=cv2.INTER_AREA) for frames in (copy, original)
        ]
        assert np.corrcoef(small[0].ravel(), small[1].ravel())[0, 1] > 0.9
        assert (folder / video["file"]).read_bytes() != (folder / video["copy_of"]).read_bytes()
    assert ways == {"reencoded", "rescaled", "cropped"}


def test_broken_files_cannot_be_decoded_at_all(world: World) -> None:
    folder, truth = world
    broken = [video for video in truth["videos"] if video["kind"] == "broken"]
    assert {video["how"] for video in broken} == {"truncated", "empty", "garbage"}
    for video in broken:
        path = folder / video["file"]
        assert video["what_is_wrong"]
        assert (path.stat().st_size == 0) == (video["how"] == "empty")
        with pytest.raises((av.error.FFmpegError, ValueError)), av.open(str(path)) as container:
            next(container.decode(video=0))


def test_every_video_and_photograph_has_its_caption_beside_it(world: World) -> None:
    folder, truth = world
    for video in truth["videos"]:
        text = (folder / video["file"]).with_suffix(".txt").read_text(encoding="utf-8").strip()
        assert text == video.get("caption", text)
        assert " over " in text
    assert 3 <= len(truth["photos"]) <= 24
    for photo in truth["photos"]:
        picture = cv2.imread(str(folder / photo["file"]))
        assert picture is not None
        assert picture.shape == (192, 192, 3)
        assert (folder / photo["file"]).with_suffix(".txt").read_text(encoding="utf-8").strip() == photo["phrase"]
        assert photo["id"] in truth["identities"]


def test_a_finished_world_is_left_alone_and_a_strange_folder_is_refused(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    out = render_world(8, 1, tmp_path / "world", lambda done, total: calls.append((done, total)))
    assert calls == [(1, 1)]
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert render_world(8, 1, out) == out
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    with pytest.raises(FileExistsError, match="holds something else; name a new folder"):
        render_world(9, 1, out)


def test_an_interrupted_render_leaves_nothing_behind(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render_world(8, 2, tmp_path / "world", stop)
    assert list(tmp_path.iterdir()) == []


def test_truth_carries_its_schema_and_world_version(world: World) -> None:
    folder, truth = world
    assert (truth["schema_version"], truth["world_version"], truth["seed"], truth["count"]) == ("1.0", "2.0", 11, 24)
    assert json.loads((folder / "truth.json").read_text(encoding="utf-8")) == truth


def test_the_contact_sheet_is_a_large_picture(tmp_path: Path) -> None:
    path = contact_sheet(2, tmp_path / "sheet.png")
    picture = cv2.imread(str(path))
    assert picture is not None
    assert picture.shape[1] == 1640
    assert picture.shape[0] > 2500
    shutil.rmtree(tmp_path)
