"""transformers' real classes at tiny size with random weights, saved as a user's folders of weights are."""

from __future__ import annotations

from pathlib import Path

import torch

WORDS = (
    "a",
    "an",
    "the",
    "brown",
    "dog",
    "red",
    "car",
    "cat",
    "woman",
    ".",
    "?",
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
)


def _save(folder: Path, *parts: object) -> Path:
    for part in parts:
        part.save_pretrained(folder)  # type: ignore[attr-defined]
    return folder


def grounding_dino(folder: Path) -> Path:
    from transformers import (
        BertConfig,
        BertTokenizerFast,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessor,
        GroundingDinoProcessor,
        SwinConfig,
    )

    torch.manual_seed(0)
    folder.mkdir(parents=True)
    vocabulary = ["[PAD]", *(w for w in WORDS if w != "[PAD]")]
    (folder / "words.txt").write_text("\n".join(vocabulary) + "\n")
    tokenizer = BertTokenizerFast(vocab=str(folder / "words.txt"))
    (folder / "words.txt").unlink()
    config = GroundingDinoConfig(
        backbone_config=SwinConfig(
            image_size=32, patch_size=4, embed_dim=12, depths=[1, 1, 1, 1], num_heads=[2, 2, 2, 2], window_size=2,
            out_features=["stage2", "stage3", "stage4"],
        ),
        text_config=BertConfig(
            vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
            max_position_embeddings=32,
        ),
        d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=16, decoder_ffn_dim=16, num_queries=6, max_text_len=16,
    )  # fmt: skip
    images = GroundingDinoImageProcessor(size={"shortest_edge": 96, "longest_edge": 128})
    return _save(folder, GroundingDinoForObjectDetection(config), GroundingDinoProcessor(images, tokenizer))


def _sam2_vision(width: int) -> object:
    from transformers import Sam2HieraDetConfig, Sam2VisionConfig

    hiera = Sam2HieraDetConfig(
        hidden_size=12, num_attention_heads=1, image_size=[128, 128], patch_stride=[4, 4], blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[12, 24, 48, 96], num_attention_heads_per_stage=[1, 1, 2, 2], window_size_per_stage=[8, 4, 4, 4],
        global_attention_blocks=[3], window_positional_embedding_background_size=[4, 4],
    )  # fmt: skip
    return Sam2VisionConfig(
        backbone_config=hiera, backbone_channel_list=[96, 48, 24, 12], backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]],
        fpn_hidden_size=width,
    )  # fmt: skip


def _sam2_parts(width: int) -> dict[str, object]:
    return {
        "vision_config": _sam2_vision(width),
        "prompt_encoder_config": {"hidden_size": width, "image_size": 128, "patch_size": 16, "mask_input_channels": 4},
        "mask_decoder_config": {
            "hidden_size": width, "num_hidden_layers": 1, "num_attention_heads": 2, "mlp_dim": 32, "iou_head_hidden_dim": 32,
            "iou_head_depth": 2,
        },
    }  # fmt: skip


def sam2(folder: Path) -> Path:
    from transformers import Sam2Config, Sam2ImageProcessor, Sam2Model, Sam2Processor

    torch.manual_seed(0)
    images = Sam2ImageProcessor(size={"height": 128, "width": 128}, mask_size={"height": 32, "width": 32})
    return _save(folder, Sam2Model(Sam2Config(**_sam2_parts(32))), Sam2Processor(images, target_size=128))


def sam2_video(folder: Path) -> Path:
    from transformers import (
        Sam2ImageProcessor,
        Sam2VideoConfig,
        Sam2VideoModel,
        Sam2VideoProcessor,
        Sam2VideoVideoProcessor,
    )

    torch.manual_seed(0)
    config = Sam2VideoConfig(
        **_sam2_parts(128), image_size=128, num_maskmem=2, memory_attention_hidden_size=128, memory_attention_num_layers=1,
        memory_attention_num_attention_heads=1, memory_attention_feed_forward_hidden_size=32,
        memory_attention_rope_feat_sizes=[8, 8], memory_encoder_hidden_size=128, memory_encoder_output_channels=64,
        mask_downsampler_embed_dim=128, memory_fuser_num_layers=1, memory_fuser_embed_dim=128, memory_fuser_intermediate_dim=32,
        max_object_pointers_in_encoder=2,
    )  # fmt: skip
    size = {"height": 128, "width": 128}
    images = Sam2ImageProcessor(size=size, mask_size={"height": 32, "width": 32})
    processor = Sam2VideoProcessor(images, Sam2VideoVideoProcessor(size=size), target_size=128)
    return _save(folder, Sam2VideoModel(config), processor)


def dinov2(folder: Path) -> Path:
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, mlp_ratio=1, image_size=28, patch_size=14
    )
    images = BitImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 28, "width": 28})
    return _save(folder, Dinov2Model(config), images)


def clip(folder: Path) -> Path:
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=16,
        projection_dim=24,
    )  # fmt: skip
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return _save(folder, CLIPVisionModelWithProjection(config), images)


def llava(folder: Path) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    torch.manual_seed(0)
    words = ["<pad>", "<unk>", "<s>", "</s>", "<image>", "describe", "USER", "ASSISTANT", *WORDS[:9]]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        additional_special_tokens=["<image>"], extra_special_tokens={"image_token": "<image>"},
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=16
    )
    text = LlamaConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, pad_token_id=0, bos_token_id=2, eos_token_id=3,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=4, image_seq_length=4, vision_feature_layer=-1
    )
    template = (
        "{% for m in messages %}USER {% for c in m['content'] %}{% if c['type'] == 'image' %}<image> {% else %}{{ c['text'] }} "
        "{% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %}ASSISTANT{% endif %}"
    )
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor = LlavaProcessor(
        images, tokenizer, patch_size=16, vision_feature_select_strategy="default", chat_template=template,
        image_token="<image>", num_additional_image_tokens=1,
    )  # fmt: skip
    return _save(folder, LlavaForConditionalGeneration(config), processor)


def yunet(file: Path) -> Path:
    """A network with YuNet's inputs and outputs that takes whatever is red over a cell of 32 px for a face of 64 px around it."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper, save

    nodes, constants, outputs = [], [], []
    for stride in (8, 16, 32):
        nodes.append(
            helper.make_node(
                "AveragePool", ["input"], [f"mean_{stride}"], kernel_shape=[stride] * 2, strides=[stride] * 2
            )
        )
        # Pictures come as BGR in 0..255. Only the widest stride answers; its box is 2 x 32 px wide.
        red = [[-0.1, -0.1, 0.1]] if stride == 32 else [[0.0, 0.0, 0.0]]
        parts = {
            "cls": (red, [-5.0 if stride == 32 else -100.0]),
            "obj": ([[0.0] * 3], [100.0]),
            "bbox": ([[0.0] * 3] * 4, [0.5, 0.5, np.log(2.0), np.log(2.0)]),
            "kps": ([[0.0] * 3] * 10, [0.5] * 10),
        }
        for part, (weight, bias) in parts.items():
            name = f"{part}_{stride}"
            channels = len(bias)
            constants += [
                numpy_helper.from_array(np.array(weight, np.float32).reshape(channels, 3, 1, 1), f"{name}_w"),
                numpy_helper.from_array(np.array(bias, np.float32), f"{name}_b"),
                numpy_helper.from_array(np.array([1, -1, channels], np.int64), f"{name}_s"),
            ]
            nodes.append(helper.make_node("Conv", [f"mean_{stride}", f"{name}_w", f"{name}_b"], [f"{name}_c"]))
            last = f"{name}_c"
            if part in ("cls", "obj"):
                nodes.append(helper.make_node("Sigmoid", [last], [f"{name}_p"]))
                last = f"{name}_p"
            nodes.append(helper.make_node("Transpose", [last], [f"{name}_t"], perm=[0, 2, 3, 1]))
            nodes.append(helper.make_node("Reshape", [f"{name}_t", f"{name}_s"], [name]))
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, None, channels]))
    given = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 320, 320])
    graph = helper.make_graph(nodes, "yunet", [given], outputs, constants)
    file.parent.mkdir(parents=True, exist_ok=True)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(file))
    return file
