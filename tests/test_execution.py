"""Chunks become actions: which row is executed when, under which latency, and what the policy is told."""

import numpy as np
import pytest

from blm.actors.sim.execution import Execution
from blm.actors.sim.execution_options import MODES, ExecutionConfig, Mode
from blm.model.errors import UserError
from blm.model.types import ActionPrefix

H = 8
POSTURE = np.array([-1.0, -1.0], np.float32)


def chunk(look: int, length: int = H) -> np.ndarray:
    """Actions [H,2] that tell where they come from: the number of the look, and the row."""
    return np.stack([np.full(length, look), np.arange(length)], axis=1).astype(np.float32)


Actions = list[list[float]]


def run(config: ExecutionConfig, steps: int, length: int = H) -> tuple[Actions, list[int], list[ActionPrefix]]:
    """What is executed, when the policy looks, and the prefixes that it is given (None left out)."""
    execution, done, looks, prefixes = Execution(config, POSTURE), [], [], []
    for step in range(steps):
        if execution.looks:
            prefix = execution.prefix()
            if prefix is not None:
                prefixes.append(prefix)
            execution.take(chunk(len(looks), length))
            looks.append(step)
        done.append(execution.next_action().tolist())
    return done, looks, prefixes


def rows(text: str) -> Actions:
    """`0.3` is row 3 of the first look's chunk; `-` the posture."""
    return [POSTURE.tolist() if word == "-" else [float(part) for part in word.split(".")] for word in text.split()]


@pytest.mark.parametrize("mode", ["plain", "real_time"])
def test_without_latency_the_first_rows_of_each_chunk_are_executed(mode: Mode) -> None:
    done, looks, _ = run(ExecutionConfig(mode=mode, execute_steps=3), 8)
    assert looks == [0, 3, 6]
    assert done == rows("0.0 0.1 0.2 1.0 1.1 1.2 2.0 2.1")


def test_with_latency_the_old_chunk_goes_on_and_the_new_ones_first_rows_are_too_late() -> None:
    done, looks, _ = run(ExecutionConfig(execute_steps=4, latency_steps=2), 14)
    # The robot rests until there is a first chunk, which is executed from its first row on.
    assert looks == [0, 6, 10]
    assert done == rows("- - 0.0 0.1 0.2 0.3 0.4 0.5 1.2 1.3 1.4 1.5 2.2 2.3")


def test_a_latency_above_the_period_makes_it_longer_and_a_chunk_that_ran_out_is_held() -> None:
    done, looks, _ = run(ExecutionConfig(execute_steps=1, latency_steps=3), 12, length=4)
    assert looks == [0, 6, 9]  # never two requests under way
    assert done == rows("- - - 0.0 0.1 0.2 0.3 0.3 0.3 1.3 1.3 1.3")


def test_real_time_chunking_tells_what_will_be_executed_and_what_would_have_been() -> None:
    done, looks, prefixes = run(ExecutionConfig(mode="real_time", execute_steps=4, latency_steps=2), 14)
    assert looks == [0, 6, 10]
    first, second = prefixes  # at the very first look there is nothing to go on from
    assert first.actions.tolist() == rows("0.4 0.5 0.6 0.7")
    assert second.actions.tolist() == rows("1.4 1.5 1.6 1.7")
    assert first.frozen == second.frozen == 2
    assert done[6:8] == first.actions[:2].tolist()  # and that is what happened
    assert done[10:12] == second.actions[:2].tolist()
    assert run(ExecutionConfig(execute_steps=4, latency_steps=2), 14) == (done, looks, [])


def test_a_prefix_holds_the_last_target_where_the_old_chunk_has_run_out() -> None:
    _, _, (first, *_) = run(ExecutionConfig(mode="real_time", execute_steps=6, latency_steps=4), 12)
    assert first.actions.tolist() == rows("0.6 0.7 0.7 0.7")
    assert first.frozen == 4
    _, looks, prefixes = run(ExecutionConfig(mode="real_time", execute_steps=H), 20)
    assert looks == [0, 8, 16]
    assert prefixes == []  # each chunk is executed to its end at once: there is nothing to go on from


def test_an_ensemble_is_the_mean_of_all_chunks_that_foresee_a_step_the_oldest_weighing_most() -> None:
    decay = 0.5
    done, looks, _ = run(ExecutionConfig(mode="ensemble", execute_steps=2, ensemble_decay=decay), 10, length=6)
    assert looks == [0, 2, 4, 6, 8]
    assert done[:2] == rows("0.0 0.1")
    for step in range(10):
        foreseeing = [look for look in looks if look <= step < look + 6]
        weights = np.exp(-decay * np.arange(len(foreseeing)))
        expected = [
            np.average([looks.index(look) for look in foreseeing], weights=weights),
            np.average([step - look for look in foreseeing], weights=weights),
        ]
        assert done[step] == pytest.approx(expected, rel=1e-6)


def test_an_ensemble_under_latency_uses_what_has_come_and_holds_what_has_run_out() -> None:
    done, looks, _ = run(ExecutionConfig(mode="ensemble", execute_steps=2, latency_steps=2, ensemble_decay=0.0), 8)
    assert looks == [0, 4, 6]
    assert done == [*rows("- - 0.0 0.1 0.2 0.3"), [0.5, 3.0], [0.5, 4.0]]
    held, _, _ = run(ExecutionConfig(mode="ensemble", execute_steps=6, latency_steps=0), 12, length=4)
    assert held[4:7] == rows("0.3 0.3 1.0")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("latency", [0, 3])
def test_what_is_executed_follows_from_the_chunks_alone(mode: Mode, latency: int) -> None:
    config = ExecutionConfig(mode=mode, execute_steps=3, latency_steps=latency)
    assert run(config, 30)[0] == run(config, 30)[0]
    changed = Execution(config, POSTURE)
    for step in range(30):  # a policy that says the same thing at every look: nothing can be seen of modes and latency
        if changed.looks:
            changed.take(np.ones((H, 2), np.float32))
        action = changed.next_action()
        assert action.dtype == np.float32
        assert action.tolist() == (POSTURE.tolist() if step < latency else [1.0, 1.0])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"mode": "asynchronous"}, "'asynchronous'; give one of plain, ensemble, real_time"),
        ({"execute_steps": 0}, "execute_steps is 0"),
        ({"latency_steps": -1}, "latency_steps is -1"),
        ({"ensemble_decay": -0.1}, "ensemble_decay is -0.1"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        ExecutionConfig(**options)
