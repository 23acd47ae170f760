"""The models that ship: their files are those of their cards, and a small sample agrees with the quality written there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import tinyworld.train  # noqa: F401  makes diffusers importable
from models import embedded
from models.backbones.linear_codec import LinearVideoCodec
from models.backbones.load import BackboneSpec, backbone_digest, load_backbone
from models.scorers.clip_tower import ClipTower, EncoderSpec, encoder_digests, load_head
from tinyworld.oracles import Oracles
from tinyworld.train import cards, measure
from tinyworld.train.base import open_base

NAMES = ("codec", "base", "encoder", "oracles")
FRESH = "shipped"
"""The purpose of these tests' scenes: neither the cards' fixed nor their later ones."""


def card(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((embedded.FOLDER / f"{name}.json").read_text())
    return content


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_all_of_it_stays_under_20_megabytes_and_is_safetensors() -> None:
    files = [path for path in embedded.FOLDER.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert sum(path.stat().st_size for path in files) < 20e6
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".md", ".py"}


@pytest.mark.parametrize("name", NAMES)
def test_the_files_are_those_of_the_card(name: str) -> None:
    told = card(name)
    assert told["files"]
    for file, digest in told["files"].items():
        assert cards.file_sha256(embedded.FOLDER / file) == digest, file
    assert (embedded.FOLDER / f"{name}.md").read_text() == cards.page(told)
    # Models of another difficulty would be judged by a world they were not trained for.
    assert told["difficulty_sha256"] == cards.difficulty_sha256()


def test_every_weights_file_is_on_a_card() -> None:
    known = {file for name in NAMES for file in card(name)["files"]}
    found = {path.relative_to(embedded.FOLDER).as_posix() for path in embedded.FOLDER.rglob("*.safetensors")}
    assert found <= known


def test_the_codec_reconstructs_as_its_card_says() -> None:
    codec = LinearVideoCodec.from_pretrained(embedded.BASE / "vae")
    found = measure.codec_quality(codec, FRESH, 60)["psnr_db"]
    assert found == pytest.approx(card("codec")["quality"]["fixed"]["psnr_db"], abs=0.8)


def agrees(found: dict[str, Any], told: dict[str, Any]) -> bool:
    """Whether two shares' 95% intervals touch."""
    return bool(found["low"] <= told["high"] and told["low"] <= found["high"])


def test_the_oracles_answer_as_their_card_says() -> None:
    codec = LinearVideoCodec.from_pretrained(embedded.BASE / "vae")
    told = card("oracles")["quality"]["fixed"]
    found = measure.oracle_quality(Oracles(), codec, FRESH, 80)
    for road in ("renders", "codec_round_trips"):
        for name in ("background", "motion", "shape", "pattern", "base", "accent"):
            assert agrees(found[road][name], told[road][name]), (road, name)
    assert found["renders"]["travel_correlation"] == pytest.approx(told["renders"]["travel_correlation"], abs=0.1)
    assert found["cleanness"]["rank_correlation"] > 0.8


def test_the_base_follows_prompts_as_its_card_says_and_knows_no_unseen_subject() -> None:
    told = card("base")["quality"]["fixed"]
    found = measure.base_quality(open_base(embedded.BASE), Oracles(), FRESH, 32)
    assert agrees(found["background_as_told"], told["background_as_told"])
    assert agrees(found["motion_as_told"], told["motion_as_told"])
    assert found["background_as_told"]["low"] > 0.125
    assert found["motion_as_told"]["low"] > 0.125
    assert found["identity_first_of_50"]["low"] <= 0.02


def test_the_encoder_ranks_and_retrieves_as_its_card_says() -> None:
    spec = EncoderSpec(model=embedded.NAME, aesthetic_head=embedded.NAME)
    tower, head = ClipTower(spec), load_head(embedded.NAME)
    told = card("encoder")["quality"]["fixed"]
    assert agrees(measure.caption_rank(tower, FRESH, 30).told(), told["caption_first_of_20"])
    assert agrees(measure.identity_retrieval(tower, FRESH, 1).told(), told["identity_top1_of_50"])
    falls = measure.aesthetic_falls(tower, head, FRESH, 12)
    for name in ("static", "text", "blur", "dark", "letterbox"):
        assert falls[name]["high"] < 0, name


def test_the_cards_meet_the_goals_on_seeds_that_nobody_could_choose_by() -> None:
    for quality in card("encoder")["quality"].values():
        assert quality["caption_first_of_20"]["value"] >= 0.8
        assert quality["identity_top1_of_50"]["value"] >= 0.9
        assert all(quality["aesthetic"][name]["high"] < 0 for name in ("static", "text", "blur", "dark", "letterbox"))
    for quality in card("base")["quality"].values():
        assert quality["background_as_told"]["low"] > 0.5
        assert quality["motion_as_told"]["low"] > 0.5
        # without a reference an unseen subject is a guess
        assert quality["identity_first_of_50"]["low"] <= 0.02 <= quality["identity_first_of_50"]["high"]


def test_production_loaders_know_the_models_by_name(tmp_path: Path) -> None:
    spec = BackboneSpec(weights=embedded.NAME)
    assert backbone_digest(spec) == backbone_digest(BackboneSpec(weights=str(embedded.BASE)))
    backbone = load_backbone(spec)
    assert backbone.weights_note.startswith(embedded.NAME)
    assert "random" not in backbone.weights_note
    digests = encoder_digests(EncoderSpec(model=embedded.NAME, aesthetic_head=embedded.NAME))
    assert set(digests) == {"encoder", "encoder_config", "aesthetic_head"}
    with pytest.raises(ValueError, match="embedded:tinyworld"):
        BackboneSpec(weights=str(tmp_path / "nothing")).check()
