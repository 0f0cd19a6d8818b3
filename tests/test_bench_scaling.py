"""`blm bench scaling`: its arithmetic, and the policy that answers in a process. How fast anything is, no test asks."""

from pathlib import Path
from typing import Any, cast

import pytest
from small_policy import write_small_policy

from blm.model.errors import UserError
from blm.pipelines.benchmarks import scaling
from blm.pipelines.benchmarks.control_worker import ROWS, answer, loaded
from blm.pipelines.benchmarks.workers import Worker


class Slowed:
    """A process that does six pieces a second, and four while another one works."""

    def __init__(self, working: list[str]) -> None:
        self._working = working
        self.requests: list[dict[str, Any]] = []

    def send(self, request: dict[str, Any]) -> None:
        self._working.append("")
        self.requests.append(request)

    def receive(self) -> dict[str, Any]:
        rate = 6 if len(self._working) == 1 else 4
        self._working[:] = self._working if len(self._working) > 1 else []
        return {"steps": 2 * rate, "wall_s": 2.0}


def test_efficiency_is_the_rate_of_two_over_twice_that_of_one() -> None:
    working: list[str] = []
    workers = [Slowed(working), Slowed(working)]
    alone, together = scaling._round(cast("list[Worker]", workers), scaling._rollouts, "steps", 0, 1.5)
    assert (alone, together) == (6, 8)
    assert together / (2 * alone) == pytest.approx(2 / 3)
    assert workers[0].requests == workers[1].requests == [{"case": "ours", "seconds": 1.5}] * 2


def test_every_turn_has_seeds_of_its_own_and_the_warm_up_too() -> None:
    turns = [scaling._data(turn, 2.0) for turn in range(-2, 4)]
    seeds = [seed for turn in turns[1:] for seed in turn["seeds"]]
    assert len(seeds) == len(set(seeds)) == 1 + 4 * round(2 * scaling.SEEDS_A_SECOND)
    assert {turn["task"] for turn in turns[:2]} == set(scaling.TASKS)


def test_one_core_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling.os, "sched_getaffinity", lambda _: {0})
    with pytest.raises(UserError, match="gives it one core"):
        scaling.bench_scaling(1.0, 1, "tiny")


def test_a_policy_answers_observations_for_as_long_as_it_is_told(tiny_mllm: Path, tmp_path: Path) -> None:
    folder = write_small_policy(tmp_path / "model", tiny_mllm)
    assert answer(str(folder), 0.0)["rows"] == 0
    found = answer(str(folder), 0.01)
    assert found["rows"] % ROWS == 0
    assert found["rows"] >= ROWS
    assert found["wall_s"] >= 0.01
    assert loaded(str(folder)) is loaded(str(folder))
