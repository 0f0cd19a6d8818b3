"""When a training saves: all workers together, by the first one's clock, and in haste when any one's node is to go."""

from pathlib import Path

import pytest
import torch.distributed as dist
from small_workers import on_workers

from blm.cluster import nodes
from blm.pipelines import checkpoint_times
from blm.pipelines.checkpoint_times import HURRY_S, begin, save_due


def agreeing(folder: str) -> None:
    """As a worker of two, of which only the second one's node is to go, later."""
    first = dist.get_rank() == 0
    begin(Path(folder))
    assert save_due(3.0, 2.0)
    assert not save_due(1.0, 2.0)
    assert save_due(3.0 if first else 1.0, 2.0), "the first worker's clock counts"
    assert not save_due(1.0 if first else 3.0, 2.0), "no other worker's clock does"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nodes, "leaving", lambda: not first)
        begin(Path(folder))
        assert not save_due(HURRY_S - 1, 3600.0)
        assert save_due(HURRY_S + 1, 3600.0)
        assert save_due(2.0, 1.5), "it never saves less often than it would have"


def test_workers_save_together_and_in_haste_when_one_of_their_nodes_is_to_go(tmp_path: Path) -> None:
    on_workers(agreeing, 2, str(tmp_path))


def asking_rarely(folder: str) -> None:
    """As the only worker."""
    asked = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nodes, "leaving", lambda: bool(asked.append(0)))
        begin(Path(folder))
        for _ in range(50):
            save_due(HURRY_S + 1, 3600.0)
        patch.setattr(checkpoint_times, "LOOK_EVERY_S", 0.0)
        for _ in range(3):
            save_due(HURRY_S + 1, 3600.0)
    assert len(asked) == 4


def test_the_cluster_is_asked_now_and_then_and_not_at_every_step(tmp_path: Path) -> None:
    on_workers(asking_rarely, 1, str(tmp_path))
