"""Words and shapes of prompts: position words, the policy's prompt, conversations in the Hugging Face shape."""

import numpy as np
import pytest

from blm.model.backbone import load_backbone
from blm.model.prompts import LOC_RANGE_M, LOC_TOKENS, chat_content, loc_token, loc_value_m, policy_messages


@pytest.fixture(scope="module")
def backbone(tiny_mllm):
    return load_backbone(tiny_mllm)


def test_placeholders_become_parts_where_they_stand():
    messages = [{"role": "system", "text": "Be kind."}, {"role": "user", "text": "<image><video>\nWhat <image>?"}]
    assert chat_content(messages) == [
        {"role": "system", "content": [{"type": "text", "text": "Be kind."}]},
        {
            "role": "user",
            "content": [
                {"type": "image"},
                {"type": "video"},
                {"type": "text", "text": "\nWhat "},
                {"type": "image"},
                {"type": "text", "text": "?"},
            ],
        },
    ]


def test_position_words_are_single_tokens_and_invert(backbone):
    tokenizer = backbone[1].tokenizer
    assert all(len(tokenizer.encode(word, add_special_tokens=False)) == 1 for word in LOC_TOKENS)
    for axis, (low, high) in enumerate(LOC_RANGE_M):
        for value in np.linspace(low + 1e-6, high - 1e-6, 50):
            assert abs(loc_value_m(axis, loc_token(axis, value)) - value) <= (high - low) / len(LOC_TOKENS)
        assert loc_token(axis, low - 1) == LOC_TOKENS[0]
        assert loc_token(axis, high + 1) == LOC_TOKENS[-1]


def test_policy_prompt_puts_pictures_first_and_one_full_stop():
    text = policy_messages(2, "push the cube. ")[0]["text"]
    assert text == "<image><image>\nYour task is push the cube."
