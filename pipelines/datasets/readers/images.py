"""Pictures as they are stored: small JPEG and PNG in RGB keep their bytes, everything else becomes such a one.

The size is known and judged before a single pixel is decoded. What is shrunk or of another kind is turned upright
(EXIF), laid on white where it is transparent, brought to eight bits and RGB, and stored as JPEG of quality 92.
"""

import math
import warnings
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from blm.pipelines.datasets.readers.image_header import read_header
from blm.pipelines.datasets.readers.record import Fault

Picture = npt.NDArray[np.uint8]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
"""What Pillow may take a file for: formats of photographs, none that runs a language or opens other files."""
QUALITY = 92
MOST_BYTES = 64 * 2**20
"""Of an encoded picture."""
LONGEST = 100
"""Sides may differ by that factor; image processors refuse pictures from 200 on."""
WHITE = (255, 255, 255)
_ORIENTATION = 0x0112
"""EXIF's tag for how the camera was held; from `_SIDEWAYS` on, width and height change places."""
_TURNS, _SIDEWAYS = range(2, 9), 5


def stored_picture(data: bytes, *, max_pixels: int, max_megapixels: float, decode: bool = True) -> bytes:
    """The bytes under which a picture is stored, at most `max_pixels` pixels. Fault if it cannot be used.

    decode: try out that kept bytes can be decoded; without it a file that only looks complete goes through.
    """
    if len(data) > MOST_BYTES:
        raise Fault("image_too_large", f"{len(data)} bytes")
    header = read_header(data)
    if header is not None:
        check_size(header.width, header.height, max_megapixels)
        if header.plain and header.width * header.height <= max_pixels:
            if decode and thumbnail(data, 8) is None:
                raise Fault("image_unreadable", "its pixels cannot be decoded")
            return data
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's about large pictures and odd EXIF: both are dealt with here
            return _converted(data, max_pixels, max_megapixels)
    except Fault:
        raise
    except Image.DecompressionBombError as error:
        raise Fault("image_too_large", str(error)) from error
    except Exception as error:  # Pillow raises some twenty kinds for broken files
        raise Fault("image_unreadable", f"{type(error).__name__}: {error}") from error


def check_size(width: int, height: int, max_megapixels: float) -> None:
    """Fault unless a picture of this size, in pixels, can be used."""
    if width < 1 or height < 1:
        raise Fault("image_unreadable", f"{width} x {height} pixels")
    if width * height > max_megapixels * 1e6:
        raise Fault("image_too_large", f"{width} x {height} pixels")
    if max(width, height) > LONGEST * min(width, height):
        raise Fault("image_shape", f"{width} x {height} pixels")


def fitting_size(width: int, height: int, max_pixels: int) -> tuple[int, int]:
    """The largest size of these proportions within `max_pixels`, never larger than given."""
    if width * height <= max_pixels:
        return width, height
    scale = math.sqrt(max_pixels / (width * height))
    return max(1, int(width * scale)), max(1, int(height * scale))


def picture_size(stored: bytes) -> tuple[int, int]:
    """Width and height of a stored picture, in pixels. Fault if it is none."""
    header = read_header(stored)
    if header is None:
        raise Fault("image_unreadable", "neither JPEG nor PNG")
    return header.width, header.height


def encode_jpeg(picture: Image.Image) -> bytes:
    """An RGB picture as JPEG."""
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def thumbnail(data: bytes, side: int) -> Picture | None:
    """A picture decoded as cheaply as its format allows, grey, uint8 [side, side]; None if it cannot be decoded.

    For JPEG that is a fraction of a full decoding; every byte is looked at all the same.
    """
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            image.draft("L", (side, side))
            return np.asarray(image.convert("L").resize((side, side), Image.Resampling.BOX))
    except Exception:  # as in stored_picture
        return None


def _converted(data: bytes, max_pixels: int, max_megapixels: float) -> bytes:
    with Image.open(BytesIO(data), formats=FORMATS) as image:
        check_size(*image.size, max_megapixels)
        wanted = fitting_size(*image.size, max_pixels)
        turn = image.getexif().get(_ORIENTATION, 1)
        usable = image.format in ("JPEG", "PNG") and image.mode == "RGB" and "transparency" not in image.info
        usable = usable and turn not in _TURNS and not getattr(image, "is_animated", False)
        if image.format == "JPEG" and wanted != image.size:
            image.draft("RGB", wanted)
        image.seek(0)
        if turn in _TURNS:
            picture = to_rgb(ImageOps.exif_transpose(image))
            wanted = wanted[::-1] if turn >= _SIDEWAYS else wanted
        else:
            picture = to_rgb(image)
        if picture.size != wanted:
            picture = picture.resize(wanted, Image.Resampling.LANCZOS, reducing_gap=3.0)
        elif usable:
            return data
        return encode_jpeg(picture)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any picture in RGB of eight bits; what is transparent becomes white."""
    if image.mode == "RGB" and "transparency" not in image.info:
        image.load()
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_eight_bits(np.asarray(image), image.mode)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        ground = Image.new("RGB", image.size, WHITE)
        ground.paste(rgba, mask=rgba.getchannel("A"))
        return ground
    return image.convert("RGB")


def _eight_bits(values: npt.NDArray[np.generic], mode: str) -> Picture:
    """Grey of sixteen bits by its place in their range; of 32 bits, where nobody says what is white, by its own."""
    grey = np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = (0.0, 65535.0) if ";16" in mode else (float(grey.min()), float(grey.max()))
    return np.round((grey - low) * (255.0 / max(high - low, 1e-9))).clip(0, 255).astype(np.uint8)
