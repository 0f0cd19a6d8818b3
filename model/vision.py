"""Pictures into Qwen2.5-VL's vision tower, fast for batches of equally large pictures.

transformers runs one attention call a picture and layer when no flash attention is at hand. Robot cameras give
pictures of one size, so here a batch is one call a layer; the arithmetic is the same (a test holds both to float
tolerance).
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blm.model.attention import attend
from blm.model.errors import UserError

PATCH_PX = 14
MERGE = 2  # patches a side that become one token
TOKEN_PX = PATCH_PX * MERGE
TEMPORAL_PATCH = 2
_MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's, as Qwen2.5-VL's processor uses them
_STD = (0.26862954, 0.26130258, 0.27577711)


def tokens_per_image(height_px: int, width_px: int) -> int:
    """Language tokens a picture of this size becomes. UserError unless both sides are multiples of 28."""
    if height_px % TOKEN_PX or width_px % TOKEN_PX:
        raise UserError(f"picture of {width_px}x{height_px} px: both sides must be multiples of {TOKEN_PX} px")
    return (height_px // TOKEN_PX) * (width_px // TOKEN_PX)


def patchify(images: np.ndarray | Tensor) -> Tensor:
    """uint8 [N, H, W, 3] -> float32 [N, P, 1176]: normalised patches in the order of Qwen2-VL's image processor.

    Patches of one 2x2 merge group are neighbours; the two temporal slots of a still picture hold the same pixels.
    """
    pixels = torch.as_tensor(images)
    n, height, width, _ = pixels.shape
    tokens_per_image(height, width)
    mean = torch.tensor(_MEAN, device=pixels.device) * 255.0
    std = torch.tensor(_STD, device=pixels.device) * 255.0
    pixels = (pixels.float() - mean) / std
    rows, cols = height // TOKEN_PX, width // TOKEN_PX
    grid = pixels.view(n, rows, MERGE, PATCH_PX, cols, MERGE, PATCH_PX, 3)
    grid = grid.permute(0, 1, 4, 2, 5, 7, 3, 6)  # n, row, col, merge row, merge col, channel, y, x
    patches = grid.reshape(n, rows * cols * MERGE * MERGE, 3, 1, PATCH_PX * PATCH_PX)
    return patches.expand(-1, -1, -1, TEMPORAL_PATCH, -1).reshape(n, rows * cols * MERGE * MERGE, -1)


def encode_images(visual: nn.Module, images: np.ndarray | Tensor) -> Tensor:
    """uint8 [N, H, W, 3] of one size -> [N, tokens, d]: the vision tower and its merger.

    `visual` is transformers' Qwen2.5-VL vision model. Pictures larger than one attention window take its own forward.
    """
    weight = visual.patch_embed.proj.weight
    patches = patchify(images).to(weight.device, weight.dtype)
    n, n_patches, _ = patches.shape
    rows, cols = (side // PATCH_PX for side in images.shape[1:3])
    flat = patches.reshape(n * n_patches, -1)
    all_full_attention = set(range(len(visual.blocks))) <= set(visual.fullatt_block_indexes)
    if not all_full_attention and max(rows, cols) * PATCH_PX > visual.window_size:
        grid_thw = torch.tensor([[1, rows, cols]] * n, device=weight.device)
        return visual(flat, grid_thw=grid_thw).pooler_output.reshape(n, n_patches // MERGE**2, -1)

    hidden = F.linear(flat, weight.view(weight.shape[0], -1)).view(n, n_patches, -1)
    cos, sin = _rotary_tables(visual, rows, cols, hidden)
    for block in visual.blocks:
        hidden = hidden + _attention(block.attn, block.norm1(hidden), cos, sin)
        hidden = hidden + block.mlp(block.norm2(hidden))
    return visual.merger(hidden.reshape(n * n_patches, -1)).view(n, n_patches // MERGE**2, -1)


def _rotary_tables(visual: nn.Module, rows: int, cols: int, like: Tensor) -> tuple[Tensor, Tensor]:
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
    yx = torch.stack([y, x], dim=-1).view(rows // MERGE, MERGE, cols // MERGE, MERGE, 2)
    positions = yx.permute(0, 2, 1, 3, 4).reshape(rows * cols, 2).to(like.device)
    cos, sin = visual.rotary_pos_emb(like, positions)
    return cos, sin


def _attention(attn: nn.Module, hidden: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    n, length, width = hidden.shape
    q, k, v = attn.qkv(hidden).view(n, length, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
    out = attend(_rotate(q, cos, sin), _rotate(k, cos, sin), v, None)
    return attn.proj(out.transpose(1, 2).reshape(n, length, width))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.float().chunk(2, dim=-1)
    return (x.float() * cos + torch.cat([-second, first], dim=-1) * sin).to(x.dtype)
