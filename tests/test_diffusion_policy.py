"""The Diffusion Policy: what it sees and is told, its loss, its samples, its checkpoint."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_diffusion import (
    SIDE,
    SMALL,
    small_batch,
    small_contract,
    small_network,
    square_pictures,
    write_small_diffusion_policy,
)

from blm.model.diffusion_encoder import TaskWords, shifted, spatial_softmax, vocabulary_of
from blm.model.diffusion_network import DiffusionBatch, DiffusionDraws, make_draws
from blm.model.diffusion_options import DiffusionPolicyConfig
from blm.model.diffusion_policy import DiffusionPolicy, read_diffusion_contract
from blm.model.errors import UserError
from blm.model.types import Observation

PANDA = [("panda", place) for place in (-0.8, -0.2, 0.3, 0.9)]
MIXED = [*PANDA, ("xarm6", -0.5), ("xarm6", 0.6)]


def draws_for(rows: int, *, draws: int = 2, step: int = 0, config: DiffusionPolicyConfig = SMALL) -> DiffusionDraws:
    return make_draws(config, seed=0, step=step, batch=rows, draws=draws, cameras=1, max_action_dim=8)


def part(batch: DiffusionBatch, rows: slice) -> DiffusionBatch:
    """Some rows of a batch of one robot, which keep their places."""
    (group,) = batch.groups
    return DiffusionBatch(
        groups=[replace(group, state=group.state[rows], actions=group.actions[rows], is_pad=group.is_pad[rows])],
        pictures=batch.pictures[rows],
        instructions=batch.instructions[rows],
        place=batch.place[rows],
    )


# ------------------------------------------------------------------------------------------------- seeing and reading


def test_the_spatial_softmax_finds_where_a_map_is_high() -> None:
    maps = torch.zeros(1, 2, 5, 9)
    maps[0, 0, 4, 0] = maps[0, 1, 2, 8] = 50.0
    assert spatial_softmax(maps)[0].tolist() == pytest.approx([-1, 1, 1, 0], abs=1e-5)  # both x, then both y


def test_pictures_are_shifted_by_their_own_amount_and_edges_repeat() -> None:
    pictures = torch.arange(2 * 1 * 4 * 4 * 3, dtype=torch.uint8).reshape(2, 1, 4, 4, 3)
    moved = shifted(pictures, torch.tensor([[[0, 0]], [[1, -2]]]))
    assert torch.equal(moved[0], pictures[0])
    assert torch.equal(moved[1, 0, 1:, :2], pictures[1, 0, :-1, 2:])
    assert torch.equal(moved[1, 0, 0], moved[1, 0, 1])
    assert torch.equal(moved[1, 0, :, 3], moved[1, 0, :, 2])


def test_tasks_are_told_apart_by_their_words_and_new_words_do_not_break_them() -> None:
    vocabulary = vocabulary_of(["Push the cube!", "pull the CUBE"])
    assert vocabulary == ("cube", "pull", "push", "the")
    words = TaskWords(vocabulary, 8)
    push, shouted, pull, new, nothing = words(
        *words.numbers(["push the cube", "PUSH, the cube.", "pull the cube", "hurl the cube", "?!"])
    )
    assert torch.equal(push, shouted)
    assert not torch.equal(push, pull)
    assert torch.allclose(new, (push * 3 - words.table.weight[3] + words.table.weight[0]) / 3, atol=1e-6)
    assert torch.equal(nothing, words.table.weight[0])


# -------------------------------------------------------------------------------------------------------------- losses


def test_a_batch_in_parts_adds_up_to_the_whole_losses_and_gradients() -> None:
    network = small_network(small_contract())
    batch, draws = small_batch(PANDA), draws_for(4)
    whole, count = network(batch, draws)
    whole.backward()
    gradients = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    parts = [network(part(batch, rows), draws) for rows in (slice(0, 1), slice(1, 4))]
    for error, _ in parts:
        error.backward()
    assert sum(float(error) for error, _ in parts) == pytest.approx(float(whole), rel=1e-5)
    assert sum(float(n) for _, n in parts) == float(count) == 4 * 2 * 16 * 8
    for name, parameter in network.named_parameters():
        if name in gradients:
            torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-3, atol=1e-3)


def test_robots_share_a_batch_without_touching_each_other() -> None:
    network = small_network(small_contract(("panda", "xarm6")))
    mixed, draws = small_batch(MIXED), draws_for(6)
    together, _ = network(mixed, draws)
    alone = []
    for group, rows in zip(mixed.groups, (slice(0, 4), slice(4, 6)), strict=True):
        one = DiffusionBatch(
            groups=[group],
            pictures=mixed.pictures[rows],
            instructions=mixed.instructions[rows],
            place=mixed.place[rows],
        )
        alone.append(network(one, draws)[0])
    assert float(together) == pytest.approx(sum(float(error) for error in alone), rel=1e-5)
    alone[0].backward()
    assert all(p.grad is None or not p.grad.any() for p in network.robots["xarm6"].parameters())
    assert all(p.grad is not None and p.grad.any() for p in network.robots["panda"].parameters())


def test_actions_past_the_end_of_an_episode_carry_no_loss() -> None:
    network = small_network(small_contract()).eval()
    batch = small_batch(PANDA[:1])
    (group,) = batch.groups
    is_pad = (torch.arange(16) >= 10)[None]
    padded = replace(batch, groups=[replace(group, is_pad=is_pad)])
    draws = draws_for(1, draws=1)
    error, count = network(padded, draws)
    assert float(count) == 10 * 8
    full, _ = network(batch, draws)
    late = replace(batch, groups=[replace(group, is_pad=~is_pad)])
    assert float(error) + float(network(late, draws)[0]) == pytest.approx(float(full), rel=1e-5)


def test_randomness_is_a_function_of_seed_and_step() -> None:
    one, same, other = draws_for(3, step=5), draws_for(3, step=5), draws_for(3, step=6)
    assert torch.equal(one.noise, same.noise)
    assert torch.equal(one.times, same.times)
    assert not torch.equal(one.noise, other.noise)


def test_words_and_pictures_are_disturbed_in_training_alone() -> None:
    config = replace(SMALL, shift_px=6, word_dropout=0.9)
    network = small_network(small_contract(config=config))
    batch = small_batch(PANDA)
    first, second = (
        replace(draws_for(4, step=step, config=config), times=draws_for(4).times, noise=draws_for(4).noise)
        for step in (1, 2)
    )
    assert float(network(batch, first)[0]) != float(network(batch, second)[0])
    network.eval()
    assert float(network(batch, first)[0]) == float(network(batch, second)[0])


def test_it_learns_actions_that_depend_on_picture_and_task() -> None:
    torch.manual_seed(0)
    config = replace(SMALL, prediction="sample")
    network = small_network(small_contract(config=config))
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    rng = np.random.default_rng(0)
    for step in range(100):
        batch = small_batch([("panda", float(place)) for place in rng.uniform(-1, 1, 16)], seed=step)
        error, count = network(batch, draws_for(16, step=step, config=config))
        optimizer.zero_grad()
        (error / count).backward()
        optimizer.step()
    network.eval()
    test = small_batch([("panda", place) for place in (-0.7, -0.7, 0.0, 0.0, 0.7, 0.7)], seed=999)
    sampled = network.sample(test, torch.randn(6, 16, 8, generator=torch.Generator().manual_seed(1)), 5)
    assert sampled.mean(dim=(1, 2)).tolist() == pytest.approx([0.05, -0.75, 0.4, -0.4, 0.75, -0.05], abs=0.2)


# ---------------------------------------------------------------------------------------------------------- checkpoint


def seen(place: float, **changes: Any) -> Observation:
    values: dict[str, Any] = {
        "images": {"front": square_pictures(np.array([place]))[0, 0]},
        "state": np.zeros(8, np.float32),
        "instruction": "push the cube",
        "embodiment": "panda",
    }
    return Observation(**values | changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_diffusion_policy(tmp_path_factory.mktemp("diffusion") / "model", robots=("panda", "xarm6"))


def test_a_loaded_policy_answers_as_the_saved_one_and_a_row_does_not_depend_on_the_others(folder: Path) -> None:
    contract = small_contract(("panda", "xarm6"))
    assert read_diffusion_contract(folder) == contract
    saved = DiffusionPolicy(contract, small_network(contract), dtype=torch.float32)
    loaded = DiffusionPolicy.load(folder)
    robot = {"state": np.zeros(7, np.float32), "embodiment": "xarm6"}
    observations = [seen(-0.5), seen(0.5, **robot), seen(0.5)]
    ours, theirs = (policy.infer_batch(observations, [1, 2, 3]) for policy in (saved, loaded))
    assert [chunk.actions.shape for chunk in ours] == [(16, 8), (16, 7), (16, 8)]
    for one, other in zip(ours, theirs, strict=True):
        assert np.array_equal(one.actions, other.actions)
        assert (one.actions[:, -1] >= 0).all()
        assert (one.actions[:, -1] <= 1).all()
    for observation, seed, together in zip(observations, (1, 2, 3), ours, strict=True):
        (alone,) = loaded.infer_batch([observation], [seed])
        assert np.array_equal(alone.actions, together.actions)
    (again,) = loaded.infer_batch([observations[0]], [9])
    assert not np.allclose(again.actions, ours[0].actions, atol=1e-4)
    assert loaded.infer_batch([], []) == []
    assert loaded.infer(observations[0]).control_hz == 20


def test_observations_that_do_not_fit_are_refused(folder: Path) -> None:
    policy = DiffusionPolicy.load(folder)
    picture = square_pictures(np.zeros(1))[0, 0]
    for changes, message in (
        ({"embodiment": "xarm7"}, "was not trained for 'xarm7'; did you mean 'xarm6'"),
        ({"images": {"side": picture}}, "lacks camera 'front'"),
        ({"images": {"front": picture[:16]}}, rf"is {SIDE}x16 px; resize it to {SIDE}x{SIDE}"),
    ):
        with pytest.raises(UserError, match=message):
            policy.infer_batch([seen(0.0, **changes)], [0])


def test_damaged_checkpoints_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        DiffusionPolicy.load(tmp_path / "none")
    for name in ("policy.safetensors", "blm.json"):
        other = write_small_diffusion_policy(tmp_path / name)
        text = (other / name).read_bytes()
        (other / name).write_bytes(text[: len(text) // 2])
        with pytest.raises(UserError, match=name):
            DiffusionPolicy.load(other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk": 10, "unet_widths": (16, 16, 16)}, "cannot be halved 2 times"),
        ({"unet_kernel": 4}, "odd"),
        ({"encoder_widths": ()}, "encoder_widths is empty"),
        ({"stem_width": 6}, "multiple of 4"),
        ({"sample_timesteps": 101}, "give 1 to 100"),
        ({"word_dropout": 1.0}, "chance"),
        ({"condition": 33}, "even"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        DiffusionPolicyConfig(**options)


@pytest.mark.parametrize(("encoder", "unet"), itertools.product([(8,), (16, 32, 24)], [(16,), (16, 32, 64)]))
def test_every_depth_keeps_its_shapes(encoder: tuple[int, ...], unet: tuple[int, ...]) -> None:
    config = replace(SMALL, encoder_widths=encoder, unet_widths=unet)
    network = small_network(small_contract(config=config)).eval()
    sampled = network.sample(small_batch(PANDA), torch.zeros(4, 16, 8), 3)
    assert sampled.shape == (4, 16, 8)
    assert torch.isfinite(sampled).all()
