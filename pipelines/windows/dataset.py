"""A robot dataset as a policy sees it: states, chunks of actions, instructions and single pictures.

Our own rendered datasets and those of other people (`datasets.foreign`) look the same from here. Frames are numbered
through the whole dataset, in its order of episodes: the same number is a row of the intent cache and of the windows.

    dataset = RobotDataset.open("runs/tiny/render-1a2b3c4d/lerobot/panda")
    for episode in dataset.episodes:
        actions, is_pad = dataset.chunks(episode, 16)           # [n, 16, A] in robot units, bool [n, 16]
    pictures = dataset.pictures(np.array([5, 900]), ["front"])  # uint8 [2, 1, px, px, 3]
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from blm.model.errors import UserError
from blm.model.layout import Layout, layout_of
from blm.pipelines.datasets.foreign import SOURCE, ForeignSource, column_part, joined_values, read_source
from blm.pipelines.datasets.lerobot import EpisodeMeta, LeRobotDataset
from blm.pipelines.datasets.lerobot_schema import INFO_PATH
from blm.pipelines.windows.pictures import PictureReader

PICTURE_PREFIX = "observation.images."


def datasets_of(render: Path) -> dict[str, Path]:
    """Robot -> dataset folder of a finished render stage, sorted. UserError if there is none."""
    folders = {
        path.name: path
        for path in sorted((render / "lerobot").glob("*"))
        if (path / INFO_PATH).is_file() or (path / SOURCE).is_file()
    }
    if not folders:
        raise UserError(f"{render} holds no dataset; run the render stage")
    return folders


def data_hash(folder: Path) -> str:
    """Hash of everything a dataset's frames follow from: its files and, of a foreign one, how it is read."""
    digest = hashlib.sha256()
    roots = [folder]
    if (folder / SOURCE).is_file():
        roots.append(read_source(folder).config.root)
    for root in roots:
        for path in sorted(p for p in root.rglob("*") if p.is_file()):
            digest.update(path.relative_to(root).as_posix().encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


@dataclass(frozen=True, kw_only=True, slots=True)
class RobotEpisode:
    """One demonstration, or one look of one."""

    index: int
    """Its number in the dataset."""
    length: int
    """Frames."""
    first_frame: int
    """Number of its first frame in the dataset."""
    instruction: str
    """What the robot was told."""
    group: str
    """What it counts as in a mixture: its cell, or `<robot>/<instruction>` of a foreign dataset."""
    demonstration: int
    """Which demonstration it shows; episodes that are the same one in another look share the number."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Columns of metadata beyond the format's own."""


class RobotDataset:
    """A dataset folder of the render stage, opened for reading. Picklable; `pictures` may be called by threads."""

    def __init__(self, dataset: LeRobotDataset, layout: Layout, source: ForeignSource | None) -> None:
        """Use `RobotDataset.open`."""
        self._dataset, self._source = dataset, source
        self._state_parts = source.config.state if source else ("observation.state",)
        self._action_parts = source.config.action if source else ("action",)
        self.layout = layout
        """What the policy knows of the robot."""
        self.fps = dataset.fps
        """Frames a second."""
        self.n_frames = dataset.n_frames
        """Frames of all episodes."""
        self.cameras: tuple[str, ...] = tuple(source.config.cameras) if source else dataset.cameras
        """Cameras, by our names."""
        self.episodes: tuple[RobotEpisode, ...] = self._describe()
        """All of them, in order."""
        self._starts = np.array([episode.first_frame for episode in self.episodes])
        self._lasts = self._starts + [episode.length - 1 for episode in self.episodes]
        self._reader = PictureReader(dataset, source.image_px if source else None)

    @classmethod
    def open(cls, folder: str | Path) -> "RobotDataset":
        """A folder that `datasets_of` names. UserError if it is damaged or holds no episode."""
        folder = Path(folder)
        source = read_source(folder) if (folder / SOURCE).is_file() else None
        dataset = LeRobotDataset(source.config.root if source else folder)
        layout = source.layout if source else layout_of(dataset.robot_type or folder.name)
        if not dataset.episodes:
            raise UserError(f"{folder} holds no demonstrations of {layout.name}; collect some, or leave the robot out")
        return cls(dataset, layout, source)

    def __reduce__(self) -> Any:
        return RobotDataset, (self._dataset, self.layout, self._source)

    @property
    def name(self) -> str:
        """The robot's name."""
        return self.layout.name

    @property
    def groups(self) -> tuple[str, ...]:
        """What its windows belong to in a mixture, each once, sorted."""
        return tuple(sorted({episode.group for episode in self.episodes}))

    def has(self, column: str) -> bool:
        """Whether the dataset has this column."""
        return column in self._dataset.features

    def values(self, episode: RobotEpisode, column: str) -> np.ndarray:
        """A numeric column of an episode as it is stored, [n, *shape]. UserError if there is none."""
        frames = self._dataset.read_columns(self._meta(episode), [column])
        return self._dataset.values(frames, column)

    def states(self, episode: RobotEpisode) -> np.ndarray:
        """float32 [n, S], in robot units. UserError for NaN, infinite values and a wrong number of them."""
        return self._checked(episode, self._joined(episode, self._state_parts), self.layout.state_dim, "state")

    def chunks(self, episode: RobotEpisode, horizon: int) -> tuple[np.ndarray, np.ndarray]:
        """Of each frame the `horizon` actions from it on, float32 [n, H, A] in robot units, the last one repeated past
        the episode's end; and where that is, bool [n, H]. UserError as `states`, and if shorter chunks are stored.
        """
        if self.has("action_chunk") and self._source is None:
            chunks = self.values(episode, "action_chunk").astype(np.float32)
            is_pad = self.values(episode, "action_chunk_is_pad").astype(bool).reshape(len(chunks), -1)
            if chunks.shape[1] < horizon:
                raise UserError(
                    f"{self._dataset.root} stores chunks of {chunks.shape[1]} actions, the policy wants {horizon};"
                    " set render.chunk to it and render again, or lower stage2.policy.chunk"
                )
            chunks, is_pad = chunks[:, :horizon], is_pad[:, :horizon]
        else:
            actions = self._joined(episode, self._action_parts)
            ahead = np.arange(len(actions))[:, None] + np.arange(horizon) * (self.fps // self.layout.control_hz)
            chunks, is_pad = actions[np.minimum(ahead, len(actions) - 1)], ahead >= len(actions)
        return self._checked(episode, chunks, self.layout.action_dim, "action"), is_pad

    def futures(self, frames: np.ndarray, horizon: int) -> np.ndarray:
        """The frame a chunk of `horizon` actions after each, the episode's last where it ends before; int64 [n]."""
        later = frames + horizon * self.fps // self.layout.control_hz
        return np.minimum(later, self._lasts[self.episode_of(frames)])

    def episode_of(self, frames: np.ndarray) -> np.ndarray:
        """Place in `episodes` of each frame of the dataset, int64."""
        return np.searchsorted(self._starts, frames, side="right") - 1

    def instruction_of(self, frames: np.ndarray) -> list[str]:
        """What the robot was told, frame by frame."""
        return [self.episodes[i].instruction for i in self.episode_of(frames)]

    def pictures(self, frames: np.ndarray, cameras: Sequence[str]) -> np.ndarray:
        """uint8 [n, C, px, px, 3] of frames int64 [n] of the dataset, in any order; no other picture is decoded.

        UserError for a camera that the dataset does not have, and naming the file if a picture cannot be read.
        """
        features = [self._picture_column(camera) for camera in cameras]
        owners = self.episode_of(frames)
        pictures: np.ndarray | None = None
        for owner in np.unique(owners):
            here = np.flatnonzero(owners == owner)
            episode = self.episodes[owner]
            found = self._reader.read(self._meta(episode), features, frames[here] - episode.first_frame)
            if pictures is None:
                pictures = np.empty((len(frames), *found.shape[1:]), dtype=np.uint8)
            pictures[here] = found
        return pictures if pictures is not None else np.zeros((0, len(cameras), 1, 1, 3), dtype=np.uint8)

    def picture_sizes_px(self, cameras: Sequence[str]) -> list[tuple[int, int]]:
        """(height, width) of the pictures of these cameras, as `pictures` gives them."""
        if self._source:
            return [(self._source.image_px, self._source.image_px)] * len(cameras)
        shapes = [self._dataset.features[self._picture_column(camera)].shape for camera in cameras]
        return [(shape[0], shape[1]) for shape in shapes]

    # ------------------------------------------------------------------------------------------------------- private

    def _meta(self, episode: RobotEpisode) -> EpisodeMeta:
        return self._dataset.episodes[episode.index]

    def _joined(self, episode: RobotEpisode, parts: Sequence[str]) -> np.ndarray:
        frames = self._dataset.read_columns(self._meta(episode), sorted({column_part(text).column for text in parts}))
        return joined_values(self._dataset.features, frames, parts)

    def _checked(self, episode: RobotEpisode, values: np.ndarray, width: int, what: str) -> np.ndarray:
        if values.shape[-1] != width:
            raise UserError(
                f"{self._dataset.root}: episode {episode.index} has {what}s of {values.shape[-1]} numbers, {self.name}"
                f" has {width}; is it a dataset of another robot?"
            )
        if not np.isfinite(values).all():
            bad = int(np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))[0])
            raise UserError(
                f"{self._dataset.root}: the {what} of episode {episode.index}, frame {bad} holds NaN or infinite"
                " values; mend it, or leave the episode out"
            )
        return values

    def _picture_column(self, camera: str) -> str:
        if camera not in self.cameras:
            raise UserError(
                f"{self._dataset.root} has no camera {camera!r}; it has {', '.join(self.cameras) or 'none'}"
            )
        return self._source.config.cameras[camera] if self._source else f"{PICTURE_PREFIX}{camera}"

    def _describe(self) -> tuple[RobotEpisode, ...]:
        config = self._source.config if self._source else None
        numbers: dict[tuple[object, object], int] = {}
        described, first = [], 0
        for place, meta in enumerate(self._dataset.episodes):
            told = meta.task
            if config and config.instruction_column:
                told = self._dataset.read_columns(meta, [config.instruction_column])[config.instruction_column][
                    0
                ].as_py()
            elif config and config.instruction:
                told = config.instruction
            group = str(meta.extra.get("cell", f"{self.layout.name}/{told}"))
            shown = (meta.extra.get("cell"), meta.extra.get("seed", meta.index))
            described.append(
                RobotEpisode(
                    index=place,
                    length=meta.length,
                    first_frame=first,
                    instruction=told,
                    group=group,
                    demonstration=numbers.setdefault(shown, len(numbers)),
                    extra=meta.extra,
                )
            )
            first += meta.length
        return tuple(described)
