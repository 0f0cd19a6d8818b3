"""Which rows stay, and in which split: one look at the notes of all rows, in the canonical order.

Rows are taken by source, piece and place; of equal rows the first stays. First go benchmark items, then exact and near
duplicates; of what is left, groups of rows about one clip or picture are held out; and rows for training that show
what a held-out row shows go last. Every decision follows from the rows and the seed.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from blm.pipelines.ingest.decontaminate import RULES
from blm.pipelines.ingest.duplicates import Sketches, exact_duplicates, near_duplicates
from blm.pipelines.ingest.likeness import PictureIndex
from blm.pipelines.ingest.options import SourceConfig
from blm.pipelines.ingest.parts import PICTURE_COLUMNS, Part, gather_notes

FATES = (
    "train",
    "test",
    "exact_duplicates",
    "near_duplicates",
    *(f"like_test_{rule}" for rule in RULES),
    "like_held_out",
)
"""What can become of a valid row; its place here is the number that stands for it."""
_FATE = {name: number for number, name in enumerate(FATES)}
EXACT_ONLY = ("lerobot",)
"""Formats whose rows come from our own question generator: alike in pictures and words by design."""


def select(
    sources: Sequence[SourceConfig],
    formats: Sequence[str],
    parts: Sequence[Sequence[Part]],
    taken: np.ndarray,
    *,
    near: bool,
    seed: int,
    folder: Path,
) -> np.ndarray:
    """The fate of every row of every source, uint8 [N], in the canonical order.

    parts: finished pieces of each source. taken: digests of rows that are in the corpus already, uint64 [M, 2].
    folder: where the notes are laid out for it.
    """
    notes = gather_notes([part for of_source in parts for part in of_source], folder)
    sizes = [sum(part.rows for part in of_source) for of_source in parts]
    sketches = Sketches(
        exact=notes["exact"],
        signature=notes["signature"],
        shape=notes["shape"],
        starts=np.concatenate([[0], np.cumsum(notes["counts"])]).astype(np.int64),
        pictures={name: notes[name] for name in PICTURE_COLUMNS},
    )
    fates = np.zeros(len(sketches), dtype=np.uint8)
    listed = notes["rule"] > 0
    fates[listed] = notes["rule"][listed] + _FATE[f"like_test_{RULES[0]}"] - 1
    free = np.flatnonzero(~listed)
    fates[free[exact_duplicates(notes["exact"][free], taken)]] = _FATE["exact_duplicates"]
    if near:
        compared = np.repeat([name not in EXACT_ONLY for name in formats], sizes)
        fates[near_duplicates(sketches, compared & (fates == 0))] = _FATE["near_duplicates"]
    shares = np.repeat([source.holdout for source in sources], sizes)
    held = (fates == 0) & (_uniform(notes["group"], seed) < shares)
    fates[held] = _FATE["test"]
    if held.any():
        fates[_like(sketches, fates == 0, held)] = _FATE["like_held_out"]
    return fates


def _uniform(groups: np.ndarray, seed: int) -> np.ndarray:
    """A number from 0 to 1 for every group, the same wherever it occurs, float64 [N]."""
    mixed = np.asarray(groups) ^ np.uint64(seed * 0x9E3779B97F4A7C15 % 2**64)
    for shift, factor in ((33, 0xFF51AFD7ED558CCD), (33, 0xC4CEB9FE1A85EC53), (33, 1)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return (mixed >> np.uint64(11)).astype(np.float64) / 2**53


def _like(sketches: Sketches, asked: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Rows among `asked` that show a picture of one of the rows `held`, bool [N]."""
    counts = np.diff(sketches.starts)
    owner = np.repeat(np.arange(len(sketches)), counts)
    of_held, of_asked = np.flatnonzero(held[owner]), np.flatnonzero(asked[owner])
    index = PictureIndex({name: values[of_held] for name, values in sketches.pictures.items()})
    like = np.zeros(len(sketches), dtype=bool)
    for start in range(0, len(of_asked), 1 << 16):  # so many pictures at a time
        some = of_asked[start : start + (1 << 16)]
        found = index.has({name: values[some] for name, values in sketches.pictures.items()})
        like[owner[some[found]]] = True
    return like


def tally(fates: np.ndarray) -> dict[str, int]:
    """How many rows have which fate."""
    counts = np.bincount(fates, minlength=len(FATES))
    return {name: int(n) for name, n in zip(FATES, counts, strict=True)}
