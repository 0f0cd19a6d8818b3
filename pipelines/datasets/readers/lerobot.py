"""LeRobotDataset v3.0, anybody's or our own: its episodes as questions and answers, pictures in Parquet or in MP4.

Nothing of a dataset has to be known but its columns; what they do not tell is not asked (`lerobot_questions`). An
episode's questions depend on the seed, the dataset's name and the episode alone. Of our own datasets the episodes that
are kept for testing (`scenes.in_split`) are passed over.
"""

import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from blm.actors.sim.tasks import TASKS
from blm.actors.sim.world import parse_cell
from blm.model.errors import UserError
from blm.model.prompts import IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER
from blm.pipelines.datasets.chat import chat_turn
from blm.pipelines.datasets.lerobot import EpisodeMeta, LeRobotDataset
from blm.pipelines.datasets.readers.json_files import Cut
from blm.pipelines.datasets.readers.lerobot_questions import (
    OPENING_WORDS,
    Asked,
    EpisodeFacts,
    episode_questions,
    scene_asks,
    unit_range,
)
from blm.pipelines.datasets.readers.record import Fault, MediaRef, Options, Record, Rejected, printable, rejected
from blm.pipelines.datasets.readers.videos import Sampling, frames_at
from blm.pipelines.datasets.scene_facts import SceneFacts
from blm.pipelines.datasets.scenes import in_split

EPISODES_PER_PIECE = 8
OTHER_TASKS = 8
"""Instructions that are drawn as possible wrong options."""
STATE = "observation.state"
POSITIONS = "privileged.object_positions"
"""Where our own datasets keep tool, object and goal."""
_FRAME = Sampling(max_pixels=4_000_000)
"""A frame of a video is brought to the stored size when the record is loaded."""


@lru_cache(maxsize=4)
def open_dataset(root: str) -> LeRobotDataset:
    """A dataset, its metadata read once a process. UserError if they cannot be understood."""
    try:
        dataset = LeRobotDataset(root)
        dataset.episodes[0]
    except UserError:
        raise
    except Exception as error:  # whatever strange values do to the reader of a format that others write
        raise UserError(f"{root} is no LeRobotDataset v3.0 ({type(error).__name__}: {error}); convert it") from error
    return dataset


def cut_episodes(root: Path) -> list[Cut]:
    """Pieces of a few episodes. UserError if the folder is no dataset."""
    n = len(open_dataset(str(root)).episodes)
    return [(i, min(i + EPISODES_PER_PIECE, n), i + 1) for i in range(0, n, EPISODES_PER_PIECE)]


def read_episodes(root: Path, cut: Cut, options: Options) -> Iterator[Record | Rejected]:
    """The conversations about a piece's episodes; one rejection for an episode that cannot be read."""
    try:
        dataset = open_dataset(str(root))
    except UserError as error:
        yield rejected(str(root), Fault("episode_unreadable", str(error)))
        return
    for episode in dataset.episodes[cut[0] : cut[1]]:
        if not in_split(_seed(episode), "train"):
            continue
        where = f"{root}: episode {episode.index}"
        try:
            _check_inside(root, episode)
            rng = np.random.default_rng([options.seed, 40, episode.index % 2**32, *root.name.encode()])
            records = [
                _record(dataset, episode, asked, number, where, rng)
                for number, asked in enumerate(_asked(dataset, episode, options.questions, rng))
            ]
        except Fault as fault:
            yield rejected(where, fault)
        except UserError as error:
            yield rejected(where, Fault("episode_unreadable", str(error)))
        except Exception as error:  # columns of strange types and lengths
            yield rejected(where, Fault("episode_unreadable", f"{type(error).__name__}: {error}"))
        else:
            yield from records


def _seed(episode: EpisodeMeta) -> int:
    """The seed of an episode of our own; 0 for anybody else's."""
    seed = episode.extra.get("seed")
    return seed if isinstance(seed, int) else 0


def _check_inside(root: Path, episode: EpisodeMeta) -> None:
    """Fault if the dataset's own path templates lead out of its folder."""
    home = os.path.realpath(root) + os.sep
    for path in (episode.path, *(path for path, _ in episode.videos.values())):
        if not os.path.realpath(path).startswith(home):
            raise Fault("media_outside_root", str(path))


def _asked(dataset: LeRobotDataset, episode: EpisodeMeta, n: int, rng: np.random.Generator) -> list[Asked]:
    """What is asked about an episode."""
    names = [name for name in (STATE, POSITIONS, "next.success") if name in dataset.features]
    table = dataset.read(episode, names) if names else None
    columns = {name: _numbers(dataset, table, name) for name in names}
    state = columns.get(STATE)
    gripper, opening = _gripper(dataset, episode, state)
    task, tasks = _tidy(episode.task), _tasks(str(dataset.root))
    drawn = [tasks[int(i)] for i in rng.permutation(len(tasks))[:OTHER_TASKS]]
    facts = EpisodeFacts(
        task=task,
        other_tasks=tuple(other for other in drawn if other != task),
        length=episode.length,
        state=state,
        gripper=gripper,
        opening=opening,
    )
    own = _scene(episode, columns, rng)
    if own is None:
        return episode_questions(facts, n, rng)
    robot, scene, moment = own
    of_scene = scene_asks(robot, scene, moment, (n + 1) // 2, rng)
    return [*of_scene, *episode_questions(facts, n - len(of_scene), rng)]


@lru_cache(maxsize=4)
def _tasks(root: str) -> tuple[str, ...]:
    """All instructions of a dataset."""
    return tuple(sorted({_tidy(episode.task) for episode in open_dataset(root).episodes}))


def _tidy(task: Any) -> str:
    return " ".join(task.split()) if isinstance(task, str) else ""


def _numbers(dataset: LeRobotDataset, table: Any, name: str) -> npt.NDArray[np.float64]:
    values = np.asarray(dataset.values(table, name), dtype=np.float64)
    return values.reshape(len(values), -1)


def _gripper(
    dataset: LeRobotDataset, episode: EpisodeMeta, state: npt.NDArray[np.float64] | None
) -> tuple[npt.NDArray[np.float64] | None, bool]:
    """The gripper's opening over an episode, if one entry of the state is called so; whether large means open."""
    names = [str(name).lower() for name in (dataset.features[STATE].names or ()) if state is not None]
    places = [i for i, name in enumerate(names) if "gripper" in name]
    if state is None or len(places) != 1 or places[0] >= state.shape[1]:
        return None, False
    (place,) = places
    own = POSITIONS in dataset.features  # openings in [0 closed, 1 open]
    opening = own or any(word in names[place] for word in OPENING_WORDS)
    return unit_range(state[:, place], (0.0, 1.0) if own else _range(str(dataset.root), place)), opening


@lru_cache(maxsize=16)
def _range(root: str, place: int) -> tuple[float, float] | None:
    """The smallest and largest value of one entry of the state in the whole dataset, if it says."""
    try:
        stats = open_dataset(root).stats()[STATE]
        return float(stats["min"][place]), float(stats["max"][place])
    except (UserError, KeyError, IndexError, TypeError, ValueError):
        return None


def _scene(
    episode: EpisodeMeta, columns: dict[str, npt.NDArray[np.float64]], rng: np.random.Generator
) -> tuple[str, SceneFacts, int] | None:
    """Robot, facts and frame of a random moment of an episode of our own; None for anybody else's."""
    if POSITIONS not in columns or STATE not in columns or columns[POSITIONS].shape[1] != 9:
        return None
    try:
        cell = parse_cell(str(episode.extra.get("cell")))
    except UserError:
        return None
    if cell.task not in TASKS:
        return None
    moment = int(rng.integers(episode.length))
    success = columns.get("next.success")
    scene = SceneFacts(
        task=cell.task,
        object_positions=tuple(float(value) for value in columns[POSITIONS][moment]),
        gripper=float(columns[STATE][moment, -1]),
        success=bool(success is not None and success[moment, 0]),
    )
    return cell.robot, scene, moment


def _record(
    dataset: LeRobotDataset, episode: EpisodeMeta, asked: Asked, number: int, where: str, rng: np.random.Generator
) -> Record:
    camera = str(rng.choice(_cameras(dataset)))
    placeholders = IMAGE_PLACEHOLDER * len(asked.moments) if asked.moments else VIDEO_PLACEHOLDER
    meta = {"robot": printable(dataset.robot_type)[:60], "episode": episode.index, "camera": camera, **asked.facts}
    meta["form"] = "choice" if asked.choice else "free"
    return Record(
        id=f"{dataset.root.name}:{episode.index}.{number}",
        where=where,
        folder=str(dataset.root),
        messages=chat_turn(f"{placeholders}\n{asked.text}", asked.answer),
        images=_pictures(dataset, episode, camera, asked.moments) if asked.moments else (),
        videos=() if asked.moments else (_video(dataset, episode, camera),),
        category=asked.category,
        meta=meta | ({"steps": list(asked.moments)} if asked.moments else {}),
    )


def _cameras(dataset: LeRobotDataset) -> list[str]:
    """Features that are colour pictures. Fault if there is none."""
    specs = dataset.info["features"]
    found = [
        name
        for name, feature in dataset.features.items()
        if feature.is_picture and "depth" not in name and not (specs[name].get("info") or {}).get("video.is_depth_map")
    ]
    if not found:
        raise Fault("media_missing", "the dataset has no pictures")
    return found


def _pictures(
    dataset: LeRobotDataset, episode: EpisodeMeta, camera: str, moments: tuple[int, ...]
) -> tuple[MediaRef, ...]:
    if camera in episode.videos:
        path, from_s = episode.videos[camera]
        times_s = [from_s + moment / dataset.fps for moment in moments]
        return tuple(MediaRef(data=picture) for picture in frames_at(path, times_s, _FRAME))
    stored = dataset.read(episode, [camera])[camera].combine_chunks()
    return tuple(MediaRef(data=stored[moment]["bytes"].as_py()) for moment in moments)


def _video(dataset: LeRobotDataset, episode: EpisodeMeta, camera: str) -> MediaRef:
    """The whole episode: part of an MP4, or all its pictures."""
    if camera in episode.videos:
        path, from_s = episode.videos[camera]
        return MediaRef(paths=(str(path),), start_s=from_s, stop_s=from_s + episode.length / dataset.fps)
    stored = dataset.read(episode, [camera])[camera].combine_chunks()
    pictures = tuple(MediaRef(data=picture["bytes"].as_py()) for picture in stored)
    return MediaRef(frames=pictures, fps=float(dataset.fps))
