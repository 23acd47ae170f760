"""What a batch is made of: frames as shown, views that differ, and draws that depend on sample and visit alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from models.training.bucket import Bucket, choose_bucket
from models.training.cache import CacheReader
from models.training.feed import FeedSpec, SftFeed, rows_of
from models.training.randomness import TimestepSpec
from models.training.sampler import Sampler
from models.training.views import ViewSpec, fit_video, from_unit, letterbox, make_view, open_reference, video_to_unit
from stages.training.generate import entries_of
from stages.training.media import decode_frames, local_media
from tests.training_stages.conftest import Encoded
from tests.training_stages.footing import frame, png, write_clip

torch.set_num_threads(1)


def picture(colour: tuple[int, int, int] = (200, 40, 40)) -> bytes:
    return png(frame(colour, 0)[10:38, 0:30])


def view(number: int, sample: str = "s", reference: int = 0, spec: ViewSpec | None = None) -> np.ndarray:
    opened = open_reference(picture(), None, "keep")
    return make_view(
        opened,
        height=32,
        width=48,
        spec=spec or ViewSpec(),
        seed=0,
        sample_id=sample,
        reference=reference,
        view=number,
    )


def test_view_0_is_the_picture_and_the_others_are_seeded_by_sample_reference_and_view() -> None:
    plain = letterbox(open_reference(picture(), None, "keep"), height=32, width=48)
    assert np.array_equal(view(0), plain)
    assert np.array_equal(view(1), view(1))
    seen = [view(1), view(2), view(1, sample="t"), view(1, reference=1), plain]
    assert len({v.tobytes() for v in seen}) == 5


def test_colour_changes_the_subject_and_nothing_else_of_a_view() -> None:
    plain, coloured = view(1), view(1, spec=ViewSpec(colour=0.3))
    assert np.array_equal((plain == 255).all(axis=2), (coloured == 255).all(axis=2))  # the same place on the same white
    assert not np.array_equal(plain, coloured)
    assert np.array_equal(coloured, view(1, spec=ViewSpec(colour=0.3)))
    assert not np.array_equal(coloured, view(1, sample="t", spec=ViewSpec(colour=0.3)))
    assert np.array_equal(view(0), view(0, spec=ViewSpec(colour=0.3)))


def test_a_letterboxed_picture_is_whole_centred_and_on_white() -> None:
    box = letterbox(open_reference(picture(), None, "keep"), height=32, width=48)
    # 30x28 into 48x32: scale 32/28, so 34 wide (30 * 1.143 = 34.3), and 7 white columns on either side.
    assert (box[:, :7] == 255).all()
    assert (box[:, -7:] == 255).all()
    assert not (box[:, 7:41] == 255).all(axis=2).any()


def test_a_mask_shows_the_subject_on_white_and_must_fit() -> None:
    mask = np.zeros((28, 30), np.uint8)
    mask[8:20, 6:20] = 255
    shown = np.asarray(open_reference(picture(), png(mask), "white"))
    assert (shown[0, 0] == 255).all()
    assert tuple(shown[10, 10]) == (200, 40, 40)
    with pytest.raises(ValueError, match="does not fit its crop"):
        open_reference(picture(), png(mask[:5]), "white")


def test_pixels_survive_the_way_to_the_model_and_back() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 8, 10, 3), np.uint8)
    video = video_to_unit(frames)
    assert video.shape == (3, 3, 8, 10)
    assert float(video.min()) >= -1.0
    assert float(video.max()) <= 1.0
    assert np.array_equal(from_unit(video), frames)


def test_a_clip_is_scaled_to_cover_and_cut_in_the_middle() -> None:
    wide = np.zeros((1, 20, 80, 3), np.uint8)
    wide[:, :, 30:50] = 255
    square = fit_video(wide, height=20, width=20)
    assert square.shape == (1, 20, 20, 3)
    assert (square == 255).all()


def test_frames_are_spread_over_the_clip_or_taken_at_a_rate(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write_clip(path, (240, 20, 20), frames=24)

    def place(shown: np.ndarray) -> float:
        """Left edge of the red square, which starts at 4 and moves one pixel a frame."""
        red = (shown[:, :, 0].astype(int) - shown[:, :, 1]) > 100
        return float(np.flatnonzero(red.any(axis=0)).min()) - 4

    spread = decode_frames(path, 5, of=24)
    assert [place(f) for f in spread] == pytest.approx([0, 6, 12, 17, 23], abs=1)
    # 24 frames a second, asked for 6: every fourth.
    assert [place(f) for f in decode_frames(path, 5, of=24, fps=6.0)] == pytest.approx([0, 4, 8, 12, 16], abs=1)
    with pytest.raises(ValueError, match=r"holds 24 frames in 1.00 s, not 7 frames at 6 a second"):
        decode_frames(path, 7, of=24, fps=6.0)
    with pytest.raises(ValueError, match=r"holds 24 frames in 1.00 s, not 30 frames"):
        decode_frames(path, 5, of=30)


def test_media_are_found_by_the_end_of_their_uri(tmp_path: Path) -> None:
    (tmp_path / "ab").mkdir()
    (tmp_path / "ab" / "c d.mp4").write_bytes(b"x")
    assert local_media(tmp_path, "s3://bucket/store/media/ab/c%20d.mp4") == tmp_path / "ab" / "c d.mp4"
    assert local_media(tmp_path, "/store/media/none.mp4") == tmp_path / "none.mp4"


def test_the_bucket_is_the_nearest_shape_with_the_most_frames_that_fit() -> None:
    buckets = [Bucket.parse(t) for t in ("9x64x64", "17x64x64", "9x64x96", "49x64x96")]
    assert str(choose_bucket(buckets, frames=20, height=720, width=1280)) == "9x64x96"
    assert str(choose_bucket(buckets, frames=20, height=500, width=480)) == "17x64x64"
    assert choose_bucket(buckets, frames=8, height=64, width=64) is None


def feed(encoded: Encoded, world_size: int = 1, rank: int = 0, **drops: float) -> SftFeed:
    entries = entries_of(encoded.cache.to_pylist())
    sampler = Sampler(rows_of(entries), seed=0, global_batch=4)
    spec = FeedSpec(seed=0, timesteps=TimestepSpec(), **drops)  # type: ignore[arg-type]
    return SftFeed(CacheReader(encoded.latents, entries), sampler, spec, world_size=world_size, rank=rank)


def test_two_workers_together_see_exactly_the_batch_of_one(encoded: Encoded) -> None:
    for step in range(7):
        whole = feed(encoded)(step)
        parts = [feed(encoded, 2, rank)(step) for rank in range(2)]
        assert whole.sample_ids == parts[0].sample_ids + parts[1].sample_ids
        for name in ("latents_BCFHW", "references_BRCHW", "text_BLD", "noise_BCFHW", "t_B"):
            assert torch.equal(getattr(whole, name), torch.cat([getattr(part, name) for part in parts]))


def test_another_visit_has_other_noise_and_over_time_other_views(encoded: Encoded) -> None:
    made = feed(encoded)
    seen: dict[str, list[tuple[bytes, bytes, int]]] = {}
    for step in range(9):  # three epochs of three steps
        batch = made(step)
        assert batch.references_BRCHW is not None
        for i, sample in enumerate(batch.sample_ids):
            facts = (batch.noise_BCFHW[i].numpy().tobytes(), batch.references_BRCHW[i].numpy().tobytes())
            seen.setdefault(sample, []).append((*facts, int(batch.t_B[i])))
    assert all(len(visits) == 3 and len({v[0] for v in visits}) == 3 for visits in seen.values())
    assert any(len({v[1] for v in visits}) > 1 for visits in seen.values())


def test_dropped_captions_are_the_empty_prompt_and_dropped_references_are_gone_for_a_whole_step(
    encoded: Encoded,
) -> None:
    made = feed(encoded, caption_dropout=1.0, reference_dropout=1.0)
    batch = made(0)
    assert batch.references_BRCHW is None
    assert all(torch.equal(text, made.reader.null_text) for text in batch.text_BLD)
    some = [feed(encoded, reference_dropout=0.5)(step).references_BRCHW is None for step in range(20)]
    halves = [feed(encoded, 2, 1, reference_dropout=0.5)(step).references_BRCHW is None for step in range(20)]
    assert some == halves
    assert 3 < sum(some) < 17


@pytest.mark.footage
@pytest.mark.parametrize("name", ["cogvideo/horse.mp4", "webrtc-samples/chrome.webm"])
def test_real_footage_of_several_codecs_gives_the_bucket_asked_for(footage: Path, name: str) -> None:
    frames = decode_frames(footage / name, 9, of=17)
    assert frames.shape[0] == 9
    fitted = fit_video(frames, height=64, width=96)
    assert fitted.shape == (9, 64, 96, 3)
    assert fitted.std() > 5  # a picture, not a blank
    at_rate = decode_frames(footage / name, 9, of=17, fps=8.0)
    assert np.array_equal(at_rate[0], frames[0])
