"""Training windows of one robot: for every frame its state, the chunk of actions that follows, and the frame one chunk
later.

Row i of everything here is frame i of the dataset, and so row i of its intent cache. Frames that are no window, as
those at an episode's end with too few actions left, keep their row and are not `usable`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from blm.model.layout import Layout
from blm.model.transforms import relative_chunk
from blm.pipelines.windows.dataset import RobotDataset, RobotEpisode

if TYPE_CHECKING:
    from blm.pipelines.windows.statistics import Sketch

HELD_OUT_EVERY = 20  # every 20th demonstration is kept for validation; of fewer than 20, the last


@dataclass(frozen=True, kw_only=True, slots=True)
class RobotWindows:
    """All windows of one robot's dataset, n of them; arrays may be mapped from files."""

    layout: Layout
    """The robot."""
    state: np.ndarray
    """float32 [n, S], in robot units."""
    chunk: np.ndarray
    """float32 [n, H, A], relative to `state` as the layout says."""
    is_pad: np.ndarray
    """bool [n, H]: past the episode's end."""
    future: np.ndarray
    """int64 [n]: the frame one chunk later, the episode's last where it ends before."""
    held_out: np.ndarray
    """bool [n]: of a validation episode."""
    usable: np.ndarray
    """bool [n]: has enough actions before its episode ends."""
    group: np.ndarray
    """int32 [n]: place in `group_names`."""
    group_names: tuple[str, ...]
    """Cells, or `<robot>/<instruction>` of a foreign dataset."""
    sketches: "Mapping[tuple[str, str], Sketch]"
    """How (group, `state` or `action`) of the training windows are spread."""

    @property
    def name(self) -> str:
        """The robot's name."""
        return self.layout.name

    def __len__(self) -> int:
        return len(self.state)


@dataclass(frozen=True, kw_only=True, slots=True)
class EpisodeWindows:
    """The windows of one episode, as in `RobotWindows`."""

    state: np.ndarray
    chunk: np.ndarray
    is_pad: np.ndarray
    future: np.ndarray
    usable: np.ndarray


def windows_of(dataset: RobotDataset, episode: RobotEpisode, chunk: int, min_actions: int) -> EpisodeWindows:
    """Windows of `chunk` actions, usable with at least `min_actions` of them before the episode's end.

    UserError for NaN, another number of dimensions than the robot has, and stored chunks that are too short.
    """
    state = dataset.states(episode)
    absolute, is_pad = dataset.chunks(episode, chunk)
    frames = episode.first_frame + np.arange(episode.length)
    return EpisodeWindows(
        state=state,
        chunk=relative_chunk(absolute, state, dataset.layout),
        is_pad=is_pad,
        future=dataset.futures(frames, chunk),
        usable=(~is_pad).sum(axis=1) >= min_actions,
    )


def held_out(dataset: RobotDataset) -> np.ndarray:
    """bool [episodes]: kept for validation. Looks of one demonstration are kept or trained on together."""
    shown = np.array([episode.demonstration for episode in dataset.episodes])
    every = min(HELD_OUT_EVERY, max(len(set(shown.tolist())), 2))
    return shown % every == every - 1
