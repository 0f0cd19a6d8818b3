"""Corpora as training data: tokenised to files, and rows out of them again."""

import io

import numpy as np
import pytest
from PIL import Image

from blm.actors.sim.cameras import CAMERAS, project
from blm.model.chat_encoder import ChatEncoder, VideoShape
from blm.model.errors import UserError
from blm.model.packing import count_targets
from blm.pipelines.datasets.chat import ChatRow, Video, chat_turn, write_chat
from blm.pipelines.finetune.encode import encode_corpora, encode_file
from blm.pipelines.finetune.row_store import RowStore, n_bytes

SIDE_PX = 56
POSITIONS = [0.0, 0.0, 0.1, 0.05, -0.1, 0.02, 0.1, 0.0, 0.0]


def png(seed: int, width: int = SIDE_PX, height: int = SIDE_PX) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def conversations() -> list[ChatRow]:
    """One of each kind."""
    frames = tuple(png(seed) for seed in range(3))
    return [
        ChatRow(
            id="seen",
            source="simulator",
            category="place",
            messages=chat_turn("<image>\nWhere is the cube?", "yes"),
            images=(png(7),),
            meta={"object_positions": POSITIONS},
        ),
        ChatRow(id="told", source="language", category="talk", messages=chat_turn("Where is the goal?", "no")),
        ChatRow(
            id="filmed",
            source="foreign",
            category="film",
            messages=(
                {"role": "system", "text": "Answer the questions."},
                *chat_turn("<image><video>\nPush the cube?", "yes"),
                *chat_turn("And the goal?", "no no"),
            ),
            images=(png(8, width=100, height=60),),
            videos=(Video(frames=frames, fps=2.0),),
        ),
    ]


@pytest.fixture(scope="module")
def encoder(tiny_mllm) -> ChatEncoder:
    return ChatEncoder.load(tiny_mllm)


@pytest.fixture
def encoded(encoder, tmp_path):
    """The Arrow file of the conversations."""
    write_chat(tmp_path / "rows.parquet", conversations())
    target = tmp_path / "rows.arrow"
    assert encode_file(tmp_path / "rows.parquet", target, encoder, cameras=("front",), max_length=512) == 3
    return target


def test_rows_come_back_as_the_prompt_engine_makes_them(encoder, encoded):
    store = RowStore([encoded, encoded], encoder)
    assert len(store) == 6
    assert store.ids[:3] == ["seen", "told", "filmed"]
    assert store.sources[3:] == ["simulator", "language", "foreign"]
    assert store.has_media.tolist() == [True, False, True] * 2
    film = store[5]
    shape = VideoShape(frames=3, height=SIDE_PX, width=SIDE_PX, fps=2.0)
    expected = encoder.encode(conversations()[2].messages, [(60, 100)], [shape])
    assert np.array_equal(film.input_ids, expected.input_ids)
    assert np.array_equal(film.labels, expected.labels)
    assert np.array_equal(film.positions, expected.positions)
    decoded = np.asarray(Image.open(io.BytesIO(conversations()[0].images[0])))
    assert np.array_equal(store[0].media.images[0], decoded)
    assert len(film.media.videos[0]) == 4  # a pair of frames becomes one set of tokens


def test_what_planning_needs_is_known_without_decoding(encoder, encoded):
    store = RowStore([encoded], encoder)
    counts = list(zip(store.lengths.tolist(), store.answers.tolist(), store.known.tolist(), strict=True))
    assert store.cached_bytes == 0
    assert counts == [(len(row.input_ids), *count_targets(row)) for row in (store[i] for i in range(3))]
    assert store.known.tolist() == [1, 0, 0]


def test_points_are_where_the_resized_picture_shows_them(encoder, tmp_path):
    sides = {"same.parquet": 56, "larger.parquet": 70}  # 70 px are resized to a whole number of tokens
    found = {}
    for name, side in sides.items():
        row = ChatRow(
            id=name,
            source="simulator",
            category="place",
            messages=chat_turn("<image>\nWhere?", "yes"),
            images=(png(1, side, side),),
            meta={"object_positions": POSITIONS},
        )
        write_chat(tmp_path / name, [row])
        encode_file(tmp_path / name, tmp_path / f"{name}.arrow", encoder, cameras=("front",), max_length=512)
        encoded_row = RowStore([tmp_path / f"{name}.arrow"], encoder)[0]
        found[name] = encoded_row.points_px[0] / encoded_row.media.images[0].shape[1]
    expected, _ = project(np.array(POSITIONS).reshape(3, 3), CAMERAS["front"], 56)
    assert np.allclose(found["same.parquet"], expected / 56, atol=1e-5)
    assert np.allclose(found["larger.parquet"], found["same.parquet"], atol=0.02)


def test_a_conversation_that_is_too_long_is_named(encoder, tmp_path):
    write_chat(tmp_path / "rows.parquet", conversations())
    with pytest.raises(
        UserError, match=r"conversation \w+ has \d+ tokens; shorten it or raise stage1.max_length \(20\)"
    ):
        encode_file(tmp_path / "rows.parquet", tmp_path / "rows.arrow", encoder, cameras=("front",), max_length=20)
    assert not (tmp_path / "rows.arrow").exists()


def test_a_damaged_file_is_named(encoder, encoded):
    encoded.write_bytes(encoded.read_bytes()[:100])
    with pytest.raises(UserError, match=r"rows.arrow cannot be read"):
        RowStore([encoded], encoder)


def test_both_splits_are_encoded_and_what_is_there_is_kept(tiny_mllm, encoded, tmp_path):
    for path in ("train/a", "train/b", "test/a"):
        write_chat(tmp_path / f"corpora/{path}.parquet", conversations())
    out = tmp_path / "out"
    kept = out / "train/a.arrow"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"of an earlier attempt")
    options = {"cameras": ("front",), "max_length": 512, "workers": 0}
    found = encode_corpora(tmp_path / "corpora", out, str(tiny_mllm), **options)
    assert found == {"train": [kept, out / "train/b.arrow"], "test": [out / "test/a.arrow"]}
    assert kept.read_bytes() == b"of an earlier attempt"
    assert (out / "train/b.arrow").read_bytes() == (out / "test/a.arrow").read_bytes() == encoded.read_bytes()


def test_decoded_rows_are_kept_up_to_a_size_and_the_oldest_go_first(encoder, encoded):
    whole = RowStore([encoded] * 4, encoder)
    sizes = [n_bytes(whole[i]) for i in range(12)]
    assert whole.cached_bytes == sum(sizes)
    assert whole[0] is whole[0]
    store = RowStore([encoded] * 4, encoder, cache_bytes=sizes[0] * 2 + sizes[0] // 2)
    kept = [store[0], store[3]]
    assert store[0] is kept[0]  # used last
    store[6]
    assert store.cached_bytes <= sizes[0] * 2 + sizes[0] // 2
    assert store[0] is kept[0]
    assert store[3] is not kept[1]
    nothing = RowStore([encoded], encoder, cache_bytes=0)
    assert nothing[0] is not nothing[0]
    assert nothing.cached_bytes == 0
