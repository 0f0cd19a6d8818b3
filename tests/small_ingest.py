"""A small corpus in LLaVA's layout, good rows and bad, for tests of ingestion."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def picture(seed: int, size: tuple[int, int] = (96, 72)) -> Image.Image:
    """A picture with structure, another one for every seed."""
    rng = np.random.default_rng(seed)
    cells = Image.fromarray(rng.integers(0, 255, (5, 7, 3)).astype(np.uint8))
    return cells.resize(size, Image.Resampling.BICUBIC)


def jpeg(seed: int, quality: int = 90, size: tuple[int, int] = (96, 72)) -> bytes:
    """The same, encoded."""
    buffer = io.BytesIO()
    picture(seed, size).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def looking(number: int, *, image: str | None = None, answer: str | None = None) -> dict[str, Any]:
    """A record about one picture."""
    return {
        "id": number,
        "image": image or f"images/{number:04d}.jpg",
        "conversations": [
            {"from": "human", "value": f"<image>\nWhat lies in field {number} of the board?"},
            {"from": "gpt", "value": answer or f"Thing number {number} lies there."},
        ],
    }


def talking(number: int) -> dict[str, Any]:
    """A record without a picture."""
    return {
        "id": f"t{number}",
        "conversations": [
            {"from": "human", "value": f"How much is {number} and one?"},
            {"from": "gpt", "value": f"It is {number + 1}."},
        ],
    }


def write_llava(folder: Path, records: list[Any], pictures: range = range(0)) -> Path:
    """`folder/llava.json` and its pictures; returns the file."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for number in pictures:
        (folder / f"images/{number:04d}.jpg").write_bytes(jpeg(number))
    path = folder / "llava.json"
    path.write_text(json.dumps(records))
    return path


def bad_corpus(folder: Path) -> Path:
    """60 good rows, five of them twice, some near duplicates, and eight records of each kind of badness."""
    records: list[Any] = [looking(i) for i in range(40)] + [talking(i) for i in range(20)]
    records += [looking(i) for i in range(5)]  # equal
    records += [looking(900 + i) | {"image": "images/gone.jpg"} for i in range(4)]
    records += [looking(910) | {"image": "../secret.jpg"}, looking(911) | {"image": "https://example.org/a.jpg"}]
    records += [looking(912) | {"conversations": 7}, [], "text"]
    path = write_llava(folder, records, range(40))
    (folder.parent / "secret.jpg").write_bytes(jpeg(1))
    long = " ".join(f"word{i}" for i in range(120))
    for number, quality in ((100, 95), (101, 60)):  # one picture in two encodings, one long answer but for its end
        (folder / f"images/{number:04d}.jpg").write_bytes(jpeg(100, quality))
        near = looking(100, image=f"images/{number:04d}.jpg", answer=f"{long} {number}")
        records.append(near)
    (folder / "images/broken.jpg").write_bytes(jpeg(3)[:600])
    records.append(looking(920, image="images/broken.jpg"))
    path.write_text(json.dumps(records))
    return path
