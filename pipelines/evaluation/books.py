"""The results of an evaluation on disk: what became of each episode, and apart from it what each took.

    episodes.jsonl    outcomes: the same bytes however they were come by, once all are there (`complete`)
    timings.jsonl     seconds of physics, drawing and waiting, which no two runs agree on

A line is written as an episode ends, its timing first: whoever finds the outcome finds the timing too.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from blm.actors.sim.outcome import EpisodeResult, EpisodeTiming
from blm.pipelines.ledger import Ledger, Record

KEY = ("cell", "seed", "policy")
EPISODES = "episodes.jsonl"
TIMINGS = "timings.jsonl"


class Books:
    """Both files of a folder. A context manager."""

    def __init__(self, folder: Path) -> None:
        """Open them, made if absent. Episodes that ended in an error are forgotten, so that they are tried again."""
        self.folder = folder
        self.episodes = episodes = Ledger(folder / EPISODES, KEY, keep=lambda record: not record["error"])
        self.timings = Ledger(folder / TIMINGS, KEY, keep=lambda record: episodes.key_of(record) in episodes)

    def add(self, ended: Iterable[tuple[EpisodeResult, EpisodeTiming]]) -> None:
        """Write episodes that are over. They are on disk when this returns. Each may be written once."""
        new = list(ended)
        for result, _ in new:
            key = (result.cell, result.seed, result.policy)
            assert key not in self.episodes, f"{key} is there already"
        if new:
            self.timings.add(asdict(timing) for _, timing in new)
            self.episodes.add(asdict(result) for result, _ in new)

    def complete(self, place: Callable[[Record], Any]) -> None:
        """Put the lines of both files in the order of `place`, which tells two episodes apart."""
        self.timings.sort(place)
        self.episodes.sort(place)

    def close(self) -> None:
        """Close both files."""
        self.episodes.close()
        self.timings.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_episodes_of(folder: Path) -> list[Record]:
    """All outcomes in a folder, errors among them, in the order of the file. Writes nothing but what a kill tore."""
    with Ledger(folder / EPISODES, KEY) as ledger:
        return ledger.records
