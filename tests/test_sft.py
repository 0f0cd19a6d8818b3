"""Stage I's losses."""

import numpy as np
import pytest
import torch
from small_families import encoded_row, write_family

from blm.model.backbone import load_backbone
from blm.model.chat_encoder import ChatEncoder
from blm.model.errors import UserError
from blm.model.grounding import GroundingHead
from blm.model.packing import EncodedRow, count_targets, pack
from blm.model.sft import SftModule, score_answers
from blm.model.vision import patchify


@pytest.fixture
def backbone(tiny_mllm):
    model, processor = load_backbone(tiny_mllm)
    return model, ChatEncoder(processor, model.config)


def row(backbone, seed: int, question: str, answer: str, pictures: int = 1) -> EncodedRow:
    return encoded_row(backbone[1], seed, sizes=((56, 56),) * pictures, question=question, answer=answer)


def test_loss_equals_transformers_own(backbone):
    model, _ = backbone
    item = row(backbone, 0, "Where is the cube?", "yes")
    reference = model(
        input_ids=torch.from_numpy(item.input_ids).long()[None],
        labels=torch.from_numpy(item.labels).long()[None],
        pixel_values=patchify(np.stack(item.media.images)).flatten(0, 1),
        image_grid_thw=torch.tensor([[1, 4, 4]]),
        position_ids=torch.from_numpy(item.positions).long()[:, None],
    ).loss
    language, _ = SftModule(model, None)(pack([item], pad_token_id=0))
    assert torch.allclose(language, reference * count_targets(item)[0], rtol=1e-5)


def test_sums_of_micro_batches_are_those_of_the_whole_step(backbone):
    """Language and grounding: so a step may be split as memory and machines have it."""
    model, _ = backbone
    torch.manual_seed(0)
    module = SftModule(model, GroundingHead(96))
    rows = [
        row(backbone, 1, "Where is the cube?", "yes"),
        row(backbone, 2, "Push the cube to the goal. Your task is to pick up?", "no", pictures=2),
        row(backbone, 3, "yes no?", "no", pictures=0),
    ]
    rows[1].points_px[0] = np.nan
    together = torch.stack(module(pack(rows, pad_token_id=0)))
    apart = sum(torch.stack(module(pack([item], pad_token_id=0))) for item in rows)
    assert torch.allclose(together, apart, rtol=1e-5)
    assert [count_targets(item)[1] for item in rows] == [1, 1, 0]


def test_the_vision_warm_up_runs_no_language(backbone):
    model, _ = backbone
    module = SftModule(model, GroundingHead(96))
    batch = pack([row(backbone, seed, "Where is the cube?", "yes") for seed in range(3)], pad_token_id=0)
    language, grounding = module(batch, vision_only=True)
    assert language.item() == 0
    assert torch.allclose(grounding, module(batch)[1])
    grounding.backward()
    assert all(p.grad is None for p in model.model.language_model.parameters())


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


def test_a_grounding_head_needs_the_batched_vision_path(tmp_path):
    model, _ = load_backbone(write_family(tmp_path / "other", "qwen3_vl"))
    with pytest.raises(UserError, match="set grounding_weight to 0"):
        SftModule(model, GroundingHead(96))


def test_training_makes_wrong_answers_right(backbone):
    model, _ = backbone
    rows = [row(backbone, 1, "Where is the cube?", "yes"), row(backbone, 2, "Where is the cube?", "no")]
    batch = pack(rows, pad_token_id=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    module = SftModule(model.train(), None)
    before = score_answers(model, batch)
    assert not before.correct.any()
    for _ in range(60):
        optimizer.zero_grad()
        (module(batch)[0] / before.tokens.sum()).backward()
        optimizer.step()
    after = score_answers(model.eval(), batch)
    assert after.correct.all()
    assert (after.nll < 0.1 * before.nll).all()
