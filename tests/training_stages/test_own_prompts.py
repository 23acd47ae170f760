"""A user's own prompts: what is kept of them for sampling."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load

from models.backbones.load import load_backbone
from models.training.cache import CacheReader, unpack_text
from stages.training.generate import entries_of
from stages.training.own_prompts import OwnPromptsParams, own_prompts
from stages.training.params import BackboneParams
from tests.context import LocalContext

torch.set_num_threads(1)
WAN = BackboneParams(family="wan")


def test_texts_are_kept_without_padding_and_read_with_it(tmp_path: Path) -> None:
    Image.new("RGB", (40, 40), (200, 30, 30)).save(tmp_path / "r.png")
    row = {"sample_id": "one", "prompt": "a red ball rolls", "references": ["r.png"]}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "prompts.parquet")
    context = LocalContext(tmp_path / "own", own_prompts, {})
    context.run(OwnPromptsParams(table=str(tmp_path / "prompts.parquet"), backbone=WAN, bucket="9x32x32"))
    folder = context.outputs["latents"]
    (path,) = folder.glob("text-*")
    rows = [safe_open(path, "pt").get_slice(key).get_shape()[0] for key in safe_open(path, "pt").keys()]  # noqa: SIM118
    assert sorted(rows) == [1, len("a red ball rolls") + 1]  # bytes and the end of the text
    reader = CacheReader(folder, entries_of(context.outputs["cache"].to_pylist()))
    backbone = load_backbone(WAN.spec())
    assert torch.equal(reader.text("one"), backbone.encode_text(["a red ball rolls"])[0])
    assert torch.equal(reader.null_text, backbone.encode_text([""])[0])


def test_a_record_keeps_no_padding_and_older_ones_are_read_as_they_are() -> None:
    from stages.training.encoders import Prepare

    prepare = Prepare(WAN, "float32", "cpu")
    record = load(prepare(("prompt", "a dog"))["payload"])
    whole = load_backbone(WAN.spec()).encode_text(["a dog"])[0]
    assert len(record["text"]) == 6 < len(whole)
    assert torch.equal(unpack_text(record), whole)
    assert torch.equal(unpack_text({"text": whole}), whole)
