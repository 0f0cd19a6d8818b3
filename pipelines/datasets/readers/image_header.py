"""What the header of a JPEG or PNG says, read without decoding: size, plainness, and whether the file is whole.

Most pictures of most corpora are plain RGB and small enough: for them this is all the work there is, some ten
microseconds, and their bytes are kept as they are.
"""

import struct
import zlib
from dataclasses import dataclass

JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
MOST_SCANS = 100
"""Scans of a progressive JPEG: each costs a pass over the picture, and a small file may hold thousands."""
_FRAME_MARKERS = frozenset({0xC0, 0xC1, 0xC2})
_OTHER_FRAMES = frozenset({0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
_BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xD8)})
_PLAIN_CHUNKS = frozenset(
    {b"IHDR", b"IDAT", b"IEND", b"pHYs", b"gAMA", b"sRGB", b"cHRM", b"iCCP", b"tEXt", b"tIME", b"sBIT"}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """What is known of an encoded picture."""

    width: int
    """In pixels."""
    height: int
    """In pixels."""
    plain: bool
    """RGB of eight bits in one frame, upright, and by all signs complete: fit to be kept as it is."""


def read_header(data: bytes) -> Header | None:
    """The header of a JPEG or PNG; None for other formats and for what is too broken to tell."""
    if data.startswith(JPEG):
        return _jpeg(data)
    if data.startswith(PNG):
        return _png(data)
    return None


def _jpeg(data: bytes) -> Header | None:
    at, end, size, plain, progressive = 2, len(data), None, True, False
    while at + 4 <= end and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
            continue
        if marker in _BARE_MARKERS:
            at += 2
            continue
        length = data[at + 2] << 8 | data[at + 3]
        if marker in _FRAME_MARKERS:
            progressive = marker == 0xC2
            if at + 10 > end:
                return None
            size = struct.unpack(">HH", data[at + 5 : at + 9])
            plain = plain and data[at + 4] == 8 and data[at + 9] == 3
        elif marker in _OTHER_FRAMES:
            plain = False
        elif marker == 0xE1:  # Exif may turn the picture
            plain = plain and not data.startswith(b"Exif", at + 4)
        elif marker == 0xE2:  # several pictures in one
            plain = plain and not data.startswith(b"MPF", at + 4)
        elif marker == 0xDA:
            break
        at += 2 + length
    else:
        return None
    if size is None:
        return None
    ended = data.endswith(b"\xff\xd9") or data[-64:].rstrip(b"\0\r\n").endswith(b"\xff\xd9")
    if progressive and data.count(b"\xff\xda", at) > MOST_SCANS:
        plain = False
    return Header(height=size[0], width=size[1], plain=plain and ended)


def _png(data: bytes) -> Header | None:
    if len(data) < 33 or data[12:16] != b"IHDR":
        return None
    width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", data[16:29])
    plain = depth == 8 and colour == 2 and interlace == 0
    at, last = 8, b""
    view = memoryview(data)
    while plain and last != b"IEND":
        if at + 12 > len(data):
            plain = False
            break
        (length,) = struct.unpack_from(">I", data, at)
        last, stop = data[at + 4 : at + 8], at + 8 + length
        plain = stop + 4 <= len(data) and last in _PLAIN_CHUNKS
        plain = plain and zlib.crc32(view[at + 4 : stop]) == struct.unpack_from(">I", data, stop)[0]
        at = stop + 4
    return Header(width=width, height=height, plain=plain)
