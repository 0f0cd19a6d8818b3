"""The intent cache: hidden states of the frozen MLLM for every frame of a dataset, computed once.

    <cache>/<robot>/shard-00000-*.arrow   Arrow IPC files, memory-mapped on read (pipelines/intent/shards.py)
    <cache>/<robot>/index.json            written last: shards, shape, measured errors, and the key it is valid for

The key names what an intent depends on: the MLLM's weights, how pictures and prompts are prepared, cameras, and the
dataset. A cache with another key is refused.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from blm.model.errors import UserError
from blm.pipelines.intent.key import CacheKey
from blm.pipelines.intent.shards import Shard, open_shard
from blm.pipelines.intent.store import ITEM_TYPES, Packed, Store, unpack
from blm.pipelines.workspace import read_json, write_json

INDEX = "index.json"
FORMAT = 2


def write_index(
    folder: Path, key: CacheKey, settings: Mapping[str, Any], results: Sequence[Mapping[str, Any]], *, frames: int
) -> dict[str, Any]:
    """Complete a cache, and return its index. settings: what else a reader has to know; results: what the workers
    returned, in dataset order; frames: of the dataset.

    The errors are relative (root of mean squares); None was not measured. Where `live` is set, the results are those of
    a sample, whose shards are not kept.
    """
    index = {
        "format": FORMAT,
        "key": key.to_json(),
        **settings,
        **{name: results[0][name] for name in ("tokens", "picture_tokens", "width")},
        "frames": frames,
        "observations": sum(result["observations"] for result in results),
        "texts": sum(result["texts"] for result in results),
        "store_error": _relative(results, "store"),
        "compute_error": _relative(results, "compute"),
        "shards": [] if settings["live"] else [{n: result[n] for n in ("shard", "frames")} for result in results],
    }
    write_json(folder / INDEX, index)
    return index


def _relative(results: Sequence[Mapping[str, Any]], name: str) -> float | None:
    wrong, whole = (sum(result[f"{name}_{part}"] for result in results) for part in ("wrong", "whole"))
    return float(np.sqrt(wrong / whole)) if whole else None


class IntentCache:
    """A finished cache, memory-mapped. Reading changes nothing in it, so that threads may share one."""

    def __init__(self, folder: Path, expected: CacheKey | None = None) -> None:
        """UserError if the cache is incomplete, damaged, or made from something else than `expected` (and from
        what)."""
        index = read_json(folder / INDEX)
        if index.get("format") != FORMAT:
            raise UserError(f"intent cache {folder} is of another version of blm; run again with --from intents")
        if expected is not None:
            expected.check(index["key"], folder)
        made_from = index["key"]
        self.key = CacheKey(**made_from | {"cameras": tuple(made_from["cameras"])})
        """What it was made from."""
        self.folder = folder
        self.tokens: int = index["tokens"]
        """L: room for tokens in a row."""
        self.width: int = index["width"]
        """c: width of the MLLM."""
        self.layer: int = index["layer"]
        """k: the block whose output the states are."""
        self.max_text_tokens: int = index["max_text_tokens"]
        """Room for the instruction behind the pictures."""
        self.fingerprint: str = index["fingerprint"]
        """Of the extractor (`blm.model.intent_hashes.fingerprint`)."""
        self.precision: Literal["float32", "bfloat16"] = index["precision"]
        """Of the matrix products it was computed with."""
        self.store: Store = index["store"]
        """How numbers are kept."""
        self.n_phrasings: int = index["phrasings"]
        """Wordings of every instruction, the dataset's own among them."""
        self.n_augmentations: int = index["augmentations"]
        """Changed copies of every frame, beside the pictures as they are."""
        self.live: bool = index["live"]
        """Whether it holds no states: whoever needs them runs the model."""
        self._picture_tokens: int = index["picture_tokens"]
        self._shards: list[Shard] = [
            open_shard(
                folder,
                shard["shard"],
                frames=shard["frames"],
                picture_tokens=self._picture_tokens,
                width=self.width,
                store=self.store,
            )
            for shard in index["shards"]
        ]
        shortest = min((shard.texts[0].values.shape[1] for shard in self._shards), default=0)
        self._certain = self._picture_tokens + shortest  # so many tokens of a row are kept in every shard
        counts = [len(shard.picture_of) for shard in self._shards]
        self._n_frames: int = index["frames"]
        self._shard_of = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        self._picture_of = _concatenated([shard.picture_of for shard in self._shards], 1)
        self._text_of = _concatenated([shard.text_of for shard in self._shards], 2)

    def __len__(self) -> int:
        """Frames."""
        return self._n_frames

    def rows(
        self, frames: np.ndarray, *, phrasing: int | np.ndarray = 0, augmentation: int | np.ndarray = 0
    ) -> tuple[Tensor, Tensor]:
        """States bfloat16 [n, L, c] and mask bool [n, L] of dataset frames int64 [n], in any order.

        phrasing and augmentation: one for all frames or one for each [n]; 0 is the dataset's own instruction, and the
        pictures as they are. UserError for a cache without states.
        """
        if self.live:
            raise UserError(f"{self.folder} keeps no states (intents.cache: none); compute them, or cache on disk")
        n = len(frames)
        shards = self._shard_of[frames].tolist()
        pictures = self._picture_of[frames].tolist()
        texts = self._text_of[frames, phrasing].tolist()
        views = np.broadcast_to(augmentation, n).tolist()
        values = np.empty((n, self.tokens, self.width), dtype=ITEM_TYPES[self.store])
        values[:, self._certain :] = 0
        scales = None if self.store == "bf16" else np.zeros((n, self.tokens), dtype=np.float32)
        lengths = np.empty(n, dtype=np.int64)
        behind = self._picture_tokens
        # A loop over rows: each is two copies of kilobytes, beside which the loop itself costs little.
        for row in range(n):
            shard, view = self._shards[shards[row]], views[row]
            seen, read = shard.pictures[view], shard.texts[view]
            text, picture = texts[row], pictures[row]
            end = behind + read.values.shape[1]
            values[row, :behind] = seen.values[picture]
            values[row, behind:end] = read.values[text]
            if scales is not None and seen.scales is not None and read.scales is not None:
                scales[row, :behind] = seen.scales[picture]
                scales[row, behind:end] = read.scales[text]
            lengths[row] = shard.lengths[text]
        mask = torch.arange(self.tokens)[None] < torch.from_numpy(behind + lengths)[:, None]
        return unpack(Packed(values=values, scales=scales)), mask


def _concatenated(parts: Sequence[np.ndarray], dimensions: int) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros((0,) * dimensions, dtype=np.int32)
