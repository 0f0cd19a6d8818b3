"""The one schema in which conversations are stored: simulator questions, language, and any corpus brought in
from outside.

One row is one conversation. Pictures are kept encoded (PNG or JPEG) beside the text, so a row is
self-contained and a shuffle moves a kilobyte instead of a decoded picture. The first user turn names every
picture of the row by one `<image>` placeholder, before any text.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from blm.model.errors import UserError
from blm.model.prompts import IMAGE_PLACEHOLDER, Message
from blm.pipelines.datasets.parquet import read_table, write_table

CHAT_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("category", pa.string()),
        ("images", pa.list_(pa.binary())),
        ("messages", pa.list_(pa.struct([("role", pa.string()), ("text", pa.string())]))),
        ("meta", pa.string()),
    ]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatRow:
    """One conversation."""

    id: str
    """Unique within a corpus."""
    source: str
    """Where it comes from: `simulator`, `language`, or the name of an outside corpus."""
    category: str
    """What is asked; `mixed` for a conversation of several questions."""
    messages: tuple[Message, ...]
    """User and assistant turns in alternation, the user first."""
    images: tuple[bytes, ...] = ()
    """Encoded pictures, in the order of their placeholders."""
    meta: dict[str, Any] = field(default_factory=dict)
    """Facts that belong to the row, JSON-able."""


def chat_turn(question: str, answer: str) -> tuple[Message, Message]:
    """A question and its answer as two messages."""
    return {"role": "user", "text": question}, {"role": "assistant", "text": answer}


def validate_row(row: ChatRow) -> None:
    """ValueError, naming the row, unless roles alternate, no text is empty and placeholders match the pictures."""
    if not row.messages or len(row.messages) % 2:
        raise ValueError(f"conversation {row.id}: {len(row.messages)} messages; every question needs its answer")
    for i, message in enumerate(row.messages):
        expected = "assistant" if i % 2 else "user"
        if message["role"] != expected:
            raise ValueError(f"conversation {row.id}: message {i} is by {message['role']!r}, not {expected!r}")
        if not message["text"].replace(IMAGE_PLACEHOLDER, "").strip():
            raise ValueError(f"conversation {row.id}: message {i} has no text")
        placeholders = message["text"].count(IMAGE_PLACEHOLDER)
        if placeholders != (len(row.images) if i == 0 else 0):
            raise ValueError(
                f"conversation {row.id}: message {i} names {placeholders} images, the row has {len(row.images)}"
            )


def chat_table(rows: Sequence[ChatRow]) -> pa.Table:
    """Rows as a table of `CHAT_SCHEMA`, each one validated."""
    for row in rows:
        validate_row(row)
    records = [
        {
            "id": row.id,
            "source": row.source,
            "category": row.category,
            "images": list(row.images),
            "messages": list(row.messages),
            "meta": json.dumps(row.meta, separators=(",", ":"), sort_keys=True),
        }
        for row in rows
    ]
    return pa.Table.from_pylist(records, schema=CHAT_SCHEMA)


def write_chat(path: Path, rows: Sequence[ChatRow]) -> None:
    """Write one chat file, whole or not at all."""
    write_table(path, chat_table(rows))


def read_chat(path: str | Path) -> list[ChatRow]:
    """The conversations of one chat file. UserError naming the file if it is damaged or of another schema."""
    table = read_table(path, CHAT_SCHEMA.names)
    try:
        return [_row(record) for record in table.cast(CHAT_SCHEMA).to_pylist()]
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise UserError(f"{path} is not in the chat schema ({error}); see blm.pipelines.datasets.chat") from error


def _row(record: dict[str, Any]) -> ChatRow:
    return ChatRow(
        id=record["id"],
        source=record["source"],
        category=record["category"],
        images=tuple(record["images"] or ()),
        messages=tuple(record["messages"]),
        meta=json.loads(record["meta"] or "{}"),
    )


def chat_files(folder: str | Path) -> list[Path]:
    """The chat files of a folder, in their fixed order. UserError if there is none."""
    paths = sorted(Path(folder).glob("*.parquet"))
    if not paths:
        raise UserError(f"{folder} holds no Parquet file of conversations; run the corpora stage first")
    return paths


def iterate_chat(folder: str | Path) -> Iterator[ChatRow]:
    """Every conversation of a folder of chat files, one file in memory at a time."""
    for path in chat_files(folder):
        yield from read_chat(path)
