"""What crosses the wire to and from policies: msgpack, with arrays and pictures in it, in the two forms in the field.

    "openpi"    an array is a map with binary keys, {b"__ndarray__": true, b"data", b"dtype", b"shape"}
    "vla-eval"  the same with text keys; pictures may be PNG or JPEG files, {"__image__": true, "format", "data"}

Both are read wherever either is. Everything that arrives is untrusted: it is plain data and arrays of numbers, never
code or Python objects; no array is larger than the bytes that came, pictures are bounded before they are decoded, and
so is the number of parts.
"""

import io
import math
import warnings
from collections.abc import Mapping
from typing import Any, Literal

import msgpack
import numpy as np
import numpy.typing as npt

from blm.model.errors import UserError

Form = Literal["openpi", "vla-eval"]
PictureFormat = Literal["raw", "png"]

MAX_FRAME_BYTES = 64 * 2**20
"""Largest message that is read: forty observations of three raw pictures of 420 px."""
MAX_PIXELS = 2**25
"""Most pixels of all compressed pictures of one message together, once decoded: a hundred megabytes."""
MAX_PARTS = 2**20
"""Most lists, maps and what is in them, in one message; an array counts as one part."""

_KINDS = "biuf"
_FILES = ("PNG", "JPEG")
_MOST_DIMENSIONS = 8
_LONGEST_DTYPE = 8


def pack(value: Any, form: Form = "openpi", *, pictures: PictureFormat = "raw") -> bytes:
    """Plain values, NumPy arrays and NumPy numbers to one message.

    pictures: how the vla-eval form writes uint8 [H, W, 1, 3 or 4]; openpi's knows no files. UserError for arrays of
    anything but numbers and truth values.
    """

    def replace(part: Any) -> Any:
        if isinstance(part, np.ndarray | np.generic) and part.dtype.kind not in _KINDS:
            raise UserError(f"an array of {part.dtype} cannot be sent; send numbers")
        if isinstance(part, np.ndarray):
            if form == "vla-eval" and pictures == "png" and _is_picture(part):
                return {"__image__": True, "format": "png", "data": _to_png(part), "shape": list(part.shape)}
            return _array(part, form)
        if isinstance(part, np.generic):
            if form == "vla-eval":
                return part.item()
            return {b"__npgeneric__": True, b"data": part.item(), b"dtype": part.dtype.str}
        raise UserError(f"a {type(part).__name__} cannot be sent; send numbers, texts, lists, maps and arrays")

    return msgpack.packb(value, default=replace, use_bin_type=True)


def unpack(data: bytes, *, max_bytes: int = MAX_FRAME_BYTES, max_pixels: int = MAX_PIXELS) -> Any:
    """The value of one message of either form. Its arrays may be read-only.

    UserError for what is not msgpack, too large, or holds arrays of anything but numbers.
    """
    if len(data) > max_bytes:
        raise UserError(f"a message of {len(data)} bytes; send at most {max_bytes}")
    pixels, parts = max_pixels, MAX_PARTS

    def count(part: Any) -> Any:
        nonlocal parts
        parts -= 1 + len(part)
        if parts < 0:
            raise UserError(f"a message of more than {MAX_PARTS} parts; send numbers as arrays")
        return part

    def replace(part: dict[Any, Any]) -> Any:
        nonlocal pixels
        count(part)
        if part.get("__image__") is True:
            picture, spent = _read_picture(part, pixels)
            pixels -= spent
            return picture
        if part.get(b"__ndarray__") is True or part.get("__ndarray__") is True:
            return _read_array(part)
        if part.get(b"__npgeneric__") is True:
            return _read_number(part)
        return part

    try:
        return msgpack.unpackb(
            data,
            raw=False,
            object_hook=replace,
            list_hook=count,
            ext_hook=_refuse_extension,
            max_array_len=MAX_PARTS,
            max_map_len=MAX_PARTS,
        )
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        raise UserError(f"not a message of this protocol ({type(error).__name__}: {str(error)[:200]})") from None


def unpack_map(data: bytes | str) -> dict[Any, Any]:
    """`unpack`, of a message that must be a map. UserError for anything else, a text frame among it."""
    value = unpack(data) if isinstance(data, bytes) else None
    if not isinstance(value, dict):
        raise UserError("a message must be a binary frame that holds one msgpack map")
    return value


def _array(array: npt.NDArray[Any], form: Form) -> dict[Any, Any]:
    plain = {"__ndarray__": True, "data": array.tobytes(), "dtype": array.dtype.str, "shape": list(array.shape)}
    return plain if form == "vla-eval" else {key.encode(): value for key, value in plain.items()}


def _dtype(name: Any) -> np.dtype[Any]:
    if not isinstance(name, str) or len(name) > _LONGEST_DTYPE:
        raise UserError("an array without a type of numbers; send '<f4', '|u1' or the like")
    dtype = np.dtype(name)
    if dtype.kind not in _KINDS:
        raise UserError(f"an array of {dtype} is not accepted; send numbers")
    return dtype


def _read_array(part: Mapping[Any, Any]) -> npt.NDArray[Any]:
    """float32 [..] or whatever its type says; a view of the message's bytes."""
    field = {key.decode() if isinstance(key, bytes) else key: value for key, value in part.items()}
    dtype, shape, data = _dtype(field.get("dtype")), _shape(field.get("shape")), field.get("data")
    if not isinstance(data, bytes) or len(data) != math.prod(shape) * dtype.itemsize:
        raise UserError(f"an array of {list(shape)} {dtype} with another number of bytes; send the whole array")
    return np.frombuffer(data, dtype=dtype).reshape(shape)


def _read_number(part: Mapping[Any, Any]) -> Any:
    value = part.get(b"data")
    if not isinstance(value, bool | int | float):
        raise UserError("a NumPy number without a number; send one")
    return _dtype(part.get(b"dtype")).type(value)


def _shape(value: Any) -> tuple[int, ...]:
    known = isinstance(value, list) and len(value) <= _MOST_DIMENSIONS
    if not known or not all(type(length) is int and length >= 0 for length in value):
        raise UserError("an array without a shape; send its dimensions as a list of whole numbers")
    return tuple(value)


def _read_picture(part: Mapping[Any, Any], most_pixels: int) -> tuple[npt.NDArray[np.uint8], int]:
    """(uint8 [H, W, C] or [H, W], pixels that were decoded)."""
    if part.get("format") == "raw":
        return _read_array(part), 0
    data = part.get("data")
    if not isinstance(data, bytes):
        raise UserError("a picture without its file; send the bytes of a PNG or JPEG")
    return _decode(data, most_pixels, modes=("L", "RGB", "RGBA"))


def read_picture_file(data: bytes, *, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """The bytes of a PNG or JPEG -> uint8 [H, W, 3] RGB. UserError for anything else, and for more than `max_pixels`,
    which are not decoded then."""
    return _decode(data, max_pixels, modes=("RGB",))[0]


def _decode(data: bytes, most_pixels: int, *, modes: tuple[str, ...]) -> tuple[npt.NDArray[np.uint8], int]:
    """(uint8 pixels, how many): as they are in one of these modes, as RGB otherwise."""
    from PIL import Image, UnidentifiedImageError  # who sends arrays alone needs no Pillow

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is the stricter one
            with Image.open(io.BytesIO(data), formats=_FILES) as image:
                pixels = image.width * image.height
                if pixels > most_pixels:
                    raise UserError(f"a picture of {image.width}x{image.height} pixels; send smaller or fewer ones")
                return np.asarray(image if image.mode in modes else image.convert("RGB"), dtype=np.uint8), pixels
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise UserError("not a readable PNG or JPEG") from None


def _is_picture(array: npt.NDArray[Any]) -> bool:
    return array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] in (1, 3, 4)


def _to_png(picture: npt.NDArray[np.uint8]) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture if picture.shape[2] > 1 else picture[..., 0]).save(buffer, format="PNG")
    return buffer.getvalue()


def _refuse_extension(code: int, data: bytes) -> Any:
    raise UserError(f"msgpack's extension type {code} is not accepted; send plain values")
