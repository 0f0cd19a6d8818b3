"""One piece of work: read its records, check them, load their media, write their rows, and note what was decided.

A plain callable class: Ray Data keeps some of them running, a test calls one by itself. Memory is bounded by one record
with its media, the rows that wait to be written, and a few hundred bytes a row of notes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from blm.cluster import depot
from blm.model.prompts import Message
from blm.pipelines.datasets.chat import ChatRow
from blm.pipelines.datasets.readers.load import MediaRules, load_record
from blm.pipelines.datasets.readers.record import Record, Rejected
from blm.pipelines.datasets.readers.split import Piece, read_piece
from blm.pipelines.ingest.decontaminate import Decontaminator, Protected, clip_names, protect
from blm.pipelines.ingest.options import SourceConfig
from blm.pipelines.ingest.parts import ChatFiles, RowNotes, finish, row_bytes, save_notes
from blm.pipelines.ingest.quarantine import Quarantine
from blm.pipelines.ingest.sketches import PictureSketch, Sketcher, digest64

DAMAGED = (OSError, ValueError, SyntaxError)
"""What PIL raises for pictures that cannot be decoded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """A source with its pieces, as workers need it."""

    source: SourceConfig
    """Where it comes from."""
    rules: MediaRules
    """How its media are read."""
    pieces: tuple[Piece, ...]
    """In their order."""
    stem: Path
    """Folder for what is written about the pieces."""
    quarantine: Path
    """Folder for what is refused."""
    system: str = ""
    """The system turn of rows without one."""
    limit: int = 0
    """Records of each piece that are read at most; 0 is all."""

    def stem_of(self, piece: int) -> Path:
        """How the names of a piece's files begin, on this node."""
        return depot.place(self.stem / f"{piece:05d}")


class PieceWorker:
    """`{"source": 0, "piece": 3}` -> counts; the rows go to the piece's files."""

    def __init__(self, work: Sequence[Work], protected: str) -> None:
        self._work = work
        self._test = Decontaminator(Protected.load(Path(protected)))
        self._sketch = Sketcher()

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        work = self._work[item["source"]]
        stem = work.stem_of(item["piece"])
        quarantine = Quarantine()
        notes: list[RowNotes] = []
        counts = {"records": 0, "images": 0, "videos": 0, "frames": 0, "bytes": 0}
        with ChatFiles(stem) as files:
            for number, record in enumerate(read_piece(work.pieces[item["piece"]])):
                if work.limit and number >= work.limit:
                    break
                counts["records"] += 1
                row = self._row(work, record, quarantine)
                if row is None:
                    continue
                chat_row, note = row
                files.add(chat_row)
                notes.append(note)
                counts["images"] += len(chat_row.images)
                counts["videos"] += len(chat_row.videos)
                counts["frames"] += sum(len(video.frames) for video in chat_row.videos)
                counts["bytes"] += row_bytes(chat_row)
        save_notes(stem.with_suffix(".npz"), notes)
        quarantine.write(depot.place(work.quarantine / f"{stem.name}.jsonl"))
        reasons = dict(sorted(quarantine.reasons.items()))
        finish(stem, counts | {"rows": files.rows, "reasons": reasons})
        return {**item, "records": counts["records"], "rejected": sum(reasons.values()), "bytes": counts["bytes"]}

    def _row(self, work: Work, record: Record | Rejected, quarantine: Quarantine) -> tuple[ChatRow, RowNotes] | None:
        """The row of a record with what is noted about it; None if it is refused."""
        if isinstance(record, Rejected):
            quarantine.add(record)
            return None
        loaded = load_record(record, work.rules, work.source.name)
        if isinstance(loaded, Rejected):
            quarantine.add(loaded, record)
            return None
        row = _completed(loaded, record, work)
        try:
            sketch = self._sketch(row)
        except DAMAGED as error:
            quarantine.add(Rejected(where=record.where, reason="image_unreadable", detail=str(error)), record)
            return None
        clips = clip_names(record)
        if clips:
            group = digest64(clips[0].encode())
        else:
            group = sketch.pictures[0].digest if sketch.pictures else sketch.exact[0]
        return row, RowNotes(sketch=sketch, rule=self._test.rule(row, sketch.pictures, clips), group=group)


def _completed(row: ChatRow, record: Record, work: Work) -> ChatRow:
    """A loaded row with what the source's options say about it."""
    messages = row.messages
    if work.system and messages and messages[0]["role"] != "system":
        system: Message = {"role": "system", "text": work.system}
        messages = (system, *messages)
    return replace(
        row,
        category=record.category or work.source.category or work.source.name,
        messages=messages,
    )


class ProtectedWorker:
    """`{"source": 0, "piece": 3}` of a benchmark -> counts; what is known of its items goes to the piece's .npz."""

    def __init__(self, work: Sequence[Work]) -> None:
        self._work = work
        self._sketch = Sketcher()

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        work = self._work[item["source"]]
        stem = work.stem_of(item["piece"])
        pictures, clips, questions = list[PictureSketch](), set[str](), list[str]()
        counts = {"items": 0, "without_media": 0, "unreadable": 0}
        for record in read_piece(work.pieces[item["piece"]]):
            if isinstance(record, Rejected):
                counts["unreadable"] += 1
                continue
            counts["items"] += 1
            clips.update(clip_names(record))
            questions += [message["text"] for message in record.messages if message["role"] == "user"]
            row = load_record(record, work.rules)
            try:
                pictures += () if isinstance(row, Rejected) else self._sketch(row).pictures
                counts["without_media"] += isinstance(row, Rejected)
            except DAMAGED:
                counts["without_media"] += 1
        protect(pictures, clips, questions).save(stem.with_suffix(".npz"))
        finish(stem, counts)
        return {**item, **counts}
