"""A complete checkpoint that has learned nothing, in the size of a preset: enough to measure how fast it is served."""

from pathlib import Path
from typing import Any

import torch

from blm.model.checkpoint import Contract, write_checkpoint
from blm.model.embodiments import EMBODIMENTS
from blm.model.intents import IntentExtractor
from blm.model.layout import Layout, layout_of
from blm.model.normalize import EmbodimentStatistics, Quantiles
from blm.pipelines.benchmarks.stage2_data import extractor_options, write_backbone
from blm.pipelines.config import load_config


def make_checkpoint(folder: Path, preset: str, device: str) -> Path:
    """The path of a checkpoint below `folder`, of all our robots, with random weights; `paper` is in the shape of a 7B.

    device: `cpu` or `cuda`, where the weights are drawn.
    """
    config = load_config(preset, [f"resources.device={device}"])
    backbone = write_backbone(folder / "backbone", config, torch.device(device))
    layouts, world, options = tuple(layout_of(robot) for robot in EMBODIMENTS), config.world, extractor_options(config)
    extractor = IntentExtractor(backbone, layer=config.intents.layer, **options)
    contract = Contract(
        policy=config.stage2.policy,
        layouts=layouts,
        layer=config.intents.layer,
        max_text_tokens=extractor.max_text_tokens,
        intent_width=extractor.width,
        max_tokens=extractor.length([(world.image_px, world.image_px)] * len(world.cameras)),
        cameras=world.cameras,
        image_px=world.image_px,
        statistics={layout.name: plausible_statistics(layout) for layout in layouts},
        intents_fingerprint=extractor.fingerprint,
        intents_precision=options["precision"],
        provenance={"made_by": "blm bench"},
    )
    del extractor
    if device == "cuda":
        torch.cuda.empty_cache()  # the server that is measured needs the room
    torch.manual_seed(0)
    # Gates are zero at first, and would hide what is behind them.
    weights = {name: w + 0.02 * torch.randn_like(w) for name, w in contract.build_policy().state_dict().items()}
    write_checkpoint(folder / "model", backbone, contract, weights)
    return folder / "model"


def plausible_statistics(layout: Layout) -> EmbodimentStatistics:
    """Everything between -1 and 1."""
    dims: dict[str, Any] = {"state": layout.state_dim, "action": layout.action_dim}
    return EmbodimentStatistics(
        **{what: Quantiles(low=(-1.0,) * count, high=(1.0,) * count) for what, count in dims.items()}
    )
