"""Pictures and video frames into Qwen2.5-VL's vision tower, fast for batches of equal size.

transformers runs one attention call a picture (or window) and layer when no flash attention is at hand. Here a batch
of equally large pictures is one call a layer, or one for each of the at most four shapes of window; the arithmetic is
the same (a test holds both to float tolerance).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from blm.model.attention import attend
from blm.model.errors import UserError

PATCH_PX = 14
MERGE = 2  # patches a side that become one token
TOKEN_PX = PATCH_PX * MERGE
TEMPORAL_PATCH = 2
PICTURE_MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's, as Qwen2.5-VL's processor uses them
PICTURE_STD = (0.26862954, 0.26130258, 0.27577711)


def tokens_per_image(height_px: int, width_px: int) -> int:
    """Language tokens a picture of this size becomes. UserError unless both sides are multiples of 28."""
    if height_px % TOKEN_PX or width_px % TOKEN_PX:
        raise UserError(f"picture of {width_px}x{height_px} px: both sides must be multiples of {TOKEN_PX} px")
    return (height_px // TOKEN_PX) * (width_px // TOKEN_PX)


def patchify(images: np.ndarray | Tensor) -> Tensor:
    """uint8 [N, H, W, 3], or [N, 2, H, W, 3] for pairs of video frames -> float32 [N, P, 1176]: normalised patches in
    the order of Qwen2-VL's processors.

    Patches of one 2x2 merge group are neighbours; the two temporal slots of a still picture hold the same pixels.
    """
    patches = _patches(torch.as_tensor(images))
    return patches.expand(-1, -1, -1, TEMPORAL_PATCH, -1).flatten(2)


def patch_bytes(images: np.ndarray | Tensor) -> Tensor:
    """The same pixels, uint8 [N, P, 1176], for a vision tower that normalises them itself."""
    return _in_patches(torch.as_tensor(images)).expand(-1, -1, -1, TEMPORAL_PATCH, -1).flatten(2)


def _patches(pixels: Tensor) -> Tensor:
    """The normalised patches, float32 [N, P, 3, frames, 196], a still picture's pixels once."""
    mean = torch.tensor(PICTURE_MEAN, device=pixels.device)[:, None, None] * 255.0
    std = torch.tensor(PICTURE_STD, device=pixels.device)[:, None, None] * 255.0
    return (_in_patches(pixels) - mean).div_(std)


def _in_patches(pixels: Tensor) -> Tensor:
    """uint8 [N, P, 3, frames, 196]. Bytes are put in order before they become floats: a quarter of the copying."""
    if pixels.dim() == 4:
        pixels = pixels[:, None]
    n, frames, height, width, _ = pixels.shape
    tokens_per_image(height, width)
    rows, cols = height // TOKEN_PX, width // TOKEN_PX
    grid = pixels.reshape(n, frames, rows, MERGE, PATCH_PX, cols, MERGE, PATCH_PX, 3)
    grid = grid.permute(0, 2, 5, 3, 6, 8, 1, 4, 7)  # n, row, col, merge row, merge col, channel, frame, y, x
    return grid.reshape(n, rows * cols * MERGE * MERGE, 3, frames, PATCH_PX * PATCH_PX)


def encode_images(visual: nn.Module, images: np.ndarray | Tensor) -> Tensor:
    """uint8 [N, H, W, 3], or [N, 2, H, W, 3] for pairs of video frames, of one size -> [N, tokens, d]: the vision tower
    and its merger. `visual` is transformers' Qwen2.5-VL vision model.

    The two temporal slots of a still picture hold the same pixels, so it goes once through the sum of their weights.
    """
    weight = visual.patch_embed.proj.weight
    patches = _patches(torch.as_tensor(images)).to(weight.device, weight.dtype).flatten(2)
    if images.ndim == 4:
        weight = weight.sum(dim=2)
    n, n_patches, _ = patches.shape
    rows, cols = (side // PATCH_PX for side in images.shape[-3:-1])
    product: Callable[..., Tensor] = getattr(visual, "blm_linear", F.linear)
    hidden = product(patches.reshape(n * n_patches, -1), weight.flatten(1)).view(n, n_patches, -1)
    cos, sin = _rotary_tables(visual, rows, cols, hidden)
    windows = _windows(visual, rows // MERGE, cols // MERGE)
    if windows is not None:
        order = _patches_of(windows.order).to(hidden.device)
        hidden, cos, sin = hidden[:, order], cos[order], sin[order]
    run: Callable[..., Tensor] = getattr(visual, "blm_block", run_block)
    for number, block in enumerate(visual.blocks):
        shapes = windows.shapes if windows is not None and number not in visual.fullatt_block_indexes else None
        if block.training and getattr(block, "gradient_checkpointing", False):
            hidden = checkpoint(run, block, hidden, cos, sin, shapes, use_reentrant=False)
        else:
            hidden = run(block, hidden, cos, sin, shapes)
    tokens = visual.merger(hidden.reshape(n * n_patches, -1)).view(n, n_patches // MERGE**2, -1)
    return tokens if windows is None else tokens[:, windows.order.argsort().to(tokens.device)]


def run_block(
    block: nn.Module, hidden: Tensor, cos: Tensor, sin: Tensor, shapes: Sequence[tuple[int, int]] | None
) -> Tensor:
    """One block of the tower on [N, P, d]; attention within windows of `shapes` (windows, patches), or within the
    picture.
    """
    hidden = hidden + _attention(block.attn, block.norm1(hidden), cos, sin, shapes)
    return hidden + block.mlp(block.norm2(hidden))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Windows:
    """A picture cut into attention windows."""

    order: Tensor
    """int64 [tokens]: windows one after the other, those of one shape together."""
    shapes: tuple[tuple[int, int], ...]
    """(windows, patches in each) of every shape, in that order."""


def _windows(visual: nn.Module, rows: int, cols: int) -> _Windows | None:
    """The windows of a picture of rows x cols tokens; None where one holds it, or every block sees everything."""
    side = visual.window_size // TOKEN_PX
    every_block = set(range(len(visual.blocks))) <= set(visual.fullatt_block_indexes)
    if every_block or (rows <= side and cols <= side):
        return None
    grid = torch.arange(rows * cols).view(rows, cols)
    order, shapes = [], []
    for part in (grid[: rows - rows % side], grid[rows - rows % side :]):
        for piece in (part[:, : cols - cols % side], part[:, cols - cols % side :]):
            if piece.numel():
                height, width = min(side, piece.shape[0]), min(side, piece.shape[1])
                tiles = piece.unfold(0, height, height).unfold(1, width, width)
                order.append(tiles.reshape(-1))
                shapes.append((tiles.shape[0] * tiles.shape[1], height * width * MERGE**2))
    return _Windows(order=torch.cat(order), shapes=tuple(shapes))


def _patches_of(tokens: Tensor) -> Tensor:
    return (tokens[:, None] * MERGE**2 + torch.arange(MERGE**2)).flatten()


def _rotary_tables(visual: nn.Module, rows: int, cols: int, like: Tensor) -> tuple[Tensor, Tensor]:
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
    yx = torch.stack([y, x], dim=-1).view(rows // MERGE, MERGE, cols // MERGE, MERGE, 2)
    positions = yx.permute(0, 2, 1, 3, 4).reshape(rows * cols, 2).to(like.device)
    cos, sin = visual.rotary_pos_emb(like, positions)
    return cos, sin


def _attention(
    attn: nn.Module, hidden: Tensor, cos: Tensor, sin: Tensor, shapes: Sequence[tuple[int, int]] | None
) -> Tensor:
    n, length, width = hidden.shape
    q, k, v = attn.qkv(hidden).view(n, length, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
    q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
    if shapes is None:
        out = attend(q, k, v, None)
    else:
        sizes = [windows * patches for windows, patches in shapes]
        parts = zip(shapes, q.split(sizes, dim=2), k.split(sizes, dim=2), v.split(sizes, dim=2), strict=True)
        out = torch.cat([_within(windows, *qkv) for (windows, _), *qkv in parts], dim=2)
    return attn.proj(out.transpose(1, 2).reshape(n, length, width))


def _within(windows: int, *qkv: Tensor) -> Tensor:
    """Attention within each of `windows` equal stretches of [N, heads, L, e]."""
    n = qkv[0].shape[0]
    q, k, v = (x.unflatten(2, (windows, -1)).transpose(1, 2).flatten(0, 1) for x in qkv)
    return attend(q, k, v, None).unflatten(0, (n, windows)).transpose(1, 2).flatten(2, 3)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.float().chunk(2, dim=-1)
    return (x.float() * cos + torch.cat([-second, first], dim=-1) * sin).to(x.dtype)
