"""A vision-language model on this machine, by transformers' own classes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from models.captioners.protocols import Answer, WriterUnavailable
from models.subjects.weights import Weights


class LocalWriter:
    """A ``Writer`` over ``AutoModelForImageTextToText`` and its chat template; greedy, so that the same pictures give the same text."""

    def __init__(self, weights: Weights, *, device: str = "cpu", max_tokens: int = 300) -> None:
        from models.compat import prepare

        prepare()
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self.name = weights.name("local")
        self.device, self.max_tokens = device, max_tokens
        self.model: Any = weights.load(AutoModelForImageTextToText, device)
        self.processor: Any = weights.processor(AutoProcessor)

    def ask(self, instruction: str, pictures: Sequence[bytes] = ()) -> Answer:
        """See ``Writer.ask``."""
        import torch
        from PIL import Image

        opened = [Image.open(io.BytesIO(p)).convert("RGB") for p in pictures]
        content: list[dict[str, Any]] = [{"type": "image", "image": picture} for picture in opened]
        content.append({"type": "text", "text": instruction})
        inputs = self.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(self.device)
        given = int(inputs["input_ids"].shape[1])
        with torch.inference_mode():
            made = self.model.generate(**inputs, max_new_tokens=self.max_tokens, do_sample=False)
        written = made[0, given:]
        text = self.processor.decode(written, skip_special_tokens=True).strip()
        if not text:
            raise WriterUnavailable(f"{self.name} wrote nothing")
        return Answer(text, given, int(written.shape[0]))
