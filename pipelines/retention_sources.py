"""What language retention is measured on: questions, multiple choice, prose, and files that a person names.

Everything becomes `Passage`s: tokens of which some are scored, and how many bytes of text these stand for.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from blm.model.chat_encoder import ChatEncoder
from blm.model.errors import UserError
from blm.model.packing import EncodedRow
from blm.model.prompts import IGNORE_INDEX, Message
from blm.pipelines.datasets.balance import evenly
from blm.pipelines.datasets.chat import chat_files, chat_turn
from blm.pipelines.datasets.habits import COLUMNS
from blm.pipelines.datasets.parquet import read_table
from blm.pipelines.datasets.readers.detect import detect
from blm.pipelines.datasets.readers.load import MediaRules, load_record
from blm.pipelines.datasets.readers.record import Rejected
from blm.pipelines.datasets.readers.split import read_piece, split

GENERAL = Path(__file__).parent / "datasets" / "general_language.json"
"""Questions of general knowledge with four options, and prose; none of it is trained on."""
WINDOW = 1024
"""Tokens that plain text is read in at a time; the first half of each window but the first is context."""
TEXT_ENDINGS = (".txt", ".md")
PIECE_BYTES = 4 << 20
CHARACTERS = 200_000
"""Of a text file that are tokenised together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Passage:
    """Something to be scored."""

    source: str
    """`corpus`, `general`, `prose`, or the name of a file."""
    category: str
    """What it is about."""
    row: EncodedRow
    """Its tokens; labels where they are scored."""
    n_bytes: int
    """UTF-8 bytes of the text that the scored tokens stand for."""
    question: int = -1
    """Multiple choice: passages of the same number are options of one question. Otherwise -1."""
    right_option: bool = False
    """Whether it is the right one of them."""
    asked: bool = True
    """Whether it is an answer that can be right to the token; plain text cannot."""


def corpus_passages(corpora: Path, encoder: ChatEncoder, limit: int) -> Iterator[Passage]:
    """The held-out questions of a corpora folder that show nothing, at most `limit` (0: all), evenly over their
    categories. UserError if a file is damaged or missing.
    """
    rows = [row for path in chat_files(corpora / "test") for row in read_table(path, ("id", *COLUMNS)).to_pylist()]
    rows = [row for row in rows if not _shows(row["messages"])]
    for i in evenly([row["id"] for row in rows], [row["category"] for row in rows], limit):
        yield conversation(rows[i]["messages"], encoder, source="corpus", category=rows[i]["category"])


def general_passages(encoder: ChatEncoder) -> Iterator[Passage]:
    """The set that ships with blm: multiple choice, then prose."""
    shipped = json.loads(GENERAL.read_text(encoding="utf-8"))
    for number, (topic, question, *options) in enumerate(shipped["questions"]):
        for place, option in enumerate(options):
            passage = conversation(chat_turn(question, option), encoder, source="general", category=topic)
            yield replace(passage, question=number, right_option=place == 0)
    for text in shipped["prose"]:
        yield from text_passages(text, encoder, source="prose")


def file_passages(path: Path, encoder: ChatEncoder, limit: int) -> Iterator[Passage]:
    """What a person names: plain text, or conversations in any layout that ingestion reads, or a folder of either.

    At most `limit` passages (0: all). What shows pictures or cannot be read is left out. UserError if nothing is left.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist; name a text file, a file of conversations or a folder of them")
    number = 0
    for number, passage in enumerate(_passages_of(path, encoder), start=1):
        yield passage
        if number == limit:
            return
    if not number:
        raise UserError(f"{path} holds neither plain text nor a conversation without pictures that can be read")


def _passages_of(path: Path, encoder: ChatEncoder) -> Iterator[Passage]:
    texts = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix in TEXT_ENDINGS)
    if texts and texts[0].suffix in TEXT_ENDINGS:
        for file in texts:
            for text in _read_text(file):
                yield from text_passages(text, encoder, source=path.name)
        return
    format = detect(path).format
    rules = MediaRules(root=str(path if path.is_dir() else path.parent))
    for piece in split(path, format, PIECE_BYTES):
        for record in read_piece(piece):
            if isinstance(record, Rejected) or record.images or record.videos:
                continue
            row = load_record(record, rules, path.name)
            if not isinstance(row, Rejected):
                yield conversation(row.messages, encoder, source=path.name, category=row.category or path.name)


def _read_text(file: Path) -> Iterator[str]:
    """A text file in pieces that end with a line, if its lines are not longer than a piece."""
    held = ""
    with file.open(encoding="utf-8", errors="replace") as stream:
        while part := stream.read(CHARACTERS):
            held += part
            cut = held.rfind("\n") + 1 or len(held)
            yield held[:cut]
            held = held[cut:]
    if held:
        yield held


def conversation(messages: Sequence[Message], encoder: ChatEncoder, *, source: str, category: str) -> Passage:
    """A conversation without pictures; its answers are scored."""
    chat = encoder.encode(messages)
    answers = "".join(message["text"] for message in messages if message["role"] == "assistant")
    return Passage(
        source=source,
        category=category,
        row=EncodedRow(input_ids=chat.input_ids, labels=chat.labels, positions=chat.positions),
        n_bytes=len(answers.encode()),
    )


def text_passages(text: str, encoder: ChatEncoder, *, source: str, window: int = WINDOW) -> Iterator[Passage]:
    """Plain text in windows, every token scored once, after at least half a window where so much stands before it."""
    tokenizer = encoder.tokenizer
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    start = next((i for i in (tokenizer.bos_token_id, tokenizer.eos_token_id) if i is not None), encoder.pad_token_id)
    tokens = np.array([start, *ids], dtype=np.int32)
    kinds = len(encoder.encode([{"role": "user", "text": "a"}]).positions)
    scored = 1
    while scored < len(tokens):
        first = max(0, scored - window // 2)
        last = min(len(tokens), first + window)
        labels = tokens[first:last].copy()
        labels[: scored - first] = IGNORE_INDEX
        yield Passage(
            source=source,
            category=source,
            row=EncodedRow(
                input_ids=tokens[first:last],
                labels=labels,
                positions=np.tile(np.arange(last - first, dtype=np.int32), (kinds, 1)),
            ),
            n_bytes=len(tokenizer.decode(tokens[scored:last].tolist()).encode()),
            asked=False,
        )
        scored = last


def _shows(messages: Sequence[Message]) -> bool:
    return any("<image>" in message["text"] or "<video>" in message["text"] for message in messages)
