"""Rows that the corpus holds already: what of them a source must not repeat, and what is kept for testing."""

from pathlib import Path
from typing import Any

import numpy as np

from blm.pipelines.datasets.chat import read_chat
from blm.pipelines.datasets.items import map_items
from blm.pipelines.ingest.arrays import write_arrays
from blm.pipelines.ingest.decontaminate import Protected, joined, protect
from blm.pipelines.ingest.sketches import PictureSketch, encoded_pictures, exact_digest, sketch_picture


def own_rows(folder: Path, notes: Path, workers: int) -> tuple[np.ndarray, Protected]:
    """Digests of all rows below `folder`'s `train` and `test`, uint64 [N, 2], and what its test split shows and asks.

    notes: a folder for what workers find out; what is there is used again.
    """
    files = [(split, path) for split in ("test", "train") for path in sorted((folder / split).glob("*.parquet"))]
    items = [
        {
            "split": split,
            "file": str(path),
            "notes": str(notes / f"{split}-{path.stem}.npz"),
            "digests": str(notes / f"{split}-{path.stem}.exact.npz"),
        }
        for split, path in files
    ]
    waiting = [item for item in items if not Path(item["notes"]).exists()]
    noting = map_items(
        waiting, OwnRowsWorker, arguments={}, workers=workers, light=True, reads=("file",), writes=("digests", "notes")
    )
    list(noting)
    digests = [np.zeros((0, 2), dtype=np.uint64)]
    for item in items:
        with np.load(item["digests"]) as kept:
            digests.append(kept["exact"])
    of_test = [Protected.load(Path(item["notes"])) for item in items if item["split"] == "test"]
    return np.concatenate(digests), joined(of_test)


class OwnRowsWorker:
    """Takes notes on one chat file."""

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        exact: list[tuple[int, int]] = []
        pictures: list[PictureSketch] = []
        questions: list[str] = []
        rows = read_chat(item["file"])
        for row in rows:
            exact.append(exact_digest(row))
            if item["split"] == "test":
                pictures += [sketch_picture(data) for data in encoded_pictures(row)]
                questions += [message["text"] for message in row.messages if message["role"] == "user"]
        write_arrays(Path(item["digests"]), {"exact": np.array(exact, dtype=np.uint64).reshape(-1, 2)})
        protect(pictures, (), questions).save(Path(item["notes"]))
        return {"file": item["file"], "rows": len(rows)}
