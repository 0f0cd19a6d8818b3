"""A record with its media read, checked and bounded: the conversation that is stored, or why there is none."""

import re
from dataclasses import dataclass

from blm.model.prompts import Message
from blm.pipelines.datasets.chat import ChatRow, Video, validate_row
from blm.pipelines.datasets.readers.images import MOST_BYTES, picture_size, stored_picture
from blm.pipelines.datasets.readers.paths import find, read_file
from blm.pipelines.datasets.readers.record import Fault, MediaRef, Record, Rejected, rejected
from blm.pipelines.datasets.readers.video_file import MOST_BYTES as MOST_VIDEO_BYTES
from blm.pipelines.datasets.readers.videos import ASSUMED_FPS, Sampling, sample_video

CHAT_MARKER = re.compile(r"<\|[A-Za-z0-9_ ]{1,40}\|>|<(?:start|end)_of_(?:turn|image|utterance)>")
"""What separates turns and stands for media in the chat formats of current models. Inside a text it would be read as
such, and an answer could speak for the user."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MediaRules:
    """Where media are looked for, and how much of them is kept."""

    root: str
    """The media folder; nothing outside of it is ever read."""
    fps: float = 2.0
    """Frames of a video a second, as far as `max_frames` allows; 0 for `max_frames` of every video."""
    max_frames: int = 16
    """Of one video."""
    max_pixels: int = 1_003_520
    """Of a stored picture: larger ones are shrunk."""
    max_frame_pixels: int = 200_704
    """Of a stored frame."""
    max_megapixels: float = 64.0
    """Larger pictures are refused by their header alone."""
    max_text: int = 32_000
    """Characters of a conversation."""
    max_images: int = 64
    """Pictures and videos of a conversation."""
    decode: bool = True
    """Try out that pictures whose bytes are kept can be decoded; whoever decodes them anyway can do without."""

    def __post_init__(self) -> None:
        if min(self.max_frames, self.max_pixels, self.max_frame_pixels, self.max_text, self.max_images) < 1:
            raise ValueError("MediaRules: limits are at least 1")
        if not 0 <= self.fps <= 1000 or not self.max_megapixels > 0:
            raise ValueError("MediaRules: fps is between 0 and 1000, max_megapixels above 0")

    @property
    def sampling(self) -> Sampling:
        """What videos are sampled by."""
        return Sampling(
            fps=self.fps,
            max_frames=self.max_frames,
            max_pixels=self.max_frame_pixels,
            max_megapixels=self.max_megapixels,
        )


def load_record(record: Record, rules: MediaRules, source: str = "") -> ChatRow | Rejected:
    """The conversation of a record, its media in hand; `Rejected` if anything about it is bad. Never raises."""
    try:
        check_text(record.messages, rules.max_text)
        if len(record.images) + len(record.videos) > rules.max_images:
            raise Fault("too_many_media", f"{len(record.images)} pictures, {len(record.videos)} videos")
        row = ChatRow(
            id=f"{source}/{record.id}" if source else record.id,
            source=source,
            category=record.category,
            messages=record.messages,
            images=tuple(load_picture(ref, rules, record.folder) for ref in record.images),
            videos=tuple(load_video(ref, rules, record.folder) for ref in record.videos),
            meta=record.meta,
        )
        validate_row(row)
    except Fault as fault:
        return rejected(record.where, fault, record.messages)
    except ValueError as error:
        return rejected(record.where, Fault("invalid_row", str(error)), record.messages)
    except Exception as error:  # as in formats.read_sample
        return rejected(record.where, Fault("reader_error", f"{type(error).__name__}: {error}"), record.messages)
    return row


def check_text(messages: tuple[Message, ...], most: int) -> None:
    """Fault for text that is too long, is not Unicode, or holds markers of chat formats."""
    total = sum(len(message["text"]) for message in messages)
    if total > most:
        raise Fault("text_too_long", f"{total} characters")
    for message in messages:
        text = message["text"]
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise Fault("invalid_utf8", str(error)) from error
        if "\0" in text:
            raise Fault("control_character", "a NUL character")
        if "<" in text and (marker := CHAT_MARKER.search(text)):
            raise Fault("chat_marker", marker[0])


def load_picture(ref: MediaRef, rules: MediaRules, folder: str, *, frame: bool = False) -> bytes:
    """The bytes under which a picture is stored. Fault if it cannot be had."""
    return stored_picture(
        _bytes(ref, rules, folder),
        max_pixels=rules.max_frame_pixels if frame else rules.max_pixels,
        max_megapixels=rules.max_megapixels,
        decode=rules.decode,
    )


def _bytes(ref: MediaRef, rules: MediaRules, folder: str) -> bytes:
    if ref.data is not None:
        return ref.data
    if not ref.paths:
        raise Fault("wrong_type", "frames where a picture should be")
    path, size = find(ref, rules.root, folder)
    if size > MOST_BYTES:
        raise Fault("image_too_large", f"{path} has {size} bytes")
    return read_file(path)


def load_video(ref: MediaRef, rules: MediaRules, folder: str) -> Video:
    """The frames of a video that are kept. Fault if they cannot be had."""
    if ref.frames:
        return _from_frames(ref, rules, folder)
    if ref.data is not None:
        return sample_video(ref.data, rules.sampling, start_s=ref.start_s, stop_s=ref.stop_s)
    path, size = find(ref, rules.root, folder)
    if size > MOST_VIDEO_BYTES:
        raise Fault("video_too_large", f"{path} has {size} bytes")
    return sample_video(path, rules.sampling, start_s=ref.start_s, stop_s=ref.stop_s)


def _from_frames(ref: MediaRef, rules: MediaRules, folder: str) -> Video:
    """A video that is given as pictures, which somebody has chosen already: thinned out evenly where they are too many,
    the first and the last kept.
    """
    given = len(ref.frames)
    fps = ref.fps or ASSUMED_FPS
    n = min(rules.max_frames, given)
    kept = [round(i * (given - 1) / (n - 1)) for i in range(n)] if n > 1 else [0]
    frames = tuple(load_picture(ref.frames[i], rules, folder, frame=True) for i in kept)
    if len({picture_size(frame) for frame in frames}) > 1:
        raise Fault("video_unreadable", "frames of different sizes")
    return Video(frames=frames, fps=fps * (n - 1) / (given - 1) if n > 1 else fps)
