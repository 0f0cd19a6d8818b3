"""Samples become conversations: turns, placeholders and media in all their spellings, or a reason why not."""

import base64
from pathlib import Path
from typing import Any

import pytest
from small_foreign import (
    encoded,
    load,
    picture,
    put,
)

from blm.pipelines.datasets.chat import Video
from blm.pipelines.datasets.readers.formats import FORMATS, read_sample
from blm.pipelines.datasets.readers.record import Options, Place, Record, Rejected

PLACE = Place(id="x:1", where="/c/x:1", folder="/c")


def read_one(sample: Any, format: str = "llava", options: Options | None = None) -> Any:
    (found,) = read_sample(sample, PLACE, options or Options(), FORMATS[format].convert)
    return found


def ask(question: Any = "What is it?", answer: Any = "A cup.", **fields: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"conversations": turns, **fields}


@pytest.mark.parametrize(
    ("question", "images", "text"),
    [
        ("What is it?", ["a.jpg", "b.jpg"], "<image><image>\nWhat is it?"),
        ("<image> <image> \nWhat?", ["a.jpg", "b.jpg"], "<image><image> \nWhat?"),
        ("Is <image> it?", ["a.jpg", "b.jpg"], "<image>\nIs <image> it?"),
        ("<image 0-2>\nWhat?", ["a.jpg", "b.jpg", "c.jpg"], "<image><image><image>\nWhat?"),
        ("<image_1> or <image_2>?", ["a.jpg", "b.jpg"], "<image> or <image>?"),
        ("Picture 1: <img>a.jpg</img>\nWhat?", None, "Picture 1: <image>\nWhat?"),
    ],
)
def test_placeholders_fit_the_pictures(question: str, images: Any, text: str) -> None:
    record = read_one(ask(question, image=images))
    assert record.messages[0]["text"] == text
    assert len(record.images) == text.count("<image>")


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        (ask("<image><image> What?", image="a.jpg"), "placeholder_count"),
        (ask("What?", "<image>", image="a.jpg"), "placeholder_count"),
        (ask("<image 0-9>", image="a.jpg"), "placeholder_count"),
        (ask("<image>", image="a.jpg"), "empty_text"),
        (ask("What?", "  "), "empty_text"),
        (ask(7), "wrong_type"),
        (ask(image=7), "wrong_type"),
        (ask(image="https://example.com/a.jpg"), "media_is_url"),
        (ask(image="s3://bucket/a.jpg"), "media_is_url"),
        (ask(image="data:image/png;base64,%%%"), "image_unreadable"),
        (ask("Hear <audio>?", audios=["a.wav"]), "not_supported"),
        ({"conversations": [{"from": "human", "value": "What?"}]}, "role_order"),
        ({"conversations": [{"from": "gpt", "value": "Hm"}, {"from": "human", "value": "What?"}]}, "role_order"),
        ({"conversations": [{"from": "nobody", "value": "What?"}]}, "role_order"),
        ({"conversations": []}, "no_messages"),
        ({"conversations": "What?"}, "no_messages"),
        ({"conversations": [7]}, "wrong_type"),
        (["a", "b"], "wrong_type"),
        (None, "wrong_type"),
    ],
)
def test_what_cannot_be_mended_is_rejected_with_its_reason(sample: Any, reason: str) -> None:
    found = list(read_sample(sample, PLACE, Options(), FORMATS["llava"].convert))
    assert {one.reason for one in found if isinstance(one, Rejected)} == {reason}
    assert all(isinstance(one, Rejected) and one.where.startswith("/c/x:1") for one in found)


def test_roles_have_many_names_and_neighbours_become_one_turn() -> None:
    turns = [("developer", "Be brief."), ("User", "One."), ("tool", "Two."), ("bot", "Three."), ("model", "Four.")]
    sample = {"messages": [{"role": role, "content": content} for role, content in turns]}
    assert read_one(sample, "openai").messages == (
        {"role": "system", "text": "Be brief."},
        {"role": "user", "text": "One.\nTwo."},
        {"role": "assistant", "text": "Three.\nFour."},
    )


def test_openai_parts_bring_their_media_along() -> None:
    data = base64.b64encode(encoded()).decode()
    content = [
        {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}},
        {"type": "video", "video": ["0.jpg", "1.jpg"], "fps": 4},
        {"type": "text", "text": "What is it?"},
    ]
    sample = {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "A field."}]}
    record = read_one(sample, "openai")
    assert record.messages[0]["text"] == "<image><video>What is it?"
    assert record.images[0].data == encoded()
    assert (len(record.videos[0].frames), record.videos[0].fps) == (2, 4.0)


def test_paths_come_in_many_spellings(tmp_path: Path) -> None:
    put(tmp_path / "pics/a b#(1).jpg", encoded())
    for path in ("pics\\a b#(1).jpg", f"file://{tmp_path}/pics/a%20b%23(1).jpg", str(tmp_path / "pics/a b#(1).jpg")):
        assert load(read_one(ask(image=path)), tmp_path).images == (encoded(),)


def test_a_video_may_be_a_list_of_frames(tmp_path: Path) -> None:
    for k in range(5):
        put(tmp_path / f"{k}.jpg", encoded(picture(k)))
    names = [f"{k}.jpg" for k in range(5)]
    for videos in ([names], names):
        row = load(read_one(ask(videos=videos)), tmp_path, max_frames=3)
        assert row.messages[0]["text"].startswith("<video>\n")
        assert row.videos == (Video(frames=tuple(encoded(picture(k)) for k in (0, 2, 4)), fps=1.0),)
    assert len(read_one(ask(videos=["a.mp4", "b.mp4"])).videos) == 2


def test_instructions_are_conversations_too() -> None:
    alpaca = {
        "instruction": "Add.",
        "input": "1 + 1",
        "output": "2",
        "history": [["Hi", "Hello"]],
        "system": "Be kind.",
    }
    assert [m["text"] for m in read_one(alpaca, "instructions").messages] == [
        "Be kind.",
        "Hi",
        "Hello",
        "Add.\n1 + 1",
        "2",
    ]
    assert read_one({"query": "Who?", "response": "I."}, "parquet").messages[1]["text"] == "I."
    texts = {"texts": [{"user": "Who?", "assistant": "I."}] * 2, "images": [encoded()]}
    assert [m["text"] for m in read_one(texts, "parquet").messages][:2] == ["<image>\nWho?", "I."]


def test_a_packed_row_is_several_samples() -> None:
    found = list(read_sample([ask(), ask("What?", ""), 3], PLACE, Options(), FORMATS["llava"].convert))
    assert isinstance(found[0], Record)
    assert [one.reason for one in found[1:] if isinstance(one, Rejected)] == ["empty_text", "wrong_type"]


def test_columns_and_tags_may_be_named() -> None:
    options = Options(
        columns={"messages": "talk", "images": "pics", "system": "rules"},
        tags={"role_tag": "who", "content_tag": "says", "user_tag": "me", "assistant_tag": "you"},
    )
    sample = {
        "talk": [{"who": "me", "says": "What?"}, {"who": "you", "says": "That."}],
        "pics": ["a.jpg"],
        "rules": "Be.",
    }
    record = read_one(sample, "llava", options)
    assert [m["text"] for m in record.messages] == ["Be.", "<image>\nWhat?", "That."]
    prompts = Options(columns={"prompt": "ask", "response": "say"})
    assert read_one({"ask": "Who?", "say": "I."}, "parquet", prompts).messages[0]["text"] == "Who?"
