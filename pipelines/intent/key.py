"""What an intent cache was made from, each part its own hash, so that a refusal can name what changed."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from blm.model.errors import UserError
from blm.model.intent_hashes import preprocessing_hash, weights_hash
from blm.pipelines.windows.dataset import RobotDataset, data_hash


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheKey:
    """Two caches with equal keys hold equal intents."""

    weights: str
    """Hash of the MLLM's weights."""
    preprocessing: str
    """Hash of the tap, the room for text, prompt, tokenizer, picture size and normalisation."""
    cameras: tuple[str, ...]
    """Pictures, in the order in which they stand in the prompt."""
    data: str
    """Hash of the dataset."""

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "weights": self.weights,
            "preprocessing": self.preprocessing,
            "cameras": list(self.cameras),
            "data": self.data,
        }

    def check(self, made_from: Mapping[str, Any], folder: Path) -> None:
        """UserError naming every part in which the key of the cache in `folder` differs from this one."""
        changed = [name for name, now in self.to_json().items() if made_from.get(name) != now]
        if changed:
            raise UserError(
                f"intent cache {folder} is stale: its {' and '.join(changed)} changed; run again with --from intents"
            )


def cache_key(
    model_dir: Path, dataset: Path, cameras: tuple[str, ...], *, layer: int, max_text_tokens: int
) -> CacheKey:
    """The key that a cache for this model and dataset folder must have. UserError for a camera it does not have."""
    height, width = RobotDataset.open(dataset).pictures(np.zeros(1, dtype=np.int64), cameras).shape[2:4]
    prepared = f"{preprocessing_hash(model_dir, layer, max_text_tokens)}:{height}x{width}"
    return CacheKey(
        weights=weights_hash(model_dir),
        preprocessing=hashlib.sha256(prepared.encode()).hexdigest()[:16],
        cameras=cameras,
        data=data_hash(dataset),
    )
