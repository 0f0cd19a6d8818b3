"""The batched vision path computes what transformers' own does."""

import numpy as np
import pytest
import torch
from PIL import Image

from blm.model.backbone import load_backbone
from blm.model.errors import UserError
from blm.model.vision import encode_images, patchify, tokens_per_image


@pytest.fixture(scope="module")
def backbone(tiny_mllm):
    return load_backbone(tiny_mllm)


@pytest.mark.parametrize("size", [(112, 112), (56, 84)])
def test_equals_the_processor_and_the_vision_tower(backbone, size):
    model, processor = backbone
    pictures = np.random.default_rng(1).integers(0, 255, (3, *size, 3), dtype=np.uint8)
    theirs = processor.image_processor(images=[Image.fromarray(p) for p in pictures], return_tensors="pt")
    assert torch.allclose(patchify(pictures).flatten(0, 1), theirs.pixel_values, atol=1e-5)
    with torch.no_grad():
        expected = model.model.visual(theirs.pixel_values, grid_thw=theirs.image_grid_thw).pooler_output
        ours = encode_images(model.model.visual, pictures)
    assert torch.allclose(ours.flatten(0, 1), expected, atol=1e-5)


def test_windowed_attention_takes_the_towers_own_forward(backbone):
    visual = backbone[0].model.visual
    pictures = np.random.default_rng(2).integers(0, 255, (2, 168, 168, 3), dtype=np.uint8)
    full = visual.fullatt_block_indexes
    visual.fullatt_block_indexes = full[:1]
    try:
        with torch.no_grad():
            grid = torch.tensor([[1, 12, 12]] * 2)
            expected = visual(patchify(pictures).flatten(0, 1), grid_thw=grid).pooler_output
            ours = encode_images(visual, pictures)
    finally:
        visual.fullatt_block_indexes = full
    assert torch.allclose(ours.flatten(0, 1), expected, atol=1e-5)


def test_sides_must_be_whole_tokens():
    assert tokens_per_image(112, 56) == 8
    with pytest.raises(UserError, match="multiples of 28"):
        tokens_per_image(100, 112)
