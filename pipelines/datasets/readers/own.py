"""This project's own conversations: rows of `pipelines/datasets/chat.py`, from Parquet."""

import json
from collections.abc import Iterator
from typing import Any

from blm.pipelines.datasets.readers.fields import Sample
from blm.pipelines.datasets.readers.llava import category, read_turns
from blm.pipelines.datasets.readers.media_refs import frames, media_list
from blm.pipelines.datasets.readers.record import Fault, MediaRef, Options, Place, Record
from blm.pipelines.datasets.readers.turns import build_record

_FIELDS = {"id", "source", "category", "images", "messages", "meta"}


def fits(sample: Sample) -> bool:
    """Whether a sample has all columns of the chat schema."""
    return sample.keys() >= _FIELDS and isinstance(sample["meta"], str)


def read(sample: Sample, place: Place, options: Options) -> Iterator[Record]:
    """The conversation of one row, its facts included."""
    yield build_record(
        read_turns(sample.get("messages"), options),
        place=place,
        images=media_list(sample.get("images")),
        videos=_videos(sample.get("videos")),
        category=category(sample),
        meta=_meta(sample.get("meta")),
    )


def _videos(given: Any) -> tuple[MediaRef, ...]:
    if not isinstance(given, list | tuple | None):
        raise Fault("wrong_type", f"videos given as {type(given).__name__}")
    return tuple(_video(video) for video in given or ())


def _video(video: Any) -> MediaRef:
    if not isinstance(video, dict) or not isinstance(video.get("frames"), list):
        raise Fault("wrong_type", "a video without frames")
    return frames(video["frames"], video.get("fps"))


def _meta(text: Any) -> dict[str, Any]:
    try:
        meta = json.loads(text or "{}")
    except (TypeError, ValueError, RecursionError) as error:
        raise Fault("malformed_json", f"meta: {error}") from error
    if not isinstance(meta, dict):
        raise Fault("wrong_type", f"meta is a {type(meta).__name__}")
    return meta
