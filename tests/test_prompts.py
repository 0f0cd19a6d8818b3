"""The chat format: equal to transformers' own processor, masks on answers alone, position words."""

import numpy as np
import pytest
from PIL import Image

from blm.model.backbone import load_backbone
from blm.model.errors import UserError
from blm.model.prompts import (
    IGNORE_INDEX,
    LOC_RANGE_M,
    LOC_TOKENS,
    chat_content,
    encode_chat,
    loc_token,
    loc_value_m,
    policy_messages,
)
from blm.model.rope import mrope_positions

CONVERSATION = [
    {"role": "user", "text": "<image><image>\nWhere is the cube?"},
    {"role": "assistant", "text": "<loc_05> <loc_63>"},
    {"role": "user", "text": "What next?"},
    {"role": "assistant", "text": "push"},
]


@pytest.fixture(scope="module")
def backbone(tiny_mllm):
    return load_backbone(tiny_mllm)


@pytest.mark.parametrize("generation_prompt", [False, True])
def test_tokens_and_positions_equal_the_processors(backbone, generation_prompt):
    model, processor = backbone
    pictures = np.random.default_rng(0).integers(0, 255, (2, 56, 84, 3), dtype=np.uint8)
    messages = CONVERSATION[:3] if generation_prompt else CONVERSATION
    text = processor.apply_chat_template(
        chat_content(messages), tokenize=False, add_generation_prompt=generation_prompt
    )
    theirs = processor(text=[text], images=[Image.fromarray(p) for p in pictures], return_tensors="pt")
    ours = encode_chat(processor.tokenizer, messages, [6, 6], generation_prompt=generation_prompt)
    assert ours.input_ids == theirs.input_ids[0].tolist()
    positions, _ = model.model.get_rope_index(
        theirs.input_ids, mm_token_type_ids=theirs.mm_token_type_ids, image_grid_thw=theirs.image_grid_thw
    )
    mine = mrope_positions(ours.input_ids, image_token_id=model.config.image_token_id, grids=[(2, 3), (2, 3)])
    assert np.array_equal(mine, positions[:, 0].numpy())


def test_only_answers_and_their_end_carry_loss(backbone):
    tokenizer = backbone[1].tokenizer
    chat = encode_chat(tokenizer, CONVERSATION, [4, 4])
    counted = [token for token in chat.labels if token != IGNORE_INDEX]
    assert tokenizer.decode(counted) == "<loc_05> <loc_63><|im_end|>push<|im_end|>"
    assert all(label in (IGNORE_INDEX, token) for label, token in zip(chat.labels, chat.input_ids, strict=True))


def test_placeholders_must_match_the_pictures(backbone):
    with pytest.raises(UserError, match="2 <image> placeholders for 1 images"):
        encode_chat(backbone[1].tokenizer, CONVERSATION, [4])


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
