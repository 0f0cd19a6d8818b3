"""Pictures and videos as records name them: paths in many spellings, bytes, data URIs, Hugging Face structs, lists."""

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote

from blm.pipelines.datasets.readers.record import Fault, MediaRef

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".flv", ".ts")
MOST_PATHS = 4096
"""Media of one record that are looked at; what a conversation may really have is `MediaRules.max_images`."""
LONGEST_PATH = 4096
"""Characters of a path, as on Linux."""
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_FIELDS = ("bytes", "data", "base64", "path", "url", "image", "image_url", "video", "video_url", "file")
"""Keys under which a dictionary may hold what it stands for, in the order in which they are believed."""


def media_list(value: Any) -> tuple[MediaRef, ...]:
    """The pictures of a field: one or a list of them, however deep. Fault for what is none."""
    if value is None or (isinstance(value, str | list | tuple) and not value):
        return ()
    if isinstance(value, list | tuple):
        found: list[MediaRef] = []
        for item in value:
            found += media_list(item) if isinstance(item, list | tuple) else [media(item)]
            if len(found) > MOST_PATHS:
                raise Fault("too_many_media", f"more than {MOST_PATHS} pictures")
        return tuple(found)
    return (media(value),)


def video_list(value: Any) -> tuple[MediaRef, ...]:
    """The videos of a field: one or a list of files, or of lists of frames; a list of pictures is one video."""
    if value is None or (isinstance(value, str | list | tuple) and not value):
        return ()
    if not isinstance(value, list | tuple):
        return (video(value),)
    if all(isinstance(item, str | bytes) for item in value) and any(_is_picture(item) for item in value):
        return (frames(value),)
    if len(value) > MOST_PATHS:
        raise Fault("too_many_media", f"more than {MOST_PATHS} videos")
    return tuple(video(item) for item in value)


def video(value: Any) -> MediaRef:
    """One video: a file, or a list of frames, or a dictionary with either and perhaps their rate."""
    if isinstance(value, list | tuple):
        return frames(value)
    pictures = value.get("video", value.get("frames")) if isinstance(value, dict) else None
    if isinstance(pictures, list | tuple):
        return frames(pictures, value.get("sample_fps", value.get("fps")))
    return media(value)


def frames(value: Sequence[Any], fps: Any = None) -> MediaRef:
    """A video that is given as pictures."""
    if not value:
        raise Fault("video_empty", "a list of no frames")
    if len(value) > MOST_PATHS:
        raise Fault("video_too_large", f"{len(value)} frames")
    rate = fps if isinstance(fps, int | float) and not isinstance(fps, bool) and 0 < fps < 1000 else 0.0
    return MediaRef(frames=tuple(media(item) for item in value), fps=float(rate))


def media(value: Any) -> MediaRef:
    """One picture or video file. Fault if it is no path, bytes or dictionary of them, or an address."""
    for _ in range(4):  # {"image_url": {"url": ...}} and the like
        if not isinstance(value, dict):
            break
        value = next((value[name] for name in _FIELDS if value.get(name)), None)
    if isinstance(value, bytes | bytearray | memoryview) and len(value):
        return MediaRef(data=bytes(value))
    if not isinstance(value, str) or not value.strip():
        raise Fault("wrong_type", f"a picture or video given as {type(value).__name__}, not as path or bytes")
    if value[:5].lower() == "data:":
        return MediaRef(data=_data_uri(value))
    return MediaRef(paths=(clean_path(value),))


def clean_path(text: str) -> str:
    """A path with forward slashes, without `file://`. Fault for addresses."""
    path = text.strip()
    if path[:7].lower() == "file://":
        path = unquote(path[7:].removeprefix("localhost"))
    elif _SCHEME.match(path):
        raise Fault("media_is_url", path)
    if len(path) > LONGEST_PATH:
        raise Fault("media_missing", f"a path of {len(path)} characters")
    return path.replace("\\", "/")


def basename(path: str) -> str:
    """The file's own name."""
    return path.rstrip("/").rpartition("/")[2]


def _data_uri(text: str) -> bytes:
    head, _, body = text.partition(",")
    if not head.lower().endswith(";base64"):
        raise Fault("image_unreadable", "a data URI that is not base64")
    try:
        return base64.b64decode(re.sub(r"\s+", "", body), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Fault("image_unreadable", f"broken base64: {error}") from error


def _is_picture(value: Any) -> bool:
    return isinstance(value, str) and value.lower().endswith(PICTURE_SUFFIXES)
