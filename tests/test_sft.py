"""Stage I's batches and losses."""

import numpy as np
import pytest
import torch

from blm.model.backbone import load_backbone
from blm.model.prompts import encode_chat
from blm.model.rope import mrope_positions
from blm.model.sft import EncodedRow, GroundingHead, SftModule, collate, correct_answers


@pytest.fixture
def backbone(tiny_mllm):
    return load_backbone(tiny_mllm)


def row(backbone, seed: int, question: str, answer: str, pictures: int = 1) -> EncodedRow:
    model, processor = backbone
    rng = np.random.default_rng(seed)
    messages = [{"role": "user", "text": "<image>" * pictures + question}, {"role": "assistant", "text": answer}]
    chat = encode_chat(processor.tokenizer, messages, [4] * pictures)
    return EncodedRow(
        input_ids=np.array(chat.input_ids),
        labels=np.array(chat.labels),
        positions=mrope_positions(
            chat.input_ids, image_token_id=model.config.image_token_id, grids=[(2, 2)] * pictures
        ),
        images=rng.integers(0, 255, (pictures, 56, 56, 3), dtype=np.uint8),
        points_px=rng.uniform(0, 56, (pictures, 3, 2)).astype(np.float32),
    )


def test_loss_equals_transformers_own(backbone):
    model, _ = backbone
    item = row(backbone, 0, "Where is the cube?", "yes")
    language, _ = SftModule(model, None)(collate([item], 0))
    labels = torch.from_numpy(item.labels)[None]
    reference = model(
        input_ids=torch.from_numpy(item.input_ids)[None],
        labels=labels,
        pixel_values=_pixels(item),
        image_grid_thw=torch.tensor([[1, 4, 4]]),
        position_ids=torch.from_numpy(item.positions).long()[:, None],
    ).loss
    assert torch.allclose(language, reference, atol=1e-5)


def _pixels(item: EncodedRow) -> torch.Tensor:
    from blm.model.vision import patchify

    return patchify(item.images).flatten(0, 1)


def test_padding_and_text_only_rows_change_nothing(backbone):
    model, _ = backbone
    module = SftModule(model, None)
    rows = [
        row(backbone, 1, "Where is the cube?", "yes"),
        row(backbone, 2, "Push the cube to the goal. Your task is to pick up?", "no"),
        row(backbone, 3, "yes no?", "no", pictures=0),
    ]
    together, _ = module(collate(rows, 0))
    alone = [module(collate([item], 0))[0] for item in rows]
    counts = [int((item.labels != -100).sum()) for item in rows]
    expected = sum(loss * n for loss, n in zip(alone, counts, strict=True)) / sum(counts)
    assert torch.allclose(together, expected, atol=1e-5)


def test_the_grounding_head_learns_to_find_points():
    torch.manual_seed(0)
    head = GroundingHead(32)
    tokens = torch.randn(6, 4, 32)
    points = torch.rand(6, 3, 2) * 56
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
    first = head.loss(tokens, points, columns=2).item()
    for _ in range(300):
        optimizer.zero_grad()
        loss = head.loss(tokens, points, columns=2)
        loss.backward()
        optimizer.step()
    assert loss.item() < first / 5


def test_pictures_without_truth_carry_no_grounding_loss():
    head = GroundingHead(32)
    tokens = torch.randn(2, 4, 32, requires_grad=True)
    assert head.loss(tokens, torch.full((2, 3, 2), float("nan")), columns=2).item() == 0.0
    known = torch.rand(1, 3, 2) * 56
    mixed = torch.cat([known, torch.full((1, 3, 2), float("nan"))])
    assert torch.allclose(head.loss(tokens, mixed, columns=2), head.loss(tokens[:1], known, columns=2))


def test_training_makes_wrong_answers_right(backbone):
    model, _ = backbone
    rows = [row(backbone, 1, "Where is the cube?", "yes"), row(backbone, 2, "Where is the cube?", "no")]
    batch = collate(rows, 0)
    assert not correct_answers(model, batch).any()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    module = SftModule(model.train(), None)
    for _ in range(60):
        optimizer.zero_grad()
        module(batch)[0].backward()
        optimizer.step()
    assert correct_answers(model.eval(), batch).all()
