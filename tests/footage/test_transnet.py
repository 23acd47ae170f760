"""The TransNetV2 adapter at its real size, with random weights saved to a file: nothing here says how well it finds shots."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from data_schemas.ids import video_id
from data_schemas.tables import SOURCES
from models.video.shots import Boundary, ShotParams, shot_detector
from models.video.transnet import MARGIN, STRIDE, WINDOW, TransNetDetector, TransNetV2, WeightsError, load_transnet
from stages.contract import StageError
from stages.curation.analyze import AnalyzeParams, ShotSettings, analyze
from tests.context import LocalContext
from tests.footage.media import still, texture, write


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("transnet") / "weights.pth"
    torch.save(TransNetV2().state_dict(), path)
    return path


def test_names_and_shapes_are_those_of_the_published_state_dict() -> None:
    """The counts follow from the paper's table: 3 stacks of 2 blocks of 4 separable convolutions, 16 filters, 1024 features."""
    shapes = {name: tuple(value.shape) for name, value in TransNetV2().state_dict().items()}
    assert len(shapes) == 3 * 2 * (4 * 2 + 5) + 4 + 2 + 2 + 2 + 2
    assert shapes["SDDCNN.0.DDCNN.0.Conv3D_1.layers.0.weight"] == (32, 3, 1, 3, 3)
    assert shapes["SDDCNN.2.DDCNN.1.Conv3D_8.layers.1.weight"] == (64, 128, 3, 1, 1)
    assert shapes["SDDCNN.1.DDCNN.0.bn.running_var"] == (128,)
    assert shapes["frame_sim_layer.projection.weight"] == (128, 64 + 128 + 256)
    assert shapes["frame_sim_layer.fc.weight"] == shapes["color_hist_layer.fc.weight"] == (128, 101)
    assert shapes["fc1.weight"] == (1024, 256 * 3 * 6 + 256)
    assert shapes["cls_layer1.weight"] == shapes["cls_layer2.weight"] == (1, 1024)


def test_a_window_gives_two_log_odds_a_frame(weights: Path) -> None:
    frames = torch.randint(0, 256, (2, 12, 27, 48, 3), dtype=torch.uint8)
    with torch.inference_mode():
        last, mixed = load_transnet(weights)(frames)
    assert last.shape == mixed.shape == (2, 12)
    assert torch.isfinite(last).all()


def test_colour_likeness_is_one_with_itself_and_zero_beyond_the_window() -> None:
    """With the layer after it set to pass on one of the 101 neighbours, that neighbour's likeness comes out."""
    network = TransNetV2().eval()
    layer = network.color_hist_layer.fc
    frames = torch.randint(0, 256, (1, 6, 27, 48, 3), dtype=torch.uint8)
    frames[:, 3] = frames[:, 2]
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
        layer.weight[0, 50] = 1.0  # itself
        layer.weight[1, 51] = 1.0  # the next frame
        out = network.color_hist_layer(frames)[0]
    assert out[:, 0].tolist() == pytest.approx([1.0] * 6, abs=1e-5)
    assert out[2, 1].item() == pytest.approx(1.0, abs=1e-5)
    assert out[5, 1].item() == 0.0


class _Scripted(torch.nn.Module):
    """Stands for the network: says of each frame what its first pixel says, so that stitching alone is looked at."""

    windows = 0

    def forward(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.windows += 1
        assert frames.shape == (1, WINDOW, 27, 48, 3)
        assert frames.dtype == torch.uint8
        level = frames[:, :, 0, 0, 0].float()
        return (level == 200).float() * 20 - 10, (level >= 100).float() * 20 - 10


def _say(frames: int, ends: dict[int, int]) -> list[Boundary]:
    detector = TransNetDetector(_Scripted(), 0.5, 0.0)  # type: ignore[arg-type]
    found = []
    for n in range(frames):
        picture = np.full((27, 48, 3), ends.get(n, 0), np.uint8)
        found += detector.frame(picture, n, n / 25)
    return found + detector.finish()


@pytest.mark.parametrize("frames", [1, 3, 24, 25, 49, 50, 51, 75, 99, 100, 149, 150, 151, 260])
def test_every_frame_gets_one_verdict_whatever_the_length(frames: int) -> None:
    """A shot ends at every fifth frame, so the next one begins at every frame after it, but for the video's end."""
    ends = dict.fromkeys(range(3, frames, 5), 200)
    assert [b.frame for b in _say(frames, ends)] == [n + 1 for n in ends if n + 1 < frames]


def test_a_shot_begins_after_the_frames_that_end_one_and_a_longer_transition_is_gradual() -> None:
    ends = {30: 200, **dict.fromkeys(range(60, 80), 100), 70: 200, 120: 200, 121: 200}
    assert _say(200, ends) == [
        Boundary(31, 31 / 25, "cut"),
        Boundary(71, 71 / 25, "dissolve"),
        Boundary(122, 122 / 25, "cut"),
    ]


def test_streaming_equals_whole_passes_over_padded_windows_on_their_kept_middles(weights: Path) -> None:
    """60 frames: with 25 first and 65 last ones around them they make two windows, at 0 and 50, of which 25:75 count."""
    network = load_transnet(weights)
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (60, 27, 48, 3), dtype=np.uint8)
    padded = np.concatenate([frames[:1].repeat(MARGIN, 0), frames, frames[-1:].repeat(65, 0)])
    with torch.inference_mode():
        whole = [network(torch.from_numpy(padded[None, n : n + WINDOW]))[0][0] for n in (0, STRIDE)]
    wanted = torch.cat([w[MARGIN : MARGIN + STRIDE] for w in whole])[:60].sigmoid().tolist()

    heard: list[float] = []
    detector = TransNetDetector(network, 0.5, 0.0)
    detector._verdict = lambda index, time_s, last, mixed: heard.append(last)  # type: ignore[assignment,func-returns-value]
    for n, frame in enumerate(frames):
        detector.frame(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), n, n / 25)
    detector.finish()
    assert heard == pytest.approx(wanted, abs=1e-6)


def test_memory_does_not_grow_with_the_video() -> None:
    detector = TransNetDetector(_Scripted(), 0.5, 0.0)  # type: ignore[arg-type]
    picture = texture(90, 160, 1)
    peaks = []
    tracemalloc.start()
    for n in range(3000):
        detector.frame(picture, n, n / 25)
        if n in (600, 2999):
            peaks.append(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
    assert len(detector._window) <= WINDOW
    assert peaks[1] < 1.2 * peaks[0]


def test_the_detector_is_chosen_by_its_setting(weights: Path) -> None:
    settings = ShotSettings(detector="transnetv2", transnetv2_weights=str(weights))
    detector = shot_detector(ShotParams(**settings.model_dump()))
    assert isinstance(detector, TransNetDetector)
    found = [b for n in range(30) for b in detector.frame(texture(90, 160, n // 15), n, n / 25)] + detector.finish()
    assert all(0 < b.frame < 30 for b in found)


def test_weights_count_by_their_bytes_and_not_by_their_path(weights: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere.pth"
    copy.write_bytes(weights.read_bytes())
    other = tmp_path / "other.pth"
    torch.manual_seed(1)
    torch.save(TransNetV2().state_dict(), other)
    recipes = [ShotSettings(detector="transnetv2", transnetv2_weights=str(p)).recipe() for p in (weights, copy, other)]
    assert recipes[0] == recipes[1] != recipes[2]
    assert ShotSettings(transnetv2_weights="unused").recipe() == ShotSettings().recipe()


@pytest.mark.parametrize("case", ["none", "absent", "text", "another network", "another shape"])
def test_weights_that_are_absent_or_wrong_are_named_with_the_remedy(case: str, weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.pth"
    state = torch.load(weights, weights_only=True)
    if case == "text":
        path.write_text("not weights")
    elif case == "another network":
        torch.save({"layer.weight": torch.zeros(3)}, path)
    elif case == "another shape":
        torch.save({**state, "fc1.bias": torch.zeros(7)}, path)
    given = None if case == "none" else str(path)
    with pytest.raises(WeightsError) as error:
        load_transnet(given)
    says = {"none": "no weights", "absent": "not there", "text": "not a PyTorch state dict",
            "another network": "is missing", "another shape": "(7,) instead of (1024,)"}  # fmt: skip
    assert says[case] in str(error.value)
    assert "analyze.shots.transnetv2_weights" in str(error.value)
    if given is not None:
        assert str(path) in str(error.value)
    with pytest.raises(StageError, match="TransNetV2"):
        ShotSettings(detector="transnetv2", transnetv2_weights=given).recipe()


def test_a_state_dict_inside_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.pth"
    torch.save({"state": SimpleNamespace(run=print)}, path)
    with pytest.raises(WeightsError, match="not a PyTorch state dict"):
        load_transnet(path)


def test_the_stage_cuts_with_it_in_its_guarded_process(weights: Path, tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    write(folder / "film.mp4", np.concatenate([still(1, 20), still(2, 20)]))
    stat = (folder / "film.mp4").stat()
    row = {"video_id": video_id("test", "film.mp4"), "uri": str(folder / "film.mp4"), "path": "film.mp4",
           "media_type": "video", "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}  # fmt: skip
    context = LocalContext(tmp_path, analyze, {"sources": SOURCES.table([row])})
    shots = ShotSettings(detector="transnetv2", transnetv2_weights=str(weights))
    context.run(AnalyzeParams(scorers=(), shots=shots))
    assert context.outputs["videos"].column("status").to_pylist() == ["ok"]
    found = context.outputs["shots"].to_pylist()
    assert (found[0]["start_frame"], found[-1]["end_frame"]) == (0, 40)
