"""Untrained tiny models of several families, each a folder as transformers writes it, with its own chat template."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    CLIPImageProcessor,
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from blm.model.backbone import save_backbone, tiny_config
from blm.model.chat_encoder import ChatEncoder, VideoShape
from blm.model.options import TinyBackboneConfig
from blm.model.packing import EncodedRow
from blm.model.prompts import CHAT_TEMPLATE
from blm.model.tokenizer import train_tokenizer

FAMILIES = ("qwen2_5_vl", "qwen3_vl", "internvl")
UNLISTED = "llava"
"""One that `blm.model.families` does not know by name; it has no videos."""
_TEXTS = ["Where is the cube?", "Push the cube to the goal.", "What happens in the video? yes no 1.5 seconds Frame1: "]
_DEFAULT_SYSTEM = (
    "{%- if messages[0]['role'] != 'system' -%}{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{%- endif -%}"
)
_TILE_PX = 56
_TEXT = {
    "vocab_size": 640,
    "hidden_size": 96,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
}


def write_family(folder: Path, family: str) -> Path:
    """A model of one of FAMILIES, or UNLISTED; weights large enough that every token matters to every later one."""
    tokenizer = _tokenizer(family)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        make = {"qwen2_5_vl": _qwen2_5, "qwen3_vl": _qwen3, "internvl": _internvl, "llava": _llava}[family]
        model, processor = make(tokenizer)
    save_backbone(folder, model.eval(), processor)
    return folder


def encoded_row(
    encoder: ChatEncoder,
    seed: int,
    *,
    sizes: tuple[tuple[int, int], ...] = (),
    frames: int = 0,
    question: str = "Where is the cube?",
    answer: str = "yes",
) -> EncodedRow:
    """A conversation about random pictures of these (height, width), and a video of so many frames (0: none)."""
    rng = np.random.default_rng(seed)
    images = [rng.integers(0, 255, (*size, 3), dtype=np.uint8) for size in sizes]
    videos = [(rng.integers(0, 255, (frames, 60, 90, 3), dtype=np.uint8), 2.0)] if frames else []
    shapes = [VideoShape(frames=len(v), height=v.shape[1], width=v.shape[2], fps=fps) for v, fps in videos]
    text = "<image>" * len(images) + "<video>" * len(videos) + question
    messages = [{"role": "user", "text": text}, {"role": "assistant", "text": answer}]
    chat = encoder.encode(messages, sizes, shapes)
    return EncodedRow(
        input_ids=chat.input_ids,
        labels=chat.labels,
        positions=chat.positions,
        media=encoder.media(images, videos),
        points_px=rng.uniform(0, 56, (len(images), 3, 2)).astype(np.float32),
    )


def _tokenizer(family: str) -> PreTrainedTokenizerFast:
    tokenizer = train_tokenizer(_TEXTS * 20, 512)
    tokenizer.chat_template = _DEFAULT_SYSTEM + CHAT_TEMPLATE
    if family == "internvl":
        words = {
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        }
        tokenizer.add_special_tokens({"extra_special_tokens": list(words.values())})
        tokenizer._set_model_specific_special_tokens(special_tokens=words)
        tokenizer.chat_template = (
            CHAT_TEMPLATE.replace("<|vision_start|><|image_pad|><|vision_end|>", "<IMG_CONTEXT>\n")
        ).replace("<|vision_start|><|video_pad|><|vision_end|>", "<video>\n")
    if family == "llava":
        tokenizer.add_special_tokens({"extra_special_tokens": ["<image>"]})
        tokenizer._set_model_specific_special_tokens(special_tokens={"image_token": "<image>"})
        tokenizer.chat_template = CHAT_TEMPLATE.replace("<|vision_start|><|image_pad|><|vision_end|>", "<image>\n")
    return tokenizer


def _qwen2_5(tokenizer: PreTrainedTokenizerFast) -> tuple[Any, Any]:
    size = TinyBackboneConfig(vision_depth=3, vision_width=64, depth=3, width=96, vocab_size=512)
    config = tiny_config(size, tokenizer)
    config.vision_config.fullatt_block_indexes = [1]
    config.vision_config.window_size = 56
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(min_pixels=28**2, max_pixels=16 * 28**2),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(min_pixels=28**2, max_pixels=9 * 28**2),
        chat_template=tokenizer.chat_template,
    )
    return Qwen2_5_VLForConditionalGeneration(config), processor


def _qwen3(tokenizer: PreTrainedTokenizerFast) -> tuple[Any, Any]:
    token = tokenizer.convert_tokens_to_ids
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": 640,
            "hidden_size": 96,
            "intermediate_size": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "head_dim": 32,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [8, 4, 4],
                "mrope_interleaved": True,
            },
            "pad_token_id": token("<|endoftext|>"),
            "eos_token_id": token("<|im_end|>"),
        },
        vision_config={
            "depth": 3,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 2,
            "out_hidden_size": 96,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0, 1],
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
    )
    processor = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(min_pixels=32**2, max_pixels=16 * 32**2, patch_size=16),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(size={"shortest_edge": 32**2, "longest_edge": 256 * 32**2}),
        chat_template=tokenizer.chat_template.replace("<|vision_start|><|video_pad|><|vision_end|>", "<|video_pad|>"),
    )
    return Qwen3VLForConditionalGeneration(config), processor


def _internvl(tokenizer: PreTrainedTokenizerFast) -> tuple[Any, Any]:
    config = InternVLConfig(
        text_config={"model_type": "qwen2", **_TEXT},
        vision_config={
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": [_TILE_PX, _TILE_PX],
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
    )
    size = {"height": _TILE_PX, "width": _TILE_PX}
    processor = InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(size=size, max_patches=4),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(size=size),
        image_seq_length=4,
        chat_template=tokenizer.chat_template,
    )
    return InternVLForConditionalGeneration(config), processor


def _llava(tokenizer: PreTrainedTokenizerFast) -> tuple[Any, Any]:
    config = LlavaConfig(
        text_config={"model_type": "llama", **_TEXT},
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": _TILE_PX,
            "patch_size": 14,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
    )
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": _TILE_PX}, crop_size={"height": _TILE_PX, "width": _TILE_PX}
        ),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template,
    )
    return LlavaForConditionalGeneration(config), processor
