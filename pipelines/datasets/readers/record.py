"""What a reader makes of a foreign record before its pictures and videos are read, and why a record is refused."""

import reprlib
from dataclasses import dataclass, field
from typing import Any

from blm.model.prompts import Message

REASONS: dict[str, str] = {
    "malformed_json": "not valid JSON",
    "invalid_utf8": "text that is not valid UTF-8",
    "record_too_large": "more bytes than a record may have",
    "wrong_type": "a field is not what its layout demands",
    "no_messages": "no conversation in it, or none in a layout that is known",
    "role_order": "turns do not alternate between question and answer, or an unknown role speaks",
    "empty_text": "a turn without words",
    "text_too_long": "more text than a conversation may have",
    "chat_marker": "text with the markers by which chat formats separate turns",
    "control_character": "text with a NUL character",
    "placeholder_count": "more or other placeholders than pictures and videos, or in an answer",
    "not_supported": "something that this project does not train on: sound, tools, turns without loss",
    "too_many_media": "more pictures and videos than a conversation may have",
    "media_missing": "a file that does not exist",
    "media_outside_root": "a path that leads out of the media folder",
    "media_is_url": "an address on the network; only files are read",
    "image_unreadable": "a picture that cannot be decoded",
    "image_too_large": "a picture of too many pixels or bytes",
    "image_shape": "a picture more than a hundred times as long as wide",
    "video_unreadable": "a video that cannot be decoded, or not to its end",
    "video_empty": "a video without a picture",
    "video_too_large": "a video of too many pixels, frames or bytes",
    "table_damaged": "a Parquet file that cannot be read",
    "archive_damaged": "a tar that ends early or holds what it should not",
    "episode_unreadable": "an episode whose frames cannot be read",
    "invalid_row": "a conversation that breaks the stored schema's rules",
    "reader_error": "the reader itself failed: please report it",
}
"""Every reason for which a record is refused, in words."""
MOST_DETAIL = 500
"""Characters of a detail, and of the record, that are kept."""


class Fault(Exception):  # noqa: N818 (handed on as a value, too)
    """A record is bad: raised inside the readers, which turn it into `Rejected` where they know the place."""

    def __init__(self, reason: str, detail: str = "") -> None:
        if reason not in REASONS:
            raise ValueError(f"{reason!r} is no reason of REASONS")
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejected:
    """A record that was refused."""

    where: str
    """File and line, row or member."""
    reason: str
    """Key of `REASONS`."""
    detail: str = ""
    """What exactly, for a person."""
    record: str = ""
    """The beginning of what was refused, for a person to recognise it by."""


def rejected(where: str, fault: Fault, record: object = "") -> Rejected:
    """A fault at a place; its detail and the record are cut and made safe for any file."""
    shown = record if isinstance(record, str) else Shortened().repr(record)
    return Rejected(
        where=printable(where), reason=fault.reason, detail=printable(fault.detail), record=printable(shown)
    )


class Shortened(reprlib.Repr):
    """Shows the outline of any value, however large, in some hundred characters."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxdict, self.maxlist, self.maxstring = 5, 8, 3, 80

    def repr_bytes(self, value: bytes, _level: int) -> str:
        """A picture is not spelt out."""
        return f"<{len(value)} bytes>"


def printable(text: str) -> str:
    """The beginning of a text, without what UTF-8 cannot say and without control characters."""
    if len(text) <= MOST_DETAIL and text.isascii() and text.isprintable():
        return text
    safe = text[:MOST_DETAIL].encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in safe)


@dataclass(frozen=True, kw_only=True, slots=True)
class MediaRef:
    """One picture or video, named but not yet read: exactly one of `paths`, `data` and `frames` is set."""

    paths: tuple[str, ...] = ()
    """Where it may be, the likeliest first: under the media root, beside the record's file, or absolute."""
    data: bytes | None = None
    """Its encoded bytes, if the record brings them along."""
    frames: tuple["MediaRef", ...] = ()
    """A video that is given as pictures."""
    fps: float = 0.0
    """Rate of `frames`; 0 if nobody says."""
    start_s: float = 0.0
    """Where in the file a video begins."""
    stop_s: float = 0.0
    """Where it ends; 0 for the end of the file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A conversation whose media are still to be read. Placeholders match `images` and `videos` in number."""

    id: str
    """Made of its place, and so unique within a corpus."""
    where: str
    """File and line, row or member."""
    messages: tuple[Message, ...]
    """An optional system turn, then user and assistant in alternation."""
    images: tuple[MediaRef, ...] = ()
    """In the order of their placeholders."""
    videos: tuple[MediaRef, ...] = ()
    """In the order of their placeholders."""
    folder: str = ""
    """Of the file it was read from, where media may lie that are not under the media root."""
    category: str = ""
    """What is asked, if the corpus says."""
    meta: dict[str, Any] = field(default_factory=dict)
    """Facts worth keeping, JSON-able and small."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a sample was found."""

    id: str
    """File within the corpus, and line, row or member."""
    where: str
    """The same for a person to find it by: with the file's whole path."""
    folder: str
    """Of the file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What a person may say about a corpus beside its format."""

    columns: dict[str, str] = field(default_factory=dict)
    """Field names, as in LLaMA-Factory's dataset_info.json: messages, system, images, videos, prompt, query,
    response, history."""
    tags: dict[str, str] = field(default_factory=dict)
    """Names inside a turn and of roles, likewise: role_tag, content_tag, user_tag, assistant_tag, system_tag,
    observation_tag, function_tag."""
    questions: int = 2
    """Conversations made of one episode of a LeRobot dataset."""
    seed: int = 0
    """Of what is chosen at random: questions, moments, options."""
