"""Clips of demonstrations lie where they should, and mishaps fail and repeat."""

import numpy as np
import pytest
from small_episodes import demonstrated

from blm.actors.mishaps import MISHAPS, faulty_actions, replay
from blm.actors.sim.env import CellEnv
from blm.actors.sim.world import parse_cell
from blm.pipelines.datasets.clips import KINDS, choose_clip
from blm.pipelines.datasets.phases import Phase, phases
from blm.pipelines.datasets.steps import PLANS

pytestmark = pytest.mark.sim


def test_clips_lie_within_the_episode_and_show_what_they_say() -> None:
    found = phases(demonstrated("panda/StackCube", 0))
    ends = {phase.name: phase.end for phase in found}
    kinds = set()
    for i in range(200):
        clip = choose_clip("StackCube", found, np.random.default_rng(i))
        assert clip is not None
        kinds.add(clip.kind)
        moments = clip.moments(4)
        assert list(moments) == sorted(set(moments))
        assert moments[0] >= 0
        assert moments[-1] == clip.end <= found[-1].end
        assert len(moments) == (4 if clip.video else 1)
        if clip.kind in ("step", "history"):
            assert clip.end == ends[clip.shown]
            assert (*clip.done, *clip.ahead) == PLANS["StackCube"]
        if clip.kind == "partial":
            assert clip.end < ends[clip.shown]
    assert kinds == set(KINDS)
    assert choose_clip("StackCube", [Phase(name="hold", first=0, end=9)], np.random.default_rng(0)) is None


def test_of_a_second_try_no_step_is_named() -> None:
    twice = [Phase(name=name, first=i, end=i + 9) for i, name in enumerate(("approach", "grasp", "approach", "grasp"))]
    for i in range(20):
        clip = choose_clip("PickCube", twice, np.random.default_rng(i))
        assert clip is not None
        assert (clip.kind, clip.done, clip.ahead) == ("still", (), ())


@pytest.mark.parametrize(
    ("task", "mishap"), [("PickCube", m) for m in MISHAPS] + [("PushCube", m) for m in MISHAPS[1::2]]
)
def test_mishaps_fail_and_repeat_exactly(task: str, mishap: str) -> None:
    episode = demonstrated(f"panda/{task}", 0)
    env = CellEnv(parse_cell(episode.cell))
    undisturbed = replay(env, episode, episode.actions)
    assert undisturbed.success
    np.testing.assert_allclose(undisturbed.object_positions[-1], episode.object_positions[-1], atol=0.02)
    moving = next(phase for phase in phases(episode) if phase.name in ("carry", "push"))
    actions = faulty_actions(episode, mishap, (2 * moving.first + moving.end) // 3, 1.0)
    run = replay(env, episode, actions)
    assert not run.success
    np.testing.assert_array_equal(replay(env, episode, actions).states, run.states)
    env.close()
    with pytest.raises(ValueError, match="unknown mishap"):
        faulty_actions(episode, "explode", 0, 1.0)
