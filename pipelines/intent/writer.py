"""The worker of the intents stage: runs the frozen MLLM over the frames of some episodes and writes one shard."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from blm.cluster import depot
from blm.model.intents import ROWS, IntentExtractor
from blm.pipelines.intent.making import ShardMaker, Variants
from blm.pipelines.intent.shards import PARTS, part_path, write_shard
from blm.pipelines.intent.store import ErrorSum, Store
from blm.pipelines.windows.dataset import RobotDataset

_READ_AHEAD = 4
"""Forward passes whose pictures are read while one runs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WriterOptions:
    """What shards are made with, beside their frames."""

    model_dir: str
    layer: int
    max_text_tokens: int
    cameras: tuple[str, ...]
    variants: Variants
    store: Store = "bf16"
    device: str = "cpu"
    dtype: str = "float32"
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of matrix products with float32 weights."""

    def extractor(self, precision: Literal["float32", "bfloat16"]) -> IntentExtractor:
        """The MLLM, multiplying in this precision."""
        return IntentExtractor(
            depot.here(Path(self.model_dir)),
            layer=self.layer,
            max_text_tokens=self.max_text_tokens,
            device=self.device,
            dtype=getattr(torch, self.dtype),
            precision=precision,
        )


class ShardWriter:
    """Ray Data worker. On a GPU pictures are read by several threads, on a CPU by one, which the model waits for."""

    def __init__(self, *, options: WriterOptions) -> None:
        if options.device == "cpu":
            torch.set_num_threads(1)
        self._options = options
        self._extractor = options.extractor(options.precision)
        self._threads = ThreadPoolExecutor(1 if options.device == "cpu" else _READ_AHEAD)
        self._datasets: dict[str, RobotDataset] = {}

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """item: `dataset` (folder), `episodes` (their places), `folder` and `shard` (name) to write, `measure` (whether
        to compute a forward pass in float32 as well). Returns counts, the shape of a row, and sums of errors."""
        if item["dataset"] not in self._datasets:
            self._datasets = {item["dataset"]: RobotDataset.open(item["dataset"])}
        dataset = self._datasets[item["dataset"]]
        episodes = [dataset.episodes[i] for i in item["episodes"]]
        frames = np.concatenate([e.first_frame + np.arange(e.length, dtype=np.int64) for e in episodes])
        chunks = [frames[first : first + ROWS] for first in range(0, len(frames), ROWS)]
        maker = ShardMaker(self._extractor, self._options.variants, self._options.store)
        for chunk, pictures in zip(chunks, self._read(dataset, chunks), strict=True):
            maker.add(pictures, dataset.instruction_of(chunk))
        shard = maker.shard()
        folder = depot.place(Path(item["folder"]))
        write_shard(folder, item["shard"], shard)
        for part in PARTS:
            depot.keep(part_path(folder, item["shard"], part))
        compute = self._compute_error(maker) if item["measure"] else ErrorSum()
        height, width = maker.first[0].pictures.shape[1:3]
        return {
            "shard": item["shard"],
            "frames": len(frames),
            "observations": len(shard.pictures[0].values),
            "texts": len(shard.lengths),
            "picture_tokens": shard.pictures[0].values.shape[1],
            "tokens": self._extractor.length([(height, width)] * len(self._options.cameras)),
            "width": self._extractor.width,
            "store_wrong": maker.error.wrong,
            "store_whole": maker.error.whole,
            "compute_wrong": compute.wrong,
            "compute_whole": compute.whole,
        }

    def _read(self, dataset: RobotDataset, chunks: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        """Pictures of every chunk of frames, read ahead."""
        reading: deque[Future[np.ndarray]] = deque()
        for chunk in chunks:
            reading.append(self._threads.submit(dataset.pictures, chunk, self._options.cameras))
            if len(reading) > _READ_AHEAD:
                yield reading.popleft().result()
        while reading:
            yield reading.popleft().result()

    def _compute_error(self, maker: ShardMaker) -> ErrorSum:
        """Of bfloat16 products against float32, over a forward pass; nothing where the weights themselves are bfloat16
        (they would have to be loaded a second time)."""
        error = ErrorSum()
        if self._options.precision == "bfloat16" and self._options.dtype == "float32":
            given = maker.forward(self._extractor, maker.first, 0)
            exact = maker.forward(self._options.extractor("float32"), maker.first, 0)
            error.add(given.pictures, exact.pictures)
            for text, length in enumerate(exact.lengths.tolist()):
                error.add(given.texts[text, :length], exact.texts[text, :length])
        return error
