"""How many simulators keep a policy busy."""

from typing import Any

import pytest

from blm.pipelines.evaluation.capacity import MEMORY_BYTES, Watch, choose_actors

MUCH: dict[str, Any] = {"work_s": 0.03, "answer_s": 0.01, "servers": 1, "cpus": 64, "memory_bytes": 1e12}


@pytest.mark.parametrize(
    ("given", "actors", "why"),
    [
        ({}, 5, "wait for the policy"),
        ({"servers": 4}, 17, "wait for the policy"),
        ({"answer_s": 0.3}, 3, "wait for the policy"),
        ({"cpus": 2}, 2, "2 CPUs"),
        ({"memory_bytes": 3.5 * MEMORY_BYTES}, 3, "memory"),
        ({"memory_bytes": 0.5 * MEMORY_BYTES}, 1, "memory"),
        ({"answer_s": 0.0}, 64, "64 CPUs"),
    ],
)
def test_the_scarcest_of_policy_cpus_and_memory_decides(given: dict[str, Any], actors: int, why: str) -> None:
    choice = choose_actors(**(MUCH | given))
    assert choice.actors == actors
    assert why in choice.why


def test_a_simulated_queue_is_kept_busy_by_what_is_chosen_and_not_by_half_of_it() -> None:
    def busy(actors: int) -> float:
        """Share of time that one policy works for actors that simulate 30 ms and want 10 ms of it, in turn."""
        free_s, worked_s, ready_s = 0.0, 0.0, [0.0] * actors
        for _ in range(2000):
            actor = min(range(actors), key=lambda one: ready_s[one])
            free_s = max(free_s, ready_s[actor]) + 0.01
            worked_s += 0.01
            ready_s[actor] = free_s + 0.03
        return worked_s / free_s

    chosen = choose_actors(**MUCH).actors
    assert busy(chosen) > 0.98
    assert busy(chosen // 2) < 0.6


def test_starting_is_not_counted_and_little_says_nothing() -> None:
    watch = Watch()
    watch.add(0, 9.0, 0.0)
    watch.add(10, 9.0, 1.0)
    assert (watch.looks, watch.work_s) == (0, 0.0)
    watch.add(15, 2.0, 1.0)
    assert not watch.enough
    watch.add(15, 2.0, 1.0)
    assert watch.enough
    assert (watch.looks, watch.work_s, watch.wait_s) == (30, 4.0, 2.0)
