"""Conversations beside their pictures: LLaVA, ShareGPT, Qwen-VL's fine-tuning files, LLaMA-Factory.

    {"id": "7", "image": "a.jpg",
     "conversations": [{"from": "human", "value": "<image>\\nWhat is it?"}, {"from": "gpt", "value": "A cup."}]}

Also `role` and `content` in the place of `from` and `value`, `images` and `videos`, Qwen's first `<img>path</img>` in
the text, a `system` field, and the names that LLaMA-Factory's `columns` and `tags` give to all of these.
"""

from collections.abc import Iterator
from typing import Any

from blm.pipelines.datasets.readers.fields import Sample, facts
from blm.pipelines.datasets.readers.media_refs import media_list, video_list
from blm.pipelines.datasets.readers.record import Fault, MediaRef, Options, Place, Record
from blm.pipelines.datasets.readers.turns import Turn, build_record

IMAGE_FIELDS = ("image", "images")
VIDEO_FIELDS = ("video", "videos")
_OTHER_FIELDS = ("conversations", "messages", "system", "tools", "objects", "category")
_ROLE_TAGS = {
    "user_tag": "user",
    "assistant_tag": "assistant",
    "system_tag": "system",
    "observation_tag": "observation",
    "function_tag": "function_call",
}


def read(sample: Sample, place: Place, options: Options) -> Iterator[Record]:
    """The conversation of one sample."""
    turns = sample.get(options.columns.get("messages", "conversations"), sample.get("messages"))
    images, videos = media_fields(sample, options)
    yield build_record(
        read_turns(turns, options),
        place=place,
        images=images,
        videos=videos,
        system=sample.get(options.columns.get("system", "system")),
        category=category(sample),
        meta=facts(sample, (*IMAGE_FIELDS, *VIDEO_FIELDS, *_OTHER_FIELDS)),
    )


def read_turns(turns: Any, options: Options) -> Iterator[Turn]:
    """Role and content of every turn. Fault if it is not a list of turns."""
    if not isinstance(turns, list | tuple):
        raise Fault("no_messages", f"the conversation is a {type(turns).__name__}, not a list")
    role_tag, content_tag = options.tags.get("role_tag"), options.tags.get("content_tag")
    renamed = {options.tags[tag]: role for tag, role in _ROLE_TAGS.items() if tag in options.tags}
    for turn in turns:
        if not isinstance(turn, dict):
            raise Fault("wrong_type", f"a turn is a {type(turn).__name__}, not an object")
        if turn.get("loss") is False or (turn.get("weight") == 0 and turn.get("weight") is not False):
            raise Fault("not_supported", "a turn that is not to be learnt")
        role = turn.get(role_tag) if role_tag else turn.get("from", turn.get("role"))
        names = (content_tag,) if content_tag else ("value", "content", "text")
        content = next((turn[name] for name in names if turn.get(name) is not None), None)
        yield (renamed.get(role, role) if isinstance(role, str) else str(type(role))), content


def media_fields(sample: Sample, options: Options) -> tuple[tuple[MediaRef, ...], tuple[MediaRef, ...]]:
    """The pictures and the videos that stand beside a conversation."""
    if sample.get("audio") or sample.get("audios"):
        raise Fault("not_supported", "a sample with sound")
    images = _named(sample, options.columns.get("images"), IMAGE_FIELDS)
    videos = _named(sample, options.columns.get("videos"), VIDEO_FIELDS)
    return media_list(images), video_list(videos)


def _named(sample: Sample, column: str | None, names: tuple[str, ...]) -> Any:
    return next((sample[name] for name in ((column,) if column else names) if sample.get(name)), None)


def category(sample: Sample) -> str:
    """What a sample says it is about, if it does so in a word."""
    for name in ("category", "task", "type"):
        value = sample.get(name)
        if isinstance(value, str) and 0 < len(value) <= 60 and value.isprintable():
            return value
    return ""
