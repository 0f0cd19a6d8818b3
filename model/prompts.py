"""What the multimodal model reads and writes, in words: placeholders, system turns, policy prompt, position words, and
the chat format of backbones made from scratch. `blm.model.chat_encoder` makes tokens of it.

The same functions train (Stage I), extract intents, evaluate and serve, so a prompt cannot drift between them.

Conversations follow Qwen's ChatML. A user turn names each picture by one `<image>` placeholder; images come before
text, so that (attention being causal) the states of image tokens do not depend on the instruction.
"""

import re
from collections.abc import Sequence
from typing import Any

Message = dict[str, str]  # {"role": "system" | "user" | "assistant", "text": str}

IMAGE_PLACEHOLDER = "<image>"
VIDEO_PLACEHOLDER = "<video>"
VIDEO_PLACEHOLDER = "<video>"
_PLACEHOLDERS = re.compile(f"({IMAGE_PLACEHOLDER}|{VIDEO_PLACEHOLDER})")
IGNORE_INDEX = -100  # label of tokens that carry no loss, the value torch's cross entropy skips

LOC_BINS = 64
LOC_RANGE_M = ((-0.32, 0.32), (-0.32, 0.32), (0.0, 0.32))
"""World x, y, z ranges (m) that the position words cover: 1 cm a word in x and y, 0.5 cm in z."""

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
LOC_TOKENS = tuple(f"<loc_{i:02d}>" for i in range(LOC_BINS))

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{%- if message['content'] is string -%}{{ message['content'] }}"
    "{%- else -%}{%- for part in message['content'] -%}"
    "{%- if part['type'] in ('image', 'image_url') -%}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{%- elif part['type'] == 'video' -%}{{ '<|vision_start|><|video_pad|><|vision_end|>' }}"
    "{%- elif part['type'] == 'text' -%}{{ part['text'] }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{{ '<|im_end|>\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)
"""Qwen2.5-VL's chat format without its default system turn, which a model of a few million parameters has no use
for."""


SYSTEM_PROMPTS = {
    "embodied": "You are the mind of a robot. Look closely and answer from what you see.",
    "general": "You are a helpful assistant.",
    "cosmos": "Answer the questions.",
}
"""System turn by task family, for published backbones. Models made from scratch are asked without one."""


def loc_token(axis: int, value_m: float) -> str:
    """The position word of a coordinate in metres along world axis 0, 1 or 2; values outside the range are
    clamped."""
    low, high = LOC_RANGE_M[axis]
    bin_index = int((value_m - low) / (high - low) * LOC_BINS)
    return LOC_TOKENS[min(max(bin_index, 0), LOC_BINS - 1)]


def loc_value_m(axis: int, token: str) -> float:
    """The centre, in metres, of the interval a position word stands for. ValueError for any other word."""
    low, high = LOC_RANGE_M[axis]
    return low + (LOC_TOKENS.index(token) + 0.5) * (high - low) / LOC_BINS


def policy_messages(n_images: int, instruction: str) -> list[Message]:
    """The prompt whose hidden states condition the policy: pictures first, then the task."""
    text = IMAGE_PLACEHOLDER * n_images + f"\nYour task is {instruction.rstrip('. ')}."
    return [{"role": "user", "text": text}]


def chat_content(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The same conversation in the OpenAI / Hugging Face shape: a list of typed parts a turn."""
    converted: list[dict[str, Any]] = []
    for message in messages:
        parts: list[dict[str, str]] = []
        for piece in _PLACEHOLDERS.split(message["text"]):
            if piece in (IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER):
                parts.append({"type": piece.strip("<>")})
            elif piece:
                parts.append({"type": "text", "text": piece})
        converted.append({"role": message["role"], "content": parts})
    return converted
