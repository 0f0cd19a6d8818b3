"""`blm bench stage2`: how fast the policy trains on cached intents, beside three other ways to feed the same steps.

    cached    intents from the cache on disk
    live      the MLLM up to block k in every step, for the present and the future picture
    whole     the same with all of its blocks and its head over the vocabulary: how others run a frozen backbone
    memory    random tensors in memory: what training costs if feeding costs nothing

One process, one seed, the same rows and noise, pictures decoded beforehand on all sides. `cached`, `live` and `whole`
must come to the same losses. Sizes are those of a preset: `tiny` here, `paper` (a backbone of random weights in the
shape of the 7B) for a GPU.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from blm.model.backbone import load_config as load_backbone_config
from blm.model.intents import IntentExtractor
from blm.model.layout import layout_of
from blm.model.lower_blocks import OwnBlocks
from blm.model.policy import Policy
from blm.model.policy_batch import PolicyBatch, make_draws
from blm.model.training import mixed_precision, resolve_precision
from blm.pipelines.benchmarks.stage2_data import (
    ROBOT,
    extractor_options,
    write_backbone,
    write_cache,
    write_demonstrations,
)
from blm.pipelines.config import RunConfig, load_config
from blm.pipelines.policy_training.step import take_step
from blm.pipelines.policy_training.weights import Weights
from blm.pipelines.windows.dataset import RobotDataset
from blm.pipelines.windows.feed import PolicyFeed
from blm.pipelines.windows.index import WindowIndex
from blm.pipelines.windows.sources import CachedIntents, IntentSource, LiveIntents
from blm.pipelines.windows.statistics import statistics_of
from blm.pipelines.windows.store import open_windows, prepare_windows

TURN = 10
"""Steps that one side takes before the next one's turn: what else the machine does hits all alike."""
SIDES = ("cached", "live", "whole", "memory")
KEPT = 8
"""Batches of random tensors."""


class WholeBlocks(OwnBlocks):
    """Blocks of which nothing is thrown away: all of them and the head run, and block `tap` is listened to."""

    tap = 1

    def seen(self, *arguments: Any, **options: Any) -> Tensor:
        """As `OwnBlocks`, of block `tap`."""
        block: nn.Module = self.parts.language.layers[self.tap - 1]
        heard: list[Tensor] = []

        def listen(_: nn.Module, __: Any, output: Any) -> None:
            heard.append(output[0] if isinstance(output, tuple) else output)

        handle = block.register_forward_hook(listen)
        try:
            self.model.lm_head(super().seen(*arguments, **options))
        finally:
            handle.remove()
        return heard[-1]


class Decoded:
    """A dataset whose pictures were decoded before. Otherwise like the one it was made from."""

    def __init__(self, dataset: RobotDataset, cameras: Sequence[str]) -> None:
        self._dataset = dataset
        self._pictures = dataset.pictures(np.arange(dataset.n_frames), cameras)

    def pictures(self, frames: np.ndarray, cameras: Sequence[str]) -> np.ndarray:
        """uint8 [n, C, px, px, 3]."""
        return self._pictures[frames]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dataset, name)


class Side:
    """One way to feed a policy of its own."""

    def __init__(self, config: RunConfig, batches: Callable[[int, int], Iterator[PolicyBatch]], source: IntentSource):
        torch.manual_seed(0)
        stage = config.stage2
        device = torch.device(config.resources.device)
        self._policy = Policy(
            stage.policy, layouts=[layout_of(ROBOT)], intent_width=source.width, max_tokens=source.tokens
        ).to(device)
        self._weights = Weights(
            self._policy,
            learning_rate=stage.learning_rate,
            weight_decay=stage.weight_decay,
            steps=stage.steps,
            warmup=stage.warmup,
        )
        self._config, self._batches, self._device = config, batches, device
        precision = resolve_precision(stage.precision, config.resources.dtype, device)
        self._autocast = mixed_precision(device, precision)
        self.losses: list[tuple[float, float]] = []
        """(flow, future) of every step."""
        self.seconds: list[float] = []
        """Of a step, in each turn."""

    def turn(self, first: int, last: int) -> None:
        """The steps first..last - 1, batches made ahead as in training."""
        stage, found = self._config.stage2, []
        self._synchronise()
        began = time.perf_counter()
        for step, batch in enumerate(self._batches(first, last), start=first):
            draws = make_draws(
                stage.policy,
                seed=0,
                step=step,
                batch=stage.batch,
                draws=stage.draws,
                max_action_dim=layout_of(ROBOT).action_dim,
            )
            found.append(
                take_step(self._weights, self._policy, batch, draws, self._autocast, clip_norm=stage.clip_norm)
            )
            self._weights.update_average(step, stage.ema)
        self._synchronise()
        self.seconds.append((time.perf_counter() - began) / (last - first))
        for flow, n_flow, future, n_future in torch.stack(found).tolist():
            self.losses.append((flow / n_flow, future / max(n_future, 1.0)))

    def _synchronise(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def bench_stage2(preset: str, device: str, steps: int, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Measure all sides over `steps` steps each. Returns and prints samples a second and how far losses differ."""
    asked = [f"resources.device={device}"] if device == "cpu" else ["resources.device=cuda", "resources.num_gpus=1"]
    config = load_config(preset, [*asked, "resources.train_workers=1", *overrides])
    with tempfile.TemporaryDirectory() as folder, _alone(Path(folder)):
        sides = _sides(config, Path(folder))
        for first in range(0, steps, TURN):
            for side in sides.values():
                side.turn(first, min(first + TURN, steps))
        return _result(config, preset, steps, sides)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """A process group of one, which steps expect."""
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _sides(config: RunConfig, folder: Path) -> dict[str, Side]:
    device, cameras = torch.device(config.resources.device), config.world.cameras
    datasets = {ROBOT: write_demonstrations(folder / ROBOT, config.world, config)}
    prepare_windows(datasets, folder / "windows", chunk=config.stage2.policy.chunk, workers=0)
    windows = open_windows(folder / "windows", datasets)
    index, numbers = WindowIndex(windows), statistics_of(windows)
    backbone = write_backbone(folder / "backbone", config, device)
    cached = CachedIntents({ROBOT: write_cache(folder / "cache", datasets[ROBOT], backbone, config)})
    decoded: Any = {ROBOT: Decoded(RobotDataset.open(datasets[ROBOT]), cameras)}
    options = extractor_options(config)
    live = LiveIntents(IntentExtractor(backbone, layer=config.intents.layer, **options), decoded, cameras)
    computing = {name: option for name, option in options.items() if name != "max_text_tokens"}
    blocks = WholeBlocks(backbone, layer=depth_of(backbone), **computing)
    blocks.tap = config.intents.layer
    extractor = IntentExtractor(backbone, layer=blocks.tap, blocks=blocks, **options)
    whole = LiveIntents(extractor, decoded, cameras)
    sources: dict[str, IntentSource] = {"cached": cached, "live": live, "whole": whole}
    future = config.stage2.policy.future_weight > 0
    share = index.share(batch=config.stage2.batch, seed=0)

    def fed(source: IntentSource) -> Callable[[int, int], Iterator[PolicyBatch]]:
        feed = PolicyFeed(index, numbers, source, future=future)
        return lambda first, last: feed.steps(share, first, last, device=device)

    sides = {name: Side(config, fed(source), source) for name, source in sources.items()}
    kept = [_random(batch) for batch in fed(cached)(0, KEPT)]
    sides["memory"] = Side(config, lambda first, last: (kept[i % KEPT] for i in range(first, last)), cached)
    return sides


def depth_of(backbone: Path) -> int:
    """Blocks of its language model."""
    return int(load_backbone_config(backbone).get_text_config().num_hidden_layers)


def _random(batch: PolicyBatch) -> PolicyBatch:
    """A batch of the same shape whose intents are random numbers."""
    changed = {"intents": torch.randn_like(batch.intents)}
    if batch.future_intents is not None:
        changed["future_intents"] = torch.randn_like(batch.future_intents)
    return replace(batch, **changed)


def _result(config: RunConfig, preset: str, steps: int, sides: dict[str, Side]) -> dict[str, Any]:
    batch = config.stage2.batch
    # The first turn holds compilations and caches that fill; of the others the median.
    rates = {name: batch / statistics.median(side.seconds[1:] or side.seconds) for name, side in sides.items()}
    cached = np.array(sides["cached"].losses)
    differ = {name: float(np.abs(np.array(sides[name].losses) - cached).max()) for name in ("live", "whole")}
    for name in SIDES:
        print(f"{name:<8}{rates[name]:>10,.1f} samples/s   {rates['cached'] / rates[name]:6.2f} times as fast cached")
    for name, most in differ.items():
        print(f"losses of {name} and cached differ by at most {most:.1e} over {steps} steps")
    print(f"flow loss of cached: {cached[0, 0]:.4f} at first, {cached[-1, 0]:.4f} at last", flush=True)
    return {
        "bench": "stage2",
        "unit": "samples a second in training the policy",
        "ours": round(rates["cached"], 1),
        "reference": round(rates["live"], 1),
        "ratio": round(rates["cached"] / rates["live"], 3),
        "reference_is": "the MLLM up to block k in every step, for the present and the future picture",
        "ratio_to_whole": round(rates["cached"] / rates["whole"], 3),
        "share_of_memory": round(rates["cached"] / rates["memory"], 3),
        "samples_per_s": {name: round(rate, 1) for name, rate in rates.items()},
        "losses_differ": differ,
        "first_flow": round(float(cached[0, 0]), 5),
        "last_flow": round(float(cached[-1, 0]), 5),
        "steps": steps,
        "preset": preset,
        "device": config.resources.device,
        "batch": batch,
        "cameras": len(config.world.cameras),
        "image_px": config.world.image_px,
        "layer": config.intents.layer,
    }
