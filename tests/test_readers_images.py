"""Pictures of all kinds become small RGB ones, upright; what is too large or broken is refused by its reason."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_foreign import encoded, picture

from blm.pipelines.datasets.readers.image_header import read_header
from blm.pipelines.datasets.readers.images import stored_picture, thumbnail
from blm.pipelines.datasets.readers.record import Fault

BIG = 10**6


def stored(data: bytes, max_pixels: int = BIG, **rules: Any) -> bytes:
    return stored_picture(data, max_pixels=max_pixels, max_megapixels=rules.pop("max_megapixels", 20.0), **rules)


def decoded(data: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(data))
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header promises any size, and a few pixels."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 999)) + chunk(b"IEND", b"")
    )


def jpeg_of_size(width: int, height: int) -> bytes:
    """A JPEG with another size in its header."""
    data = encoded()
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


@pytest.mark.parametrize("data", [encoded(), encoded(progressive=True), encoded(None, "PNG")])
def test_small_rgb_pictures_keep_their_bytes(data: bytes) -> None:
    assert stored(data) is data
    header = read_header(data)
    assert header is not None
    assert (header.width, header.height, header.plain) == (48, 48, True)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_large_pictures_are_shrunk_within_the_limit(format: str) -> None:
    small = decoded(stored(encoded(picture(width=300, height=150), format), max_pixels=5000))
    assert small.shape == (50, 100, 3)
    assert np.abs(small[40, 80] - picture()[-1, -1]).max() < 12
    assert small[5, 5].min() > 235


def test_a_held_camera_is_turned_upright() -> None:
    upright = picture(width=64, height=32)
    for orientation, operation in (
        (6, Image.Transpose.ROTATE_90),
        (8, Image.Transpose.ROTATE_270),
        (3, Image.Transpose.ROTATE_180),
    ):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = saved(Image.fromarray(upright).transpose(operation), "JPEG", exif=exif, quality=95)
        seen = decoded(stored(data))
        assert seen.shape == upright.shape
        assert np.abs(seen[4:6, 4:12] - upright[4:6, 4:12]).max() < 20
        assert decoded(stored(data, max_pixels=512)).shape == (16, 32, 3)
    exif[0x0112] = 1
    plain = saved(Image.fromarray(upright), "JPEG", exif=exif)
    assert stored(plain) == plain


def test_transparency_becomes_white() -> None:
    clear = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
    palette = Image.new("P", (20, 20), 0)
    palette.putpalette([200, 0, 0] * 256)
    for data in (saved(clear, "PNG"), saved(clear, "WEBP"), saved(palette, "PNG", transparency=0)):
        assert decoded(stored(data)).min() > 250


def test_other_modes_become_rgb() -> None:
    colours = Image.fromarray(picture())
    sixteen = Image.fromarray(np.full((20, 20), 32768, dtype=np.uint16))
    assert np.abs(decoded(stored(saved(sixteen, "PNG"))) - 128).max() <= 2
    assert np.abs(decoded(stored(saved(colours.convert("CMYK"), "JPEG")))[-1, -1] - picture()[-1, -1]).max() < 12
    for mode in ("L", "P", "1", "LA"):
        assert decoded(stored(saved(colours.convert(mode), "PNG"))).shape == (48, 48, 3)


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP"])
def test_of_an_animation_the_first_picture_is_kept(format: str) -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ((200, 0, 0), (0, 0, 200))]
    data = saved(frames[0], format, save_all=True, append_images=frames[1:])
    kept = stored(data)
    assert kept is not data
    assert decoded(kept)[..., 0].min() > 180


@pytest.mark.parametrize("data", [png_of_size(10_000, 10_000), jpeg_of_size(10_000, 10_001), png_of_size(2**31, 2**31)])
def test_a_hundred_megapixels_are_refused_by_the_header_alone(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "open", None)  # nothing may be decoded
    with pytest.raises(Fault) as caught:
        stored(data)
    assert caught.value.reason == "image_too_large"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "image_unreadable"),
        (b"no picture at all", "image_unreadable"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "image_unreadable"),
        (png_of_size(0, 5), "image_unreadable"),
        (png_of_size(40, 40), "image_unreadable"),  # a correct file of too few pixels
        (encoded(None, "PNG")[:-30], "image_unreadable"),
        (encoded()[: len(encoded()) // 2], "image_unreadable"),
        (encoded(picture(width=500, height=4)), "image_shape"),
        (saved(Image.new("RGB", (5000, 5000)), "WEBP"), "image_too_large"),
    ],
)
def test_unusable_pictures_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(Fault) as caught:
        stored(data)
    assert caught.value.reason == reason


def test_a_jpeg_of_thousands_of_passes_is_not_kept_as_it_is() -> None:
    data = encoded(progressive=True)
    scan = data.rindex(b"\xff\xda")
    bomb = data[:scan] + data[scan:-2] * 200 + b"\xff\xd9"
    header = read_header(bomb)
    assert header is not None
    assert not header.plain


def test_without_decoding_only_the_file_itself_is_checked() -> None:
    hollow = png_of_size(40, 40)
    assert stored(hollow, decode=False) is hollow
    assert thumbnail(hollow, 8) is None
    seen = thumbnail(encoded(), 8)
    assert seen is not None
    assert seen.shape == (8, 8)
