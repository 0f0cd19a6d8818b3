"""Pictures in JSON: a base64 data URI of a PNG or JPEG <-> uint8 [H, W, 3].

Everything that arrives is untrusted: sizes are bounded before pixels are decoded, and only two formats are read at all.
"""

import base64
import binascii
import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from blm.model.errors import UserError
from blm.model.wire import read_picture_file

MAX_PICTURE_PX = 2048 * 2048
"""Most pixels of one picture."""

Picture = npt.NDArray[np.uint8]


def decode_picture(picture: str | bytes, name: str) -> Picture:
    """A data URI (`data:image/png;base64,...`), bare base64, or the file's bytes -> uint8 [H, W, 3] RGB.

    name: the camera, for messages. UserError for anything that is no PNG or JPEG of a sane size.
    """
    try:
        data = picture if isinstance(picture, bytes) else _from_base64(picture)
        return read_picture_file(data, max_pixels=MAX_PICTURE_PX)
    except UserError as error:
        raise UserError(f"image {name!r}: {error}") from None


def _from_base64(text: str) -> bytes:
    header, comma, body = text.partition(",")
    if comma and not header.endswith(";base64"):
        raise UserError(f"write it as data:image/png;base64,... (header was {header[:40]!r})")
    try:
        return base64.b64decode(body if comma else text, validate=True)
    except (binascii.Error, ValueError):
        raise UserError("not valid base64; encode the bytes of a PNG or JPEG file") from None


def encode_picture(picture: Picture) -> str:
    """uint8 [H, W, 3] -> PNG data URI."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
