"""The base's reading: a word-level tokenizer over what the world and the prompt layout can say, and a small T5."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from models.subjects.prompts import compose
from tinyworld import difficulty as d
from tinyworld.world import CAMERA_WORDS, MOTION_WORDS, phrase

LENGTH = 32
"""Tokens of a prompt: a whole one in the layout with one reference and a camera takes 31."""
SHAPE = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 1, "num_heads": 4}
_PUNCTUATION = ":.,[]"
_LAYOUT = "ref video 1 2 3 4 mostly subject"
_COLOURS = "red orange yellow green cyan blue purple pink white grey brown black turquoise violet"


def vocabulary() -> list[str]:
    """Special tokens, then words in a fixed order."""
    grammar = ["a an toy and over", *MOTION_WORDS.values(), *CAMERA_WORDS.values()]
    said = " ".join([*grammar, *d.PATTERNS, *d.BACKGROUNDS, *d.SHAPES, _LAYOUT, _COLOURS])
    words = sorted(set(re.findall(r"\w+", said)))
    return ["<pad>", "</s>", "<unk>", *_PUNCTUATION, *words]


def spoken() -> list[str]:
    """The words that occur in captions; the others start, and stay, without a meaning of their own."""
    said = " ".join(["a toy and over ref video 1", *MOTION_WORDS.values(), *CAMERA_WORDS.values(), *d.SHAPES])
    return sorted({*re.findall(r"\w+", said), *d.BACKGROUNDS, *_PUNCTUATION, "<pad>", "</s>"})


def make_tokenizer() -> Any:
    """A fast tokenizer of transformers: lower case, words and punctuation apart, ``</s>`` at the end."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = vocabulary()
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", words.index("</s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )


def make_text_encoder() -> Any:
    """A one-layer T5 encoder; words that captions never use start at zero, so that they disturb nothing."""
    import torch
    from transformers import T5Config, T5EncoderModel

    words = vocabulary()
    encoder = T5EncoderModel(T5Config(vocab_size=len(words), pad_token_id=0, eos_token_id=1, dropout_rate=0.0, **SHAPE))
    known = set(spoken())
    with torch.no_grad():
        encoder.shared.weight[[i for i, word in enumerate(words) if word not in known]] = 0.0
    return encoder


def teach(encoder: Any, tokenizer: Any, seed: int, steps: int) -> list[float]:
    """Train ``encoder`` for ``steps`` of 64 prompts to spread what a prompt says over all of its tokens; returns the losses.

    From every token alone, padding included, linear heads must tell shape, motion, background and camera. Real bases read
    with an encoder that was trained on text before; one that starts raw leaves a motion in the one token that names it, where
    a small transformer, which attends to 140 tokens, did not find it in 2,500 steps.
    """
    import torch
    from torch.nn.functional import cross_entropy

    options = (d.SHAPES, d.MOTIONS, d.BACKGROUNDS, tuple(CAMERA_WORDS))
    draws = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        heads = torch.nn.ModuleList(torch.nn.Linear(SHAPE["d_model"], len(each)) for each in options)
    parameters = [p.requires_grad_(True) for module in (encoder, heads) for p in module.parameters()]
    optimiser, losses = torch.optim.Adam(parameters, lr=3e-3), []
    for step in range(steps):
        said = torch.stack([torch.randint(len(each), (64,), generator=draws) for each in options])
        rng = np.random.default_rng([seed, step])
        prompts = []
        for row in said.T.tolist():
            shape, motion, background, camera = (each[i] for each, i in zip(options, row, strict=True))
            text = f"{phrase(shape)} {MOTION_WORDS[motion]} over {background}{CAMERA_WORDS[camera]}"
            prompts.append(prompt(text, phrase(shape), rng))
        ids = tokenizer(
            prompts, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
        ).input_ids
        states_BLD = encoder(ids)[0]
        told = zip(heads, said, strict=True)
        loss = torch.stack(
            [cross_entropy(head(states_BLD).flatten(0, 1), true.repeat_interleave(LENGTH)) for head, true in told]
        ).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    encoder.requires_grad_(False)
    return losses


def prompt(text: str, called: str, rng: np.random.Generator, layout_share: float = 0.3) -> str:
    """A caption as it is, or, in ``layout_share`` of draws, in the layout of subject-to-video prompts."""
    if rng.random() >= layout_share:
        return text
    return compose(text, [called], [called])


def save(folder: Path) -> None:
    make_tokenizer().save_pretrained(folder / "tokenizer")
