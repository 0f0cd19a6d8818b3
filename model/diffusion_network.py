"""Diffusion Policy (Chi et al., arXiv 2303.04137), the baseline: pictures, proprioception and the words of the task in,
action chunks out of noise.

What is the paper's: a picture encoder a camera, trained from nothing with the rest; a one-dimensional U-Net along the
chunk that takes the noise away, conditioned by scale and shift; a squared-cosine schedule of noise. What is ours, so
that the comparison with our own policy is one of methods: one model may hold several robots (an encoder of the state,
of actions and a decoder for each, at their true sizes) and several tasks (their words), it sees the present alone, and
data, action representation, normalisation and length of the chunk are those of Stage II.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor, nn

from blm.model.diffusion_encoder import MOST_WORDS, UNKNOWN, PictureEncoder, TaskWords, shifted, to_network
from blm.model.diffusion_options import DiffusionPolicyConfig
from blm.model.diffusion_unet import ConditionalUnet
from blm.model.layout import Layout
from blm.model.normalize import CLIP
from blm.model.policy_batch import PolicyGroup


@dataclass(frozen=True, kw_only=True, slots=True)
class DiffusionBatch:
    """B rows: groups one after another, and in the same order what they see and are told."""

    groups: Sequence[PolicyGroup]
    pictures: Tensor
    """uint8 [B, C, h, w, 3], cameras in the network's order."""
    instructions: Sequence[str]
    place: Tensor
    """int64 [B]: each row's place in the step's batch over all workers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DiffusionDraws:
    """The randomness of a step for its whole batch of N rows, R draws each: a row takes its own by its place."""

    times: Tensor
    """int64 [N, R]."""
    noise: Tensor
    """float32 [N, R, H, Amax]."""
    shift: Tensor
    """int64 [N, C, 2], px."""
    words: Tensor
    """float32 [N, W]: a word of whom this is below the dropout is hidden."""


def make_draws(
    config: DiffusionPolicyConfig, *, seed: int, step: int, batch: int, draws: int, cameras: int, max_action_dim: int
) -> DiffusionDraws:
    """A pure function of its arguments, on CPU: resumed runs and other numbers of workers draw the same."""
    state = np.random.SeedSequence((seed, step)).generate_state(1, np.uint64) >> 1
    generator = torch.Generator().manual_seed(int(state[0]))
    return DiffusionDraws(
        times=torch.randint(config.train_timesteps, (batch, draws), generator=generator),
        noise=torch.randn(batch, draws, config.chunk, max_action_dim, generator=generator),
        shift=torch.randint(-config.shift_px, config.shift_px + 1, (batch, cameras, 2), generator=generator),
        words=torch.rand(batch, MOST_WORDS, generator=generator),
    )


class RobotParts(nn.Module):
    """What a robot has of its own."""

    def __init__(self, layout: Layout, config: DiffusionPolicyConfig) -> None:
        super().__init__()
        width = config.condition // 2
        self.state = nn.Sequential(nn.Linear(layout.state_dim, width), nn.Mish(), nn.Linear(width, width))
        self.enter = nn.Conv1d(layout.action_dim, config.unet_widths[0], 1)
        self.leave = nn.Conv1d(config.unet_widths[0], layout.action_dim, 1)


class DiffusionNetwork(nn.Module):
    """Encoders, U-Net and the robots' own parts."""

    def __init__(
        self,
        config: DiffusionPolicyConfig,
        *,
        layouts: Sequence[Layout],
        cameras: Sequence[str],
        vocabulary: Sequence[str],
    ) -> None:
        super().__init__()
        self.config = config
        self.cameras = tuple(cameras)
        self.eyes = nn.ModuleDict({camera: PictureEncoder(config) for camera in cameras})
        self.words = TaskWords(vocabulary, config.word_width)
        self.robots = nn.ModuleDict({layout.name: RobotParts(layout, config) for layout in layouts})
        seen = 2 * config.keypoints * len(self.cameras) + config.condition // 2 + config.word_width
        self.observed = nn.Sequential(
            nn.Linear(seen, config.condition), nn.Mish(), nn.Linear(config.condition, config.condition)
        )
        self.time = nn.Sequential(
            nn.Linear(config.condition, 2 * config.condition),
            nn.Mish(),
            nn.Linear(2 * config.condition, config.condition),
        )
        self.unet = ConditionalUnet(config.unet_widths, 2 * config.condition, config.unet_kernel)
        self.scheduler = DDIMScheduler(
            num_train_timesteps=config.train_timesteps,
            beta_schedule="squaredcos_cap_v2",
            prediction_type=config.prediction,
            clip_sample=True,
            clip_sample_range=CLIP,
        )
        self.to(memory_format=torch.channels_last)

    def forward(self, batch: DiffusionBatch, draws: DiffusionDraws) -> tuple[Tensor, Tensor]:
        """(sum of squared errors of what is predicted, how many numbers are summed) over real actions, float32."""
        device = batch.pictures.device
        repeats = draws.times.shape[1]
        hidden = draws.words[batch.place] < self.config.word_dropout * self.training
        by_px = draws.shift[batch.place].to(device) if self.training and self.config.shift_px else None
        observed = self._observe(batch, by_px, hidden).repeat_interleave(repeats, dim=0)
        times = draws.times[batch.place].reshape(-1).to(device)
        entered, targets = [], []
        first = 0
        for group in batch.groups:
            count, dims = len(group.state), group.actions.shape[-1]
            noise = draws.noise[batch.place[first : first + count], ..., :dims].to(device).flatten(0, 1)
            actions = group.actions.repeat_interleave(repeats, dim=0)
            rows = slice(first * repeats, (first + count) * repeats)
            entered.append(
                self._parts(group.embodiment).enter(
                    self.scheduler.add_noise(actions, noise, times[rows]).transpose(1, 2)
                )
            )
            targets.append(noise if self.config.prediction == "epsilon" else actions)
            first += count
        out = self._denoise(torch.cat(entered), times, observed)
        total, count_of_numbers = torch.zeros((), device=device), torch.zeros((), device=device)
        first = 0
        for group, target in zip(batch.groups, targets, strict=True):
            rows = slice(first, first + len(target))
            first += len(target)
            predicted = self._parts(group.embodiment).leave(out[rows]).transpose(1, 2).float()
            real = (~group.is_pad).repeat_interleave(repeats, dim=0).unsqueeze(-1)
            total = total + ((predicted - target) ** 2 * real).sum()
            count_of_numbers = count_of_numbers + real.sum() * target.shape[-1]
        return total, count_of_numbers

    def _parts(self, embodiment: str) -> RobotParts:
        parts = self.robots[embodiment]
        assert isinstance(parts, RobotParts)
        return parts

    def _observe(self, batch: DiffusionBatch, by_px: Tensor | None, hidden: Tensor) -> Tensor:
        """Features [B, condition] of pictures, states and tasks."""
        pictures = batch.pictures if by_px is None else shifted(batch.pictures, by_px)
        felt = torch.cat([self._parts(group.embodiment).state(group.state) for group in batch.groups])
        numbers, real = self.words.numbers(batch.instructions)
        numbers = numbers.masked_fill(hidden[:, : numbers.shape[1]], UNKNOWN)
        told = self.words(numbers.to(felt.device), real.to(felt.device))
        return self.observed(torch.cat([self._seen(pictures), felt, told], dim=1))

    def _seen(self, pictures: Tensor) -> Tensor:
        """What the eyes make of pictures [B, C, h, w, 3]: [B, C * 2 K]."""
        return torch.cat([self.eyes[name](to_network(pictures[:, i])) for i, name in enumerate(self.cameras)], dim=1)

    def _denoise(self, entered: Tensor, times: Tensor, observed: Tensor) -> Tensor:
        """Features of noisy chunks [n, w, H] -> features [n, w, H]. times [n], or [1] if all have the same."""
        when = self.time(sinusoids(times, self.config.condition)).expand(len(observed), -1)
        return self.unet(entered, torch.cat([observed, when], dim=1))

    @torch.inference_mode()
    def look(self, pictures: Tensor, instructions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """What is seen, [B, C * 2 K], and what is told, [B, word width], whatever the robots: pictures uint8
        [B, C, h, w, 3]."""
        # As long for every batch: sums of other lengths, if only of zeros, may add up in another order.
        numbers, real = self.words.numbers(instructions, least=MOST_WORDS)
        return self._seen(pictures), self.words(numbers.to(pictures.device), real.to(pictures.device))

    def sample(self, batch: DiffusionBatch, noise: Tensor, steps: int) -> Tensor:
        """Normalised chunks [B, H, A] of a batch of one robot, as `sample_for`."""
        (group,) = batch.groups
        seen, told = self.look(batch.pictures, batch.instructions)
        return self.sample_for(group.embodiment, group.state, seen, told, noise, steps)

    @torch.inference_mode()
    def sample_for(
        self, embodiment: str, state: Tensor, seen: Tensor, told: Tensor, noise: Tensor, steps: int
    ) -> Tensor:
        """Normalised chunks [b, H, A] of one robot by DDIM without new noise, from noise of that shape, its normalised
        state [b, S] and its rows of what `look` made."""
        parts = self._parts(embodiment)
        observed = self.observed(torch.cat([seen, parts.state(state), told], dim=1))
        scheduler = DDIMScheduler.from_config(self.scheduler.config)
        scheduler.set_timesteps(steps)
        x = noise
        for level in scheduler.timesteps.tolist():  # numbers: the scheduler would fetch them from a GPU in every step
            out = self._denoise(parts.enter(x.transpose(1, 2)), torch.full((1,), level, device=noise.device), observed)
            x = scheduler.step(parts.leave(out).transpose(1, 2).float(), level, x, eta=0.0).prev_sample
        return x


def sinusoids(times: Tensor, width: int) -> Tensor:
    """Sines and cosines of times [n] at `width` / 2 frequencies, float32 [n, width]."""
    half = width // 2
    frequencies = torch.exp(torch.arange(half, device=times.device) * (-np.log(10_000.0) / max(half - 1, 1)))
    angles = times.float().unsqueeze(1) * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)
