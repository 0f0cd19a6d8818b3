"""Which rows count as equal, nearly equal or a test item's: real pictures, encoded and shrunk, and plain words."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from blm.pipelines.datasets.chat import ChatRow, Video, chat_turn
from blm.pipelines.datasets.readers.record import MediaRef, Record
from blm.pipelines.ingest.decontaminate import RULES, Decontaminator, Protected, clip_names, joined, protect
from blm.pipelines.ingest.duplicates import Sketches, exact_duplicates, near_duplicates
from blm.pipelines.ingest.likeness import PictureIndex, near_pictures, near_texts
from blm.pipelines.ingest.sketches import (
    RowSketch,
    Sketcher,
    exact_digest,
    grams,
    minhash,
    picture_arrays,
    sketch_picture,
)

WORDS = (
    *("the", "gripper", "closes", "round", "a", "small", "wooden", "block", "and"),
    *("lifts", "it", "slowly", "over", "an", "edge", "of", "some", "grey", "tray"),
)


def scene(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """A picture with soft and hard edges, another one for every seed."""
    rng = np.random.default_rng(seed)
    soft = Image.fromarray(rng.integers(0, 255, (5, 7, 3)).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    pixels = np.asarray(soft).astype(np.int16) + rng.normal(0, 6, (size[1], size[0], 3)).astype(np.int16)
    x, y = rng.integers(20, 200, 2)
    pixels[y : y + 30, x : x + 40] = rng.integers(0, 255, 3)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "JPEG", quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=quality)
    return buffer.getvalue()


def near(one: bytes, other: bytes) -> bool:
    a, b = (picture_arrays([sketch_picture(data)]) for data in (one, other))
    return bool(near_pictures(a, np.array([0]), b, np.array([0]))[0])


@pytest.mark.parametrize("seed", range(5))
def test_a_picture_is_known_again_in_another_encoding_size_and_brightness(seed):
    image = scene(seed)
    original = encoded(image)
    for other in (
        encoded(image, quality=40),
        encoded(image, "PNG"),
        encoded(image.resize((160, 120))),
        encoded(image.resize((500, 375), Image.Resampling.BICUBIC), "PNG"),
        encoded(image.point(lambda value: min(255, value + 4))),
    ):
        assert near(original, other)
    assert not near(original, encoded(scene(seed + 100)))


def test_pictures_that_mean_something_else_are_not_near():
    image = scene(1)
    moved = image.copy()
    moved.paste((255, 0, 0), (100, 100, 140, 140))
    assert not near(encoded(image), encoded(moved)), "a red block that was not there"
    assert not near(encoded(image), encoded(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)))
    painted = Image.merge("RGB", image.split()[::-1])
    assert not near(encoded(image), encoded(painted)), "other colours"


def test_pictures_without_structure_are_equal_only_byte_by_byte():
    black, dark = (encoded(Image.new("RGB", (64, 64), (value, value, value))) for value in (0, 1))
    assert not near(black, dark)
    assert near(black, black)


def test_an_index_finds_what_comparing_one_by_one_finds():
    images = [scene(seed) for seed in range(40)]
    index = PictureIndex(picture_arrays([sketch_picture(encoded(image)) for image in images]))
    asked = [encoded(image.resize((200, 150)), quality=60) for image in images[:10]]
    asked += [encoded(scene(seed)) for seed in range(500, 530)]
    assert index.has(picture_arrays([sketch_picture(data) for data in asked])).tolist() == [True] * 10 + [False] * 30
    assert not PictureIndex(picture_arrays([])).has(picture_arrays([sketch_picture(asked[0])])).any()


def test_texts_are_near_if_nearly_all_runs_of_words_are_shared():
    text = " ".join([*WORDS] * 10 + [f"word{i}" for i in range(200)])
    same = text.upper().replace(" ", "  ")
    one_word = text.replace("word100", "thing")
    assert near_texts(minhash(text)[None], minhash(same)[None]).all()
    assert near_texts(minhash(text)[None], minhash(one_word)[None]).all()
    assert not near_texts(minhash("push the red cube")[None], minhash("push the blue cube")[None]).any()
    assert not near_texts(minhash(text)[None], minhash(text[: len(text) // 2])[None]).any()


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=300))
def test_any_text_has_a_signature(text):
    assert (minhash(text) == minhash(text.upper().lower())).all() or text.upper().lower() != text.lower()
    assert minhash(text).shape == (60,)
    assert len(grams(text)) <= max(0, len(text))


def row(question: str, answer: str, *images: bytes, frames: tuple[bytes, ...] = ()) -> ChatRow:
    videos = (Video(frames=frames, fps=1.0),) if frames else ()
    text = "<image>" * len(images) + "<video>" * len(videos) + "\n" + question
    return ChatRow(id="r", source="s", category="c", messages=chat_turn(text, answer), images=images, videos=videos)


def test_exact_digests_see_words_and_pictures_and_nothing_else():
    picture, other = encoded(scene(1)), encoded(scene(2))
    first = exact_digest(row("Where  is it?", "Here.", picture))
    assert first == exact_digest(row("where is it?", "HERE.", picture))
    assert first != exact_digest(row("where is it?", "here.", other))
    assert first != exact_digest(row("where is it? here.", "here.", picture))
    assert first != exact_digest(row("where is it?", "here.", frames=(picture,)))
    assert exact_digest(row("a", "b", picture, other)) != exact_digest(row("a", "b", other, picture))


def sketches(*rows: ChatRow) -> Sketches:
    found: list[RowSketch] = [Sketcher()(one) for one in rows]
    pictures = [picture for sketch in found for picture in sketch.pictures]
    return Sketches(
        exact=np.array([sketch.exact for sketch in found], dtype=np.uint64),
        signature=np.stack([sketch.signature for sketch in found]),
        shape=np.array([sketch.shape for sketch in found], dtype=np.uint64),
        starts=np.concatenate([[0], np.cumsum([len(sketch.pictures) for sketch in found])]).astype(np.int64),
        pictures=picture_arrays(pictures),
    )


def test_the_first_of_equal_rows_stays():
    rows = [row("a b c", "d"), row("e f g", "h"), row("A  b c", "d"), row("e f g", "h", encoded(scene(1)))]
    exact = sketches(*rows).exact
    assert exact_duplicates(exact, np.zeros((0, 2), np.uint64)).tolist() == [False, False, True, False]
    assert exact_duplicates(exact, exact[1:2]).tolist() == [False, True, True, False]


def test_a_near_duplicate_is_near_in_text_and_in_every_picture():
    story = " ".join(f"{word}{i}" for i in range(12) for word in WORDS)
    image, other = scene(1), scene(2)
    rows = [
        row("Tell me.", story, encoded(image), encoded(other)),
        row("Tell me.", story + " end", encoded(image, quality=50), encoded(other, quality=50)),  # near the first
        row("Tell me.", story + " end", encoded(image), encoded(scene(3))),  # another second picture
        row("Tell me.", " ".join(reversed(story.split())), encoded(image), encoded(other)),  # another text
        row("Tell me.", story, encoded(image)),  # fewer pictures
        row("Tell me.", story),
        row("Tell me.", story + " end"),  # near the one before
        row("Tell me.", story, frames=(encoded(image), encoded(other))),  # a video is no two pictures
    ]
    everyone = np.ones(len(rows), dtype=bool)
    found = near_duplicates(sketches(*rows), everyone)
    assert found.tolist() == [False, True, False, False, False, False, True, False]
    without = everyone.copy()
    without[0] = False
    assert near_duplicates(sketches(*rows), without).tolist() == [False] * 6 + [True, False]


def test_in_a_chain_of_near_rows_each_one_that_goes_is_near_one_that_stays():
    words = [f"word{number}" for number in np.random.default_rng(0).integers(10**6, size=300)]
    texts = [" ".join(words[i * 5 :] + [f"new{j}" for j in range(i * 5)]) for i in range(30)]
    chain = sketches(*(row("Say it.", text) for text in texts))
    gone = near_duplicates(chain, np.ones(30, dtype=bool))
    assert 5 < gone.sum() < 28
    for later in np.flatnonzero(gone):
        stays = np.flatnonzero(~gone[:later])
        assert near_texts(chain.signature[stays], chain.signature[[later] * len(stays)]).any()


def test_test_items_are_found_by_picture_frame_name_and_words(tmp_path):
    question = "what would happen if the robot pushed the red block off the edge of the table now"
    kept = [encoded(scene(seed)) for seed in range(6)]
    part = protect([sketch_picture(kept[0])], ["robo_clip_17"], [question])
    part.save(tmp_path / "items.npz")
    rest = protect([sketch_picture(data) for data in kept[1:]], [], [])
    items = Decontaminator(joined([Protected.load(tmp_path / "items.npz"), rest]))

    def rule(asked: ChatRow, *clips: str) -> str | None:
        number = items.rule(asked, Sketcher()(asked).pictures, clips)
        return RULES[number - 1] if number else None

    fresh = encoded(scene(99))
    assert rule(row("What?", "That.", fresh)) is None
    assert rule(row("What?", "That.", fresh, encoded(scene(3), quality=60))) == "picture"
    assert rule(row("What?", "That.", frames=(fresh, encoded(scene(4).resize((160, 120)))))) == "frame"
    assert rule(row("What?", "That.", fresh), "robo_clip_17") == "clip_name"
    assert rule(row("Tell me: " + question.upper() + "?", "It falls.")) == "question"
    assert rule(row("what would happen if the robot pushed the blue block off", "It falls.")) is None
    assert rule(row(question, "It falls.", fresh)) is None, "benchmarks and training sets share templates"


def test_clips_are_named_by_file_or_folder():
    def record(**media: tuple[MediaRef, ...]) -> Record:
        return Record(id="1", where="here", messages=chat_turn("a", "b"), **media)

    video = MediaRef(paths=("clips/robovqa_0017.mp4", "video_clips/robovqa_0017.mp4"))
    assert clip_names(record(videos=(video,))) == ["robovqa_0017"]
    frames = tuple(MediaRef(paths=(f"frames/62_robo_set#episode_1570/frame_{i}.png",)) for i in range(3))
    assert clip_names(record(images=frames)) == ["62_robo_set#episode_1570"]
    assert clip_names(record(videos=(MediaRef(frames=frames),))) == ["62_robo_set#episode_1570"]
    assert clip_names(record(images=frames[:1])) == [], "one picture is no clip"
    assert clip_names(record(images=(frames[0], MediaRef(paths=("other/a.png",))))) == []
    for shared in ("clips/000123456.mp4", "clips/a1.mp4", "clips/video.mp4"):
        assert clip_names(record(videos=(MediaRef(paths=(shared,)),))) == []
    assert clip_names(record(videos=(MediaRef(data=b"mp4"),))) == []
