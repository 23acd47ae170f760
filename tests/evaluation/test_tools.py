"""The models behind the metrics: weights are loaded whole or refused by name, plug-ins are checked, endpoints are asked once."""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from models.metrics.catalogue import METRICS
from models.metrics.dino import DinoEncoder
from models.metrics.dynamic_degree import moves, top_share
from models.metrics.endpoint import Endpoint, EndpointSpec
from models.metrics.film import Film, FilmSpec
from models.metrics.frechet import frechet_distance
from models.metrics.raft import Raft
from models.metrics.toolbox import Toolbox, ToolSpec, metric_info, one_thread
from models.metrics.tools import MetricInfo, Reference, Tools
from models.scorers.clip_tower import EncoderSpec
from models.subjects.protocols import F32, U8

torch.set_num_threads(1)
VIDEO = np.random.default_rng(0).integers(0, 255, (6, 40, 48, 3)).astype(np.uint8)


def save_dino(folder: Path, family: str, **more: Any) -> Path:
    from models.compat import prepare

    prepare()
    import transformers

    names = {
        "vit": ("ViTConfig", "ViTModel"),
        "dinov2": ("Dinov2Config", "Dinov2Model"),
        "bert": ("BertConfig", "BertModel"),
    }
    config, model = (getattr(transformers, name) for name in names[family])
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    model(config(**sizes, **more)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_dino(tmp_path_factory.mktemp("dino"), "dinov2", image_size=224, patch_size=14)


def test_dino_is_what_transformers_computes_of_its_own_processor(dino: Path) -> None:
    from transformers import BitImageProcessor, Dinov2Model

    pictures = [VIDEO[0], np.ascontiguousarray(VIDEO[1].transpose(1, 0, 2))]
    processor = BitImageProcessor(
        size={"shortest_edge": 256},
        crop_size={"height": 224, "width": 224},
        resample=3,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    with torch.inference_mode():
        pixels = torch.stack([processor(p, return_tensors="pt")["pixel_values"][0] for p in pictures])
        tokens = Dinov2Model.from_pretrained(dino).eval()(pixel_values=pixels).last_hidden_state[:, 0]
    expected = torch.nn.functional.normalize(tokens, dim=1).numpy()
    assert np.allclose(DinoEncoder(str(dino)).encode(pictures), expected, atol=1e-4)


def test_the_first_dino_is_a_plain_vit_and_other_models_are_refused(tmp_path: Path) -> None:
    vit = DinoEncoder(str(save_dino(tmp_path / "vit", "vit", image_size=224, patch_size=16)))
    assert np.allclose(np.linalg.norm(vit.encode(list(VIDEO)), axis=1), 1.0, atol=1e-5)
    with pytest.raises(ValueError, match="a bert model, not one of vit, dinov2"):
        DinoEncoder(str(save_dino(tmp_path / "bert", "bert", vocab_size=10)))
    with pytest.raises(ValueError, match=r"no config.json beside a model.safetensors"):
        DinoEncoder(str(tmp_path))


def test_weights_that_lack_a_layer_are_refused(dino: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(dino / "model.safetensors")
    lost = next(name for name in state if "layer.1" in name)
    save_file({k: v for k, v in state.items() if k != lost}, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text((dino / "config.json").read_text())
    with pytest.raises(ValueError, match="the weights lack"):
        DinoEncoder(str(tmp_path))


def test_a_number_does_not_depend_on_what_was_measured_before(dino: Path) -> None:
    spec = ToolSpec(clip=EncoderSpec(), dino=str(dino))
    keys = ("clip_t", "clip_i", "dino_i", "dino_i_masked", "subject_consistency", "background_consistency")
    videos = [VIDEO, VIDEO[:, :, ::-1].copy(), VIDEO]

    def measured(toolbox: Toolbox, video: U8) -> list[float | None]:
        tools = toolbox.for_video(8.0)
        return [toolbox.metric(key).run(video, "a toy", [Reference(VIDEO[0])], tools) for key in keys]

    shared = Toolbox(spec)
    first, _, again = (measured(shared, video) for video in videos)
    assert first == again == measured(Toolbox(spec), VIDEO)
    assert first[keys.index("dino_i")] is not None


def test_torch_measures_on_one_thread_and_has_its_threads_back() -> None:
    torch.set_num_threads(2)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_raft_takes_torchvisions_weights_and_keeps_the_picture_in_its_place(tmp_path: Path) -> None:
    from models.compat import prepare

    prepare()
    from torchvision.models.optical_flow import raft_large

    torch.manual_seed(0)
    torch.save(raft_large(weights=None).state_dict(), tmp_path / "raft.pth")
    flow = Raft(str(tmp_path / "raft.pth")).flow(VIDEO[0], VIDEO[1])
    assert flow.shape == (40, 48, 2)
    assert np.isfinite(flow).all()
    raft = Raft(str(tmp_path / "raft.pth"))
    # A model that answers with each pixel's own place: what is cut off again is the border, and not the picture.
    raft.model = lambda first, second, num_flow_updates: [
        torch.stack(torch.meshgrid(*(torch.arange(n) for n in first.shape[2:]), indexing="ij"))[None].float()
    ]
    place = raft.flow(VIDEO[0], VIDEO[1])
    top, left = (128 - 40) // 2, (128 - 48) // 2
    assert place[0, 0].tolist() == [top, left]
    assert place[-1, -1].tolist() == [top + 39, left + 47]
    (tmp_path / "other.pth").write_bytes(b"not weights")
    with pytest.raises(ValueError, match=r"other.pth: not the weights of torchvision's raft_large"):
        Raft(str(tmp_path / "other.pth"))


def test_the_top_share_is_the_mean_of_the_largest_twentieth() -> None:
    # 100 magnitudes 1..100 on 10 x 10: the five largest have mean 98, the shorter side is 10.
    flow = np.zeros((10, 10, 2), np.float32)
    flow[..., 0] = np.arange(1, 101).reshape(10, 10)
    assert top_share(flow) == pytest.approx(9.8)


@pytest.mark.parametrize(("movers", "verdict"), [(0, 0.0), (1, 0.0), (2, 1.0), (8, 1.0)])
def test_two_of_the_eight_pairs_of_nine_frames_must_move(movers: int, verdict: float) -> None:
    # VBench: round(4 x 9 / 16) = 2. A pair that moves by exactly 6 px at 256 does not move.
    still, moving = 6.0 / 256, 6.1 / 256
    assert moves([moving] * movers + [still] * (8 - movers)) == verdict


class Between(torch.nn.Module):
    """Stands in for FILM: its signature, and the mean of both pictures."""

    def forward(self, first: torch.Tensor, second: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        assert first.shape[2] % 64 == 0, "FILM needs multiples of 64"
        assert first.shape[3] % 64 == 0, "FILM needs multiples of 64"
        return first + (second - first) * time[:, :, None, None]


def test_film_is_pinned_padded_and_guesses_the_middle(tmp_path: Path) -> None:
    weights = tmp_path / "film.pt"
    torch.jit.script(Between()).save(str(weights))
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    film = Film(FilmSpec(str(weights), digest))
    before, after = VIDEO[0], VIDEO[-1]
    assert np.allclose(film.middle(before, after), (before.astype(np.float32) + after) / 2, atol=0.01)
    tools = Toolbox(ToolSpec(film=FilmSpec(str(weights), digest))).for_video(8.0)
    steady = np.repeat(VIDEO[:1], 3, 0)
    steady[2] = 255 - steady[2]  # the middle of a picture and its negative is grey
    grey = 1.0 - np.abs(steady[1].astype(np.float32) - 127.5).mean() / 255.0
    assert METRICS["motion_smoothness"].run(steady, "", [], tools) == pytest.approx(grey, abs=1e-4)
    with pytest.raises(ValueError, match="but 0000 was asked for"):
        FilmSpec(str(weights), "0000").digest()
    with pytest.raises(ValueError, match="there is no such file"):
        FilmSpec(str(tmp_path / "none.pt"), digest).digest()
    (tmp_path / "other.pt").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="not a TorchScript"):
        Film(FilmSpec(str(tmp_path / "other.pt"), hashlib.sha256(b"nothing").hexdigest()))


class Faces:
    """A face is where the first pixel is not black; whose, its colour says."""

    name = "faces/1"

    def largest(self, picture_HWC: U8) -> F32 | None:
        colour = picture_HWC[0, 0].astype(np.float32)
        return colour / np.linalg.norm(colour) if colour.any() else None


def test_a_lost_face_counts_as_zero_and_is_told_apart() -> None:
    video = np.zeros((4, 8, 8, 3), np.uint8)
    video[0, 0, 0] = (200, 0, 0)  # the reference's face
    video[1, 0, 0] = (0, 200, 0)  # another one: cosine 0
    video[2, 0, 0] = (3, 4, 0)  # cosine 3 / 5
    tools, reference = Tools(faces=Faces()), [Reference(video[0])]
    assert METRICS["face_similarity"].run(video, "", reference, tools) == pytest.approx((1 + 0 + 0.6 + 0) / 4)
    assert METRICS["face_rate"].run(video, "", reference, tools) == pytest.approx(0.75)
    for key in ("face_similarity", "face_rate"):
        assert METRICS[key].run(video, "", [Reference(video[3])], tools) is None  # a reference without a face


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A user's module with a metric, a recogniser and something that is neither."""
    module = ModuleType("mine_metrics")
    module.WARMTH = MetricInfo(
        "mine_metrics:WARMTH", "Warmth", lambda v, p, r, t: float(v[..., 0].mean()), "higher", "3"
    )  # type: ignore[attr-defined]
    module.Faces, module.Empty = Faces, object  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mine_metrics", module)
    return module


def test_a_users_own_metric_and_model_are_found_by_name(mine: ModuleType) -> None:
    spec = ToolSpec(faces="mine_metrics:Faces")
    assert spec.digests()["faces"] == "mine_metrics:Faces faces/1"
    toolbox = Toolbox(spec)
    assert toolbox.metric("mine_metrics:WARMTH").run(VIDEO, "", [], toolbox.tools) == pytest.approx(
        VIDEO[..., 0].mean()
    )
    assert isinstance(toolbox.tools.faces, Faces)
    for spec_, said in (
        ("mine_metrics:Empty", "lacks name, largest"),
        ("mine_metrics:None_such", "has no None_such"),
        ("no_such_module:X", "cannot import"),
    ):
        with pytest.raises(ValueError, match=said):
            ToolSpec(faces=spec_).digests()
    with pytest.raises(ValueError, match="not a MetricInfo"):
        metric_info("mine_metrics:Empty")


@pytest.fixture
def server() -> Iterator[tuple[str, list[dict[str, Any]], list[Any]]]:
    """A judge that answers what the test tells it to, and remembers what it was asked."""
    asked: list[dict[str, Any]] = []
    answers: list[Any] = []

    class Judge(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(
                json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                | {"auth": self.headers.get("Authorization")}
            )
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            self.send_response(answer if isinstance(answer, int) else 200)
            self.end_headers()
            self.wfile.write(b"" if isinstance(answer, int) else json.dumps(answer).encode())

        def log_message(self, *args: object) -> None:
            return

    http = HTTPServer(("127.0.0.1", 0), Judge)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}/", asked, answers
    http.shutdown()
    http.server_close()


def test_an_endpoint_is_asked_once_for_all_scores_of_a_video(server: tuple[str, list[Any], list[Any]]) -> None:
    url, asked, answers = server
    answers += [503, {"scores": {"MQ": 1.5, "TA": 3.25}}]  # the first try meets a server that is busy
    spec = EndpointSpec("reward", url, ("MQ", "TA"), token="secret")
    toolbox = Toolbox(ToolSpec(endpoints=(spec,)))
    tools = toolbox.for_video(8.0)
    found = [
        toolbox.metric(key).run(VIDEO, "a toy", [Reference(VIDEO[0])], tools) for key in ("reward.MQ", "reward.TA")
    ]
    assert found == [1.5, 3.25]
    assert len(asked) == 2
    assert asked[1]["prompt"] == "a toy"
    assert len(asked[1]["frames"]) == 2  # 6 frames of 8 a second at 2 a second
    assert asked[1]["auth"] == "Bearer secret"
    assert "secret" not in str(ToolSpec(endpoints=(spec,)).digests())


def test_an_endpoint_that_cannot_answer_is_an_error_and_no_number(server: tuple[str, list[Any], list[Any]]) -> None:
    url, asked, answers = server
    answers.append({"scores": {"MQ": "high"}})
    with pytest.raises(ValueError, match="without a finite MQ"):
        Endpoint(EndpointSpec("reward", url, ("MQ",))).score("MQ", VIDEO, "", [], Tools())
    answers[0] = 404
    with pytest.raises(ValueError, match="endpoint reward gave no scores"):
        Endpoint(EndpointSpec("reward", url, ("MQ",))).score("MQ", VIDEO, "", [], Tools())
    assert len(asked) == 2  # what the server refuses is not asked again


def test_the_frechet_distance_is_that_of_the_gaussians() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(40, 5)), rng.normal(1.0, 2.0, size=(30, 5)) @ rng.normal(size=(5, 5))
    from scipy.linalg import sqrtm

    a, b = np.cov(one.T), np.cov(other.T)
    expected = ((one.mean(0) - other.mean(0)) ** 2).sum() + np.trace(a + b - 2 * np.real(sqrtm(a @ b)))
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(one, one) == pytest.approx(0.0, abs=1e-9)
    assert frechet_distance(one, one + 3.0) == pytest.approx(5 * 9.0)  # moved alone: the squared distance of the means
    assert frechet_distance(one, other) == pytest.approx(frechet_distance(other, one))
    with pytest.raises(ValueError, match="two rows or more"):
        frechet_distance(one[:1], other)
