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


@pytest.fixture
def windowed(backbone):
    """A tower whose first block attends within windows of 4 x 4 tokens."""
    visual = backbone[0].model.visual
    full = visual.fullatt_block_indexes
    visual.fullatt_block_indexes = full[1:]
    yield visual
    visual.fullatt_block_indexes = full


@pytest.mark.parametrize("tokens", [(4, 4), (6, 6), (8, 4), (3, 9), (9, 13), (1, 5)])
def test_windows_of_every_shape_are_the_towers_own(windowed, tokens):
    height, width = (28 * side for side in tokens)
    pictures = np.random.default_rng(2).integers(0, 255, (2, height, width, 3), dtype=np.uint8)
    with torch.no_grad():
        grid = torch.tensor([[1, height // 14, width // 14]] * 2)
        expected = windowed(patchify(pictures).flatten(0, 1), grid_thw=grid).pooler_output
        ours = encode_images(windowed, pictures)
    assert torch.allclose(ours.flatten(0, 1), expected, atol=1e-5)


@pytest.mark.parametrize("size", [(56, 84), (168, 140)])
def test_pairs_of_frames_are_a_video(windowed, backbone, size):
    processor = backbone[1].video_processor
    frames = np.random.default_rng(3).integers(0, 255, (6, *size, 3), dtype=np.uint8)
    theirs = processor(videos=[frames], do_resize=False, do_sample_frames=False, return_tensors="pt")
    pairs = frames.reshape(3, 2, *size, 3)
    assert torch.allclose(patchify(pairs).flatten(0, 1), theirs.pixel_values_videos, atol=1e-5)
    with torch.no_grad():
        expected = windowed(theirs.pixel_values_videos, grid_thw=theirs.video_grid_thw).pooler_output
        ours = encode_images(windowed, pairs)
    assert torch.allclose(ours.flatten(0, 1), expected, atol=1e-5)


def test_sides_must_be_whole_tokens():
    assert tokens_per_image(112, 56) == 8
    with pytest.raises(UserError, match="multiples of 28"):
        tokens_per_image(100, 112)
