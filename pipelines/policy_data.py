"""Training windows of Stage II: everything small in memory, intents memory-mapped.

One window is one dataset frame: its proprioception, the action chunk that follows, its intents, and those of the
frame one chunk later (the episode's last frame where it ends before). No picture is decoded and no MLLM runs here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from blm.model.embodiments import CONTROL_HZ
from blm.model.errors import UserError
from blm.model.normalize import EmbodimentStatistics, Quantiles
from blm.model.policy import PolicyBatch, PolicyGroup
from blm.model.transforms import relative_chunk
from blm.pipelines.datasets.lerobot import LeRobotDataset
from blm.pipelines.intent_cache import IntentCache

HELD_OUT_EVERY = 20  # every 20th demonstration is kept for validation; of fewer than 20, the last


@dataclass(frozen=True, kw_only=True, slots=True)
class RobotWindows:
    """All windows of one robot's dataset."""

    embodiment: str
    state: np.ndarray
    """float32 [n, S], in robot units."""
    chunk: np.ndarray
    """float32 [n, H, A], relative to `state` (transforms.relative_chunk)."""
    is_pad: np.ndarray
    """bool [n, H]."""
    frame: np.ndarray
    """int64 [n]: row of the present in the intent cache."""
    future: np.ndarray
    """int64 [n]: row of the picture one chunk later."""
    held_out: np.ndarray
    """bool [n]: window of a validation episode."""
    cache: IntentCache


def load_windows(
    embodiment: str, dataset_dir: Path, cache: IntentCache, chunk: int, *, min_actions: int = 1
) -> RobotWindows:
    """Windows with at least `min_actions` (1 or more) actions before the episode's end.

    UserError for damaged data, NaN, or another chunk length.
    """
    dataset = LeRobotDataset(dataset_dir)
    if "action_chunk" not in dataset.features:
        raise UserError(f"{dataset_dir} has no column action_chunk; make it with the render stage")
    stored = dataset.features["action_chunk"].shape[0]
    if stored != chunk:
        raise UserError(
            f"{dataset_dir} stores chunks of {stored} actions, the policy wants {chunk}; render again or change it"
        )
    if len(cache) != dataset.n_frames:
        raise UserError(
            f"intent cache has {len(cache)} frames for {dataset.n_frames} of {dataset_dir}; run intents again"
        )
    ahead = chunk * dataset.fps // CONTROL_HZ
    parts: dict[str, list[np.ndarray]] = {
        name: [] for name in ("state", "chunk", "is_pad", "frame", "future", "held_out")
    }
    demonstrations = _demonstration_numbers(dataset)
    every = min(HELD_OUT_EVERY, max(len(set(demonstrations)), 2))
    for episode, demonstration in zip(dataset.episodes, demonstrations, strict=True):
        table = dataset.read(episode, ["observation.state", "action_chunk", "action_chunk_is_pad"])
        state = dataset.values(table, "observation.state").astype(np.float32)
        absolute = dataset.values(table, "action_chunk").astype(np.float32)
        if not (np.isfinite(state).all() and np.isfinite(absolute).all()):
            raise UserError(f"{dataset_dir}: episode {episode.index} holds NaN or infinite values; remove it")
        is_pad = dataset.values(table, "action_chunk_is_pad").astype(bool).reshape(len(state), -1)
        row = np.arange(episode.length)
        keep = (~is_pad).sum(axis=1) >= min_actions
        parts["state"].append(state[keep])
        parts["chunk"].append(relative_chunk(absolute, state)[keep])
        parts["is_pad"].append(is_pad[keep])
        parts["frame"].append((episode.first_frame + row)[keep])
        parts["future"].append((episode.first_frame + np.minimum(row + ahead, episode.length - 1))[keep])
        parts["held_out"].append(np.full(int(keep.sum()), demonstration % every == every - 1))
    arrays = {name: np.concatenate(values) for name, values in parts.items()}
    if len(arrays["state"]) == 0:
        raise UserError(
            f"{dataset_dir} has no window with {min_actions} actions; collect demonstrations for {embodiment}, or lower"
            " stage2.min_actions"
        )
    return RobotWindows(embodiment=embodiment, cache=cache, **arrays)


def _demonstration_numbers(dataset: LeRobotDataset) -> list[int]:
    """Which demonstration every episode shows. Episodes that are the same one in another look share a number."""
    numbers: dict[tuple[object, object], int] = {}
    keys = [(one.extra.get("cell"), one.extra.get("seed", one.index)) for one in dataset.episodes]
    return [numbers.setdefault(key, len(numbers)) for key in keys]


def statistics_of(windows: Sequence[RobotWindows]) -> dict[str, EmbodimentStatistics]:
    """Quantiles of each robot's training windows; padding does not count."""
    statistics = {}
    for robot in windows:
        train = ~robot.held_out
        actions = robot.chunk[train][~robot.is_pad[train]]
        statistics[robot.embodiment] = EmbodimentStatistics(
            state=Quantiles.of(robot.state[train]), action=Quantiles.of(actions)
        )
    return statistics


class BatchMaker:
    """Batches of normalised windows. Rows are numbered over all robots; a batch groups its rows by robot."""

    def __init__(self, windows: Sequence[RobotWindows], statistics: Mapping[str, EmbodimentStatistics]) -> None:
        self._windows = list(windows)
        self._state = [torch.from_numpy(statistics[w.embodiment].state.normalize(w.state)) for w in windows]
        self._chunk = [torch.from_numpy(statistics[w.embodiment].action.normalize(w.chunk)) for w in windows]
        self._pad = [torch.from_numpy(w.is_pad) for w in windows]
        self._starts = np.cumsum([0, *(len(w.state) for w in windows)])
        held_out = np.concatenate([w.held_out for w in windows])
        self.train_rows = np.flatnonzero(~held_out)
        self.validation_rows = np.flatnonzero(held_out)

    def batch(self, rows: np.ndarray, device: torch.device) -> PolicyBatch:
        """The windows numbered `rows`, stably ordered by robot."""
        robot_of = np.searchsorted(self._starts, rows, side="right") - 1
        groups, present, future = [], [], []
        for robot in np.unique(robot_of):
            windows = self._windows[robot]
            local = rows[robot_of == robot] - self._starts[robot]
            index = torch.from_numpy(local)
            groups.append(
                PolicyGroup(
                    embodiment=windows.embodiment,
                    state=self._state[robot][index].to(device),
                    actions=self._chunk[robot][index].to(device),
                    is_pad=self._pad[robot][index].to(device),
                )
            )
            present.append(windows.cache.rows(windows.frame[local]))
            future.append(windows.cache.rows(windows.future[local]))
        return PolicyBatch(
            groups=groups,
            intents=torch.cat([states for states, _ in present]).to(device).float(),
            mask=torch.cat([mask for _, mask in present]).to(device),
            future_intents=torch.cat([states for states, _ in future]).to(device).float(),
            future_mask=torch.cat([mask for _, mask in future]).to(device),
        )
