"""What commands that roll policies out make of their options."""

import argparse
from pathlib import Path

import pytest
from small_diffusion import write_small_diffusion_policy
from small_policy_server import NotedPolicy, description_of_random, serving

from blm.actors.sim.world import WorldConfig
from blm.model.errors import UserError
from blm.pipelines.evaluation.command_options import add_rollout_arguments, settings_of, world_of


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_rollout_arguments(parser)
    return parser.parse_args(words)


def test_options_become_settings_and_what_is_not_given_is_measured() -> None:
    config, resources = settings_of(parsed("--execute-steps", "4", "--set", "execution.latency_steps=2", "--cpus", "3"))
    assert (config.execution.execute_steps, config.execution.latency_steps) == (4, 2)
    assert (resources.actors, resources.simulators, resources.num_cpus, resources.device) == ("auto", 3, 3, "cpu")
    assert settings_of(parsed("--actors", "5"))[1].simulators == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--actors", "many"], "--actors is 'many'"),
        (["--actors", "0"], "actors is 0"),
        (["--set", "exeution.mode=plain"], "did you mean 'execution'"),
    ],
)
def test_options_that_make_no_sense_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        settings_of(parsed(*words))


def test_a_world_is_as_the_checkpoints_were_trained_unless_it_is_given(tmp_path: Path) -> None:
    trained = str(write_small_diffusion_policy(tmp_path / "a", image_px=64))
    other = str(write_small_diffusion_policy(tmp_path / "b", image_px=112))
    assert world_of(["random", "openpi://there:8000"], parsed()) == WorldConfig()
    world = world_of([trained, "random"], parsed("--cells", "panda/PickCube"))
    assert (world.cells, world.cameras, world.image_px) == (("panda/PickCube",), ("front",), 64)
    assert world_of([trained], parsed("--image-px", "32", "--geometry", "official")).image_px == 32
    with pytest.raises(UserError, match="pictures of 64, 112 px"):
        world_of([trained, other], parsed())


def test_a_server_of_ours_says_what_its_policy_sees() -> None:
    described = description_of_random(cameras=("side", "front"), image_px=96)
    with serving(NotedPolicy(), described) as port:
        address = f"blm://127.0.0.1:{port}"
        world = world_of([address], parsed("--cells", "panda/PickCube"))
        given = world_of([address], parsed("--cameras", "front", "--image-px", "64"))
    assert (world.cameras, world.image_px) == (("side", "front"), 96)
    assert (given.cameras, given.image_px) == (("front",), 64)
