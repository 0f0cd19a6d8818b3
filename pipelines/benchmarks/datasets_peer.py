"""The peer of `blm bench ingest`: Hugging Face `datasets` and PyTorch's DataLoader, in an environment of their own.

Run as a script by that environment's Python, so it imports nothing of this project. One JSON object a line on standard
input (`records`, `root`, `out`, `processes`, `reduced`), one on standard output with the time of the work.

What it does to a record is what our ingestion does: the conversation's roles, text and placeholders are checked; the
picture must lie below its root, is opened, its size bounded, and decoded, so that a truncated one is noticed; rows are
written as Parquet in our schema. It looks for no duplicates and remembers nothing of what was bad. Pictures are decoded
in full, as `datasets` itself does, or on request at a reduced size, which is how ours notices the same.
"""

import io
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch.utils.data
from datasets import load_dataset  # type: ignore[import-not-found]
from PIL import Image

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("category", pa.string()),
        ("images", pa.list_(pa.binary())),
        ("videos", pa.list_(pa.struct([("frames", pa.list_(pa.binary())), ("fps", pa.float32())]))),
        ("messages", pa.list_(pa.struct([("role", pa.string()), ("text", pa.string())]))),
        ("meta", pa.string()),
    ]
)
ROLES = {"human": "user", "gpt": "assistant"}
MOST_PIXELS = 64_000_000
GROUP = 100


class Records(torch.utils.data.Dataset[dict[str, Any] | None]):
    """Records as rows; None for a bad one."""

    def __init__(self, records: Any, root: str, reduced: bool) -> None:
        self.records = records
        self.reduced = reduced
        self.root = Path(root).resolve()

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any] | None:
        record = self.records[index]
        try:
            images = [self._picture(record["image"])] if record["image"] else []
            return {
                "id": str(record["id"]),
                "source": "bench",
                "category": "bench",
                "images": images,
                "videos": [],
                "messages": _messages(record["conversations"], len(images)),
                "meta": "{}",
            }
        except (OSError, ValueError, SyntaxError):
            return None

    def _picture(self, name: str) -> bytes:
        path = (self.root / name).resolve()
        if not path.is_relative_to(self.root):
            raise ValueError("outside of the root")
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MOST_PIXELS:
                raise ValueError("too large")
            if self.reduced:
                image.draft("RGB", (108, 96))
            image.load()
        return data


def _messages(turns: list[dict[str, str]], pictures: int) -> list[dict[str, str]]:
    messages = [{"role": ROLES[turn["from"]], "text": turn["value"]} for turn in turns]
    for i, message in enumerate(messages):
        if message["role"] != ("assistant" if i % 2 else "user"):
            raise ValueError("roles")
        text = message["text"]
        if not text.replace("<image>", "").strip() or "<|" in text or "\0" in text:
            raise ValueError("text")
    if sum(message["text"].count("<image>") for message in messages) != pictures:
        raise ValueError("placeholders")
    return messages


def ingest(request: dict[str, Any]) -> dict[str, Any]:
    """Everything from the JSON file to the Parquet file; returns rows written and seconds."""
    started_s = time.perf_counter()
    with tempfile.TemporaryDirectory() as cache:
        records = load_dataset("json", data_files=request["records"], split="train", cache_dir=cache)
        rows_of = Records(records, request["root"], request["reduced"])
        loader = torch.utils.data.DataLoader(
            rows_of, batch_size=GROUP, num_workers=request["processes"], collate_fn=list
        )
        rows = 0
        with pq.ParquetWriter(request["out"], SCHEMA, use_dictionary=False, write_statistics=False) as writer:
            for batch in loader:
                kept = [row for row in batch if row is not None]
                rows += len(kept)
                writer.write_table(pa.Table.from_pylist(kept, schema=SCHEMA))
    return {"rows": rows, "wall_s": time.perf_counter() - started_s}


def main() -> None:
    """Answer requests until standard input ends."""
    torch.set_num_threads(1)
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries talk
    for line in sys.stdin:
        print(json.dumps(ingest(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
