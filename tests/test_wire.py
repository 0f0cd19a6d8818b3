"""What crosses the wire to policies, and what is refused there."""

import contextlib
import io
import math
import pickle
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from blm.model.description import description_from_wire, description_to_wire
from blm.model.errors import UserError
from blm.model.layout import Layout
from blm.model.wire import MAX_PARTS, Form, pack, unpack, unpack_map

OPENPI_BYTES = bytes.fromhex(
    "81a17884c40b5f5f6e6461727261795f5fc3c40464617461c40c000000000000803f00000040c4056474797065a33c6634c405736861706591"
    "03"
)
"""What openpi-client 0.1.2 sends of {"x": np.arange(3, dtype=np.float32)}."""


def picture(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def image_map(data: bytes, kind: str = "png") -> bytes:
    return msgpack.packb({"p": {"__image__": True, "format": kind, "data": data, "shape": [1, 1, 3]}})


def test_an_array_is_written_byte_for_byte_as_openpi_writes_it() -> None:
    assert pack({"x": np.arange(3, dtype=np.float32)}) == OPENPI_BYTES


@pytest.mark.parametrize("form", ["openpi", "vla-eval"])
@pytest.mark.parametrize(
    "array",
    [
        np.linspace(-1, 1, 12, dtype=np.float64).reshape(3, 4),
        np.arange(6, dtype=">i2").reshape(2, 3),
        np.array([[True], [False]]),
        np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        np.zeros((0, 8), np.float32),
        np.array(2.5, np.float16),
        picture(5, 7),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_arrays_come_back_bit_for_bit(form: Form, array: np.ndarray) -> None:
    back = unpack(pack({"x": array}, form))["x"]
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


def test_plain_values_and_numbers_of_numpy_come_back() -> None:
    value = {"s": "text", "l": [1, 2.5, None, True], "seed": 2**63 - 1, "m": {"deep": b"bytes"}, "n": np.float32(2.5)}
    assert unpack(pack(value)) == value
    assert unpack(pack({"n": np.int64(7)}, "vla-eval")) == {"n": 7}


def test_pictures_as_png_are_lossless() -> None:
    packed = pack({"p": picture(9, 9), "flat": picture(9, 9, 2)}, "vla-eval", pictures="png")
    assert b"PNG" in packed
    assert (unpack(packed)["p"] == picture(9, 9)).all()
    assert (unpack(packed)["flat"] == picture(9, 9, 2)).all()


def test_a_jpeg_and_a_raw_picture_of_vla_eval_are_read() -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), 200, np.uint8)).save(buffer, format="JPEG")
    assert unpack(image_map(buffer.getvalue(), "jpeg"))["p"].shape == (8, 8, 3)
    raw = {"__image__": True, "format": "raw", "data": bytes(12), "dtype": "|u1", "shape": [2, 2, 3]}
    assert unpack(msgpack.packb({"p": raw}))["p"].shape == (2, 2, 3)


@pytest.mark.parametrize(
    "value", [np.array([object()]), np.array(["text"]), np.array([1 + 2j]), np.datetime64("2026-01-01"), {1, 2}]
)
def test_what_is_no_number_is_not_sent(value: Any) -> None:
    with pytest.raises(UserError, match="cannot be sent"):
        pack({"x": value})


def array_map(**fields: Any) -> bytes:
    plain = {"__ndarray__": True, "data": bytes(8), "dtype": "<f4", "shape": [2]}
    return msgpack.packb({"x": {**plain, **fields}})


@pytest.mark.parametrize(
    "data",
    [
        array_map(dtype="|O"),
        array_map(dtype="|V8"),
        array_map(dtype="<U2"),
        array_map(dtype="f4,f4"),
        array_map(dtype="nonsense"),
        array_map(dtype=7),
        array_map(dtype=None),
        array_map(shape=[3]),
        array_map(shape=[-1]),
        array_map(shape=[2**40, 2**40]),
        array_map(shape=[1] * 9),
        array_map(shape="2"),
        array_map(shape=[2.0]),
        array_map(data="12345678"),
        msgpack.packb({"x": {b"__npgeneric__": True, b"data": [1] * 9, b"dtype": "<f4"}}),
        msgpack.packb({"x": msgpack.ExtType(7, b"code")}),
        msgpack.packb({1: 2}),
        msgpack.packb({"x": 1}) + b"more",
        msgpack.packb({"x": 1})[:-1],
        pickle.dumps({"x": np.arange(3)}),
        b"",
        b"\x91" * 5000 + b"\xc0",
        msgpack.packb([[]] * (MAX_PARTS // 2 + 1)),
        msgpack.packb([0] * (MAX_PARTS + 1)),
        image_map(b"no picture"),
        image_map(b"GIF89a\x01\x00\x01\x00\x00\x00\x00;"),
    ],
)
def test_what_lies_about_itself_is_refused(data: bytes) -> None:
    with pytest.raises(UserError):
        unpack(data)


def test_a_large_picture_is_refused_before_it_is_decoded_and_so_are_many_small_ones() -> None:
    buffer = io.BytesIO()
    Image.new("L", (4000, 4000)).save(buffer, format="PNG")
    with pytest.raises(UserError, match="4000x4000"):
        unpack(image_map(buffer.getvalue()), max_pixels=10**6)
    buffer = io.BytesIO()
    Image.new("L", (100, 100)).save(buffer, format="PNG")
    one = {"__image__": True, "format": "png", "data": buffer.getvalue()}
    assert len(unpack(msgpack.packb([one] * 10), max_pixels=10**5)) == 10
    with pytest.raises(UserError, match="fewer"):
        unpack(msgpack.packb([one] * 11), max_pixels=10**5)


def test_a_message_over_the_limit_is_refused_unread() -> None:
    with pytest.raises(UserError, match="at most 10"):
        unpack(bytes(11), max_bytes=10)


@pytest.mark.parametrize("frame", ["text", msgpack.packb([1]), msgpack.packb(None)])
def test_a_message_is_a_binary_map(frame: bytes | str) -> None:
    with pytest.raises(UserError, match="one msgpack map"):
        unpack_map(frame)


@given(st.binary(max_size=80))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(UserError):  # and nothing else
        unpack(data)


def test_a_description_comes_back_with_bounds_that_do_not_exist() -> None:
    from small_policy_server import description_of_random

    foreign = Layout(
        name="pusher",
        state_names=("x", "y"),
        action_names=("x", "y"),
        relative_to=(0, -1),
        lower=(-math.inf, 0.0),
        upper=(math.inf, 1.0),
        control_hz=10,
    )
    for description in (description_of_random(), description_of_random(layouts=(foreign,), identity="1a2b")):
        assert description_from_wire(unpack(pack(description_to_wire(description)))) == description


@pytest.mark.parametrize("data", [None, {}, {"name": "x"}, [], "text"])
def test_a_description_that_is_none_is_refused(data: Any) -> None:
    with pytest.raises(UserError):
        description_from_wire(data)
