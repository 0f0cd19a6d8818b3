"""Packed conversations give what each gives alone: losses, gradients and answers, for every tested family."""

import numpy as np
import pytest
import torch
from small_families import FAMILIES, UNLISTED, encoded_row, write_family
from torch._dynamo.testing import CompileCounterWithBackend

from blm.model.backbone import load_backbone
from blm.model.chat_encoder import ChatEncoder
from blm.model.documents import Documents
from blm.model.packing import EncodedRow, RowMedia, count_targets, pack
from blm.model.prompts import IGNORE_INDEX
from blm.model.sft import HEAD_CHUNK, SftModule, forward_hidden, score_answers
from blm.model.training import compile_layers, enable_checkpointing, mixed_precision


@pytest.fixture(params=[*FAMILIES, UNLISTED])
def family(request, tmp_path):
    folder = write_family(tmp_path / request.param, request.param)
    encoder = ChatEncoder.load(folder)
    return load_backbone(folder)[0], encoder, some_rows(encoder)


def some_rows(encoder: ChatEncoder) -> list[EncodedRow]:
    return [
        encoded_row(encoder, 1, sizes=((70, 100),), answer="yes"),
        encoded_row(encoder, 2, question="Push the cube to the goal. What happens in the video?", answer="no yes no"),
        encoded_row(encoder, 3, sizes=((56, 56), (112, 60)), answer="no"),
        encoded_row(encoder, 4, frames=5 * hasattr(encoder.processor, "video_token"), answer="1.5 seconds"),
        encoded_row(encoder, 5, sizes=((70, 100),), answer="yes"),
    ]


def gradients(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    return found


def losses_of_each(model, rows) -> list[torch.Tensor]:
    """transformers' own loss of each row, which knows nothing of packing."""
    losses = []
    for row in rows:
        model.get_submodule("model.language_model").set_attn_implementation("sdpa")
        batch = pack([row], pad_token_id=0)
        positions = batch.positions if len(batch.positions) > 1 else batch.positions[0]
        inputs = dict(batch.inputs) or qwen_inputs(row)
        logits = model(input_ids=batch.input_ids, position_ids=positions, **inputs).logits
        following = torch.from_numpy(row.labels[1:]).long()
        losses.append(torch.nn.functional.cross_entropy(logits[0, :-1], following, reduction="sum"))
    return losses


def qwen_inputs(row: EncodedRow) -> dict[str, torch.Tensor]:
    """The row's pictures as Qwen2.5-VL's own forward wants them."""
    from blm.model.vision import patchify

    def grids(parts):
        return torch.tensor([[len(p), p.shape[-3] // 14, p.shape[-2] // 14] for p in parts])

    inputs = {}
    images = [image[None] for image in row.media.images]
    videos = [video.reshape(-1, 2, *video.shape[1:]) for video in row.media.videos]
    for parts, pixels, grid in ((images, "pixel_values", "image"), (videos, "pixel_values_videos", "video")):
        if parts:
            inputs[pixels] = torch.cat([patchify(part).flatten(0, 1) for part in parts])
            inputs[f"{grid}_grid_thw"] = grids(parts)
    return inputs


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        scale = max(1e-3, float(gradient.abs().max()))
        assert torch.allclose(ours[name], gradient, atol=1e-4 * scale, rtol=1e-4), name


def test_loss_and_gradients_are_those_of_the_rows_one_by_one(family):
    model, _, rows = family
    alone = losses_of_each(model, rows)
    sum(alone).backward()
    expected = gradients(model)
    module = SftModule(model, None)
    together, grounding = module(pack(rows, pad_token_id=0))
    together.backward()
    assert grounding.item() == 0
    assert torch.allclose(together, sum(alone), rtol=1e-5)
    assert_same(gradients(model), expected)


@pytest.mark.parametrize("how", ["padded", "checkpointed", "in another order", "head in parts"])
def test_nothing_about_a_batch_changes_the_sum(family, how, monkeypatch):
    model, _, rows = family
    module = SftModule(model, None)
    expected, _ = module(pack(rows, pad_token_id=0))
    expected.backward()
    gradient = gradients(model)
    batch = pack(rows[::-1] if how == "in another order" else rows, pad_token_id=0, pad_to=64 * (how == "padded"))
    if how == "padded":
        assert batch.input_ids.shape[1] % 64 == 0
        assert batch.lengths == tuple(len(row.input_ids) for row in rows)
    if how == "checkpointed":
        enable_checkpointing(model.train())
    if how == "head in parts":
        monkeypatch.setattr("blm.model.sft.HEAD_CHUNK", 3)
        assert HEAD_CHUNK > 3
    loss, _ = module(batch)
    loss.backward()
    assert torch.allclose(loss, expected, rtol=1e-5)
    assert_same(gradients(model), gradient)


def test_checkpointing_keeps_less(family):
    """Fewer bytes are kept for the backward pass, also by the batched vision path."""
    model, _, rows = family
    batch = pack(rows[:1] * 8, pad_token_id=0)
    module = SftModule(model, None).train()

    def kept() -> int:
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (sizes.append(t.nbytes), t)[1], lambda t: t):
            module(batch)[0].backward()
        return sum(sizes)

    plain = kept()
    enable_checkpointing(model)
    assert kept() < 0.6 * plain


def test_bfloat16_products_stay_close(family):
    model, _, rows = family
    module, batch = SftModule(model, None), pack(rows, pad_token_id=0)
    exact, _ = module(batch)
    exact.backward()
    gradient = torch.cat([g.flatten() for g in gradients(model).values()])
    with mixed_precision(torch.device("cpu"), "bfloat16"):
        rough, _ = module(batch)
    rough.backward()
    rough_gradient = torch.cat([g.flatten() for g in gradients(model).values()])
    assert rough.dtype == rough_gradient.dtype == torch.float32
    assert torch.allclose(rough, exact, rtol=0.02)
    assert torch.cosine_similarity(gradient, rough_gradient, dim=0) > 0.99


def test_no_document_sees_another(family):
    model, _, rows = family
    SftModule(model, None)
    with torch.no_grad():
        together, _ = forward_hidden(model, pack(rows, pad_token_id=0))
        apart = [forward_hidden(model, pack([row], pad_token_id=0))[0] for row in rows]
    assert torch.allclose(together, torch.cat(apart, dim=1), atol=1e-4)


def test_scores_are_of_each_conversation(family):
    model, _, rows = family
    alone = losses_of_each(model, rows)
    SftModule(model, None)
    scores = score_answers(model, pack(rows, pad_token_id=0, pad_to=50))
    assert torch.allclose(scores.nll, torch.stack(alone).detach(), rtol=1e-4)
    assert scores.tokens.tolist() == [count_targets(row)[0] for row in rows]
    assert not scores.correct.any()


def test_rows_without_answers_add_nothing(family):
    model, _, rows = family
    silent = [EncodedRow(**{**as_dict(row), "labels": np.full_like(row.labels, IGNORE_INDEX)}) for row in rows[:2]]
    loss, _ = SftModule(model, None)(pack(silent, pad_token_id=0))
    loss.backward()
    assert loss.item() == 0
    assert all(not gradient.any() for gradient in gradients(model).values())
    assert score_answers(model, pack(silent, pad_token_id=0)).tokens.tolist() == [0, 0]


def as_dict(row: EncodedRow) -> dict:
    return {name: getattr(row, name) for name in ("input_ids", "positions", "media", "points_px")}


@pytest.mark.parametrize("family", ["qwen2_5_vl", "internvl"], indirect=True)
def test_layers_are_compiled_once_and_compute_the_same(family):
    """Traced as for the compiler, but run as they are: generating code would take minutes."""
    model, _, rows = family
    module = SftModule(model, None)
    names = set(model.state_dict())
    batches = [pack(some, pad_token_id=0) for some in (rows, rows[::-1], rows[2:], rows[:4])]
    expected = [module(batch)[0] for batch in batches]
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    compile_layers(model, backend=counter)
    for batch, loss in zip(batches[:2], expected[:2], strict=True):
        assert torch.allclose(module(batch)[0], loss, rtol=1e-4)
    compiled = counter.frame_count
    for batch, loss in zip(batches[2:], expected[2:], strict=True):
        assert torch.allclose(module(batch)[0], loss, rtol=1e-4)
    assert 0 < compiled == counter.frame_count
    assert set(model.state_dict()) == names


def test_batches_hold_what_the_rows_held():
    def row(length: int, *sizes: tuple[int, int], frames: int = 0) -> EncodedRow:
        return EncodedRow(
            input_ids=np.arange(length, dtype=np.int32),
            labels=np.full(length, IGNORE_INDEX, dtype=np.int32),
            positions=np.tile(np.arange(length, dtype=np.int32), (3, 1)),
            media=RowMedia(
                images=tuple(np.full((*size, 3), size[0], dtype=np.uint8) for size in sizes),
                videos=(np.zeros((frames, 28, 28, 3), dtype=np.uint8),) if frames else (),
            ),
            points_px=np.zeros((len(sizes), 3, 2), dtype=np.float32),
        )

    batch = pack([row(5, (28, 28), (56, 28)), row(3, frames=4), row(4, (28, 28))], pad_token_id=9, pad_to=8)
    assert batch.input_ids.tolist() == [[0, 1, 2, 3, 4, 0, 1, 2, 0, 1, 2, 3, 9, 9, 9, 9]]
    assert batch.positions.shape == (3, 1, 16)
    assert (batch.lengths, batch.rows, batch.longest) == ((5, 3, 4), 3, 5)
    assert batch.documents.cumulative.tolist() == [0, 5, 8, 12, 16]
    assert [(stack.pixels.shape[0], stack.places) for stack in batch.images] == [(2, (0, 2)), (1, (1,))]
    assert [stack.pixels.shape for stack in batch.videos] == [(2, 2, 28, 28, 3)]
    assert batch.points_px.shape == (3, 3, 2)


def test_documents_of_like_length_share_a_batch():
    layout = Documents.of([100, 10, 98, 12, 100]).layout(4, 2)
    assert layout.shapes == ((3, 112), (2, 16))  # filled up to multiples of 16, of which there are few
    assert len(layout.padding) == (3 * 112 + 2 * 16 - 320) * 4
    rows = torch.arange(320 * 4)
    assert torch.equal(rows[layout.query][layout.query_back], rows)


def test_targets_are_counted_as_the_losses_sum_them():
    row = EncodedRow(
        input_ids=np.arange(4, dtype=np.int32),
        labels=np.array([0, IGNORE_INDEX, 2, 3], dtype=np.int32),
        positions=np.zeros((1, 4), dtype=np.int32),
        points_px=np.array([[[1, 1]] * 3, [[np.nan, np.nan]] * 3], dtype=np.float32),
    )
    assert count_targets(row) == (2, 1)
    batch = pack([row, row], pad_token_id=0, pad_to=10)
    assert batch.answers.tolist() == [1, 2, 5, 6]
    assert batch.targets.tolist() == [2, 3, 2, 3]
