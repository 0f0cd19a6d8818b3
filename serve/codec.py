"""Pictures on the wire: a base64 data URI of a PNG or JPEG <-> uint8 [H, W, 3].

Everything that arrives is untrusted: sizes are bounded before pixels are decoded, and only two formats are read at all.
"""

import base64
import binascii
import io
import warnings

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from blm.model.errors import UserError

MAX_PICTURE_PX = 4096 * 4096
"""Most pixels of one picture."""
_FORMATS = ("PNG", "JPEG")

Picture = npt.NDArray[np.uint8]


def decode_picture(text: str, name: str) -> Picture:
    """A data URI (`data:image/png;base64,...`) or bare base64 -> uint8 [H, W, 3] RGB.

    name: the camera, for messages. UserError for anything that is no PNG or JPEG of a sane size.
    """
    header, comma, body = text.partition(",")
    if comma and not header.endswith(";base64"):
        raise UserError(f"image {name!r}: write it as data:image/png;base64,... (header was {header[:40]!r})")
    try:
        data = base64.b64decode(body if comma else text, validate=True)
    except (binascii.Error, ValueError):
        raise UserError(f"image {name!r} is not valid base64; encode the bytes of a PNG or JPEG file") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is the stricter one
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                if image.width * image.height > MAX_PICTURE_PX:
                    raise UserError(f"image {name!r} has {image.width}x{image.height} pixels; send a smaller one")
                return np.asarray(image.convert("RGB"), dtype=np.uint8)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise UserError(f"image {name!r} is not a readable PNG or JPEG") from None


def encode_picture(picture: Picture) -> str:
    """uint8 [H, W, 3] -> PNG data URI."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
