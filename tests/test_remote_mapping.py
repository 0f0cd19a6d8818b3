"""Mappings: what a foreign policy server calls things, and in what units."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_policy_server import observation

from blm.actors.remote.mapping import ActionMapping, RemoteMapping, read_mapping
from blm.actors.remote.translation import our_chunk, their_numbers, their_pictures
from blm.actors.sim.policies import PolicyError
from blm.model.errors import UserError
from blm.model.types import Observation

FULL = """
robots: [panda]
pictures: {observation/image: front, observation/wrist_image: wrist}
picture_px: 24
picture_format: png
instruction: language
state: {joints: [0, 1, 2, 3, 4, 5, 6], gripper: [7]}
state_rad: 0.5
gripper_closed: 0.8
gripper_open: -0.2
constants: {unnorm_key: panda, flags: [1, 2]}
actions: {key: action, joints: [1, 2, 3, 4, 5, 6, 7], gripper: 0, joints_are: from_state, rad: 0.1, hz: 10, rows: 8}
"""


def one() -> Observation:
    return observation(3, cameras=("front", "wrist"), px=48)


def written(folder: Path, text: str) -> Path:
    (folder / "mapping.yaml").write_text(text)
    return folder / "mapping.yaml"


def test_a_mapping_is_read_as_written(tmp_path: Path) -> None:
    mapping = read_mapping(written(tmp_path, FULL))
    assert mapping.robots == ("panda",)
    assert mapping.pictures == {"observation/image": "front", "observation/wrist_image": "wrist"}
    assert mapping.state == {"joints": (0, 1, 2, 3, 4, 5, 6), "gripper": (7,)}
    assert mapping.constants == {"unnorm_key": "panda", "flags": (1, 2)}
    assert mapping.actions == ActionMapping(
        key="action", joints=(1, 2, 3, 4, 5, 6, 7), gripper=0, joints_are="from_state", rad=0.1, hz=10, rows=8
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[1]", "expected names with values"),
        ("a: [", "cannot be read"),
        ("robots: [panda]", "'pictures' is missing"),
        ("robots: panda\npictures: {}", "'robots' must be a list"),
        ("robots: []\npictures: {}", "robots is empty"),
        ("robots: [pandas]\npictures: {}", "did you mean 'panda'"),
        ("robots: [panda]\npictures: [front]", "'pictures' must be names"),
        ("robots: [panda]\npictures: {a: frontal}", "did you mean 'front'"),
        ("robots: [panda]\npictures: {}\nstates: {}", "unknown entry 'states'"),
        ("robots: [panda]\npictures: {}\nstate: {s: [8]}", "has 8 values"),
        ("robots: [panda]\npictures: {}\nstate: {s: [1, 1]}", "different columns"),
        ("robots: [panda]\npictures: {}\nstate: {s: 1}", "different columns"),
        ("robots: [panda]\npictures: {}\nstate_rad: 0", "must not be 0"),
        ("robots: [panda]\npictures: {}\nstate_rad: .nan", "give a number"),
        ("robots: [panda]\npictures: {}\ngripper_open: 0", "must differ"),
        ("robots: [panda]\npictures: {}\npicture_px: -1", "picture_px"),
        ("robots: [panda]\npictures: {}\npicture_format: jpeg", "raw or png"),
        ("robots: [panda]\npictures: {}\nactions: {joints: [0, 1]}", "has 7 joints, not 2"),
        ("robots: [panda]\npictures: {}\nactions: {joints_are: deltas}", "known: from_previous"),
        ("robots: [panda]\npictures: {}\nactions: {hz: 0}", "must not be 0"),
        ("robots: [panda]\npictures: {}\nactions: {hz: fast}", "give a number"),
        ("robots: [panda]\npictures: {}\nactions: {rows: 0}", "actions.rows"),
        ("robots: [panda]\npictures: {}\nactions: {colums: 0}", "unknown entry 'colums'"),
    ],
)
def test_a_mapping_that_cannot_be_is_refused_with_its_file(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says) as caught:
        read_mapping(written(tmp_path, text))
    assert "mapping.yaml" in str(caught.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_mapping(tmp_path / "nowhere.yaml")


def test_pictures_and_numbers_are_sent_in_the_servers_terms(tmp_path: Path) -> None:
    mapping = read_mapping(written(tmp_path, FULL))
    pictures = their_pictures(mapping, one())
    assert {name: picture.shape for name, picture in pictures.items()} == {
        "observation/image": (24, 24, 3),
        "observation/wrist_image": (24, 24, 3),
    }
    assert abs(pictures["observation/image"].mean() - one().images["front"].mean()) < 3
    numbers = their_numbers(mapping, one())
    assert np.allclose(numbers["joints"], one().state[:7] * 2)
    assert np.allclose(numbers["gripper"], 0.8 - one().state[7])
    assert numbers["joints"].dtype == np.float32
    with pytest.raises(PolicyError, match="no camera 'front'"):
        their_pictures(mapping, observation(0))


def mapped(actions: Any, **changes: Any) -> np.ndarray:
    chunk = our_chunk(ActionMapping(**changes), actions, one())
    assert chunk.control_hz == 20
    assert chunk.actions.dtype == np.float32
    return chunk.actions


def test_actions_become_absolute_targets() -> None:
    present = one().state[:7]
    rows = np.random.default_rng(0).normal(size=(4, 8))
    rows[:, 7] = [0, 0.25, 1, 2]
    assert np.allclose(mapped(rows)[:, :7], rows[:, :7])
    assert np.allclose(mapped(rows)[:, 7], [0, 0.25, 1, 1])  # a gripper does not open wider than open
    assert np.allclose(mapped(rows, joints_are="from_state", rad=0.1)[:, :7], present + 0.1 * rows[:, :7], atol=1e-6)
    summed = present + np.cumsum(rows[:, :7], axis=0)
    assert np.allclose(mapped(rows, joints_are="from_previous")[:, :7], summed, atol=1e-6)
    turned = mapped(rows[:, ::-1], joints=(7, 6, 5, 4, 3, 2, 1), gripper=0)
    assert np.allclose(turned, mapped(rows))
    assert np.allclose(mapped(rows, gripper_closed=1, gripper_open=-1)[:, 7], [0.5, 0.375, 0, 0])
    assert mapped(rows[0]).shape == (1, 8)


def test_another_rate_is_interpolated_and_reaches_no_further() -> None:
    present = one().state[:7].astype(np.float64)
    rows = np.tile(np.arange(1.0, 5.0)[:, None], (1, 8))
    rows[:, 7] = [1, 1, 0, 0]
    half = mapped(rows, hz=10)
    assert half.shape == (8, 8)
    assert np.allclose(half[1::2, :7], rows[:, :7])
    assert np.allclose(half[0, :7], (present + 1) / 2, atol=1e-6)
    assert np.allclose(half[2:, 0], [1.5, 2, 2.5, 3, 3.5, 4])
    assert half[:, 7].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    double = mapped(rows, hz=40)
    assert np.allclose(double[:, 0], [2, 4])
    assert mapped(rows[:1], hz=40).shape == (1, 8)


def test_values_that_are_not_finite_stay_for_the_rollout_to_refuse() -> None:
    rows = np.ones((4, 8))
    rows[2, 3] = np.nan
    assert np.isnan(mapped(rows)[2, 3])
    assert np.isnan(mapped(rows, hz=10)).any()


@pytest.mark.parametrize(
    "actions", [None, "text", np.zeros((2, 7)), np.zeros((0, 8)), np.zeros((1, 2, 8)), [[True] * 8]]
)
def test_actions_that_are_none_are_a_policy_error(actions: Any) -> None:
    with pytest.raises(PolicyError, match=r"actions of|expected numbers"):
        our_chunk(ActionMapping(gripper=7), actions, one())


def test_a_mapping_needs_no_state_and_no_pictures() -> None:
    mapping = RemoteMapping(robots=("panda", "xarm6"), pictures={})
    assert their_pictures(mapping, observation(0, "xarm6")) == {}
    assert their_numbers(mapping, observation(0, "xarm6")) == {}
