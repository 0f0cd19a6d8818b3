"""The multimodal LLM: a small Qwen2.5-VL made from scratch, or any published one, as a Hugging Face folder.

A folder written by `save_backbone` is what `transformers` and vLLM load as it is.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch

import blm.model.lean  # noqa: F401  # isort: skip
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    PretrainedConfig,
    PreTrainedTokenizerBase,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from blm.model.errors import UserError
from blm.model.options import TinyBackboneConfig
from blm.model.vision import PATCH_PX, TOKEN_PX


def tiny_config(config: TinyBackboneConfig, tokenizer: PreTrainedTokenizerBase) -> Qwen2_5_VLConfig:
    """The Hugging Face configuration of a tiny Qwen2.5-VL for this tokenizer."""
    head_dim = 32
    token = tokenizer.convert_tokens_to_ids
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": -(-len(tokenizer) // 64) * 64,
            "hidden_size": config.width,
            "intermediate_size": -(-config.width * 8 // 3 // 64) * 64,
            "num_hidden_layers": config.depth,
            "num_attention_heads": config.width // head_dim,
            "num_key_value_heads": max(config.width // head_dim // 3, 1),
            "max_position_embeddings": config.max_length,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]},
            "bos_token_id": None,
            "eos_token_id": token("<|im_end|>"),
            "pad_token_id": token("<|endoftext|>"),
        },
        vision_config={
            "depth": config.vision_depth,
            "hidden_size": config.vision_width,
            "intermediate_size": -(-config.vision_width * 8 // 3 // 64) * 64,
            "num_heads": config.vision_width // head_dim,
            "patch_size": PATCH_PX,
            "out_hidden_size": config.width,
            "fullatt_block_indexes": list(range(config.vision_depth)),
            "window_size": 4 * TOKEN_PX,
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )


def build_tiny(
    config: TinyBackboneConfig, tokenizer: PreTrainedTokenizerBase, seed: int = 0
) -> Qwen2_5_VLForConditionalGeneration:
    """A randomly initialised tiny Qwen2.5-VL, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen2_5_VLForConditionalGeneration(tiny_config(config, tokenizer)).eval()


def make_processor(tokenizer: PreTrainedTokenizerBase, max_pixels: int = 1024 * TOKEN_PX**2) -> Qwen2_5_VLProcessor:
    """Qwen2.5-VL's own processor around our tokenizer; pictures keep their size down to one token."""
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(min_pixels=TOKEN_PX**2, max_pixels=max_pixels),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=tokenizer.chat_template,
    )


def save_backbone(
    folder: Path,
    model: torch.nn.Module,
    processor: Any,
    state_dict: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write a Hugging Face folder, complete or not at all (temporary name, then rename).

    state_dict: the whole weights, where `model` itself holds only this worker's shards of them, or another number
    format; what the folder says its format is follows them.
    """
    temporary = folder.with_name(f".tmp-{folder.name}-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary, state_dict=state_dict)
    processor.save_pretrained(temporary)
    if state_dict is not None:
        _set_dtype(temporary / "config.json", next(t.dtype for t in state_dict.values() if t.is_floating_point()))
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(temporary, folder)


def _set_dtype(file: Path, dtype: torch.dtype) -> None:
    """Let a config.json, and the parts inside it, say that the weights are of this format."""

    def named(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {k: str(dtype).removeprefix("torch.") if k == "dtype" else named(v) for k, v in value.items()}

    file.write_text(json.dumps(named(json.loads(file.read_text())), indent=2) + "\n")


def load_config(source: str | Path) -> PretrainedConfig:
    """The configuration of a local folder or a published model. UserError when it is missing or no image-text-to-text
    model."""
    path = Path(source)
    if (path.is_absolute() or str(source).startswith(".")) and not (path / "config.json").is_file():
        raise UserError(
            f"no model in {source} (config.json is missing); run the stage that makes it, or correct the path"
        )
    try:
        config = AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise _cannot_load(source, error) from error
    if type(config) not in AutoModelForImageTextToText._model_mapping:
        raise UserError(f"{source} is a {config.model_type} model; an image-text-to-text model is needed")
    return config


def load_processor(source: str | Path) -> Any:
    """The processor of a local folder or a published model: tokenizer, pictures, videos, chat template. UserError when
    it is missing."""
    try:
        return AutoProcessor.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise _cannot_load(source, error) from error


def load_backbone(source: str | Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """Model and processor of a local folder or a published model by its hub name, in eval mode; of any family that
    transformers loads as image-text-to-text. UserError as for `load_config`."""
    load_config(source)
    try:
        model = AutoModelForImageTextToText.from_pretrained(source, dtype=dtype)
    except (OSError, ValueError) as error:
        raise _cannot_load(source, error) from error
    return model.to(device).eval(), load_processor(source)


def _cannot_load(source: str | Path, error: Exception) -> UserError:
    return UserError(f"cannot load the model {source}: {str(error).splitlines()[0]}")
