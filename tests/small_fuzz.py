"""Samples that anybody might have written, media of every kind of badness, and what must hold of what is read."""

import io
import json
import os
import struct
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from PIL import Image
from small_foreign import clip, encoded, picture, put

from blm.pipelines.datasets.chat import ChatRow, chat_table, validate_row
from blm.pipelines.datasets.readers.load import MediaRules, load_record
from blm.pipelines.datasets.readers.record import REASONS, Record, Rejected

EXAMPLES = int(os.environ.get("BLM_FUZZ_EXAMPLES", "0"))
"""How many examples are tried, new ones each time; 0 for the same hundred every time, which a test suite wants."""
quick = settings(
    deadline=None,
    max_examples=EXAMPLES or 100,
    derandomize=not EXAMPLES,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
RULES = {"max_frames": 4, "max_pixels": 4000, "max_frame_pixels": 2000, "max_text": 5000, "max_images": 8}


_HOME = tempfile.TemporaryDirectory()


@cache
def home() -> Path:
    """A media folder with good, broken and forbidden files in it."""
    folder = Path(_HOME.name) / "corpus"
    put(folder.parent / "secret.jpg", encoded())
    put(folder / "good.jpg", encoded())
    put(folder / "good.png", encoded(None, "PNG"))
    put(folder / "alpha.webp", encoded(picture(width=200, height=100), "WEBP"))
    put(folder / "cut.jpg", encoded()[:200])
    put(folder / "empty.png", b"")
    put(folder / "text.jpg", "no picture")
    put(folder / "good.mp4", clip(12, 10))
    put(folder / "cut.mp4", clip(12, 10)[:500])
    put(folder / "empty.mp4", b"")
    put(folder / "playlist.mp4", "#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n")
    data = encoded()
    at = data.index(b"\xff\xc0") + 5
    put(folder / "huge.jpg", data[:at] + struct.pack(">HH", 10_000, 10_001) + data[at + 4 :])
    (folder / "link.jpg").symlink_to("../secret.jpg")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "folder.jpg").mkdir()
    return folder


def checked(found: Iterable[Record | Rejected]) -> list[ChatRow | Rejected]:
    """What was read, loaded and held to be valid or rejected for a reason that is known."""
    rules = MediaRules(root=str(home()), **RULES)
    results = [load_record(one, rules, "fuzz") if isinstance(one, Record) else one for one in found]
    for result in results:
        if isinstance(result, Rejected):
            assert result.reason in REASONS
            assert result.reason != "reader_error", result
            assert result.where
            json.dumps([result.where, result.detail, result.record]).encode()
            (result.where + result.detail + result.record).encode()
        else:
            validate_row(result)
            chat_table([result])
            assert sum(len(message["text"]) for message in result.messages) <= RULES["max_text"]
            for data in [*result.images, *(frame for video in result.videos for frame in video.frames)]:
                with Image.open(io.BytesIO(data)) as image:
                    assert image.convert("RGB").width * image.height <= RULES["max_pixels"]
    return results


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.binary(max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
paths = st.sampled_from(
    [
        *("good.jpg", "good.png", "alpha.webp", "cut.jpg", "empty.png", "text.jpg", "huge.jpg", "good.mp4", "cut.mp4"),
        *("empty.mp4", "playlist.mp4", "missing.jpg", "link.jpg", "loop.jpg", "folder.jpg", ".", "", "/", "~/a.jpg"),
        *("../secret.jpg", "/etc/passwd", "a/../../secret.jpg", "..\\secret.jpg", "C:\\a.jpg", "file:///etc/passwd"),
        *("http://example.com/a.jpg", "HTTPS://example.com", "s3://a/b", "a\0b.jpg", "a" * 5000, "\ud800.jpg"),
        *("data:image/png;base64,AAAA", "data:,x", "data:image/jpeg;base64,%%", "/dev/zero", "/proc/self/environ"),
    ]
)
texts = st.text(max_size=60) | st.sampled_from(
    [
        *(
            "What?",
            "<image>",
            "<image>\nWhat?",
            "<image> <image>\nWhat?",
            "<video>\nWhat?",
            "<image 0-3>",
            "<image 0-99999>",
        ),
        *(
            "<image 0-9999>" * 50,
            "<|im_end|>",
            "a\0b",
            "\ud800",
            "x" * 6000,
            "<audio>",
            "<img>good.jpg</img> What?",
            " ",
        ),
    ]
)
media = st.recursive(
    paths | scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.fixed_dictionaries({}, optional={"bytes": inner, "path": inner, "url": inner, "image_url": inner})
    ),
    max_leaves=6,
)
roles = st.sampled_from(["human", "user", "gpt", "assistant", "system", "tool", "nobody", "", None, 3])
parts = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image", "image_url", "video", "input_audio", None, 3])},
    optional={"text": texts | scalars, "image": media, "image_url": media, "video": media, "fps": scalars},
)
contents = texts | scalars | st.lists(parts, max_size=3)
turns = st.lists(
    st.fixed_dictionaries({}, optional={"from": roles, "value": contents, "role": roles, "content": contents})
    | scalars,
    max_size=5,
)
dialogue = st.builds(
    lambda pairs: [
        turn for ask, say in pairs for turn in ({"from": "human", "value": ask}, {"from": "gpt", "value": say})
    ],
    st.lists(st.tuples(contents, texts), min_size=1, max_size=2),
)
pairs = st.fixed_dictionaries(
    {},
    optional={
        "question": texts | scalars,
        "index2ans": st.dictionaries(st.sampled_from("ABCD"), texts | scalars, max_size=4) | json_values,
        "answer": st.sampled_from("ABX") | scalars,
        "correct_answer": scalars,
    },
)
samples = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("image", "images", "video", "videos", "image_path"), media),
        **dict.fromkeys(("conversations", "messages"), turns | dialogue | json_values),
        **dict.fromkeys(("question", "answer", "query", "response", "system", "id", "task"), texts | json_values),
        "history": json_values,
        "texts": json_values | st.lists(st.fixed_dictionaries({"user": texts, "assistant": texts}), max_size=2),
        "qa_pairs": pairs | st.lists(pairs, max_size=2) | json_values,
        "selected_step": scalars,
        "meta": texts,
        "source": texts,
        "category": texts | json_values,
    },
)
likely = st.builds(
    lambda talk, image, video: {"conversations": talk, **image, **video},
    dialogue,
    st.fixed_dictionaries({}, optional={"image": paths | st.lists(paths, max_size=3)}),
    st.fixed_dictionaries({}, optional={"video": paths | st.lists(paths, max_size=3)}),
)
plausible = st.builds(
    lambda ask, say, media: {
        "conversations": [{"from": "human", "value": ask}, {"from": "gpt", "value": say}],
        **media,
    },
    st.sampled_from(["What?", "<image>\nWhat?", "<video>\nWhat?"]),
    st.sampled_from(["That.", "<loc_01>", "x" * 900]),
    st.fixed_dictionaries({}, optional={"image": paths | st.lists(paths, max_size=2), "video": paths}),
)
"""Nearly all of them are read, so that their media are looked at."""
