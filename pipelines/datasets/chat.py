"""The one schema in which conversations are stored: simulator questions, language, and any corpus brought in
from outside.

One row is one conversation: user and assistant in turns, after one system turn where there is one. Pictures are
kept encoded (PNG or JPEG) beside the text, so a row is self-contained and a shuffle moves a kilobyte instead of a
decoded picture; a video is its kept frames, encoded likewise, and nothing that reads a row opens a video file. User
turns name each picture by one `<image>` and each video by one `<video>` placeholder, in order over all turns.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from blm.model.errors import UserError
from blm.model.prompts import IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER, Message
from blm.pipelines.datasets.parquet import read_table, write_table

CHAT_SCHEMA = pa.schema(
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Video:
    """Pictures in the order of time."""

    frames: tuple[bytes, ...]
    """Encoded pictures, JPEG or PNG, all of one size."""
    fps: float
    """Frames a second at which they were kept, not those of the original; stored as float32."""


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
    """A system turn or none, then user and assistant turns in alternation, the user first."""
    images: tuple[bytes, ...] = ()
    """Encoded pictures, in the order of their placeholders."""
    videos: tuple[Video, ...] = ()
    """Videos, in the order of their placeholders."""
    meta: dict[str, Any] = field(default_factory=dict)
    """Facts that belong to the row, JSON-able."""


def chat_turn(question: str, answer: str) -> tuple[Message, Message]:
    """A question and its answer as two messages."""
    return {"role": "user", "text": question}, {"role": "assistant", "text": answer}


def validate_row(row: ChatRow) -> None:
    """ValueError, naming the row, unless roles alternate, no text is empty, videos have frames and a rate, and the
    placeholders in user turns match the pictures and videos.
    """
    turns = row.messages[1:] if row.messages and row.messages[0]["role"] == "system" else row.messages
    if not turns or len(turns) % 2:
        raise ValueError(f"conversation {row.id}: {len(turns)} messages; every question needs its answer")
    named = {IMAGE_PLACEHOLDER: 0, VIDEO_PLACEHOLDER: 0}
    first = len(row.messages) - len(turns)
    for i, message in enumerate(row.messages):
        expected = "system" if i < first else "assistant" if (i - first) % 2 else "user"
        role, text = message["role"], message["text"]
        if role != expected:
            raise ValueError(f"conversation {row.id}: message {i} is by {role!r}, not {expected!r}")
        if not text.replace(IMAGE_PLACEHOLDER, "").replace(VIDEO_PLACEHOLDER, "").strip():
            raise ValueError(f"conversation {row.id}: message {i} has no text")
        for placeholder in named:
            named[placeholder] += text.count(placeholder)
            if expected != "user" and placeholder in text:
                raise ValueError(f"conversation {row.id}: message {i} by {role!r} holds {placeholder}; only users may")
    for placeholder, there in ((IMAGE_PLACEHOLDER, len(row.images)), (VIDEO_PLACEHOLDER, len(row.videos))):
        if named[placeholder] != there:
            raise ValueError(
                f"conversation {row.id}: its messages hold {named[placeholder]} {placeholder}, the row has {there}"
            )
    for video in row.videos:
        if not video.frames or not 0 < video.fps < float("inf"):
            raise ValueError(f"conversation {row.id}: a video of {len(video.frames)} frames at {video.fps} a second")


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
            "videos": [{"frames": list(video.frames), "fps": video.fps} for video in row.videos],
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
        videos=tuple(Video(frames=tuple(v["frames"]), fps=v["fps"]) for v in record["videos"] or ()),
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
