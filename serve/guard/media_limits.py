"""What a conversation may bring along, judged before vLLM sees it: addresses, pictures, videos, and options of theirs.

A body is parsed here only if it may contain any of that. What is parsed is refused wherever two parsers could read it
differently: a key that stands twice, numbers that are none.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from blm.serve.guard.config import GuardConfig, MediaConfig
from blm.serve.guard.errors import RefusedError
from blm.serve.guard.media import MediaBudget, check_picture, check_video, decode_base64

MAX_FRAMES = 128
"""Most frames of a video that a request may ask to be looked at."""
MAX_FPS = 30.0
_SIGNS = (b"_url", b"_embeds", b"image", b"video", b"audio", b"kwargs", b'"n"', b"best_of", b"\\u")
"""Without any of these, escapes among them, a body brings nothing that is judged here."""
_DATA = re.compile(r"data:((?:image|video)/[A-Za-z0-9.+-]+);base64,")
_ADDRESS = re.compile(r"(https?)://([A-Za-z0-9.-]+)(?::([0-9]{1,5}))?(?:[/?][\x21-\x5b\x5d-\x7e]*)?")
_ADDRESSED = {"image_url": "image", "video_url": "video"}
_NEVER = (
    "image_embeds", "audio_embeds", "video_embeds", "prompt_embeds", "image_pil", "input_audio", "audio_url",
    "input_file", "file_data", "file_url", "file_id",
)  # fmt: skip


def check_conversation(body: bytes, config: GuardConfig) -> None:
    """RefusedError (400, 413) for what a body of JSON brings that is not allowed."""
    if not any(sign in body for sign in _SIGNS):
        return
    try:
        request = json.loads(body, object_pairs_hook=_once, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:  # a UnicodeDecodeError is one
        raise RefusedError(400, f"the body is no JSON: {str(error)[:100]}", reason="json") from None
    if not isinstance(request, dict):
        return  # no conversation; the application says so
    _check_options(request, config)
    budget = MediaBudget(config.media)
    for kind, value in _media({"messages": request.get("messages"), "input": request.get("input"), **_parts(request)}):
        _check_one(kind, value, budget, config.media)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key stands twice")
    return made


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number")


def _parts(request: Mapping[str, Any]) -> dict[str, Any]:
    """The request's own fields that bring tensors instead of text."""
    return {name: request[name] for name in _NEVER if request.get(name) is not None}


def _media(value: Any) -> Iterator[tuple[str, Any]]:
    """(key, what it names) of everything that is no text, however deep it lies."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting += part
        elif isinstance(part, dict):
            for key, inner in part.items():
                if inner is not None and (key in _ADDRESSED or key in _NEVER):
                    yield key, inner
                elif isinstance(inner, dict | list):
                    waiting.append(inner)


def _check_one(kind: str, value: Any, budget: MediaBudget, config: MediaConfig) -> None:
    if kind in _NEVER:
        raise _refused(f"{kind!r} is not accepted here; send pictures and videos as data URIs", "media kind", kind)
    for _ in range(2):  # {"image_url": {"url": "..."}} and {"image_url": "..."} are both in use
        if isinstance(value, dict):
            value = value.get("url", value.get("image_url"))
    if value is None:
        return
    if not isinstance(value, str):
        raise _refused(f"{kind} is no text; write data:image/png;base64,...", "media kind", kind)
    found = _DATA.match(value)
    if found is None:
        _check_address(value, config, kind)
        budget.add_picture(0) if _ADDRESSED[kind] == "image" else budget.add_video(0)
        return
    media_type = found[1].lower()
    if media_type.partition("/")[0] != _ADDRESSED[kind]:
        raise _refused(
            f"{kind} with {media_type}; pictures go into image_url, videos into video_url", "media kind", kind
        )
    data = value[found.end() :]
    if media_type == "video/jpeg":
        frames = [check_picture(decode_base64(part), config) for part in data.split(",")]
        if len(frames) > config.max_video_frames:
            raise _refused(
                f"a video of {len(frames)} frames; send {config.max_video_frames} at most", "video", kind, 413
            )
        budget.add_video(sum(frames))
    elif kind == "video_url":
        budget.add_video(check_video(decode_base64(data), config))
    else:
        budget.add_picture(check_picture(decode_base64(data), config))


def _check_address(text: str, config: MediaConfig, kind: str) -> None:
    """Nothing is fetched but over http and https from hosts that are allowed by name, on their usual ports."""
    found = _ADDRESS.fullmatch(text)
    if found is not None and found[2].lower() in config.url_hosts and found[3] in (None, "80", "443"):
        return
    if config.url_hosts:
        hosts = ", ".join(config.url_hosts)
        raise _refused(
            f"{kind}: nothing is fetched but from {hosts}; or send data:image/png;base64,...", "address", kind
        )
    raise _refused(f"{kind}: addresses are not fetched; send data:image/png;base64,...", "address", kind)


def _check_options(request: Mapping[str, Any], config: GuardConfig) -> None:
    """Options with which a small request could ask for a lot of work."""
    for name in ("n", "best_of"):
        count = request.get(name)
        if isinstance(count, int) and count > config.max_answers:
            raise _refused(f"{name} is {count}; ask for {config.max_answers} answers at most", "options", name)
    pictures = request.get("mm_processor_kwargs") or {}
    reading = request.get("media_io_kwargs") or {}
    known = isinstance(pictures, dict) and isinstance(reading, dict)
    if not known or not _modest(pictures, {"fps": MAX_FPS, "max_pixels": config.media.max_image_pixels}):
        raise _refused(
            f"mm_processor_kwargs may hold fps (up to {MAX_FPS:g}) and max_pixels", "options", "mm_processor_kwargs"
        )
    video = reading.get("video") or {}
    if set(reading) - {"video"} or not isinstance(video, dict) or not _modest(video, {"num_frames": MAX_FRAMES}):
        raise _refused(
            f"media_io_kwargs may hold video: {{num_frames: up to {MAX_FRAMES}}}", "options", "media_io_kwargs"
        )


def _modest(options: Mapping[str, Any], most: Mapping[str, float]) -> bool:
    return all(
        name in most and isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= most[name]
        for name, value in options.items()
    )


def _refused(message: str, reason: str, param: str, status: int = 400) -> RefusedError:
    return RefusedError(status, message, reason=reason, param=param)
