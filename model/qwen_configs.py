"""Configurations in the shape of published Qwen2.5-VL models, for benchmarks and tests that need no weights."""

from typing import Any

from transformers import Qwen2_5_VLConfig

from blm.model.errors import UserError

_VISION = {
    "depth": 32,
    "hidden_size": 1280,
    "num_heads": 16,
    "intermediate_size": 3420,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
    "tokens_per_second": 2,
}
_SHAPES: dict[str, dict[str, Any]] = {
    "3b": {
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
    },
    "7b": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
    },
}


def qwen2_5_vl_config(size: str = "7b", **changes: Any) -> Qwen2_5_VLConfig:
    """The configuration of Qwen2.5-VL-3B or -7B. `changes` to the language model, such as `num_hidden_layers`.
    UserError for another size.
    """
    if size not in _SHAPES:
        raise UserError(f"no Qwen2.5-VL of size {size!r} is known; take one of {', '.join(_SHAPES)}")
    text = _SHAPES[size] | changes
    return Qwen2_5_VLConfig(
        text_config={
            **text,
            "max_position_embeddings": 128000,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
            "bos_token_id": 151643,
            "eos_token_id": 151645,
        },
        vision_config=_VISION | {"out_hidden_size": text["hidden_size"]},
        image_token_id=151655,
        video_token_id=151656,
        vision_start_token_id=151652,
        vision_end_token_id=151653,
        tie_word_embeddings=size == "3b",
    )
