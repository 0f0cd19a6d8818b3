"""An untrained but complete policy checkpoint, and little policies that are real where it counts."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from blm.actors.sim.policies import PolicyError, RandomPolicy
from blm.model.types import ActionChunk, Observation, Prefixes


def write_small_policy(folder: Path, mllm: Path, *, cameras: tuple[str, ...] = ("front",), image_px: int = 112) -> Path:
    """A checkpoint for the Panda around `mllm`: random weights, plausible normalisation."""
    import torch

    from blm.model.checkpoint import Contract, write_checkpoint
    from blm.model.intents import IntentExtractor
    from blm.model.layout import layout_of
    from blm.model.normalize import EmbodimentStatistics, Quantiles
    from blm.model.options import PolicyConfig

    extractor = IntentExtractor(mllm, layer=2, max_text_tokens=64)  # a tiny tokenizer spells most words
    contract = Contract(
        policy=PolicyConfig(width=64, blocks=2, heads=2, latents=4, bridge_layers=1, head_hidden=32, future_block=2),
        layouts=(layout_of("panda"),),
        layer=2,
        max_text_tokens=extractor.max_text_tokens,
        intent_width=extractor.width,
        max_tokens=extractor.length([(image_px, image_px)] * len(cameras)),
        cameras=cameras,
        image_px=image_px,
        statistics={
            "panda": EmbodimentStatistics(
                state=Quantiles(low=(-3.0,) * 7 + (0.0,), high=(3.0,) * 7 + (1.0,)),
                action=Quantiles(low=(-0.1,) * 7 + (0.0,), high=(0.1,) * 7 + (1.0,)),
            )
        },
        intents_fingerprint=extractor.fingerprint,
        provenance={"made_by": "tests"},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        weights = contract.build_policy().state_dict()
        # Zero-initialised gates would make every weight behind them idle.
        weights = {k: w + 0.05 * torch.randn_like(w) if w.is_floating_point() else w for k, w in weights.items()}
    write_checkpoint(folder, mllm, contract, weights)
    return folder


class SpoiltPolicy(RandomPolicy):
    """Random actions, except that observations with certain instructions get something wrong."""

    name = "spoilt"

    def __init__(self, how: str, instruction: str) -> None:
        super().__init__()
        self.how = how
        self.instruction = instruction

    def infer_batch(
        self, observations: Sequence[Observation], seeds: Sequence[int], prefixes: Prefixes | None = None
    ) -> list[ActionChunk]:
        chunks = super().infer_batch(observations, seeds, prefixes)
        return [
            self._spoil(chunk) if observation.instruction == self.instruction else chunk
            for chunk, observation in zip(chunks, observations, strict=True)
        ]

    def _spoil(self, chunk: ActionChunk) -> ActionChunk:
        actions = chunk.actions
        if self.how == "error":
            raise PolicyError("cannot look at this")
        if self.how == "rate":
            return ActionChunk(actions=actions, control_hz=50)
        if self.how == "nan":
            actions = np.where(np.arange(len(actions))[:, None] == 2, np.nan, actions)
        elif self.how == "narrow":
            actions = actions[:, :-1]
        elif self.how == "short":
            actions = actions[:3]
        return ActionChunk(actions=actions, control_hz=chunk.control_hz)
