"""Corpora as training data for Stage I: tokenised once by Ray Data, memory-mapped by every training worker.

Tokenising, placing rotary positions and projecting true positions into the pictures happen here, outside the training
processes. Pictures stay encoded on disk; a worker decodes each one at most once and keeps it.
"""

import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from PIL import Image
from transformers import PreTrainedTokenizerBase

from blm.actors.sim.cameras import CAMERAS, FIXED_CAMERAS, project
from blm.model.errors import UserError
from blm.model.prompts import encode_chat
from blm.model.rope import mrope_positions
from blm.model.sft import N_POINTS, EncodedRow
from blm.model.vision import TOKEN_PX, tokens_per_image
from blm.pipelines.datasets.chat import ChatRow, chat_files, read_chat
from blm.pipelines.datasets.parquet import temporary_path

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("category", pa.string()),
        ("input_ids", pa.list_(pa.int32())),
        ("labels", pa.list_(pa.int32())),
        ("positions", pa.list_(pa.int32())),
        ("images", pa.list_(pa.binary())),
        ("points_px", pa.list_(pa.float32())),
    ]
)


def encode_corpus(
    corpus: Path,
    out: Path,
    load_tokenizer: Callable[[], PreTrainedTokenizerBase],
    *,
    cameras: Sequence[str],
    max_length: int,
    blocks: int,
) -> list[Path]:
    """Tokenise every chat file of `corpus` into an Arrow file of `out`, in parallel; files already there are kept.

    load_tokenizer: called in each worker. Raises UserError for damaged files and for conversations over `max_length`.
    """
    out.mkdir(parents=True, exist_ok=True)
    files = chat_files(corpus)
    targets = [out / f"{file.stem}.arrow" for file in files]
    missing = [{"source": str(f), "target": str(t)} for f, t in zip(files, targets, strict=True) if not t.is_file()]

    def encode(item: dict[str, str]) -> dict[str, int]:
        return {"rows": _encode_file(Path(item["source"]), Path(item["target"]), load_tokenizer(), cameras, max_length)}

    if missing:
        ray.data.from_items(missing, override_num_blocks=min(blocks, len(missing))).map(encode).sum("rows")
    return targets


def _encode_file(
    source: Path, target: Path, tokenizer: PreTrainedTokenizerBase, cameras: Sequence[str], max_length: int
) -> int:
    image_token_id = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    records = [_encode_row(row, tokenizer, image_token_id, cameras, max_length) for row in read_chat(source)]
    temporary = temporary_path(target)
    with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        writer.write_table(pa.Table.from_pylist(records, schema=SCHEMA))
    os.replace(temporary, target)
    return len(records)


def _encode_row(
    row: ChatRow, tokenizer: PreTrainedTokenizerBase, image_token_id: int, cameras: Sequence[str], max_length: int
) -> dict:
    sizes = [Image.open(io.BytesIO(image)).size for image in row.images]  # reads the header alone
    chat = encode_chat(tokenizer, row.messages, [tokens_per_image(height, width) for width, height in sizes])
    if len(chat.input_ids) > max_length:
        raise UserError(
            f"conversation {row.id} has {len(chat.input_ids)} tokens; shorten it or raise stage1.max_length"
            f" ({max_length})"
        )
    grids = [(height // TOKEN_PX, width // TOKEN_PX) for width, height in sizes]
    positions = mrope_positions(chat.input_ids, image_token_id=image_token_id, grids=grids)
    return {
        "id": row.id,
        "source": row.source,
        "category": row.category,
        "input_ids": chat.input_ids,
        "labels": chat.labels,
        "positions": positions.ravel(),
        "images": list(row.images),
        "points_px": _points_px(row, sizes, cameras).ravel(),
    }


def _points_px(row: ChatRow, sizes: Sequence[tuple[int, int]], cameras: Sequence[str]) -> np.ndarray:
    """Where gripper, object and goal are in each picture, float32 [M, 3, 2].

    NaN without simulator truth, and in pictures of a camera that moves with the hand.
    """
    known = row.meta.get("object_positions")
    if known is None or len(sizes) != len(cameras):
        return np.full((len(sizes), N_POINTS, 2), np.nan, dtype=np.float32)
    points_m = np.asarray(known).reshape(N_POINTS, 3)
    pixels = np.full((len(sizes), N_POINTS, 2), np.nan, dtype=np.float32)
    for picture, (camera, size) in enumerate(zip(cameras, sizes, strict=True)):
        if camera in FIXED_CAMERAS:
            pixels[picture], _ = project(points_m, CAMERAS[camera], size[0])
    return pixels


class RowStore:
    """Tokenised rows of several Arrow files, memory-mapped; pictures decoded on first use and kept."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._table = pa.concat_tables([pa.ipc.open_file(pa.memory_map(str(file))).read_all() for file in files])
        self._rows: dict[int, EncodedRow] = {}
        self.categories: list[str] = self._table["category"].to_pylist()
        self.with_images = np.flatnonzero(
            [length > 0 for length in pc.list_value_length(self._table["images"]).to_pylist()]
        )

    def __len__(self) -> int:
        return self._table.num_rows

    def __getitem__(self, index: int) -> EncodedRow:
        if index not in self._rows:
            self._rows[index] = self._decode(index)
        return self._rows[index]

    def _decode(self, index: int) -> EncodedRow:
        record = {name: self._table[name][index].as_py() for name in ("input_ids", "labels", "positions", "images")}
        images = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in record["images"]]
        points_px = np.array(self._table["points_px"][index].as_py(), dtype=np.float32)
        return EncodedRow(
            input_ids=np.array(record["input_ids"], dtype=np.int32),
            labels=np.array(record["labels"], dtype=np.int32),
            positions=np.array(record["positions"], dtype=np.int32).reshape(3, -1),
            images=np.stack(images) if images else np.zeros((0, TOKEN_PX, TOKEN_PX, 3), dtype=np.uint8),
            points_px=points_px.reshape(len(images), N_POINTS, 2),
        )


def training_texts(corpus: Path) -> list[str]:
    """Every message text of a corpus, for the tokenizer."""
    return [message["text"] for file in chat_files(corpus) for row in read_chat(file) for message in row.messages]


def row_order(n_rows: int, first: int, count: int, seed: int) -> np.ndarray:
    """Row indices at places first..first+count of an endless stream of shuffled epochs, int64 [count].

    A pure function of its arguments: a resumed run sees the rows it would have seen.
    """
    places = np.arange(first, first + count)
    epochs = places // n_rows
    order = np.empty(count, dtype=np.int64)
    for epoch in np.unique(epochs):
        permutation = np.random.default_rng((seed, int(epoch))).permutation(n_rows)
        chosen = epochs == epoch
        order[chosen] = permutation[places[chosen] % n_rows]
    return order


def describe(store: RowStore) -> str:
    """One line for the person watching."""
    lengths = pc.list_value_length(store._table["input_ids"]).to_numpy()
    return json.dumps(
        {"rows": len(store), "mean_tokens": round(float(lengths.mean()), 1), "longest": int(lengths.max())}
    )
