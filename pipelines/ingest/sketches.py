"""What is remembered of a row to recognise it again, without its pictures: a few hundred bytes.

Of a text, a hash of its normalised form and a MinHash signature over runs of three words: the share of equal numbers in
two signatures estimates how much of their word runs two texts have in common. Of a picture, whether brightness rises or
falls between neighbouring cells of a coarse and of a fine grid (a difference hash), and its colours in sixteen cells;
that survives another size, another encoding and slight changes of brightness.
"""

import hashlib
import io
import re
import unicodedata
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from blm.model.prompts import IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER
from blm.pipelines.datasets.chat import ChatRow

SHINGLE_WORDS = 3
SIGNATURE = 60
"""Numbers of a MinHash signature."""
GRAM_WORDS = 13
"""A run of words this long does not come up twice by chance."""
STEP = 1
"""Differences of brightness, of 255, up to which it does not count as rising: they are noise of the encoding."""
BOX = Image.Resampling.BOX
LATELY = 1000
"""Pictures that are remembered."""
DETAIL = 34 + 48
"""Bytes of a picture's fine grid and colours."""

_WORD = re.compile(r"\w+")
_random = np.random.default_rng(20240117)  # fixed for ever: sketches of different days must agree
_FACTORS = _random.integers(1, 2**63, size=(SIGNATURE, 1), dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_OFFSETS = _random.integers(0, 2**63, size=(SIGNATURE, 1), dtype=np.uint64)
_MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureSketch:
    """What a picture looks like."""

    digest: int
    """Of its bytes, 64 bits."""
    coarse: int
    """Rises of brightness along 8 rows of 9 cells, 64 bits; 0 for a picture in one colour."""
    detail: bytes
    """Those along 16 rows of 18 cells, then the mean colours of 4 x 4 cells."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RowSketch:
    """What a conversation says and shows."""

    exact: tuple[int, int]
    """128 bits, equal for rows of equal normalised text and equal picture bytes."""
    signature: np.ndarray
    """MinHash of the text, uint32 [SIGNATURE]."""
    shape: int
    """Stands for the numbers of pictures, videos and frames."""
    pictures: tuple[PictureSketch, ...]
    """Pictures, then the frames of videos."""


class Sketcher:
    """Makes sketches of rows, and of a picture that came up lately none anew: many conversations are about one."""

    def __init__(self) -> None:
        self._lately: dict[int, PictureSketch] = {}

    def __call__(self, row: ChatRow) -> RowSketch:
        """The sketch of a conversation. OSError, ValueError or SyntaxError if a picture cannot be decoded."""
        pictures = tuple(self._picture(data) for data in encoded_pictures(row))
        return RowSketch(
            exact=_exact(row, [picture.digest for picture in pictures]),
            signature=minhash(" ".join(message["text"] for message in row.messages)),
            shape=zlib.crc32(_shape(row).encode()),
            pictures=pictures,
        )

    def _picture(self, data: bytes) -> PictureSketch:
        digest = digest64(data)
        if digest not in self._lately:
            if len(self._lately) >= LATELY:
                del self._lately[next(iter(self._lately))]
            self._lately[digest] = sketch_picture(data, digest)
        return self._lately[digest]


def encoded_pictures(row: ChatRow) -> list[bytes]:
    """The pictures of a row, then the frames of its videos."""
    return [*row.images, *(frame for video in row.videos for frame in video.frames)]


def exact_digest(row: ChatRow) -> tuple[int, int]:
    """128 bits, equal for rows of equal normalised text and equal picture bytes."""
    return _exact(row, [digest64(data) for data in encoded_pictures(row)])


def _exact(row: ChatRow, digests: Sequence[int]) -> tuple[int, int]:
    text = "\x1e".join(f"{message['role']}\x1f{normalise(message['text'])}" for message in row.messages)
    whole = hashlib.blake2b(f"{_shape(row)}\x1d{text}".encode(), digest_size=16)
    for digest in digests:
        whole.update(digest.to_bytes(8, "little"))
    value = whole.digest()
    return int.from_bytes(value[:8], "little"), int.from_bytes(value[8:], "little")


def _shape(row: ChatRow) -> str:
    return f"{len(row.images)}:{','.join(str(len(video.frames)) for video in row.videos)}"


# -------------------------------------------------------------------------------------------------------------- text


def normalise(text: str) -> str:
    """A text without what does not change its meaning: form of characters, case, spaces, placeholders."""
    text = text.replace(IMAGE_PLACEHOLDER, " ").replace(VIDEO_PLACEHOLDER, " ")
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def _word_hashes(text: str) -> np.ndarray:
    """A number of each word, uint64 [W]."""
    words = _WORD.findall(normalise(text))
    return np.fromiter((zlib.crc32(word.encode()) for word in words), dtype=np.uint64, count=len(words))


def _runs(words: np.ndarray, length: int) -> np.ndarray:
    """A number of each run of so many words, uint64 [W - length + 1]."""
    runs = np.zeros(max(0, len(words) - length + 1), dtype=np.uint64)
    for i in range(length):
        runs = (runs ^ words[i : i + len(runs)]) * _MIX
        runs ^= runs >> np.uint64(29)
    return runs


def minhash(text: str) -> np.ndarray:
    """The MinHash signature of a text, uint32 [SIGNATURE]. A text of fewer words than a run counts as one run."""
    words = _word_hashes(text)
    runs = np.unique(_runs(words, min(SHINGLE_WORDS, max(1, len(words)))))
    least = np.full(SIGNATURE, np.iinfo(np.uint32).max, dtype=np.uint32)
    for start in range(0, len(runs), 4096):  # a book's worth of words must not fill the memory
        hashed = (_FACTORS * runs[start : start + 4096] + _OFFSETS) >> np.uint64(32)
        least = np.minimum(least, hashed.min(axis=1).astype(np.uint32))
    return least


def grams(text: str) -> np.ndarray:
    """A number of each run of GRAM_WORDS words, uint64 [n]; none in a shorter text."""
    return np.unique(_runs(_word_hashes(text), GRAM_WORDS))


# ----------------------------------------------------------------------------------------------------------- pictures


def digest64(data: bytes) -> int:
    """64 bits that stand for the bytes."""
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "little")  # processors have instructions for it


def sketch_picture(data: bytes, digest: int | None = None) -> PictureSketch:
    """What an encoded picture looks like. OSError, ValueError or SyntaxError if it cannot be decoded.

    digest: that of its bytes, if it is known.
    """
    with Image.open(io.BytesIO(data)) as image:
        image.draft("RGB", (108, 96))  # a JPEG is decoded at about this size, which is faster
        small = image.convert("RGB").resize((36, 32), BOX)
    grey = small.convert("L")
    return PictureSketch(
        digest=digest64(data) if digest is None else digest,
        coarse=int.from_bytes(_rises(grey, (9, 8)), "little"),
        detail=_rises(grey, (18, 16)) + small.resize((4, 4), BOX).tobytes(),
    )


def _rises(grey: Image.Image, cells: tuple[int, int]) -> bytes:
    """Where brightness rises from a cell to its right neighbour, one bit each. cells: columns, rows."""
    brightness = np.frombuffer(grey.resize(cells, BOX).tobytes(), dtype=np.uint8).reshape(cells[1], cells[0])
    left, right = brightness[:, :-1], brightness[:, 1:]
    return np.packbits(right > left.clip(max=255 - STEP) + np.uint8(STEP)).tobytes()


def picture_arrays(pictures: Sequence[PictureSketch]) -> dict[str, np.ndarray]:
    """Sketches of pictures side by side: digest and coarse uint64 [N], detail uint8 [N, DETAIL]."""
    detail = np.frombuffer(b"".join(p.detail for p in pictures), dtype=np.uint8).reshape(len(pictures), DETAIL)
    return {
        "digest": np.array([p.digest for p in pictures], dtype=np.uint64),
        "coarse": np.array([p.coarse for p in pictures], dtype=np.uint64),
        "detail": detail,
    }
