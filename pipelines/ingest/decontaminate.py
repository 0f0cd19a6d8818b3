"""What must not be trained on: the items of benchmarks, and our own test split.

A row is left out if one of its pictures or frames is that of a test item or nearly so, if it is about a clip of the
same name, or if it is text alone and shares a run of thirteen words with a test question. Questions about pictures
are not compared as texts: benchmarks and training sets ask with the same few templates.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from blm.pipelines.datasets.chat import ChatRow
from blm.pipelines.datasets.readers.record import MediaRef, Record
from blm.pipelines.ingest.arrays import write_arrays
from blm.pipelines.ingest.likeness import PictureIndex, Pictures
from blm.pipelines.ingest.sketches import PictureSketch, grams, picture_arrays

RULES = ("clip_name", "picture", "frame", "question")
"""Why a row is left out: the first that holds."""
SHORTEST_NAME = 6
"""Characters of a clip's name; shorter ones, and mere numbers, are shared by unrelated clips."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Protected:
    """What is known of test items."""

    pictures: Pictures = field(default_factory=lambda: picture_arrays(()))
    """Their pictures and frames."""
    clips: frozenset[str] = frozenset()
    """Names of their clips."""
    grams: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.uint64))
    """Numbers of the runs of words in their questions, ascending."""

    def save(self, path: Path) -> None:
        """Write it, whole or not at all."""
        clips = np.array(sorted(self.clips), dtype=np.str_)
        write_arrays(path, {"clips": clips, "grams": self.grams, **self.pictures})

    @classmethod
    def load(cls, path: Path) -> "Protected":
        """Read what `save` wrote."""
        with np.load(path) as kept:
            pictures = {name: kept[name] for name in ("digest", "coarse", "detail")}
            return cls(pictures=pictures, clips=frozenset(kept["clips"].tolist()), grams=kept["grams"])


def joined(parts: Iterable[Protected]) -> Protected:
    """All items of several parts, in an order that depends on what they are alone."""
    parts = list(parts)
    pictures = {
        name: np.concatenate([part.pictures[name] for part in parts] or [Protected().pictures[name]])
        for name in ("digest", "coarse", "detail")
    }
    _, first = np.unique(pictures["digest"], return_index=True)
    return Protected(
        pictures={name: values[first] for name, values in pictures.items()},
        clips=frozenset().union(*(part.clips for part in parts)),
        grams=np.unique(np.concatenate([np.zeros(0, np.uint64), *(part.grams for part in parts)])),
    )


def protect(pictures: Sequence[PictureSketch], clips: Iterable[str], questions: Iterable[str]) -> Protected:
    """Test items from their parts."""
    words = [grams(question) for question in questions]
    return Protected(
        pictures=picture_arrays(pictures),
        clips=frozenset(clips),
        grams=np.unique(np.concatenate([np.zeros(0, np.uint64), *words])),
    )


class Decontaminator:
    """Looks rows up among test items."""

    def __init__(self, items: Protected) -> None:
        self._items = items
        self._pictures = PictureIndex(items.pictures)

    def rule(self, row: ChatRow, pictures: Sequence[PictureSketch], clips: Iterable[str]) -> int:
        """0 for a row that may be trained on, otherwise 1 + the place of the rule in RULES.

        pictures: sketches of its pictures, then of its videos' frames. clips: names of its clips.
        """
        if not self._items.clips.isdisjoint(clips):
            return 1 + RULES.index("clip_name")
        if pictures:
            found = np.flatnonzero(self._pictures.has(picture_arrays(pictures)))
            if len(found):
                return 1 + RULES.index("picture" if found[0] < len(row.images) else "frame")
        elif len(self._items.grams):
            for message in row.messages:
                if np.isin(grams(message["text"]), self._items.grams).any():
                    return 1 + RULES.index("question")
        return 0


def clip_names(record: Record) -> list[str]:
    """Names by which a record's videos are known: a file's own name, or that of the folder which holds its frames."""
    names = []
    for video in record.videos:
        if video.frames:
            names.append(_folder_name(video.frames))
        elif video.paths:
            names.append(PurePosixPath(video.paths[0].replace("\\", "/")).stem)
    if len(record.images) > 1:
        names.append(_folder_name(record.images))
    return sorted({name for name in names if len(name) >= SHORTEST_NAME and not name.isdigit() and _has_digit(name)})


def _folder_name(frames: Sequence[MediaRef]) -> str:
    """The folder that holds all of the pictures, or nothing."""
    folders = {PurePosixPath(frame.paths[0].replace("\\", "/")).parent.name if frame.paths else "" for frame in frames}
    return folders.pop() if len(folders) == 1 else ""


def _has_digit(name: str) -> bool:
    return any(character.isdigit() for character in name)
