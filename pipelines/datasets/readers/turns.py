"""The turns of foreign conversations: who speaks, what is said, and where pictures and videos stand in it.

Placeholders become `<image>` and `<video>`, as many as there are media, in user turns alone: missing ones are put
before the first question, as a surplus cannot be mended. Turns of one speaker that follow each other become one.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from blm.model.prompts import IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER, Message
from blm.pipelines.datasets.readers.media_refs import MOST_PATHS, media, video
from blm.pipelines.datasets.readers.record import Fault, MediaRef, Place, Record

ROLES = {
    "system": ("system", "developer"),
    "user": ("human", "user", "observation", "tool", "function", "tool_response", "prompter", "instruction"),
    "assistant": ("gpt", "assistant", "model", "bot", "chatgpt", "function_call", "tool_call", "agent", "answer"),
}
"""What roles are called; case does not matter."""
_ROLE_OF = {name: role for role, names in ROLES.items() for name in names}
MOST_TURNS = 2000

Turn = tuple[str, Any]
"""Role as the corpus calls it, and what is said: text, or a list of typed parts."""

_UNSUPPORTED = re.compile(r"<(?:audio|ref-object|bbox|cot-process)>")
_INLINE = re.compile(r"<img>([^<>\n]+)</img>")
_RANGE = re.compile(r"<image[ _]?(\d{1,4})\s*-\s*(\d{1,4})>")
_NUMBERED = re.compile(r"<(image|video)[ _-]?\d{1,4}>")
_SPACED = re.compile(r"(<image>|<video>)[ \t]+(?=<image>|<video>)")


def build_record(
    turns: Iterable[Turn],
    *,
    place: Place,
    images: Sequence[MediaRef] = (),
    videos: Sequence[MediaRef] = (),
    system: Any = None,
    category: str = "",
    meta: dict[str, Any] | None = None,
) -> Record:
    """A record of turns and of the media that stand beside them. Fault if they make no conversation."""
    pictures, clips = list(images), list(videos)
    messages: list[Message] = []
    for i, (name, content) in enumerate(turns):
        if i >= MOST_TURNS:
            raise Fault("text_too_long", f"more than {MOST_TURNS} turns")
        role = _ROLE_OF.get(name.strip().lower()) if isinstance(name, str) else None
        if role is None:
            raise Fault("role_order", f"nobody knows the role {name!r}")
        text = _text(content, role, pictures, clips)
        if messages and messages[-1]["role"] == role:
            messages[-1]["text"] += "\n" + text
        else:
            messages.append({"role": role, "text": text})
    if system is not None and system != "":
        if not isinstance(system, str):
            raise Fault("wrong_type", f"a system prompt given as {type(system).__name__}")
        if messages and messages[0]["role"] == "system":
            messages.pop(0)  # the field beside the turns is the corpus's last word
        messages.insert(0, {"role": "system", "text": system})
    if messages and messages[0]["role"] == "system" and not messages[0]["text"].strip():
        messages.pop(0)
    _check_order(messages)
    _fit_placeholders(messages, len(pictures), len(clips))
    return Record(
        id=place.id,
        where=place.where,
        folder=place.folder,
        messages=tuple(messages),
        images=tuple(pictures),
        videos=tuple(clips),
        category=category,
        meta=meta or {},
    )


def _text(content: Any, role: str, pictures: list[MediaRef], clips: list[MediaRef]) -> str:
    """What a turn says; media that it brings along are appended to those of the record."""
    if isinstance(content, list | tuple):
        return "".join(_part(part, role, pictures, clips) for part in content)
    if not isinstance(content, str):
        raise Fault("wrong_type", f"a turn given as {type(content).__name__}, not as text")
    if unknown := _UNSUPPORTED.search(content):
        raise Fault("not_supported", f"the placeholder {unknown[0]}")
    if "<im" not in content and "<video" not in content:
        return content
    if role == "user":
        pictures += [media(path) for path in _INLINE.findall(content)]
    text = _INLINE.sub(IMAGE_PLACEHOLDER, content)
    if sum(int(last) - int(first) + 1 for first, last in _RANGE.findall(text)) > MOST_PATHS:
        raise Fault("placeholder_count", f"ranges of more than {MOST_PATHS} pictures")
    text = _NUMBERED.sub(r"<\1>", _RANGE.sub(_expand_range, text))
    return _SPACED.sub(r"\1", text)


def _part(part: Any, role: str, pictures: list[MediaRef], clips: list[MediaRef]) -> str:
    """A typed part of a turn in the shape of OpenAI's and Qwen's messages."""
    if isinstance(part, str):
        return _text(part, role, pictures, clips)
    if not isinstance(part, dict):
        raise Fault("wrong_type", f"a part of a turn given as {type(part).__name__}")
    kind = part.get("type") or next((k for k in ("text", "image", "image_url", "video") if part.get(k)), None)
    value = part.get(kind) if isinstance(kind, str) else None
    if kind in ("text", "input_text", "output_text"):
        return _text(part.get("text"), role, pictures, clips)
    if kind in ("image", "image_url", "input_image"):
        bare = not any(part.get(name) for name in ("image", "image_url", "path", "url", "bytes", "base64", "data"))
        if not bare:  # Hugging Face's {"type": "image"} stands for the next picture of the record
            pictures.append(media(value if value else part))
        return IMAGE_PLACEHOLDER
    if kind in ("video", "video_url"):
        if any(part.get(name) for name in ("video", "video_url", "path", "url")):
            given = part if isinstance(value, list) or not value else value
            clips.append(video(given))
        return VIDEO_PLACEHOLDER
    raise Fault("not_supported", f"a part of type {kind!r}")


def _expand_range(found: re.Match[str]) -> str:
    n = int(found[2]) - int(found[1]) + 1
    return IMAGE_PLACEHOLDER * n if n > 0 else found[0]


def _check_order(messages: list[Message]) -> None:
    spoken = messages[1:] if messages and messages[0]["role"] == "system" else messages
    if not spoken:
        raise Fault("no_messages", "a conversation of no turns")
    for i, message in enumerate(spoken):
        expected = "assistant" if i % 2 else "user"
        if message["role"] != expected:
            raise Fault("role_order", f"turn {i + 1} is by {message['role']}, not by {expected}")
    if len(spoken) % 2:
        raise Fault("role_order", "the last question has no answer")


def _fit_placeholders(messages: list[Message], n_images: int, n_videos: int) -> None:
    """As many placeholders as media: missing ones come before the first question. Fault for a surplus."""
    first = next(message for message in messages if message["role"] == "user")
    missing = ""
    for placeholder, n, name in ((IMAGE_PLACEHOLDER, n_images, "pictures"), (VIDEO_PLACEHOLDER, n_videos, "videos")):
        if not n and not any(placeholder in message["text"] for message in messages):
            continue
        found = {"user": 0, "other": 0}
        for message in messages:
            found["user" if message["role"] == "user" else "other"] += message["text"].count(placeholder)
        if found["other"]:
            raise Fault("placeholder_count", f"{placeholder} in a turn that is not the user's")
        if found["user"] > n:
            raise Fault("placeholder_count", f"{found['user']} {placeholder} for {n} {name}")
        missing += placeholder * (n - found["user"])
    if missing:
        first["text"] = f"{missing}\n{first['text']}"
    for message in messages:
        if not message["text"].replace(IMAGE_PLACEHOLDER, "").replace(VIDEO_PLACEHOLDER, "").strip():
            raise Fault("empty_text", f"a turn of the {message['role']} without words")
