"""The intent cache: hidden states of the frozen MLLM for every frame of a dataset, computed once.

    <cache>/<robot>/shard-00000.arrow ...   Arrow IPC files, memory-mapped on read; one row a frame, in dataset order
    <cache>/<robot>/index.json              written last: shards, shape, and the key the cache is valid for

States are kept as bfloat16, whose range the hidden states of large models need (their biggest channels overflow
float16). The key names what an intent depends on: weights, tokenizer, prompt, preprocessing and layer (the
extractor's fingerprint), cameras, and the dataset's bytes. A cache with another key is refused.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from blm.model.errors import UserError
from blm.model.intents import IntentExtractor
from blm.pipelines.datasets.lerobot import LeRobotDataset
from blm.pipelines.datasets.parquet import temporary_path
from blm.pipelines.workspace import read_json, write_json

INDEX = "index.json"
FORMAT = 1
BATCH = 64  # frames a forward pass


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheKey:
    """What a cache was made from. Two caches with equal keys hold equal intents."""

    extractor: str
    """Fingerprint of weights, tokenizer, prompt, preprocessing and layer."""
    cameras: tuple[str, ...]
    """Pictures, in the order in which they stand in the prompt."""
    data: str
    """Hash of the dataset's files."""

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"extractor": self.extractor, "cameras": list(self.cameras), "data": self.data}


def dataset_hash(root: Path) -> str:
    """Hash of a LeRobotDataset's data files and metadata."""
    digest = hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        digest.update(path.relative_to(root).as_posix().encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


class ShardWriter:
    """Ray Data worker: encodes the frames of a few episodes and writes them as one shard."""

    def __init__(
        self, *, model_dir: str, layer: int, max_text_tokens: int, cameras: Sequence[str], device: str, dtype: str
    ) -> None:
        torch.set_num_threads(1)
        self._cameras = list(cameras)
        self._extractor = IntentExtractor(
            model_dir, layer=layer, max_text_tokens=max_text_tokens, device=device, dtype=getattr(torch, dtype)
        )

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """item: `dataset`, `episodes` (indices), `shard` (path). Returns the number of frames and the shape of a
        row."""
        dataset = LeRobotDataset(item["dataset"], episodes=list(item["episodes"]))
        states, lengths = [], []
        for episode in dataset.episodes:
            frames = dataset.read(episode, [f"observation.images.{camera}" for camera in self._cameras])
            pictures = {camera: dataset.pictures(frames, camera) for camera in self._cameras}
            for first in range(0, episode.length, BATCH):
                count = min(BATCH, episode.length - first)
                images = [{c: pictures[c][first + i] for c in self._cameras} for i in range(count)]
                intents = self._extractor.encode(images, [episode.task] * count)
                states.append(intents.states.to("cpu", torch.bfloat16))
                lengths.append(intents.mask.sum(dim=1).cpu())
        return {"shard": item["shard"], **_write_shard(Path(item["shard"]), torch.cat(states), torch.cat(lengths))}


def _write_shard(path: Path, states: Tensor, lengths: Tensor) -> dict[str, int]:
    n, tokens, width = states.shape
    rows = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(tokens * width * 2), n, [None, pa.py_buffer(states.contiguous().view(torch.uint16).numpy())]
    )
    table = pa.table({"states": rows, "length": pa.array(lengths.numpy(), pa.int32())})
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    os.replace(temporary, path)
    return {"frames": n, "tokens": tokens, "width": width}


def write_index(folder: Path, key: CacheKey, shards: Sequence[dict[str, Any]]) -> None:
    """Complete a cache. `shards`: what the workers returned, in dataset order."""
    index = {
        "format": FORMAT,
        "key": key.to_json(),
        "tokens": shards[0]["tokens"],
        "width": shards[0]["width"],
        "shards": [{"file": Path(s["shard"]).name, "frames": s["frames"]} for s in shards],
    }
    write_json(folder / INDEX, index)


class IntentCache:
    """A finished cache, memory-mapped."""

    def __init__(self, folder: Path, expected: CacheKey | None = None) -> None:
        """UserError if the cache is incomplete, damaged, or made from something else than `expected` (and from
        what)."""
        index = read_json(folder / INDEX)
        if expected is not None and index["key"] != expected.to_json():
            changed = [name for name, value in expected.to_json().items() if index["key"].get(name) != value]
            raise UserError(
                f"intent cache {folder} is stale: its {' and '.join(changed)} changed; delete it and run intents"
            )
        self.tokens: int = index["tokens"]
        self.width: int = index["width"]
        self._shards: list[np.ndarray] = []
        lengths = []
        for shard in index["shards"]:
            path = folder / shard["file"]
            try:
                table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
            except (OSError, pa.ArrowException) as error:
                raise UserError(f"intent cache shard {path} cannot be read ({error}); delete {folder}") from error
            if table.num_rows != shard["frames"]:
                raise UserError(
                    f"intent cache shard {path} has {table.num_rows} frames, not {shard['frames']}; delete {folder}"
                )
            buffer = table["states"].chunk(0).buffers()[1]
            rows = np.frombuffer(buffer, dtype=np.uint16, count=table.num_rows * self.tokens * self.width)
            self._shards.append(rows.reshape(table.num_rows, self.tokens, self.width))
            lengths.append(table["length"].to_numpy())
        self._starts = np.cumsum([0, *(len(shard) for shard in self._shards)])
        self.lengths = np.concatenate(lengths)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def rows(self, index: np.ndarray) -> tuple[Tensor, Tensor]:
        """States [n, L, d] bfloat16 and mask bool [n, L] of dataset frames `index` [n], in any order."""
        states = np.empty((len(index), self.tokens, self.width), dtype=np.uint16)
        shard_of = np.searchsorted(self._starts, index, side="right") - 1
        for i, (shard, row) in enumerate(zip(shard_of, index - self._starts[shard_of], strict=True)):
            states[i] = self._shards[shard][row]
        mask = torch.arange(self.tokens)[None] < torch.from_numpy(self.lengths[index])[:, None]
        return torch.from_numpy(states).view(torch.bfloat16), mask
