"""What the Diffusion Policy sees and is told: a small residual network a camera, and the words of the task.

As in the paper (Chi et al., arXiv 2303.04137): residual networks from scratch with group normalisation, which bears the
averaging of weights that batch normalisation does not, and a spatial softmax in place of pooling, which keeps where
things are. The words are ours: one model for several tasks has to be told which one.
"""

import itertools
import re
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blm.model.diffusion_options import LEAST_FEATURES, DiffusionPolicyConfig

UNKNOWN = 0
"""Number of a word that training never saw."""
MOST_WORDS = 64
"""Words of a task that count; what follows is ignored."""


def norm(width: int) -> nn.GroupNorm:
    """Group normalisation with eight groups, or fewer where they would be too small."""
    groups = min(8, width // LEAST_FEATURES)
    while width % groups:
        groups -= 1
    return nn.GroupNorm(groups, width)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut. [n, i, h, w] -> [n, o, h / stride, w / stride]."""

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width_in, width_out, 3, stride=stride, padding=1, bias=False)
        self.first_norm = norm(width_out)
        self.second = nn.Conv2d(width_out, width_out, 3, padding=1, bias=False)
        self.second_norm = norm(width_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or width_in != width_out:
            # Averaged and not skipped over (He et al., arXiv 1812.01187). A 1x1 convolution with a stride from 8
            # channels also crashes in PyTorch 2.13's backward pass on some CPUs.
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(stride, ceil_mode=True), nn.Conv2d(width_in, width_out, 1, bias=False)
            )

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        inside = self.second_norm(self.second(F.relu(self.first_norm(self.first(x)))))
        return F.relu(inside + self.shortcut(x))


class PictureEncoder(nn.Module):
    """One camera's picture -> image coordinates of K learned points."""

    def __init__(self, config: DiffusionPolicyConfig) -> None:
        super().__init__()
        widths = (config.stem_width, *config.encoder_widths)
        layers: list[nn.Module] = [
            nn.Conv2d(3, config.stem_width, 5, stride=2, padding=2, bias=False),
            norm(config.stem_width),
            nn.ReLU(),
        ]
        for before, width in itertools.pairwise(widths):
            layers.append(ResidualBlock(before, width, stride=2))
            layers += [ResidualBlock(width, width, stride=1) for _ in range(config.encoder_blocks - 1)]
        self.layers = nn.Sequential(*layers)
        self.points = nn.Conv2d(widths[-1], config.keypoints, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        """Pictures [n, 3, h, w] in [-1, 1] -> (x, y) of each point in [-1, 1], float32 [n, 2 K]."""
        return spatial_softmax(self.points(self.layers(pictures)).float())


def spatial_softmax(maps: Tensor) -> Tensor:
    """Mean place of each map under its own softmax: [n, K, h, w] -> [n, 2 K], coordinates in [-1, 1]."""
    n, k, height, width = maps.shape
    weight = maps.reshape(n, k, -1).softmax(dim=-1).reshape(n, k, height, width)
    across = torch.linspace(-1, 1, width, device=maps.device)
    down = torch.linspace(-1, 1, height, device=maps.device)
    return torch.cat([(weight.sum(dim=2) * across).sum(-1), (weight.sum(dim=3) * down).sum(-1)], dim=1)


def shifted(pictures: Tensor, by_px: Tensor) -> Tensor:
    """Pictures uint8 [B, C, h, w, 3] moved by their own (down, right), int64 [B, C, 2]; edges are repeated."""
    b, c, height, width, _ = pictures.shape
    rows = (torch.arange(height, device=pictures.device) - by_px[..., :1]).clamp_(0, height - 1)
    columns = (torch.arange(width, device=pictures.device) - by_px[..., 1:]).clamp_(0, width - 1)
    places = (rows[..., :, None] * width + columns[..., None, :]).reshape(b, c, -1, 1).expand(-1, -1, -1, 3)
    return pictures.reshape(b, c, -1, 3).gather(2, places).reshape(pictures.shape)


def to_network(pictures: Tensor) -> Tensor:
    """uint8 [n, h, w, 3] -> float32 [n, 3, h, w] in [-1, 1], laid out with channels last, as convolutions like it."""
    return (pictures.float() / 127.5 - 1).permute(0, 3, 1, 2)


# --------------------------------------------------------------------------------------------------------------- words


def words_of(instruction: str) -> list[str]:
    """The words of a task in small letters, `MOST_WORDS` at most."""
    return re.findall(r"[^\W_]+", instruction.lower())[:MOST_WORDS]


def vocabulary_of(instructions: Iterable[str]) -> tuple[str, ...]:
    """Every word of these instructions, sorted."""
    return tuple(sorted({word for instruction in instructions for word in words_of(instruction)}))


class TaskWords(nn.Module):
    """A task as the mean of its words' learned embeddings. Order is ignored: few tasks differ by it alone."""

    def __init__(self, vocabulary: Sequence[str], width: int) -> None:
        super().__init__()
        self._numbers = {word: i for i, word in enumerate(vocabulary, start=UNKNOWN + 1)}
        self.table = nn.Embedding(len(vocabulary) + 1, width)

    def numbers(self, instructions: Sequence[str], least: int = 1) -> tuple[Tensor, Tensor]:
        """Numbers of the words, int64 [B, W], and which of them are words, bool [B, W]. W is that of the longest, and
        `least` at least."""
        rows = [[self._numbers.get(word, UNKNOWN) for word in words_of(text)] or [UNKNOWN] for text in instructions]
        longest = max(least, *map(len, rows))
        numbers = torch.tensor([row + [UNKNOWN] * (longest - len(row)) for row in rows])
        lengths = torch.tensor([len(row) for row in rows])
        return numbers, torch.arange(longest)[None] < lengths[:, None]

    def forward(self, numbers: Tensor, real: Tensor) -> Tensor:
        """[B, W] and their mask -> [B, width]."""
        weight = real.float() / real.sum(dim=1, keepdim=True)
        return (self.table(numbers) * weight.unsqueeze(-1)).sum(dim=1)
