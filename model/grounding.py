"""The dense target that teaches a vision tower made from scratch to see: where things are in the picture.

Shapes: M pictures, T tokens a picture, d model width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blm.model.packing import N_POINTS
from blm.model.vision import TOKEN_PX


class GroundingHead(nn.Module):
    """Finds gripper, object and goal from each image token: the dense target that teaches a vision tower made from
    scratch.

    Every token says whether a point lies in its 28 px cell, and tokens near a point say where it is relative to
    them. Such a local question is learned in a few hundred steps, where "where is the cube?" asked of the whole
    network sits on a plateau for a thousand. It stands in for the vision pre-training that a published backbone
    brings along, and is thrown away after Stage I.
    """

    near_cells = 1.25  # tokens within this many cells of a point regress their offset to it
    presence_weight = 4.0  # one cell in sixteen holds a point

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, 3 * N_POINTS)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """tokens [M, T, d] -> presence logits [M, T, 3] and offsets [M, T, 3, 2] in cells from the token's centre."""
        out = self.out(self.norm(tokens))
        return out[..., :N_POINTS], out[..., N_POINTS:].unflatten(-1, (N_POINTS, 2))

    def loss(self, tokens: Tensor, points_px: Tensor, columns: int) -> Tensor:
        """Presence cross entropy + mean absolute offset error of each picture, summed over pictures.

        tokens [M, T, d], points_px [M, 3, 2]; pictures with NaN count for nothing. How many those are is not asked:
        a GPU would have to be waited for.
        """
        known = ~torch.isnan(points_px).flatten(1).any(dim=1)
        presence, offsets = self(tokens)
        target = self._offsets(points_px.nan_to_num(), tokens.shape[1], columns)
        distance = target.abs().amax(dim=-1)
        near = distance < self.near_cells
        inside = (distance <= 0.5).to(presence.dtype)
        weight = torch.full((), self.presence_weight, device=tokens.device)
        presence_loss = F.binary_cross_entropy_with_logits(presence, inside, pos_weight=weight, reduction="none")
        offset_loss = ((offsets - target).abs().mean(dim=-1) * near).sum(dim=(1, 2)) / near.sum(dim=(1, 2)).clamp(min=1)
        presence_loss = presence_loss.mean(dim=(1, 2))
        return torch.where(known, presence_loss, 0.0).sum() + torch.where(known, offset_loss, 0.0).sum()

    @staticmethod
    def _offsets(points_px: Tensor, n_tokens: int, columns: int) -> Tensor:
        index = torch.arange(n_tokens, device=points_px.device)
        centres = (torch.stack([index % columns, index // columns], dim=-1) + 0.5) * TOKEN_PX
        return (points_px[:, None] - centres[None, :, None]) / TOKEN_PX
