"""What the multimodal model reads and writes: chat format, policy prompt, position words.

The same functions train (Stage I), extract intents, evaluate and serve, so a prompt cannot drift between them.

Conversations follow Qwen's ChatML. A user turn names each picture by one `<image>` placeholder; images come before
text, so that (attention being causal) the states of image tokens do not depend on the instruction.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from blm.model.errors import UserError

Message = dict[str, str]  # {"role": "system" | "user" | "assistant", "text": str}


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that prompts need."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of a text."""


IMAGE_PLACEHOLDER = "<image>"
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


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedChat:
    """A conversation as token ids, with image placeholders expanded."""

    input_ids: list[int]
    labels: list[int]
    """`input_ids` where the loss counts (assistant text and its end-of-turn), IGNORE_INDEX elsewhere."""


def encode_chat(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    tokens_per_image: Sequence[int],
    *,
    generation_prompt: bool = False,
) -> EncodedChat:
    """Tokenise a conversation, expanding each `<image>` into that picture's number of image tokens.

    Equal, token for token, to `processor.apply_chat_template` on the same conversation (held by a test).
    Raises UserError when placeholders and pictures do not match in number.
    """
    placeholders = sum(message["text"].count(IMAGE_PLACEHOLDER) for message in messages)
    if placeholders != len(tokens_per_image):
        raise UserError(
            f"conversation has {placeholders} {IMAGE_PLACEHOLDER} placeholders for {len(tokens_per_image)} images;"
            " give one placeholder an image"
        )
    input_ids: list[int] = []
    labels: list[int] = []
    remaining = iter(tokens_per_image)
    encode = partial(tokenizer.encode, add_special_tokens=False)
    newline = encode("\n")
    for message in messages:
        head = f"<|im_start|>{message['role']}\n"
        body = _expand_images(message["text"], remaining) + "<|im_end|>"
        if message["role"] == "assistant":
            prompt, answer = encode(head), encode(body)
            input_ids += prompt + answer
            labels += [IGNORE_INDEX] * len(prompt) + answer
        else:
            turn = encode(head + body)
            input_ids += turn
            labels += [IGNORE_INDEX] * len(turn)
        input_ids += newline
        labels += [IGNORE_INDEX] * len(newline)
    if generation_prompt:
        prompt = encode("<|im_start|>assistant\n")
        input_ids += prompt
        labels += [IGNORE_INDEX] * len(prompt)
    return EncodedChat(input_ids=input_ids, labels=labels)


def _expand_images(text: str, tokens_per_image: Iterator[int]) -> str:
    parts = text.split(IMAGE_PLACEHOLDER)
    expanded = parts[0]
    for part in parts[1:]:
        expanded += "<|vision_start|>" + "<|image_pad|>" * next(tokens_per_image) + "<|vision_end|>" + part
    return expanded


def chat_content(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The same conversation in the OpenAI / Hugging Face shape: a list of typed parts a turn."""
    converted: list[dict[str, Any]] = []
    for message in messages:
        parts: list[dict[str, str]] = []
        for i, text in enumerate(message["text"].split(IMAGE_PLACEHOLDER)):
            if i > 0:
                parts.append({"type": "image"})
            if text:
                parts.append({"type": "text", "text": text})
        converted.append({"role": message["role"], "content": parts})
    return converted
